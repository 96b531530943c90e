"""From a stream of scores to spikes, keeping as little of the past as certainty needs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from esort.detector import UnitTables, no_spikes
from esort.postprocess import Spikes, conflict_margin_samples
from esort.pursuit.explain import MAX_ROUNDS, exclusion_rows, solve
from esort.pursuit.network import PursuitNetwork
from esort.pursuit.overlaps import conflict_table

__all__ = ["ScoreDetector"]


class ScoreDetector:
    """Takes scores piece by piece and returns the spikes that have become certain.

    As `esort.detector.Detector`, for a network whose outputs are scores: the competition is that of
    `esort.postprocess.solve_conflicts`.

    Parameters
    ----------
    network : PursuitNetwork
    sampling_frequency : float
        Of the recording, in Hz.
    thresholds : (U,) floats
        Least score of a spike of each unit.
    refractory_ms : float
    competition : bool
        Without it each unit stands alone.
    tables : UnitTables
        Of which the reliability is taken: which part of the spikes of a probability is true.
    least_probability : float or (U,) floats
        Less probable spikes compete, but are not returned.
    """

    def __init__(
        self,
        network: PursuitNetwork,
        *,
        sampling_frequency: float,
        thresholds: Sequence[float],
        refractory_ms: float,
        competition: bool = True,
        tables: UnitTables,
        least_probability: float | Sequence[float] = 0.0,
    ) -> None:
        self._stride = network.stride
        self._exclusion = exclusion_rows(sampling_frequency / network.stride, refractory_ms)
        self._table = conflict_table(network) if competition else None
        self._thresholds = np.asarray(thresholds, dtype=np.float64)
        self._energies = network.energies.numpy()
        self._reliability = tables.reliability
        self._least = np.broadcast_to(np.asarray(least_probability), self._thresholds.shape)
        self._margin_rows = conflict_margin_samples(
            self._table, exclusion_samples=self._exclusion, max_rounds=MAX_ROUNDS
        )
        self.margin_samples = self._margin_rows * self._stride
        """Samples before and after a sample that decide on it: the latency of the post-processing."""
        self._held: list[np.ndarray] = []
        self._first = self._done = self._stop = 0  # in rows

    def push(self, scores: np.ndarray, start_sample: int) -> Spikes:
        """Take the next scores and return the spikes that became certain.

        Parameters
        ----------
        scores : float32 array, shape (n, U)
        start_sample : int
            Sample of the recording of the first row: where the rows before ended, or anywhere for the first.
        """
        if not self._held:
            self._first = self._done = self._stop = start_sample // self._stride
        assert start_sample == self._stop * self._stride
        self._held.append(scores.T)
        self._stop += len(scores)
        return self._detect(self._stop - self._margin_rows)

    def finish(self) -> Spikes:
        """Return the spikes of the last samples: nothing follows them."""
        return self._detect(self._stop)

    def _detect(self, upto: int) -> Spikes:
        if not self._held or upto <= self._done:
            return no_spikes()
        held = np.concatenate(self._held, axis=1)  # (U, n)
        spikes = solve(
            held.T,
            self._table,
            self._thresholds,
            self._energies,
            exclusion_rows=self._exclusion,
            stride=self._stride,
            first_sample=self._first * self._stride,
            core=(self._done - self._first, upto - self._first),
        )
        self._done = upto
        keep = max(self._first, upto - self._margin_rows)
        self._held, self._first = [held[:, keep - self._first :]], keep
        return self._believed(spikes)

    def _believed(self, spikes: Spikes) -> Spikes:
        """Turn scores into probabilities, and leave out what is not probable enough."""
        excess = 1 - self._thresholds[spikes.unit_index] / np.maximum(spikes.probability, 1e-9)
        probability = np.interp(excess, *self._reliability).astype(np.float32)
        kept = probability >= self._least[spikes.unit_index]
        return Spikes(spikes.sample_index[kept], spikes.unit_index[kept], probability[kept])
