"""The compiled sums against NumPy, and to the bit the same wherever a block begins."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esort.pursuit.compiled import decimate, fir_bank, mix, scores_of
from esort.pursuit.vectors import LANES, columns_tile


def bank(lines, taps):
    """Channel c, filter f, row t: what the window of t holds."""
    windows = np.lib.stride_tricks.sliding_window_view(lines.astype(float), taps.shape[1], axis=1)
    return np.einsum("ctl,fl->cft", windows, taps.astype(float))


def sparse(matrix):
    """Firsts, rows and weights of a matrix."""
    unit, row = np.nonzero(matrix)
    firsts = np.searchsorted(unit, np.arange(len(matrix) + 1)).astype(np.int64)
    return firsts, row.astype(np.int64), matrix[unit, row].astype(np.float32)


lengths = st.one_of(st.integers(1, 40), st.integers(105, 120), st.integers(220, 240))


@settings(max_examples=60, deadline=None)
@given(
    channels=st.integers(1, 3),
    filters=st.integers(1, 14),
    num_taps=st.integers(1, 27),
    num_rows=lengths,
    seed=st.integers(0, 100),
)
def test_filter_bank_is_correlation(channels, filters, num_taps, num_rows, seed):
    rng = np.random.default_rng(seed)
    lines = rng.standard_normal((channels, num_rows + num_taps - 1)).astype(np.float32)
    taps = rng.standard_normal((filters, num_taps)).astype(np.float32)
    found = fir_bank(lines, taps)
    assert found.dtype == np.float32
    assert found.shape == (channels, filters, num_rows)
    np.testing.assert_allclose(found, bank(lines, taps), atol=2e-5)


@settings(max_examples=40, deadline=None)
@given(
    channels=st.integers(1, 5),
    filters=st.integers(1, 8),
    num_taps=st.integers(1, 20),
    num_rows=lengths,
    units=st.integers(0, 5),
    share=st.floats(0, 1),
    seed=st.integers(0, 100),
)
def test_scores_are_a_mixture_of_the_bank(channels, filters, num_taps, num_rows, units, share, seed):
    rng = np.random.default_rng(seed)
    lines = rng.standard_normal((channels, num_rows + num_taps - 1)).astype(np.float32)
    taps = rng.standard_normal((filters, num_taps)).astype(np.float32)
    matrix = rng.standard_normal((units, channels * filters))
    matrix *= rng.random(matrix.shape) < share
    offsets = rng.standard_normal(units).astype(np.float32)
    found = scores_of(lines, taps, *sparse(matrix), offsets)
    wanted = matrix @ bank(lines, taps).reshape(-1, num_rows) + offsets[:, None]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(start=st.integers(0, 700), count=st.integers(1, 700), num_taps=st.integers(1, 20))
def test_an_output_does_not_depend_on_where_the_block_begins(start, count, num_taps):
    rng = np.random.default_rng(num_taps)
    lines = rng.standard_normal((3, 1400 + num_taps - 1)).astype(np.float32)
    taps = rng.standard_normal((7, num_taps)).astype(np.float32)
    part = np.ascontiguousarray(lines[:, start : start + count + num_taps - 1])
    np.testing.assert_array_equal(fir_bank(part, taps), fir_bank(lines, taps)[:, :, start : start + count])
    terms = sparse(rng.standard_normal((4, 21)))
    offsets = rng.standard_normal(4).astype(np.float32)
    whole = scores_of(lines, taps, *terms, offsets)[:, start : start + count]
    np.testing.assert_array_equal(scores_of(part, taps, *terms, offsets), whole)
    # One after the other they add up in the same order.
    features = fir_bank(part, taps).reshape(21, -1)
    np.testing.assert_allclose(mix(features, *terms) + offsets[:, None], whole, atol=1e-4)


def defined(traces, lowpass, highpass, step):
    low = [np.convolve(line, lowpass, mode="valid")[::step] for line in traces.T.astype(float)]
    return np.stack([np.convolve(line, highpass, mode="valid") for line in low])


@settings(max_examples=60, deadline=None)
@given(
    channels=st.one_of(st.integers(1, 20), st.integers(31, 75)),
    step=st.integers(1, 5),
    reach=st.integers(0, 8),
    high_reach=st.integers(0, 6),
    num_rows=st.integers(0, 70),
    spare=st.integers(0, 4),
    short=st.booleans(),
    seed=st.integers(0, 100),
)
def test_decimation_is_two_convolutions(channels, step, reach, high_reach, num_rows, spare, short, seed):
    rng = np.random.default_rng(seed)
    lowpass = symmetric(rng, reach)
    highpass = symmetric(rng, high_reach)
    num_samples = step * (num_rows + len(highpass) - 2) + len(lowpass) + spare % step
    if num_rows == 0:
        num_samples = max(0, num_samples)
    traces = (100 * rng.standard_normal((num_samples, channels))).astype("int16" if short else "float32")
    gains = rng.random(channels).astype(np.float32)
    found = decimate(traces, lowpass, highpass, step, gains)
    assert found.dtype == np.float32
    assert found.shape == (channels, num_rows)
    if num_rows:
        wanted = defined(traces, lowpass, highpass, step) * gains[:, None]
        np.testing.assert_allclose(found, wanted, atol=2e-3)


def symmetric(rng, reach):
    half = rng.standard_normal(reach)
    return np.concatenate([half, [1.0], half[::-1]]).astype(np.float32)


@pytest.mark.parametrize("num_channels", [3, 8, 33, 64])
def test_extremes_of_short_integers(num_channels):
    """Two of them are added before they are real numbers."""
    traces = np.full((40, num_channels), -32768, dtype=np.int16)
    traces[::2] = 32767
    taps = np.array([0.25, 0.5, 0.25], dtype=np.float32)
    found = decimate(traces, taps, np.ones(1, dtype=np.float32), 1, np.ones(num_channels, dtype=np.float32))
    np.testing.assert_array_equal(found, -0.5)


def test_non_contiguous_traces():
    rng = np.random.default_rng(0)
    traces = rng.standard_normal((40, 700)).astype(np.float32).T
    taps, gains = symmetric(rng, 5), np.ones(40, dtype=np.float32)
    found = decimate(traces, taps, taps, 2, gains)
    np.testing.assert_array_equal(found, decimate(traces.copy(), taps, taps, 2, gains))


def test_columns_of_a_matrix():
    """A vector of rows times three of five columns of the second of two matrices."""
    rng = np.random.default_rng(0)
    lines = rng.standard_normal((7, LANES)).astype(np.float32)
    weights = rng.standard_normal((2, 7, 5)).astype(np.float32)
    found = np.full((5, LANES), np.nan, dtype=np.float32)
    tile = columns_tile(3)

    @numba.njit
    def call(lines, weights, found):
        tile(lines, 0, weights, 7 * 5 + 1, 5, 7, found, LANES)

    call(lines, weights, found)
    np.testing.assert_allclose(found[1:4], weights[1, :, 1:4].T @ lines, atol=1e-5)
    assert np.isnan(found[[0, 4]]).all()
