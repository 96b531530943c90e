"""From the configuration of a training to its objects: whatever is wrong is found here, in seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from esort.backbones import SOURCE_S
from esort.checkpoint import load_card
from esort.fairness import check_apart
from esort.label_plan import LabelPlanner
from esort.labels import LabelBudget
from esort.learning import LearningSpec
from esort.objects import make, target_of, whole_number
from esort.probes import ProbeSpec
from esort.recordings import RecordingPath
from esort.simulation import DriftSpec, NoiseSpec, SimulationSpec
from esort.subject import Subject
from esort.teacher import Teacher
from esort.tracking import TrackerSpec
from esort.training import TrainingSettings

__all__ = ["TrainingPlan"]

_MODES = ("pretrain", "finetune", "scratch")


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """All cheap objects of a training: a wrong value fails when they are made, not after an hour.

    Parameters
    ----------
    mode : {"pretrain", "finetune", "scratch"}
    target : SimulationSpec or RecordingPath
        The recording to learn and to sort.
    source : SimulationSpec or callable
        The recording to pretrain on; for a target on disk, a callable that wants its contacts and rate.
    budget : LabelBudget
    teacher : Teacher
    pretraining : LearningSpec
    finetuning : LearningSpec or None
    settings : TrainingSettings
    tracker : TrackerSpec
    cache : Path
    backbone : Path or None
        None: the one that ships where that will do, else from the cache, or made now.
    shipped : bool
        Whether the one that ships with the package will do, where it fits.
    report : bool
        Whether to leave ``report.html``.
    planner : LabelPlanner
    """

    mode: str
    target: SimulationSpec | RecordingPath
    source: Any
    budget: LabelBudget
    teacher: Teacher
    pretraining: LearningSpec
    finetuning: LearningSpec | None
    settings: TrainingSettings
    tracker: TrackerSpec
    cache: Path
    backbone: Path | None
    shipped: bool = False
    report: bool = False
    planner: LabelPlanner = field(default_factory=LabelPlanner)

    def __post_init__(self) -> None:
        if self.mode not in _MODES:
            raise ValueError(f"training.mode must be one of {', '.join(_MODES)}, got {self.mode!r}")
        if self.mode == "pretrain" and self.backbone is not None:
            raise ValueError("training=pretrain makes a backbone: expected training.backbone=auto")
        if self.backbone is not None:
            load_card(self.backbone)
        elif (
            self.mode != "scratch"
            and isinstance(self.source, SimulationSpec)
            and isinstance(self.target, SimulationSpec)
        ):
            check_apart(self.source, self.target)
        self.teacher.check()

    @classmethod
    def from_config(cls, config: DictConfig) -> TrainingPlan:
        """Make all objects that ``conf/train.yaml`` describes."""
        settings = TrainingSettings(
            network=make(config.model),
            preprocessing=make(config.preprocessing),
            postprocessing=make(config.postprocess),
            make_trainer=make(config.trainer),
            seed=whole_number("seed", config.seed, least=0),
            resume=bool(config.resume),
        )
        mode, chosen = config.training.mode, config.training.backbone or "auto"
        target, source = target_of(config), make(config.recording.source)
        return cls(
            mode=mode,
            target=target,
            source=source,
            budget=make(config.label_budget),
            teacher=make(config.teacher),
            pretraining=make(config.training.pretrain),
            finetuning=make(config.training.finetune),
            settings=settings,
            tracker=make(config.logger),
            cache=Path(config.cache).expanduser(),
            backbone=None if chosen in ("auto", "make") else Path(chosen).expanduser(),
            shipped=mode == "finetune" and chosen == "auto" and _is_usual(source, target),
            report=bool(config.report),
            planner=make(config.label_plan),
        )

    def source_for(self, target: Subject | None) -> SimulationSpec:
        """The recording to pretrain on: as configured, or with the contacts and the rate of the target."""
        if isinstance(self.source, SimulationSpec):
            return self.source
        assert target is not None
        return self.source(
            probe=ProbeSpec(contact_positions_um=target.contact_positions_um.tolist()),
            sampling_frequency=target.sampling_frequency,
        )


def _is_usual(source: Any, target: SimulationSpec | RecordingPath) -> bool:
    """Whether nobody asked for a certain recording to pretrain on: it is as the target's choices make it."""
    if isinstance(target, RecordingPath):
        asked = {name: value for name, value in source.keywords.items() if name != "seed"}
        like = {"noise": NoiseSpec(level_uv=10.0), "drift": DriftSpec(), "num_units": None, "split": "source"}
        return bool(asked == like | {"duration_s": SOURCE_S})
    names = ("probe", "noise", "drift", "disjoint_cell_models")
    usual = SimulationSpec(
        **{name: getattr(target, name) for name in names},
        duration_s=SOURCE_S,
        split="source",
        seed=source.seed,
    )
    return bool(source == usual)
