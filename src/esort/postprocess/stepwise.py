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
from .compiled_graph import LANES
from .compiled_kernels import MOVED, NO_SPIKES, ROW, SCORE, UNIT, more_room, solve_window, take_out
from .compiled_window import bar, load_window, make_window
from .conflicts import MOST_SCORE, energy_scale
from .engine import graph_of
from .fit import AMPLITUDE_STEPS, Fit, amplitude_steps
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
        Multiple of `step`. At multiples of it everything but the last spikes is forgotten, so that a spike
        depends on no more than an epoch and `warm_up` before it, wherever the solving began.
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

    def margin(self, exclusion_samples: int) -> int:
        """Rows before a row from which on solving must have begun for its spikes not to depend on where."""
        return self.epoch + self.warm_up + max(self.latency, exclusion_samples)


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
        See `esort.postprocess.solve_conflicts`; spikes of a unit keep the distance across epochs too.
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
        # Rows from an accepted spike to the last one that it changes anything at.
        self._far = max(exclusion_samples, 0 if table is None else table.reach_samples)
        self._fixed = np.zeros((num_units, LANES), dtype=np.int32)  # behind the rows, room for a vector
        self._first = self._stop = first_row  # rows that are held
        self._begin = first_row
        self._from = first_row  # row that the present epoch is solved from
        self._taken = NO_SPIKES  # since then, as far as they matter yet
        self._exclusion = exclusion_samples
        self._before = NO_SPIKES  # the last ones of the epoch before
        self._next = first_row // sizes.step * sizes.step  # step to be decided

    @property
    def stop_row(self) -> int:
        """Row that the next piece begins with."""
        return self._stop

    def push(self, scores: np.ndarray) -> Spikes:
        """Take the next scores, (n, U); return the spikes that were decided, by sample, then unit.

        Raises
        ------
        ValueError
            If a score is not finite.
        """
        scores = np.asarray(scores, dtype=np.float32)
        self._make_room(len(scores))
        if not by_unit(scores, self._scale, MOST_SCORE, self._fixed, self._stop - self._first):
            checks.check_finite(np, scores)
        self._stop += len(scores)
        return self._decide(self.stop_row - self.sizes.ahead)

    def finish(self) -> Spikes:
        """Return the spikes of the last rows: nothing follows them."""
        return self._decide(self.stop_row + self.sizes.step - 1)

    def _make_room(self, num_rows: int) -> None:
        """Forget what neither a later step nor the warm-up of the next epoch looks at."""
        if self._stop - self._first + num_rows + LANES <= self._fixed.shape[1]:
            return
        first = max(self._next - self.sizes.warm_up - self.sizes.behind - 1, self._first)
        first = min(first, self._stop)
        kept = self._fixed[:, first - self._first : self._stop - self._first]
        # Twice what is kept: short pieces do not move it each time.
        length = max(num_rows, kept.shape[1]) + kept.shape[1] + LANES
        if length > self._fixed.shape[1]:
            fixed = np.empty((len(kept), length), dtype=np.int32)
        else:
            fixed, kept = self._fixed, kept.copy()
        fixed[:, : kept.shape[1]] = kept
        self._fixed, self._first = fixed, first

    def _decide(self, upto: int) -> Spikes:
        """Decide on the steps that end at `upto` or before."""
        sizes, found = self.sizes, [NO_SPIKES]
        while self._next + sizes.step <= upto:
            start = self._next
            until = min(upto // sizes.step * sizes.step, (start // sizes.epoch + 1) * sizes.epoch)
            if start % sizes.epoch == 0 and start > self._begin:
                self._begin_epoch(start)
            found.append(self._apart(self._run(start, until)))
            self._next = until
        spikes = np.concatenate(found)
        sample = spikes[:, ROW] * self._stride + spikes[:, MOVED]
        order = np.lexsort((spikes[:, UNIT], sample))
        score = spikes[order, SCORE].astype(np.float32) / np.float32(self._scale)
        return Spikes(sample[order], spikes[order, UNIT], score)

    def _begin_epoch(self, start: int) -> None:
        """Find the spikes around the start of an epoch, knowing only `warm_up` rows before it."""
        self._from = max(start - self.sizes.warm_up, self._begin)
        self._before, self._taken = self._taken, NO_SPIKES
        self._run(self._from // self.sizes.step * self.sizes.step, start)

    def _apart(self, spikes: np.ndarray) -> np.ndarray:
        """Leave out what is too close to a spike of the epoch before, which this one need not have found."""
        before = self._before
        close = np.abs(spikes[:, None, ROW] - before[:, ROW]) < self._exclusion
        close &= spikes[:, None, UNIT] == before[:, UNIT]
        return spikes[~close.any(axis=1)]

    def _run(self, start: int, stop: int) -> np.ndarray:
        """Spikes, (S, 6), of the steps from `start` to `stop`."""
        sizes = (self.sizes.step, self.sizes.ahead, self.sizes.behind, self._far)
        rows = (self._from, self._stop, self._first, self._fixed.shape[1])
        spikes, begin = _run_steps(
            self._fixed.reshape(-1), rows, start, stop, self._taken, sizes, *self._constant
        )
        self._taken = spikes[spikes[:, ROW] + self._far >= stop - self.sizes.behind - 1]
        return spikes[begin:]


@_compile
def _run_steps(line, rows, start, stop, taken, sizes, limits, graph, exclusion, *fit):  # type: ignore
    """Decide on the steps from `start` to `stop`; return what was taken before and now, and where now begins.

    `line` is int32 (U, row_length) in one, its first column the row `held`.
    """
    step, ahead, behind, far = sizes
    begin_row, stop_row, held, row_length = rows
    max_rounds, energies, numbers = fit
    known = taken.shape[0]
    count, oldest = known, 0
    spikes = np.empty((2 * known + 64, 6), dtype=np.int64)
    spikes[:known] = taken
    room = make_window(limits.size, behind + 1 + step + ahead)
    for begin in range(start, stop, step):
        end = begin + step
        # One row more than may be taken: a maximum shows only beside what is before it.
        first, last = max(begin - behind - 1, begin_row), min(end + ahead, stop_row)
        if first >= last:
            continue
        window = load_window(room, line, row_length, first - held, last - first, limits)
        while oldest < count and spikes[oldest, ROW] + far < first:
            oldest += 1
        take_out(window, spikes, oldest, count, first, graph, exclusion, limits)
        if begin - behind - 1 >= begin_row:
            for unit in range(limits.size):
                bar(window.marks, unit, 0, 1, last - first)
        found = solve_window(window, limits, graph, exclusion, max_rounds, energies, numbers)
        for spike in range(found.shape[0]):
            if found[spike, ROW] + first >= end:
                continue  # only thought of, for the sake of those before it
            if count == spikes.shape[0]:
                spikes = more_room(spikes, count)
            spikes[count] = found[spike]
            spikes[count, ROW] += first
            count += 1
    return spikes[:count], known
