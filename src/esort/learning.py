"""Training: a backbone from a fully known recording, units from few labels."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint

from esort.datamodule import SpikeDataModule
from esort.examples import ExampleSpec, SpikeExamples
from esort.labels import LabelledSpikes
from esort.lightning import SpikeModule
from esort.matched import start_from_labels
from esort.network import DenseNetwork, SpikeNetwork
from esort.windows import Window

__all__ = ["LearningSpec", "learn", "split_labels"]

logger = logging.getLogger(__name__)

# A unit needs this many labels before some are kept for validation.
_MIN_TO_SPLIT = 5


@dataclass(frozen=True, kw_only=True)
class LearningSpec:
    """How long and how a network is trained.

    Parameters
    ----------
    epochs, batches_per_epoch, batch_size, validation_batches : int
    learning_rate : float
        Peak of the schedule, for the backbone.
    head_learning_rate : float
        The same for the head.
    weight_decay : float
    patience : int
        Epochs without a lower validation loss after which training stops.
    validation_fraction : float
        Part of the labels that is kept for validation.
    matched_start : bool
        Whether hidden features start from the labelled spikes, see `esort.matched`.
    examples : ExampleSpec

    Raises
    ------
    ValueError
        If a value is outside its limits.
    """

    epochs: int
    batches_per_epoch: int = 100
    batch_size: int = 256
    validation_batches: int = 8
    learning_rate: float = 1e-3
    head_learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    patience: int = 5
    validation_fraction: float = 0.2
    matched_start: bool = False
    examples: ExampleSpec = field(default_factory=ExampleSpec)

    def __post_init__(self) -> None:
        for name in ("epochs", "batches_per_epoch", "batch_size", "validation_batches", "patience"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        for name, high in (
            ("learning_rate", 1.0),
            ("head_learning_rate", 1.0),
            ("weight_decay", 1.0),
            ("validation_fraction", 0.5),
        ):
            if not 0 <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be in [0, {high}], got {getattr(self, name)!r}")


def split_labels(
    labels: LabelledSpikes, fraction: float, rng: np.random.Generator
) -> tuple[LabelledSpikes, LabelledSpikes]:
    """Keep some labels for validation.

    Annotated time is cut in two, its last part is for validation. Of annotated spikes a part is drawn of
    each unit that has at least 5; if there is none, the same labels serve both (and validation says little).

    Returns
    -------
    train, validation : LabelledSpikes
    """
    if labels.complete:
        cut = labels.stop_sample - round(fraction * (labels.stop_sample - labels.start_sample))
        late = labels.sample_index >= cut
        # A unit that fires late only must be learned from nonetheless: then nothing can be kept.
        seen = np.bincount(labels.unit_index[~late], minlength=labels.num_units)
        if not late.any() or (seen == 0).any():
            return labels, labels
        return _part(labels, ~late, stop_sample=cut), _part(labels, late, start_sample=cut)
    kept = np.zeros(labels.num_spikes, dtype=bool)
    for unit_index in range(labels.num_units):
        (of_unit,) = np.nonzero(labels.unit_index == unit_index)
        if of_unit.size >= _MIN_TO_SPLIT:
            kept[rng.permutation(of_unit)[: max(1, round(fraction * of_unit.size))]] = True
    if not kept.any():
        return labels, labels
    return _part(labels, ~kept), _part(labels, kept)


def _part(labels: LabelledSpikes, chosen: np.ndarray, **interval: int) -> LabelledSpikes:
    changes: dict[str, Any] = {
        "sample_index": labels.sample_index[chosen],
        "unit_index": labels.unit_index[chosen],
        **interval,
    }
    return replace(labels, **changes)


def learn(
    network: SpikeNetwork,
    traces: np.ndarray,
    labels: LabelledSpikes,
    spec: LearningSpec,
    *,
    make_trainer: Callable[..., pl.Trainer],
    folder: Path,
    seed: int,
    lightning_logger: Any = False,
    resume: bool = False,
    name: str = "learning",
) -> dict[str, float]:
    """Train a network in place; it ends with the weights of the lowest validation loss.

    Parameters
    ----------
    network : SpikeNetwork
        With as many units as `labels`.
    traces : float32 array, shape (N, C)
        In units of the noise level, row 0 is the recording's sample 0; covers the labelled time.
    labels : LabelledSpikes
    spec : LearningSpec
    make_trainer : callable
        Returns a Lightning trainer; is given ``max_epochs``, ``callbacks``, ``logger``, ``default_root_dir``.
    folder : Path
        Where Lightning keeps its checkpoints.
    seed : int
    lightning_logger : Lightning logger or False
    resume : bool
        Go on from the last checkpoint in `folder`, if there is one.
    name : str
        Of the phase, for the log.

    Returns
    -------
    dict of str to float
        Validation metrics of the best epoch, and ``epochs``.
    """
    pl.seed_everything(seed, verbose=False)
    rng = np.random.default_rng(seed)
    window = Window(before_samples=network.peak_offset_samples, samples=network.window_samples)
    train_labels, validation_labels = split_labels(labels, spec.validation_fraction, rng)
    train = SpikeExamples(traces, train_labels, window=window, spec=spec.examples, rng=rng)
    validation = SpikeExamples(
        traces, validation_labels, window=window, spec=spec.examples, rng=rng, waveforms=train.waveforms
    )
    if spec.matched_start and isinstance(network, DenseNetwork):
        start_from_labels(network, train, rng)

    module = SpikeModule(
        network,
        learning_rate=spec.learning_rate,
        head_learning_rate=spec.head_learning_rate,
        weight_decay=spec.weight_decay,
        total_steps=spec.epochs * spec.batches_per_epoch,
    )
    data = SpikeDataModule(
        train,
        validation,
        batch_size=spec.batch_size,
        batches_per_epoch=spec.batches_per_epoch,
        validation_batches=spec.validation_batches,
        seed=seed,
    )
    best = ModelCheckpoint(
        folder, filename="best", monitor="val/loss", save_last=True, enable_version_counter=False
    )
    epochs = _EpochLines(name, spec.epochs)
    trainer = make_trainer(
        max_epochs=spec.epochs,
        callbacks=[best, EarlyStopping("val/loss", patience=spec.patience), epochs],
        logger=lightning_logger,
        default_root_dir=folder,
    )
    last = folder / "last.ckpt"
    trainer.fit(module, datamodule=data, ckpt_path=last if resume and last.exists() else None)
    state = torch.load(best.best_model_path, map_location="cpu", weights_only=True)["state_dict"]
    module.load_state_dict(state)
    network.eval()
    return {**epochs.best(), "epochs": float(trainer.current_epoch)}


class _EpochLines(Callback):
    """One line in the log per epoch, with the time that is left."""

    def __init__(self, name: str, epochs: int) -> None:
        self.name = name
        self.epochs = epochs
        self.history: list[dict[str, float]] = []
        self.begin = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.begin = perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        values = {key: float(value) for key, value in trainer.callback_metrics.items()}
        self.history.append(values)
        seconds = perf_counter() - self.begin
        left = self.epochs - trainer.current_epoch - 1
        logger.info(
            "%s: epoch %d/%d, loss %.3f, validation loss %.3f, F1 %.3f, %.1f s (at most %.0f s left)",
            self.name,
            trainer.current_epoch + 1,
            self.epochs,
            values["train/loss"],
            values["val/loss"],
            values["val/f1"],
            seconds,
            seconds * left,
        )

    def best(self) -> dict[str, float]:
        """Metrics of the epoch with the lowest validation loss (empty if none was run)."""
        return min(self.history, key=lambda values: values["val/loss"], default={})
