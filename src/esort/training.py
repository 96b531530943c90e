"""From a recording and labels to a checkpoint: a backbone for others, or the units of this recording."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from esort.calibration import calibrate
from esort.checkpoint import save_checkpoint
from esort.files import write_json
from esort.fitted import TrainingSettings
from esort.gradient import fit_by_gradient
from esort.labels import LabelledSpikes
from esort.learning import LearningSpec
from esort.pursuit.training import fit_backbone_by_pursuit, fit_by_pursuit
from esort.subject import Subject

__all__ = ["TrainingSettings", "backbone_digest", "train_backbone", "train_units"]

# Raise it when the same settings train another backbone than before: cached ones are then made anew.
_BACKBONE_VERSION = 2
# The network that learns in closed form.
_PURSUIT = "pursuit"


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
        if settings.network.name == _PURSUIT:
            fitted = fit_backbone_by_pursuit(subject, labels, settings, scratch=scratch)
        else:
            fitted = fit_by_gradient(
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
        if settings.network.name == _PURSUIT:
            fitted, calibration = fit_by_pursuit(subject, labels, settings, backbone, scratch=scratch)
        else:
            fitted = fit_by_gradient(
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
