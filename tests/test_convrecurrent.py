"""The recurrent network: the same for any chunk, starts as the dense design, transfers, refuses."""

import numpy as np
import pytest
import torch
from learning_data import make_toy
from torch import nn

from esort.convrecurrent import ConvRecurrentNetwork
from esort.dense_network import DenseNetwork
from esort.examples import ExampleSpec, SpikeExamples
from esort.lightning import masked_loss
from esort.matched import start_from_labels
from esort.network import NetworkSpec, build_network
from esort.windows import Window

SIZES = {"num_channels": 5, "num_units": 3, "window_samples": 24, "peak_offset_samples": 10}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make_network(**changes):
    """Build a network that has seen some batches, and whose recurrence has influence."""
    network = ConvRecurrentNetwork(**(SIZES | {"hidden_features": 16, "state_features": 7} | changes))
    with torch.no_grad():
        for _ in range(3):
            network(2 * torch.randn(20, network.window_samples + 3, network.num_channels) + 0.3)
        for norm in (network.filters_norm, network.features_norm, network.mixing_norm):
            norm.weight.uniform_(0.5, 2)
            norm.bias.uniform_(-1, 1)
        network.correction.weight.normal_()
    return network.eval()


def test_places_fill_the_window():
    network = make_network(steps=2)
    assert (network.place_stride, network.margin_samples, network.filters.in_features) == (3, 6, 12)
    assert network.num_places == 5


@pytest.mark.parametrize("num_samples", [24, 25, 26, 39, 40, 41, 120])
@pytest.mark.parametrize("steps", [1, 2, 4, 20])
def test_many_samples_give_what_each_window_gives(num_samples, steps):
    network = make_network(steps=steps)
    traces = torch.randn(2, num_samples, 5)
    whole = network(traces)
    assert whole.shape == (2, num_samples - 24 + 1, 3)
    for start in range(whole.shape[1]):
        single = network(traces[:, start : start + 24])
        assert single.shape == (2, 1, 3)
        torch.testing.assert_close(whole[:, start], single[:, 0], rtol=1e-4, atol=1e-5)


def test_any_chunks_give_the_whole():
    network = make_network()
    traces = torch.randn(1, 200, 5)
    whole = network(traces)
    for size in (1, 7, 50, 200):
        parts = [network(traces[:, start : min(start + size, 177) + 23]) for start in range(0, 177, size)]
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-5)


