"""Stretches of time as pairs [start, stop) of samples."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["merged", "runs_of", "within"]


def merged(stretches: Any) -> np.ndarray:
    """Put stretches in order and join those that touch.

    Parameters
    ----------
    stretches : ints, shape (S, 2)
        [start, stop) each.

    Returns
    -------
    int64 array, shape (S', 2)
    """
    values = np.asarray(stretches, dtype=np.int64).reshape(-1, 2)
    if not len(values):
        return values
    values = values[np.argsort(values[:, 0], kind="stable")]
    ends = np.maximum.accumulate(values[:, 1])
    new = np.flatnonzero(np.concatenate([[True], values[1:, 0] > ends[:-1]]))
    return np.stack([values[new, 0], ends[np.append(new[1:] - 1, len(values) - 1)]], axis=1)


def within(sample_index: np.ndarray, stretches: np.ndarray) -> np.ndarray:
    """Which samples, (S,), lie in one of some stretches, (K, 2), in order and apart from each other."""
    if not len(stretches):
        return np.zeros(len(sample_index), dtype=bool)
    before = np.searchsorted(stretches[:, 0], sample_index, side="right") - 1
    inside: np.ndarray = (before >= 0) & (sample_index < stretches[np.maximum(before, 0), 1])
    return inside


def runs_of(values: np.ndarray) -> np.ndarray:
    """Stretches of True, (S, 2)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], values, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2).astype(np.int64)
