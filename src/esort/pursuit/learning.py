"""Footprints from few labelled spikes, refined by what the pursuit itself finds."""

from __future__ import annotations

import logging

import numpy as np
import torch

from esort.postprocess import ConflictTable
from esort.pursuit.examples import RowLabels, windows_at
from esort.pursuit.explain import Events, explain, residual
from esort.pursuit.matching import match_events
from esort.pursuit.network import PursuitNetwork
from esort.pursuit.overlaps import conflict_table
from esort.pursuit.recipe import TAPER_MS, Layout, Recipe
from esort.pursuit.scorer import score_thresholds
from esort.pursuit.shifting import shifted
from esort.threads import map_in_threads

__all__ = ["first_network", "learn_units", "mean_footprints"]

logger = logging.getLogger(__name__)

# Rounds that average at the labels only, and rounds that also take confident events: as few as possible,
# for what one unit takes from its neighbour in one round it does not give back in the next.
_CLAMPED_ROUNDS, _FREE_ROUNDS = 1, 2
# More events of a unit cost time and gain nothing.
_MAX_EVENTS = 100
# An event whose amplitude is outside is no example of its unit.
_TYPICAL = (0.8, 1.25)
# Confident events together count as much as all their number; each label counts as if it were this many more.
_ANCHOR = 5
# A label and an event further apart than this are two spikes.
_MATCH_MS = 0.5
# The peak of a unit lies so close to its labels.
_CENTRE_MS = 0.4
# Only this much of a mean around labels is believed at first.
_FOCUS_BEFORE_MS, _FOCUS_AFTER_MS, _FOCUS_UM = 1.0, 1.8, 80.0
# Fewer confident events than this are left out.
_MIN_FREE = 4
# Of an example of its unit no more than this is left, on average where the unit has this share of its power.
_MOST_LEFT, _LARGE = 1.6, 0.05
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
    layout = recipe.layout
    footprints, channels = mean_footprints(whitened, labels, contact_positions_um, layout)
    counts = labels.counts().astype(float)
    footprints = _focused(footprints, channels, contact_positions_um, layout)
    return recipe.network(footprints, channels, counts)


def learn_units(
    network: PursuitNetwork, whitened: np.ndarray, labels: RowLabels, recipe: Recipe
) -> tuple[PursuitNetwork, ConflictTable]:
    """Refine the units by what the pursuit finds with them.

    Parameters
    ----------
    network : PursuitNetwork
        As `first_network` made it.
    whitened : float32 array, shape (C, T)
    labels : RowLabels
    recipe : Recipe

    Returns
    -------
    network : PursuitNetwork
    table : ConflictTable
    """
    layout, channels = recipe.layout, network.footprint_channels.numpy()
    table = conflict_table(network)
    for round_ in range(_CLAMPED_ROUNDS + _FREE_ROUNDS):
        thresholds = score_thresholds(network.scorer().energies)
        free = round_ >= _CLAMPED_ROUNDS
        # At first nobody else may explain a labelled spike: units whose footprints are still poor would
        # lose theirs to their neighbours.
        clamped = _events_of(labels)
        left = whitened if free else residual(network, whitened, clamped)
        events = explain(network, table, left, thresholds, exclusion_rows=layout.exclusion_rows)
        if not free:
            events = _apart_from(events, labels, table, _MATCH_MS * layout.rate_hz / 1000)
        left = residual(network, left, events)
        footprints, counts = _refine(network, left, events if free else clamped, labels, layout, free=free)
        network = recipe.network(footprints, channels, counts)
        table = conflict_table(network)
    return network, table


def mean_footprints(
    whitened: np.ndarray, labels: RowLabels, contact_positions_um: np.ndarray, layout: Layout
) -> tuple[torch.Tensor, np.ndarray]:
    """Average the traces at the labels on the channels around each unit.

    Returns
    -------
    footprints : float tensor, shape (U, M, L)
    channels : int64 array, shape (U, M)
    """
    channels = _footprint_channels(whitened, labels, contact_positions_um, layout)
    footprints = [
        _typical(windows_at(whitened, _evenly(labels.of_unit(unit_index)), channels[unit_index], layout))
        for unit_index in range(labels.num_units)
    ]
    return torch.stack(footprints), channels


