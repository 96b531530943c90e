"""From a recording and labels to the checkpoint of a pursuit network."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from esort.calibration import Calibration
from esort.checkpoint import load_checkpoint
from esort.fitted import Fitted, TrainingSettings, sortable_units
from esort.labels import LabelledSpikes
from esort.postprocess import ConflictTable
from esort.pursuit.bandpass import reduction
from esort.pursuit.calibration import calibrate_scores
from esort.pursuit.denoising import NUM_COMPONENTS, temporal_components
from esort.pursuit.following import motion_of
from esort.pursuit.ground import Ground, prepare_ground
from esort.pursuit.learning import first_network, learn_units, refine_units
from esort.pursuit.means import mean_footprints
from esort.pursuit.network import PursuitNetwork
from esort.pursuit.recipe import Layout, Recipe
from esort.pursuit.rivals import find_rivals
from esort.subject import Subject
from esort.threads import one_thread_each

__all__ = ["fit_backbone_by_pursuit", "fit_by_pursuit"]

logger = logging.getLogger(__name__)

# So many labelled spikes of most units tell this recording's waveforms better than others' do.
_ENOUGH_LABELS = 5
# Motion of less changes no amplitude, and may be none: from few labels it is told no better.
_FAR_UM = 10.0
# Neurons that nobody labelled hide each other: so many times they are looked for.
_SEARCHES = 6


def fit_by_pursuit(
    subject: Subject,
    labels: LabelledSpikes,
    settings: TrainingSettings,
    backbone: Path | None,
    *,
    scratch: Path,
) -> tuple[Fitted, Calibration]:
    """Learn the units of a recording from labelled spikes; see `esort.training.train_units`.

    Neurons that nobody labelled are found and compete. A unit that cannot be told from noise is left out: the
    others are learned as if nobody had labelled it.
    """
    ground = prepare_ground(subject, labels, settings, scratch)
    shared = {} if backbone is None else _load_backbone(backbone, subject.sampling_frequency, ground.layout)
    if _are_enough(ground.labels):
        shared = {}
    recipe = Recipe(layout=ground.layout, sizes=ground.sizes, **shared)
    learned = _learn(ground, recipe)
    searches = _SEARCHES
    while True:
        calibration = _calibrated(learned, ground)
        rivals = _rivals_of(learned, ground, calibration) if searches else ground.rivals
        if rivals is not ground.rivals:
            searches -= 1
            ground = replace(ground, rivals=rivals)
            learned = _learn(ground, recipe)
            continue
        chosen = sortable_units(calibration, ground.labels.unit_ids)
        if chosen.all():
            break
        searches = max(searches, 1)  # what is left out may be a neuron
        ground = ground.of_units(chosen)
        # What few labels begin with is half luck: what was found with them is kept.
        is_new = _are_enough(ground.labels)
        learned = _learn(ground, recipe) if is_new else _refined(learned, ground, chosen)
    if ground.rivals:
        logger.info(
            "neurons that nobody labelled compete with the units: %d; python -m esort.rivals names them",
            len(ground.rivals),
        )
    return ground.fitted(learned.network, learned.traces, subject, settings), calibration


def _are_enough(labels: LabelledSpikes) -> bool:
    return bool(np.median(labels.counts()) >= _ENOUGH_LABELS)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Learned:
    """Units, and what they were learned from."""

    network: PursuitNetwork
    table: ConflictTable
    traces: np.ndarray
    """Whitened, and moved back if the tissue moved."""
    recipe: Recipe
    moved_far: bool


def _learn(ground: Ground, recipe: Recipe) -> _Learned:
    """Learn all units, from traces that are moved back if the tissue moved."""
    labels, positions, traces = ground.row_labels, ground.contact_positions_um, ground.whitened()
    far = False
    with one_thread_each():
        network = first_network(traces, labels, positions, recipe)
        if network.follows:
            motion = motion_of(ground.complete(network), ground.filtered, ground.layout.rate_hz)
            far = motion.range_um > _FAR_UM
            if far or (motion.is_any and _are_enough(ground.labels)):
                logger.info("the tissue moves by %d um: learning follows it", motion.range_um)
                traces = ground.whitened(motion)
                recipe = replace(recipe, sizes=ground.sizes | {"moved": True})
                network = first_network(traces, labels, positions, recipe)
        network, table = learn_units(network, traces, labels, positions, recipe)
    return _Learned(network=network, table=table, traces=traces, recipe=recipe, moved_far=far)


def _refined(learned: _Learned, ground: Ground, chosen: np.ndarray) -> _Learned:
    """Refine the units that are not left out, (U,) booleans."""
    chosen = np.append(chosen, np.ones(len(ground.rivals), dtype=bool))
    with one_thread_each():
        rest = learned.network.of_units(np.flatnonzero(chosen))
        network, table = refine_units(rest, learned.traces, ground.row_labels, learned.recipe)
    return replace(learned, network=network, table=table)


def _calibrated(learned: _Learned, ground: Ground) -> Calibration:
    """Say what to expect of the units that somebody labelled."""
    return calibrate_scores(
        learned.network,
        learned.table,
        learned.traces,
        ground.row_labels,
        ground.layout,
        moved=learned.moved_far,
        num_rivals=len(ground.rivals),
    )


def _rivals_of(learned: _Learned, ground: Ground, calibration: Calibration) -> tuple[np.ndarray, ...]:
    """Find neurons that nobody labelled, those known among them."""
    with one_thread_each():
        return find_rivals(
            ground.complete(learned.network),
            learned.table,
            learned.traces,
            calibration.tables.with_rivals(calibration.thresholds),
            ground.row_labels,
            ground.layout,
            known=ground.rivals,
        )


def fit_backbone_by_pursuit(
    subject: Subject, labels: LabelledSpikes, settings: TrainingSettings, *, scratch: Path
) -> Fitted:
    """Learn what knows no unit, the temporal components; see `esort.training.train_backbone`."""
    ground = prepare_ground(subject, labels, settings, scratch)
    layout, traces = ground.layout, ground.whitened()
    with one_thread_each():
        footprints, _ = mean_footprints(traces, ground.row_labels, ground.contact_positions_um, layout)
    network = PursuitNetwork(
        **ground.sizes,
        num_units=1,
        num_filters=layout.num_filters,
        filter_samples=layout.filter_samples,
        filter_before=layout.filter_before,
        footprint_before=layout.footprint_before,
        footprint_samples=layout.footprint_samples,
        num_components=NUM_COMPONENTS,
    )
    first = layout.footprint_before - layout.filter_before
    middle = footprints[:, :, first : first + layout.filter_samples]
    network.filters.copy_(temporal_components(middle, layout.num_filters))
    network.basis.copy_(temporal_components(footprints, NUM_COMPONENTS))
    return ground.fitted(network, traces, subject, settings)


def _load_backbone(path: Path, sampling_frequency: float, layout: Layout) -> dict[str, torch.Tensor]:
    """Temporal components of a backbone, for any probe, or say why they do not fit."""
    card, weights = load_checkpoint(path, framework="torch")
    if card.network != "pursuit":
        raise ValueError(f"{path}: a backbone of network {card.network}, expected one of network pursuit")
    rate_hz = card.sampling_frequency / reduction(card.sampling_frequency)
    expected = {
        "filters": (layout.num_filters, layout.filter_samples),
        "basis": (NUM_COMPONENTS, layout.footprint_samples),
    }
    if set(weights) != set(expected):
        raise ValueError(f"{path}: expected the weights {sorted(expected)}, got {sorted(weights)}")
    resampled = {
        name: _at_rate(weights[name], layout.rate_hz / rate_hz, expected[name][1]) for name in expected
    }
    for name, (rows, _) in expected.items():
        if len(resampled[name]) != rows:
            raise ValueError(f"{path}: a backbone with {len(resampled[name])} {name}, expected {rows}")
    return resampled


def _at_rate(components: torch.Tensor, ratio: float, length: int) -> torch.Tensor:
    """Resample orthonormal components to another rate, and make them orthonormal again."""
    if abs(ratio - 1) < 1e-6 and components.shape[1] == length:
        return components
    values = torch.nn.functional.interpolate(
        components[None], size=length, mode="linear", align_corners=True
    )[0]
    return torch.linalg.qr(values.T).Q.T.contiguous()
