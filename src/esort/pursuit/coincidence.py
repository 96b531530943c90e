"""Events that are what larger spikes left: those that come with them more often than chance would have it."""

from __future__ import annotations

import numpy as np

from esort.postprocess import ConflictTable
from esort.pursuit.explain import Events
from esort.pursuit.injection import distance

__all__ = ["count_remains"]

# What a spike leaves of itself lies this close to it.
_BESIDE_MS = 1.0
# Only of spikes of so many times the energy.
_LARGER = 4.0
# Standard deviations of a count that are put down to chance.
_CHANCE = 2.0
# Where larger spikes are nearly always, chance cannot be told.
_MOST_COVERED = 0.9


def count_remains(
    events: Events,
    chosen: np.ndarray,
    table: ConflictTable,
    energies: np.ndarray,
    grid: np.ndarray,
    *,
    num_rows: int,
    rate_hz: float,
) -> np.ndarray:
    """Count each unit's events beside larger spikes of its neighbours, beyond what chance would bring there.

    Neurons do not wait for each other: a unit's spikes are as frequent beside spikes of others as elsewhere.
    A larger spike that is not explained to the end is found again, as one of a smaller unit around it.

    Parameters
    ----------
    events : Events
        Of all units, ascending.
    chosen : bool array, shape (S,)
        Events that are counted; the others only stand beside them.
    table : ConflictTable
        Neighbours are those that overlap.
    energies : float array, shape (U,)
    grid : float array, shape (U, K)
        Scores that an event must reach.
    num_rows : int
        Length of the traces.
    rate_hz : float
        Rows in a second.

    Returns
    -------
    float array, shape (U, K)
    """
    beside = _BESIDE_MS * rate_hz / 1000
    neighbours = np.asarray(table.neighbours)
    counts = np.zeros(grid.shape)
    for unit_index, thresholds in enumerate(grid):
        others = neighbours[unit_index]
        others = others[(others >= 0) & (others != unit_index)]
        others = others[energies[others] >= _LARGER * energies[unit_index]]
        larger = events.time[np.isin(events.unit_index, others)]
        own = events.of_unit(unit_index)
        own = own[chosen[own]]
        if len(larger) == 0 or len(own) == 0:
            continue
        covered = np.minimum(np.diff(larger), 2 * beside).sum() + 2 * beside
        share = min(covered / num_rows, _MOST_COVERED)
        is_near = distance(events.time[own], larger) <= beside
        near, far = (
            (events.score[own[part], None] >= thresholds).sum(axis=0) for part in (is_near, ~is_near)
        )
        by_chance = far * share / (1 - share)
        counts[unit_index] = np.maximum(near - by_chance - _CHANCE * np.sqrt(by_chance + 1), 0)
    # What reaches a threshold reaches lower ones.
    return np.maximum.accumulate(counts[:, ::-1], axis=1)[:, ::-1]
