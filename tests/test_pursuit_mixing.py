"""Sparse sums against NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esort.pursuit.mixing import SparseRows
from esort.pursuit.moving import MovedWhitening


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


@pytest.mark.parametrize("smooth", [False, True])
def test_rows_are_those_of_the_whole_matrix(smooth):
    """Rows known from other shifts are put together with those that meet several: to the bit."""
    rng = np.random.default_rng(0)
    positions = np.stack([np.tile([0.0, 32.0], 32), np.repeat(20.0 * np.arange(32), 2)], axis=1)
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    whitening = np.where(distance < 100, np.exp(-distance / 30), 0).astype(np.float32) + np.eye(64)
    whitening[5] = whitening[:, 5] = 0  # nobody listens
    moved = MovedWhitening(whitening.astype(np.float32), positions, smooth=smooth)
    lines = rng.standard_normal((64, 70)).astype(np.float32)
    depths = np.array([100.0, 300.0, 500.0])
    for _ in range(8):
        shift = 2 * rng.integers(-8, 9, 3)
        wanted = SparseRows(moved.matrix(depths, shift)) @ lines
        np.testing.assert_array_equal(moved.rows(depths, shift) @ lines, wanted)