def test_the_recurrence_is_a_gru_over_the_places():
    network = make_network(steps=2)
    window = torch.randn(4, 24, 5)
    state = torch.zeros(4, 7)
    features = DenseNetwork.temporal(network, window)  # (4, 13, C · F)
    for place in range(0, 13, 3):
        state = network.recurrence(network.hidden(features[:, place]), state)
    expected = network.head(network.hidden(features[:, 6]) + network.correction(state))
    torch.testing.assert_close(network(window)[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_it_looks_at_all_of_its_window_and_at_nothing_else():
    network = make_network()
    traces = torch.randn(1, 60, 5, requires_grad=True)
    network(traces)[0, 20].sum().backward()
    seen = traces.grad[0].abs().sum(1) > 0
    assert seen[20:44].all()
    assert not seen[:20].any()
    assert not seen[44:].any()


def test_without_correction_it_is_the_dense_design_in_the_middle():
    network = make_network(steps=2)
    with torch.no_grad():
        network.correction.weight.zero_()
    dense = DenseNetwork(**(SIZES | {"hidden_features": 16, "window_samples": 12, "peak_offset_samples": 4}))
    dense.load_state_dict({name: network.state_dict()[name] for name in dense.state_dict()})
    traces = torch.randn(2, 50, 5)
    expected = dense.eval()(traces)[:, 6 : 6 + 27]
    torch.testing.assert_close(network(traces), expected, rtol=1e-4, atol=1e-5)


def test_an_untrained_recurrence_has_no_influence_but_learns():
    network = ConvRecurrentNetwork(**SIZES)
    assert not network.correction.weight.any()
    network(torch.randn(8, 24, 5)).square().sum().backward()
    assert network.correction.weight.grad.any()


def test_training_normalises_the_middle_by_the_batch_and_counts_nothing_else():
    network = make_network(steps=2).train()
    dense = DenseNetwork(**(SIZES | {"hidden_features": 16, "window_samples": 12, "peak_offset_samples": 4}))
    dense.load_state_dict({name: network.state_dict()[name] for name in dense.state_dict()})
    with torch.no_grad():
        network.correction.weight.zero_()
    traces = torch.randn(30, 24, 5)
    torch.testing.assert_close(network(traces), dense(traces[:, 6:18]), rtol=1e-4, atol=1e-5)
    for name, value in dense.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value)
    assert all(norm.training for norm in (network.filters_norm, network.features_norm, network.mixing_norm))


def test_folded_network_says_the_same():
    network = make_network()
    folded = network.folded()
    assert not any(isinstance(module, nn.BatchNorm1d) for module in folded.modules())
    traces = torch.randn(3, 60, 5)
    torch.testing.assert_close(folded(traces), network(traces), rtol=1e-4, atol=1e-5)


def test_a_network_of_some_units_says_the_same_of_them():
    network = make_network()
    traces = torch.randn(2, 40, 5)
    part = network.of_units(np.array([2, 0]))
    torch.testing.assert_close(part(traces), network(traces)[..., [2, 0]], rtol=1e-4, atol=1e-5)


def test_head_and_backbone_are_all_there_is():
    network = make_network()
    head = {id(parameter) for parameter in network.parameters_of_head()}
    names = {name for name, parameter in network.named_parameters() if id(parameter) in head}
    assert names == {"head.weight", "head.bias", "correction.weight", "correction.bias"}
    assert set(network.backbone()) | names == set(network.state_dict())


def test_backbone_of_the_same_probe_is_taken_whole_of_another_without_mixing_and_recurrence():
    source = make_network()
    assert set(make_network(num_units=7).load_backbone(source.backbone())) == set(source.backbone())
    taken = make_network(num_channels=9).load_backbone(source.backbone())
    layers = {name.split(".")[0] for name in taken}
    assert layers == {"filters", "filters_norm", "features", "features_norm"}


def test_the_head_start_from_labels_is_one():
    toy = make_toy()
    spec = NetworkSpec(name="convrecurrent", window_ms=3.75, peak_ms=1.6875)
    parameters = spec.hyper_parameters(sampling_frequency=toy.rate, num_channels=8, num_units=3)
    network = build_network(spec.name, parameters)
    window = Window(before_samples=parameters["peak_offset_samples"], samples=parameters["window_samples"])
    examples = SpikeExamples(
        toy.traces,
        toy.labels(per_unit=10),
        window=window,
        spec=ExampleSpec(),
        rng=np.random.default_rng(0),
    )
    batch = examples.batch(np.random.default_rng(1), 400)
    traces, targets, known = (torch.from_numpy(values) for values in batch)

    def loss():
        with torch.no_grad():
            return masked_loss(network.train()(traces)[:, 0], targets, known).item()

    before = loss()
    start_from_labels(network, examples, np.random.default_rng(0))
    assert loss() < 0.7 * before
    with torch.no_grad():
        found = (network.eval()(traces)[:, 0] > 0) & known.bool()
    assert (found & targets.bool()).sum() > 0.95 * found.sum() > 50


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"state_features": 2.5}, "state_features must be a whole number of at least 1, got 2.5"),
        ({"reach": 0.5}, r"reach must be a share of the window in \[0, 0.45\], got 0.5"),
        ({"reach": True}, "reach must be a share of the window in"),
        ({"hidden_features": 0}, "hidden_features must be a whole number of at least 1, got 0"),
        ({"depth": 3}, "network convrecurrent does not take these hyper-parameters"),
    ],
)
def test_bad_hyper_parameters(changes, message):
    with pytest.raises(ValueError, match=message):
        build_network("convrecurrent", SIZES | changes)


def test_traces_shorter_than_a_window_are_refused():
    with pytest.raises(ValueError, match="at least the window's 24 samples, got 23"):
        make_network()(torch.zeros(1, 23, 5))
