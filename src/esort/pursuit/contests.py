"""One label may show another unit's spike more than its own unit's: which units that happened to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from esort.postprocess import ConflictTable
from esort.pursuit.examples import RowLabels, windows_at
from esort.pursuit.explain import explain, residual
from esort.pursuit.means import ALIGNED_MS, first_footprints, peak_rows, where_large
from esort.pursuit.network import PursuitNetwork
from esort.pursuit.recipe import Layout
from esort.pursuit.scorer import PursuitScorer, score_thresholds

__all__ = ["begin_again"]

# So many lengths of a footprint around a label are explained anew when its unit is silent.
_AROUND = 3
# A rival's spike lies this close to the label, and is not much smaller than the rival's footprint.
_RIVAL_MS, _LEAST_RIVAL = 0.5, 0.8
# A unit's label is contested if the others leave less than this of its power where the unit is large.
_CONTESTED_SHARE = 0.05
# Who else lies at a label is looked for this many rows around it, on so many neighbouring channels at once.
_ROWS_ASIDE, _NEIGHBOURS = 2, 14
# Of two units whose labels do not both show both: in standard deviations of noise and times the other's.
_MUCH_LEFT, _TIMES_LEFT = 20.0, 2.0


@dataclass(frozen=True, kw_only=True, eq=False)
class _Label:
    """The only label of a unit, explained by all other units."""

    left: np.ndarray
    """Traces around the label without what others explain, float32 (C, 2 L + 1)."""
    is_contested: bool
    rivals: frozenset[int]
    other: float
    """How far what is left at the label stands out of noise, wherever it lies."""


def begin_again(
    network: PursuitNetwork,
    table: ConflictTable,
    whitened: np.ndarray,
    labels: RowLabels,
    contact_positions_um: np.ndarray,
    layout: Layout,
    *,
    lost: np.ndarray,
) -> tuple[np.ndarray, torch.Tensor, np.ndarray]:
    """Find units of one label that took another unit's spike for their own, and what else lies at the label.

    Each such unit is silenced, and the others explain its label. If they do so wholly, two units look alike.
    Its own is the unit's at whose label nothing else is left, and whose peak lies where most units have it.

    Parameters
    ----------
    network : PursuitNetwork
    table : ConflictTable
        Of this network.
    whitened : float32 array, shape (C, T)
    labels : RowLabels
    contact_positions_um : float array, shape (C, 2)
    layout : Layout
    lost : bool array, shape (U,)
        Units of one label that found no other spike: they begin again, unless they are the ones whose
        spikes others take.

    Returns
    -------
    again : bool array, shape (U,)
    footprints : float tensor, shape (U, M, L)
        To begin with, of those units; of the others as they were.
    channels : int64 array, shape (U, M)
    """
    single = np.flatnonzero(labels.counts() == 1)
    near = np.linalg.norm(contact_positions_um[:, None] - contact_positions_um[None], axis=2)
    neighbours = np.argsort(near, axis=1, kind="stable")[:, :_NEIGHBOURS]
    scorer = network.scorer()
    known = {
        unit_index: _explained(scorer, network, table, whitened, labels, unit_index, neighbours, layout)
        for unit_index in single.tolist()
    }
    again = np.zeros(labels.num_units, dtype=bool)
    thieves, owners = _judged(known, network, layout)
    again[list(thieves | set(np.flatnonzero(lost).tolist()) - owners)] = True
    footprints, channels = network.footprints.clone(), network.footprint_channels.numpy().copy()
    if again.any():
        length = layout.footprint_samples
        left = np.concatenate([known[unit_index].left for unit_index in single.tolist()], axis=1)
        time = np.array([labels.of_unit(unit_index)[0] for unit_index in single.tolist()])
        middle = np.arange(len(single)) * (2 * length + 1) + length
        at = RowLabels(
            time=middle + time - np.rint(time), unit_index=np.arange(len(single)), num_units=len(single)
        )
        anew, channels_anew = first_footprints(left, at, contact_positions_um, layout)
        chosen = again[single]
        footprints[single[chosen]] = anew[chosen]
        channels[single[chosen]] = channels_anew[chosen]
    return again, footprints, channels


def _explained(
    scorer: PursuitScorer,
    network: PursuitNetwork,
    table: ConflictTable,
    whitened: np.ndarray,
    labels: RowLabels,
    unit_index: int,
    neighbours: np.ndarray,
    layout: Layout,
) -> _Label:
    """Silence a unit and explain its only label by all others."""
    time = labels.of_unit(unit_index)[0]
    row, length = round(float(time)), layout.footprint_samples
    half = _AROUND * length
    first, last = max(0, row - half), min(whitened.shape[1], row + half)
    part = np.zeros((len(whitened), 2 * half), dtype=np.float32)
    part[:, first - row + half : last - row + half] = whitened[:, first:last]
    thresholds = score_thresholds(scorer.energies)
    thresholds[unit_index] = np.inf
    events = explain(scorer, table, part, thresholds, exclusion_rows=layout.exclusion_rows)
    left = residual(scorer, part, events)
    centre = half + time - row

    tolerance = _RIVAL_MS * layout.rate_hz / 1000
    is_rival = (np.abs(events.time - centre) <= tolerance) & (events.amplitude > _LEAST_RIVAL)
    rivals = np.intersect1d(events.unit_index[is_rival], table.neighbours[unit_index])
    footprint = network.footprints[unit_index]  # (M, L)
    large = where_large(footprint)
    channels = network.footprint_channels[unit_index].numpy()
    remains = windows_at(left, np.array([centre]), channels, layout)[0]
    share = float(remains[large].square().mean() - 1) / float(footprint[large].square().mean())
    return _Label(
        left=left[:, half - length : half + length + 1],
        is_contested=len(rivals) > 0 and share < _CONTESTED_SHARE,
        rivals=frozenset(rivals.tolist()),
        other=_standing_out(left, half, scorer, neighbours),
    )


def _standing_out(left: np.ndarray, row: int, scorer: PursuitScorer, neighbours: np.ndarray) -> float:
    """Energy of the largest spike at a row, whose ever it is, in standard deviations of noise."""
    begin, length = row - scorer.filter_before, scorer.filters.shape[1]
    degrees = neighbours.shape[1] * len(scorer.filters)
    energies = [
        np.square(left[:, begin + aside : begin + aside + length] @ scorer.filters.T).sum(axis=1)
        for aside in range(-_ROWS_ASIDE, _ROWS_ASIDE + 1)
    ]  # (C,) each
    largest = max(float(energy[neighbours].sum(axis=1).max()) for energy in energies)
    return (largest - degrees) / (2 * degrees) ** 0.5


def _judged(known: dict[int, _Label], network: PursuitNetwork, layout: Layout) -> tuple[set[int], set[int]]:
    """Tell the units that took another's spike, and those whose spikes were taken."""
    peaks = peak_rows(network.footprints, layout)
    aside = np.abs(peaks - np.median(peaks))
    tolerance = ALIGNED_MS * layout.rate_hz / 1000

    def thief_of(unit: int, rival: int) -> int | None:
        if unit in known[rival].rivals:
            # Where a label lies on another unit's spike by chance, it seldom lies on its peak.
            if abs(aside[unit] - aside[rival]) > tolerance:
                return unit if aside[unit] > aside[rival] else rival
            return unit if known[unit].other > known[rival].other else rival
        much = max(_MUCH_LEFT, _TIMES_LEFT * known[unit].other)
        return rival if known[rival].other > much else None

    thieves, owners = set(), set()
    for unit, label in known.items():
        for rival in label.rivals & known.keys() if label.is_contested else ():
            thief = thief_of(unit, rival)
            if thief is not None:
                thieves.add(thief)
                owners.add(unit + rival - thief)
    return thieves, owners
