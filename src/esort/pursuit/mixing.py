"""Sparse sums over channels for the CPU: the same numbers wherever a block begins.

A matrix product of a library adds up in an order that depends on the shapes; here each output is summed term
by term in one order. It skips the zeros, of which there are most on a long probe, and costs no more.
"""

from __future__ import annotations

import numpy as np

from esort.pursuit.compiled import mix, scores_of

__all__ = ["SparseRows"]


class SparseRows:
    """The rows of a matrix, each with what is not zero.

    Parameters
    ----------
    matrix : float array, shape (U, R)
    """

    def __init__(self, matrix: np.ndarray) -> None:
        unit, row = np.nonzero(matrix)
        self._firsts = np.searchsorted(unit, np.arange(len(matrix) + 1)).astype(np.int64)
        self._rows = row.astype(np.int64)
        self._weights = matrix[unit, row].astype(np.float32)

    def __matmul__(self, lines: np.ndarray) -> np.ndarray:
        """Multiply: float32 (R, T) to (U, T)."""
        return mix(lines, self._firsts, self._rows, self._weights)

    def of_filtered(self, lines: np.ndarray, taps: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Multiply what a bank of filters makes of the lines, and add an offset.

        Parameters
        ----------
        lines : float32 array, shape (C, T)
        taps : float32 array, shape (F, L)
            C · F = R: the filters of a channel are neighbours.
        offsets : float32 array, shape (U,)

        Returns
        -------
        float32 array, shape (U, T - L + 1)
        """
        return scores_of(lines, taps, self._firsts, self._rows, self._weights, offsets)
