"""What to expect of each unit at each threshold: from the traces, and from what is left upside down."""

from __future__ import annotations

import numpy as np

from esort.calibration import Calibration
from esort.detector import UnitTables
from esort.postprocess import ConflictTable
from esort.pursuit.explain import Events, explain, residual
from esort.pursuit.learning import Layout, score_thresholds
from esort.pursuit.network import PursuitNetwork

__all__ = ["calibrate_scores"]

# Shares of the score of a typical spike that are tried as thresholds, K of them.
_SHARES = np.linspace(0, 0.8, 33)
# Spikes that a unit is taken to have had beyond those found, so that rare units are not judged by one event.
_FLOOR = 0.5


def calibrate_scores(
    network: PursuitNetwork, table: ConflictTable, whitened: np.ndarray, layout: Layout
) -> Calibration:
    """Choose each unit's threshold by what is found in the traces and in what is left of them, upside down.

    Noise is as often upside down as not and then holds no spike: what is found in it is false.

    Parameters
    ----------
    network : PursuitNetwork
    table : ConflictTable
    whitened : float32 array, shape (C, T)
    layout : Layout

    Returns
    -------
    Calibration
        The reliability is over 1 - threshold / score.
    """
    energies = network.energies.numpy()
    base = score_thresholds(energies)
    events = explain(network, table, whitened, base, exclusion_rows=layout.exclusion_rows)
    left = residual(network, whitened, events)
    np.negative(left, out=left)
    false = explain(network, table, left, base, exclusion_rows=layout.exclusion_rows)
    seconds = whitened.shape[1] / layout.rate_hz
    grid = np.maximum(_SHARES * energies[:, None] / 2, base[:, None])  # (U, K)
    found = _counts(events, grid)  # (U, K)
    wrong = np.minimum(_counts(false, grid), found)
    right = found - wrong
    total = right.max(axis=1, keepdims=True) + _FLOOR
    accuracy = right / (total + wrong)
    best = accuracy.argmax(axis=1)
    rows = np.arange(len(energies))
    thresholds = grid[rows, best]
    precision = (right[rows, best] + _FLOOR) / (found[rows, best] + _FLOOR)
    return Calibration(
        thresholds=thresholds,
        rate_hz=right.max(axis=1) / seconds,
        recall=right[rows, best] / total[:, 0],
        false_hz=wrong[rows, best] / seconds,
        precision=np.where(energies > 0, precision, 0.0),
        tables=UnitTables(reliability=np.array([[0.0, 0.5], [0.9, 1.0]], dtype=np.float32)),
    )


def _counts(events: Events, grid: np.ndarray) -> np.ndarray:
    counts = np.zeros(grid.shape)
    for unit_index, thresholds in enumerate(grid):
        scores = np.sort(events.score[events.unit_index == unit_index])
        counts[unit_index] = len(scores) - np.searchsorted(scores, thresholds)
    return counts
