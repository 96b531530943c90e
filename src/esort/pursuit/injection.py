"""Spikes of the units put into their own recording: which are found, and which units answer to others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from esort.postprocess import ConflictTable
from esort.pursuit.explain import Events, explain, residual
from esort.pursuit.network import PursuitNetwork

if TYPE_CHECKING:
    from esort.pursuit.recipe import Layout

__all__ = ["Answers", "distance", "inject"]

# Spikes put in for each unit: they add a sixth to the spikes of a busy recording.
_NUM_SPIKES = 60
# As far from events of the same unit as other spikes of it would be.
_APART_MS = 2.5
# Of a spike that was put in and the event that it causes.
_MATCH_MS = 0.5
# Multiples of these are spread evenly whatever their number, and never in step with each other.
_GOLDEN, _PLASTIC = 0.6180339887498949, 0.7548776662466927


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """What became of spikes that were put in.

    Parameters
    ----------
    put_in : int array, shape (U,)
        Number of spikes of each unit.
    found_unit, found_score : arrays, shape (S,)
        Of each spike that was found as one of its own unit.
    source, false_unit, false_score : arrays, shape (A,)
        Unit that was put in, the other unit that was found in its place or beside it, and its score.
    """

    put_in: np.ndarray
    found_unit: np.ndarray
    found_score: np.ndarray
    source: np.ndarray
    false_unit: np.ndarray
    false_score: np.ndarray


def inject(
    network: PursuitNetwork,
    table: ConflictTable,
    whitened: np.ndarray,
    events: Events,
    thresholds: np.ndarray,
    amplitudes: np.ndarray,
    layout: Layout,
) -> Answers:
    """Add spikes of every unit to the traces, all at once, and explain them again.

    Their places are spread evenly over the traces and have nothing to do with what happens there. No random
    numbers.

    Parameters
    ----------
    network : PursuitNetwork
    table : ConflictTable
    whitened : float32 array, shape (C, T)
    events : Events
        What the traces are explained by without the additional spikes.
    thresholds : float array, shape (U,)
        Least score.
    amplitudes : float array, shape (U,)
        Of the spikes put in, in units of the footprints.
    layout : Layout

    Returns
    -------
    Answers
    """
    num_units = network.num_units
    tolerance = _MATCH_MS * layout.rate_hz / 1000
    time, unit_index = _places(events, num_units, whitened.shape[1], layout)
    size = amplitudes[unit_index].astype(np.float32)
    # To take away less than nothing is to put in.
    added = residual(
        network, whitened, Events(time=time, unit_index=unit_index, score=-size, amplitude=-size)
    )
    after = explain(network, table, added, thresholds, exclusion_rows=layout.exclusion_rows)
    found, false, sources = [], [], []
    for own in range(num_units):
        mine = after.of_unit(own)
        at_own = distance(after.time[mine], time[unit_index == own]) <= tolerance
        found.append(mine[at_own])
        rest = mine[~at_own]
        new = rest[distance(after.time[rest], events.time[events.of_unit(own)]) > tolerance]
        others = np.flatnonzero(unit_index != own)
        if len(new) == 0 or len(others) == 0:
            continue
        close = distance(after.time[new], time[others]) <= 2 * tolerance
        false.append(new[close])
        sources.append(unit_index[others[_nearest(after.time[new[close]], time[others])]])
    found_at, false_at, source = (_joined(parts) for parts in (found, false, sources))
    return Answers(
        put_in=np.bincount(unit_index, minlength=num_units),
        found_unit=after.unit_index[found_at],
        found_score=after.score[found_at],
        source=source,
        false_unit=after.unit_index[false_at],
        false_score=after.score[false_at],
    )


def distance(time: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How far the nearest of other times, ascending, is from each time."""
    if len(others) == 0:
        return np.full(len(time), np.inf)
    return np.abs(others[_nearest(time, others)] - time)


def _nearest(time: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Position of the nearest of other times, ascending and at least one."""
    right = np.searchsorted(others, time).clip(0, len(others) - 1)
    left = (right - 1).clip(0)
    return np.where(np.abs(others[left] - time) < np.abs(others[right] - time), left, right)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _places(events: Events, num_units: int, num_rows: int, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Times and units of the spikes to put in, ascending in time."""
    apart = _APART_MS * layout.rate_hz / 1000
    # No more than so many of a unit find room in a short recording.
    room = num_rows - 2 * layout.footprint_samples
    number = int(min(_NUM_SPIKES, max(room, 0) / (8 * apart)))
    times, units = [], []
    for unit_index in range(num_units):
        share = np.arange(3 * number) * _GOLDEN + unit_index * _PLASTIC
        candidates = layout.footprint_samples + (share % 1.0) * room
        free = distance(candidates, events.time[events.of_unit(unit_index)]) > apart
        chosen = np.sort(candidates[free][:number])
        chosen = chosen[np.diff(chosen, prepend=-np.inf) > apart]
        times.append(chosen)
        units.append(np.full(len(chosen), unit_index))
    time, unit_index_of = np.concatenate(times), np.concatenate(units)
    order = np.argsort(time, kind="stable")
    return time[order], unit_index_of[order]
