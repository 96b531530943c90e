"""Thresholds of a pursuit: what is expected of each unit is what happens."""

import numpy as np
import pytest
from pursuit_data import (
    LAYOUT,
    add_spike,
    footprints,
    make_network,
    planted,
)

from esort.calibration import MIN_ACCURACY
from esort.pursuit.calibration import calibrate_scores
from esort.pursuit.coincidence import count_remains
from esort.pursuit.examples import RowLabels
from esort.pursuit.explain import Events, explain
from esort.pursuit.injection import distance, inject
from esort.pursuit.overlaps import conflict_table
from esort.pursuit.scorer import score_thresholds

NUM_ROWS = 32_000


def network_of(peaks):
    """Units of the given height, the last of them on channels of its own."""
    waveforms = footprints(len(peaks), 2 * len(peaks))
    for waveform, peak in zip(waveforms, peaks, strict=True):
        waveform *= peak / np.abs(waveform).max()
    return make_network(waveforms)


def recorded(network, seed=0):
    traces, times, units, _ = planted(network, num_rows=NUM_ROWS, gap_rows=60.0, seed=seed)
    first = [np.flatnonzero(units == unit_index)[:10] for unit_index in range(network.num_units)]
    chosen = np.sort(np.concatenate(first))
    labels = RowLabels(time=times[chosen], unit_index=units[chosen], num_units=network.num_units)
    return traces, times, units, labels


def calibrated(network, traces, labels):
    return calibrate_scores(network, conflict_table(network), traces, labels, LAYOUT)


def happened(network, thresholds, traces, times, units):
    """Precision and recall of each unit at these thresholds."""
    events = explain(network, conflict_table(network), traces, thresholds, exclusion_rows=16)
    result = []
    for unit_index in range(network.num_units):
        found = events.time[events.of_unit(unit_index)]
        true = (distance(found, times[units == unit_index]) < 4).sum()
        result.append((true / max(len(found), 1), true / (units == unit_index).sum()))
    return np.array(result).T


@pytest.fixture(scope="module")
def mixed():
    """Three units that are far above the noise, and one that is not."""
    network = network_of([9.0, 11.0, 1.4, 9.0])
    return network, *recorded(network)


def test_what_is_expected_is_what_happens(mixed):
    network, traces, _, units, labels = mixed
    found = calibrated(network, traces, labels)
    again = recorded(network, seed=1)
    precision, recall = happened(network, found.thresholds, *again[:3])
    np.testing.assert_allclose(found.precision, precision, atol=0.12)
    np.testing.assert_allclose(found.recall[[0, 1, 3]], recall[[0, 1, 3]], atol=0.06)
    np.testing.assert_allclose(found.recall[2], recall[2], atol=0.2)
    seconds = NUM_ROWS / LAYOUT.rate_hz
    np.testing.assert_allclose(found.rate_hz, np.bincount(units) / seconds, rtol=0.35)


def test_a_unit_of_which_most_spikes_are_missed_is_left_out():
    network = network_of([9.0, 9.0, 1.0, 9.0])
    traces, _, _, labels = recorded(network)
    found = calibrated(network, traces, labels)
    assert found.sortable.tolist() == [True, True, False, True]
    assert found.min_accuracy == MIN_ACCURACY


def test_a_unit_that_would_take_the_spikes_of_one_that_is_left_out_is_left_out_too():
    """Labels of the larger of two like units lie beside its spikes: it goes, the other would have them."""
    waveforms = footprints(4, 8)
    waveforms[1] = 0.75 * waveforms[0]
    network = make_network(waveforms)
    traces, times, units, labels = recorded(network)
    assert calibrated(network, traces, labels).sortable.all()
    # Spikes of the smaller are rare.
    rare = np.flatnonzero(units == 1)[14:]
    for time in times[rare]:
        add_spike(traces, network, 1, time, -1.0)
    beside = RowLabels(
        time=np.where(labels.unit_index == 0, labels.time + 23, labels.time),
        unit_index=labels.unit_index,
        num_units=4,
    )
    order = np.argsort(beside.time, kind="stable")
    beside = RowLabels(time=beside.time[order], unit_index=beside.unit_index[order], num_units=4)
    assert calibrated(network, traces, beside).sortable.tolist() == [False, False, True, True]


def test_labels_that_are_not_found_make_a_unit_unsortable(mixed):
    network, traces, _, _, labels = mixed
    wrong = RowLabels(
        time=np.where(labels.unit_index == 1, labels.time + 23, labels.time),
        unit_index=labels.unit_index,
        num_units=4,
    )
    order = np.argsort(wrong.time, kind="stable")
    wrong = RowLabels(time=wrong.time[order], unit_index=wrong.unit_index[order], num_units=4)
    assert calibrated(network, traces, wrong).precision[1] == 0


def test_the_reliability_is_a_curve_that_rises(mixed):
    network, traces, _, _, labels = mixed
    above, share = calibrated(network, traces, labels).tables.reliability
    assert (np.diff(above) > 0).all()
    assert (np.diff(share) >= 0).all()
    assert 0 <= share[0] <= share[-1] <= 1
    assert share[-1] > 0.9


