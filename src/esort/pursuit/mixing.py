"""Sparse sums over channels for the CPU: the same numbers wherever a block begins.

A matrix product of a library adds up in an order that depends on the shapes; here each output is summed term
by term in one order. It skips the zeros, of which there are most on a long probe, and costs no more.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

__all__ = ["SparseRows"]

# Outputs of a tile: what several neighbouring sums read stays in the first-level cache.
_TILE = 256

_compile: Any = numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz"}, error_model="numpy")


class SparseRows:
    """The rows of a matrix, each with what is not zero.

    Parameters
    ----------
    matrix : float array, shape (U, R)
    """

    def __init__(self, matrix: np.ndarray) -> None:
        unit, row = np.nonzero(matrix)
        self._first = np.searchsorted(unit, np.arange(len(matrix) + 1)).astype(np.int64)
        self._row = row.astype(np.int64)
        self._weight = matrix[unit, row].astype(np.float32)

    def __matmul__(self, lines: np.ndarray) -> np.ndarray:
        """Multiply: float32 (R, T) to (U, T)."""
        result = np.empty((len(self._first) - 1, lines.shape[1]), dtype=np.float32)
        # Loops over strided memory would not be vectorised.
        _mix(np.ascontiguousarray(lines), self._first, self._row, self._weight, result)
        return result


@_compile
def _mix(lines, firsts, rows, weights, result):  # type: ignore
    for start in range(0, result.shape[1], _TILE):
        count = min(_TILE, result.shape[1] - start)
        for unit in range(result.shape[0]):
            total = result[unit, start : start + count]
            total[:] = 0
            first, last = firsts[unit], firsts[unit + 1]
            whole = first + (last - first) // 8 * 8
            for place in range(first, whole, 8):
                _add_eight(total, lines, rows[place : place + 8], weights[place : place + 8], start, count)
            for place in range(whole, last):
                _add_one(total, lines[rows[place], start : start + count], weights[place], count)


@_compile
def _add_one(total, line, weight, count):  # type: ignore
    for at in range(count):
        total[at] += weight * line[at]


@_compile
def _add_eight(total, lines, rows, w, start, count):  # type: ignore
    # A running sum is loaded and stored once for eight products.
    stop = start + count
    a, b = lines[rows[0], start:stop], lines[rows[1], start:stop]
    c, d = lines[rows[2], start:stop], lines[rows[3], start:stop]
    e, f = lines[rows[4], start:stop], lines[rows[5], start:stop]
    g, h = lines[rows[6], start:stop], lines[rows[7], start:stop]
    w0, w1, w2, w3, w4, w5, w6, w7 = w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]
    for at in range(count):
        total[at] = (
            total[at]
            + w0 * a[at]
            + w1 * b[at]
            + w2 * c[at]
            + w3 * d[at]
            + w4 * e[at]
            + w5 * f[at]
            + w6 * g[at]
            + w7 * h[at]
        )
