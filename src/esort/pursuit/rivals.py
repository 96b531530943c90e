"""Rivals: neurons that nobody labelled, found by what the labelled units leave, so that they compete.

Who labels a few spikes labels few of the neurons, and a neuron without a label is taken for the unit that it
resembles most. It is told by what is left where its spikes were, large and alike each time; or, if it is so
much like the unit that little is left, by a gap among the unit's events with all labels on one side.
Shapes: C channels, K channels around one, F filters, L rows of a filter, U units, S events, d directions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from esort.postprocess import ConflictTable, Spikes
from esort.pursuit.examples import RowLabels, windows_at
from esort.pursuit.explain import Events, explain, residual
from esort.pursuit.gaps import LEAST_EVENTS, parts_of
from esort.pursuit.matching import match_events
from esort.pursuit.means import evenly
from esort.pursuit.network import PursuitNetwork
from esort.pursuit.peaks import LEAST_HEIGHT, PeakFinder
from esort.pursuit.recipe import Layout
from esort.pursuit.scorer import PursuitScorer
from esort.pursuit.watch import watch_all

__all__ = ["find_rivals"]

# A rival's events are as large, in noise levels; of a channel or a unit more of them cost time and tell
# nothing new, and so do more spikes to learn a rival from.
_LEAST_SIZE, _MOST_EVENTS, _MOST_SPIKES = 8.0, 600, 50
# What is smaller once it is learned was noise.
_LEAST_NORM = 6.0
# Two events of one spike are not further apart, and a unit that lies so close to what is left of a spike may
# have taken it for its own.
_SAME_MS, _TAKEN_UM = 0.5, 100.0
# Once that is given back, its trough may be so far away.
_ALIGN_UM = 60.0
# As likely as this, no label of a unit would be among so many of its events by chance.
_BY_CHANCE = 0.1
# Who holds so much of a unit's labels is that unit.
_OWN_SHARE = 0.3
# So many events with another rival's beside them: both are one neuron's.
_TOGETHER = 0.5
# Of two means that are as parallel and of about one size: the same neuron, seen from two channels.
_SAME_SHAPE, _SAME_SIZE = 0.9, 1.4


class _Neuron(NamedTuple):
    rows: np.ndarray
    """Of its spikes, (S,)."""
    mean: np.ndarray
    """Of the features of all channels, (C · F,)."""
    centre_um: np.ndarray
    """Position of its largest channel, (2,)."""


def find_rivals(
    network: PursuitNetwork,
    table: ConflictTable,
    whitened: np.ndarray,
    thresholds: np.ndarray,
    labels: RowLabels,
    layout: Layout,
    *,
    known: tuple[np.ndarray, ...] = (),
) -> tuple[np.ndarray, ...]:
    """Find neurons that no unit stands for.

    Parameters
    ----------
    network : PursuitNetwork
    table : ConflictTable
        Of this network.
    whitened : float32 array, shape (C, T)
    thresholds : float array, shape (U,)
        Least score of a spike of each unit.
    labels : RowLabels
        That the units were learned from.
    layout : Layout
    known : tuple of int64 arrays
        Rivals that are among the units, the last. Those that find nothing, or a labelled unit's spikes, or
        parts of one neuron's, are given up.

    Returns
    -------
    tuple of int64 arrays, shape (S,)
        Rows of spikes of each rival, ascending: those known, then the new ones. No more than tell what it
        looks like, and none that overlap with others. `known` itself, if nothing is to change.
    """
    events = explain(network, table, whitened, thresholds, exclusion_rows=layout.exclusion_rows)
    scorer, num_units = network.scorer(), network.num_units - len(known)
    own = _Labelled(
        labels, scorer.positions[scorer.peak_channels][:num_units], _SAME_MS * layout.rate_hz / 1000
    )
    kept = [rows for rows, good in zip(known, _good(scorer, events, own), strict=True) if good]
    found = _left_over(scorer, whitened, events, layout)
    found = [neuron for neuron in found if not own.has(neuron.rows, neuron.centre_um)]
    left = residual(network, whitened, events)
    for unit_index in range(num_units):
        found += _hidden(scorer, unit_index, left, events, labels.of_unit(unit_index), layout)
    new = [evenly(rows, _MOST_SPIKES) for rows in _without_twins(found, own.reach)]
    return known if len(kept) == len(known) and not new else (*kept, *new)


class _Labelled(NamedTuple):
    """The units that somebody labelled."""

    labels: RowLabels
    centres_um: np.ndarray
    """(U, 2)"""
    reach: float
    """Rows between two events of one spike, at most."""

    def has(self, rows: np.ndarray, centre_um: np.ndarray) -> bool:
        """Whether events, ascending, are those of a unit close by: many of its labels are among them."""
        held = _beside(self.labels.time, rows, self.reach)
        hits = np.bincount(self.labels.unit_index[held], minlength=self.labels.num_units)
        many = (hits > 0) & (hits >= _OWN_SHARE * self.labels.counts())
        near = np.linalg.norm(self.centres_um - centre_um, axis=1) <= _TAKEN_UM
        return bool((many[: len(near)] & near).any())


def _good(scorer: PursuitScorer, events: Events, own: _Labelled) -> list[bool]:
    """Whether each rival, all units behind the labelled ones, is a neuron, and not a unit or a part of one.

    Of those that fire together and explain one neuron in parts the smaller ones are given up first.
    """
    centres, first = scorer.positions[scorer.peak_channels], len(own.centres_um)
    good = np.arange(scorer.num_units) >= first
    for rival in first + np.argsort(scorer.energies[first:], kind="stable"):
        rows = np.sort(events.time[events.of_unit(rival)])
        others = good & (np.linalg.norm(centres - centres[rival], axis=1) <= _TAKEN_UM)
        others[rival] = False
        together = _beside(rows, np.sort(events.time[others[events.unit_index]]), own.reach)
        large = scorer.energies[rival] >= _LEAST_NORM**2 and len(rows) >= LEAST_EVENTS
        good[rival] = large and together.mean() < _TOGETHER and not own.has(rows, centres[rival])
    chosen: list[bool] = good[first:].tolist()
    return chosen


def _beside(time: np.ndarray, others: np.ndarray, reach: float) -> np.ndarray:
    """Whether one of the others, ascending, is as close to each time."""
    beside: np.ndarray = np.searchsorted(others, time + reach) > np.searchsorted(others, time - reach)
    return beside


def _left_over(scorer: PursuitScorer, whitened: np.ndarray, events: Events, layout: Layout) -> list[_Neuron]:
    """Neurons of whose spikes much is left."""
    rate_hz = layout.rate_hz
    finder = PeakFinder(scorer, rate_hz)
    reach = round(_SAME_MS * rate_hz / 1000)
    rows, channels = _strange(scorer, whitened, events, rate_hz)
    left = residual(scorer, whitened, events.chosen(~_taken(scorer, events, rows, channels, reach)))
    rows, channels = _aligned(left, rows, channels, finder, reach)
    first = rows - scorer.filter_before
    inside = (first >= 0) & (first + finder.num_rows <= left.shape[1])
    rows, channels = rows[inside], channels[inside]
    found = []
    for channel in np.unique(channels):
        own = evenly(rows[channels == channel], _MOST_EVENTS)
        around = finder.around[channel][finder.around[channel] >= 0]  # (K,)
        first = own - scorer.filter_before
        windows = np.stack([left[around, start : start + finder.num_rows] for start in first])
        features = windows @ scorer.filters.T  # (S, K, F)
        found += [_neuron(own, features, part, around, scorer) for part in parts_of(features)]
    return [neuron for neuron in found if np.linalg.norm(neuron.mean) >= _LEAST_SIZE]


def _strange(
    scorer: PursuitScorer, whitened: np.ndarray, events: Events, rate_hz: float
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and channels of large troughs that no event explains, by row: (S,) both."""
    sample = np.rint(events.time * scorer.stride).astype(np.int64)
    spikes = Spikes(sample, events.unit_index, events.score)
    strange, _ = watch_all(
        scorer, whitened, spikes, sampling_frequency=rate_hz * scorer.stride, least_size=_LEAST_SIZE
    )
    deep = strange.height >= LEAST_HEIGHT
    return strange.sample_index[deep] // scorer.stride, strange.channel[deep]


