"""The compiled engine for arrays in CPU memory: nodes behind a gate, rounds on lists, integers as always.

Only this module needs numba (and NumPy, which comes with it); it is imported when it is first used. Threads
are plain Python threads around functions that release the GIL: safe next to any other user of threads or
processes. Shapes: N samples, U units, S nodes, D neighbours of a unit at the most.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np

BEYOND = -(2**31) + 1
LEAST_BLOCK_SAMPLES = 32
ONE_BITS = 0x3F800000  # the bits of float32 1.0
LIVE, DROPPED, WINNER, ACCEPTED = 1, 0, 2, 3

_compile: Any = numba.njit(nogil=True, cache=True)


def find_nodes(
    probabilities: np.ndarray,
    limits: np.ndarray,
    half_width: int,
    unit_scale: float,
    num_threads: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Smooth and find the local maxima that reach the limits, in one pass over memory.

    A kernel of sum 1 cannot exceed the largest probability under it. So the pass only takes the maximum of
    each block of samples and unit, and smooths where a block or one of its two neighbours reaches the
    threshold: for sparse activity in a small part of all blocks. Probabilities in [0, 1] are ordered as
    their bits are, so that the same maximum, of unsigned integers, also finds NaN, negative values and
    values above 1.

    Parameters
    ----------
    probabilities : float32 array (N, U), C-contiguous
    limits : int32 array (U,)
        Least integer score of a node.
    half_width : int
    unit_scale : float
        Integer steps to a probability of 1.
    num_threads : int

    Returns
    -------
    sample, unit, score : int64 arrays (S,), or None if a value is outside [0, 1] or is -0.0.
        Sorted by unit, then by sample.
    """
    num_samples = probabilities.shape[0]
    block = max(LEAST_BLOCK_SAMPLES, half_width)
    # A score reaches its limit only where a rounded probability does; half a step below still rounds up.
    gate = np.maximum(limits // half_width**2 - 1, 0).astype(np.float32) / np.float32(unit_scale)
    num_blocks = -(-num_samples // block)
    num_parts = max(1, min(num_threads, num_blocks // 4))
    edges = np.linspace(0, num_blocks, num_parts + 1).astype(np.int64)
    bits, gate_bits, steps = probabilities.view(np.uint32), gate.view(np.uint32), np.float32(unit_scale)

    def scan(first_block: np.int64, last_block: np.int64) -> Any:
        return _scan_blocks(
            probabilities, bits, limits, gate_bits, block, half_width, steps, first_block, last_block
        )

    if num_parts == 1:
        found = [scan(edges[0], edges[1])]
    else:
        with ThreadPoolExecutor(num_parts) as pool:
            found = list(pool.map(scan, edges[:-1], edges[1:]))
    if not all(part[0] for part in found):
        return None
    sample, unit, score = (np.concatenate([part[column] for part in found]) for column in (1, 2, 3))
    order = np.argsort(unit, kind="stable")
    return sample[order], unit[order], score[order]


@_compile
def _scan_blocks(values, bits, limits, gate, block, half_width, unit_scale, first_block, last_block):  # type: ignore
    num_samples, num_units = bits.shape
    peaks = np.zeros((3, num_units), dtype=np.uint32)  # of the block before, this one, the one after
    worst = np.uint32(0)
    capacity = 1024
    count = 0
    samples = np.empty(capacity, dtype=np.int64)
    units = np.empty(capacity, dtype=np.int64)
    scores = np.empty(capacity, dtype=np.int64)
    window = np.empty(block + 2 + 2 * (half_width - 1), dtype=np.int32)
    smooth = np.empty(block + 2, dtype=np.int32)
    for ahead in range(first_block - 1, last_block + 1):
        # Fill the peaks of block `ahead`, then look at the block before it, whose rows are still cached.
        row = peaks[(ahead + 1) % 3]
        for unit in range(num_units):
            row[unit] = 0
        for sample in range(max(ahead * block, 0), min((ahead + 1) * block, num_samples)):
            line = bits[sample]
            for unit in range(num_units):
                row[unit] = max(row[unit], line[unit])
        if ahead <= first_block:
            continue
        here = ahead - 1
        before, now = peaks[here % 3], peaks[(here + 1) % 3]
        for unit in range(num_units):
            peak = max(before[unit], now[unit], row[unit])
            worst = max(worst, peak)
            if peak < gate[unit]:
                continue
            start = here * block
            stop = min(start + block, num_samples)
            _smooth_one(values, unit, start - 1, stop + 1, half_width, unit_scale, window, smooth)
            for sample in range(start, stop):
                at = sample - start + 1
                score = smooth[at]
                if score < limits[unit] or score <= smooth[at - 1] or score < smooth[at + 1]:
                    continue
                if count == capacity:
                    capacity *= 2
                    samples, units, scores = _grown(samples), _grown(units), _grown(scores)
                samples[count] = sample
                units[count] = unit
                scores[count] = score
                count += 1
    return worst <= ONE_BITS, samples[:count], units[:count], scores[:count]


@_compile
def _grown(values):  # type: ignore
    grown = np.empty(2 * values.size, dtype=np.int64)
    for position in range(values.size):
        grown[position] = values[position]
    return grown


@_compile
def _smooth_one(values, unit, start, stop, half_width, unit_scale, window, smooth):  # type: ignore
    """Integer scores of one unit from ``start`` to ``stop``: exact, so that running sums do."""
    num_samples = values.shape[0]
    reach = half_width - 1
    length = stop - start + 2 * reach
    for position in range(length):
        sample = start - reach + position
        if 0 <= sample < num_samples:
            window[position] = np.int32(np.rint(values[sample, unit] * unit_scale))
        else:
            window[position] = 0
    for _ in range(2):
        length -= reach
        total = np.int32(0)
        for position in range(reach):
            total += window[position]
        for position in range(length):
            total += window[position + reach]
            oldest = window[position]
            window[position] = total
            total -= oldest
    for position in range(stop - start):
        inside = 0 <= start + position < num_samples
        smooth[position] = window[position] if inside else BEYOND


def solve_nodes(
    sample: np.ndarray,
    unit: np.ndarray,
    score: np.ndarray,
    *,
    num_units: int,
    exclusion_samples: int,
    max_rounds: int,
    neighbours: np.ndarray | None = None,
    exclusive: np.ndarray | None = None,
    exclusive_samples: int = 0,
) -> np.ndarray:
    """Rounds on nodes sorted by unit and sample, for graphs without kernels: bool (S,), True if accepted."""
    if neighbours is None:
        neighbours = np.zeros((num_units, 0), dtype=np.int64)
        exclusive = np.zeros((num_units, 0), dtype=np.bool_)
    first = np.searchsorted(unit, np.arange(num_units + 1)).astype(np.int64)
    state = _solve_listed(
        sample, unit, score, first, exclusion_samples, max_rounds, neighbours, exclusive, exclusive_samples
    )
    return state == ACCEPTED


@_compile
def _solve_listed(sample, unit, score, first, exclusion, max_rounds, neighbours, exclusive, window):  # type: ignore
    state = np.ones(sample.size, dtype=np.uint8)  # LIVE
    live = np.arange(sample.size)
    for _ in range(max_rounds):
        if live.size == 0:
            break
        for node in live:
            if _node_wins(node, sample, unit, score, state, first, exclusion, neighbours, window):
                state[node] = WINNER
        for node in live:
            if state[node] == WINNER:
                state[node] = ACCEPTED
                _drop(node, sample, unit, state, first, exclusion, neighbours, exclusive, window)
        remaining = 0
        for node in live:
            if state[node] == LIVE:
                live[remaining] = node
                remaining += 1
        live = live[:remaining]
    return state


@_compile
def _node_wins(node, sample, unit, score, state, first, exclusion, neighbours, window):  # type: ignore
    """Compare with every node that was live when the round began, those that won in it included."""
    own, when, height = unit[node], sample[node], score[node]
    other = node - 1
    while other >= first[own] and when - sample[other] < exclusion:
        if (state[other] == LIVE or state[other] == WINNER) and score[other] >= height:
            return False
        other -= 1
    other = node + 1
    while other < first[own + 1] and sample[other] - when < exclusion:
        if (state[other] == LIVE or state[other] == WINNER) and score[other] > height:
            return False
        other += 1
    for rival in neighbours[own]:
        if rival < 0:
            continue
        other = _first_from(sample, first[rival], first[rival + 1], when - window)
        while other < first[rival + 1] and sample[other] <= when + window:
            if (state[other] == LIVE or state[other] == WINNER) and other != node:
                before = sample[other] < when or (sample[other] == when and rival < own)
                if score[other] > height or (before and score[other] == height):
                    return False
            other += 1
    return True


@_compile
def _drop(node, sample, unit, state, first, exclusion, neighbours, exclusive, window):  # type: ignore
    own, when = unit[node], sample[node]
    other = node - 1
    while other >= first[own] and when - sample[other] < exclusion:
        if state[other] == LIVE:
            state[other] = DROPPED
        other -= 1
    other = node + 1
    while other < first[own + 1] and sample[other] - when < exclusion:
        if state[other] == LIVE:
            state[other] = DROPPED
        other += 1
    for position in range(neighbours.shape[1]):
        rival = neighbours[own, position]
        if rival < 0 or not exclusive[own, position]:
            continue
        other = _first_from(sample, first[rival], first[rival + 1], when - window)
        while other < first[rival + 1] and sample[other] <= when + window:
            if state[other] == LIVE:
                state[other] = DROPPED
            other += 1


@_compile
def _first_from(sample, start, stop, wanted):  # type: ignore
    """First position from ``start`` to ``stop`` whose sample is not before ``wanted``."""
    while start < stop:
        middle = (start + stop) // 2
        if sample[middle] < wanted:
            start = middle + 1
        else:
            stop = middle
    return start
