"""Scores of some rows as the compiled rounds change them, with their nodes.

Scores are held unit by unit, so that a kernel is subtracted from neighbouring memory. Nodes are bits, 64 rows
of a unit in one number, with the height of the highest, by which most rivals are passed over. Only blocks
where a change can have made or unmade a node are looked at again.
Shapes: N rows, U units, B blocks of 64 rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from .compiled_graph import LANES
from .compiled_vectors import BLOCK_ROWS, copy, lower, lower_by_part, lowest_bit, maxima
from .fit import AMPLITUDE_STEPS

BEYOND = -(2**31) + 1
# Of a block: bits of the rows where no spike is accepted; bits of the rows with a node; whether it is to be
# looked at again; the unit that last beat a node of it, or -1, and in which block; bits of the chosen nodes.
BARRED, NODES, DIRTY, RIVAL, RIVAL_BLOCK, CHOSEN = range(6)
# Highest score of a block's nodes, the first row with it, and the highest of all blocks within reach.
PEAK, PEAK_ROW, AROUND = range(3)

_compile: Any = numba.njit(nogil=True, cache=True)
# For functions that neither make nor return an array: the references to those they are given, which their
# callers hold, are not counted. That would cost more than the work on few rows.
compile_bare: Any = numba.njit(nogil=True, cache=True, _nrt=False)  # type: ignore[call-overload]


class Window(NamedTuple):
    """Rows under work. Few arrays: each costs time wherever a function is called with it."""

    scores: np.ndarray
    """int32 (U, a vector + 64 B + a vector) in one line: kernels may hang over at both ends."""
    width: int
    """Numbers of a unit in that line."""
    marks: np.ndarray
    """int64 (U, B, 6), see `BARRED`."""
    heights: np.ndarray
    """int32 (3, B, U), see `PEAK`."""
    num_rows: int


@_compile
def make_window(num_units, num_rows):  # type: ignore
    """Room for so many rows."""
    num_blocks = (num_rows + BLOCK_ROWS - 1) // BLOCK_ROWS
    width = LANES + BLOCK_ROWS * num_blocks + LANES
    return Window(
        np.empty(num_units * width, dtype=np.int32),
        width,
        np.empty((num_units, num_blocks, 6), dtype=np.int64),
        np.empty((3, num_blocks, num_units), dtype=np.int32),
        num_rows,
    )


@_compile
def load_window(room, fixed, row_length, first, num_rows, limits):  # type: ignore
    """Put rows from ``first`` on of scores, int32 (U, row_length) in one line, into a window's room.

    Behind the last of the scores there must be room for a vector.
    """
    scores, width, marks, heights, _ = room
    num_blocks = (num_rows + BLOCK_ROWS - 1) // BLOCK_ROWS
    beyond = np.int64(-1) << np.int64(num_rows - BLOCK_ROWS * (num_blocks - 1) - 1) << np.int64(1)
    for unit in range(limits.size):
        for block in range(num_blocks):
            start = BLOCK_ROWS * block
            highest = copy(
                scores,
                np.int64(unit * width + LANES + start),
                fixed,
                np.int64(unit * row_length + first + start),
                np.int64(min(BLOCK_ROWS, num_rows - start)),
            )
            marks[unit, block, BARRED] = beyond if block == num_blocks - 1 else 0
            marks[unit, block, NODES] = 0
            marks[unit, block, DIRTY] = highest >= limits[unit]
            marks[unit, block, RIVAL] = -1
            heights[PEAK, block, unit] = BEYOND
        _close_ends(scores, unit * width + LANES, num_rows)
    return Window(scores, width, marks, heights, num_rows)


@compile_bare
def _close_ends(scores, line, num_rows):  # type: ignore
    """Beyond both ends all is lower than any node."""
    scores[np.uint64(line - 1)] = BEYOND
    scores[np.uint64(line + num_rows)] = BEYOND


@compile_bare
def bar(marks, unit, start, stop, num_rows):  # type: ignore
    """Accept no spike of a unit from row ``start`` to before ``stop``."""
    start, stop = max(start, 0), min(stop, num_rows)
    for block in range(start // BLOCK_ROWS, (stop + BLOCK_ROWS - 1) // BLOCK_ROWS):
        low = np.int64(max(start - BLOCK_ROWS * block, 0))
        high = np.int64(min(stop - BLOCK_ROWS * block, BLOCK_ROWS) - 1)
        rows = ~((np.int64(-1) << high) << np.int64(1)) & (np.int64(-1) << low)
        marks[unit, block, BARRED] |= rows
        if marks[unit, block, NODES] & rows:
            marks[unit, block, DIRTY] = 1


@compile_bare
def lower_unit(scores, marks, line, num_rows, unit, first, values, place, length, size, limit):  # type: ignore
    """Take ``size`` 64ths of ``length`` values from the scores of a unit, from row ``first`` on."""
    if first <= -LANES:
        skipped = -first // LANES * LANES
        first, place, length = first + skipped, place + skipped, length - skipped
    length = min(length, num_rows - first)
    if length <= 0:
        return
    # This is where the time goes.
    at, place, count = np.int64(line + first), np.int64(place), np.int64(length)
    if size == AMPLITUDE_STEPS:  # always without energies, where a product could have more than 32 bits
        highest = lower(scores, at, values, place, count)
    else:
        highest = lower_by_part(scores, at, values, place, count, np.int32(size))
    _close_ends(scores, line, num_rows)
    # One row further, because a maximum is found by looking at both sides. Where no row reaches the limit
    # and no node was, there is none now.
    start, end = max(first - 1, 0), min(first + length, num_rows - 1)
    highest = max(highest, scores[np.uint64(line + start)], scores[np.uint64(line + end)])
    for block in range(np.uint64(start // BLOCK_ROWS), np.uint64(end // BLOCK_ROWS + 1)):
        if highest >= limit or marks[unit, block, NODES] != 0:
            marks[unit, block, DIRTY] = 1


@compile_bare
def find_nodes(window, limits, reach):  # type: ignore
    """Find the nodes of the dirty blocks, and the maximum over each block and those around it."""
    scores, width, marks, heights, num_rows = window
    num_blocks = (num_rows + BLOCK_ROWS - 1) // BLOCK_ROWS
    for unit in range(limits.size):
        for block in range(num_blocks):
            if marks[unit, block, DIRTY]:
                marks[unit, block, DIRTY] = 0
                line = unit * width + LANES + BLOCK_ROWS * block
                nodes = maxima(scores, np.int64(line), np.int32(limits[unit]))
                nodes &= ~marks[unit, block, BARRED]
                marks[unit, block, NODES] = nodes
                peak, peak_row = np.int32(BEYOND), np.int64(0)
                while nodes != 0:
                    place = lowest_bit(nodes)
                    nodes ^= np.int64(1) << place
                    score = scores[np.uint64(line + place)]
                    if score > peak:
                        peak, peak_row = score, place
                heights[PEAK, block, unit] = peak
                heights[PEAK_ROW, block, unit] = BLOCK_ROWS * block + peak_row
    blocks = (reach + BLOCK_ROWS - 1) // BLOCK_ROWS
    for block in range(num_blocks):
        for unit in range(limits.size):
            heights[AROUND, block, unit] = heights[PEAK, block, unit]
        for other in range(max(block - blocks, 0), min(block + blocks + 1, num_blocks)):
            for unit in range(limits.size):
                higher = max(heights[AROUND, block, unit], heights[PEAK, other, unit])
                heights[AROUND, block, unit] = higher


@compile_bare
def beaten_in(scores, marks, heights, width, node, other, reach, block):  # type: ignore
    """Whether a node of ``other`` in a block, within ``reach``, goes before a node (row, unit, score)."""
    row, unit, score = node
    peak, peak_row = heights[PEAK, block, other], heights[PEAK_ROW, block, other]
    if peak < score:
        return False
    if peak > score and abs(peak_row - row) <= reach:  # as a rule
        return True
    nodes = marks[other, block, NODES]
    while nodes != 0:
        place = lowest_bit(nodes)
        nodes ^= np.int64(1) << place
        rival = BLOCK_ROWS * block + place
        if abs(rival - row) <= reach:
            height = scores[np.uint64(other * width + LANES + rival)]
            if _goes_before(height, rival, other, score, row, unit):
                return True
    return False


@compile_bare
def _goes_before(height, rival, other, score, row, unit):  # type: ignore
    """The higher first, of equals the earlier, then the lower unit."""
    return height > score or (height == score and (rival < row or (rival == row and other < unit)))
