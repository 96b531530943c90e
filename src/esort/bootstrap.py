"""Learning a recording from nothing but itself: a teacher sorts its first part, a network learns from that.

The same pieces as in ``train.py``, with the defaults of ``conf/train.yaml``, for callers without Hydra
(`esort.spikeinterface_sorter`). A test holds the two against each other.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
import pytorch_lightning as pl

from esort.backbones import SOURCE_S, find_or_make_backbone
from esort.checkpoint import load_card
from esort.detector import Postprocessing
from esort.examples import ExampleSpec
from esort.labels import LabelBudget
from esort.learning import LearningSpec
from esort.network import NetworkSpec
from esort.preprocessing import BAND_HZ, Preprocessing
from esort.probes import ProbeSpec
from esort.results import MODEL
from esort.simulation import NoiseSpec, SimulationSpec
from esort.subject import Subject
from esort.teacher import Teacher
from esort.teaching import draw_labels
from esort.training import TrainingSettings, train_units

__all__ = ["TEACHER_S", "Bootstrap", "default_cache"]

# A teacher that has to run is shown this much of a long recording: lupin needs about as long as that.
TEACHER_S = 300.0
_TRAININGS = ("finetune", "scratch")


def default_cache() -> Path:
    """Where backbones and simulated recordings are kept for the next time: the user's cache folder."""
    return Path(platformdirs.user_cache_path("esort", appauthor=False))


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How a recording is learned without a checkpoint.

    Parameters
    ----------
    teacher : str
        A sorter of `esort.peers.SORTERS`; of no meaning where there is a `teacher_path`.
    teacher_path : str, optional
        A sorting of this recording that is there already, in any format of `open_sorting`.
    teacher_groups : sequence of str, optional
        See `esort.teacher.Teacher`.
    teacher_seconds : float, optional
        What may be learned from: the first seconds. None: the first 300 s, or everything where there is a
        `teacher_path`.
    label_budget, labels
        See `esort.labels.LabelBudget`.
    training : {"finetune", "scratch"}
        With a backbone or without.
    backbone : str, optional
        A backbone's checkpoint; None: the one that ships with esort where it fits, else as "make": from the
        cache, or made now on a simulation.
    pretrain_epochs, epochs : int
        Of the backbone and of the units.
    freq_min_hz, freq_max_hz, common_reference
        See `esort.preprocessing.Preprocessing`.
    seed : int
    cache : str, optional
        None: see `default_cache`.

    Raises
    ------
    ValueError, FileNotFoundError
        If a value is outside its limits, or something that is named is missing.
    """

    teacher: str = "lupin"
    teacher_path: str | None = None
    teacher_groups: tuple[str, ...] | None = None
    teacher_seconds: float | None = None
    label_budget: str = "proportional"
    labels: float = 1.0
    training: str = "finetune"
    backbone: str | None = None
    pretrain_epochs: int = 15
    epochs: int = 8
    freq_min_hz: float = BAND_HZ[0]
    freq_max_hz: float = BAND_HZ[1]
    common_reference: str = "auto"
    seed: int = 0
    cache: str | None = None

    def __post_init__(self) -> None:
        if self.training not in _TRAININGS:
            raise ValueError(f"training must be one of {', '.join(_TRAININGS)}, got {self.training!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"seed must be a whole number of at least 0, got {self.seed!r}")
        if self.teacher is None:
            raise ValueError("teacher must be the name of a sorter, got None")
        # All cheap objects are made now, so that a wrong value is found before the teacher runs.
        self._teacher(self.teacher_seconds).check()
        self.budget, self.settings, self.pretraining, self.finetuning  # noqa: B018
        if self.backbone not in (None, "make"):
            load_card(self.backbone)

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> Bootstrap:
        """Take what belongs here out of the parameters of a sorter."""
        return cls(**{name: parameters[name] for name in cls.__dataclass_fields__ if name in parameters})

    @property
    def budget(self) -> LabelBudget:
        """How many of the teacher's spikes are learned from."""
        return LabelBudget(kind=self.label_budget, amount=self.labels)

    @property
    def settings(self) -> TrainingSettings:
        """What pretraining and fine-tuning have in common."""
        trainer = functools.partial(
            pl.Trainer,
            accelerator="auto",
            devices=1,
            strategy="auto",
            sync_batchnorm=False,
            deterministic=True,
            gradient_clip_val=10.0,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        return TrainingSettings(
            network=NetworkSpec(
                name="pursuit", parameters={"num_filters": 6, "num_head_channels": 14, "follows": True}
            ),
            preprocessing=Preprocessing(
                freq_min_hz=self.freq_min_hz,
                freq_max_hz=self.freq_max_hz,
                common_reference=self.common_reference,
            ),
            postprocessing=Postprocessing(),
            make_trainer=trainer,
            seed=self.seed,
        )

    @property
    def pretraining(self) -> LearningSpec:
        """How a backbone is made."""
        return LearningSpec(
            epochs=self.pretrain_epochs,
            batches_per_epoch=100,
            learning_rate=5e-3,
            head_learning_rate=5e-3,
            validation_fraction=0.1,
            examples=ExampleSpec(real_fraction=0.5, rendered_spikes=0.0),
        )

    @property
    def finetuning(self) -> LearningSpec:
        """How units are learned."""
        return LearningSpec(
            epochs=self.epochs,
            batches_per_epoch=80,
            learning_rate=1e-3,
            head_learning_rate=3e-3,
            validation_fraction=0.2,
            matched_start=True,
            examples=ExampleSpec(real_fraction=0.25, rendered_spikes=1.0),
        )

    def source(self, subject: Subject) -> SimulationSpec:
        """A simulation with the contacts and the rate of a recording, to pretrain on."""
        return SimulationSpec(
            probe=ProbeSpec(contact_positions_um=subject.contact_positions_um.tolist()),
            noise=NoiseSpec(level_uv=10.0),
            duration_s=SOURCE_S,
            split="source",
            seed=self.seed,
            sampling_frequency=subject.sampling_frequency,
        )

    def learn(self, subject: Subject, folder: Path) -> Path:
        """Learn the units of a recording.

        Parameters
        ----------
        subject : Subject
        folder : Path
            For the checkpoint, its calibration, and what the teacher and the training leave behind.

        Returns
        -------
        Path
            A checkpoint that sorts this recording, and others of the same neurons and contacts.

        Raises
        ------
        ValueError
            If the teacher fails or finds nothing, or no unit can be learned.
        """
        duration_s = subject.num_samples / subject.sampling_frequency
        longest = duration_s if self.teacher_path is not None else TEACHER_S
        seconds = min(duration_s, self.teacher_seconds or longest)
        # The teacher comes first: if there is nothing to learn, the backbone need not be made.
        labels = draw_labels(subject, self._teacher(seconds), self.budget, seed=self.seed, folder=folder)
        train_units(
            subject,
            labels,
            self.finetuning,
            self.settings,
            backbone=self._backbone(subject, folder),
            path=folder / MODEL,
            folder=folder,
        )
        return folder / MODEL

    def _backbone(self, subject: Subject, folder: Path) -> Path | None:
        if self.training == "scratch":
            return None
        if self.backbone not in (None, "make"):
            return Path(self.backbone)
        cache = default_cache() if self.cache is None else Path(self.cache).expanduser()
        return find_or_make_backbone(
            self.source(subject),
            self.pretraining,
            self.settings,
            cache=cache,
            folder=folder,
            shipped=self.backbone is None,
        )[0]

    def _teacher(self, seconds: float | None) -> Teacher:
        return Teacher(
            sorter=self.teacher if self.teacher_path is None else "sorting",
            path=self.teacher_path,
            groups=self.teacher_groups,
            seconds=seconds,
            seed=self.seed,
        )
