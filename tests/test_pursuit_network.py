"""The pursuit network: one definition, several ways to compute it, and what a card keeps of it."""

import numpy as np
import pytest
import torch
from pursuit_data import FILTER_BEFORE, POSITIONS_UM, RATE_HZ, STEP, add_spike, footprints, make_network

from esort.card import Card
from esort.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from esort.network import NetworkSpec, build_network
from esort.preprocessing import Preprocessing
from esort.pursuit.network import PursuitNetwork
from esort.pursuit.scorer import scorer_of
from esort.sorter import Sorter


@pytest.fixture(scope="module")
def network():
    return make_network()


@pytest.fixture(scope="module")
def raw():
    return 20 * np.random.default_rng(1).standard_normal((4001, 8)).astype(np.float32)


def test_outputs_are_what_forward_defines(network, raw):
    with torch.no_grad():
        defined = network(torch.from_numpy(raw)[None])[0].numpy()
    found = network.outputs(raw)
    assert found.dtype == np.float32
    assert found.shape == defined.shape == ((4001 - network.window_samples) // STEP + 1, 4)
    np.testing.assert_allclose(found, defined, atol=1e-3 * np.abs(defined).max())


def test_a_batch_is_one_stretch_after_the_other(network, raw):
    with torch.no_grad():
        both = network(torch.from_numpy(np.stack([raw[:900], raw[900:1800]])))
        alone = network(torch.from_numpy(raw[None, 900:1800]))
    torch.testing.assert_close(both[1:], alone)


@pytest.mark.parametrize("offset", [1, 7, 500, 1200])
def test_outputs_of_a_stretch_are_those_of_the_whole(network, raw, offset):
    whole = network.outputs(raw)
    part = network.outputs(raw[STEP * offset :])
    np.testing.assert_array_equal(part, whole[offset:])


def test_one_window_gives_one_row(network, raw):
    assert network.outputs(raw[: network.window_samples]).shape == (1, 4)


@pytest.mark.parametrize("unit_index", range(4))
def test_the_score_of_a_lone_spike_is_half_its_energy(network, unit_index):
    traces = np.zeros((8, 300), dtype=np.float32)
    add_spike(traces, network, unit_index, 150)
    scores = network.scores(traces)
    energies = network.energies.numpy()
    row = 150 - FILTER_BEFORE
    assert scores[unit_index].argmax() == row
    assert scores[unit_index, row] == pytest.approx(
        -energies[unit_index] / 2 + energies[unit_index], rel=1e-4
    )
    assert scores[:, row].argmax() == unit_index
    # Far from it there is silence.
    np.testing.assert_allclose(scores[:, -20:], np.tile(-energies[:, None] / 2, 20), rtol=1e-5)


def test_peak_offset_is_where_the_spike_was(raw):
    """From traces in µV to the sample, through filter, decimation and bank."""
    network = make_network()
    network.whitening.copy_(torch.eye(8))
    traces = np.zeros((4000, 8), dtype=np.float32)
    course = -np.exp(-0.5 * (np.arange(-12, 13) / 3.5) ** 2)
    space = np.abs(footprints()[1]).max(axis=1)
    traces[2000 - 12 : 2000 + 13] += course[:, None] * space
    scores = network.outputs(traces)
    sample = STEP * scores[:, 1].argmax() + network.peak_offset_samples
    assert abs(sample - 2000) <= 2


def test_energies(network):
    energies = network.energies.numpy()
    np.testing.assert_allclose(energies, np.square(network.heads.numpy()).sum(axis=(1, 2)), rtol=1e-6)
    # The detectors see most of the footprints.
    whole = np.square(footprints()).sum(axis=(1, 2))
    assert ((0.8 * whole < energies) & (energies <= whole * 1.0001)).all()


@pytest.mark.parametrize("chosen", [[0], [2, 3], [3, 0, 1]])
def test_some_of_the_units(network, raw, chosen):
    whole = network.outputs(raw)
    some = network.of_units(np.array(chosen))
    assert some.num_units == len(chosen)
    np.testing.assert_allclose(some.outputs(raw), whole[:, chosen], atol=1e-3)
    assert network.num_units == 4
    np.testing.assert_array_equal(network.outputs(raw), whole)


def test_many_units_in_no_order_along_the_probe(raw):
    order = np.random.default_rng(0).permutation(37)
    network = make_network(footprints(num_units=37)[order])
    with torch.no_grad():
        defined = network(torch.from_numpy(raw)[None])[0].numpy()
    found = network.outputs(raw)
    np.testing.assert_allclose(found, defined, atol=1e-3 * np.abs(defined).max())


def test_arrays_rebuild_it(network, raw):
    """What sorts has the arrays alone; the network can be made from them again."""
    scorer = network.scorer()
    assert scorer_of(network).sizes == scorer.sizes
    assert scorer_of(scorer) is scorer.folded() is scorer
    np.testing.assert_array_equal(scorer.outputs(raw), network.outputs(raw))
    np.testing.assert_allclose(scorer.energies, network.energies.numpy(), rtol=1e-6)
    np.testing.assert_array_equal(scorer.dense_heads(), network.dense_heads().numpy())
    again = PursuitNetwork.of_arrays(scorer.sizes, scorer.arrays())
    for name, value in network.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, atol=0, rtol=0)


