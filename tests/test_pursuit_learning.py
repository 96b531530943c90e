"""Units from few labels: footprints, their times, and what happens without enough to learn from."""

import numpy as np
import pytest
import torch
from pursuit_data import (
    FILTER_BEFORE,
    FILTER_SAMPLES,
    FOOTPRINT_BEFORE,
    FOOTPRINT_SAMPLES,
    LAYOUT,
    POSITIONS_UM,
    STEP,
    add_spike,
    make_network,
    planted,
)

from esort.pursuit.examples import RowLabels
from esort.pursuit.explain import explain
from esort.pursuit.learning import first_network, learn_units
from esort.pursuit.means import mean_footprints, typical
from esort.pursuit.recipe import Recipe
from esort.pursuit.scorer import score_thresholds
from esort.pursuit.shifting import shifted

SHARED = {
    "num_channels": 8,
    "step": STEP,
    "lowpass_samples": 3,
    "highpass_samples": 1,
    "window_samples": 3 + STEP * (FILTER_SAMPLES - 1),
    "peak_offset_samples": 1 + STEP * FILTER_BEFORE,
}


@pytest.fixture(scope="module")
def true_network():
    return make_network()


@pytest.fixture(scope="module")
def truth(true_network):
    return planted(true_network, num_rows=24_000, gap_rows=40.0, seed=1)


def some_labels(truth, per_unit=5, jitter=0.0, seed=0):
    """Labels at the samples of some spikes, in rows."""
    _, times, units, _ = truth
    rng = np.random.default_rng(seed)
    inside = (times > 100) & (times < 23_800)
    chosen = np.sort(
        np.concatenate(
            [
                rng.choice(np.flatnonzero(inside & (units == unit_index)), per_unit, replace=False)
                for unit_index in range(4)
            ]
        )
    )
    time = np.rint(STEP * (times[chosen] + rng.normal(0, jitter, len(chosen)))) / STEP
    order = np.argsort(time, kind="stable")
    return RowLabels(time=time[order], unit_index=units[chosen][order], num_units=4)


def learn(traces, labels, positions=POSITIONS_UM, **recipe):
    recipe = Recipe(layout=LAYOUT, sizes=SHARED | {"num_channels": len(traces)}, **recipe)
    network = first_network(traces, labels, positions, recipe)
    return learn_units(network, traces, labels, positions, recipe)


def dense(network):
    """Footprints on all channels: (U, C, L)."""
    result = np.zeros((network.num_units, network.num_channels, network.footprints.shape[2]))
    for unit_index in range(network.num_units):
        result[unit_index, network.footprint_channels[unit_index]] = network.footprints[unit_index]
    return result


def likeness(network, true_network):
    """Cosine between learned and true footprints, at the best time of those within two rows."""
    learned, true = dense(network), dense(true_network)
    cosines = []
    for one, other in zip(learned, true, strict=True):
        moved = [
            shifted(torch.from_numpy(one).float(), float(rows)).numpy() for rows in np.arange(-2, 2.1, 0.25)
        ]
        products = [(waveform * other).sum() / np.linalg.norm(waveform) for waveform in moved]
        cosines.append(max(products) / np.linalg.norm(other))
    return np.array(cosines)


def accuracy(network, table, truth, tolerance=3.0):
    """Of each unit, over all the traces; a constant offset of a unit counts in full."""
    traces, times, units, _ = truth
    thresholds = score_thresholds(network.energies.numpy())
    events = explain(network, table, traces, thresholds, exclusion_rows=16)
    result = []
    for unit_index in range(4):
        found, wanted = events.time[events.of_unit(unit_index)], times[units == unit_index]
        hits = sum(np.abs(found - time).min(initial=np.inf) <= tolerance for time in wanted)
        result.append(hits / (len(found) + len(wanted) - hits))
    return np.array(result)


@pytest.fixture(scope="module")
def learned(truth):
    return learn(truth[0], some_labels(truth))


def test_five_labels_suffice(learned, truth, true_network):
    network, table = learned
    sizes = SHARED | {"num_components": len(network.basis)}
    assert network.hyper_parameters() == true_network.hyper_parameters() | sizes
    assert (accuracy(network, table, truth) > 0.95).all()
    assert (likeness(network, true_network) > 0.97).all()


