"""What to expect of each unit at each threshold: from what is found, and from spikes put into the traces."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from esort.calibration import MIN_ACCURACY, Calibration
from esort.detector import UnitTables
from esort.postprocess import ConflictTable
from esort.pursuit.amplitudes import fit_amplitudes
from esort.pursuit.coincidence import count_remains
from esort.pursuit.examples import RowLabels
from esort.pursuit.explain import Events, excess, explain, residual
from esort.pursuit.injection import Answers, distance, inject
from esort.pursuit.matching import match_events
from esort.pursuit.network import PursuitNetwork
from esort.pursuit.overlaps import conflict_table
from esort.pursuit.scorer import score_thresholds
from esort.rivals import Rivals

if TYPE_CHECKING:
    from esort.pursuit.recipe import Layout

__all__ = ["calibrate_scores"]

# Shares of the score of a typical spike that are tried as thresholds, K of them.
_SHARES = np.linspace(0, 0.8, 33)
# Spikes that a unit is taken to have had beyond those found, so that rare units are not judged by one event.
_FLOOR = 0.5
# A unit that finds less of its own labels is another one by now.
_LEAST_RECALL = 0.5
# Of a detector, in noise levels: a smaller unit's true spikes are fewer than what noise makes of it, and its
# own few events do not tell how many fewer.
_LEAST_NORM = 5.0
# Of an event and the label that it belongs to.
_MATCH_MS = 0.5
# Steps of the excess of a score in which false events are counted.
_EXCESSES = np.linspace(0, 0.9, 19)
# False spikes are proportional to the true ones of other units: a few rounds settle how many these are.
_ROUNDS = 4
# Accuracies that differ less are the same: few events tell them.
_ABOUT = 0.03
# Precision, at most, of a unit that was left out before others were.
_STAYS_OUT = 0.49
# Of an expected number of false events, standard deviation.
_UNSURE = 0.5


def calibrate_scores(
    network: PursuitNetwork,
    table: ConflictTable,
    whitened: np.ndarray,
    labels: RowLabels,
    layout: Layout,
    *,
    moved: bool = False,
    num_rivals: int = 0,
) -> Calibration:
    """Choose each unit's threshold by the accuracy that is to be expected.

    *False events:* noise is as often upside down as not and then holds no spike, so what is found in it is
    false; so is a unit that answers to a spike of another unit that was put into the traces, what a unit
    finds beside larger spikes beyond chance, what resembles spikes of neurons too far away to be units, and
    what it finds in addition once others are left out.
    *Spikes that are missed:* the typical amplitude of a unit's spikes is estimated from the events that reach
    its least threshold, knowing that smaller ones were cut off, and spikes of that size are put in. How many
    spikes a unit has is what makes true, false and missed ones together the events that are there. Events at
    a unit's own labels are no evidence for it, for its footprint was made of them, their noise included.

    Parameters
    ----------
    network : PursuitNetwork
    table : ConflictTable
    whitened : float32 array, shape (C, T)
    labels : RowLabels
    layout : Layout
    moved : bool
        Whether the tissue moved so far that the amplitudes of a unit's spikes differ.
    num_rivals : int
        The last so many units compete whatever is to be expected of them, see `esort.pursuit.rivals`.

    Returns
    -------
    Calibration
        Of the units without the rivals, whose thresholds are in the tables. The reliability is over the
        `excess` of a score.
    """
    energies = network.scorer().energies
    base = score_thresholds(energies)
    events = explain(network, table, whitened, base, exclusion_rows=layout.exclusion_rows)
    left = residual(network, whitened, events)
    np.negative(left, out=left)
    noise = explain(network, table, left, base, exclusion_rows=layout.exclusion_rows)
    del left
    seconds = whitened.shape[1] / layout.rate_hz
    recalled, at_evidence, at_labels = _apart(events, labels, energies, _MATCH_MS * layout.rate_hz / 1000)
    evidence = events.chosen(at_evidence)
    # The score of an amplitude a is (a - 1/2) times the energy, which may be 0.
    whole = np.maximum(energies, 1e-9)
    least = base / whole + 0.5
    sizes = [
        fit_amplitudes(
            evidence.score[evidence.of_unit(unit_index)] / energy + 0.5,
            least[unit_index],
            at_labels[unit_index],
            energy,
            moved=moved,
        )
        for unit_index, energy in enumerate(whole)
    ]
    amplitudes = np.array([size.typical for size in sizes])
    answers = inject(network, table, whitened, events, base, amplitudes, layout)

    grid = np.maximum(_SHARES * energies[:, None] / 2, base[:, None])  # (U, K)
    found = _counts(evidence.unit_index, evidence.score, grid)  # (U, K)
    of_grid = grid / whole[:, None] + 0.5
    far = np.stack([size.far_above(row) for size, row in zip(sizes, of_grid, strict=True)])
    labelled = recalled * labels.counts()
    remains = count_remains(
        events,
        at_evidence,
        table,
        energies,
        grid,
        num_rows=whitened.shape[1],
        rate_hz=layout.rate_hz,
    )
    num_spikes, false, recall = _spikes_of(
        answers, grid, found, _counts(noise.unit_index, noise.score, grid), np.maximum(remains, far), labelled
    )

    told = (recalled >= _LEAST_RECALL) & (energies >= _LEAST_NORM**2)  # (U,)

    def outcome(freed: np.ndarray) -> Calibration:
        """What to expect with so many more false events, (U, K)."""
        wrong = np.minimum(false, found)
        # Labelled spikes are true, but which of them would be found only those put in tell.
        right = found - wrong + labelled[:, None] * recall
        wrong = wrong + freed
        total = np.maximum(num_spikes + labelled, right.max(axis=1)) + _FLOOR  # (U,)
        best = _chosen(right / (total[:, None] + wrong))
        rows = np.arange(len(energies))
        precision = (right[rows, best] + _FLOOR) / (right[rows, best] + wrong[rows, best] + _FLOOR)
        return Calibration(
            thresholds=grid[rows, best],
            rate_hz=(total - _FLOOR) / seconds,
            recall=right[rows, best] / total,
            false_hz=wrong[rows, best] / seconds,
            precision=np.where(told, precision, 0.0),
            tables=UnitTables(),
            min_accuracy=MIN_ACCURACY,
        )

    calibration = outcome(np.zeros(grid.shape))
    own = np.arange(len(energies)) < len(energies) - num_rivals
    kept = calibration.sortable | ~own
    freed = events.chosen(np.zeros(len(events.time), dtype=bool))
    # Others take the spikes of units that are left out, and may then have to be left out too.
    while kept.any() and not kept.all():
        freed = _freed(network, whitened, events, base, kept, layout)
        calibration = outcome(_counts(freed.unit_index, freed.score, grid))
        still = kept & calibration.sortable
        if (still == kept).all():
            break
        kept = still
    told_of = kept & own
    precision = np.where(kept, calibration.precision, np.minimum(calibration.precision, _STAYS_OUT))
    per_spike = (num_spikes + labelled) / np.maximum(answers.put_in, 1)  # (U,)
    reliability = _reliability(
        (
            np.concatenate([evidence.unit_index, freed.unit_index]),
            np.concatenate([evidence.score, freed.score]),
            np.ones(len(evidence.score) + len(freed.score)),
        ),
        (
            np.concatenate([noise.unit_index, answers.false_unit, freed.unit_index]),
            np.concatenate([noise.score, answers.false_score, freed.score]),
            np.concatenate([np.ones(len(noise.score)), per_spike[answers.source], np.ones(len(freed.score))]),
        ),
        np.where(told_of, calibration.thresholds, np.inf) if told_of.any() else calibration.thresholds,
    )
    rivals = Rivals(thresholds=calibration.thresholds[~own], rates_hz=calibration.rate_hz[~own])
    tables = UnitTables(reliability=reliability, rivals=rivals)
    return replace(calibration, precision=precision, tables=tables).of_units(own)


def _freed(
    network: PursuitNetwork,
    whitened: np.ndarray,
    events: Events,
    base: np.ndarray,
    kept: np.ndarray,
    layout: Layout,
) -> Events:
    """Events that units have only once others are left out: spikes of these, as a rule."""
    rest = np.flatnonzero(kept)
    alone = network.of_units(rest)
    found = explain(alone, conflict_table(alone), whitened, base[rest], exclusion_rows=layout.exclusion_rows)
    tolerance = _MATCH_MS * layout.rate_hz / 1000
    new = np.zeros(len(found.time), dtype=bool)
    for position, unit_index in enumerate(rest.tolist()):
        own = found.of_unit(position)
        new[own] = distance(found.time[own], events.time[events.of_unit(unit_index)]) > tolerance
    chosen = found.chosen(new)
    return replace(chosen, unit_index=rest[chosen.unit_index])


def _chosen(accuracy: np.ndarray) -> np.ndarray:
    """The lowest threshold that is about as good as the best, (U, K) to (U,)."""
    good: np.ndarray = accuracy >= accuracy.max(axis=1, keepdims=True) - _ABOUT
    return good.argmax(axis=1)


def _spikes_of(
    answers: Answers,
    grid: np.ndarray,
    found: np.ndarray,
    noise: np.ndarray,
    remains: np.ndarray,
    labelled: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many spikes each unit has, (U,), and at each threshold false events and recall, (U, K).

    Between one threshold and the next lie found = spikes · recall + false events; the number of spikes is the
    one that fits best, each step weighted by how sure its count is.
    """
    recall = _counts(answers.found_unit, answers.found_score, grid) / np.maximum(answers.put_in, 1)[:, None]
    spikes = np.maximum(found[:, 0] - noise[:, 0], 0)
    steps, share = _between(found), _between(recall)
    for _ in range(_ROUNDS):
        per_spike = (spikes + labelled) / np.maximum(answers.put_in, 1)  # (U,)
        weight = per_spike[answers.source]
        others = _counts(answers.false_unit, answers.false_score, grid, weight)
        false = noise + np.maximum(others, remains)  # in part the same
        variance = steps + 1 + np.square(_UNSURE * _between(false))
        fitted = (share * (steps - _between(false)) / variance).sum(axis=1)
        spikes = np.maximum(fitted / np.maximum((share**2 / variance).sum(axis=1), 1e-9), 0)
    return spikes, false, recall


