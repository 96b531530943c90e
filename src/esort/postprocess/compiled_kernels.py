"""The compiled engine for graphs with kernels: lower scores, then find maxima again where they changed.

Scores are held unit by unit, (U, N), so that a kernel is subtracted from neighbouring memory. Nodes are
kept for each block of rows of each unit, with the height of the highest, by which most rivals are passed
over. A round looks again only at blocks where a lowering can have made or unmade a node.
Shapes: N rows, U units, B blocks, D neighbours of a unit at the most, P pairs, L lag samples.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .compiled_graph import Graph
from .fit import AMPLITUDE_STEPS, MOST_AMPLITUDE, SLOPE_BITS, Fit

BEYOND = -(2**31) + 1
BLOCK_ROWS = 64
MOST_NODES = BLOCK_ROWS // 2  # of a block: of two rows side by side one at the most is a local maximum
AMPLITUDE_BITS = np.int32(AMPLITUDE_STEPS.bit_length() - 1)

_compile: Any = numba.njit(nogil=True, cache=True)


def solve_kernels(
    scores: np.ndarray,
    limits: np.ndarray,
    graph: Graph,
    *,
    exclusion_samples: int,
    max_rounds: int,
    fit: Fit,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Solve the graph; ``scores``, int32 (U, N) and C-contiguous, are lowered in place.

    Returns
    -------
    row, unit, score, moved : int64, int64, int32, int64 arrays (S,)
        The accepted spikes with their scores when accepted, and how many samples a spike lies after its row,
        in no useful order.
    """
    has_amplitudes = fit.energies is not None
    nothing = np.zeros((0, 2), dtype=np.int32)
    energies = np.stack([np.asarray(fit.energies), np.asarray(fit.shifts)], 1) if has_amplitudes else nothing
    numbers = (fit.phases, fit.stride, fit.least, fit.most)
    barred = np.zeros(scores.shape, dtype=np.bool_)
    spikes = solve_window(scores, barred, limits, graph, exclusion_samples, max_rounds, energies, numbers)
    return spikes[:4]