def test_hyper_parameters_rebuild_it(network, raw):
    again = build_network("pursuit", network.hyper_parameters())
    again.load_state_dict(network.state_dict())
    found = again.outputs(raw)
    np.testing.assert_array_equal(found, network.outputs(raw))


def test_fewer_channels_than_members(raw):
    """A tetrode has no 64 channels for a footprint."""
    network = make_network(footprints(num_channels=4), num_members=64, num_heads=14)
    assert network.footprints.shape[1] == network.heads.shape[1] == 4
    again = build_network("pursuit", network.hyper_parameters())
    again.load_state_dict(network.state_dict())


def test_the_backbone_knows_neither_units_nor_channels(network):
    backbone = network.backbone()
    assert set(backbone) == {"filters", "basis"}
    assert backbone["filters"].shape == network.filters.shape
    assert network.parameters_of_head() == []
    other = build_network("pursuit", network.hyper_parameters() | {"num_channels": 3, "num_units": 9})
    assert set(other.load_backbone(backbone)) == {"filters", "basis"}
    torch.testing.assert_close(other.filters, network.filters)


def test_the_choice_of_a_network():
    spec = NetworkSpec(name="pursuit", parameters={"num_filters": 4, "num_head_channels": 9})
    assert spec.name == "pursuit"
    with pytest.raises(ValueError, match="network pursuit does not take these hyper-parameters.*num_wings"):
        NetworkSpec(name="pursuit", parameters={"num_wings": 2})


def card_of(network):
    return Card(
        network="pursuit",
        network_parameters=network.hyper_parameters(),
        sampling_frequency=RATE_HZ,
        contact_positions_um=tuple(map(tuple, POSITIONS_UM.tolist())),
        channel_ids=tuple(range(8)),
        unit_ids=("a", "b", "c", "d"),
        window_ms=1000 * network.window_samples / RATE_HZ,
        window_samples=network.window_samples,
        peak_offset_samples=network.peak_offset_samples,
        preprocessing=Preprocessing(inside_network=True).to_dict(),
        noise_level_uv=(1.0,) * 8,
        thresholds=(50.0, 60.0, 70.0, 80.0),
        postprocess={"smoothing_ms": 0.4, "refractory_ms": 1.0, "competition": True},
        labels=None,
        seed=0,
    )


def test_a_checkpoint_gives_it_back(network, raw, tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, network.state_dict(), card_of(network))
    sorter = Sorter.load(path)
    assert sorter.card.thresholds == (50.0, 60.0, 70.0, 80.0)
    found = sorter.network.outputs(raw)
    np.testing.assert_array_equal(found, network.outputs(raw))


def test_a_checkpoint_of_other_sizes_is_refused(network, tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, network.state_dict(), card_of(network))
    card, weights = load_checkpoint(path, framework="torch")
    weights["heads"] = weights["heads"][:, :, :-1].clone()
    save_checkpoint(path, weights, card)
    with pytest.raises(CheckpointError, match="heads"):
        Sorter.load(path)
