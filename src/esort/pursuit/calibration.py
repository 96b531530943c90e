"""What to expect of each unit at each threshold: from the traces, and from what is left upside down."""

from __future__ import annotations

import numpy as np

from esort.calibration import Calibration
from esort.detector import UnitTables
from esort.postprocess import ConflictTable
from esort.pursuit.explain import Events, excess, explain, residual
from esort.pursuit.learning import Layout, RowLabels, score_thresholds
from esort.pursuit.matching import match_events
from esort.pursuit.network import PursuitNetwork

__all__ = ["calibrate_scores"]

# Shares of the score of a typical spike that are tried as thresholds, K of them.
_SHARES = np.linspace(0, 0.8, 33)
# Spikes that a unit is taken to have had beyond those found, so that rare units are not judged by one event.
_FLOOR = 0.5
# A unit that finds less of its own labels is another one by now.
_LEAST_RECALL = 0.5
# Of an event and the label that it belongs to.
_MATCH_MS = 0.5
# Steps of the excess of a score in which false events are counted.
_EXCESSES = np.linspace(0, 0.9, 19)


def calibrate_scores(
    network: PursuitNetwork, table: ConflictTable, whitened: np.ndarray, labels: RowLabels, layout: Layout
) -> Calibration:
    """Choose each unit's threshold by what is found in the traces and in what is left of them, upside down.

    Noise is as often upside down as not and then holds no spike: what is found in it is false. Events at a
    unit's own labels are no evidence for it, for its footprint was made of them, their noise included.

    Parameters
    ----------
    network : PursuitNetwork
    table : ConflictTable
    whitened : float32 array, shape (C, T)
    labels : RowLabels
    layout : Layout

    Returns
    -------
    Calibration
        The reliability is over the `excess` of a score.
    """
    energies = network.energies.numpy()
    base = score_thresholds(energies)
    events = explain(network, table, whitened, base, exclusion_rows=layout.exclusion_rows)
    left = residual(network, whitened, events)
    np.negative(left, out=left)
    false = explain(network, table, left, base, exclusion_rows=layout.exclusion_rows)
    seconds = whitened.shape[1] / layout.rate_hz
    recalled, evidence = _apart(events, labels, _MATCH_MS * layout.rate_hz / 1000)
    grid = np.maximum(_SHARES * energies[:, None] / 2, base[:, None])  # (U, K)
    found = _counts(evidence, grid)  # (U, K)
    wrong = np.minimum(_counts(false, grid), found)
    right = found - wrong
    total = right.max(axis=1, keepdims=True) + _FLOOR
    accuracy = right / (total + wrong)
    best = accuracy.argmax(axis=1)
    rows = np.arange(len(energies))
    thresholds = grid[rows, best]
    precision = (right[rows, best] + _FLOOR) / (found[rows, best] + _FLOOR)
    precision = np.where(recalled >= _LEAST_RECALL, precision, 0.0)
    return Calibration(
        thresholds=thresholds,
        rate_hz=(right.max(axis=1) + recalled * labels.counts()) / seconds,
        recall=right[rows, best] / total[:, 0],
        false_hz=wrong[rows, best] / seconds,
        precision=precision,
        tables=UnitTables(reliability=_reliability(evidence, false, thresholds)),
    )


def _apart(events: Events, labels: RowLabels, tolerance: float) -> tuple[np.ndarray, Events]:
    """Which part of each unit's labels is found, (U,), and the events that are at no label of their unit."""
    recalled = np.zeros(labels.num_units)
    kept = np.ones(len(events.time), dtype=bool)
    for unit_index in range(labels.num_units):
        own = events.of_unit(unit_index)
        wanted = labels.of_unit(unit_index)
        matched, _, _ = match_events(events.time[own], wanted, tolerance)
        kept[own[matched]] = False
        recalled[unit_index] = len(matched) / max(len(wanted), 1)
    return recalled, events.chosen(kept)


def _counts(events: Events, grid: np.ndarray) -> np.ndarray:
    """Events of each unit that reach each threshold, (U, K)."""
    counts = np.zeros(grid.shape)
    for unit_index, thresholds in enumerate(grid):
        scores = np.sort(events.score[events.unit_index == unit_index])
        counts[unit_index] = len(scores) - np.searchsorted(scores, thresholds)
    return counts


def _reliability(events: Events, false: Events, thresholds: np.ndarray) -> np.ndarray:
    """Which part of the events of an excess is true, over all units; more excess never means less.

    Returns
    -------
    float32 array, shape (2, K)
    """
    edges = np.append(_EXCESSES, 1.0)
    found, wrong = (
        np.histogram(excess(some.score, thresholds[some.unit_index]), edges)[0] + 0.0
        for some in (events, false)
    )
    share = (np.maximum(found - wrong, 0) + _FLOOR) / (found + 2 * _FLOOR)
    centres = (edges[:-1] + edges[1:]) / 2
    return np.stack([centres, np.maximum.accumulate(share)]).astype(np.float32)
