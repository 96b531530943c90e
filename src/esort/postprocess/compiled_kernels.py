"""The compiled engine for graphs with kernels: lower scores, then find maxima again where they changed.

Scores are held unit by unit, (U, N), so that a kernel is subtracted from neighbouring memory. Nodes are
kept for each block of rows of each unit; a round touches only the blocks that hold nodes or were lowered.
Shapes: N rows, U units, D neighbours of a unit at the most, P pairs, L lag samples.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from .fit import AMPLITUDE_STEPS, MOST_AMPLITUDE, SLOPE_BITS, Fit

BEYOND = -(2**31) + 1
BLOCK_SAMPLES = 128
AMPLITUDE_BITS = np.int32(AMPLITUDE_STEPS.bit_length() - 1)

_compile: Any = numba.njit(nogil=True, cache=True)


class Graph(NamedTuple):
    """A `ConflictTable` as the compiled functions read it.

    Lags at either end of a pair's kernels where they are zero for all phases are not stored: the values of
    phase ``i`` of pair ``p`` are ``values[start[p] + i * length[p]:][:length[p]]``, the first of them for
    ``first_lag[p]`` rows after the accepted spike. Two units are rivals up to ``reach`` all the same: who
    wins does not depend on how kernels were rounded.
    """

    neighbours: np.ndarray  # int64 (U, D), -1 where a unit has fewer
    exclusive: np.ndarray  # bool (U, D)
    kernel_out: np.ndarray  # int64 (U, D)
    values: np.ndarray  # int32
    start: np.ndarray  # int64 (P + 1,)
    first_lag: np.ndarray  # int64 (P + 1,)
    length: np.ndarray  # int64 (P + 1,)
    reach: int
    exclusive_samples: int


def make_graph(
    *,
    num_units: int,
    phases: int = 1,
    kernels: np.ndarray | None = None,
    kernel_out: np.ndarray | None = None,
    neighbours: np.ndarray | None = None,
    exclusive: np.ndarray | None = None,
    reach: int = 0,
    exclusive_samples: int = 0,
) -> Graph:
    """Take the arrays of a `ConflictTable`, its kernels by `ConflictTable.quantise`; no edges by default."""
    if neighbours is None or exclusive is None or kernel_out is None:
        neighbours = kernel_out = np.zeros((num_units, 0), dtype=np.int64)
        exclusive = np.zeros((num_units, 0), dtype=np.bool_)
    if kernels is None:
        kernels = np.zeros((phases * (int(kernel_out.max(initial=0)) + 1), 1), dtype=np.int32)
    lag_samples = kernels.shape[1] // 2
    pairs = kernels.reshape(-1, phases, kernels.shape[1])
    matters = (pairs != 0).any(axis=1)  # (P + 1, 2 L + 1)
    first = matters.argmax(axis=1)
    stop = np.where(matters.any(axis=1), kernels.shape[1] - matters[:, ::-1].argmax(axis=1), first)
    length = stop - first
    return Graph(
        neighbours=neighbours.astype(np.int64),
        exclusive=exclusive,
        kernel_out=kernel_out.astype(np.int64),
        values=np.concatenate(
            [pair[:, a:b].reshape(-1) for pair, a, b in zip(pairs, first, stop, strict=True)]
        ),
        start=np.cumsum(length * phases) - length * phases,
        first_lag=first - lag_samples,
        length=length,
        reach=reach,
        exclusive_samples=exclusive_samples,
    )


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
    return _solve(scores, limits, graph, exclusion_samples, max_rounds, energies, numbers)


@_compile
def _solve(scores, limits, graph, exclusion, max_rounds, energies, numbers):  # type: ignore
    num_units, num_samples = scores.shape
    num_blocks = (num_samples + BLOCK_SAMPLES - 1) // BLOCK_SAMPLES
    window = graph.exclusive_samples
    blocked = np.zeros((num_units, num_samples), dtype=np.bool_)
    counts = np.zeros((num_units, num_blocks), dtype=np.int32)
    nodes = np.empty((num_units, num_blocks, BLOCK_SAMPLES // 2 + 1), dtype=np.int32)
    dirty = np.ones((num_units, num_blocks), dtype=np.bool_)
    spikes = [(np.int64(0), np.int64(0), np.int32(0), np.int64(0), np.int64(0), np.int64(0))]
    spikes.pop()  # numba has seen the types
    for _ in range(max_rounds):
        # What the last round changed is looked at again.
        for unit in range(num_units):
            for block in range(num_blocks):
                if dirty[unit, block]:
                    dirty[unit, block] = False
                    counts[unit, block] = _find(
                        scores[unit], blocked[unit], limits[unit], block, nodes[unit, block]
                    )
        round_start = len(spikes)
        for unit in range(num_units):
            for block in range(num_blocks):
                for position in range(counts[unit, block]):
                    row = nodes[unit, block, position]
                    if _wins(row, unit, scores, nodes, counts, exclusion, graph.neighbours, graph.reach):
                        phase, moved = _place(scores[unit], row, numbers)
                        amplitude = AMPLITUDE_STEPS
                        if energies.shape[0] > 0:
                            amplitude = _amplitude(scores[unit, row], energies[unit], numbers)
                        spikes.append(
                            (
                                np.int64(row),
                                np.int64(unit),
                                scores[unit, row],
                                np.int64(phase),
                                np.int64(moved),
                                np.int64(amplitude),
                            )
                        )
        if len(spikes) == round_start:
            break
        for spike in range(round_start, len(spikes)):
            row, own, _score, phase, _moved, amplitude = spikes[spike]
            _bar(row - exclusion + 1, row + exclusion, blocked[own], dirty[own])
            for position in range(graph.neighbours.shape[1]):
                other = graph.neighbours[own, position]
                if other < 0:
                    break  # they come first
                if graph.exclusive[own, position]:
                    _bar(row - window, row + window + 1, blocked[other], dirty[other])
                pair = graph.kernel_out[own, position]
                length = graph.length[pair]
                if length > 0:
                    begin = graph.start[pair] + phase * length
                    kernel = graph.values[begin : begin + length]
                    _subtract(scores[other], kernel, row + graph.first_lag[pair], amplitude, dirty[other])
    count = len(spikes)
    columns = np.empty((3, count), dtype=np.int64)
    heights = np.empty(count, dtype=np.int32)
    for spike in range(count):
        columns[0, spike], columns[1, spike], heights[spike], _, columns[2, spike], _ = spikes[spike]
    return columns[0], columns[1], heights, columns[2]


@_compile
def _place(scores, row, numbers):  # type: ignore
    """Phase of an accepted spike, and samples from its row to it; see `esort.postprocess.fit`."""
    phases, stride, _least, _most = numbers
    rise = fall = np.int64(1)
    if 0 < row < scores.size - 1:
        rise = np.int64(scores[row]) - scores[row - 1]
        fall = np.int64(scores[row]) - scores[row + 1]
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
def _subtract(scores, kernel, first, amplitude, dirty):  # type: ignore
    """Take ``amplitude`` 64ths of the kernel, whose first lag is at row ``first``, from the scores."""
    start, stop = max(first, 0), min(first + kernel.size, scores.size)
    if start >= stop:
        return
    target, values = scores[start:stop], kernel[start - first : stop - first]
    if amplitude == AMPLITUDE_STEPS:
        for place in range(target.size):
            target[place] -= values[place]
    else:
        size, half = np.int32(amplitude), np.int32(AMPLITUDE_STEPS // 2)
        for place in range(target.size):
            target[place] -= (values[place] * size + half) >> AMPLITUDE_BITS
    # One row further, because a maximum is found by looking at both sides.
    for block in range(max(start - 1, 0) // BLOCK_SAMPLES, min(stop, scores.size - 1) // BLOCK_SAMPLES + 1):
        dirty[block] = True