def test_what_is_learned_is_better_than_the_mean_of_the_labels(learned, truth, true_network):
    labels = some_labels(truth)
    learned_likeness = likeness(learned[0], true_network)
    for unit_index, true in enumerate(dense(true_network)):
        starts = np.rint(labels.of_unit(unit_index)).astype(int) - FOOTPRINT_BEFORE
        mean = np.mean([truth[0][:, start : start + FOOTPRINT_SAMPLES] for start in starts], axis=0)
        cosine = (mean * true).sum() / np.linalg.norm(mean) / np.linalg.norm(true)
        assert learned_likeness[unit_index] > cosine


def test_the_bank_and_the_detectors(learned):
    network = learned[0]
    torch.testing.assert_close(network.filters @ network.filters.T, torch.eye(5), atol=1e-4, rtol=0)
    assert (network.energies > 50).all()
    for unit_index in range(4):
        heads = set(network.head_channels[unit_index].tolist())
        assert heads <= set(network.footprint_channels[unit_index].tolist())
        assert len(heads) == 4


def test_the_same_again(learned, truth):
    """No random numbers, and threads that change nothing."""
    again, _ = learn(truth[0], some_labels(truth))
    for name, value in learned[0].state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, atol=0, rtol=0)


def test_labels_a_little_beside_the_spikes(truth):
    """A person's labels are off by a sample or two."""
    network, table = learn(truth[0], some_labels(truth, per_unit=12, jitter=1.0))
    assert (accuracy(network, table, truth) > 0.9).all()


def test_the_time_of_a_unit_is_that_of_its_labels(truth, true_network):
    """Labels that are all late by a row and a half: so are the spikes that are found."""
    early = some_labels(truth, per_unit=10)
    labels = RowLabels(time=early.time + 1.5, unit_index=early.unit_index, num_units=4)
    network, table = learn(truth[0], labels)
    thresholds = score_thresholds(network.energies.numpy())
    events = explain(network, table, truth[0], thresholds, exclusion_rows=16)
    for unit_index in range(4):
        wanted = truth[1][truth[2] == unit_index]
        found = events.time[events.of_unit(unit_index)]
        late = [found[np.abs(found - time).argmin()] - time for time in wanted]
        late = [one for one in late if abs(one) < 5]
        assert np.median(late) == pytest.approx(1.5, abs=0.6)


def test_one_label(truth):
    network, table = learn(truth[0], some_labels(truth, per_unit=1))
    assert np.median(accuracy(network, table, truth)) > 0.5


def test_of_two_events_noise_is_averaged_and_what_one_alone_shows_is_left_out():
    rng = np.random.default_rng(0)
    spike = torch.zeros(3, 40)
    spike[1, 15:25] = 8.0
    noise = torch.from_numpy(rng.standard_normal((2, 3, 40))).float()
    windows = spike + noise
    windows[0, 2, 30:35] += 20.0  # another unit's
    mean = typical(windows)
    torch.testing.assert_close(mean[:2], windows.mean(dim=0)[:2])
    assert (mean[2, 30:35].abs() < 4).all()
    assert float((mean - spike)[:2].square().mean()) == pytest.approx(0.5, abs=0.2)


def test_a_bank_that_is_given_serves_until_the_units_tell_their_own(truth, true_network):
    given = true_network.filters.flip(0)  # the same space, another order
    sizes = SHARED | {"num_channels": len(truth[0])}
    recipe = Recipe(layout=LAYOUT, sizes=sizes, filters=given)
    first = first_network(truth[0], some_labels(truth), POSITIONS_UM, recipe)
    torch.testing.assert_close(first.filters, given)
    network, table = learn(truth[0], some_labels(truth), filters=given)
    assert not torch.allclose(network.filters, given, atol=0.05)
    overlap = torch.linalg.svdvals(network.filters @ given.T)
    assert (overlap[:2] > 0.95).all()  # both hold what the units mostly look like
    assert (accuracy(network, table, truth) > 0.95).all()


