"""Spikes of a short stretch, told apart: right, false or missed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from spikeinterface.core import BaseSorting

__all__ = ["Event", "classify_spikes", "pair_spikes", "true_spikes"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One spike of a stretch.

    Parameters
    ----------
    kind : {"hit", "miss", "false", "found"}
        A true spike that was found or was not, a found spike that is none; "found" where no truth is known.
    unit_id : Any
        A unit of the truth for hits and misses, of the sorting otherwise.
    sample_index : int
        Where its own sorting puts it.
    """

    kind: str
    unit_id: Any
    sample_index: int


def pair_spikes(
    true_sample_index: np.ndarray, found_sample_index: np.ndarray, delta_samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pair the spikes of one unit in two sortings, as many as can be paired one to one.

    Parameters
    ----------
    true_sample_index, found_sample_index : int arrays, shapes (S,) and (R,)
        Sorted.
    delta_samples : int
        How far apart two spikes of a pair may be.

    Returns
    -------
    is_hit : bool array, shape (S,)
        Which true spikes have a partner.
    is_true : bool array, shape (R,)
        Which found spikes have one.
    """
    is_hit = np.zeros(len(true_sample_index), dtype=bool)
    is_true = np.zeros(len(found_sample_index), dtype=bool)
    first = second = 0
    while first < len(is_hit) and second < len(is_true):
        distance = int(found_sample_index[second]) - int(true_sample_index[first])
        if abs(distance) <= delta_samples:
            is_hit[first] = is_true[second] = True
            first, second = first + 1, second + 1
        elif distance < 0:
            second += 1
        else:
            first += 1
    return is_hit, is_true


def true_spikes(
    sample_index: np.ndarray,
    unit_index: np.ndarray,
    unit_ids: Sequence[Any],
    ground_truth: BaseSorting,
    matches: Mapping[Any, Any],
    delta_samples: int,
) -> np.ndarray:
    """Say of each found spike whether the true unit that its unit is matched with fired there.

    Parameters
    ----------
    sample_index, unit_index : int arrays, shape (S,)
        Found spikes, sorted by sample.
    unit_ids : sequence, length U
        Names of the found units.
    ground_truth : BaseSorting
    matches : mapping of true unit id to found unit id or None
    delta_samples : int
        How far apart two spikes may be and still be the same.

    Returns
    -------
    bool array, shape (S,)
    """
    is_true = np.zeros(len(sample_index), dtype=bool)
    position = {unit_id: index for index, unit_id in enumerate(unit_ids)}
    for true_id, found_id in matches.items():
        if found_id in position:
            (of_unit,) = np.nonzero(unit_index == position[found_id])
            train = ground_truth.get_unit_spike_train(true_id)
            is_true[of_unit] = pair_spikes(train, sample_index[of_unit], delta_samples)[1]
    return is_true


def classify_spikes(
    sorting: BaseSorting,
    ground_truth: BaseSorting | None,
    *,
    start_sample: int,
    stop_sample: int,
    delta_samples: int,
    matches: Mapping[Any, Any] | None = None,
) -> list[Event]:
    """Say of each spike in [start_sample, stop_sample) what it is.

    Parameters
    ----------
    sorting : BaseSorting
        What was found.
    ground_truth : BaseSorting or None
    start_sample, stop_sample : int
    delta_samples : int
        How far apart two spikes may be and still be the same.
    matches : mapping of true unit id to found unit id or None, optional
        By default units of one name are one.

    Returns
    -------
    list of Event
    """
    events: list[Event] = []

    def add(kind: str, unit_id: Any, spikes: np.ndarray) -> None:
        inside = spikes[(spikes >= start_sample) & (spikes < stop_sample)]
        events.extend(Event(kind=kind, unit_id=unit_id, sample_index=int(spike)) for spike in inside)

    # With a margin, so that a pair is seen whole even if the stretch ends between its two spikes.
    margins = max(0, start_sample - delta_samples), stop_sample + delta_samples
    found = _trains(sorting, *margins)
    if ground_truth is None:
        for unit_id, spikes in found.items():
            add("found", unit_id, spikes)
        return events
    for unit_id, true in _trains(ground_truth, *margins).items():
        partner = unit_id if matches is None else matches.get(unit_id)
        spikes = found.pop(partner, np.zeros(0, dtype=np.int64))
        is_hit, is_true = pair_spikes(true, spikes, delta_samples)
        add("hit", unit_id, true[is_hit])
        add("miss", unit_id, true[~is_hit])
        add("false", partner, spikes[~is_true])
    for unit_id, spikes in found.items():  # units that match none
        add("false", unit_id, spikes)
    return events


def _trains(sorting: BaseSorting, start_sample: int, stop_sample: int) -> dict[Any, np.ndarray]:
    """Spikes of each unit in [start_sample, stop_sample), without sorting all spikes by unit first."""
    vector = sorting.to_spike_vector()
    first, last = np.searchsorted(vector["sample_index"], [start_sample, stop_sample])
    part = vector[first:last]
    return {
        unit_id: part["sample_index"][part["unit_index"] == index].astype(np.int64)
        for index, unit_id in enumerate(_plain_ids(sorting))
    }


def _plain_ids(sorting: BaseSorting) -> list[Any]:
    return [unit_id.item() if isinstance(unit_id, np.generic) else unit_id for unit_id in sorting.unit_ids]
