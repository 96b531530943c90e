"""Sparse sums against NumPy."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from esort.pursuit.mixing import SparseRows


@settings(max_examples=60, deadline=None)
@given(
    units=st.integers(0, 6),
    rows=st.integers(1, 40),
    length=st.one_of(st.integers(0, 30), st.integers(250, 260), st.integers(510, 515)),
    share=st.floats(0, 1),
    seed=st.integers(0, 100),
)
def test_it_is_the_matrix_product(units, rows, length, share, seed):
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((units, rows)) * (rng.random((units, rows)) < share)
    lines = rng.standard_normal((rows, length)).astype(np.float32)
    found = SparseRows(matrix) @ lines
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, matrix @ lines, atol=2e-5)


@settings(max_examples=30, deadline=None)
@given(start=st.integers(0, 600), count=st.integers(1, 600), terms=st.integers(1, 30))
def test_a_sum_does_not_depend_on_where_the_block_begins(start, count, terms):
    """To the bit, also for lines that do not lie one after the other in memory."""
    rng = np.random.default_rng(terms)
    rows = SparseRows(rng.standard_normal((3, terms)))
    lines = rng.standard_normal((1200, terms)).astype(np.float32).T
    part = rows @ lines[:, start : start + count]
    np.testing.assert_array_equal(part, (rows @ lines)[:, start : start + count])


def test_a_row_of_zeros_is_silent():
    matrix = np.zeros((3, 4))
    matrix[1, 2] = 2
    lines = np.full((4, 10), np.nan, dtype=np.float32)
    lines[2] = 3
    np.testing.assert_array_equal(SparseRows(matrix) @ lines, np.array([[0], [6], [0]]) * np.ones(10))