def _taken(
    scorer: PursuitScorer, events: Events, rows: np.ndarray, channels: np.ndarray, reach: int
) -> np.ndarray:
    """Events close to something strange, bool: what they took away may be of the same spike."""
    centres = scorer.positions[scorer.peak_channels]
    first = np.searchsorted(rows, events.time - reach)
    last = np.searchsorted(rows, events.time + reach, side="right")
    taken = np.zeros(len(events.time), dtype=bool)
    for event in np.flatnonzero(last > first):
        beside = scorer.positions[channels[first[event] : last[event]]] - centres[events.unit_index[event]]
        taken[event] = (np.linalg.norm(beside, axis=1) <= _TAKEN_UM).any()
    return taken


def _aligned(
    left: np.ndarray, rows: np.ndarray, channels: np.ndarray, finder: PeakFinder, reach: int
) -> tuple[np.ndarray, np.ndarray]:
    """Move events to the deepest trough around them."""
    rows, channels = rows.copy(), channels.copy()
    for event, (row, channel) in enumerate(zip(rows, channels, strict=True)):
        near = finder.within(channel, _ALIGN_UM)
        first = max(0, row - reach)
        around = left[near, first : row + reach + 1]
        place, offset = np.unravel_index(around.argmin(), around.shape)
        rows[event], channels[event] = first + offset, near[place]
    return rows, channels


