"""From evidence to motion: the shift of the tissue at each depth, from the cells of time around or before.

Shapes: D depths, G shifts that evidence was collected for, N cells of time.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from esort.inference import BLOCK_S
from esort.pursuit.evidence import SHIFTS_UM

__all__ = ["CELL_S", "NUM_CELLS", "motion_around", "shift_after"]

CELL_S = BLOCK_S
"""Motion within so short a time is not told."""
NUM_CELLS = 6
"""So many cells tell the motion of the next."""

# Each cell counts so much less than the one after it.
_FADING = 0.8
# In um per cell; and what each um per cell must add in evidence, squared.
_SPEEDS_UM = range(-2, 3)
_LEAST_GAIN = 4.0
# Evidence of all depths together, beside a depth's own: where little fires, the rest of the probe tells.
_SHARED = 0.1
# Without any evidence nothing moves; this much per um, squared, is less than one spike says.
_STILL = 0.002
# Shifts are told in steps of 2 um.
_STEP_UM = 2


def shift_after(evidence: list[np.ndarray]) -> np.ndarray:
    """Shift in the cell after these.

    Parameters
    ----------
    evidence : list of float arrays, shape (D, G)
        Of the cells before, the last first; at most `NUM_CELLS` are looked at. Empty: nothing has moved.

    Returns
    -------
    int64 array, shape (D,)
        In um, a multiple of 2.
    """
    before = -np.arange(1, len(evidence) + 1)
    return _shift(evidence, before, _FADING ** (-before - 1.0))


def motion_around(evidence: np.ndarray) -> np.ndarray:
    """Shift in each of many cells, from those on both sides: (N, D, G) to int64 (N, D), in um."""
    motion = []
    for cell in range(len(evidence)):
        near = np.arange(max(0, cell - 3), min(len(evidence), cell + 4))
        offset = near - cell
        motion.append(_shift(list(evidence[near]), offset, _FADING ** np.abs(offset).astype(float)))
    return np.stack(motion)


def _shift(evidence: list[np.ndarray], offset: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The most likely shift of a cell, from those so many cells later, on a straight line."""
    if not evidence:
        return np.zeros(1, dtype=np.int64)
    fine = np.stack(evidence) @ _refined()  # (n, D, fine shifts), in steps of 1 um
    fine += _SHARED * fine.sum(axis=1, keepdims=True)
    reach = max(_SPEEDS_UM) * int(np.abs(offset).max())
    width = fine.shape[2] - 2 * reach
    likely = []
    for speed in _SPEEDS_UM:
        total = np.full((fine.shape[1], width), -_LEAST_GAIN * speed**2)
        for cell, cells_later, share in zip(fine, offset, weight, strict=True):
            first = reach + speed * int(cells_later)
            total += share * cell[:, first : first + width]
        likely.append(total)
    shifts = SHIFTS_UM[0] + reach + np.arange(width)
    best = (np.max(likely, axis=0) - _STILL * shifts**2).argmax(axis=1)  # (D,)
    shift = shifts[best]
    return (np.rint(shift / _STEP_UM) * _STEP_UM).astype(np.int64)


@cache
def _refined() -> np.ndarray:
    """Matrix that interpolates evidence to steps of 1 um, (G, fine shifts)."""
    from scipy.interpolate import make_interp_spline  # not before it is needed: it takes long to load

    fine = np.arange(SHIFTS_UM[0], SHIFTS_UM[-1] + 0.5)
    matrix: np.ndarray = make_interp_spline(SHIFTS_UM, np.eye(len(SHIFTS_UM)), k=3)(fine).T
    return matrix