def test_the_same_each_time(mixed):
    network, traces, _, _, labels = mixed
    one, other = calibrated(network, traces, labels), calibrated(network, traces, labels)
    for name in ("thresholds", "rate_hz", "recall", "false_hz", "precision"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_traces_without_a_spike():
    network = network_of([9.0, 9.0])
    traces = np.random.default_rng(0).standard_normal((4, 8000)).astype(np.float32)
    nothing = RowLabels(time=np.zeros(0), unit_index=np.zeros(0, dtype=np.int64), num_units=2)
    found = calibrated(network, traces, nothing)
    assert not found.sortable.any()
    assert np.isfinite(found.thresholds).all()


def answers_of(network, traces, amplitudes):
    table = conflict_table(network)
    thresholds = score_thresholds(network.energies.numpy())
    events = explain(network, table, traces, thresholds, exclusion_rows=16)
    return inject(network, table, traces, events, thresholds, amplitudes, LAYOUT)


def test_spikes_put_in_are_found_again(mixed):
    network, traces, *_ = mixed
    answers = answers_of(network, traces, np.ones(4))
    assert (answers.put_in > 20).all()
    share = np.bincount(answers.found_unit, minlength=4) / answers.put_in
    assert (share[[0, 1, 3]] > 0.93).all()
    assert 0.3 < share[2] <= 1
    energies = network.energies.numpy()
    for unit_index in (0, 1, 3):
        scores = answers.found_score[answers.found_unit == unit_index]
        assert np.median(scores) == pytest.approx(energies[unit_index] / 2, rel=0.1)


def test_smaller_spikes_are_found_less_often(mixed):
    network, traces, *_ = mixed
    counts = [
        np.bincount(answers_of(network, traces, np.full(4, size)).found_unit, minlength=4)[2]
        for size in (0.6, 1.0, 1.4)
    ]
    assert counts[0] < counts[1] < counts[2]


def test_a_unit_that_answers_to_its_neighbour_is_told():
    """Two units of the same shape, one larger: noise makes the one of the other now and then."""
    waveforms = footprints(2, 8)
    waveforms[0] *= 2.6 / np.abs(waveforms[0]).max()
    waveforms[1] = 1.15 * waveforms[0]
    network = make_network(waveforms)
    answers = answers_of(network, recorded(network)[0], np.ones(2))
    pairs = set(zip(answers.source.tolist(), answers.false_unit.tolist(), strict=True))
    assert pairs == {(0, 1), (1, 0)}


def test_nothing_is_put_into_traces_that_are_too_short():
    network = network_of([9.0, 9.0])
    traces = np.zeros((4, 80), dtype=np.float32)
    answers = answers_of(network, traces, np.ones(2))
    assert answers.put_in.tolist() == [0, 0]
    assert len(answers.found_unit) == len(answers.source) == 0


def test_spikes_are_put_in_apart_from_those_that_are_there():
    network = network_of([9.0, 9.0])
    traces = np.zeros((4, 8000), dtype=np.float32)
    for time in range(200, 7800, 160):
        add_spike(traces, network, 0, float(time))
    answers = answers_of(network, traces, np.ones(2))
    found = np.bincount(answers.found_unit, minlength=2)
    np.testing.assert_array_equal(found, answers.put_in)


def test_distance():
    others = np.array([1.0, 5.0])
    np.testing.assert_array_equal(distance(np.array([0.0, 2.9, 3.1, 9.0]), others), [1, 1.9, 1.9, 4])
    assert np.isinf(distance(np.array([3.0]), np.zeros(0))).all()


def counted(times_of_small, times_of_large, energies=(25.0, 400.0)):
    """Remains among events of unit 0, of the score 30, beside those of unit 1."""
    time = np.concatenate([times_of_small, times_of_large])
    unit_index = np.repeat([0, 1], [len(times_of_small), len(times_of_large)])
    order = np.argsort(time, kind="stable")
    events = Events(
        time=time[order],
        unit_index=unit_index[order],
        score=np.full(len(time), 30.0),
        amplitude=np.ones(len(time)),
    )
    return count_remains(
        events,
        np.ones(len(time), dtype=bool),
        conflict_table(network_of([9.0, 9.0])),
        np.array(energies),
        np.array([[0.0, 20.0, 40.0], [0.0, 20.0, 40.0]]),
        num_rows=160_000,
        rate_hz=16_000.0,
    )


def test_events_beside_larger_spikes_beyond_chance_are_remains():
    rng = np.random.default_rng(0)
    large = np.sort(rng.uniform(0, 160_000, 500))
    small = rng.uniform(0, 160_000, 200)
    assert counted(np.sort(small), large).max() <= 3
    beside = rng.choice(large, 100, replace=False) + rng.uniform(-10, 10, 100)
    found = counted(np.sort(np.concatenate([small, beside])), large)
    np.testing.assert_allclose(found[0, :2], 85, atol=15)
    assert found[0, 2] == 0  # no score reaches it
    assert (found[1] == 0).all()  # the small do not leave the large ones behind


def test_spikes_of_the_same_size_leave_no_remains():
    times = np.arange(100.0, 160_000, 500)
    assert (counted(times, times + 3, energies=(25.0, 50.0)) == 0).all()


def test_larger_spikes_without_end():
    """Nearly all the time is beside one: then nothing can be told, and nothing breaks."""
    found = counted(np.arange(5.0, 160_000, 400), np.arange(0.0, 160_000, 20))
    assert np.isfinite(found).all()


def test_no_events_no_remains():
    assert (counted(np.zeros(0), np.zeros(0)) == 0).all()
