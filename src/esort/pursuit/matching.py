"""Labelled spikes and the events that are theirs."""

from __future__ import annotations

import numpy as np

__all__ = ["match_events"]


def match_events(
    time: np.ndarray, wanted: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the event nearest to each label.

    Parameters
    ----------
    time : float array, shape (S,)
        Events of one unit, ascending.
    wanted : float array, shape (k,)
        Labels of that unit.
    tolerance : float
        Events further away belong to other spikes.

    Returns
    -------
    matched : int array
        Positions of the events at labels.
    offset : float array, of the same length
        How much later the labels are.
    missed : float array
        Labels without an event.
    """
    if len(time) == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0), wanted
    right = np.searchsorted(time, wanted).clip(0, len(time) - 1)
    candidates = np.stack([(right - 1).clip(0), right])  # (2, k)
    nearest = candidates[np.abs(time[candidates] - wanted).argmin(axis=0), np.arange(len(wanted))]
    offset = wanted - time[nearest]
    hit = np.abs(offset) <= tolerance
    return nearest[hit], offset[hit], wanted[~hit]
