"""Detector: pieces of any length give the spikes of the whole; conflicts travel in a checkpoint's arrays."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esort.detector import Detector, Postprocessing, UnitTables
from esort.postprocess import detect_spikes, join_chunks

RATE_HZ = 10_000.0
ONE_UNIT = {"postprocessing": Postprocessing(), "num_units": 1, "tables": UnitTables()}


def probabilities(num_samples, num_units, seed):
    """Sparse bumps of random height on a low background."""
    rng = np.random.default_rng(seed)
    values = rng.random((num_samples, num_units), dtype=np.float32) * 0.2
    for sample in rng.integers(5, num_samples - 5, num_samples // 40):
        values[sample - 2 : sample + 3, rng.integers(num_units)] = rng.uniform(0.4, 1.0)
    return values


def tables(**changes):
    return UnitTables(
        pairs=np.array([[0, 1], [2, 1]]), kernels=np.full((2, 9), 0.3, dtype=np.float32), **changes
    )


@settings(max_examples=25, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 1999), max_size=8, unique=True),
    seed=st.integers(0, 100),
    first_sample=st.sampled_from([0, 17, 2**33]),
    competition=st.booleans(),
)
def test_pieces_of_any_length_give_the_spikes_of_the_whole(cuts, seed, first_sample, competition):
    values = probabilities(2000, 3, seed)
    postprocessing = Postprocessing(smoothing_ms=0.5, refractory_ms=1.0, competition=competition)
    detector = Detector(
        sampling_frequency=RATE_HZ,
        thresholds=[0.3, 0.4, 0.5],
        postprocessing=postprocessing,
        num_units=3,
        tables=tables(),
    )
    edges = [0, *sorted(cuts), 2000]
    found = [detector.push(values[start:stop], first_sample + start) for start, stop in pairwise(edges)]
    spikes = join_chunks([*found, detector.finish()])
    expected = detect_spikes(
        values,
        sampling_frequency=RATE_HZ,
        thresholds=[0.3, 0.4, 0.5],
        smoothing_ms=0.5,
        refractory_ms=1.0,
        conflicts=tables().conflicts(3) if competition else None,
        first_sample=first_sample,
    )
    assert len(expected)
    np.testing.assert_array_equal(spikes.sample_index, expected.sample_index)
    np.testing.assert_array_equal(spikes.unit_index, expected.unit_index)
    np.testing.assert_allclose(spikes.probability, expected.probability, rtol=1e-6)
    assert spikes.sample_index.dtype == np.int64


def test_a_spike_is_reported_once_its_margin_has_passed():
    values = np.zeros((4000, 1), dtype=np.float32)
    values[101:104, 0] = [0.8, 0.9, 0.8]
    detector = Detector(sampling_frequency=RATE_HZ, thresholds=0.5, **ONE_UNIT)
    certain_at = 102 + detector.margin_samples
    assert len(detector.push(values[:certain_at], 0)) == 0
    assert detector.push(values[certain_at : certain_at + 1], certain_at).sample_index.tolist() == [102]


def test_nothing_pushed_is_nothing_found():
    detector = Detector(sampling_frequency=RATE_HZ, thresholds=0.5, **ONE_UNIT)
    spikes = detector.finish()
    assert len(spikes) == 0
    assert spikes.sample_index.dtype == np.int64


def test_probability_is_the_part_that_is_true():
    values = np.zeros((4000, 1), dtype=np.float32)
    values[100, 0] = 0.6
    reliability = np.array([[0.2, 0.6, 1.0], [0.1, 0.7, 0.9]], dtype=np.float32)
    found = Detector(
        sampling_frequency=RATE_HZ,
        thresholds=0.5,
        postprocessing=Postprocessing(smoothing_ms=0.0),
        num_units=1,
        tables=UnitTables(reliability=reliability),
    ).push(values, 0)
    np.testing.assert_allclose(found.probability, [0.7], atol=1e-3)


def test_tables_travel_as_arrays():
    reliability = np.array([[0.2, 1.0], [0.1, 0.9]], dtype=np.float32)
    weights = {"head.bias": np.zeros(3), **tables(reliability=reliability).to_weights()}
    found = UnitTables.from_weights(weights)
    assert list(weights) == ["head.bias"]
    for name in ("pairs", "kernels", "reliability"):
        np.testing.assert_array_equal(getattr(found, name), getattr(tables(reliability=reliability), name))


def test_no_conflicts_are_no_arrays():
    assert list(UnitTables().to_weights()) == ["reliability"]
    assert UnitTables.from_weights({}).conflicts(3) is None


@pytest.mark.parametrize("name", ["conflicts.pairs", "conflicts.kernels"])
def test_half_a_table_is_refused(name):
    with pytest.raises(ValueError, match=r"expected both conflicts\.pairs and conflicts\.kernels"):
        UnitTables.from_weights({name: np.zeros((1, 2))})


def test_conflicts_of_unknown_units_are_refused():
    with pytest.raises(ValueError, match="pairs must name units from 0 to 1, got 0 to 2"):
        tables().conflicts(2)


@pytest.mark.parametrize(
    "curve", [np.zeros(3), np.zeros((2, 0)), np.array([[0, 1], [0, 2]]), np.array([[1, 0], [0, 1]])]
)
def test_a_reliability_that_is_no_curve_is_refused(curve):
    with pytest.raises(ValueError, match=r"expected reliability to be a curve in \[0, 1\], got shape"):
        UnitTables.from_weights({"reliability": curve})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"smoothing_ms": -0.1}, r"smoothing_ms must be a number in \[0, 5\] ms, got -0.1"),
        ({"smoothing_ms": "wide"}, r"smoothing_ms must be a number in \[0, 5\] ms, got 'wide'"),
        ({"refractory_ms": 21}, r"refractory_ms must be a number in \[0, 20\] ms, got 21"),
        ({"competition": "yes"}, "competition must be true or false, got 'yes'"),
    ],
)
def test_settings_out_of_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Postprocessing(**values)
