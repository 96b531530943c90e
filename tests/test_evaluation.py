"""Scores against a brute-force count, on slices of time, and with nothing to score."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spikeinterface.core import NumpySorting

from esort.evaluation import agreement, score

RATE = 10_000.0  # 0.4 ms are 4 samples


def sorting(trains, rate=RATE):
    return NumpySorting.from_unit_dict([{u: np.array(t, dtype="int64") for u, t in trains.items()}], rate)


def everything(truth, found, **interval):
    interval = {"start_sample": 0, "stop_sample": 100_000} | interval
    return score(sorting(truth), sorting(found), **interval)


def brute_force(truth, found, start, stop, delta=4):
    """Pooled accuracy by trying every one-to-one matching of units; trains must have no bursts."""
    truth = {u: [t for t in train if start <= t < stop] for u, train in truth.items()}
    found = {u: [t for t in train if start <= t < stop] for u, train in found.items()}
    truth = {u: train for u, train in truth.items() if train}
    hits = {
        (a, b): sum(any(abs(t - s) <= delta for s in found[b]) for t in truth[a])
        for a in truth
        for b in found
    }
    agree = {(a, b): n / (len(truth[a]) + len(found[b]) - n) for (a, b), n in hits.items() if n}
    agree = {pair: value for pair, value in agree.items() if value >= 0.5}
    best = max(
        (
            [pair for pair in zip(truth, chosen, strict=False) if pair in agree]
            for chosen in itertools.permutations([*found, *(None for _ in truth)], len(truth))
        ),
        key=lambda pairs: sum(agree[pair] for pair in pairs),
    )
    tp = sum(hits[pair] for pair in best)
    num_true, num_found = sum(map(len, truth.values())), sum(map(len, found.values()))
    accuracy = {a: agree[a, b] for a, b in best}
    return tp / (num_true + num_found - tp), np.mean([accuracy.get(a, 0.0) for a in truth])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), num_found=st.integers(1, 4), start=st.integers(0, 30_000))
def test_scores_equal_a_brute_force_count(seed, num_found, start):
    rng = np.random.default_rng(seed)
    # One spike every 30 samples at the most: which spike meets which is beyond doubt.
    truth = {f"t{i}": np.sort(rng.choice(3000, 40, replace=False)) * 30 for i in range(3)}
    truth["t0"][-1] = 99_990  # at least one true spike in any slice
    found = {}
    for i in range(num_found):
        source = truth[f"t{i % 3}"]
        kept = source[rng.random(source.size) < rng.choice([0.3, 0.6, 0.95])]
        extra = rng.choice(3000, rng.integers(0, 12), replace=False) * 30 + 15
        found[i] = np.sort(np.concatenate([kept + rng.integers(-6, 7, kept.size), extra])).clip(0)
    pooled, mean = brute_force(truth, found, start, 100_000)
    scores = everything(truth, found, start_sample=start)
    assert scores.pooled_accuracy == pytest.approx(pooled)
    assert scores.mean_accuracy == pytest.approx(mean)


def test_perfect_sorting_and_every_number_of_a_unit():
    scores = everything({"a": [100, 200, 300, 400]}, {7: [102, 196, 405, 350, 300]})
    (unit,) = scores.units
    assert (unit.unit_id, unit.matched_unit_id, unit.num_spikes) == ("a", 7, 4)
    assert (unit.tp, unit.fp, unit.fn) == (3, 2, 1)
    assert (unit.accuracy, unit.precision, unit.recall) == (0.5, 0.6, 0.75)
    assert everything({"a": [1, 50]}, {"b": [1, 50]}).pooled_accuracy == 1


def test_every_spike_of_an_unmatched_unit_is_false():
    scores = everything({"a": [100, 200]}, {1: [100, 200], 2: [5000, 6000, 7000]})
    assert scores.num_unmatched_spikes == 3
    assert scores.pooled_accuracy == 2 / 5
    assert scores.mean_accuracy == 1


def test_only_the_interval_counts():
    truth, found = {"a": [10, 1000, 2000]}, {"b": [500, 1000, 2000], "c": [30, 3000]}
    scores = everything(truth, found, start_sample=1000, stop_sample=2500)
    assert scores.pooled_accuracy == 1
    assert scores.units[0].num_spikes == 2
    # the end is exclusive
    assert everything(truth, found, start_sample=1000, stop_sample=2000).units[0].num_spikes == 1


def test_silent_units_are_named_and_not_scored():
    scores = everything({"a": [10], "quiet": [5000]}, {"b": [10]}, stop_sample=1000)
    assert scores.silent_unit_ids == ("quiet",)
    assert [unit.unit_id for unit in scores.units] == ["a"]
    assert scores.mean_accuracy == 1


@pytest.mark.parametrize("found", [{}, {"b": []}])
def test_empty_sorting_scores_zero(found):
    scores = everything({"a": [10, 20]}, found)
    assert scores.pooled_accuracy == scores.mean_accuracy == 0
    assert (scores.units[0].fn, scores.units[0].matched_unit_id) == (2, None)


def test_spikes_without_any_truth_are_all_false():
    scores = everything({}, {"b": [10, 20]})
    assert scores.pooled_accuracy == 0
    assert math.isnan(scores.mean_accuracy)
    assert scores.num_unmatched_spikes == 2


def test_nothing_on_either_side_is_undefined_and_saved_as_null(tmp_path):
    scores = everything({}, {})
    assert math.isnan(scores.pooled_accuracy)
    scores.save(tmp_path / "scores.json")
    saved = json.loads((tmp_path / "scores.json").read_text())
    assert saved["pooled_accuracy"] is None
    assert saved["units"] == []


def test_saved_scores_hold_every_unit(tmp_path):
    everything({3: [100, 200]}, {5: [100, 210]}).save(tmp_path / "scores.json")
    saved = json.loads((tmp_path / "scores.json").read_text())
    assert saved["units"][0]["unit_id"] == 3
    assert {"accuracy", "precision", "recall"} <= set(saved["units"][0])


def test_errors_name_interval_and_rates():
    with pytest.raises(ValueError, match=r"at least 1 sample, got \[7, 7\)"):
        everything({"a": [1]}, {"b": [1]}, start_sample=7, stop_sample=7)
    with pytest.raises(ValueError, match="same rate, got 10000 and 20000 Hz"):
        score(sorting({"a": [1]}), sorting({"a": [1]}, 2 * RATE), start_sample=0, stop_sample=10)


def test_agreement_of_two_sortings(tmp_path):
    a = {"x": [100, 200, 300, 400], "y": [1000, 2000]}
    b = {1: [101, 201, 301], 2: [400], 3: [9000]}
    result = agreement(sorting(a), sorting(b), start_sample=0, stop_sample=10_000)
    np.testing.assert_allclose(result.matrix, [[0.75, 0.25, 0], [0, 0, 0]])
    assert result.mean_best == 0.375
    assert result.best() == [
        {"unit_id": "x", "best_unit_id": 1, "agreement": 0.75},
        {"unit_id": "y", "best_unit_id": None, "agreement": 0.0},
    ]
    assert result.pooled == 3 / (3 + 1 + 2 + 2)
    result.save(tmp_path / "agreement.json")
    assert json.loads((tmp_path / "agreement.json").read_text())["mean_best"] == 0.375


def test_agreement_with_an_empty_sorting():
    result = agreement(sorting({"x": [1, 2]}), sorting({}), start_sample=0, stop_sample=10)
    assert result.matrix.shape == (1, 0)
    assert result.mean_best == result.pooled == 0
    assert result.best()[0]["best_unit_id"] is None
    assert math.isnan(agreement(sorting({}), sorting({}), start_sample=0, stop_sample=10).mean_best)
