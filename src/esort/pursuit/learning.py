"""Footprints from few labelled spikes, refined by what the pursuit itself finds."""

from __future__ import annotations

import numpy as np
import torch

from esort.postprocess import ConflictTable
from esort.pursuit.contests import begin_again
from esort.pursuit.examples import RowLabels, windows_at
from esort.pursuit.explain import Events, explain, residual
from esort.pursuit.matching import match_events
from esort.pursuit.means import evenly, first_footprints, focused_if_single, typical, where_large
from esort.pursuit.network import PursuitNetwork
from esort.pursuit.overlaps import conflict_table
from esort.pursuit.recipe import Layout, Recipe
from esort.pursuit.scorer import score_thresholds
from esort.pursuit.shifting import shifted
from esort.threads import map_in_threads

__all__ = ["first_network", "learn_units", "refine_units"]

# An event whose amplitude is outside is no example of its unit.
_TYPICAL = (0.8, 1.25)
# Confident events together count as much as all their number; each label counts as if it were this many more.
_ANCHOR = 5
# A label and an event further apart than this are two spikes.
_MATCH_MS = 0.5
# Fewer confident events than this are left out.
_MIN_FREE = 4
# Of an example of its unit no more than this is left, on average where the unit has this share of its power:
# noise, or of few labels a share of the unit's own power, for its footprint is poor.
_MOST_LEFT, _MOST_SHARE = 1.6, 0.3
# What is left of a larger spike less far away looks like a smaller unit whose footprint is poor.
_ALONE_MS = 1.0
# In rows: smaller offsets between labels and events are noise.
_LATE = 0.1
# As few as possible: what one unit takes from its neighbour in one round it does not give back in the next.
_ROUNDS = ("clamped", "free", "free")
# One label may show another unit's spike more than the unit's own.
_ROUNDS_OF_ONE = ("clamped", "free", "begin again", "free", "free")
# The footprint of fewer labels than this is poor.
_FEW_LABELS = 5


def first_network(
    whitened: np.ndarray, labels: RowLabels, contact_positions_um: np.ndarray, recipe: Recipe
) -> PursuitNetwork:
    """Learn the units from the traces at their labels alone.

    Parameters
    ----------
    whitened : float32 array, shape (C, T)
    labels : RowLabels
    contact_positions_um : float array, shape (C, 2)
    recipe : Recipe
    """
    footprints, channels = first_footprints(whitened, labels, contact_positions_um, recipe.layout)
    return recipe.network(footprints, channels, labels.counts().astype(float))


def learn_units(
    network: PursuitNetwork,
    whitened: np.ndarray,
    labels: RowLabels,
    contact_positions_um: np.ndarray,
    recipe: Recipe,
) -> tuple[PursuitNetwork, ConflictTable]:
    """Refine the units by what the pursuit finds with them.

    Parameters
    ----------
    network : PursuitNetwork
        As `first_network` made it.
    whitened : float32 array, shape (C, T)
    labels : RowLabels
    contact_positions_um : float array, shape (C, 2)
    recipe : Recipe

    Returns
    -------
    network : PursuitNetwork
    table : ConflictTable
    """
    layout, channels = recipe.layout, network.footprint_channels.numpy().copy()
    label_counts = labels.counts()
    table = conflict_table(network)
    counts = label_counts.astype(float)
    for round_ in _ROUNDS_OF_ONE if (label_counts == 1).any() else _ROUNDS:
        if round_ == "begin again":
            lost = (label_counts == 1) & (counts == 1)
            again, footprints, channels = begin_again(
                network, table, whitened, labels, contact_positions_um, layout, lost=lost
            )
            counts[again] = 1
        elif round_ == "clamped":
            footprints, counts = _clamped_round(network, table, whitened, labels, layout)
            footprints = focused_if_single(footprints, channels, labels, contact_positions_um, layout)
        else:
            footprints, counts = _free_round(network, table, whitened, labels, layout)
        network = recipe.network(footprints, channels, counts)
        table = conflict_table(network)
    return network, table


def refine_units(
    network: PursuitNetwork, whitened: np.ndarray, labels: RowLabels, recipe: Recipe
) -> tuple[PursuitNetwork, ConflictTable]:
    """Refine learned units once more, for others are left out by now; see `learn_units`."""
    channels = network.footprint_channels.numpy().copy()
    footprints, counts = _free_round(network, conflict_table(network), whitened, labels, recipe.layout)
    network = recipe.network(footprints, channels, counts)
    return network, conflict_table(network)


def _clamped_round(
    network: PursuitNetwork, table: ConflictTable, whitened: np.ndarray, labels: RowLabels, layout: Layout
) -> tuple[torch.Tensor, np.ndarray]:
    """Refine the units by their labels alone, which no other unit may take.

    A unit whose footprint is still poor would lose its labelled spikes to its neighbours.
    """
    clamped = _events_of(labels)
    left = residual(network, whitened, clamped)
    thresholds = score_thresholds(network.scorer().energies)
    events = explain(network, table, left, thresholds, exclusion_rows=layout.exclusion_rows)
    events = _apart_from(events, labels, table, _MATCH_MS * layout.rate_hz / 1000)
    return _refine(network, residual(network, left, events), clamped, labels, layout, free=None)


def _free_round(
    network: PursuitNetwork, table: ConflictTable, whitened: np.ndarray, labels: RowLabels, layout: Layout
) -> tuple[torch.Tensor, np.ndarray]:
    """Refine the units by all spikes that they find."""
    thresholds = score_thresholds(network.scorer().energies)
    events = explain(network, table, whitened, thresholds, exclusion_rows=layout.exclusion_rows)
    poor = labels.counts() < _FEW_LABELS
    free = _teaching(events, poor, network, table, _ALONE_MS * layout.rate_hz / 1000)
    return _refine(network, residual(network, whitened, events), events, labels, layout, free=free)


