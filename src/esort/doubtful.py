"""Spikes of known units that a neuron nobody has labelled may have fired."""

from __future__ import annotations

import numpy as np

from esort.postprocess import Spikes
from esort.sorter import Sorter
from esort.unknown import UnknownEvents

__all__ = ["doubtful_spikes"]

# An unknown event lies so close to a spike that does not fit.
_SAME_MS, _SAME_UM = 0.25, 50.0


def doubtful_spikes(sorter: Sorter, spikes: Spikes, unknown: UnknownEvents) -> np.ndarray:
    """Say at which spikes so much is left of the traces that they are probably not of their unit.

    A neuron that looks like a unit's and was never labelled is taken for it; what the unit's footprint leaves
    of such a spike is an unknown event. Sorting cannot take back a spike that a stream has told milliseconds
    before; who needs clean units leaves these out.

    Parameters
    ----------
    sorter : Sorter
        That found them.
    spikes : Spikes
        Of a recording or a stretch of it, in any order.
    unknown : UnknownEvents
        Of the same.

    Returns
    -------
    bool array, shape (S,)
        The same for any chunks or blocks. All False for a network that tells no unknown events.
    """
    doubtful = np.zeros(len(spikes), dtype=bool)
    if not len(unknown) or not len(spikes) or not sorter.is_pursuit:
        return doubtful
    places_um, trough_samples = _of_units(sorter)
    time = np.asarray(spikes.sample_index) + trough_samples[spikes.unit_index]
    order = np.argsort(time, kind="stable")
    time, unit_index = time[order], np.asarray(spikes.unit_index)[order]
    tolerance = round(_SAME_MS * sorter.card.sampling_frequency / 1000)
    first = np.searchsorted(time, unknown.sample_index - tolerance)
    last = np.searchsorted(time, unknown.sample_index + tolerance, side="right")
    for event in np.flatnonzero(last > first):
        near = slice(first[event], last[event])
        distance = np.linalg.norm(places_um[unit_index[near]] - unknown.position_um[event], axis=1)
        doubtful[order[near]] |= distance <= _SAME_UM
    return doubtful


def _of_units(sorter: Sorter) -> tuple[np.ndarray, np.ndarray]:
    """Centre of each unit's energy, in µm (U, 2), and its trough's samples behind its spikes' times (U,)."""
    scorer = sorter.scorer
    energy = np.square(scorer.footprints.astype(np.float64)).sum(axis=2)  # (U, M)
    weights = energy / np.maximum(energy.sum(axis=1, keepdims=True), 1e-9)
    places_um = np.einsum("um,umd->ud", weights, scorer.positions[scorer.footprint_channels])
    largest = scorer.footprints[np.arange(len(energy)), energy.argmax(axis=1)]  # (U, L)
    rows = largest.argmin(axis=1) - scorer.footprint_before
    return places_um, rows * scorer.stride
