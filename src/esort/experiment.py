"""The phases of `train.py`, from their objects (see `esort.plan`) to what they leave."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from esort.announcement import announce
from esort.backbones import find_or_make_backbone
from esort.dashboards import show_lineage, show_outcome
from esort.files import write_json
from esort.label_plan import COLUMNS, LabelPlanner
from esort.labels import LabelledSpikes
from esort.launching import launched
from esort.outcome import Outcome, sort_subject
from esort.page import try_page
from esort.plan import TrainingPlan
from esort.recordings import RecordingPath
from esort.report import plot_curve
from esort.results import MODEL, RUN, SCORES, SUSPECTS
from esort.runs import Run, one_line_errors
from esort.sort_run import write_manifest
from esort.study import run_study
from esort.subject import Subject, open_subject
from esort.teacher import Teacher
from esort.teaching import agreement_with_teacher, draw_labels
from esort.tracking import Tracker
from esort.training import train_units

__all__ = ["run_launched", "train"]

logger = logging.getLogger(__name__)


def train(config: DictConfig) -> float:
    """Learn the units of a recording from few labels, sort what no label came from, and score it.

    Parameters
    ----------
    config : DictConfig
        Composed from ``conf/train.yaml``.

    Returns
    -------
    float
        The objective of a sweep: F1 on validation windows. It knows nothing of the part that is scored.
        Of a study: the mean pooled accuracy.
    """
    if config.study is not None:
        return run_study(config, _train_one, run_launched)
    return _train_one(config, Run.current(config)).get("val/f1", float("nan"))


def run_launched(config: DictConfig) -> float:
    """Do one run of a study in a process that one of Hydra's launchers started."""
    return float(launched(one_line_errors(train), config))


def _train_one(config: DictConfig, run: Run) -> dict[str, float]:
    """Do one training in its folder."""
    plan = TrainingPlan.from_config(config)
    with plan.tracker.open(run.folder, name=run.name) as tracker:
        tracker.config(run.columns)
        if plan.mode == "pretrain":
            return _pretrain(plan, run.folder, tracker)
        metrics, outcome, target = _learn_and_sort(plan, run.folder, tracker)
        write_manifest("train", config, plan.target, target, outcome)
    return metrics


def _pretrain(plan: TrainingPlan, folder: Path, tracker: Tracker) -> dict[str, float]:
    """Make a backbone, for the cache."""
    on_disk = isinstance(plan.target, RecordingPath)
    target = open_subject(plan.target, plan.cache) if on_disk else None
    backbone, metrics = _backbone(plan, target, folder, tracker)
    write_json(folder / RUN, {"backbone": str(backbone.resolve()), "training": metrics})
    tracker.artifact(backbone, backbone.stem, "model")
    print(f"backbone: {backbone}")
    return metrics


def _learn_and_sort(
    plan: TrainingPlan, folder: Path, tracker: Tracker
) -> tuple[dict[str, float], Outcome, Subject]:
    """Learn the units of the target's first part, sort the rest."""
    assert plan.finetuning is not None
    target = open_subject(plan.target, plan.cache)
    plan.settings.preprocessing.resolve(target.recording)  # refuses a rate that it does not fit
    # The teacher comes first: if there is nothing to learn, the backbone need not be made.
    labels = draw_labels(target, plan.teacher, plan.budget, seed=plan.settings.seed, folder=folder)
    backbone = None if plan.mode == "scratch" else _backbone(plan, target, folder, tracker)[0]
    metrics = train_units(
        target,
        labels,
        plan.finetuning,
        plan.settings,
        backbone=backbone,
        path=folder / MODEL,
        folder=folder,
        lightning_logger=tracker.lightning_logger(),
    )
    _plan_labels(plan.planner, labels, folder, tracker)
    outcome = sort_subject(
        folder / MODEL,
        target,
        folder,
        start_sample=plan.teacher.stop_sample(target.recording),
        overwrite=plan.settings.resume,
        facts={
            "num_labels": labels.num_spikes,
            "labelled_units": labels.num_units,
            "teacher": plan.teacher.path or plan.teacher.sorter,
            "backbone": backbone,
            "training": metrics,
            "suspicious_labels": json.loads((folder / SUSPECTS).read_text(encoding="utf-8")),
        },
    )
    agreement = None
    if outcome.scores is None:
        agreement = _agree(plan.teacher, target, outcome)
    if _draw_curve(tracker, folder / "learning.png"):
        outcome.pictures.append(folder / "learning.png")
    if plan.report:
        try_page(folder, target)
    tracker.summary(metrics)
    show_lineage(tracker, target, backbone)
    show_outcome(tracker, target, outcome, agreement)
    tracker.artifact(folder / MODEL, "model", "model")
    announce(outcome, agreement)
    return metrics, outcome, target


