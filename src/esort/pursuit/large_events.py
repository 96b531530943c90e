"""Large events, and the best scores of the units around them for each shift: the compiled part of evidence.

Every sum has one order, so that it is the same wherever a stretch begins.
Shapes: C channels, F filters, U units, G shifts, D depths, H channels of a unit, K rows around a peak.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from esort.pursuit.vectors import LANES, columns_tile, fir_tile

__all__ = ["NUM_ROWS", "ROWS_BEFORE", "SHIFTS_TOGETHER", "add_events"]

NUM_ROWS, ROWS_BEFORE = LANES, 3
"""Rows around the peak (K), and before it, in which a unit's best score is looked for."""
SHIFTS_TOGETHER = 5
"""Shifts whose running sums are in registers together."""

# An event is so many noise levels high, and the largest for so many rows around it.
_LEAST_HEIGHT, _PEAK_ROWS = 7.0, 8
# Units that an event may be of: those that score most.
_NUM_LIKELY = 3
# A smaller score, also as part of the unit's energy, is noise or another unit.
_LEAST_SCORE, _LEAST_PART = 10.0, 0.1
# Filters whose running sums are in registers together.
_FILTERS = 6
_filters_tile, _filter_tile = fir_tile(_FILTERS, 1), fir_tile(1, 1)
_shifts_tile = columns_tile(SHIFTS_TOGETHER)

_fast: Any = {"nogil": True, "cache": True, "fastmath": {"contract", "nsz"}, "error_model": "numpy"}
_njit: Any = numba.njit
_compile: Any = _njit(**_fast)
# For functions that make no array: references to those that they are given need not be counted.
_compile_bare: Any = _njit(**_fast, _nrt=False)


@_compile
def add_events(evidence, quota, filtered, first, last, *constant):  # type: ignore
    """Add the best scores of large events, for each shift, to the evidence; see `MotionEvidence.add`."""
    bank, coarse, channels, energies, filters, before, scale, near, units, weights, region = constant
    num_filters, length = filters.shape
    num_channels, num_rows = filtered.shape[0], filtered.shape[1] - length + 1
    if num_rows < NUM_ROWS:
        return
    features = np.empty((num_channels, num_filters, NUM_ROWS), dtype=np.float32)
    known = np.full(num_channels, -1)  # first row of the features that there are of a channel
    seen = np.empty((channels.shape[1], num_filters, NUM_ROWS), dtype=np.float32)
    scores = np.empty((bank.shape[2], NUM_ROWS), dtype=np.float32)
    best = np.empty(bank.shape[2], dtype=np.float32)
    likely = np.zeros(_NUM_LIKELY, dtype=np.int64)
    heights = np.empty(_NUM_LIKELY, dtype=np.float32)
    row, channel, left = first, -1, quota.sum()
    while left > 0:
        row, channel = _next_peak(row, channel + 1, last, quota, region, filtered, before, scale, near)
        if row == last:
            break
        left -= 1
        quota[region[channel]] -= 1
        low = min(max(row - ROWS_BEFORE, 0), num_rows - NUM_ROWS)
        _filter_around(filtered, channel, low, filters, units, channels, known, features)
        number = _likeliest(
            channel, units, channels, features, coarse, energies, seen, scores, likely, heights
        )
        best[:] = 0
        for rank in range(number):
            _best_of(likely[rank], channels, features, bank, energies, seen, scores, best)
        # What does not fit grows with a spike: the largest would decide alone.
        share = 1 / np.sqrt(max(best.max(), _LEAST_SCORE))
        for window in range(evidence.shape[0]):
            for shift in range(best.size):
                evidence[window, shift] += weights[channel, window] * share * best[shift]


@_compile_bare
def _next_peak(row, channel, last, quota, region, filtered, before, scale, near):  # type: ignore
    """First peak of a channel with a quota left, from a row and channel on; the last row if there is none."""
    while row < last:
        while channel < filtered.shape[0]:
            if quota[region[channel]] > 0 and _is_peak(filtered, row + before, channel, scale, near):
                return row, channel
            channel += 1
        row, channel = row + 1, 0
    return last, 0


