"""Scores to fixed point for the compiled engine, unit by unit in memory, in one pass."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

TILE_SAMPLES = 64  # 64 rows of 300 units stay in the cache

_compile: Any = numba.njit(nogil=True, cache=True)


def by_unit(values: np.ndarray, scale: float, most: int, fixed: np.ndarray, first: int) -> bool:
    """Put scores times ``scale``, cut at ``most``, into rows from ``first`` on; return if all are finite.

    Parameters
    ----------
    values : float32 array, shape (N, U)
        The transpose of a C-contiguous array is read as it lies.
    scale : float
    most : int
    fixed : int32 array, shape (U, T)
        C-contiguous.
    first : int
        At most T - N.
    """
    factor, bound = np.float32(scale), np.float32(most)
    if values.strides[0] <= values.strides[1]:
        return _convert(np.ascontiguousarray(values.T), factor, bound, fixed, first)
    return _transpose(np.ascontiguousarray(values), factor, bound, fixed, first)


@_compile
def _convert(values, scale, most, fixed, first):  # type: ignore
    odd = 0
    for unit in range(values.shape[0]):
        line = fixed[unit, first : first + values.shape[1]]
        for sample in range(values.shape[1]):
            value = values[unit, sample] * scale
            odd += not (abs(value) < np.inf)
            line[sample] = np.int32(np.rint(min(max(value, -most), most)))
    return odd == 0


@_compile
def _transpose(values, scale, most, fixed, first):  # type: ignore
    num_samples, num_units = values.shape
    odd = 0
    for start in range(0, num_samples, TILE_SAMPLES):
        for unit in range(num_units):
            for sample in range(start, min(start + TILE_SAMPLES, num_samples)):
                value = values[sample, unit] * scale
                odd += not (abs(value) < np.inf)
                fixed[unit, first + sample] = np.int32(np.rint(min(max(value, -most), most)))
    return odd == 0
