"""From a stream of scores to spikes, soon after they happen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from esort.detector import UnitTables, no_spikes
from esort.postprocess import ConflictTable, Spikes
from esort.postprocess.stepwise import StepSizes, StepwiseSolver
from esort.pursuit.explain import MAX_ROUNDS, excess, exclusion_rows
from esort.pursuit.overlaps import AMPLITUDE_LIMITS, conflict_table
from esort.pursuit.scorer import PursuitScorer, scorer_of

if TYPE_CHECKING:
    from esort.pursuit.network import PursuitNetwork

__all__ = ["ScoreDetector"]

# A spike waits for the end of its step and what is looked at behind it. Shorter ones cost time and, below
# 2 ms, accuracy; longer ones gain nothing.
_STEP_MS, _AHEAD_MS, _BEHIND_MS = 5.0, 5.0, 1.0
_EPOCH_STEPS, _WARM_UP_STEPS = 200, 10

# A table takes a second to make, and a sorter makes a detector for each chunk.
_tables: WeakKeyDictionary[PursuitScorer | PursuitNetwork, ConflictTable] = WeakKeyDictionary()


def _table_of(network: PursuitScorer | PursuitNetwork) -> ConflictTable:
    if network not in _tables:
        _tables[network] = conflict_table(network)
    return _tables[network]


class ScoreDetector:
    """Takes scores piece by piece and returns the spikes that have become certain.

    As `esort.detector.Detector`, for a network whose outputs are scores: the competition is that of
    `esort.postprocess.stepwise.StepwiseSolver`.

    Parameters
    ----------
    network : PursuitScorer or PursuitNetwork
    sampling_frequency : float
        Of the recording, in Hz.
    thresholds : (U,) floats
        Least score of a spike of each unit; behind them those of the rivals in `tables` compete.
    refractory_ms : float
    competition : bool
        Without it each unit stands alone.
    tables : UnitTables
        Of which are taken the reliability, which part of the spikes of a probability is true, and the rivals,
        whose spikes are not returned.
    least_probability : float or (U,) floats
        Less probable spikes compete, but are not returned.
    """

    def __init__(
        self,
        network: PursuitScorer | PursuitNetwork,
        *,
        sampling_frequency: float,
        thresholds: Sequence[float],
        refractory_ms: float,
        competition: bool = True,
        tables: UnitTables,
        least_probability: float | Sequence[float] = 0.0,
    ) -> None:
        self._stride, self._num_units = network.stride, len(thresholds)
        thresholds = tables.with_rivals(thresholds).tolist()
        rate_hz = sampling_frequency / network.stride
        step = max(1, round(_STEP_MS * rate_hz / 1000))
        sizes = StepSizes(
            step=step,
            ahead=max(1, round(_AHEAD_MS * rate_hz / 1000)),
            behind=max(1, round(_BEHIND_MS * rate_hz / 1000)),
            epoch=_EPOCH_STEPS * step,
            warm_up=_WARM_UP_STEPS * step,
        )
        self.settings: dict[str, Any] = {
            "table": _table_of(network) if competition else None,
            "thresholds": thresholds,
            "energies": scorer_of(network).energies,
            "exclusion_samples": exclusion_rows(rate_hz, refractory_ms),
            "max_rounds": MAX_ROUNDS,
            "amplitude_limits": AMPLITUDE_LIMITS,
            "stride": network.stride,
            "sizes": sizes,
        }
        """Keywords of `StepwiseSolver`."""
        self._thresholds = np.asarray(thresholds, dtype=np.float64)
        self._reliability = tables.reliability
        self._least = np.broadcast_to(np.asarray(least_probability), self._num_units)
        self.margin_samples = sizes.margin(self.settings["exclusion_samples"]) * self._stride
        """Samples before and after a sample that decide on it."""
        self.latency_samples = sizes.latency * self._stride
        """Samples after a spike that decide on it: the latency of the post-processing."""
        self.accepted = no_spikes()
        """Spikes that the last call decided on, rivals' too, with scores in the place of probabilities."""
        self._solver: StepwiseSolver | None = None

    def push(self, scores: np.ndarray, start_sample: int) -> Spikes:
        """Take the next scores and return the spikes that became certain.

        Parameters
        ----------
        scores : float32 array, shape (n, U)
        start_sample : int
            Sample of the recording of the first row: where the rows before ended, or anywhere for the first.
        """
        if self._solver is None:
            self._solver = StepwiseSolver(first_row=start_sample // self._stride, **self.settings)
        assert start_sample == self._solver.stop_row * self._stride
        return self._believed(self._solver.push(scores))

    def finish(self) -> Spikes:
        """Return the spikes of the last samples: nothing follows them."""
        return self._believed(no_spikes() if self._solver is None else self._solver.finish())

    def reset(self) -> None:
        """Forget the past: the next scores may start anywhere."""
        self._solver, self.accepted = None, no_spikes()

    def _believed(self, spikes: Spikes) -> Spikes:
        """Turn scores into probabilities, and leave out rivals and what is not probable enough."""
        self.accepted = spikes
        own = spikes.unit_index < self._num_units
        spikes = Spikes(spikes.sample_index[own], spikes.unit_index[own], spikes.probability[own])
        above = excess(spikes.probability, self._thresholds[spikes.unit_index])
        probability = np.interp(above, *self._reliability).astype(np.float32)
        kept = probability >= self._least[spikes.unit_index]
        return Spikes(spikes.sample_index[kept], spikes.unit_index[kept], probability[kept])
