"""From a configuration to objects to phases: what `train.py` and `sort.py` do."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.experimental.callback import Callback
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from esort.evaluation import agreement
from esort.files import write_atomically, write_json
from esort.labels import LabelBudget, LabelledSpikes, select_labels
from esort.outcome import Outcome, check_output, sort_subject
from esort.peers import Teacher
from esort.probes import ProbeSpec
from esort.recordings import RecordingPath
from esort.report import plot_curve
from esort.simulation import SimulationSpec
from esort.subject import Subject, open_subject
from esort.tracking import TrackerSpec
from esort.training import TrainingSettings, backbone_digest, train_backbone, train_units

__all__ = ["one_line_errors", "sort", "train"]

logger = logging.getLogger(__name__)

_MODES = ("pretrain", "finetune", "scratch")


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
    """
    # All cheap objects first: a wrong value fails now, not after an hour.
    folder = _run_folder()
    mode = config.training.mode
    if mode not in _MODES:
        raise ValueError(f"training.mode must be one of {', '.join(_MODES)}, got {mode!r}")
    target_spec = _make(config.recording.target)
    source_spec = _make(config.recording.source)
    budget: LabelBudget = _make(config.label_budget)
    teacher: Teacher = _make(config.teacher)
    pretraining, finetuning = _make(config.training.pretrain), _make(config.training.finetune)
    tracker_spec: TrackerSpec = _make(config.logger)
    settings = TrainingSettings(
        network=_make(config.model),
        preprocessing=_make(config.preprocessing),
        postprocessing=_make(config.postprocess),
        make_trainer=_make(config.trainer),
        seed=_seed(config.seed),
        resume=bool(config.resume),
    )
    teacher.check()
    cache = Path(config.cache)
    backbone = None if config.training.backbone is None else Path(config.training.backbone)
    if backbone is not None and not backbone.is_file():
        raise FileNotFoundError(f"no backbone at {backbone}: no such file")
    check_output(folder, overwrite=settings.resume)

    with tracker_spec.open(folder, name=_name(config)) as tracker:
        tracker.config(_choices() | {"labels": config.labels, "seed": settings.seed, "name": _name(config)})
        lightning_logger = tracker.lightning_logger()
        target = None
        if isinstance(target_spec, RecordingPath):
            target = open_subject(target_spec, cache)
        if mode != "scratch" and backbone is None:
            source_spec = _for_recording(source_spec, target)
            digest = backbone_digest(source_spec.to_dict(), pretraining, settings)
            backbone = cache / "backbones" / f"{settings.network.name}-{digest[:16]}.safetensors"
            if backbone.is_file():
                logger.info("backbone from the cache: %s", backbone)
            else:
                source = open_subject(source_spec, cache)
                metrics = train_backbone(
                    source,
                    _all_labels(source),
                    pretraining,
                    settings,
                    path=backbone,
                    folder=folder,
                    lightning_logger=lightning_logger,
                )
                tracker.summary({f"pretrain/{key}": value for key, value in metrics.items()})
                if mode == "pretrain":
                    return _finish_pretraining(folder, backbone, metrics, tracker)
        if mode == "pretrain":
            assert backbone is not None
            return _finish_pretraining(folder, backbone, {}, tracker)

        if target is None:
            target = open_subject(target_spec, cache)
        labels = _labels(target, teacher, budget, settings.seed, folder)
        model = folder / "model.safetensors"
        metrics = train_units(
            target,
            labels,
            finetuning,
            settings,
            backbone=None if mode == "scratch" else backbone,
            path=model,
            folder=folder,
            lightning_logger=lightning_logger,
        )
        outcome = sort_subject(
            model,
            target,
            folder,
            start_sample=labels.stop_sample if budget.kind != "interval" else _stop_of(teacher, target),
            overwrite=settings.resume,
            facts={"num_labels": labels.num_spikes, "labelled_units": labels.num_units, "training": metrics},
        )
        _agree(outcome, target, teacher, folder)
        _record(tracker, outcome, model, metrics)
        _say_where(outcome, model)
    return metrics.get("val/f1", float("nan"))


