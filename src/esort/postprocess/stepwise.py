"""The conflict graph solved from left to right: spikes soon after they happen, and no second look.

`solve_conflicts` decides on all spikes of a stretch together, so that a sample is only certain once ten
kernels' lengths follow it. Here a short step is decided with the little that follows it, its spikes are taken
out of the scores for good, and the next step begins from what is left.
Shapes: N rows, U units, S spikes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from . import checks
from .compiled_kernels import AMPLITUDE_BITS, AMPLITUDE_STEPS, solve_window
from .conflicts import MOST_SCORE, energy_scale
from .engine import graph_of
from .fit import Fit, amplitude_steps
from .fixed_point import by_unit
from .spikes import Spikes
from .table import ConflictTable

__all__ = ["StepSizes", "StepwiseSolver"]

_compile: Any = numba.njit(nogil=True, cache=True)


@dataclass(frozen=True, kw_only=True)
class StepSizes:
    """How the rows are cut; all in rows.

    Parameters
    ----------
    step : int
        Spikes of so many rows are decided together; steps start at multiples of it.
    ahead : int
        Rows behind a step that are looked at.
    behind : int
        Rows before a step where a spike that the step before it left out is still taken.
    epoch : int
        Multiple of `step`. At multiples of it everything is forgotten, so that a spike depends on no more
        than an epoch and `warm_up` before it, wherever the solving began.
    warm_up : int
        Multiple of `step`: rows before an epoch from which on its scores are cleared of spikes anew.

    Raises
    ------
    ValueError
        If a number is below its least value or no multiple.
    """

    step: int
    ahead: int
    behind: int
    epoch: int
    warm_up: int

    def __post_init__(self) -> None:
        for name, least in (("step", 1), ("ahead", 1), ("behind", 1), ("epoch", 1), ("warm_up", 0)):
            checks.check_count(name, getattr(self, name), least=least)
        for name in ("epoch", "warm_up"):
            if getattr(self, name) % self.step:
                raise ValueError(
                    f"{name} must be a multiple of step={self.step} rows, got {getattr(self, name)}"
                )

    @property
    def latency(self) -> int:
        """Rows from a spike's row to the last one that decides on it, at most."""
        return self.behind + self.step + self.ahead

    @property
    def margin(self) -> int:
        """Rows before a row from which on solving must have begun for its spikes not to depend on where."""
        return self.epoch + self.warm_up + self.latency


