"""Learning by gradient: traces filtered once, a network from a backbone or from nothing, Lightning's loop."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import torch

from esort.calibration import calibration_room
from esort.fitted import Fitted, TrainingSettings, without_artefacts
from esort.labels import LabelledSpikes
from esort.learning import LearningSpec, learn
from esort.network import build_network
from esort.prepared import prepare
from esort.subject import Subject
from esort.transfer import start_from_backbone
from esort.windows import Window

__all__ = ["fit_by_gradient"]

logger = logging.getLogger(__name__)


def fit_by_gradient(
    subject: Subject,
    labels: LabelledSpikes,
    learning: LearningSpec,
    settings: TrainingSettings,
    backbone: Path | None,
    folder: Path,
    scratch: Path,
    lightning_logger: Any,
    name: str,
) -> Fitted:
    """Train on a labelled recording; see `esort.training`."""
    # Cut off in front of the filter: not even its margin reaches into what is sorted and scored later.
    learnable = subject.recording.frame_slice(start_frame=0, end_frame=labels.stop_sample)
    prepared = prepare(learnable, settings.preprocessing, seed=settings.seed)
    hyper_parameters = settings.network.hyper_parameters(
        sampling_frequency=subject.sampling_frequency,
        num_channels=prepared.num_channels,
        num_units=labels.num_units,
    )
    window = Window(
        before_samples=hyper_parameters["peak_offset_samples"], samples=hyper_parameters["window_samples"]
    )
    room = max(
        learning.examples.room(window, subject.sampling_frequency),
        calibration_room(window, subject.sampling_frequency, settings.postprocessing.smoothing_ms),
        key=lambda stretch: stretch.samples,
    )
    labels = labels.with_room(room.before_samples, room.after_samples)
    if labels.num_units == 0:
        raise ValueError(
            f"expected labelled spikes with {room.before_samples} samples before and {room.after_samples} "
            f"after them in [{labels.start_sample}, {labels.stop_sample}), got none"
        )
    traces = prepared.memory_map(scratch / f"{name}.npy", stop_sample=labels.stop_sample)
    labels = without_artefacts(labels, prepared)
    hyper_parameters["num_units"] = labels.num_units
    torch.manual_seed(settings.seed)
    network = build_network(settings.network.name, hyper_parameters)
    prior = None
    if backbone is not None:
        waveform_prior = start_from_backbone(
            network,
            backbone,
            name=settings.network.name,
            hyper_parameters=hyper_parameters,
            sampling_frequency=subject.sampling_frequency,
            contact_positions_um=subject.contact_positions_um,
        )
        if waveform_prior is not None:
            prior = partial(waveform_prior.estimate, contact_positions_um=subject.contact_positions_um)
    logger.info(
        "%s: %d units, %d labelled spikes, %d channels, %.1f s; filtering",
        name,
        labels.num_units,
        labels.num_spikes,
        prepared.num_channels,
        labels.stop_sample / subject.sampling_frequency,
    )
    metrics = learn(
        network,
        traces,
        labels,
        learning,
        make_trainer=settings.make_trainer,
        folder=folder / name,
        seed=settings.seed,
        lightning_logger=lightning_logger,
        resume=settings.resume,
        name=name,
        prior=prior,
    )
    return Fitted(
        subject=subject,
        prepared=prepared,
        traces=traces,
        labels=labels,
        given=labels,
        network=network,
        hyper_parameters=hyper_parameters,
        settings=settings,
        metrics=metrics,
    )