def test_labels_on_noise(truth):
    """Somebody labelled nothing: the others are learned as they would be."""
    labels = some_labels(truth)
    quiet = np.setdiff1d(
        np.arange(200, 23_000), (np.rint(truth[1])[:, None] + np.arange(-30, 60)).astype(int).ravel()
    )
    time = np.concatenate([labels.time, quiet[:: len(quiet) // 4][:4].astype(float)])
    unit_index = np.concatenate([labels.unit_index, np.full(4, 4)])
    order = np.argsort(time, kind="stable")
    network, table = learn(truth[0], RowLabels(time=time[order], unit_index=unit_index[order], num_units=5))
    assert network.num_units == 5
    assert (accuracy(network, table, truth) > 0.95).all()


def test_labels_without_room(truth):
    """Spikes cut off by the ends teach nothing, those of other units are learned."""
    labels = some_labels(truth)
    time = np.concatenate([[2.0], labels.time, [23_999.0]])
    unit_index = np.concatenate([[1], labels.unit_index, [2]])
    network, table = learn(truth[0], RowLabels(time=time, unit_index=unit_index, num_units=4))
    assert (accuracy(network, table, truth) > 0.95).all()


def test_thresholds():
    """Small footprints must stand out from the noise, of large ones a good part must be there."""
    energies = np.array([10.0, 50.0, 400.0, 10_000.0])
    thresholds = score_thresholds(energies)
    amplitude = np.maximum(np.maximum(0.6, 0.5 + 7.3 / energies), 4.3 / np.sqrt(energies))
    np.testing.assert_allclose(thresholds, (amplitude - 0.5) * energies)
    assert (np.diff(thresholds / energies) <= 0).all()
    assert thresholds[-1] == pytest.approx(0.1 * energies[-1])
    # Noise of level 1 makes scores with a deviation of the square root of the energy.
    assert ((thresholds + energies / 2) / np.sqrt(energies) > 4.2).all()
    assert score_thresholds(np.zeros(1)) > 0


@pytest.mark.parametrize("num_channels", [1, 2, 4])
def test_fewer_waveforms_than_filters(truth, num_channels):
    """Two units on one channel have two waveforms, which is a bank."""
    kept = np.isin(truth[2], [0, 1])
    rng = np.random.default_rng(0)
    traces = 0.3 * rng.standard_normal((num_channels, 24_000)).astype(np.float32)
    waveforms = make_network().footprints[:2, :num_channels].numpy()
    for time, unit_index in zip(np.rint(truth[1][kept]).astype(int), truth[2][kept], strict=True):
        traces[:, time - FOOTPRINT_BEFORE :][:, :FOOTPRINT_SAMPLES] += waveforms[unit_index]
    labels = some_labels(truth)
    of_two = labels.unit_index < 2
    labels = RowLabels(time=labels.time[of_two], unit_index=labels.unit_index[of_two], num_units=2)
    network, table = learn(traces, labels, POSITIONS_UM[:num_channels])
    assert len(network.filters) == min(5, 2 * num_channels)
    assert accuracy(network, table, (traces, truth[1], truth[2], None))[0] > 0.9


def one_label_in_company(truth, true_network, other, after_rows, amplitude):
    """One label of each unit; at that of unit 0 another unit fires so many rows later."""
    labels = some_labels(truth, per_unit=1, seed=3)
    traces = truth[0].copy()
    time = labels.of_unit(0)[0] + after_rows
    add_spike(traces, true_network, other, time, amplitude)
    return labels, (traces, np.append(truth[1], time), np.append(truth[2], other), None)


def test_a_larger_spike_elsewhere_is_not_what_was_labelled(truth, true_network):
    """The place of a unit with one label is where the peak lies as those of the others do."""
    labels, (traces, *_) = one_label_in_company(truth, true_network, 2, 5, 1.2)
    _, channels = mean_footprints(traces, labels, POSITIONS_UM, LAYOUT)
    assert channels.tolist() == [
        [0, 1, 2, 3, 4, 5],
        [0, 1, 2, 3, 4, 5],
        [2, 3, 4, 5, 6, 7],
        [2, 3, 4, 5, 6, 7],
    ]


@pytest.mark.parametrize(("other", "after_rows"), [(1, 2), (1, -3), (2, 3)])
def test_a_unit_that_finds_nothing_is_begun_again(truth, true_network, other, after_rows):
    """What others leave at its label is the unit, once they are known."""
    labels, truth = one_label_in_company(truth, true_network, other, after_rows, 1.0)
    assert (accuracy(*learn(truth[0], labels), truth) > 0.9).all()