def _hidden(
    scorer: PursuitScorer,
    unit_index: int,
    left: np.ndarray,
    events: Events,
    labelled: np.ndarray,
    layout: Layout,
) -> list[_Neuron]:
    """Neurons so much like a unit that it takes their spikes, with hardly anything left of them."""
    own = events.of_unit(unit_index)
    start = np.rint(events.time[own]) - layout.footprint_before
    own = evenly(own[(start >= 0) & (start + layout.footprint_samples <= left.shape[1])], _MOST_EVENTS)
    time = events.time[own]
    is_label = np.zeros(len(own), dtype=bool)
    is_label[match_events(time, labelled, _SAME_MS * layout.rate_hz / 1000)[0]] = True
    if not is_label.any():
        return []
    heads = scorer.head_channels[unit_index]
    first = layout.footprint_before - layout.filter_before
    windows = windows_at(left, time, heads, layout).numpy()[:, :, first : first + layout.filter_samples]
    features = windows @ scorer.filters.T  # (S, H, F)
    features += events.amplitude[own][:, None, None] * scorer.heads[unit_index]
    rows = np.rint(time).astype(np.int64)
    return [
        _neuron(rows, features, part, heads, scorer)
        for part in parts_of(features)
        if not is_label[part].any() and (1 - len(part) / len(own)) ** is_label.sum() < _BY_CHANCE
    ]


def _neuron(
    rows: np.ndarray, features: np.ndarray, part: np.ndarray, channels: np.ndarray, scorer: PursuitScorer
) -> _Neuron:
    """One neuron of some events, features (S, K, F)."""
    mean = np.zeros((scorer.num_channels, features.shape[2]), dtype=np.float32)
    mean[channels] = features[part].mean(axis=0)
    centre = scorer.positions[np.square(mean).sum(axis=1).argmax()]
    return _Neuron(np.sort(rows[part]), mean.ravel(), centre)


def _without_twins(found: list[_Neuron], reach: float) -> list[np.ndarray]:
    """Rows of each neuron once, the one with most events first.

    It may be found on two channels, or both by what is left of it and among a unit's events.
    """
    kept: list[_Neuron] = []
    for neuron in sorted(found, key=lambda neuron: -len(neuron.rows)):
        size = np.linalg.norm(neuron.mean)
        for place, other in enumerate(kept):
            ratio = size / np.linalg.norm(other.mean)
            parallel = neuron.mean @ other.mean >= _SAME_SHAPE * size * np.linalg.norm(other.mean)
            if parallel and 1 / _SAME_SIZE < ratio < _SAME_SIZE:
                kept[place] = other._replace(rows=np.union1d(other.rows, neuron.rows))
                break
            if _beside(neuron.rows, other.rows, reach).mean() >= _TOGETHER:
                break
        else:
            kept.append(neuron)
    return [neuron.rows for neuron in kept]
