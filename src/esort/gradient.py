"""Learning by gradient: traces filtered once, a network from a backbone or from nothing, Lightning's loop."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from esort.calibration import calibration_room
from esort.checkpoint import load_checkpoint
from esort.fitted import Fitted, TrainingSettings, without_artefacts
from esort.labels import LabelledSpikes
from esort.learning import LearningSpec, learn
from esort.network import SpikeNetwork, build_network
from esort.prepared import prepare
from esort.subject import Subject
from esort.windows import Window

__all__ = ["fit_by_gradient"]

logger = logging.getLogger(__name__)

# Hyper-parameters in which a backbone may differ from the network that starts from it.
_OF_THE_RECORDING = {"num_channels", "num_units"}


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
    if backbone is not None:
        _start_from(network, backbone, subject.sampling_frequency, settings.network.name, hyper_parameters)
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
    )
    return Fitted(
        subject=subject,
        prepared=prepared,
        traces=traces,
        labels=labels,
        network=network,
        hyper_parameters=hyper_parameters,
        settings=settings,
        metrics=metrics,
    )


def _start_from(
    network: SpikeNetwork, path: Path, sampling_frequency: float, name: str, hyper_parameters: dict[str, Any]
) -> None:
    """Load a backbone, or say why it does not fit."""
    card, weights = load_checkpoint(path, framework="torch")
    if card.network != name:
        raise ValueError(f"{path}: a backbone of network {card.network}, expected one of network {name}")
    if abs(card.sampling_frequency / sampling_frequency - 1) > 1e-3:
        raise ValueError(
            f"{path}: a backbone for {card.sampling_frequency:g} Hz, "
            f"the recording has {sampling_frequency:g} Hz"
        )
    for key in sorted((hyper_parameters.keys() | card.network_parameters.keys()) - _OF_THE_RECORDING):
        theirs, ours = card.network_parameters.get(key), hyper_parameters.get(key)
        if theirs != ours:
            raise ValueError(f"{path}: a backbone with {key}={theirs}, expected one with {key}={ours}")
    taken = network.load_backbone(weights)
    left = sorted(set(weights) - set(taken))
    if left:
        logger.info("from the backbone without %s, which are for another probe", ", ".join(left))