def _events_of(labels: RowLabels) -> Events:
    """The labelled spikes as events of their units, as large as the footprints."""
    ones = np.ones(len(labels.time), dtype=np.float32)
    return Events(time=labels.time, unit_index=labels.unit_index, score=ones, amplitude=ones)


def _apart_from(events: Events, labels: RowLabels, table: ConflictTable, tolerance: float) -> Events:
    """Leave out events at a labelled spike of a unit that they overlap with.

    What a poor footprint leaves of its own spike looks like a neighbour. Taken away, it would be missing in
    the next footprint too.
    """
    order = np.argsort(labels.time, kind="stable")
    time, unit_index = labels.time[order], labels.unit_index[order]
    first = np.searchsorted(time, events.time - tolerance)
    last = np.searchsorted(time, events.time + tolerance, side="right")
    kept = np.ones(len(events.time), dtype=bool)
    for event in np.flatnonzero(last > first):
        near = unit_index[first[event] : last[event]]
        kept[event] = not np.isin(near, table.neighbours[events.unit_index[event]]).any()
    return events.chosen(kept)


def _teaching(
    events: Events, poor: np.ndarray, network: PursuitNetwork, table: ConflictTable, tolerance: float
) -> np.ndarray:
    """Tell which events a unit may learn from, (S,) booleans.

    Of units whose footprints are poor, (U,) booleans, none with an event of a larger unit that they overlap
    with close by.
    """
    energies = network.scorer().energies
    order = np.argsort(events.time, kind="stable")
    time, unit_index = events.time[order], events.unit_index[order]
    first = np.searchsorted(time, events.time - tolerance)
    last = np.searchsorted(time, events.time + tolerance, side="right")
    teaching = np.ones(len(events.time), dtype=bool)
    for event in np.flatnonzero(poor[events.unit_index] & (last - first > 1)):
        own = events.unit_index[event]
        near = unit_index[first[event] : last[event]]
        larger = near[energies[near] > energies[own]]
        teaching[event] = not np.isin(larger, table.neighbours[own]).any()
    return teaching


def _refine(
    network: PursuitNetwork,
    left: np.ndarray,
    events: Events,
    labels: RowLabels,
    layout: Layout,
    free: np.ndarray | None,
) -> tuple[torch.Tensor, np.ndarray]:
    """Average each unit's events once all others are taken away.

    Of those at none of its labels only the `free` ones, (S,) booleans; None: not at all.
    """
    tolerance = _MATCH_MS * layout.rate_hz / 1000

    def refine_one(unit_index: int) -> tuple[torch.Tensor, float]:
        own = events.of_unit(unit_index)
        num_labels = len(labels.of_unit(unit_index))
        channels = network.footprint_channels[unit_index].numpy()
        footprint = network.footprints[unit_index]
        matched, offset, missed = match_events(events.time[own], labels.of_unit(unit_index), tolerance)
        at_labels = own[matched]
        parts = [_restored(left, events, evenly(at_labels), footprint, channels, layout)[0]]
        if len(missed):
            parts.append(windows_at(left, evenly(missed), channels, layout))
        examples = torch.cat(parts)
        mean = typical(examples) if free is None else examples.mean(dim=0)
        count = float(len(examples))
        if free is not None:
            others = np.setdiff1d(own[free[own]], at_labels)
            amplitude = events.amplitude[others]
            others = others[(amplitude > _TYPICAL[0]) & (amplitude < _TYPICAL[1])]
            rest, remains = _restored(left, events, evenly(others), footprint, channels, layout)
            rest = rest[remains < _most_left(footprint, num_labels)]
            if len(rest) >= _MIN_FREE:
                anchored = count + _ANCHOR
                mean = (mean * anchored + typical(rest) * len(rest)) / (anchored + len(rest))
                count += len(rest)
        # The time of a unit is that of its labels, whatever shape its footprint takes.
        late = float(np.clip(np.median(offset), -2, 2)) if len(offset) else 0.0
        return (shifted(mean, -late) if abs(late) > _LATE else mean), count

    refined = map_in_threads(refine_one, range(network.num_units))
    return torch.stack([mean for mean, _ in refined]), np.array([count for _, count in refined])


def _most_left(footprint: torch.Tensor, num_labels: int) -> float:
    """Of an example of a unit no more than this is left on average where the unit is large."""
    if num_labels >= _FEW_LABELS:
        return _MOST_LEFT
    return max(_MOST_LEFT, 1 + _MOST_SHARE * float(footprint[where_large(footprint)].square().mean()))


def _restored(
    left: np.ndarray,
    events: Events,
    chosen: np.ndarray,
    footprint: torch.Tensor,
    channels: np.ndarray,
    layout: Layout,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Events of one unit with all others taken away, at a common phase: (n, M, L).

    And the mean square of what is left of each where the unit is large: (n,), 1 for noise alone.
    """
    start = np.rint(events.time[chosen]) - layout.footprint_before
    chosen = chosen[(start >= 0) & (start + layout.footprint_samples <= left.shape[1])]
    amplitude = torch.from_numpy(events.amplitude[chosen])
    remains = windows_at(left, events.time[chosen], channels, layout)
    left_over = remains[:, where_large(footprint)].square().mean(dim=1)
    return remains + amplitude[:, None, None] * footprint, left_over
