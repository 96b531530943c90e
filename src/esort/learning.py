"""Training: a backbone from a fully known recording, units from few labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from esort.dense_network import DenseNetwork
from esort.examples import ExampleSpec, SpikeExamples
from esort.labels import LabelledSpikes
from esort.matched import start_from_labels
from esort.network import SpikeNetwork
from esort.resume import TrainingFiles, training_digest
from esort.threads import available_cores, with_threads
from esort.windows import EstimateWaveforms, Window

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from esort.lightning import EpochLines
    from esort.ranks import Ranks, SharedTraces

__all__ = ["LearningSpec", "learn", "split_labels"]

# A unit needs this many labels before some are kept for validation.
_MIN_TO_SPLIT = 5
# Batch normalisation needs two windows.
_MIN_BATCH_SIZE = 2


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
        Part of the labels that is kept for validation; 0: training and validation share all of them.
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
            least = _MIN_BATCH_SIZE if name == "batch_size" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
        for name, high in (
            ("learning_rate", 1.0),
            ("head_learning_rate", 1.0),
            ("weight_decay", 1.0),
            ("validation_fraction", 0.5),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= high:
                raise ValueError(f"{name} must be a number in [0, {high}], got {value!r}")


def split_labels(
    labels: LabelledSpikes, fraction: float, rng: np.random.Generator, *, room: Window | None = None
) -> tuple[LabelledSpikes, LabelledSpikes]:
    """Keep some labels for validation.

    Annotated time is cut in two, its last part is for validation. Of annotated spikes a part is drawn of
    each unit that has at least 5. Where that would leave a unit without a label to learn from, or nothing
    to validate on, the same labels serve both (and validation says little).

    Parameters
    ----------
    labels : LabelledSpikes
    fraction : float
        Part that is kept, in [0, 0.5].
    rng : numpy.random.Generator
    room : Window, optional
        The stretch that must be there around a spike for it to be of use; matters where time is cut.

    Returns
    -------
    train, validation : LabelledSpikes
        With the units of `labels`, all of which are in `train`.
    """
    if fraction == 0:
        return labels, labels
    if labels.complete:
        cut = labels.stop_sample - round(fraction * (labels.stop_sample - labels.start_sample))
        late = labels.sample_index >= cut
        train = _part(labels, ~late, stop_sample=cut)
        validation = _part(labels, late, start_sample=cut)
    else:
        kept = np.zeros(labels.num_spikes, dtype=bool)
        for unit_index in range(labels.num_units):
            (of_unit,) = np.nonzero(labels.unit_index == unit_index)
            if of_unit.size >= _MIN_TO_SPLIT:
                kept[rng.permutation(of_unit)[: max(1, round(fraction * of_unit.size))]] = True
        train, validation = _part(labels, ~kept), _part(labels, kept)
    if (_usable(train, room) == 0).any() or not _usable(validation, room).any():
        return labels, labels
    return train, validation


def _usable(labels: LabelledSpikes, room: Window | None) -> np.ndarray:
    """Labels of each unit with room around them, (U,)."""
    before, after = (room.before_samples, room.after_samples) if room else (0, 0)
    inside = (labels.sample_index - before >= labels.start_sample) & (
        labels.sample_index + after <= labels.stop_sample
    )
    return np.bincount(labels.unit_index[inside], minlength=labels.num_units)


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
    prior: EstimateWaveforms | None = None,
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
        Returns a Lightning trainer; is given ``max_epochs``, ``callbacks``, ``logger``, ``default_root_dir``,
        ``plugins`` and ``use_distributed_sampler``. With several devices it is pickled for other processes.
    folder : Path
        Where Lightning keeps its checkpoints; what another training left there is removed, unless `resume`.
    seed : int
    lightning_logger : Lightning logger or False
    resume : bool
        Go on from the last checkpoint in `folder`, if there is one; the result is the same as without the
        interruption.
    name : str
        Of the phase, for the log.
    prior : callable, optional
        See `esort.examples.SpikeExamples`; is pickled with the trainer.

    Returns
    -------
    dict of str to float
        Metrics of the epoch with the lowest validation loss, and ``epochs``.

    Raises
    ------
    ValueError
        If there is no room for a window in the labelled time or around the labels of a unit, or if what lies
        in `folder` was trained with other settings and `resume` is true, or the trainer's devices cannot
        train together (see `esort.ranks`).
    OSError
        If one of several processes ended too soon.
    """
    files = TrainingFiles(folder, training_digest(network, traces, labels, asdict(spec), seed))
    if not resume:
        files.clear()
    finished = files.begin()
    if finished is not None:
        files.load_best(network)
        return finished

    # Lightning takes three seconds to import, which sorting needs not wait for.
    from esort.ranks import Ranks

    arguments = (network, traces, labels, spec, make_trainer, files, seed, name, prior)
    epochs = _fit(Ranks(), None, *arguments, lightning_logger=lightning_logger)
    files.load_best(network)
    metrics = {**epochs.best(), "epochs": float(len(epochs.history))}
    files.finish(metrics)
    return metrics


