"""Traces as they would be had the tissue not moved: each contact's, from those around where it is now."""

from __future__ import annotations

from collections import OrderedDict
from functools import cached_property
from threading import Lock

import numpy as np

from esort.pursuit.mixing import SparseRows

__all__ = ["MovedWhitening", "interpolation"]

# Fields of spikes are this smooth. A kernel with an edge in the middle pulls every estimate of motion
# towards multiples of the distance between contacts.
_SMOOTH_UM = 55.0
# Noise of a contact that its neighbours do not share, as part of its variance.
_OWN_NOISE = 1e-2
# At rest an estimate of the shift is so sure.
_REST_UM = 2
# Noise of a whitened channel, and a little: rounding makes no difference.
_MOST_NOISE = 1.05
# Channels of less weight than this part of the largest are left out of a row.
_LEAST_WEIGHT = 2e-3
# Contacts as far away as this change no weight by more than 1e-4; those this close are done together.
_REACH_UM, _TOGETHER_UM = 440.0, 440.0
# Drift comes back to where it was: so many sparse matrices are kept, and so many bytes of whole ones.
_MOST_KEPT, _KEPT_BYTES = 64, 80e6


class MovedWhitening:
    """Whitening of traces that are moved back, for any shift.

    Parameters
    ----------
    whitening : float array, shape (C, C)
        Of traces that have not moved; rows of zeros are channels that nobody listens to.
    contact_positions_um : float array, shape (C, 2)
    smooth : bool
        Whether traces are interpolated at rest, too: units that were learned while the tissue moved look
        the same wherever it is; those that were learned at rest keep what one contact alone sees.
    """

    def __init__(self, whitening: np.ndarray, contact_positions_um: np.ndarray, *, smooth: bool) -> None:
        self._whitening = whitening
        # It has few channels in a row: whole, its product would grow with the cube of the channels.
        self._few = SparseRows(whitening)
        self._smooth = smooth
        self._positions = contact_positions_um
        self._present = np.diagonal(whitening) != 0
        self._interpolations: OrderedDict[int, np.ndarray] = OrderedDict()
        self._whole: dict[int, SparseRows] = {}  # had all the tissue moved so far
        self._kept: OrderedDict[bytes, SparseRows] = OrderedDict()
        self._lock = Lock()

    def matrix(self, depths_um: np.ndarray, shift_um: np.ndarray) -> np.ndarray:
        """Matrix for a shift at some depths, linear in between, in steps of 2 um.

        Parameters
        ----------
        depths_um : float array, shape (D,)
            Ascending.
        shift_um : array, shape (D,)

        Returns
        -------
        float32 array, shape (C, C)
        """
        with self._lock:
            return self._matrix(self._steps(depths_um, shift_um))

    def rows(self, depths_um: np.ndarray, shift_um: np.ndarray) -> SparseRows:
        """Do as `matrix`, for the CPU; from any thread."""
        steps = self._steps(depths_um, shift_um)
        key = steps.tobytes()
        with self._lock:  # what one thread has found another may be about to forget
            if key not in self._kept:
                self._kept[key] = self._sparse(steps)
            self._kept.move_to_end(key)
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
            return self._kept[key]

    def _steps(self, depths_um: np.ndarray, shift_um: np.ndarray) -> np.ndarray:
        """Shift of each channel, int64 (C,); 0 where the tissue is taken to be at rest."""
        of_channel = np.interp(self._positions[:, 1], depths_um, shift_um)
        steps = np.rint(of_channel / 2).astype(np.int64) * 2
        return steps if self._smooth else np.where(np.abs(steps) <= _REST_UM, 0, steps)

    def _matrix(self, steps: np.ndarray) -> np.ndarray:
        return self._product(self._few, steps, np.arange(len(steps)))

    def _sparse(self, steps: np.ndarray) -> SparseRows:
        """`_matrix` without its zeros; of a long probe, most rows are known from other shifts."""
        least, largest = self._few.spread(steps)
        kinds = np.unique(least).tolist()
        for step in kinds:
            if step not in self._whole:
                self._whole[step] = SparseRows(self._matrix(np.full(len(steps), step)))
        (mixed,) = np.nonzero(least != largest)
        few = SparseRows.picked([self._few], np.zeros(len(mixed), dtype=np.int64), mixed)
        sources = [
            *(self._whole[step] for step in kinds),
            SparseRows(self._product(few, steps, few.columns())),
        ]
        source, row = np.searchsorted(kinds, least), np.arange(len(steps))
        source[mixed], row[mixed] = len(kinds), np.arange(len(mixed))
        return SparseRows.picked(sources, source, row)

    def _product(self, few: SparseRows, steps: np.ndarray, channels: np.ndarray) -> np.ndarray:
        """Some rows of the whitening, which meet these channels, times the traces moved back: dense."""
        moved = np.empty_like(self._whitening)
        for step in np.unique(steps[channels]).tolist():
            rows = channels[steps[channels] == step]
            moved[rows] = self._interpolated(step)[rows]
        matrix = few @ moved
        largest = np.abs(matrix).max(axis=1, keepdims=True, initial=0)
        matrix[np.abs(matrix) < _LEAST_WEIGHT * largest] = 0
        return self._quiet(matrix)

    def _quiet(self, matrix: np.ndarray) -> np.ndarray:
        """Take noise down to the level of rest where it is louder.

        Past the ends of a probe traces are extrapolated: units there would find spikes in the noise.
        """
        level = np.zeros(len(matrix))
        for row, weights in enumerate(matrix):
            (members,) = np.nonzero(weights)
            among = weights[members]
            level[row] = np.sqrt(max(among @ self._noise[np.ix_(members, members)] @ among, 0.0))
        scaled: np.ndarray = (
            matrix * (_MOST_NOISE / np.maximum(level, _MOST_NOISE)).astype(np.float32)[:, None]
        )
        return scaled

    @cached_property
    def _noise(self) -> np.ndarray:
        """Covariance of the noise that the whitening whitens, (C, C)."""
        present = np.flatnonzero(self._present)
        whitening = self._whitening[np.ix_(present, present)].astype(np.float64)
        try:
            unwhitening = np.linalg.inv(whitening)
        except np.linalg.LinAlgError:
            unwhitening = np.linalg.pinv(whitening)
        noise = np.zeros(self._whitening.shape)
        noise[np.ix_(present, present)] = unwhitening @ unwhitening.T
        return noise

    def _interpolated(self, step: int) -> np.ndarray:
        if step == 0 and not self._smooth:
            return np.eye(len(self._positions), dtype=np.float32)
        if step not in self._interpolations:
            shift = np.full(len(self._positions), float(step))
            found = interpolation(self._positions, shift, self._present)
            while (len(self._interpolations) + 1) * found.nbytes > _KEPT_BYTES and self._interpolations:
                self._interpolations.popitem(last=False)
            self._interpolations[step] = found
        return self._interpolations[step]


