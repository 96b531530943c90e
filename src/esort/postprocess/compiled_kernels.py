"""The compiled engine for graphs with kernels: lower scores, then find maxima again where they changed.

Shapes: N rows, U units, B blocks, D neighbours of a unit at the most, S spikes.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .compiled_graph import EXCLUSIVE, FIRST_LAG, LANES, LENGTH, START, Graph
from .compiled_vectors import BLOCK_ROWS, lowest_bit
from .compiled_window import (
    AROUND,
    CHOSEN,
    NODES,
    PEAK,
    PEAK_ROW,
    RIVAL,
    RIVAL_BLOCK,
    bar,
    beaten_in,
    compile_bare,
    find_nodes,
    load_window,
    lower_unit,
    make_window,
)
from .fit import AMPLITUDE_STEPS, MOST_AMPLITUDE, SLOPE_BITS, Fit

ROW, UNIT, SCORE, MOVED, PHASE, SIZE = range(6)  # columns of a spike; its size in 64ths
NO_SPIKES = np.zeros((0, 6), dtype=np.int64)

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
    """Solve the graph on scores, int32 (U, N).

    Returns
    -------
    row, unit, score, moved : int64, int64, int32, int64 arrays (S,)
        The accepted spikes with their scores when accepted, and how many samples a spike lies after its row,
        in no useful order.
    """
    num_units, num_rows = scores.shape
    has_amplitudes = fit.energies is not None
    nothing = np.zeros((0, 2), dtype=np.int32)
    energies = np.stack([np.asarray(fit.energies), np.asarray(fit.shifts)], 1) if has_amplitudes else nothing
    numbers = (fit.phases, fit.stride, fit.least, fit.most)
    line = np.empty(num_units * num_rows + LANES, dtype=np.int32)
    line[:-LANES] = scores.reshape(-1)
    spikes = _solve_all(line, num_rows, limits, graph, exclusion_samples, max_rounds, energies, numbers)
    return spikes[:, ROW], spikes[:, UNIT], spikes[:, SCORE].astype(np.int32), spikes[:, MOVED]


@_compile
def _solve_all(line, num_rows, limits, graph, exclusion, max_rounds, energies, numbers):  # type: ignore
    room = make_window(limits.size, num_rows)
    window = load_window(room, line, num_rows, 0, num_rows, limits)
    return solve_window(window, limits, graph, exclusion, max_rounds, energies, numbers)


@_compile
def solve_window(window, limits, graph, exclusion, max_rounds, energies, numbers):  # type: ignore
    """Rounds on a window; returns the accepted spikes, int64 (S, 6), in no useful order."""
    spikes = np.empty((64, 6), dtype=np.int64)
    count = 0
    for _ in range(max_rounds):
        find_nodes(window, limits, graph.reach)
        more = _choose(window, graph.neighbours, graph.reach, exclusion)
        if more == 0:
            break
        if count + more > spikes.shape[0]:
            spikes = more_room(spikes, count + more)
        _fit_chosen(window, spikes, count, energies, numbers)
        take_out(window, spikes, count, count + more, 0, graph, exclusion, limits)
        count += more
    return spikes[:count]


@_compile
def more_room(spikes, count):  # type: ignore
    """Copy the spikes to room for so many, and as many again."""
    more = np.empty((2 * count, 6), dtype=np.int64)
    more[: spikes.shape[0]] = spikes
    return more


@compile_bare
def _choose(window, neighbours, reach, exclusion):  # type: ignore
    """Mark the nodes that no rival goes before; return how many."""
    scores, width, marks, heights, num_rows = window
    count = 0
    for unit in range(marks.shape[0]):
        for block in range((num_rows + BLOCK_ROWS - 1) // BLOCK_ROWS):
            nodes, chosen = marks[unit, block, NODES], np.int64(0)
            while nodes != 0:
                place = lowest_bit(nodes)
                bit = np.int64(1) << place
                nodes ^= bit
                row = BLOCK_ROWS * block + place
                score = scores[np.uint64(unit * width + LANES + row)]
                node = (row, unit, score)
                if _wins(scores, marks, heights, width, num_rows, node, neighbours, reach, exclusion):
                    chosen |= bit
                    count += 1
            marks[unit, block, CHOSEN] = chosen
    return count


@compile_bare
def _fit_chosen(window, spikes, count, energies, numbers):  # type: ignore
    """Put the chosen nodes and how they fit behind so many spikes."""
    scores, width, marks, _, num_rows = window
    for unit in range(marks.shape[0]):
        for block in range((num_rows + BLOCK_ROWS - 1) // BLOCK_ROWS):
            chosen = marks[unit, block, CHOSEN]
            while chosen != 0:
                place = lowest_bit(chosen)
                chosen ^= np.int64(1) << place
                row = BLOCK_ROWS * block + place
                here = np.uint64(unit * width + LANES + row)
                phase, moved = _place(scores, here, 0 < row < num_rows - 1, numbers)
                size = AMPLITUDE_STEPS
                if energies.shape[0] > 0:
                    size = _amplitude(scores[here], energies[unit, 0], energies[unit, 1], numbers)
                spikes[count, ROW], spikes[count, UNIT], spikes[count, SCORE] = row, unit, scores[here]
                spikes[count, MOVED], spikes[count, PHASE], spikes[count, SIZE] = moved, phase, size
                count += 1


@compile_bare
def take_out(window, spikes, start, stop, first_row, graph, exclusion, limits):  # type: ignore
    """Lower the neighbours' scores by some of the spikes, and bar what is around each.

    The window begins at ``first_row`` of the spikes' rows; they may lie before it.
    """
    scores, width, marks, _, num_rows = window
    neighbours, edges, strides, values, _, exclusive = graph
    for spike in range(start, stop):
        row, own, size = spikes[spike, ROW] - first_row, spikes[spike, UNIT], spikes[spike, SIZE]
        shift = spikes[spike, PHASE] * strides[own]
        bar(marks, own, row - exclusion + 1, row + exclusion, num_rows)
        for position in range(neighbours.shape[1]):
            unit = neighbours[own, position]
            if unit < 0:
                break  # they come first
            if edges[own, position, EXCLUSIVE]:
                bar(marks, unit, row - exclusive, row + exclusive + 1, num_rows)
            length = edges[own, position, LENGTH]
            if length > 0:
                first, place = row + edges[own, position, FIRST_LAG], edges[own, position, START] + shift
                line = unit * width + LANES
                lower_unit(
                    scores, marks, line, num_rows, unit, first, values, place, length, size, limits[unit]
                )


@compile_bare
def _wins(scores, marks, heights, width, num_rows, node, neighbours, reach, exclusion):  # type: ignore
    """Whether no rival goes before a node; most are beaten by the one that beat their like before."""
    row, unit, score = node
    block = row // BLOCK_ROWS
    other, there = marks[unit, block, RIVAL], marks[unit, block, RIVAL_BLOCK]
    if (
        other >= 0
        and heights[PEAK, there, other] > score
        and abs(heights[PEAK_ROW, there, other] - row) <= reach
    ):
        return False
    first = max(row - reach, 0) // BLOCK_ROWS
    last = min(row + reach, num_rows - 1) // BLOCK_ROWS
    for position in range(neighbours.shape[1]):
        other = neighbours[unit, position]
        if other < 0:
            break  # they come first
        if heights[AROUND, block, other] < score:
            continue
        for there in range(first, last + 1):
            if beaten_in(scores, marks, heights, width, node, other, reach, there):
                marks[unit, block, RIVAL], marks[unit, block, RIVAL_BLOCK] = other, there
                return False
    first = max(row - exclusion + 1, 0) // BLOCK_ROWS
    last = min(row + exclusion - 1, num_rows - 1) // BLOCK_ROWS
    for there in range(first, last + 1):
        if beaten_in(scores, marks, heights, width, node, unit, exclusion - 1, there):
            return False
    return True


@compile_bare
def _place(scores, here, known, numbers):  # type: ignore
    """Phase of an accepted spike, and samples from its row to it; see `esort.postprocess.fit`."""
    phases, stride, _least, _most = numbers
    score = np.int64(scores[here])
    rise = score - scores[here - np.uint64(1)] if known else np.int64(1)
    fall = score - scores[here + np.uint64(1)] if known else np.int64(1)
    while max(rise, fall) >= 1 << SLOPE_BITS:
        rise >>= 1
        fall >>= 1
    whole = rise + fall
    phase = min(phases * rise // whole, phases - 1)
    moved = (stride * abs(rise - fall) + whole - 1) // (2 * whole)
    return phase, -moved if rise < fall else moved


@compile_bare
def _amplitude(score, energy, shift, numbers):  # type: ignore
    """Amplitude of an accepted spike in 64ths."""
    _phases, _stride, least, most = numbers
    part = min(np.int64(score) >> shift, MOST_AMPLITUDE * np.int64(energy))
    steps = (AMPLITUDE_STEPS * part + energy // 2) // energy + AMPLITUDE_STEPS // 2
    return min(max(steps, least), most)
