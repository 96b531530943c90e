"""The innermost loops in the compiler's language do what their definitions in NumPy say."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esort.postprocess import compiled_vectors
from esort.postprocess.compiled_vectors import BLOCK_ROWS, LANES


@numba.njit
def copy(target, at, source, place, count):
    return compiled_vectors.copy(target, at, source, place, count)


@numba.njit
def lower(target, at, source, place, count):
    return compiled_vectors.lower(target, at, source, place, count)


@numba.njit
def lower_by_part(target, at, source, place, count, size):
    return compiled_vectors.lower_by_part(target, at, source, place, count, size)


@numba.njit
def maxima(scores, at, limit):
    return compiled_vectors.maxima(scores, at, limit)


@numba.njit
def lowest_bit(mask):
    return compiled_vectors.lowest_bit(mask)


COMPILED = {"copy": copy, "lower": lower, "lower_by_part": lower_by_part}


@pytest.mark.parametrize("name", COMPILED)
@settings(max_examples=50, deadline=None)
@given(at=st.integers(0, 30), place=st.integers(0, 30), count=st.integers(1, 60), seed=st.integers(0, 1000))
def test_passes_over_two_arrays(name, at, place, count, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(-(2**28), 2**28, 100).astype(np.int32)
    values = rng.integers(-(2**23), 2**23, 100).astype(np.int32)
    size = [np.int32(rng.integers(1, 90))] if name == "lower_by_part" else []
    found, wanted = scores.copy(), scores.copy()
    highest = COMPILED[name](found, at, values, place, count, *size)
    assert highest == getattr(compiled_vectors, name)(wanted, at, values, place, count, *size)
    np.testing.assert_array_equal(found, wanted)
    whole = -(-count // LANES) * LANES
    assert highest == wanted[at : at + whole].max()
    np.testing.assert_array_equal(
        np.delete(wanted, np.s_[at : at + whole]), np.delete(scores, np.s_[at : at + whole])
    )


@pytest.mark.parametrize("name", ["copy", "lower"])
def test_the_lowest_numbers_have_a_highest_too(name):
    """No number is below what the search for the highest begins with."""
    target = np.full(LANES, -(2**31) + 3, dtype=np.int32)
    source = np.full(LANES, {"copy": -(2**31), "lower": 3}[name], dtype=np.int32)
    assert COMPILED[name](target, 0, source, 0, LANES) == -(2**31)


def test_parts_are_rounded_halves_upwards():
    """Of 64ths: -97, -96 (one and a half), -95, -33, -32, -31, 31, 32 and so on, 8 each."""
    values = np.repeat([-97, -96, -95, -33, -32, -31, 31, 32, 33, 95, 96, 97], 8).astype(np.int32)
    scores = np.zeros(len(values), dtype=np.int32)
    lower_by_part(scores, 0, values, 0, len(values), np.int32(1))
    assert (-scores[::8]).tolist() == [-2, -1, -1, -1, 0, 0, 0, 1, 1, 1, 2, 2]


@settings(max_examples=100, deadline=None)
@given(at=st.integers(1, 20), limit=st.integers(1, 6), seed=st.integers(0, 1000))
def test_maxima(at, limit, seed):
    scores = np.random.default_rng(seed).integers(-3, 7, at + BLOCK_ROWS + 1).astype(np.int32)
    found = maxima(scores, at, np.int32(limit))
    assert found == compiled_vectors.maxima(scores, at, np.int32(limit))
    wanted = [
        row
        for row in range(BLOCK_ROWS)
        if scores[at + row - 1] < scores[at + row] >= max(limit, scores[at + row + 1])
    ]
    assert [row for row in range(BLOCK_ROWS) if int(found) >> row & 1] == wanted


@settings(max_examples=100, deadline=None)
@given(st.integers(-(2**63), 2**63 - 1).filter(bool))
def test_lowest_bit(mask):
    place = lowest_bit(np.int64(mask))
    assert place == compiled_vectors.lowest_bit(np.int64(mask))
    assert mask % 2**place == 0
    assert mask >> place & 1