def interpolation(
    contact_positions_um: np.ndarray, shift_um: np.ndarray, present: np.ndarray | None = None
) -> np.ndarray:
    """Predict what contacts would see had the tissue not moved (kriging with a Gaussian covariance).

    The smooth part of the field: what a contact alone sees does not move with the rest.

    Parameters
    ----------
    contact_positions_um : float array, shape (C, 2)
    shift_um : float array, shape (C,)
        How far the tissue at each contact has moved along the probe (y).
    present : bool array, shape (C,), optional
        Contacts that see anything; by default all.

    Returns
    -------
    float32 array, shape (C, C)
        ``interpolation @ traces``: row by contact, as if the tissue had not moved.

    Notes
    -----
    Simple kriging, Cressie, Statistics for Spatial Data (1993), section 3.4.5: band-passed traces have no
    mean.
    """
    targets = contact_positions_um + np.stack([np.zeros_like(shift_um), shift_um], axis=1)
    heard = np.ones(len(targets), dtype=bool) if present is None else present
    weights = np.zeros((len(targets), len(targets)), dtype=np.float32)
    depths_um, depth_um = contact_positions_um[:, 1], targets[:, 1]
    # All at once this would grow with the cube of the channels.
    block = np.floor((depth_um - depth_um.min()) / _TOGETHER_UM)
    for number in np.unique(block).tolist():
        (some,) = np.nonzero(block == number)
        low, high = depth_um[some].min() - _REACH_UM, depth_um[some].max() + _REACH_UM
        (near,) = np.nonzero(heard & (depths_um >= low) & (depths_um <= high))
        sources = contact_positions_um[near]
        within = _covariance(sources, sources)
        within[np.diag_indices_from(within)] += _OWN_NOISE
        weights[np.ix_(some, near)] = np.linalg.solve(within, _covariance(sources, targets[some])).T
    return weights


def _covariance(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    square = ((left[:, None] - right[None]) ** 2).sum(axis=2)
    covariance: np.ndarray = np.exp(-square / _SMOOTH_UM**2)
    return covariance