def _backbone(
    plan: TrainingPlan, target: Subject | None, folder: Path, tracker: Tracker
) -> tuple[Path, dict[str, float]]:
    """Find the backbone, or make it and keep it in the cache.

    Returns
    -------
    path : Path
    metrics : dict
        Of its training; empty where it was found.
    """
    if plan.backbone is not None:
        return plan.backbone, {}
    path, metrics = find_or_make_backbone(
        plan.source_for(target),
        plan.pretraining,
        plan.settings,
        cache=plan.cache,
        folder=folder,
        shipped=plan.shipped,
        lightning_logger=tracker.lightning_logger(),
    )
    if metrics:
        tracker.summary({f"pretrain/{name}": value for name, value in metrics.items()})
    return path, metrics


def _plan_labels(planner: LabelPlanner, labels: LabelledSpikes, folder: Path, tracker: Tracker) -> None:
    """Say which units need how many more labels: tables ``label_plan`` and ``label_curve``, and the log."""
    path = folder / "calibration.json"
    if not path.is_file():
        return
    seconds = (labels.stop_sample - labels.start_sample) / labels.sampling_frequency
    counts = dict(zip(labels.unit_ids, labels.counts().tolist(), strict=True))
    needs = planner.of_calibration(json.loads(path.read_text(encoding="utf-8")), counts, seconds)
    tracker.table("label_plan", COLUMNS, [list(asdict(need).values()) for need in needs])
    tracker.panel(
        "label_curve",
        ["unit_id", "labels", "accuracy"],
        [[need.unit_id, *point] for need in needs for point in planner.expected(need)],
        kind="line",
        x="labels",
        y="accuracy",
        group="unit_id",
        title="expected accuracy over labels",
    )
    lacking = [need for need in needs if need.advice != "enough"]
    if lacking:
        shown = ", ".join(f"{need.unit_id} ({need.more or need.advice})" for need in lacking)
        logger.info("more labels for an accuracy of %g: %s", planner.target, shown)


def _agree(teacher: Teacher, target: Subject, outcome: Outcome) -> dict[str, Any] | None:
    """Without scores against a ground truth: the teacher's opinion of the rest, in ``scores.json``."""
    start, stop = outcome.run["start_sample"], outcome.run["stop_sample"]
    agreement = None
    if teacher.sorter is not None:
        agreement = agreement_with_teacher(
            outcome.sorting, target, teacher, start_sample=start, stop_sample=stop, folder=outcome.folder
        )
    content = {
        "pooled_accuracy": None,  # nobody knows the truth
        "mean_accuracy": None,
        "teacher": teacher.path or teacher.sorter,
        "start_sample": start,
        "stop_sample": stop,
        "agreement": agreement,
    }
    write_json(outcome.folder / SCORES, content)
    return agreement


def _draw_curve(tracker: Tracker, path: Path) -> bool:
    """Draw the curve of learning; a run of one epoch has none."""
    try:
        plot_curve(tracker.folder / "metrics.csv", path)
    except ValueError as error:
        logger.debug("no learning curve: %s", error)
        return False
    return True