class StepwiseSolver:
    """Takes energy scores piece by piece and returns the spikes of the steps that are decided.

    Phases, amplitudes and fixed point are those of `esort.postprocess.solve_conflicts`, and so are the spikes
    where what follows a step by more than `StepSizes.ahead` has no say in it. The pieces may have any length.
    NumPy and numba only.

    Parameters
    ----------
    table : ConflictTable or None
    thresholds, energies : (U,) floats
    sizes : StepSizes
    exclusion_samples, max_rounds, stride, amplitude_limits
        See `esort.postprocess.solve_conflicts`.
    first_row : int
        Of the first piece.
    """

    def __init__(
        self,
        table: ConflictTable | None,
        *,
        thresholds: Sequence[float] | np.ndarray,
        energies: Sequence[float] | np.ndarray,
        sizes: StepSizes,
        exclusion_samples: int,
        max_rounds: int,
        amplitude_limits: tuple[float, float],
        stride: int = 1,
        first_row: int = 0,
    ) -> None:
        self.sizes = sizes
        num_units = len(thresholds)
        most = amplitude_steps(amplitude_limits)[1] / AMPLITUDE_STEPS
        self._scale = energy_scale(table, exclusion_samples, None, most)
        self._graph = graph_of(table, self._scale, num_units)
        fit = Fit.make(
            phases=1 if table is None else table.phases,
            stride=stride,
            energies=np.asarray(energies, dtype=np.float32),
            amplitude_limits=amplitude_limits,
            scale=self._scale,
        )
        limits = np.clip(np.asarray(thresholds, dtype=np.float32), 1 / self._scale, MOST_SCORE / self._scale)
        self._constant = (
            np.round(limits * self._scale).astype(np.int32),
            self._graph,
            exclusion_samples,
            max_rounds,
            np.stack([np.asarray(fit.energies), np.asarray(fit.shifts)], axis=1),  # (U, 2)
            (fit.phases, fit.stride, fit.least, fit.most),
        )
        self._stride = stride
        # Behind the rows that are known, what spikes have taken from rows that are still to come.
        self._tail = max(exclusion_samples, 0 if table is None else table.reach_samples)
        self._raw = np.zeros((num_units, 0), dtype=np.int32)
        self._left, self._barred = _with_tail(self._raw, self._tail)
        self._raw_first = self._first = first_row
        self._begin = first_row
        self._next = first_row // sizes.step * sizes.step  # step to be decided
        self._spikes = Spikes(
            np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
        )

    @property
    def stop_row(self) -> int:
        """Row that the next piece begins with."""
        return self._raw_first + self._raw.shape[1]

    def push(self, scores: np.ndarray) -> Spikes:
        """Take the next scores, (n, U); return the spikes that were decided, by sample, then unit.

        Raises
        ------
        ValueError
            If a score is not finite.
        """
        fixed, finite = by_unit(np.asarray(scores, dtype=np.float32), self._scale, MOST_SCORE)
        if not finite:
            checks.check_finite(np, scores)
        self._raw = np.concatenate([self._raw, fixed], axis=1)
        left, barred = _with_tail(fixed, self._tail)
        left[:, : self._tail] += self._left[:, -self._tail :]
        barred[:, : self._tail] |= self._barred[:, -self._tail :]
        self._left = np.concatenate([self._left[:, : -self._tail], left], axis=1)
        self._barred = np.concatenate([self._barred[:, : -self._tail], barred], axis=1)
        return self._decide(self.stop_row - self.sizes.ahead)

    def finish(self) -> Spikes:
        """Return the spikes of the last rows: nothing follows them."""
        return self._decide(self.stop_row + self.sizes.step - 1)

    def _decide(self, upto: int) -> Spikes:
        """Decide on the steps that end at `upto` or before."""
        sizes, found = self.sizes, [self._spikes]
        while self._next + sizes.step <= upto:
            start = self._next
            until = min(upto // sizes.step * sizes.step, (start // sizes.epoch + 1) * sizes.epoch)
            if start % sizes.epoch == 0 and start > self._begin:
                self._begin_epoch(start)
            found.append(self._run(start, until))
            self._next = until
        self._forget()
        columns = [np.concatenate([getattr(part, name) for part in found]) for name in _COLUMNS]
        order = np.lexsort((columns[1], columns[0]))
        return Spikes(*(column[order] for column in columns))

    def _begin_epoch(self, start: int) -> None:
        """Clear the scores around the start of an epoch of spikes, knowing only `warm_up` rows before it."""
        first = max(start - self.sizes.warm_up, self._begin)
        self._left, self._barred = _with_tail(self._raw[:, first - self._raw_first :], self._tail)
        self._first = first
        self._run(first // self.sizes.step * self.sizes.step, start)

    def _run(self, start: int, stop: int) -> Spikes:
        if start >= stop:
            return self._spikes
        sizes = (self.sizes.step, self.sizes.ahead, self.sizes.behind)
        row, unit, score, moved = _run_steps(
            self._left,
            self._barred,
            self.stop_row - self._first,
            start - self._first,
            stop - self._first,
            sizes,
            *self._constant,
        )
        return Spikes(
            (row + self._first) * self._stride + moved,
            unit,
            score.astype(np.float32) / np.float32(self._scale),
        )

    def _forget(self) -> None:
        """Keep what later steps look at, and what the next epoch warms up with."""
        keep = min(max(self._next - self.sizes.behind - 1, self._first), self.stop_row)
        # Whole copies: a view would keep the memory of all that came before.
        self._left = self._left[:, keep - self._first :].copy()
        self._barred = self._barred[:, keep - self._first :].copy()
        self._first = keep
        warm = max(self._next - self.sizes.warm_up - self.sizes.behind - 1, self._raw_first)
        keep = min(warm, self.stop_row)
        self._raw, self._raw_first = self._raw[:, keep - self._raw_first :].copy(), keep


_COLUMNS = ("sample_index", "unit_index", "probability")


def _with_tail(fixed: np.ndarray, tail: int) -> tuple[np.ndarray, np.ndarray]:
    left = np.pad(fixed, ((0, 0), (0, tail)))
    return left, np.zeros(left.shape, dtype=np.bool_)


@_compile
def _run_steps(left, barred, num_rows, start, stop, sizes, limits, graph, exclusion, *fit):  # type: ignore
    """Decide on the steps from `start` to `stop`, and take their spikes out of `left`."""
    step, ahead, behind = sizes
    max_rounds, energies, numbers = fit
    capacity, count = 64, 0
    columns = np.empty((3, capacity), dtype=np.int64)
    heights = np.empty(capacity, dtype=np.int32)
    for begin in range(start, stop, step):
        end = begin + step
        # One row more than may be taken: a maximum shows only beside what is before it.
        first, last = max(begin - behind - 1, 0), min(end + ahead, num_rows)
        if first >= last:
            continue
        scores, closed = left[:, first:last].copy(), barred[:, first:last].copy()
        if begin - behind - 1 >= 0:
            closed[:, 0] = True
        row, unit, height, moved, phase, size = solve_window(
            scores, closed, limits, graph, exclusion, max_rounds, energies, numbers
        )
        for spike in range(row.size):
            if row[spike] + first >= end:
                continue  # only thought of, for the sake of those before it
            _take_out(
                left, barred, row[spike] + first, unit[spike], phase[spike], size[spike], graph, exclusion
            )
            if count == capacity:
                capacity *= 2
                columns, heights = _grown(columns, heights, capacity)
            columns[0, count], columns[1, count] = row[spike] + first, unit[spike]
            columns[2, count], heights[count] = moved[spike], height[spike]
            count += 1
    return columns[0, :count], columns[1, :count], heights[:count], columns[2, :count]


@_compile
def _grown(columns, heights, capacity):  # type: ignore
    more = np.empty((3, capacity), dtype=np.int64)
    higher = np.empty(capacity, dtype=np.int32)
    more[:, : columns.shape[1]] = columns
    higher[: heights.size] = heights
    return more, higher


@_compile
def _take_out(left, barred, row, own, phase, size, graph, exclusion):  # type: ignore
    """Lower the neighbours' scores by a spike for good, and bar its surroundings to its unit."""
    num_rows = left.shape[1]
    barred[own, max(row - exclusion + 1, 0) : min(row + exclusion, num_rows)] = True
    for position in range(graph.neighbours.shape[1]):
        other = graph.neighbours[own, position]
        if other < 0:
            break  # they come first
        if graph.exclusive[own, position]:
            reach = graph.exclusive_samples
            barred[other, max(row - reach, 0) : min(row + reach + 1, num_rows)] = True
        pair = graph.kernel_out[own, position]
        kernel, first = graph.start[pair] + phase * graph.length[pair], row + graph.first_lag[pair]
        for at in range(max(first, 0), min(first + graph.length[pair], num_rows)):
            product = np.int64(graph.values[kernel + at - first]) * size + AMPLITUDE_STEPS // 2
            left[other, at] -= np.int32(product >> AMPLITUDE_BITS)
