"""Scores in pieces give the spikes of the whole, and probabilities."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pursuit_data import FILTER_BEFORE, RATE_HZ, STEP, make_network, planted

from esort.detector import UnitTables
from esort.postprocess import join_chunks
from esort.pursuit.detector import ScoreDetector
from esort.pursuit.explain import explain
from esort.pursuit.overlaps import conflict_table

TABLES = UnitTables(reliability=np.array([[0, 0.9], [0.2, 1]], dtype=np.float32))
NUM_ROWS = 4000
REFRACTORY_MS = 1.0


@pytest.fixture(scope="module")
def network():
    return make_network()


@pytest.fixture(scope="module")
def truth(network):
    return planted(network, num_rows=NUM_ROWS + 35, gap_rows=15.0, seed=2)


@pytest.fixture(scope="module")
def scores(network, truth):
    """As the network gives them, rows first: (4000, U)."""
    return network.scores(truth[0]).T


def make_detector(network, **options):
    values = {
        "sampling_frequency": RATE_HZ,
        "thresholds": (0.15 * network.energies.numpy()).tolist(),
        "refractory_ms": REFRACTORY_MS,
        "tables": TABLES,
    }
    return ScoreDetector(network, **(values | options))


def detect(detector, scores, cuts=(), first_sample=0):
    """Push the scores in pieces that end at the cuts."""
    bounds = [0, *sorted(cuts), len(scores)]
    pieces = [
        detector.push(scores[start:stop], first_sample + STEP * start) for start, stop in pairwise(bounds)
    ]
    return in_order(join_all([*pieces, detector.finish()]))


def join_all(pieces):
    return tuple(
        np.concatenate([getattr(piece, name) for piece in pieces])
        for name in ("sample_index", "unit_index", "probability")
    )


def in_order(columns):
    order = np.lexsort((columns[1], columns[0]))
    return tuple(column[order] for column in columns)


@pytest.fixture(scope="module")
def whole(network, scores):
    return detect(make_detector(network), scores)


def test_planted_spikes_are_found(whole, truth):
    _, times, units, _ = truth
    samples, found_units, _ = whole
    # The first row of scores is of a peak so many rows after the first row of traces.
    wanted = STEP * (times - FILTER_BEFORE)
    hits = [
        (np.abs(samples[found_units == unit_index] - sample) <= 2).any()
        for sample, unit_index in zip(wanted, units, strict=True)
    ]
    assert np.mean(hits) > 0.95
    assert len(samples) < 1.02 * len(times)


def test_spikes_are_what_the_pursuit_of_training_finds(network, truth, whole):
    """Training sees the future of a spike, sorting no more than it waits for: nearly the same."""
    thresholds = 0.15 * network.energies.numpy()
    events = explain(network, conflict_table(network), truth[0], thresholds, exclusion_rows=16)
    inside = (events.time >= FILTER_BEFORE + 50) & (events.time < FILTER_BEFORE + NUM_ROWS - 50)
    wanted = STEP * (events.time[inside] - FILTER_BEFORE)
    same = [
        (np.abs(whole[0][whole[1] == unit_index] - sample) <= 1).any()
        for sample, unit_index in zip(wanted, events.unit_index[inside], strict=True)
    ]
    assert np.mean(same) > 0.98


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, NUM_ROWS), max_size=12))
def test_any_pieces_give_the_spikes_of_the_whole(network, scores, whole, cuts):
    for found, wanted in zip(detect(make_detector(network), scores, cuts), whole, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("length", [1, 7, 100])
def test_equal_pieces(network, scores, whole, length):
    num_rows = 300 if length == 1 else NUM_ROWS
    wanted = detect(make_detector(network), scores[:num_rows])
    cuts = range(length, num_rows, length)
    for found, expected in zip(detect(make_detector(network), scores[:num_rows], cuts), wanted, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_later_in_the_recording(network, scores, whole):
    """Times are counted in epochs of one second."""
    samples, units, probability = detect(make_detector(network), scores, [900, 901], 64_000)
    np.testing.assert_array_equal(samples, whole[0] + 64_000)
    np.testing.assert_array_equal(units, whole[1])
    np.testing.assert_array_equal(probability, whole[2])


def test_spikes_do_not_depend_on_where_it_begins(network):
    """One margin later the past is forgotten."""
    scores = network.scores(planted(network, num_rows=40_000, gap_rows=20.0, seed=6)[0]).T
    whole = detect(make_detector(network), scores)
    for first in (80, 1003, 15_999, 16_000, 20_001):
        detector = make_detector(network)
        part = detect(detector, scores[first:], first_sample=STEP * first)
        begin = STEP * first + detector.margin_samples
        assert begin < STEP * 39_000
        for found, wanted in zip(part, whole, strict=True):
            np.testing.assert_array_equal(found[part[0] >= begin], wanted[whole[0] >= begin])


def test_pushed_spikes_come_within_the_latency(network, scores, whole):
    detector = make_detector(network)
    first = detector.push(scores[:2500], 0)
    samples = np.sort(first.sample_index)
    np.testing.assert_array_equal(samples, whole[0][: len(samples)])
    upto = STEP * 2500 - detector.latency_samples
    assert 0 < (whole[0] < upto).sum() <= len(samples)
    assert detector.latency_samples <= 0.012 * RATE_HZ


def test_nothing_pushed(network):
    assert len(make_detector(network).finish().sample_index) == 0


def test_little_pushed(network, scores):
    detector = make_detector(network)
    assert len(detector.push(scores[:3], 0).sample_index) == 0
    detector.finish()


def test_probabilities(network, scores, whole):
    """By how far a score is above the threshold."""
    probability = whole[2]
    assert probability.dtype == np.float32
    assert 0.2 <= probability.min() < probability.max() <= 1
    least = float(np.median(probability))
    detector = make_detector(network, least_probability=least)
    samples, units, kept = detect(detector, scores)
    likely = probability >= least
    assert 0 < likely.sum() < len(likely)
    for found, wanted in zip((samples, units, kept), whole, strict=True):
        np.testing.assert_array_equal(found, wanted[likely])


def test_least_probability_by_unit(network, scores, whole):
    samples, units, _ = detect(make_detector(network, least_probability=[0, 2, 0, 0]), scores)
    assert set(units.tolist()) == {0, 2, 3}
    np.testing.assert_array_equal(samples, whole[0][whole[1] != 1])


def test_without_competition_each_unit_stands_alone(network, scores):
    samples, units, _ = detect(make_detector(network, competition=False), scores)
    for unit_index in range(4):
        others_off = scores.copy()
        others_off[:, np.arange(4) != unit_index] = -1e3
        own, own_units, _ = detect(make_detector(network, competition=False), others_off)
        assert set(own_units.tolist()) == {unit_index}
        np.testing.assert_array_equal(own, samples[units == unit_index])


def test_refractory_period(network, scores):
    for refractory_ms in (0.0, 1.0, 5.0):
        samples, units, _ = detect(make_detector(network, refractory_ms=refractory_ms), scores)
        least = refractory_ms * RATE_HZ / 1000
        for unit_index in range(4):
            gaps = np.diff(samples[units == unit_index])
            assert gaps.min() > least - STEP


def test_pieces_join(network, scores):
    detector = make_detector(network)
    pieces = [detector.push(scores[:1700], 0), detector.push(scores[1700:], STEP * 1700), detector.finish()]
    assert len(join_chunks(pieces)) == sum(len(piece) for piece in pieces)
