"""Neurons that nobody labelled: found where they are, and nowhere else."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pursuit_data import LAYOUT, POSITIONS_UM, add_spike, footprints, make_network, planted
from test_pursuit_learning import learn

from esort.pursuit.examples import RowLabels
from esort.pursuit.gaps import LEAST_EVENTS, parts_of
from esort.pursuit.rivals import find_rivals
from esort.pursuit.scorer import score_thresholds

NUM_ROWS = 24_000


@pytest.fixture(scope="module")
def truth():
    return planted(make_network(footprints(peak=14.0)), num_rows=NUM_ROWS, gap_rows=40.0, seed=1)


def labels_of(truth, units, per_unit=10, seed=0):
    """Labels of some of the neurons, numbered anew, in rows."""
    rng = np.random.default_rng(seed)
    _, times, unit_index, _ = truth
    inside = (times > 100) & (times < NUM_ROWS - 200)
    chosen = [
        rng.choice(np.flatnonzero(inside & (unit_index == unit)), per_unit, replace=False) for unit in units
    ]
    return RowLabels(
        time=np.rint(times[np.concatenate(chosen)]),
        unit_index=np.repeat(np.arange(len(units)), per_unit),
        num_units=len(units),
    )


def search(truth, labels, known=()):
    """Learn the units and those rivals that are known, and look for more."""
    labels = labels.joined(known)
    network, table = learn(truth[0], labels)
    network.whitening.copy_(torch.eye(8))
    network.positions.copy_(torch.from_numpy(POSITIONS_UM))
    thresholds = score_thresholds(network.energies.numpy())
    return find_rivals(network, table, truth[0], thresholds, labels, LAYOUT, known=known)


def share_at(rows, truth, unit):
    """Part of these rows that are spikes of a neuron."""
    times = truth[1][truth[2] == unit]
    return np.mean([np.abs(times - row).min() <= 3 for row in rows])


def test_where_all_have_labels_there_are_no_rivals(truth):
    assert search(truth, labels_of(truth, range(4))) == ()


@pytest.mark.parametrize("unlabelled", range(4))
def test_a_neuron_without_labels_is_found(truth, unlabelled):
    units = [unit for unit in range(4) if unit != unlabelled]
    rivals = search(truth, labels_of(truth, units))
    assert len(rivals) == 1
    assert (np.diff(rivals[0]) > 0).all()
    assert len(rivals[0]) <= 50
    assert share_at(rivals[0], truth, unlabelled) > 0.9


def test_most_neurons_may_lack_labels(truth):
    rivals = search(truth, labels_of(truth, [1]))
    rivals = sorted(rivals, key=len)[-3:]  # a fragment may be left for the next search
    shares = np.array([[share_at(rows, truth, unit) for unit in (0, 2, 3)] for rows in rivals])
    assert sorted(shares.argmax(axis=1)) == [0, 1, 2]
    assert (shares.max(axis=1) > 0.9).all()


def test_those_found_stay_and_there_are_no_more(truth):
    labels = labels_of(truth, [0, 2])
    known = search(truth, labels)
    assert len(known) == 2
    assert search(truth, labels, known) is known


def test_a_rival_that_takes_a_units_spikes_is_given_up(truth):
    """Spikes of a labelled neuron under another name."""
    labels = labels_of(truth, range(4))
    twin = np.sort(labels_of(truth, [2], per_unit=30, seed=5).time).astype(np.int64)
    assert search(truth, labels, (twin,)) == ()


def test_a_neuron_that_hides_in_a_unit_is_found():
    """It differs from a unit by less than an event must be large to be strange."""
    waveforms = footprints(3, peak=14.0)
    aside = waveforms[1].copy()
    aside[[2, 5]] *= 0.55
    difference = np.linalg.norm(aside - waveforms[1])
    assert 4 < difference < 9
    truth = planted(make_network(np.stack([*waveforms, aside])), num_rows=NUM_ROWS, gap_rows=40.0, seed=2)
    rivals = search(truth, labels_of(truth, [0, 1, 2]))
    assert len(rivals) == 1
    assert share_at(rivals[0], truth, 3) > 0.9


def test_few_spikes_are_no_neuron(truth):
    traces, times, units, _ = truth
    seen = (units != 3) | (np.cumsum(units == 3) <= LEAST_EVENTS - 1)
    rng = np.random.default_rng(3)
    network = make_network(footprints(peak=14.0))
    quiet = rng.standard_normal(traces.shape).astype(np.float32)
    for time, unit in zip(times[seen], units[seen], strict=True):
        add_spike(quiet, network, unit, time)
    assert search((quiet, times[seen], units[seen], None), labels_of(truth, range(3))) == ()


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(24, 80), min_size=1, max_size=3),
    seed=st.integers(0, 2**32 - 1),
    dimensions=st.integers(2, 20),
)
def test_clouds_that_are_apart_are_told_apart(sizes, seed, dimensions):
    rng = np.random.default_rng(seed)
    centres = 12.0 * np.eye(max(dimensions, 3))[: len(sizes), :dimensions]
    names = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    events = (
        centres[np.minimum(names, dimensions)]
        if dimensions > 2
        else np.array([[0.0, 0.0], [15.0, 0.0], [0.0, 15.0]])[names]
    )
    events = events + rng.standard_normal(events.shape)
    parts = parts_of(events[:, None].astype(np.float32))
    assert all(len(set(names[part])) == 1 for part in parts)
    found = np.array([names[part[0]] for part in parts])
    assert sorted(set(found)) == list(range(len(sizes)))
    if dimensions <= 3:  # in more, few events of one cloud may lie apart by chance
        assert len(found) <= len(sizes) + 1
