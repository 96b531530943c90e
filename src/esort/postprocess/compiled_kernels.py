"""The compiled engine for graphs with kernels: lower scores, then find maxima again where they changed.

Scores are held unit by unit, (U, N), so that a kernel is subtracted from neighbouring memory. Nodes are
kept for each block of samples of each unit; a round touches only the blocks that hold nodes or were
lowered. Shapes: N samples, U units, D neighbours of a unit at the most, P pairs, L lag samples.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

BEYOND = -(2**31) + 1
BLOCK_SAMPLES = 128

_compile: Any = numba.njit(nogil=True, cache=True)


def solve_kernels(
    scores: np.ndarray,
    limits: np.ndarray,
    *,
    exclusion_samples: int,
    max_rounds: int,
    neighbours: np.ndarray,
    exclusive: np.ndarray,
    exclusive_samples: int,
    kernel_out: np.ndarray,
    kernels: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Solve the graph; ``scores``, int32 (U, N) and C-contiguous, are lowered in place.

    Returns
    -------
    sample, unit, score : int64, int64, int32 arrays (S,)
        The accepted spikes with their scores when accepted, in no useful order.
    """
    return _solve(
        scores,
        limits,
        exclusion_samples,
        max_rounds,
        neighbours,
        exclusive,
        exclusive_samples,
        kernel_out,
        kernels,
    )


@_compile
def transpose_scores(values, scale, most):  # type: ignore
    """Fixed point: float32 (N, U) -> int32 (U, N), cut at ``most``; in tiles that stay in the cache."""
    num_samples, num_units = values.shape
    result = np.empty((num_units, num_samples), dtype=np.int32)
    for start in range(0, num_samples, 64):
        for unit in range(num_units):
            for sample in range(start, min(start + 64, num_samples)):
                value = values[sample, unit] * scale
                result[unit, sample] = np.int32(np.rint(min(max(value, -most), most)))
    return result


@_compile
def _solve(scores, limits, exclusion, max_rounds, neighbours, exclusive, window, kernel_out, kernels):  # type: ignore
    num_units, num_samples = scores.shape
    num_blocks = (num_samples + BLOCK_SAMPLES - 1) // BLOCK_SAMPLES
    reach = max(kernels.shape[1] // 2, window)
    blocked = np.zeros((num_units, num_samples), dtype=np.bool_)
    counts = np.zeros((num_units, num_blocks), dtype=np.int32)
    nodes = np.empty((num_units, num_blocks, BLOCK_SAMPLES // 2 + 1), dtype=np.int32)
    dirty = np.ones((num_units, num_blocks), dtype=np.bool_)
    samples, units, heights = [np.int64(0)], [np.int64(0)], [np.int32(0)]  # numba needs to see the types
    samples.pop()
    units.pop()
    heights.pop()
    for _ in range(max_rounds):
        # What the last round changed is looked at again.
        for unit in range(num_units):
            for block in range(num_blocks):
                if dirty[unit, block]:
                    dirty[unit, block] = False
                    counts[unit, block] = _find(
                        scores[unit], blocked[unit], limits[unit], block, nodes[unit, block]
                    )
        round_start = len(samples)
        for unit in range(num_units):
            for block in range(num_blocks):
                for position in range(counts[unit, block]):
                    sample = nodes[unit, block, position]
                    if _wins(sample, unit, scores, nodes, counts, exclusion, neighbours, reach):
                        samples.append(np.int64(sample))
                        units.append(np.int64(unit))
                        heights.append(scores[unit, sample])
        if len(samples) == round_start:
            break
        for spike in range(round_start, len(samples)):
            when, own = samples[spike], units[spike]
            _bar(when - exclusion + 1, when + exclusion, blocked[own], dirty[own])
            for position in range(neighbours.shape[1]):
                other = neighbours[own, position]
                if other < 0:
                    continue
                if exclusive[own, position]:
                    _bar(when - window, when + window + 1, blocked[other], dirty[other])
                row = kernel_out[own, position]
                if row < kernels.shape[0] - 1:
                    _subtract(scores[other], kernels[row], when, dirty[other])
    return np.array(samples), np.array(units), np.array(heights)


@_compile
def _find(scores, blocked, limit, block, nodes):  # type: ignore
    """List the local maxima of one block of one unit; return their number."""
    start = block * BLOCK_SAMPLES
    stop = min(start + BLOCK_SAMPLES, scores.size)
    highest = scores[start]
    for sample in range(start, stop):
        highest = max(highest, scores[sample])
    if highest < limit:
        return 0
    count = 0
    for sample in range(start, stop):
        score = scores[sample]
        if score < limit or blocked[sample]:
            continue
        if sample > 0 and scores[sample - 1] >= score:
            continue
        if sample + 1 < scores.size and scores[sample + 1] > score:
            continue
        nodes[count] = sample
        count += 1
    return count


@_compile
def _wins(sample, unit, scores, nodes, counts, exclusion, neighbours, reach):  # type: ignore
    score = scores[unit, sample]
    if _is_beaten(score, sample, unit, unit, exclusion - 1, scores, nodes, counts):
        return False
    for other in neighbours[unit]:
        if other >= 0 and _is_beaten(score, sample, unit, other, reach, scores, nodes, counts):
            return False
    return True


@_compile
def _is_beaten(score, sample, unit, other, reach, scores, nodes, counts):  # type: ignore
    """Whether unit ``other`` has a node within ``reach`` that goes before this one."""
    first = max(sample - reach, 0) // BLOCK_SAMPLES
    last = min(sample + reach, scores.shape[1] - 1) // BLOCK_SAMPLES
    for block in range(first, last + 1):
        for position in range(counts[other, block]):
            rival = nodes[other, block, position]
            if rival < sample - reach or rival > sample + reach or (rival == sample and other == unit):
                continue
            height = scores[other, rival]
            if height > score:
                return True
            if height == score and (rival < sample or (rival == sample and other < unit)):
                return True
    return False


@_compile
def _bar(start, stop, blocked, dirty):  # type: ignore
    start, stop = max(start, 0), min(stop, blocked.size)
    for sample in range(start, stop):
        blocked[sample] = True
    for block in range(start // BLOCK_SAMPLES, (stop - 1) // BLOCK_SAMPLES + 1):
        dirty[block] = True


@_compile
def _subtract(scores, kernel, sample, dirty):  # type: ignore
    reach = kernel.size // 2
    start, stop = max(sample - reach, 0), min(sample + reach + 1, scores.size)
    shift = reach - sample
    for place in range(start, stop):
        scores[place] -= kernel[place + shift]
    # One sample further, because a maximum is found by looking at both sides.
    for block in range(max(start - 1, 0) // BLOCK_SAMPLES, min(stop, scores.size - 1) // BLOCK_SAMPLES + 1):
        dirty[block] = True
