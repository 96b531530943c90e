"""The network: oracles for the filter bank, folding, windows; transfer of a backbone; its limits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from esort.dense_network import DenseNetwork, filter_bank
from esort.network import NETWORKS, NetworkSpec, SpikeNetwork, build_network

SIZES = {"num_channels": 5, "num_units": 3, "window_samples": 12, "peak_offset_samples": 4}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make_network(**changes):
    """Build a network whose normalisation is not trivial: it has seen some batches."""
    network = DenseNetwork(**(SIZES | {"hidden_features": 16} | changes))
    with torch.no_grad():
        for _ in range(3):
            network(2 * torch.randn(20, network.window_samples + 3, network.num_channels) + 0.3)
        for norm in (network.filters_norm, network.features_norm, network.mixing_norm):
            norm.weight.uniform_(0.5, 2)
            norm.bias.uniform_(-1, 1)
    return network.eval()


@settings(max_examples=40, deadline=None)
@given(
    num_outputs=st.one_of(st.integers(1, 70), st.sampled_from([15, 16, 17, 31, 32, 33])),
    window=st.integers(1, 70),
    num_channels=st.integers(1, 4),
    num_filters=st.integers(1, 5),
    batch=st.integers(1, 3),
)
def test_filter_bank_is_a_correlation(num_outputs, window, num_channels, num_filters, batch):
    traces = torch.randn(batch, num_outputs + window - 1, num_channels, dtype=torch.float64)
    weights = torch.randn(num_filters, window, dtype=torch.float64)
    as_channels = traces.transpose(1, 2).reshape(batch * num_channels, 1, -1)
    expected = functional.conv1d(as_channels, weights[:, None]).view(batch, num_channels, num_filters, -1)
    found = filter_bank(traces, weights)
    assert found.shape == (batch, num_outputs, num_channels, num_filters)
    torch.testing.assert_close(found, expected.permute(0, 3, 1, 2))


def test_filter_bank_has_the_gradient_of_a_correlation():
    traces = torch.randn(2, 21, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(filter_bank, (traces, weights), fast_mode=True)


def test_traces_shorter_than_a_window_are_refused():
    with pytest.raises(ValueError, match="at least the window's 12 samples, got 11"):
        make_network()(torch.zeros(1, 11, 5))


@pytest.mark.parametrize("num_samples", [12, 13, 27, 28, 29, 100])
def test_many_samples_give_what_each_window_gives(num_samples):
    network = make_network()
    traces = torch.randn(2, num_samples, 5)
    whole = network(traces)
    assert whole.shape == (2, num_samples - 12 + 1, 3)
    for start in range(whole.shape[1]):
        single = network(traces[:, start : start + 12])
        assert single.shape == (2, 1, 3)
        torch.testing.assert_close(whole[:, start], single[:, 0], rtol=1e-5, atol=1e-5)


def test_folded_network_says_the_same():
    network = make_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    generator_state = torch.get_rng_state()
    folded = network.folded()
    assert torch.equal(torch.get_rng_state(), generator_state)
    assert not any(isinstance(module, torch.nn.BatchNorm1d) for module in folded.modules())
    traces = torch.randn(3, 50, 5)
    torch.testing.assert_close(folded(traces), network(traces), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(folded.folded()(traces), folded(traces), rtol=0, atol=0)
    for name, value in network.state_dict().items():  # the original is untouched
        assert torch.equal(value, before[name])


def test_folded_network_of_one_in_training_is_in_evaluation():
    network = make_network().train()
    folded = network.folded()
    assert network.training
    traces = torch.randn(3, 20, 5)
    torch.testing.assert_close(folded(traces), network.eval()(traces), rtol=1e-5, atol=1e-5)


def test_one_channel_one_unit_one_feature():
    network = make_network(num_channels=1, num_units=1, hidden_features=1, temporal_features=(1, 1))
    assert network(torch.randn(2, 20, 1)).shape == (2, 9, 1)


def test_head_and_backbone_are_all_there_is():
    network = make_network()
    head = {id(parameter) for parameter in network.parameters_of_head()}
    names = {name for name, parameter in network.named_parameters() if id(parameter) in head}
    assert names == {"head.weight", "head.bias"}
    assert set(network.backbone()) | names == set(network.state_dict())
    assert not names & set(network.backbone())


def test_backbone_for_the_same_probe_is_taken_whole():
    source, target = make_network(), make_network(num_units=7)
    taken = target.load_backbone(source.backbone())
    assert set(taken) == set(source.backbone())
    for name, value in source.backbone().items():
        assert torch.equal(target.state_dict()[name], value)


def test_backbone_for_another_probe_gives_its_temporal_layers_only():
    source, target = make_network(), make_network(num_channels=9)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    taken = target.load_backbone(source.backbone())
    assert {name.split(".")[0] for name in taken} == {
        "filters", "filters_norm", "features", "features_norm",
    }  # fmt: skip
    for name, value in target.state_dict().items():
        # The mixing keeps its own normalisation too: statistics belong to the weights in front of them.
        assert torch.equal(value, source.state_dict()[name] if name in taken else before[name]), name


def test_backbone_of_a_safetensors_kind_of_mapping_with_missing_or_unknown_weights():
    source, target = make_network(), make_network()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    weights = source.backbone() | {"extra.weight": torch.zeros(1)}
    del weights["features_norm.running_mean"]
    taken = target.load_backbone(weights)
    assert {name.split(".")[0] for name in taken} == {"filters", "filters_norm", "mixing", "mixing_norm"}
    assert torch.equal(target.features.weight, before["features.weight"])


@pytest.mark.parametrize("unit_index", [[0], [2, 0], [0, 1, 2]])
def test_a_network_of_some_units_says_the_same_of_them(unit_index):
    network = make_network()
    part = network.of_units(np.array(unit_index))
    assert (part.num_units, network.num_units) == (len(unit_index), 3)
    assert not part.training
    traces = torch.randn(2, 20, 5)
    torch.testing.assert_close(part(traces), network(traces)[..., unit_index], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(part.folded()(traces), part(traces), rtol=1e-5, atol=1e-5)


def test_an_untrained_head_believes_in_few_spikes():
    network = DenseNetwork(**SIZES)
    probability = network.head.bias.sigmoid()
    assert (probability < 0.05).all()


@pytest.mark.parametrize("rate", [20_000.0, 30_000.0, 32_000.0])
@pytest.mark.parametrize("num_channels", [1, 4])
def test_sizes_follow_from_rate_and_probe(rate, num_channels):
    spec = NetworkSpec(parameters={"temporal_features": (4, 6), "hidden_features": 10})
    parameters = spec.hyper_parameters(sampling_frequency=rate, num_channels=num_channels, num_units=2)
    assert parameters["window_samples"] == round(1.875e-3 * rate)
    assert parameters["peak_offset_samples"] == round(0.75e-3 * rate)
    assert parameters["temporal_features"] == [4, 6]  # plain: a card can hold it
    network = build_network(spec.name, parameters).eval()
    assert network.filters.weight.shape == (4, parameters["window_samples"])
    assert network(torch.zeros(1, parameters["window_samples"], num_channels)).shape == (1, 1, 2)


def test_published_window_at_32_khz():
    parameters = NetworkSpec().hyper_parameters(sampling_frequency=32_000, num_channels=4, num_units=2)
    assert (parameters["window_samples"], parameters["peak_offset_samples"]) == (60, 24)
    network = build_network("dense", parameters)
    assert [network.filters.out_features, network.features.out_features] == [8, 16]
    assert network.mixing.out_features == 256


def test_same_seed_same_network():
    first, second = (torch.manual_seed(3) and DenseNetwork(**SIZES).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_base_class_has_no_layers():
    base = SpikeNetwork(**SIZES)
    calls = (
        lambda: base(torch.zeros(1, 12, 5)),
        lambda: base.of_units(np.array([0])),
        base.parameters_of_head,
        base.backbone,
        base.folded,
    )
    for call in calls:
        with pytest.raises(NotImplementedError):
            call()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_channels": 0}, "num_channels must be at least 1, got 0"),
        ({"num_units": 0}, "num_units must be at least 1, got 0"),
        ({"peak_offset_samples": 12}, "inside the window's 12 samples, got 12"),
        ({"peak_offset_samples": -1}, "inside the window's 12 samples, got -1"),
        ({"temporal_features": [8]}, r"temporal_features must be two whole numbers of at least 1, got \[8\]"),
        ({"temporal_features": [8, 0]}, r"got \[8, 0\]"),
        ({"hidden_features": 0}, "hidden_features must be a whole number of at least 1, got 0"),
        ({"hidden_features": 2.5}, "hidden_features must be a whole number of at least 1, got 2.5"),
        ({"depth": 3}, "network dense does not take these hyper-parameters"),
    ],
)
def test_bad_hyper_parameters(changes, message):
    with pytest.raises(ValueError, match=message):
        build_network("dense", SIZES | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "deep"}, "model must be one of .*dense.*, got 'deep'"),
        ({"window_ms": 0.1}, r"window_ms must be in \[0.5, 20\], got 0.1"),
        ({"window_ms": float("nan")}, r"window_ms must be in \[0.5, 20\], got nan"),
        ({"peak_ms": 1.875}, r"peak_ms must be in \[0, window_ms=1.875\), got 1.875"),
        # a typo is found before any recording is made
        ({"parameters": {"hiden_features": 3}}, "does not take these hyper-parameters.*hiden_features"),
        ({"parameters": {"hidden_features": 0}}, "hidden_features must be"),
        ({"parameters": {"num_units": 3}}, "num_units follows from the recording"),
    ],
)
def test_bad_choice_of_a_network(changes, message):
    with pytest.raises(ValueError, match=message):
        NetworkSpec(**changes)


def test_unknown_network():
    with pytest.raises(ValueError, match="network must be one of .*dense.*, got 'deep'"):
        build_network("deep", SIZES)
    for name in NETWORKS:
        assert build_network(name, SIZES).num_units == SIZES["num_units"]


def test_choosing_a_network_draws_no_random_number():
    state = torch.get_rng_state()
    NetworkSpec(parameters={"hidden_features": 64})
    assert torch.equal(torch.get_rng_state(), state)


def test_probabilities_are_finite_for_huge_and_silent_traces():
    network = make_network().folded()
    for traces in (torch.zeros(1, 40, 5), 1e4 * torch.ones(1, 40, 5)):
        assert np.isfinite(network(traces).detach().sigmoid().numpy()).all()