def _focused(
    footprints: torch.Tensor, channels: np.ndarray, positions: np.ndarray, layout: Layout
) -> torch.Tensor:
    """What lies close to the peak in time and space: elsewhere one spike of another unit may be larger."""
    row_ms = 1000 / layout.rate_hz * (np.arange(layout.footprint_samples) - layout.footprint_before)
    outside = np.maximum(-row_ms - _FOCUS_BEFORE_MS, row_ms - _FOCUS_AFTER_MS).clip(min=0)
    in_time = torch.from_numpy(np.exp(-0.5 * (outside / TAPER_MS) ** 2)).float()  # (L,)
    reach = round(_CENTRE_MS * layout.rate_hz / 1000)
    centre = footprints[:, :, layout.footprint_before - reach : layout.footprint_before + reach + 1]
    peak = centre.square().sum(dim=2).argmax(dim=1).numpy()  # (U,)
    where = positions[channels]  # (U, M, 2)
    distance = np.linalg.norm(where - where[np.arange(len(peak)), peak][:, None], axis=2)  # (U, M)
    in_space = torch.from_numpy(np.exp(-0.5 * (distance / _FOCUS_UM) ** 2)).float()
    return footprints * in_time * in_space[:, :, None]


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


def _footprint_channels(
    whitened: np.ndarray, labels: RowLabels, positions: np.ndarray, layout: Layout
) -> np.ndarray:
    """The channels closest to each unit's strongest one, (U, M)."""
    num_channels = len(whitened)
    every = np.arange(num_channels)
    reach = round(_CENTRE_MS * layout.rate_hz / 1000)
    channels = np.zeros((labels.num_units, min(layout.num_footprint_channels, num_channels)), dtype=np.int64)
    for unit_index in range(labels.num_units):
        waveform = _typical(windows_at(whitened, _evenly(labels.of_unit(unit_index)), every, layout)).numpy()
        # Elsewhere in the window a larger spike of another unit may lie.
        centre = waveform[:, layout.footprint_before - reach : layout.footprint_before + reach + 1]
        peak = np.square(centre).sum(axis=1).argmax()
        distance = np.linalg.norm(positions - positions[peak], axis=1)
        channels[unit_index] = np.sort(np.argsort(distance, kind="stable")[: channels.shape[1]])
    return channels


def _evenly(values: np.ndarray) -> np.ndarray:
    """At most `_MAX_EVENTS` of them, from the first to the last."""
    if len(values) <= _MAX_EVENTS:
        return values
    chosen: np.ndarray = values[np.linspace(0, len(values) - 1, _MAX_EVENTS).astype(int)]
    return chosen


def _typical(windows: torch.Tensor) -> torch.Tensor:
    """Interquartile mean over events, robust against spikes of others: (n, M, L) to (M, L).

    Of two events, the smaller value where they agree in sign: what only one of them shows is of others.
    """
    if len(windows) == 2:
        smaller = windows.abs().amin(dim=0) * windows[0].sign()
        return torch.where(windows[0] * windows[1] > 0, smaller, 0.0)
    trimmed = max(len(windows) // 4, 1) if len(windows) >= 3 else 0
    if trimmed:
        windows = windows.sort(dim=0).values[trimmed:-trimmed]
    return windows.mean(dim=0)


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
        parts = [_restored(left, events, _evenly(at_labels), footprint, channels, layout)[0]]
        if len(missed):
            parts.append(windows_at(left, _evenly(missed), channels, layout))
        examples = torch.cat(parts)
        mean = examples.mean(dim=0) if free else _typical(examples)
        count = float(len(examples))
        if free:
            others = np.setdiff1d(own, at_labels)
            amplitude = events.amplitude[others]
            others = others[(amplitude > _TYPICAL[0]) & (amplitude < _TYPICAL[1])]
            rest, remains = _restored(left, events, _evenly(others), footprint, channels, layout)
            rest = rest[remains < _MOST_LEFT]
            if len(rest) >= _MIN_FREE:
                anchored = count + _ANCHOR
                mean = (mean * anchored + _typical(rest) * len(rest)) / (anchored + len(rest))
                count += len(rest)
        # The time of a unit is that of its labels, whatever shape its footprint takes.
        late = float(np.clip(np.median(offset), -2, 2)) if len(offset) else 0.0
        return (shifted(mean, -late) if abs(late) > _LATE else mean), count

    refined = map_in_threads(refine_one, range(network.num_units))
    return torch.stack([mean for mean, _ in refined]), np.array([count for _, count in refined])


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