def _between(counts: np.ndarray) -> np.ndarray:
    """From what reaches each threshold to what lies between it and the next, (U, K) both."""
    return -np.diff(counts, axis=1, append=0.0)


def _apart(
    events: Events, labels: RowLabels, energies: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Look for each unit's labels among its events.

    Returns
    -------
    recalled : float array, shape (U,)
        Which part of the labels is found.
    evidence : bool array, shape (S,)
        Events that are at no label of their unit.
    amplitude : float array, shape (U,)
        Median over the labels; one that is not found counts as 0.
    """
    recalled, amplitude = np.zeros(labels.num_units), np.ones(labels.num_units)
    kept = np.ones(len(events.time), dtype=bool)
    for unit_index in range(labels.num_units):
        own = events.of_unit(unit_index)
        wanted = labels.of_unit(unit_index)
        matched, _, missed = match_events(events.time[own], wanted, tolerance)
        kept[own[matched]] = False
        recalled[unit_index] = len(matched) / max(len(wanted), 1)
        if len(wanted):
            sizes = events.score[own[matched]] / max(energies[unit_index], 1e-9) + 0.5
            amplitude[unit_index] = np.median(np.append(sizes, np.zeros(len(missed))))
    return recalled, kept, amplitude


def _counts(
    unit_index: np.ndarray, score: np.ndarray, grid: np.ndarray, weight: np.ndarray | None = None
) -> np.ndarray:
    """Events of each unit that reach each threshold, (U, K)."""
    counts = np.zeros(grid.shape)
    for unit, thresholds in enumerate(grid):
        own = np.flatnonzero(unit_index == unit)
        own = own[np.argsort(score[own], kind="stable")]
        sums = np.append(0.0, np.cumsum(np.ones(len(own)) if weight is None else weight[own]))
        counts[unit] = sums[-1] - sums[np.searchsorted(score[own], thresholds)]
    return counts


_Weighted = tuple[np.ndarray, np.ndarray, np.ndarray]


def _reliability(events: _Weighted, false: _Weighted, thresholds: np.ndarray) -> np.ndarray:
    """Which part of the events of an excess is true, over all units; more excess never means less.

    Parameters
    ----------
    events, false : tuples of arrays, shapes (S,)
        Unit, score and weight.
    thresholds : float array, shape (U,)

    Returns
    -------
    float32 array, shape (2, K)
    """
    edges = np.append(_EXCESSES, 1.0)
    found, wrong = (
        np.histogram(excess(score, thresholds[unit_index]), edges, weights=weight)[0]
        for unit_index, score, weight in (events, false)
    )
    share = (np.maximum(found - wrong, 0) + _FLOOR) / (found + 2 * _FLOOR)
    centres = (edges[:-1] + edges[1:]) / 2
    return np.stack([centres, np.maximum.accumulate(share)]).astype(np.float32)
