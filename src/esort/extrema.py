"""Least and greatest values of each channel, window by window, in one pass over the traces."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

__all__ = ["extrema"]

_compile: Any = numba.njit(nogil=True, cache=True, error_model="numpy")


def extrema(traces: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the greatest value of each channel in each window.

    Parameters
    ----------
    traces : array, shape (N, C)
        Integers or real numbers; NaN is passed over.
    window : int
        The last one may be shorter.

    Returns
    -------
    low, high : arrays, shape (ceil(N / window), C)
        Of the type of `traces`.
    """
    count = -(-len(traces) // window)
    low = np.empty((count, traces.shape[1]), dtype=traces.dtype)
    high = np.empty_like(low)
    _extrema(np.ascontiguousarray(traces), window, low, high)
    return low, high


@_compile
def _extrema(traces: np.ndarray, window: int, low: np.ndarray, high: np.ndarray) -> None:
    num_samples, num_channels = traces.shape
    for place in range(len(low)):
        start, stop = place * window, min(num_samples, (place + 1) * window)
        for channel in range(num_channels):
            low[place, channel] = traces[start, channel]
            high[place, channel] = traces[start, channel]
        for sample in range(start + 1, stop):
            for channel in range(num_channels):
                value = traces[sample, channel]
                low[place, channel] = value if value < low[place, channel] else low[place, channel]
                high[place, channel] = value if value > high[place, channel] else high[place, channel]