def _fit(
    environment: Ranks,
    ready: Callable[[], None] | None,
    network: SpikeNetwork,
    traces: np.ndarray | SharedTraces,
    labels: LabelledSpikes,
    spec: LearningSpec,
    make_trainer: Callable[..., pl.Trainer],
    files: TrainingFiles,
    seed: int,
    name: str,
    prior: EstimateWaveforms | None,
    lightning_logger: Any = False,
) -> EpochLines:
    """Train, together with other processes if the trainer has several devices; these have a `ready`."""
    import pytorch_lightning as pl
    from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

    from esort.datamodule import SpikeDataModule
    from esort.lightning import EpochLines, SpikeModule, WholeFiles, quiet_lightning
    from esort.ranks import SharedTraces, check_trainer, training_along

    is_first = ready is None
    if isinstance(traces, SharedTraces):
        traces = traces.open()
    epochs = EpochLines(name, spec.epochs)
    # Saved after the other callbacks have seen the epoch, so that their memory of it is saved as well. Two of
    # them: `save_last=True` saves the last epoch only if it is the best.
    settings: dict[str, Any] = {"save_on_train_epoch_end": True, "enable_version_counter": False}
    best = ModelCheckpoint(files.folder, filename=files.best.stem, monitor="val/loss", **settings)
    last = ModelCheckpoint(files.folder, filename=files.last.stem, **settings)
    pl.seed_everything(seed, verbose=False)
    with quiet_lightning():
        trainer = make_trainer(
            max_epochs=spec.epochs,
            callbacks=[epochs, EarlyStopping("val/loss", patience=spec.patience), best, last],
            logger=lightning_logger,
            default_root_dir=files.folder,
            plugins=[WholeFiles(), environment],
            use_distributed_sampler=False,  # a batch is shared out, not the batches
        )
    check_trainer(trainer, spec.batch_size)
    # The others get the network as it is now, and the first one's weights when they meet.
    arguments = (network, SharedTraces(traces), labels, spec, make_trainer, files, seed, name, prior)

    window = Window.of(network)
    rng = np.random.default_rng(seed)
    room = spec.examples.room(window, labels.sampling_frequency)
    train_labels, validation_labels = split_labels(labels, spec.validation_fraction, rng, room=room)
    train = SpikeExamples(traces, train_labels, window=window, spec=spec.examples, rng=rng, prior=prior)
    validation = SpikeExamples(
        traces, validation_labels, window=window, spec=spec.examples, rng=rng, waveforms=train.waveforms
    )
    count = trainer.world_size if is_first else 1
    threads = max(1, available_cores() // trainer.world_size)  # not the environment's: one seed, one model
    with (
        quiet_lightning(),
        training_along(count, environment.main_port, _fit, *arguments),
        with_threads(threads),
    ):
        if is_first and spec.matched_start and isinstance(network, DenseNetwork):
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
        if ready is not None:
            ready()
        trainer.fit(module, datamodule=data, ckpt_path=files.last if files.last.exists() else None)
    return epochs
