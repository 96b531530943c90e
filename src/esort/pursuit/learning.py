"""Footprints from few labelled spikes, refined by what the pursuit itself finds."""

from __future__ import annotations

import logging

import numpy as np
import torch

from esort.postprocess import ConflictTable
from esort.pursuit.examples import RowLabels, windows_at
from esort.pursuit.explain import Events, explain, residual
from esort.pursuit.matching import match_events
from esort.pursuit.means import evenly, first_footprints, typical
from esort.pursuit.network import PursuitNetwork
from esort.pursuit.overlaps import conflict_table
from esort.pursuit.recipe import Layout, Recipe
from esort.pursuit.scorer import score_thresholds
from esort.pursuit.shifting import shifted
from esort.threads import map_in_threads

__all__ = ["first_network", "learn_units"]

logger = logging.getLogger(__name__)

# Rounds that average at the labels only, and rounds that also take confident events: as few as possible,
# for what one unit takes from its neighbour in one round it does not give back in the next.
_CLAMPED_ROUNDS, _FREE_ROUNDS = 1, 2
# Fewer labels than this may show another unit's spikes: units that find nothing typical with them are begun
# again, with what the others leave at their labels, and all get more rounds.
_FEW_LABELS, _MORE_ROUNDS = 5, 3
# An event whose amplitude is outside is no example of its unit.
_TYPICAL = (0.8, 1.25)
# Confident events together count as much as all their number; each label counts as if it were this many more.
_ANCHOR = 5
# A label and an event further apart than this are two spikes.
_MATCH_MS = 0.5
# Fewer confident events than this are left out.
_MIN_FREE = 4
# Of an example of its unit no more than this is left, on average where the unit has this share of its power:
# noise, or a share of the unit's own power while its footprint is poor.
_MOST_LEFT, _MOST_SHARE, _LARGE = 1.6, 0.3, 0.05
# In rows: smaller offsets between labels and events are noise.
_LATE = 0.1


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
    few = label_counts < _FEW_LABELS
    lost = np.zeros(len(few), dtype=bool)
    table = conflict_table(network)
    num_rounds = _CLAMPED_ROUNDS + _FREE_ROUNDS + (_MORE_ROUNDS if few.any() else 0)
    for round_ in range(num_rounds):
        thresholds = score_thresholds(network.scorer().energies)
        free = round_ >= _CLAMPED_ROUNDS
        thresholds[lost] = np.inf  # others explain what they can at their labels
        # At first nobody else may explain a labelled spike: units whose footprints are still poor would
        # lose theirs to their neighbours.
        clamped = _events_of(labels)
        left = whitened if free else residual(network, whitened, clamped)
        events = explain(network, table, left, thresholds, exclusion_rows=layout.exclusion_rows)
        if not free:
            events = _apart_from(events, labels, table, _MATCH_MS * layout.rate_hz / 1000)
        left = residual(network, left, events)
        footprints, counts = _refine(network, left, events if free else clamped, labels, layout, free=free)
        if lost.any():
            anew, channels_anew = first_footprints(left, labels, contact_positions_um, layout)
            footprints[lost], channels[lost] = anew[lost], channels_anew[lost]
        # A unit that has begun again has a round to find spikes with that.
        may_begin_again = few & ~lost & free & (round_ < num_rounds - 2)
        lost = may_begin_again & (counts <= label_counts)
        network = recipe.network(footprints, channels, counts)
        table = conflict_table(network)
    return network, table


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


def _refine(
    network: PursuitNetwork,
    left: np.ndarray,
    events: Events,
    labels: RowLabels,
    layout: Layout,
    *,
    free: bool,
) -> tuple[torch.Tensor, np.ndarray]:
    """Average each unit's events once all others are taken away."""
    tolerance = _MATCH_MS * layout.rate_hz / 1000

    def refine_one(unit_index: int) -> tuple[torch.Tensor, float]:
        own = events.of_unit(unit_index)
        channels = network.footprint_channels[unit_index].numpy()
        footprint = network.footprints[unit_index]
        matched, offset, missed = match_events(events.time[own], labels.of_unit(unit_index), tolerance)
        at_labels = own[matched]
        parts = [_restored(left, events, evenly(at_labels), footprint, channels, layout)[0]]
        if len(missed):
            parts.append(windows_at(left, evenly(missed), channels, layout))
        examples = torch.cat(parts)
        mean = examples.mean(dim=0) if free else typical(examples)
        count = float(len(examples))
        if free:
            others = np.setdiff1d(own, at_labels)
            amplitude = events.amplitude[others]
            others = others[(amplitude > _TYPICAL[0]) & (amplitude < _TYPICAL[1])]
            rest, remains = _restored(left, events, evenly(others), footprint, channels, layout)
            rest = rest[remains < _most_left(footprint)]
            if len(rest) >= _MIN_FREE:
                anchored = count + _ANCHOR
                mean = (mean * anchored + typical(rest) * len(rest)) / (anchored + len(rest))
                count += len(rest)
        # The time of a unit is that of its labels, whatever shape its footprint takes.
        late = float(np.clip(np.median(offset), -2, 2)) if len(offset) else 0.0
        return (shifted(mean, -late) if abs(late) > _LATE else mean), count

    refined = map_in_threads(refine_one, range(network.num_units))
    return torch.stack([mean for mean, _ in refined]), np.array([count for _, count in refined])


def _most_left(footprint: torch.Tensor) -> float:
    """Of an example of a unit no more than this is left on average where the unit is large."""
    energy = footprint.square()
    return max(_MOST_LEFT, 1 + _MOST_SHARE * float(energy[energy > energy.max() * _LARGE].mean()))


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
    energy = footprint.square()  # (M, L)
    large = energy > energy.max() * _LARGE
    typical = remains[:, large].square().mean(dim=1)
    return remains + amplitude[:, None, None] * footprint, typical
