"""How well large spikes fit the units, had the tissue moved so far: what motion is told from.

For every large event, the best score over the units near it, for each shift of a grid; summed over many
events it peaks at the shift of the tissue. Nothing is carried from one stretch to the next, so that no error
can grow.
Shapes: C channels, F filters, U units, G shifts, D depths, H channels of a unit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esort.pursuit.large_events import NUM_ROWS, ROWS_BEFORE, SHIFTS_TOGETHER, add_events
from esort.pursuit.mixing import SparseRows
from esort.pursuit.moving import interpolation
from esort.pursuit.scorer import PursuitScorer, scorer_of

if TYPE_CHECKING:
    from esort.pursuit.network import PursuitNetwork

__all__ = ["SHIFTS_UM", "CellEvidence", "MotionEvidence"]

SHIFTS_UM = np.arange(-60.0, 61.0, 5.0)
"""Shifts that are tried, (G,)."""

# An event is the largest this far around it.
_PEAK_UM = 75.0
# Where the centre of a unit may be from the peak of its spike, once moved: along the probe, and across it.
_REACH_UM, _SIDE_UM = 95.0, 120.0
# Shifts that tell which units an event may be of.
_COARSE = [4, 8, 12, 16, 20]
# Channels on which the score of a shift is computed: fewer do not hold a wide unit that has moved, and pull
# every estimate towards 0.
_NUM_CHANNELS = 16
# They are chosen among so many around the unit.
_NUM_NEAR = 128
# More events of a cell and window cost time and gain nothing.
_MOST_EVENTS = 8
# Distance and width of the windows over depth that may move apart.
_WINDOW_UM, _WINDOW_WIDTH_UM = 200.0, 150.0
assert len(SHIFTS_UM) % SHIFTS_TOGETHER == len(_COARSE) % SHIFTS_TOGETHER == 0


class CellEvidence(NamedTuple):
    """What a cell of time says, so far."""

    total: np.ndarray
    """float64, shape (D, G)."""
    quota: np.ndarray
    """Events that are still looked at, int64 (D,) by the window that they are nearest to."""


class MotionEvidence:
    """Collects evidence from band-passed traces.

    Parameters
    ----------
    network : PursuitScorer or PursuitNetwork
        Its units have learned where the shift is 0.
    """

    def __init__(self, network: PursuitScorer | PursuitNetwork) -> None:
        network = scorer_of(network)
        positions = network.positions.astype(np.float64)  # (C, 2)
        low, high = positions[:, 1].min(), positions[:, 1].max()
        number = max(1, round((high - low) / _WINDOW_UM) - 1)
        margin = (high - low) / (number + 1)
        self.depths_um = np.linspace(low + margin, high - margin, number)
        """Centres of the windows, (D,)."""
        distance = np.linalg.norm(positions[:, None] - positions[None], axis=2)  # (C, C)
        off = positions[:, 1, None] - self.depths_um  # (C, D)
        noise = network.noise_uv
        apart = np.abs(positions[:, None] - _centres(network, positions)[None])  # (C, U, 2)
        bank, channels = _bank(network, positions, noise, np.linalg.norm(apart, axis=2))
        self._constant = (
            bank,
            np.ascontiguousarray(bank[:, :, _COARSE]),
            channels,
            network.energies,
            network.filters,
            network.filter_before,
            (1 / noise).astype(np.float32),
            _lists(distance <= _PEAK_UM),
            _lists((apart[:, :, 1] <= _REACH_UM) & (apart[:, :, 0] <= _SIDE_UM)),
            np.exp(-0.5 * (off / _WINDOW_WIDTH_UM) ** 2),
            np.abs(off).argmin(axis=1),
        )

    @property
    def rows_behind(self) -> int:
        """Rows of scores before an event's that its evidence looks at, also at the end of a cell."""
        return max(ROWS_BEFORE, NUM_ROWS - self.rows_ahead)

    @property
    def rows_ahead(self) -> int:
        """Rows of scores behind an event's that its evidence looks at."""
        return NUM_ROWS - ROWS_BEFORE - 1

    def empty(self) -> CellEvidence:
        """No evidence yet."""
        return CellEvidence(
            total=np.zeros((len(self.depths_um), len(SHIFTS_UM))),
            quota=np.full(len(self.depths_um), _MOST_EVENTS),
        )

    def add(self, evidence: CellEvidence, filtered: np.ndarray, first: int, last: int) -> None:
        """Add the events with their peak in the score rows [first, last).

        The sum is the same, to the bit, when a stretch is added piece by piece.

        Parameters
        ----------
        evidence : CellEvidence
            Changed in place.
        filtered : float32 array, shape (C, n + L - 1)
            Band-passed and decimated; row i of the scores sees the columns from i to i + L - 1.
        first, last : int
            In [0, n].
        """
        add_events(
            evidence.total, evidence.quota, np.ascontiguousarray(filtered), first, last, *self._constant
        )


def _centres(network: PursuitScorer, positions: np.ndarray) -> np.ndarray:
    """Where the energy of each unit lies, (U, 2)."""
    energy = np.square(network.footprints).sum(axis=2).astype(np.float64)  # (U, M)
    where = positions[network.footprint_channels]  # (U, M, 2)
    return (where * energy[:, :, None]).sum(axis=1) / np.maximum(energy.sum(axis=1), 1e-9)[:, None]


def _bank(
    network: PursuitScorer, positions: np.ndarray, noise: np.ndarray, distance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Heads as they look at traces before the whitening, for each shift.

    Parameters
    ----------
    network : PursuitScorer
    positions : float array, shape (C, 2)
    noise : float array, shape (C,)
    distance : float array, shape (C, U)
        From each unit's centre.

    Returns
    -------
    bank : float32 array, shape (U, H · F, G)
    channels : int64 array, shape (U, H)
        The strongest, over all shifts.
    """
    present, every = np.isfinite(noise), np.full(len(positions), 1.0)
    few = SparseRows(network.whitening)
    moved = np.stack(
        [few @ interpolation(positions, shift * every, present) for shift in SHIFTS_UM]
    )  # (G, C, C)
    level = np.where(present, noise, 0.0).astype(np.float32)
    number = min(_NUM_CHANNELS, len(positions))
    banks, channels = [], []
    # For all units at once this would grow with the square of the channels.
    for unit_index in range(network.num_units):
        near = np.sort(np.argsort(distance[:, unit_index], kind="stable")[:_NUM_NEAR])  # (N,)
        rows = moved[:, network.head_channels[unit_index]][:, :, near]  # (G, M, N)
        whole = rows.swapaxes(1, 2) @ network.heads[unit_index]  # (G, N, F)
        strength = np.square(whole * level[near, None]).sum(axis=(0, 2))  # (N,)
        strongest = np.sort(np.argsort(-strength, kind="stable")[:number])  # (H,)
        banks.append(whole[:, strongest].transpose(1, 2, 0))  # (H, F, G)
        channels.append(near[strongest])
    bank = np.ascontiguousarray(banks, dtype=np.float32)  # (U, H, F, G)
    return bank.reshape(len(bank), -1, len(SHIFTS_UM)), np.stack(channels)


def _lists(related: np.ndarray) -> np.ndarray:
    """Columns that are true in each row, behind them -1."""
    width = max(1, int(related.sum(axis=1).max()))
    lists = np.full((len(related), width), -1, dtype=np.int64)
    for row, columns in enumerate(map(np.flatnonzero, related)):
        lists[row, : len(columns)] = columns
    return lists
