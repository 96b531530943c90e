"""Scores to fixed point for the compiled engine, unit by unit in memory, in one pass."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

TILE_SAMPLES = 64  # 64 rows of 300 units stay in the cache

_compile: Any = numba.njit(nogil=True, cache=True)


def by_unit(values: np.ndarray, scale: float, most: int) -> tuple[np.ndarray, bool]:
    """Scores times ``scale``, cut at ``most``: float32 (N, U) -> int32 (U, N); and whether all are finite."""
    factor, bound = np.float32(scale), np.float32(most)
    if values.T.flags.c_contiguous:
        fixed = np.empty(values.T.shape, dtype=np.int32)
        return fixed, _convert(values.T.reshape(-1), factor, bound, fixed.reshape(-1))
    return _transpose(np.ascontiguousarray(values), factor, bound)


@_compile
def _convert(values, scale, most, fixed):  # type: ignore
    odd = 0
    for place in range(values.size):
        value = values[place] * scale
        odd += not (abs(value) < np.inf)
        fixed[place] = np.int32(np.rint(min(max(value, -most), most)))
    return odd == 0


@_compile
def _transpose(values, scale, most):  # type: ignore
    num_samples, num_units = values.shape
    fixed = np.empty((num_units, num_samples), dtype=np.int32)
    odd = 0
    for start in range(0, num_samples, TILE_SAMPLES):
        for unit in range(num_units):
            for sample in range(start, min(start + TILE_SAMPLES, num_samples)):
                value = values[sample, unit] * scale
                odd += not (abs(value) < np.inf)
                fixed[unit, sample] = np.int32(np.rint(min(max(value, -most), most)))
    return fixed, odd == 0
