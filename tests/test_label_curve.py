"""Labels at equal accuracy, and the fitted curve of errors."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esort.label_curve import ErrorCurve, fit_error_curve, labels_for, labels_ratio

K = np.array([1, 2, 5, 10, 20, 50], dtype=float)


def test_interpolation_is_over_the_logarithm():
    assert labels_for(K[:2], np.array([0.5, 0.7]), 0.6) == pytest.approx(math.sqrt(2))
    assert labels_for(K[:2], np.array([0.5, 0.7]), 0.7) == pytest.approx(2)


def test_ends_of_a_curve():
    accuracy = np.array([0.5, 0.7])
    assert labels_for(K[:2], accuracy, 0.3) == 1
    assert labels_for(K[:2], accuracy, 0.71) == math.inf


def test_more_labels_that_gave_less_count_as_the_best_so_far():
    assert labels_for(K[:4], np.array([0.5, 0.8, 0.6, 0.9]), 0.8) == pytest.approx(2)
    assert 5 < labels_for(K[:4], np.array([0.5, 0.8, 0.6, 0.9]), 0.85) < 10


@settings(max_examples=50, deadline=None)
@given(ratio=st.floats(0.2, 5), slope=st.floats(0.01, 0.2))
def test_a_curve_moved_along_the_labels_has_that_ratio(ratio, slope):
    reference, own = 0.2 + slope * np.log(K), 0.2 + slope * np.log(K / ratio)
    for found in labels_ratio(K, own, K, reference):
        if found.bound == "at most":
            assert ratio <= found.ratio + 1e-9
        elif found.bound == "at least":
            assert ratio >= found.ratio - 1e-9
        else:
            assert found.ratio == pytest.approx(ratio, rel=1e-6)


def test_equal_curves_have_a_ratio_of_one():
    accuracy = 1 - 0.6 * K**-0.8
    ratios = labels_ratio(K, accuracy, K, accuracy)
    assert [one.ratio for one in ratios] == pytest.approx([1] * 6)
    assert [one.bound for one in ratios] == [""] * 6


def test_where_the_reference_makes_no_progress_nothing_is_compared():
    reference = np.array([0.8, 0.9, 0.9, 0.8, 0.9004, 0.95])
    ratios = labels_ratio(K, reference, K, reference)
    assert [one.bound for one in ratios] == ["", "", "plateau", "plateau", "plateau", ""]
    assert [one.ratio for one in ratios] == pytest.approx(
        [1, 1, math.nan, math.nan, math.nan, 1], nan_ok=True
    )


def test_out_of_reach_is_a_lower_bound():
    (one,) = labels_ratio(K, 0.5 * np.ones(6), np.array([10.0]), np.array([0.9]))
    assert (one.bound, one.ratio, one.labels) == ("at least", 5.0, 10.0)


@settings(max_examples=30, deadline=None)
@given(
    floor=st.floats(0, 0.3),
    scale=st.floats(0.1, 0.6),
    exponent=st.floats(0.4, 1.5),
    error=st.floats(0.05, 0.8),
)
def test_labels_and_error_are_inverses(floor, scale, exponent, error):
    curve = ErrorCurve(floor=floor, scale=scale, exponent=exponent)
    labels = curve.labels_for(error)
    if math.isinf(labels):
        assert error <= floor
    else:
        assert curve.error(labels) <= error + 1e-9


def test_a_fit_finds_the_curve_again():
    rng = np.random.default_rng(0)
    truth = ErrorCurve(floor=0.03, scale=0.5, exponent=0.9)
    labels = np.repeat(K, 3)
    accuracy = [1 - truth.error(k) + 0.004 * rng.standard_normal() for k in labels]
    fitted = fit_error_curve(labels, accuracy)
    assert fitted.floor == pytest.approx(0.03, abs=0.02)
    for k in (3, 30):
        assert fitted.error(k) == pytest.approx(truth.error(k), abs=0.01)


def test_a_lost_lottery_does_not_bend_the_curve():
    accuracy = list(1 - 0.4 / K)
    accuracy[2] = 0.0  # one run failed
    assert fit_error_curve(K, accuracy).error(5) == pytest.approx(0.08, abs=0.02)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: fit_error_curve([1, 2], [0.5, 0.6]),
            "at least 3 accuracies at 2 numbers of labels, got 2 at 2",
        ),
        (lambda: fit_error_curve([5, 5, 5], [0.5] * 3), "got 3 at 1"),
        (lambda: ErrorCurve(floor=-0.1, scale=1, exponent=1), r"floor of an error curve .* got -0.1"),
        (lambda: ErrorCurve(floor=0, scale=1, exponent=0), r"exponent of an error curve .* got 0"),
        (lambda: ErrorCurve(floor=0, scale=float("nan"), exponent=1), "scale of an error curve .* got nan"),
    ],
)
def test_bad_curves(call, message):
    with pytest.raises(ValueError, match=message):
        call()
