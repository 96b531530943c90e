"""How well large spikes fit the units, had the tissue moved so far: what motion is told from.

For every large event, the best score over the units near it, for each shift of a grid; summed over many
events it peaks at the shift of the tissue. Nothing is carried from one stretch to the next, so that no error
can grow.
Shapes: C channels, F filters, U units, G shifts, D depths, H channels of a unit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np

from esort.pursuit.missing import learned_noise
from esort.pursuit.moving import interpolation
from esort.pursuit.scorer import PursuitScorer, scorer_of

if TYPE_CHECKING:
    from esort.pursuit.network import PursuitNetwork

__all__ = ["SHIFTS_UM", "CellEvidence", "MotionEvidence"]

SHIFTS_UM = np.arange(-60.0, 61.0, 5.0)
"""Shifts that are tried, (G,)."""

# An event is so many noise levels high, and the largest this far around it.
_LEAST_HEIGHT = 7.0
_PEAK_ROWS, _PEAK_UM = 8, 75.0
# Where the centre of a unit may be from the peak of its spike, once moved: along the probe, and across it.
_REACH_UM, _SIDE_UM = 95.0, 120.0
# Rows around the peak, and before it, in which a unit's best score is looked for.
_NUM_ROWS, _ROWS_BEFORE = 8, 3
# Units that an event may be of: those that score most at these of the shifts.
_NUM_LIKELY, _COARSE = 3, [4, 8, 12, 16, 20]
# Channels on which the score of a shift is computed: fewer do not hold a wide unit that has moved, and pull
# every estimate towards 0.
_NUM_CHANNELS = 16
# A smaller score, also as part of the unit's energy, is noise or another unit.
_LEAST_SCORE, _LEAST_PART = 10.0, 0.1
# More events of a cell and window cost time and gain nothing.
_MOST_EVENTS = 8
# Distance and width of the windows over depth that may move apart.
_WINDOW_UM, _WINDOW_WIDTH_UM = 200.0, 150.0

_compile: Any = numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz"}, error_model="numpy")


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
        noise = learned_noise(network)
        bank, channels = _bank(network, positions, noise)
        apart = np.abs(positions[:, None] - _centres(network, positions)[None])  # (C, U, 2)
        self._constant = (
            bank,
            np.ascontiguousarray(bank[:, :, _COARSE]),
            channels,
            network.energies,
            np.ascontiguousarray(network.filters.T),  # (Lb, F)
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
        return max(_ROWS_BEFORE, _NUM_ROWS - self.rows_ahead)

    @property
    def rows_ahead(self) -> int:
        """Rows of scores behind an event's that its evidence looks at."""
        return _NUM_ROWS - _ROWS_BEFORE - 1

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
        _add(evidence.total, evidence.quota, np.ascontiguousarray(filtered), first, last, *self._constant)


def _centres(network: PursuitScorer, positions: np.ndarray) -> np.ndarray:
    """Where the energy of each unit lies, (U, 2)."""
    energy = np.square(network.footprints).sum(axis=2).astype(np.float64)  # (U, M)
    where = positions[network.footprint_channels]  # (U, M, 2)
    return (where * energy[:, :, None]).sum(axis=1) / np.maximum(energy.sum(axis=1), 1e-9)[:, None]


