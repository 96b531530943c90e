"""Filters along time for the CPU: hand-ordered loops over neighbouring memory, threads released.

Outputs are summed tap by tap in one order, so that an output does not depend on where a block begins. A
convolution library is several times slower at one input channel and few outputs.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

__all__ = ["fir_bank", "polyphase"]

# Outputs of a tile: the running sums stay in the first-level cache.
_TILE = 512

_compile: Any = numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz"}, error_model="numpy")


def polyphase(traces: np.ndarray, step: int, num_rows: int) -> np.ndarray:
    """Channels first, and every so many-th sample together.

    Parameters
    ----------
    traces : array, shape (N, C)
        int16, float32 or any other type of numbers.
    step : int
    num_rows : int
        What lies beyond the traces is 0; traces beyond the last row are left out.

    Returns
    -------
    float32 array, shape (C, step, num_rows)
        ``[c, p, t]`` is ``traces[step * t + p, c]``.
    """
    result = np.zeros((traces.shape[1], step, num_rows), dtype=np.float32)
    _split(np.ascontiguousarray(traces), step, result)
    return result


@_compile
def _split(traces, step, result):  # type: ignore
    num_channels = traces.shape[1]
    num_samples = min(traces.shape[0], step * result.shape[2])
    for start in range(0, num_samples, 64 * step):
        stop = min(start + 64 * step, num_samples)
        for channel in range(num_channels):
            for phase in range(step):
                row = start // step
                for sample in range(start + phase, stop, step):
                    result[channel, phase, row] = np.float32(traces[sample, channel])
                    row += 1


def fir_bank(lines: np.ndarray, taps: np.ndarray, num_rows: int) -> np.ndarray:
    """Correlate every channel with every filter.

    Parameters
    ----------
    lines : float32 array, shape (C, P, T)
    taps : float32 array, shape (F, P, L)
        The filter adds up over the phases P.
    num_rows : int
        At most T - L + 1.

    Returns
    -------
    float32 array, shape (C, F, num_rows)
    """
    assert lines.shape[2] >= num_rows + taps.shape[2] - 1
    result = np.empty((lines.shape[0], taps.shape[0], num_rows), dtype=np.float32)
    # Loops over strided memory would not be vectorised.
    _bank(np.ascontiguousarray(lines), np.ascontiguousarray(taps), result)
    return result


@_compile
def _bank(lines, taps, result):  # type: ignore
    num_filters, num_phases, num_taps = taps.shape
    num_rows = result.shape[2]
    for channel in range(lines.shape[0]):
        for start in range(0, num_rows, _TILE):
            count = min(_TILE, num_rows - start)
            for index in range(num_filters):
                total = result[channel, index, start : start + count]
                total[:] = 0
                for phase in range(num_phases):
                    line = lines[channel, phase, start : start + count + num_taps - 1]
                    whole = num_taps // 8 * 8
                    for tap in range(0, whole, 8):
                        _add_eight(total, line[tap:], taps[index, phase, tap : tap + 8], count)
                    for tap in range(whole, num_taps):
                        _add_one(total, line[tap:], taps[index, phase, tap], count)


@_compile
def _add_one(total, line, weight, count):  # type: ignore
    for row in range(count):
        total[row] += weight * line[row]


@_compile
def _add_eight(total, line, taps, count):  # type: ignore
    # A running sum is loaded and stored once for eight products.
    a, b, c, d, e, f, g, h = taps[0], taps[1], taps[2], taps[3], taps[4], taps[5], taps[6], taps[7]
    for row in range(count):
        total[row] = (
            total[row]
            + a * line[row]
            + b * line[row + 1]
            + c * line[row + 2]
            + d * line[row + 3]
            + e * line[row + 4]
            + f * line[row + 5]
            + g * line[row + 6]
            + h * line[row + 7]
        )
