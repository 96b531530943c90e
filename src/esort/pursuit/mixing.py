"""Sparse sums over channels for the CPU: the same numbers wherever a block begins.

A matrix product of a library adds up in an order that depends on the shapes; here each output is summed term
by term in one order. It skips the zeros, of which there are most on a long probe, and costs no more.
"""

from __future__ import annotations

from collections.abc import Sequence

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

    @classmethod
    def picked(cls, sources: Sequence[SparseRows], source: np.ndarray, row: np.ndarray) -> SparseRows:
        """Rows of several matrices as one.

        Parameters
        ----------
        sources : sequence of SparseRows
        source, row : int arrays, shape (U,)
            Which row of which of them each is.
        """
        parts = [
            slice(sources[one]._firsts[other], sources[one]._firsts[other + 1])
            for one, other in zip(source.tolist(), row.tolist(), strict=True)
        ]
        result = cls(np.zeros((0, 0), dtype=np.float32))
        sizes = [part.stop - part.start for part in parts]
        result._firsts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
        for name in ("_rows", "_weights"):
            whole = [getattr(one, name) for one in sources]
            lines = [whole[one][part] for one, part in zip(source.tolist(), parts, strict=True)]
            setattr(result, name, np.concatenate([getattr(result, name), *lines]))
        return result

    def spread(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Least and largest of the values (R,) that each row meets, (U,) both; of an empty row 0 and 0."""
        least, largest = (np.zeros(len(self._firsts) - 1, dtype=values.dtype) for _ in range(2))
        some = self._firsts[1:] > self._firsts[:-1]
        met, starts = values[self._rows], self._firsts[:-1][some]
        if some.any():
            least[some] = np.minimum.reduceat(met, starts)
            largest[some] = np.maximum.reduceat(met, starts)
        return least, largest

    def columns(self) -> np.ndarray:
        """Columns with anything in them, ascending."""
        return np.unique(self._rows)

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