@_compile
def solve_window(scores, barred, limits, graph, exclusion, max_rounds, energies, numbers):  # type: ignore
    """Rounds on int32 scores (U, N), lowered in place; where `barred`, bool (U, N), no spike is accepted.

    Returns row, unit, score, moved, phase and size (in 64ths) of the accepted spikes, in no useful order.
    """
    num_units, num_rows = scores.shape
    num_blocks = (num_rows + BLOCK_ROWS - 1) // BLOCK_ROWS
    neighbours, exclusive, kernel_out, values, starts, first_lags, lengths, reach, window = graph
    counts = np.zeros((num_units, num_blocks), dtype=np.uint8)  # nodes of a block
    offsets = np.empty((num_units, num_blocks, MOST_NODES), dtype=np.uint8)  # rows from its first
    peaks = np.full((num_blocks, num_units), BEYOND, dtype=np.int32)  # highest score of its nodes
    around = np.empty((num_blocks, num_units), dtype=np.int32)  # and of all blocks within reach
    dirty = np.ones((num_units, num_blocks), dtype=np.bool_)  # to be looked at again
    spikes: Any = [(np.int64(0), np.int64(0), np.int32(0), np.int64(0), np.int64(0), np.int64(0))]
    spikes.pop()  # numba has seen the types
    for _ in range(max_rounds):
        for unit in range(num_units):
            _look_again(
                scores[unit],
                barred[unit],
                limits[unit],
                dirty[unit],
                counts[unit],
                offsets[unit],
                peaks[:, unit],
            )
        _highest_around(peaks, (reach + BLOCK_ROWS - 1) // BLOCK_ROWS, around)
        round_start = len(spikes)
        for block in range(num_blocks):
            for unit in range(num_units):
                if peaks[block, unit] == BEYOND:
                    continue
                for position in range(counts[unit, block]):
                    row = block * BLOCK_ROWS + offsets[unit, block, position]
                    if not _wins(
                        row, unit, scores, counts, offsets, peaks, around, exclusion, neighbours, reach
                    ):
                        continue
                    score = scores[unit, row]
                    phase, moved = _place(scores[unit], row, numbers)
                    size = AMPLITUDE_STEPS
                    if energies.shape[0] > 0:
                        size = _amplitude(score, energies[unit], numbers)
                    spikes.append((row, unit, score, np.int64(moved), np.int64(phase), np.int64(size)))
        if len(spikes) == round_start:
            break
        for spike in range(round_start, len(spikes)):
            row, own, _score, _moved, phase, size = spikes[spike]
            _bar(row - exclusion + 1, row + exclusion, barred[own], dirty[own])
            for position in range(neighbours.shape[1]):
                other = neighbours[own, position]
                if other < 0:
                    break  # they come first
                if exclusive[own, position]:
                    _bar(row - window, row + window + 1, barred[other], dirty[other])
                pair = kernel_out[own, position]
                if lengths[pair] > 0:
                    begin, first = starts[pair] + phase * lengths[pair], row + first_lags[pair]
                    span = (max(first, 0), min(first + lengths[pair], num_rows), begin - first)
                    _lower(scores, other, values, span, np.int32(size), limits[other], counts, dirty)
    columns = np.empty((5, len(spikes)), dtype=np.int64)
    heights = np.empty(len(spikes), dtype=np.int32)
    for spike in range(len(spikes)):
        columns[0, spike], columns[1, spike], heights[spike] = spikes[spike][:3]
        columns[2, spike], columns[3, spike], columns[4, spike] = spikes[spike][3:]
    return columns[0], columns[1], heights, columns[2], columns[3], columns[4]


@_compile
def _place(scores, row, numbers):  # type: ignore
    """Phase of an accepted spike, and samples from its row to it; see `esort.postprocess.fit`."""
    phases, stride, _least, _most = numbers
    known = 0 < row < scores.size - 1
    rise = np.int64(scores[row]) - scores[row - 1] if known else np.int64(1)
    fall = np.int64(scores[row]) - scores[row + 1] if known else np.int64(1)
    while max(rise, fall) >= 1 << SLOPE_BITS:
        rise >>= 1
        fall >>= 1
    whole = rise + fall
    phase = min(phases * rise // whole, phases - 1)
    moved = (stride * abs(rise - fall) + whole - 1) // (2 * whole)
    return phase, -moved if rise < fall else moved


@_compile
def _amplitude(score, energy, numbers):  # type: ignore
    """Amplitude of an accepted spike in 64ths."""
    _phases, _stride, least, most = numbers
    part = min(np.int64(score) >> energy[1], MOST_AMPLITUDE * np.int64(energy[0]))
    steps = (AMPLITUDE_STEPS * part + energy[0] // 2) // energy[0] + AMPLITUDE_STEPS // 2
    return min(max(steps, least), most)


@_compile
def _look_again(scores, barred, limit, dirty, counts, offsets, peaks):  # type: ignore
    """List the nodes of the dirty blocks of one unit."""
    for block in range(dirty.size):
        if not dirty[block]:
            continue
        dirty[block] = False
        counts[block] = 0
        peaks[block] = BEYOND
        start = block * BLOCK_ROWS
        stop = min(start + BLOCK_ROWS, scores.size)
        if _highest(scores[start:stop]) < limit:
            continue
        count, peak = 0, np.int32(BEYOND)
        for row in range(start, stop):
            score = scores[row]
            if score < limit or barred[row]:
                continue
            if row > 0 and scores[row - 1] >= score:
                continue
            if row + 1 < scores.size and scores[row + 1] > score:
                continue
            offsets[block, count] = row - start
            peak = max(peak, score)
            count += 1
        counts[block] = count
        peaks[block] = peak


@_compile
def _highest_around(peaks, reach, around):  # type: ignore
    """Maximum over each block and ``reach`` blocks on both sides: (B, U) -> (B, U)."""
    for block in range(peaks.shape[0]):
        around[block] = peaks[block]
        for other in range(max(block - reach, 0), min(block + reach + 1, peaks.shape[0])):
            for unit in range(peaks.shape[1]):
                around[block, unit] = max(around[block, unit], peaks[other, unit])


@_compile
def _wins(row, unit, scores, counts, offsets, peaks, around, exclusion, neighbours, reach):  # type: ignore
    """Whether no rival goes before this node; most nodes are beaten by one of their own block."""
    score = scores[unit, row]
    block = row // BLOCK_ROWS
    if reach >= BLOCK_ROWS - 1:
        for position in range(neighbours.shape[1]):
            other = neighbours[unit, position]
            if other < 0:
                break
            if peaks[block, other] > score:
                return False
    if _is_beaten(score, row, unit, unit, exclusion - 1, scores, counts, offsets, peaks):
        return False
    for position in range(neighbours.shape[1]):
        other = neighbours[unit, position]
        if other < 0:
            break
        if around[block, other] >= score and _is_beaten(
            score, row, unit, other, reach, scores, counts, offsets, peaks
        ):
            return False
    return True


@_compile
def _is_beaten(score, row, unit, other, reach, scores, counts, offsets, peaks):  # type: ignore
    """Whether unit ``other`` has a node within ``reach`` that goes before this one."""
    first = max(row - reach, 0) // BLOCK_ROWS
    last = min(row + reach, scores.shape[1] - 1) // BLOCK_ROWS
    for block in range(first, last + 1):
        if peaks[block, other] < score:
            continue
        for position in range(counts[other, block]):
            rival = block * BLOCK_ROWS + offsets[other, block, position]
            if rival < row - reach or rival > row + reach or (rival == row and other == unit):
                continue
            height = scores[other, rival]
            if height > score:
                return True
            if height == score and (rival < row or (rival == row and other < unit)):
                return True
    return False


@_compile
def _bar(start, stop, barred, dirty):  # type: ignore
    start, stop = max(start, 0), min(stop, barred.size)
    barred[start:stop] = True
    for block in range(start // BLOCK_ROWS, (stop - 1) // BLOCK_ROWS + 1):
        dirty[block] = True


@_compile
def _lower(scores, unit, values, span, size, limit, counts, dirty):  # type: ignore
    """Take ``size`` 64ths of a kernel from the scores of a unit.

    ``span`` is the first row, the row after the last, and what to add to a row for its place in ``values``.
    """
    start, stop, shift = span
    if start >= stop:
        return
    # This is where the time goes. Casts, because numba takes int32 times int32 to be int64, at half the
    # speed; unsigned places, because it would test each for being negative; no slices, which are counted
    # references: all of these only for the compiler.
    who, begin, kernel = np.uint64(unit), np.uint64(start), np.uint64(start + shift)
    half = np.int32(AMPLITUDE_STEPS // 2)
    highest = np.int32(BEYOND)
    if size == AMPLITUDE_STEPS:  # always without energies, where a product could have more than 32 bits
        for step in range(stop - start):
            amount = values[kernel + np.uint64(step)]
            score = np.int32(scores[who, begin + np.uint64(step)] - amount)
            scores[who, begin + np.uint64(step)] = score
            highest = max(highest, score)
    else:
        for step in range(stop - start):
            product = np.int32(values[kernel + np.uint64(step)] * size)
            amount = np.int32(product + half) >> AMPLITUDE_BITS
            score = np.int32(scores[who, begin + np.uint64(step)] - amount)
            scores[who, begin + np.uint64(step)] = score
            highest = max(highest, score)
    # One row further, because a maximum is found by looking at both sides. Where no row reaches the limit
    # and no node was, there is none now.
    first, last = max(start - 1, 0), min(stop, scores.shape[1] - 1)
    reaches = max(highest, scores[unit, first], scores[unit, last]) >= limit
    for block in range(first // BLOCK_ROWS, last // BLOCK_ROWS + 1):
        if reaches or counts[unit, block] > 0:
            dirty[unit, block] = True


@_compile
def _highest(values):  # type: ignore
    highest = values[0]
    for place in range(values.size):
        highest = max(highest, values[place])
    return highest