def sort(config: DictConfig) -> float | None:
    """Sort a recording with a checkpoint.

    Parameters
    ----------
    config : DictConfig
        Composed from ``conf/sort.yaml``.

    Returns
    -------
    float or None
        Pooled accuracy where the ground truth is known.
    """
    folder = _run_folder()
    spec = _make(config.recording.target)
    tracker_spec: TrackerSpec = _make(config.logger)
    thresholds, num_workers = config.thresholds, config.num_workers
    if thresholds is not None and not (isinstance(thresholds, (int, float)) and 0 < thresholds <= 1):
        raise ValueError(f"thresholds must be a number in (0, 1], got {thresholds!r}")
    if num_workers is not None and not (isinstance(num_workers, int) and num_workers >= 1):
        raise ValueError(f"num_workers must be a whole number of at least 1, got {num_workers!r}")
    check_output(folder, overwrite=bool(config.overwrite))
    checkpoint = Path(config.checkpoint).expanduser()
    if not checkpoint.is_file():
        raise FileNotFoundError(f"no checkpoint at {checkpoint}: no such file")
    subject = open_subject(spec, config.cache)
    outcome = sort_subject(
        checkpoint,
        subject,
        folder,
        thresholds=thresholds,
        num_workers=num_workers,
        overwrite=bool(config.overwrite),
    )
    if tracker_spec.kind != "csv":
        with tracker_spec.open(folder, name=_name(config)) as tracker:
            tracker.config(_choices())
            _record(tracker, outcome, None, {})
    _say_where(outcome, None)
    return outcome.scores.pooled_accuracy if outcome.scores else None


