"""Sums of products for the CPU: running sums stay in registers, loads are shared, threads are released.

Every output is summed term by term in one order, so that it does not depend on where a block begins. A
convolution library is several times slower at one input channel and few outputs, and a compiler does not keep
several running sums in registers by itself: `esort.pursuit.vectors` writes these innermost loops for it.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from esort.pursuit.vectors import LANES, fir_tile, mix_tile, symmetric_tile

__all__ = ["decimate", "fir_bank", "mix", "scores_of"]

_compile: Any = numba.njit(nogil=True, cache=True, error_model="numpy")

# Filters, and rows, whose running sums are in registers together: 12 of the 16 that every processor has.
_FILTERS, _FILTER_ROWS = 6, 2 * LANES
_filters_tile, _filter_tile = fir_tile(_FILTERS, 2), fir_tile(1, 2)
_MIX_ROWS = 7 * LANES
_mix_tile = mix_tile(7)
# Channels whose running sums are in registers together.
_MANY_CHANNELS = 4 * LANES
_channels_tile, _few_channels_tile = symmetric_tile(4), symmetric_tile(1)
# Rows that are turned into columns together.
_TURNED_ROWS = 64
# Rows whose features are in the processor's cache together: a multiple of both tiles, and an odd number of
# cache lines, or rows of features would share their places in the cache.
_SCORE_ROWS = 112
# Channels after which units that have all of theirs are summed: their features are still in the cache.
_SCORE_CHANNELS = 32


def decimate(
    traces: np.ndarray, lowpass: np.ndarray, highpass: np.ndarray, step: int, gains: np.ndarray
) -> np.ndarray:
    """Low-pass, keep every so many-th sample, and high-pass these.

    Parameters
    ----------
    traces : int16 or float32 array, shape (N, C)
    lowpass : float32 array, shape (K,)
        Symmetric, K odd.
    highpass : float32 array, shape (H,)
        Symmetric, H odd.
    step : int
    gains : float32 array, shape (C,)
        By which the result is multiplied.

    Returns
    -------
    float32 array, shape (C, (N - K) // step + 2 - H)
    """
    num_channels = traces.shape[1]
    num_rows = max(0, (len(traces) - len(lowpass)) // step + 2 - len(highpass))
    if num_channels < LANES:
        traces = np.pad(traces, ((0, 0), (0, LANES - num_channels)))
        gains = np.pad(gains, (0, LANES - num_channels))
    result = np.empty((traces.shape[1], num_rows), dtype=np.float32)
    _decimate(np.ascontiguousarray(traces), lowpass, highpass, step, gains, result)
    return result[:num_channels]


@_compile
def _decimate(traces, lowpass, highpass, step, gains, result):  # type: ignore
    num_channels, num_rows = result.shape
    num_low = num_rows + highpass.size - 1
    # Blocks of channels, (rows, channels of a block) each, so that neighbouring rows are close in memory.
    whole = num_channels // _MANY_CHANNELS * _MANY_CHANNELS
    rest = -(-(num_channels - whole) // LANES) * LANES
    low = np.empty(num_low * (whole + rest), dtype=np.float32)
    for row in range(num_low):
        here = step * row * num_channels
        for start in range(0, whole, _MANY_CHANNELS):
            out = num_low * start + row * _MANY_CHANNELS
            _channels_tile(traces, here + start, num_channels, lowpass, lowpass.size, low, out)
        for start in range(whole, num_channels, LANES):
            first = min(start, num_channels - LANES)  # some channels twice, to the same end
            out = num_low * start + row * LANES
            _few_channels_tile(traces, here + first, num_channels, lowpass, lowpass.size, low, out)
    band = np.empty(_TURNED_ROWS * _MANY_CHANNELS, dtype=np.float32)
    start = 0
    while start < num_channels:
        width = _MANY_CHANNELS if start < whole else LANES
        first = min(start, num_channels - width)
        for begin in range(0, num_rows, _TURNED_ROWS):
            count = min(_TURNED_ROWS, num_rows - begin)
            for row in range(count):
                here = num_low * start + (begin + row) * width
                if start < whole:
                    _channels_tile(low, here, width, highpass, highpass.size, band, row * width)
                else:
                    _few_channels_tile(low, here, width, highpass, highpass.size, band, row * width)
            for channel in range(width):
                gain = gains[first + channel]
                for row in range(count):
                    result[first + channel, begin + row] = band[row * width + channel] * gain
        start += width


def fir_bank(lines: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Correlate every channel with every filter.

    Parameters
    ----------
    lines : float32 array, shape (C, T)
    taps : float32 array, shape (F, L)

    Returns
    -------
    float32 array, shape (C, F, T - L + 1)
    """
    num_rows = lines.shape[1] - taps.shape[1] + 1
    lines = _at_least(lines, _FILTER_ROWS + taps.shape[1] - 1)
    result = np.empty((len(lines), len(taps), lines.shape[1] - taps.shape[1] + 1), dtype=np.float32)
    _bank(lines, 0, result.shape[2], np.ascontiguousarray(taps), result)
    return result[:, :, :num_rows]


@_compile
def _bank(lines, begin, count, taps, result):  # type: ignore
    """Rows from `begin` to `begin + count` of the lines, to the first rows of the result."""
    num_filters, num_taps = taps.shape
    length, num_rows = lines.shape[1], result.shape[2]
    whole = num_filters // _FILTERS * _FILTERS
    for channel in range(lines.shape[0]):
        for start in range(0, count, _FILTER_ROWS):
            row = min(start, count - _FILTER_ROWS)  # some rows twice, to the same end
            line = channel * length + begin + row
            out = channel * num_filters * num_rows + row
            for index in range(num_filters):
                here, tap = out + index * num_rows, index * num_taps
                if index >= whole:
                    _filter_tile(lines, line, taps, tap, num_taps, result, here, num_rows)
                elif index % _FILTERS == 0:
                    _filters_tile(lines, line, taps, tap, num_taps, result, here, num_rows)


def mix(lines: np.ndarray, firsts: np.ndarray, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sum some of the lines for each output.

    Parameters
    ----------
    lines : float32 array, shape (R, T)
    firsts : int64 array, shape (U + 1,)
        Where the terms of each output begin.
    rows : int64 array, shape (S,)
        Line of each term.
    weights : float32 array, shape (S,)

    Returns
    -------
    float32 array, shape (U, T)
    """
    num_rows = lines.shape[1]
    lines = _at_least(lines, _MIX_ROWS)
    result = np.empty((len(firsts) - 1, lines.shape[1]), dtype=np.float32)
    units = np.arange(len(firsts) - 1)
    nothing = np.zeros(len(units), dtype=np.float32)
    _mix(lines, lines.shape[1], units, firsts, rows, weights, nothing, result, 0)
    return result[:, :num_rows]


@_compile
def _mix(lines, count, units, firsts, rows, weights, offsets, result, begin):  # type: ignore
    """The first `count` rows of the lines, for some units, to the rows from `begin` on of the result."""
    length, num_rows = lines.shape[1], result.shape[1]
    for start in range(0, count, _MIX_ROWS):
        row = min(start, count - _MIX_ROWS)  # some rows twice, to the same end
        for unit in units:
            out = unit * num_rows + begin + row
            first, last = firsts[unit], firsts[unit + 1]
            _mix_tile(lines, row, length, rows, weights, first, last, offsets[unit], result, out)


def scores_of(
    lines: np.ndarray,
    taps: np.ndarray,
    firsts: np.ndarray,
    rows: np.ndarray,
    weights: np.ndarray,
    offsets: np.ndarray,
) -> np.ndarray:
    """Mix what a bank of filters makes of the lines: `fir_bank`, then `mix`, through the processor's cache.

    Parameters
    ----------
    lines : float32 array, shape (C, T)
    taps : float32 array, shape (F, L)
    firsts, rows, weights
        See `mix`; a line of it is a channel and filter, C · F of them.
    offsets : float32 array, shape (U,)
        What each sum begins with.

    Returns
    -------
    float32 array, shape (U, T - L + 1)
    """
    num_rows = lines.shape[1] - taps.shape[1] + 1
    lines = _at_least(lines, _SCORE_ROWS + taps.shape[1] - 1)
    result = np.empty((len(offsets), lines.shape[1] - taps.shape[1] + 1), dtype=np.float32)
    last = np.zeros(len(offsets), dtype=np.int64)
    some = firsts[1:] > firsts[:-1]
    last[some] = rows[firsts[1:][some] - 1] // len(taps)  # the terms of a unit are in the order of channels
    units = np.argsort(last, kind="stable")
    stops = np.searchsorted(last[units], np.arange(0, len(lines), _SCORE_CHANNELS)[1:])
    stops = np.append(stops, len(units))
    _scores(lines, np.ascontiguousarray(taps), units, stops, firsts, rows, weights, offsets, result)
    return result[:, :num_rows]


@_compile
def _scores(lines, taps, units, stops, firsts, rows, weights, offsets, result):  # type: ignore
    """Group after group of channels, and the units that need no channel of a later one: up to its stop."""
    num_rows = result.shape[1]
    features = np.empty((lines.shape[0], taps.shape[0], _SCORE_ROWS), dtype=np.float32)
    flat = features.reshape(lines.shape[0] * taps.shape[0], _SCORE_ROWS)
    for start in range(0, num_rows, _SCORE_ROWS):
        begin = min(start, num_rows - _SCORE_ROWS)  # some rows twice, to the same end
        first = 0
        for group in range(stops.size):
            channels = slice(group * _SCORE_CHANNELS, (group + 1) * _SCORE_CHANNELS)
            _bank(lines[channels], begin, _SCORE_ROWS, taps, features[channels])
            ready = units[first : stops[group]]
            _mix(flat, _SCORE_ROWS, ready, firsts, rows, weights, offsets, result, begin)
            first = stops[group]


def _at_least(lines: np.ndarray, length: int) -> np.ndarray:
    """Contiguous float32 lines, with zeros behind them if they are shorter."""
    missing = max(0, length - lines.shape[1])
    return np.ascontiguousarray(np.pad(lines, ((0, 0), (0, missing))) if missing else lines, dtype=np.float32)