def _bank(network: PursuitScorer, positions: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Heads as they look at traces before the whitening, for each shift.

    Returns
    -------
    bank : float32 array, shape (U, H · F, G)
    channels : int64 array, shape (U, H)
        The strongest, over all shifts.
    """
    present, every = np.isfinite(noise), np.full(len(positions), 1.0)
    moved = np.stack(
        [network.whitening @ interpolation(positions, shift * every, present) for shift in SHIFTS_UM]
    )  # (G, C, C)
    level = np.where(present, noise, 0.0).astype(np.float32)
    number = min(_NUM_CHANNELS, len(positions))
    banks, channels = [], []
    # For all units at once this would grow with the square of the channels.
    for unit_index in range(network.num_units):
        rows = moved[:, network.head_channels[unit_index]]  # (G, M, C)
        whole = rows.swapaxes(1, 2) @ network.heads[unit_index]  # (G, C, F)
        strength = np.square(whole * level[:, None]).sum(axis=(0, 2))  # (C,)
        strongest = np.sort(np.argsort(-strength, kind="stable")[:number])  # (H,)
        banks.append(whole[:, strongest].transpose(1, 2, 0))  # (H, F, G)
        channels.append(strongest)
    bank = np.ascontiguousarray(banks, dtype=np.float32)  # (U, H, F, G)
    return bank.reshape(len(bank), -1, len(SHIFTS_UM)), np.stack(channels)


def _lists(related: np.ndarray) -> np.ndarray:
    """Columns that are true in each row, behind them -1."""
    width = max(1, int(related.sum(axis=1).max()))
    lists = np.full((len(related), width), -1, dtype=np.int64)
    for row, columns in enumerate(map(np.flatnonzero, related)):
        lists[row, : len(columns)] = columns
    return lists


@_compile
def _add(evidence, quota, filtered, first, last, *constant):  # type: ignore
    bank, coarse, channels, energies, filters, before, scale, near, units, weights, region = constant
    length, num_filters = filters.shape  # (Lb, F)
    num_rows = filtered.shape[1] - length + 1
    if num_rows < _NUM_ROWS:
        return
    windows = np.empty((filtered.shape[0] * _NUM_ROWS, length), dtype=np.float32)
    seen = np.empty((_NUM_ROWS, channels.shape[1] * num_filters), dtype=np.float32)
    place = np.empty(filtered.shape[0], dtype=np.int64)
    known = np.zeros(filtered.shape[0], dtype=np.int64)
    best = np.empty(bank.shape[2], dtype=np.float32)
    likely = np.zeros(_NUM_LIKELY, dtype=np.int64)
    event = 0
    for row in range(first, last):
        for channel in range(filtered.shape[0]):
            if quota[region[channel]] == 0 or not _is_peak(filtered, row + before, channel, scale, near):
                continue
            quota[region[channel]] -= 1
            event += 1
            low = min(max(row - _ROWS_BEFORE, 0), num_rows - _NUM_ROWS)
            count = 0
            for unit in units[channel]:
                if unit < 0:
                    break
                for member in channels[unit]:
                    if known[member] != event:
                        known[member], place[member] = event, count
                        for at in range(_NUM_ROWS):
                            windows[count + at] = filtered[member, low + at : low + at + length]
                        count += _NUM_ROWS
            features = np.dot(windows[:count], filters)  # (m K, F)
            best[:] = 0
            found = _likeliest(units[channel], channels, place, features, coarse, energies, likely)
            for unit in likely[:found]:
                for number in range(channels.shape[1]):
                    start = place[channels[unit, number]]
                    for at in range(_NUM_ROWS):
                        for filter_ in range(num_filters):
                            seen[at, number * num_filters + filter_] = features[start + at, filter_]
                scores = np.dot(seen, bank[unit])  # (K, G)
                half, least = energies[unit] / 2, max(_LEAST_SCORE, _LEAST_PART * energies[unit])
                for at in range(_NUM_ROWS):
                    for shift in range(best.size):
                        score = scores[at, shift] - half
                        if score >= least and score > best[shift]:
                            best[shift] = score
            # What does not fit grows with a spike: the largest would decide alone.
            share = 1 / np.sqrt(max(best.max(), _LEAST_SCORE))
            for window in range(evidence.shape[0]):
                for shift in range(best.size):
                    evidence[window, shift] += weights[channel, window] * share * best[shift]


@_compile
def _is_peak(filtered, column, channel, scale, near):  # type: ignore
    height = abs(filtered[channel, column]) * scale[channel]
    if not height >= _LEAST_HEIGHT:
        return False
    first, last = max(column - _PEAK_ROWS, 0), min(column + _PEAK_ROWS + 1, filtered.shape[1])
    for place in range(near.shape[1]):
        other = near[channel, place]
        if other < 0:
            break
        for at in range(first, last):
            beside = abs(filtered[other, at]) * scale[other]
            if beside > height or (beside == height and (at < column or (at == column and other < channel))):
                return False
    return True


@_compile
def _likeliest(units, channels, place, features, coarse, energies, likely):  # type: ignore
    """Choose the units that score most at some shifts and rows; return how many."""
    heights = np.full(likely.size, -1e30, dtype=np.float32)
    found = 0
    for unit in units:
        if unit < 0:
            break
        highest = np.float32(-1e30)
        for at in range(_ROWS_BEFORE - 1, _ROWS_BEFORE + 3, 2):
            a = b = c = d = e = np.float32(0)
            for number in range(channels.shape[1]):
                start = place[channels[unit, number]]
                for filter_ in range(features.shape[1]):
                    feature = features[start + at, filter_]
                    line = coarse[unit, number * features.shape[1] + filter_]
                    a += feature * line[0]
                    b += feature * line[1]
                    c += feature * line[2]
                    d += feature * line[3]
                    e += feature * line[4]
            highest = max(highest, a, b, c, d, e)
        highest -= energies[unit] / 2
        found = min(found + 1, likely.size)
        rank = found - 1
        if highest <= heights[rank]:
            continue
        while rank > 0 and heights[rank - 1] < highest:
            heights[rank], likely[rank] = heights[rank - 1], likely[rank - 1]
            rank -= 1
        heights[rank], likely[rank] = highest, unit
    return found