def one_line_errors(task: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """Turn an expected error into one line and exit code 1; with HYDRA_FULL_ERROR=1 the traceback stays."""

    @functools.wraps(task)
    def run(config: DictConfig) -> Any:
        try:
            return task(config)
        except (ValueError, OSError, OmegaConfBaseException, InstantiationException) as error:
            if os.environ.get("HYDRA_FULL_ERROR", "0") not in ("0", ""):
                raise
            # Hydra wraps what a target raised; the user wants the reason, not the wrapping.
            wrapped = error.__cause__ if isinstance(error, InstantiationException) else None
            print(f"error: {_first_line(wrapped or error)}", file=sys.stderr)
            sys.exit(1)

    return run


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _make(node: Any) -> Any:
    """Instantiate a node of the configuration; its values are plain containers."""
    return None if node is None else instantiate(node, _convert_="all")


def _seed(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"seed must be a whole number of at least 0, got {value!r}")
    return value


def _run_folder() -> Path:
    return Path(HydraConfig.get().runtime.output_dir)


def _choices() -> dict[str, Any]:
    """What was chosen in each group, the columns of a dashboard."""
    choices = HydraConfig.get().runtime.choices
    return {group: choice for group, choice in choices.items() if not group.startswith("hydra")}


def _name(config: DictConfig) -> str:
    """Name of a run, from the choices that tell runs apart."""
    choices = _choices()
    if config.recording.get("path") is not None:
        choices["probe"] = Path(config.recording.path).name
    parts = [choices.get(group) for group in ("probe", "noise", "drift", "model", "training", "teacher")]
    if "labels" in config:
        parts.append(f"{choices['label_budget']}{config.labels}")
    return "-".join([str(part) for part in parts if part not in (None, "none")] + [f"seed{config.seed}"])


def _for_recording(source: Any, target: Subject | None) -> SimulationSpec:
    """Complete the source's spec, which lacks the contacts and the rate of a recording on disk."""
    if isinstance(source, SimulationSpec):
        return source
    assert target is not None
    return source(
        probe=ProbeSpec(contact_positions_um=target.contact_positions_um.tolist()),
        sampling_frequency=target.sampling_frequency,
    )


def _all_labels(source: Subject) -> LabelledSpikes:
    """Every spike of a simulated source."""
    assert source.ground_truth is not None
    return _select(source, source.ground_truth, LabelBudget(), source.num_samples, 0)


def _select(
    subject: Subject, sorting: Any, budget: LabelBudget, stop_sample: int, seed: int
) -> LabelledSpikes:
    spikes = sorting.to_spike_vector()
    return select_labels(
        spikes["sample_index"],
        spikes["unit_index"],
        sorting.unit_ids,
        budget=budget,
        sampling_frequency=subject.sampling_frequency,
        start_sample=0,
        stop_sample=stop_sample,
        rng=np.random.default_rng(seed),
    )


def _stop_of(teacher: Teacher, target: Subject) -> int:
    return teacher.stop_sample(target.recording)


def _labels(
    target: Subject, teacher: Teacher, budget: LabelBudget, seed: int, folder: Path
) -> LabelledSpikes:
    """Ask the teacher, or the ground truth, for the labels that the budget allows."""
    stop_sample = _stop_of(teacher, target)
    if teacher.sorter is None:
        if target.ground_truth is None:
            raise ValueError(
                "the recording has no labels: give teacher=lupin (or another sorter), "
                "teacher=sorting teacher.path=FOLDER, or recording.ground_truth=FOLDER"
            )
        return _select(target, target.ground_truth, budget, stop_sample, seed)
    logger.info("teacher %s on the first %.1f s", teacher.sorter, stop_sample / target.sampling_frequency)
    sorting = teacher.sorting(target.recording, folder / "teacher", stop_sample=stop_sample)
    return _select(target, sorting, budget, stop_sample, seed)


def _agree(outcome: Outcome, target: Subject, teacher: Teacher, folder: Path) -> None:
    """Without ground truth: how far the teacher, asked for the rest, agrees."""
    if teacher.sorter is None or outcome.scores is not None:
        return
    start, stop = outcome.run["start_sample"], outcome.run["stop_sample"]
    if stop <= start:
        logger.warning("the teacher's part is all of the recording: nothing is left to agree on")
        return
    rest = teacher.sorting(target.recording, folder / "teacher_rest", start_sample=start, stop_sample=stop)
    found = agreement(rest, outcome.sorting, start_sample=start, stop_sample=stop)
    content = {
        "pooled_accuracy": None,
        "mean_accuracy": None,
        "teacher": teacher.sorter,
        "agreement": {"mean_best": found.mean_best, "pooled": found.pooled, "units": found.best()},
    }
    write_json(folder / "scores.json", content)
    logger.info("agreement with the teacher on the rest: %.3f of its units' spikes", found.mean_best)


def _finish_pretraining(folder: Path, backbone: Path, metrics: dict[str, float], tracker: Any) -> float:
    write_json(folder / "run.json", {"backbone": str(backbone.resolve()), "training": metrics})
    tracker.artifact(backbone, backbone.stem, "model")
    print(f"backbone: {backbone}")
    return metrics.get("val/f1", float("nan"))


def _record(tracker: Any, outcome: Outcome, model: Path | None, metrics: dict[str, float]) -> None:
    """Everything of a run for the dashboard."""
    summary: dict[str, Any] = {
        name: outcome.run[name] for name in ("num_units", "num_spikes", "real_time_factor", "peak_rss_bytes")
    }
    summary.update(metrics)
    if outcome.scores is not None:
        content = outcome.scores.to_dict()
        summary.update({name: content[name] for name in ("pooled_accuracy", "mean_accuracy")})
        columns = ["unit_id", "accuracy", "precision", "recall", "num_spikes", "matched_unit_id"]
        tracker.table("units", columns, [[unit[name] for name in columns] for unit in content["units"]])
    tracker.summary(summary)
    if (tracker.folder / "metrics.csv").exists():
        try:
            plot_curve(tracker.folder / "metrics.csv", outcome.folder / "learning.png")
            outcome.pictures.append(outcome.folder / "learning.png")
        except ValueError as error:  # a run of one epoch has no curve
            logger.info("no learning curve: %s", error)
    for picture in outcome.pictures:
        tracker.image(picture, picture.stem)
    if model is not None:
        tracker.artifact(model, "model", "model")


def _say_where(outcome: Outcome, model: Path | None) -> None:
    """The last lines on the terminal: what came out and where it lies."""
    run, folder = outcome.run, outcome.folder
    lines = [
        f"{run['num_spikes']} spikes of {run['num_units']} units, "
        f"{run['real_time_factor']:.1f} times real time on {run['cores']} cores",
        f"sorting:  {folder / 'sorting'}",
    ]
    if outcome.scores is not None:
        lines.insert(
            0,
            f"pooled accuracy {outcome.scores.pooled_accuracy:.3f}, "
            f"mean accuracy {outcome.scores.mean_accuracy:.3f}",
        )
    if (folder / "scores.json").exists():
        lines.append(f"scores:   {folder / 'scores.json'}")
    if outcome.pictures:
        lines.append(f"picture:  {outcome.pictures[0]}")
    if model is not None:
        lines.append(f"model:    {model}")
    print("\n".join(lines))


class SweepTable(Callback):
    """Hydra callback: one table of all jobs at the end of a sweep."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Gather what the jobs left and print it as a table, also written as ``table.csv``."""
        folder = Path(config.hydra.sweep.dir)
        rows = [row for job in sorted(folder.glob("*/"), key=_job_number) if (row := _row(job))]
        if not rows:
            return
        table = pd.DataFrame(rows)
        with write_atomically(folder / "table.csv") as partial:
            table.to_csv(partial, index=False)
        print(table.to_string(index=False, float_format=lambda value: f"{value:.4g}", na_rep=""))
        print(f"table:    {folder / 'table.csv'}")


def _job_number(folder: Path) -> tuple[int, str]:
    return (int(folder.name) if folder.name.isdigit() else sys.maxsize, folder.name)


def _row(folder: Path) -> dict[str, Any] | None:
    """One job: what was overridden, and what came out."""
    overrides = folder / ".hydra" / "overrides.yaml"
    if not overrides.is_file():
        return None
    row: dict[str, Any] = {"job": folder.name}
    for override in OmegaConf.load(overrides):
        name, _, value = str(override).partition("=")
        row[name.lstrip("+~")] = value
    for file, names in (
        ("scores.json", ("pooled_accuracy", "mean_accuracy")),
        ("run.json", ("num_units", "num_spikes", "real_time_factor")),
    ):
        path = folder / file
        content = json.loads(path.read_text()) if path.is_file() else {}
        row.update({name: content.get(name) for name in names})
    return row