@_compile_bare
def _filter_around(filtered, channel, low, filters, units, channels, known, features):  # type: ignore
    """Filter rows from ``low`` on of all channels of the units around one channel."""
    num_filters, length = filters.shape
    whole = num_filters // _FILTERS * _FILTERS
    for place in range(units.shape[1]):
        unit = units[channel, place]
        if unit < 0:
            break
        for number in range(channels.shape[1]):
            member = channels[unit, number]
            if known[member] == low:
                continue
            known[member] = low
            line, out = member * filtered.shape[1] + low, member * num_filters * NUM_ROWS
            for index in range(num_filters):
                tap, here = index * length, out + index * NUM_ROWS
                if index >= whole:
                    _filter_tile(filtered, line, filters, tap, length, features, here, NUM_ROWS)
                elif index % _FILTERS == 0:
                    _filters_tile(filtered, line, filters, tap, length, features, here, NUM_ROWS)


@_compile_bare
def _likeliest(channel, units, channels, features, coarse, energies, seen, scores, likely, heights):  # type: ignore
    """Choose the units that score most at some shifts and rows; return how many."""
    found = 0
    for place in range(units.shape[1]):
        unit = units[channel, place]
        if unit < 0:
            break
        _shifted(features, channels, unit, coarse, seen, scores)
        highest = np.float32(-1e30)
        for shift in range(coarse.shape[2]):
            for at in range(ROWS_BEFORE - 1, ROWS_BEFORE + 3, 2):
                highest = max(highest, scores[shift, at])
        highest -= energies[unit] / 2
        rank = found
        while rank > 0 and heights[rank - 1] < highest:
            rank -= 1
        for behind in range(min(found, likely.size - 1), rank, -1):
            heights[behind], likely[behind] = heights[behind - 1], likely[behind - 1]
        if rank < likely.size:
            heights[rank], likely[rank] = highest, unit
        found = min(found + 1, likely.size)
    return found


@_compile_bare
def _best_of(unit, channels, features, bank, energies, seen, scores, best):  # type: ignore
    """Raise the best score of each shift to that of a unit, where it has one that counts."""
    _shifted(features, channels, unit, bank, seen, scores)
    half, least = energies[unit] / 2, max(_LEAST_SCORE, _LEAST_PART * energies[unit])
    for shift in range(best.size):
        for at in range(NUM_ROWS):
            score = scores[shift, at] - half
            if score >= least and score > best[shift]:
                best[shift] = score


@_compile_bare
def _shifted(features, channels, unit, bank, seen, scores):  # type: ignore
    """Scores of one unit, before its energy is taken off, for each shift of a bank: (G, K)."""
    for number in range(channels.shape[1]):
        for index in range(features.shape[1]):
            for at in range(NUM_ROWS):
                seen[number, index, at] = features[channels[unit, number], index, at]
    terms, width = bank.shape[1], bank.shape[2]
    for shift in range(0, width, SHIFTS_TOGETHER):
        weight = unit * terms * width + shift
        _shifts_tile(seen, 0, bank, weight, width, terms, scores, shift * NUM_ROWS)


@_compile_bare
def _is_peak(filtered, column, channel, scale, near):  # type: ignore
    height = abs(filtered[channel, column]) * scale[channel]
    if not height >= _LEAST_HEIGHT:
        return False
    first, last = max(column - _PEAK_ROWS, 0), min(column + _PEAK_ROWS + 1, filtered.shape[1])
    for place in range(near.shape[1]):
        other = near[channel, place]
        if other < 0:
            break
        for at in range(first, last):
            beside = abs(filtered[other, at]) * scale[other]
            if beside > height or (beside == height and (at < column or (at == column and other < channel))):
                return False
    return True
