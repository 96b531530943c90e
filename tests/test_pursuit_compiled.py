"""The compiled filter bank against NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esort.pursuit.compiled import fir_bank, polyphase


def bank(lines, taps, num_rows):
    """Channel c, filter f, row t: all that the window of t holds, summed."""
    if num_rows == 0:
        return np.zeros((len(lines), len(taps), 0))
    windows = np.lib.stride_tricks.sliding_window_view(lines.astype(float), taps.shape[2], axis=2)
    return np.einsum("cptl,fpl->cft", windows[:, :, :num_rows], taps.astype(float))


sizes = st.integers(1, 3)


@settings(max_examples=60, deadline=None)
@given(
    channels=sizes,
    phases=sizes,
    filters=st.integers(1, 5),
    num_taps=st.integers(1, 27),
    num_rows=st.one_of(st.integers(0, 40), st.integers(505, 520), st.integers(1020, 1030)),
    spare=st.integers(0, 3),
    seed=st.integers(0, 100),
)
def test_filter_bank_is_correlation(channels, phases, filters, num_taps, num_rows, spare, seed):
    rng = np.random.default_rng(seed)
    lines = rng.standard_normal((channels, phases, num_rows + num_taps - 1 + spare)).astype(np.float32)
    taps = rng.standard_normal((filters, phases, num_taps)).astype(np.float32)
    found = fir_bank(lines, taps, num_rows)
    assert found.dtype == np.float32
    assert found.shape == (channels, filters, num_rows)
    np.testing.assert_allclose(found, bank(lines, taps, num_rows), atol=2e-5)


@settings(max_examples=30, deadline=None)
@given(start=st.integers(0, 900), count=st.integers(1, 700), num_taps=st.integers(1, 20))
def test_an_output_does_not_depend_on_where_the_block_begins(start, count, num_taps):
    rng = np.random.default_rng(num_taps)
    lines = rng.standard_normal((2, 1, 1600 + num_taps - 1)).astype(np.float32)
    taps = rng.standard_normal((3, 1, num_taps)).astype(np.float32)
    part = fir_bank(lines[:, :, start : start + count + num_taps - 1], taps, count)
    whole = fir_bank(lines, taps, 1600)[:, :, start : start + count]
    np.testing.assert_array_equal(part, whole)


@pytest.mark.parametrize("dtype", ["int16", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize(("num_samples", "step", "spare"), [(0, 2, 1), (1, 3, 0), (500, 1, 2), (997, 4, 5)])
def test_polyphase(dtype, num_samples, step, spare):
    traces = (1000 * np.random.default_rng(0).random((num_samples, 3))).astype(dtype)
    num_rows = -(-num_samples // step) + spare
    found = polyphase(traces, step, num_rows)
    assert found.dtype == np.float32
    padded = np.zeros((num_rows * step, 3), dtype=np.float32)
    padded[:num_samples] = traces
    np.testing.assert_array_equal(found, padded.reshape(num_rows, step, 3).transpose(2, 1, 0))


@pytest.mark.parametrize("num_rows", [0, 1, 40, 66])
def test_polyphase_of_fewer_rows_than_the_traces_fill(num_rows):
    """What is beyond the last row is written nowhere, least of all into the next phase."""
    traces = np.arange(1, 401, dtype=np.float32).reshape(200, 2)
    found = polyphase(traces, 3, num_rows)
    np.testing.assert_array_equal(found, polyphase(traces, 3, 67)[:, :, :num_rows])
