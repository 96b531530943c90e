"""What training works with and what it leaves: settings in, a network with everything of its card out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from esort.calibration import MIN_PRECISION, Calibration
from esort.card import Card, LabelSource
from esort.detector import Postprocessing
from esort.labels import LabelledSpikes
from esort.network import NetworkSpec, SpikeNetwork
from esort.prepared import PreparedRecording
from esort.preprocessing import Preprocessing
from esort.stretches import within
from esort.subject import Subject

if TYPE_CHECKING:
    import pytorch_lightning as pl

__all__ = ["Fitted", "TrainingSettings", "sortable_units", "without_artefacts"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What pretraining and fine-tuning have in common.

    Parameters
    ----------
    network : NetworkSpec
    preprocessing : Preprocessing
    postprocessing : Postprocessing
    make_trainer : callable
        See `esort.learning.learn`.
    seed : int
    resume : bool
        Go on from Lightning's last checkpoint in the run folder.
    """

    network: NetworkSpec
    preprocessing: Preprocessing
    postprocessing: Postprocessing
    make_trainer: Callable[..., pl.Trainer]
    seed: int = 0
    resume: bool = False


def without_artefacts(labels: LabelledSpikes, prepared: PreparedRecording) -> LabelledSpikes:
    """Leave out the labels in stretches that were blanked, once the traces of the labelled time were read.

    Raises
    ------
    ValueError
        If no label is left.
    """
    stretches = prepared.blanked_stretches(labels.start_sample, labels.stop_sample)
    kept = labels.outside(within(labels.sample_index, stretches), "artefacts")
    if kept.num_units == 0:
        raise ValueError(
            f"all {labels.num_spikes} labelled spikes lie in {len(stretches)} artefacts: expected "
            f"some outside, recording.blank=false keeps them"
        )
    return kept


def sortable_units(calibration: Calibration, unit_ids: Sequence[Any]) -> np.ndarray:
    """Tell which units are worth keeping, (U,) booleans, and name the others in the log.

    Raises
    ------
    ValueError
        If there is none.
    """
    chosen = calibration.sortable
    if not chosen.any():
        raise ValueError(
            f"no unit can be told from the noise: all have an expected precision below {MIN_PRECISION} "
            f"or an expected accuracy below {calibration.min_accuracy}"
        )
    left_out = [
        f"{unit_id} ({precision:.2f}, {accuracy:.2f})"
        for unit_id, precision, accuracy, keep in zip(
            unit_ids, calibration.precision, calibration.accuracy, chosen, strict=True
        )
        if not keep
    ]
    if left_out:
        logger.warning(
            "units left out, expected precision below %g or accuracy below %g: %s",
            MIN_PRECISION,
            calibration.min_accuracy,
            ", ".join(left_out),
        )
    return chosen


@dataclass(kw_only=True, eq=False)
class Fitted:
    """A trained network and what belongs to it."""

    subject: Subject
    prepared: PreparedRecording
    traces: np.ndarray
    labels: LabelledSpikes
    given: LabelledSpikes
    """Labels of all units, of those that were left out too."""
    network: SpikeNetwork
    hyper_parameters: dict[str, Any]
    settings: TrainingSettings
    metrics: dict[str, float]

    def without_unsortable(self, calibration: Calibration) -> Calibration:
        """Leave out, by name, the units that would be mostly false spikes, or mostly missed.

        Raises
        ------
        ValueError
            If no unit is left.
        """
        chosen = sortable_units(calibration, self.labels.unit_ids)
        if chosen.all():
            return calibration
        self.network = self.network.of_units(np.flatnonzero(chosen))
        self.hyper_parameters = self.hyper_parameters | {"num_units": int(chosen.sum())}
        self.labels = self.labels.of_units(chosen)
        return calibration.of_units(chosen)

    def card(self, thresholds: tuple[float, ...]) -> Card:
        """Card of this network: with thresholds for its units, without any a backbone's."""
        settings, labels = self.settings, self.labels
        source = LabelSource(
            recording_fingerprint=self.subject.fingerprint,
            start_sample=labels.start_sample,
            stop_sample=labels.stop_sample,
            num_labels=labels.num_spikes,
        )
        positions = self.subject.contact_positions_um
        return Card(
            network=settings.network.name,
            network_parameters=self.hyper_parameters,
            sampling_frequency=self.subject.sampling_frequency,
            contact_positions_um=tuple((float(x), float(y)) for x, y in positions),
            channel_ids=tuple(self.subject.recording.channel_ids.tolist()),
            unit_ids=labels.unit_ids if thresholds else (),
            window_ms=1000 * self.network.window_samples / self.subject.sampling_frequency,
            window_samples=self.network.window_samples,
            peak_offset_samples=self.network.peak_offset_samples,
            preprocessing=self.prepared.preprocessing.to_dict(),
            noise_level_uv=tuple(float(level) for level in self.prepared.noise_level_uv),
            thresholds=thresholds,
            postprocess=settings.postprocessing.to_dict(),
            labels=source if thresholds else None,
            seed=settings.seed,
        )
