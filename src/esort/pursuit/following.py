"""Following drift: what the units look like stays as learned, the traces are moved back to it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from esort.motion import FollowedMotion
from esort.pursuit.evidence import MotionEvidence
from esort.pursuit.motion import CELL_S, NUM_CELLS, motion_around, shift_after
from esort.pursuit.scorer import PursuitScorer, scorer_of
from esort.threads import map_in_threads, one_thread_each

if TYPE_CHECKING:
    from esort.pursuit.network import PursuitNetwork

__all__ = ["Follower", "PiecewiseCell", "can_follow", "motion_of"]

# Fewer contacts, or a shorter probe, do not tell motion from firing.
_LEAST_CONTACTS, _LEAST_EXTENT_UM = 16, 150.0

# What evidence needs takes a moment to make, and each chunk has a follower of its own.
_evidences: WeakKeyDictionary[PursuitScorer | PursuitNetwork, MotionEvidence] = WeakKeyDictionary()


class Follower:
    """Tells for each cell of time how far the tissue has moved, from the cells before it alone.

    So a spike depends on no more than the `num_cells` before its own, and a stream is sorted as a file.

    Parameters
    ----------
    network : PursuitScorer or PursuitNetwork
        One that follows.
    """

    num_cells = NUM_CELLS
    """Cells before one that decide on its shift."""

    def __init__(self, network: PursuitScorer | PursuitNetwork) -> None:
        if network not in _evidences:
            with one_thread_each():
                _evidences[network] = MotionEvidence(network)
        self._source = _evidences[network]
        self._network = scorer_of(network)
        self._whitening = self._network.moved_whitening
        self._past: dict[int, np.ndarray] = {}

    @property
    def depths_um(self) -> np.ndarray:
        """Where the shifts are told, float64 (D,)."""
        return self._source.depths_um

    def evidence(self, filtered: np.ndarray) -> np.ndarray:
        """What a whole cell says about its shift, float64 (D, G); from any thread."""
        evidence = self._source.empty()
        self._source.add(evidence, filtered, 0, self._num_rows(filtered))
        return evidence.total

    def learn(self, cell: int, evidence: np.ndarray) -> None:
        """Take the evidence of a cell; those more than `num_cells` before the next one are forgotten."""
        self._past = {known: past for known, past in self._past.items() if cell - known < NUM_CELLS}
        self._past[cell] = evidence

    def shift_um(self, cell: int) -> np.ndarray:
        """Shift at each depth in a cell whose predecessors are learned, int64 (D,)."""
        past = []
        for before in range(cell - 1, cell - 1 - NUM_CELLS, -1):
            if before not in self._past:
                break
            past.append(self._past[before])
        if not past:
            return np.zeros(len(self.depths_um), dtype=np.int64)
        return shift_after(past)

    def scores(self, filtered: np.ndarray, shift_um: np.ndarray) -> np.ndarray:
        """Scores of band-passed traces (C, T) that have moved so far, float32 (n, U)."""
        return self.scores_of(self.whitened(filtered, shift_um))

    def scores_of(self, whitened: np.ndarray) -> np.ndarray:
        """Scores of whitened traces (C, T), float32 (n, U)."""
        return self._network.scores(whitened).T

    def whitened(self, filtered: np.ndarray, shift_um: np.ndarray) -> np.ndarray:
        """Whiten band-passed traces (C, T) that have moved so far."""
        return self._whitening.rows(self.depths_um, shift_um) @ filtered

    def piecewise(self, cell: int) -> PiecewiseCell:
        """Scores of a cell of a stream, as its traces come."""
        return PiecewiseCell(self, cell)

    def _num_rows(self, filtered: np.ndarray) -> int:
        return filtered.shape[1] - self._network.filters.shape[1] + 1


class PiecewiseCell:
    """A cell of a stream."""

    def __init__(self, follower: Follower, cell: int) -> None:
        self.cell = cell
        self._follower = follower
        self.shift_um = follower.shift_um(cell)
        """How far the tissue has moved in it, int64 (D,)."""
        self._evidence = follower._source.empty()
        self._held = np.zeros((0, 0), dtype=np.float32)
        self._done = 0  # rows of what is held that are in the evidence

    def whitened(self, filtered: np.ndarray) -> np.ndarray:
        """Whiten the next traces (C, n + L - 1), moved back."""
        new = filtered[:, filtered.shape[1] - self._follower._num_rows(filtered) :]
        self._held = np.concatenate([self._held, new], axis=1) if self._held.size else filtered
        self._add(self._follower._num_rows(self._held) - self._follower._source.rows_ahead)
        return self._follower.whitened(filtered, self.shift_um)

    def scores(self, filtered: np.ndarray) -> np.ndarray:
        """Scores of the next traces (C, n + L - 1): (n, U)."""
        return self._follower.scores_of(self.whitened(filtered))

    def end(self) -> None:
        """Nothing more comes of this cell: what it says is learned."""
        self._add(self._follower._num_rows(self._held))
        self._follower.learn(self.cell, self._evidence.total)

    def _add(self, upto: int) -> None:
        source = self._follower._source
        if upto <= self._done:
            return
        source.add(self._evidence, self._held, self._done, upto)
        # What the next rows look back at.
        forgotten = max(0, upto - source.rows_behind)
        self._held, self._done = self._held[:, forgotten:], upto - forgotten


def can_follow(contact_positions_um: np.ndarray) -> bool:
    """Whether contacts (C, 2) tell motion along the probe from changes of firing."""
    extent = float(np.ptp(contact_positions_um[:, 1]))
    return len(contact_positions_um) >= _LEAST_CONTACTS and extent >= _LEAST_EXTENT_UM


def motion_of(
    network: PursuitScorer | PursuitNetwork, filtered: np.ndarray, rate_hz: float
) -> FollowedMotion:
    """Find the motion in traces that are all there: (C, T), band-passed and decimated."""
    follower, length = Follower(network), round(CELL_S * rate_hz)
    ahead = network.filters.shape[1] - 1
    cells = map_in_threads(
        lambda start: follower.evidence(filtered[:, start : start + length + ahead]),
        range(0, filtered.shape[1] - ahead, length),
    )
    shift = motion_around(np.stack(cells))
    # The last rows have no score of their own.
    missing = -(-filtered.shape[1] // length) - len(shift)
    shift = np.pad(shift, ((0, missing), (0, 0)), mode="edge")
    times_s = CELL_S * (np.arange(len(shift)) + 0.5)
    return FollowedMotion(times_s=times_s, depths_um=follower.depths_um, shift_um=shift)
