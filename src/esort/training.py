"""From a recording and labels to a checkpoint: a backbone for others, or the units of this recording."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from esort.calibration import MIN_PRECISION, Calibration, calibrate, calibration_room
from esort.card import Card, LabelSource
from esort.checkpoint import load_checkpoint, save_checkpoint
from esort.detector import Postprocessing
from esort.files import write_json
from esort.labels import LabelledSpikes
from esort.learning import LearningSpec, learn
from esort.network import NetworkSpec, SpikeNetwork, build_network
from esort.prepared import PreparedRecording, prepare
from esort.preprocessing import Preprocessing
from esort.subject import Subject
from esort.windows import Window

__all__ = ["TrainingSettings", "backbone_digest", "train_backbone", "train_units"]

logger = logging.getLogger(__name__)

# Raise it when the same settings train another backbone than before: cached ones are then made anew.
_BACKBONE_VERSION = 2
# Hyper-parameters in which a backbone may differ from the network that starts from it.
_OF_THE_RECORDING = {"num_channels", "num_units"}


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


def backbone_digest(source: dict[str, Any], learning: LearningSpec, settings: TrainingSettings) -> str:
    """Name of a backbone in the cache: a digest of all that it depends on.

    Parameters
    ----------
    source : dict
        Full description of the source recording, plain values.
    learning : LearningSpec
    settings : TrainingSettings
        Of which the trainer, the post-processing and whether it is resumed change no backbone.

    Returns
    -------
    str
        SHA-256 in hexadecimal.
    """
    content = {
        "version": _BACKBONE_VERSION,
        "source": source,
        "learning": asdict(learning),
        "network": asdict(settings.network),
        "preprocessing": settings.preprocessing.to_dict(),
        "seed": settings.seed,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def train_backbone(
    subject: Subject,
    labels: LabelledSpikes,
    learning: LearningSpec,
    settings: TrainingSettings,
    *,
    path: Path,
    folder: Path,
    lightning_logger: Any = False,
) -> dict[str, float]:
    """Train a network on a fully labelled recording and keep what knows no unit.

    Parameters
    ----------
    subject : Subject
    labels : LabelledSpikes
    learning : LearningSpec
    settings : TrainingSettings
    path : Path
        The checkpoint to write.
    folder : Path
        For files of the training.
    lightning_logger : Lightning logger or False

    Returns
    -------
    dict of str to float
        Validation metrics.
    """
    with _scratch(folder) as scratch:
        fitted = _fit(
            subject, labels, learning, settings, None, folder, scratch, lightning_logger, "pretrain"
        )
        save_checkpoint(path, fitted.network.backbone(), fitted.card(()))
        return fitted.metrics


def train_units(
    subject: Subject,
    labels: LabelledSpikes,
    learning: LearningSpec,
    settings: TrainingSettings,
    *,
    backbone: Path | None,
    path: Path,
    folder: Path,
    lightning_logger: Any = False,
) -> dict[str, float]:
    """Learn the units of a recording and write a checkpoint that sorts it.

    Parameters
    ----------
    subject : Subject
    labels : LabelledSpikes
        Nothing else of the ground truth is looked at, and no trace beyond the labelled time.
    learning : LearningSpec
    settings : TrainingSettings
    backbone : Path or None
        A backbone's checkpoint to start from; None: from random weights.
    path : Path
        The checkpoint to write.
    folder : Path
        For files of the training.
    lightning_logger : Lightning logger or False

    Returns
    -------
    dict of str to float
        Validation metrics.

    Raises
    ------
    ValueError
        If the backbone is for another rate or another network, or no label has room for a window around it.
    """
    with _scratch(folder) as scratch:
        fitted = _fit(
            subject, labels, learning, settings, backbone, folder, scratch, lightning_logger, "finetune"
        )
        calibration = calibrate(
            fitted.network,
            fitted.traces,
            fitted.labels,
            smoothing_ms=settings.postprocessing.smoothing_ms,
            refractory_ms=settings.postprocessing.refractory_ms,
            rng=np.random.default_rng(settings.seed),
        )
        calibration = fitted.without_unsortable(calibration)
        save_checkpoint(
            path,
            fitted.network.state_dict() | calibration.tables.to_weights(),
            fitted.card(tuple(calibration.thresholds.tolist())),
        )
        write_json(folder / "calibration.json", calibration.to_dict(fitted.labels.unit_ids))
        return fitted.metrics


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder for what may be large and is of no use afterwards, also after an error."""
    scratch = folder / "scratch"
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@dataclass(kw_only=True, eq=False)
class _Fitted:
    """A trained network and what belongs to it."""

    subject: Subject
    prepared: PreparedRecording
    traces: np.ndarray
    labels: LabelledSpikes
    network: SpikeNetwork
    hyper_parameters: dict[str, Any]
    settings: TrainingSettings
    metrics: dict[str, float]

    def without_unsortable(self, calibration: Calibration) -> Calibration:
        """Leave out, by name, the units that would be mostly false spikes.

        Raises
        ------
        ValueError
            If no unit is left.
        """
        chosen = calibration.sortable
        if chosen.all():
            return calibration
        left_out = [
            f"{unit_id} ({precision:.2f})"
            for unit_id, precision, keep in zip(
                self.labels.unit_ids, calibration.precision, chosen, strict=True
            )
            if not keep
        ]
        if not chosen.any():
            raise ValueError(
                f"no unit can be told from the noise: all have an expected precision below {MIN_PRECISION}"
            )
        logger.warning("units left out, expected precision below %g: %s", MIN_PRECISION, ", ".join(left_out))
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
            window_ms=settings.network.window_ms,
            window_samples=self.network.window_samples,
            peak_offset_samples=self.network.peak_offset_samples,
            preprocessing=self.prepared.preprocessing.to_dict(),
            noise_level_uv=tuple(float(level) for level in self.prepared.noise_level_uv),
            thresholds=thresholds,
            postprocess=settings.postprocessing.to_dict(),
            labels=source if thresholds else None,
            seed=settings.seed,
        )


def _fit(
    subject: Subject,
    labels: LabelledSpikes,
    learning: LearningSpec,
    settings: TrainingSettings,
    backbone: Path | None,
    folder: Path,
    scratch: Path,
    lightning_logger: Any,
    name: str,
) -> _Fitted:
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
    traces = prepared.memory_map(scratch / f"{name}.npy", stop_sample=labels.stop_sample)
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
    return _Fitted(
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
