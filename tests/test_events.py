import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from spikeinterface.core import NumpySorting

from esort.events import classify_spikes, pair_spikes, true_spikes

trains = st.lists(st.integers(0, 60), max_size=12).map(
    lambda samples: np.array(sorted(samples), dtype=np.int64)
)


@settings(max_examples=200, deadline=None)
@given(trains, trains, st.integers(0, 6))
def test_as_many_spikes_are_paired_as_can_be(true, found, delta_samples):
    is_hit, is_true = pair_spikes(true, found, delta_samples)
    close = np.abs(true[:, None] - found[None]) <= delta_samples
    best = int((maximum_bipartite_matching(csr_array(close)) >= 0).sum()) if close.size else 0
    assert is_hit.sum() == is_true.sum() == best
    assert not (is_hit & ~close.any(axis=1)).any()
    assert not (is_true & ~close.any(axis=0)).any()


def kinds(events):
    return sorted((event.kind, event.unit_id, event.sample_index) for event in events)


def test_spikes_are_told_apart():
    truth = NumpySorting.from_unit_dict([{"a": np.array([95, 150, 180]), "b": np.array([120])}], 32000.0)
    found = NumpySorting.from_unit_dict(
        [{"a": np.array([101, 151, 170]), "x": np.array([121, 199, 200])}], 32000.0
    )
    stretch = {"start_sample": 100, "stop_sample": 200, "delta_samples": 6}
    # The spike at 101 is right, although its partner lies before the stretch.
    assert kinds(classify_spikes(found, truth, **stretch)) == [
        ("false", "a", 170),
        ("false", "x", 121),
        ("false", "x", 199),
        ("hit", "a", 150),
        ("miss", "a", 180),
        ("miss", "b", 120),
    ]
    assert kinds(classify_spikes(found, truth, matches={"a": None, "b": "x"}, **stretch)) == [
        ("false", "a", 101),
        ("false", "a", 151),
        ("false", "a", 170),
        ("false", "x", 199),
        ("hit", "b", 120),
        ("miss", "a", 150),
        ("miss", "a", 180),
    ]
    assert {event.kind for event in classify_spikes(found, None, **stretch)} == {"found"}
    assert len(classify_spikes(found, None, **stretch)) == 5


def test_a_spike_is_true_where_the_matched_unit_fired():
    truth = NumpySorting.from_unit_dict({"a": np.array([100, 200]), "b": np.array([300])}, 1000.0)
    sample_index = np.array([101, 150, 199, 300, 301])
    unit_index = np.array([1, 1, 1, 1, 0])
    is_true = true_spikes(sample_index, unit_index, ["x", "y"], truth, {"a": "y", "b": None}, 2)
    assert is_true.tolist() == [True, False, True, False, False]
