"""From a recording and labels to a checkpoint: a backbone for others, or the units of this recording."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from esort.baseline import Baseline
from esort.calibration import Calibration, calibrate
from esort.checkpoint import save_checkpoint
from esort.files import write_json
from esort.fitted import Fitted, TrainingSettings
from esort.gradient import fit_by_gradient
from esort.label_pairs import BEFORE_MS, SAMPLES_MS, suspicious_labels
from esort.labels import LabelledSpikes
from esort.learning import LearningSpec
from esort.pursuit.explain import exclusion_rows
from esort.pursuit.network import PursuitNetwork
from esort.pursuit.training import fit_backbone_by_pursuit, fit_by_pursuit
from esort.pursuit.usual import measure_baseline
from esort.results import SUSPECTS
from esort.subject import Subject
from esort.waveform_prior import WaveformPrior
from esort.windows import Window, mean_waveforms

__all__ = ["TrainingSettings", "backbone_digest", "train_backbone", "train_units"]

logger = logging.getLogger(__name__)

# Raise it when the same settings train another backbone than before: cached ones are then made anew.
_BACKBONE_VERSION = 4
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
            known = {}
        else:
            fitted = fit_by_gradient(
                subject, labels, learning, settings, None, folder, scratch, lightning_logger, "pretrain"
            )
            known = _learn_prior(fitted).to_weights()
        save_checkpoint(path, {**fitted.network.backbone(), **known}, fitted.card(()))
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
        _look_at_labels(fitted, folder / SUSPECTS)
        calibration = _with_baseline(fitted.without_unsortable(calibration), fitted)
        save_checkpoint(
            path,
            fitted.network.state_dict() | calibration.tables.to_weights(),
            fitted.card(tuple(calibration.thresholds.tolist())),
        )
        write_json(folder / "calibration.json", calibration.to_dict(fitted.labels.unit_ids))
        return fitted.metrics


def _learn_prior(fitted: Fitted) -> WaveformPrior:
    """What the waveforms of a recording look like whose spikes are all known."""
    network, rate_hz = fitted.network, fitted.subject.sampling_frequency
    window = Window.of(network)
    window = window.widened(window.samples // 3)  # as far as waveforms are rendered beside the peak
    labels = fitted.labels.with_room(window.before_samples, window.after_samples)
    waveforms = mean_waveforms(fitted.traces, labels, window)
    return WaveformPrior.of(waveforms, fitted.subject.contact_positions_um, window.times_ms(rate_hz))


def _with_baseline(calibration: Calibration, fitted: Fitted) -> Calibration:
    """Add what is usual in the labelled time: what sorting is compared with later."""
    if isinstance(fitted.network, PursuitNetwork):
        baseline = measure_baseline(
            fitted.network,
            fitted.traces,
            calibration.tables.with_rivals(calibration.thresholds),
            exclusion_rows=exclusion_rows(
                fitted.subject.sampling_frequency / fitted.network.stride,
                fitted.settings.postprocessing.refractory_ms,
            ),
            sampling_frequency=fitted.subject.sampling_frequency,
        )
        number, rates_hz = fitted.labels.num_units, baseline.rates_hz
        rivals = replace(calibration.tables.rivals, rates_hz=rates_hz[number:])
        calibration = replace(calibration, tables=replace(calibration.tables, rivals=rivals))
        baseline = replace(baseline, rates_hz=rates_hz[:number])
    else:
        found_hz = calibration.rate_hz * calibration.recall + calibration.false_hz
        baseline = Baseline(rates_hz=np.nan_to_num(found_hz).clip(min=0))
    return replace(calibration, tables=replace(calibration.tables, baseline=baseline))


def _look_at_labels(fitted: Fitted, path: Path) -> None:
    """Say which labels look like one neuron under two names or two under one, in the log and in a file."""
    step = fitted.network.stride if fitted.settings.network.name == _PURSUIT else 1
    rate_hz = fitted.subject.sampling_frequency / step
    rows = np.arange(round(SAMPLES_MS * rate_hz / 1000)) - round(BEFORE_MS * rate_hz / 1000)

    def windows(sample_index: np.ndarray) -> np.ndarray:
        at = np.rint(sample_index / step).astype(np.int64)[:, None] + rows  # (n, T)
        if fitted.settings.network.name != _PURSUIT:
            return np.asarray(fitted.traces[at])
        return np.moveaxis(np.asarray(fitted.traces[:, at]), 0, 2)

    suspects = suspicious_labels(fitted.given, windows, rate_hz)
    for suspect in suspects:
        logger.warning("labels: %s", suspect)
    write_json(path, [suspect.to_dict() for suspect in suspects])


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder for what may be large and is of no use afterwards, also after an error."""
    scratch = folder / "scratch"
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
