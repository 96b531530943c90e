"""Units of one label that took another unit's spike for their own."""

import numpy as np
import pytest
from pursuit_data import LAYOUT, POSITIONS_UM, add_spike, make_network, planted

from esort.pursuit.contests import begin_again
from esort.pursuit.examples import RowLabels
from esort.pursuit.overlaps import conflict_table
from esort.pursuit.shifting import shifted


@pytest.fixture(scope="module")
def true_network():
    return make_network()


@pytest.fixture(scope="module")
def truth(true_network):
    return planted(true_network, num_rows=24_000, gap_rows=40.0, seed=1)


def alone(truth, unit_index):
    """Time of the spike of a unit that is furthest from all others."""
    _, times, units, _ = truth
    own = np.flatnonzero((units == unit_index) & (times > 500) & (times < 23_500))
    gaps = [np.abs(np.delete(times, spike) - times[spike]).min() for spike in own]
    return float(times[own[np.argmax(gaps)]])


@pytest.fixture(scope="module")
def labels(truth):
    return RowLabels(
        time=np.array([alone(truth, unit_index) for unit_index in range(4)]),
        unit_index=np.arange(4),
        num_units=4,
    )


def with_thief(true_network, thief, owner, late_rows):
    """What is learned where the label of one unit lies on a spike of another, which is larger."""
    network = make_network()
    network.footprints[thief] = shifted(true_network.footprints[owner], late_rows)
    network.footprint_channels[thief] = true_network.footprint_channels[owner]
    network.heads[thief] = true_network.heads[owner]
    network.head_channels[thief] = true_network.head_channels[owner]
    return network


def asked(network, traces, labels, lost=()):
    is_lost = np.isin(np.arange(4), lost)
    table = conflict_table(network)
    return begin_again(network, table, traces, labels, POSITIONS_UM, LAYOUT, lost=is_lost)


def on_all(footprint, channels):
    result = np.zeros((8, footprint.shape[1]))
    result[channels] = footprint.numpy()
    return result


def cosine(one, other):
    return (one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other)


@pytest.mark.parametrize(("thief", "owner"), [(0, 2), (2, 0), (1, 3), (0, 1)])
@pytest.mark.parametrize("late_rows", [0.0, 3.0])
def test_the_thief_begins_again_from_what_the_owner_leaves(
    truth, true_network, labels, thief, owner, late_rows
):
    traces = truth[0].copy()
    add_spike(traces, true_network, owner, labels.of_unit(thief)[0] + late_rows, 1.0)
    network = with_thief(true_network, thief, owner, late_rows)
    again, footprints, channels = asked(network, traces, labels)
    assert np.flatnonzero(again).tolist() == [thief]
    true = on_all(true_network.footprints[thief], true_network.footprint_channels[thief].numpy())
    before = on_all(network.footprints[thief], network.footprint_channels[thief].numpy())
    after = on_all(footprints[thief], channels[thief])
    assert cosine(after, true) > 0.6
    assert cosine(after, true) > cosine(before, true) + 0.2
    others = np.arange(4) != thief
    np.testing.assert_array_equal(footprints[others], network.footprints[others])
    np.testing.assert_array_equal(channels[others], network.footprint_channels[others])


def test_units_that_have_their_own_spikes_are_left_as_they_are(truth, true_network, labels):
    again, footprints, channels = asked(true_network, truth[0], labels)
    assert not again.any()
    np.testing.assert_array_equal(footprints, true_network.footprints)
    np.testing.assert_array_equal(channels, true_network.footprint_channels)


def test_a_unit_that_is_lost_begins_again(truth, true_network, labels):
    network = make_network()
    network.footprints[1] *= 0.05
    network.heads[1] *= 0.05
    again, footprints, channels = asked(network, truth[0], labels, lost=[1])
    assert np.flatnonzero(again).tolist() == [1]
    true = on_all(true_network.footprints[1], true_network.footprint_channels[1].numpy())
    assert cosine(on_all(footprints[1], channels[1]), true) > 0.6


def test_who_was_robbed_of_all_spikes_does_not_begin_again(truth, true_network, labels):
    traces = truth[0].copy()
    add_spike(traces, true_network, 2, labels.of_unit(0)[0] + 3.0, 1.0)
    again, _, _ = asked(with_thief(true_network, 0, 2, 3.0), traces, labels, lost=[2])
    assert np.flatnonzero(again).tolist() == [0]


def test_units_of_more_labels_are_not_asked(truth, true_network, labels):
    """What they took cannot come from one spike of another unit."""
    traces = truth[0].copy()
    add_spike(traces, true_network, 2, labels.of_unit(0)[0] + 3.0, 1.0)
    more = RowLabels(
        time=np.append(labels.time, labels.of_unit(0)[0]),
        unit_index=np.append(labels.unit_index, 0),
        num_units=4,
    )
    again, _, _ = asked(with_thief(true_network, 0, 2, 3.0), traces, more)
    assert not again.any()


def test_labels_at_the_ends_of_the_recording(truth, true_network):
    """Too little is there to begin with; nothing fails."""
    labels = RowLabels(time=np.array([3.0, 900.0, 1500.0, 23_995.0]), unit_index=np.arange(4), num_units=4)
    again, footprints, _ = asked(true_network, truth[0], labels, lost=[0, 3])
    assert np.flatnonzero(again).tolist() == [0, 3]
    assert bool(np.isfinite(footprints.numpy()).all())
