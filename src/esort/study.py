"""A study at work: many runs of the same experiment, one table, one figure.

Runs are made one after another in this process, or side by side by one of Hydra's launchers. What is done is
found again by the digest of its configuration, so a study that was stopped goes on where it stopped: the run
that was under way from its last epoch, those before it not at all.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.types import TaskFunction
from omegaconf import DictConfig
from tqdm import tqdm

from esort.checkpoint import package_versions
from esort.dashboards import show_study
from esort.fairness import check_same_task
from esort.files import write_atomically, write_json
from esort.grid import OURS, StudySpec
from esort.jobs import Job, code_digest, plan_jobs, study_command, study_name
from esort.label_plan import needs_of_curves
from esort.launching import has_launcher, launch, launched_run, seconds_of
from esort.objects import make
from esort.results import SCORES
from esort.runs import Run
from esort.study_figure import plot_study
from esort.study_table import fitted_curves, overall_labels_ratio, results_table, summarise
from esort.threads import available_cores
from esort.tracking import Tracker, TrackerSpec
from esort.worker import TrainOne, found_row, job_row, run_job

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["STUDY", "run_study"]

logger = logging.getLogger(__name__)

STUDY = "study.json"
"""What a study was: its command, its machine."""
# Labels that the table of the planner starts from.
_PLANNED_FROM = 10
_TARGET = 0.9


def run_study(config: DictConfig, train_one: TrainOne, task: TaskFunction) -> float:
    """Run all points of ``config.study`` that are not done, and gather the results of all.

    In the run's folder: ``table.csv`` (a row for each run, written after each), ``summary.csv`` (a row for
    each point of the grid, with 95 % intervals by Student's t over seeds), ``figure.png``, ``study.json``
    (command, machine); for a curve also ``curve.json`` (fitted) and ``label_plan.csv`` (each unit's need).
    The runs lie in ``runs/``.

    Parameters
    ----------
    config : DictConfig
        Composed from ``conf/train.yaml``, with a study.
    train_one : callable
        Does one training in the folder of the run that it gets.
    task : callable
        Does one run of ``train.py`` in another process; for Hydra's launchers.

    Returns
    -------
    float
        Mean pooled accuracy over all points.

    Raises
    ------
    ValueError
        If the study or the configuration of a point is wrong.
    RuntimeError
        If a rule of `esort.fairness` is broken.
    """
    spec: StudySpec = make(config.study)
    run = Run.current(config)
    jobs = plan_jobs(spec)
    folder = run.folder / "runs"
    expected = _expected_seconds(jobs, folder, redo=spec.redo)
    _say_plan(spec, jobs, expected, run.folder)
    if spec.plan_only:
        return float("nan")
    if spec.redo:
        for job in jobs:
            shutil.rmtree(folder / job.folder_name, ignore_errors=True)
    tracker_spec: TrackerSpec = make(config.logger)
    with tracker_spec.open(run.folder, name=study_name(spec)) as tracker:
        tracker.config(run.columns | {"study": spec.name})
        if has_launcher():
            launch([job for job in jobs if job.digest in expected], folder, task)
            train_one = launched_run
            others = {job.digest for job in jobs if job.point.sorter != OURS}
            expected = {name: seconds if name in others else 0.0 for name, seconds in expected.items()}
        rows = _run_all(jobs, expected, run.folder, train_one)
        return _conclude(spec, jobs, rows, run.folder, tracker)


def _run_all(
    jobs: Sequence[Job], expected: Mapping[str, float], folder: Path, train_one: TrainOne
) -> list[dict[str, Any]]:
    """Do what is not done; return a row for each job."""
    rows: list[dict[str, Any]] = []
    measured = planned = 0.0
    left = sum(expected.values())
    bar = tqdm(total=len(jobs), desc="runs", unit="run", disable=None, file=sys.stderr)
    with contextlib.closing(bar):
        for job in jobs:
            own = folder / "runs" / job.folder_name
            row = found_row(own)
            if job.skipped:
                row = job_row(job, own, {"status": "skipped", "error": job.skipped})
            elif row is None:
                took = seconds_of(own) if train_one is launched_run else None
                row = job_row(job, own, run_job(job, own, train_one, seconds=took))
                seconds = expected.get(job.digest, 0.0)
                measured, planned, left = (
                    measured + row["seconds"],
                    planned + seconds,
                    max(0.0, left - seconds),
                )
                still = left * (measured / planned if planned else 1.0)
                shown = row.get("error") or f"pooled accuracy {row['pooled_accuracy']:.3f}"
                line = f"{job.point.label}: {shown}, {row['seconds']:.0f} s (about {_time(still)} left)"
                tqdm.write(f"[{len(rows) + 1}/{len(jobs)}] {line}")
            rows.append(row)
            _write_csv(results_table(rows), folder / "table.csv")
            bar.update()
    return rows


def _conclude(
    spec: StudySpec, jobs: Sequence[Job], rows: Sequence[dict[str, Any]], folder: Path, tracker: Tracker
) -> float:
    """Check that it was fair, then write table, summary and figure."""
    for target in dict.fromkeys(job.target for job in jobs):
        pairs = zip(jobs, rows, strict=True)
        check_same_task(row for job, row in pairs if job.target == target and row["status"] == "done")
    other_code = sum(row["code"] != code_digest() for row in rows)
    if other_code:
        logger.warning(
            "%d of %d runs were made by other code: study.redo=true makes all anew", other_code, len(rows)
        )
    table = results_table(rows)
    summary = summarise(table, spec)
    curves = fitted_curves(table, spec) if spec.figure == "curve" else {}
    _write_csv(summary, folder / "summary.csv")
    tables = {"table": table, "summary": summary}
    if curves:
        write_json(folder / "curve.json", {name: asdict(curve) for name, curve in curves.items()})
        needs = _label_plan(spec, rows, folder)
        if len(needs):
            tables["label_plan"] = needs
            _write_csv(needs, folder / "label_plan.csv")
    plot_study(summary, spec, folder / "figure.png", title=study_name(spec), curves=curves)
    for name, content in tables.items():
        content = content.astype(object).where(content.notna(), None)
        tracker.table(name, list(content.columns), content.to_numpy().tolist())
    show_study(tracker, summary, spec, title=study_name(spec))
    tracker.image(folder / "figure.png", "figure")
    write_json(folder / STUDY, _description(spec, table))
    mean = float(table.loc[table["status"] != "skipped", "pooled_accuracy"].mean())
    counts = table["status"].value_counts().to_dict()
    ratio = overall_labels_ratio(summary)
    if math.isfinite(ratio):
        tracker.summary({"labels_ratio": ratio})
    tracker.summary({"mean_pooled_accuracy": mean, **{f"runs_{name}": int(n) for name, n in counts.items()}})
    _say_results(spec, summary, rows, folder)
    return mean


def _description(spec: StudySpec, table: pd.DataFrame) -> dict[str, Any]:
    """What was run, where, and how it is to be run again."""
    return {
        "name": study_name(spec),
        "command": study_command(),
        "interval": "95 %, Student's t over seeds; gains are paired by seed, labels ratios on a log scale",
        "runs": table["status"].value_counts().to_dict(),
        "skipped": sorted(set(table.loc[table["status"] == "skipped", "error"])),
        "seconds": float(table["seconds"].sum()),
        "cores": available_cores(),
        "platform": platform.platform(),
        "versions": package_versions(),
        "code": sorted(set(table["code"])),
    }


def _label_plan(spec: StudySpec, rows: Sequence[dict[str, Any]], folder: Path) -> pd.DataFrame:
    """Each unit's need by its own curve, for each seed and each value of the axis that is told apart."""
    import pandas as pd

    measured: dict[tuple[Any, int], dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        if row["status"] != "done" or row["sorter"] != OURS:
            continue
        units = measured.setdefault((row[spec.by] if spec.by else "all", row["seed"]), {})
        for unit in json.loads((folder / "runs" / row["folder"] / SCORES).read_text())["units"]:
            pair = (row["labels_per_unit"], unit["accuracy"])
            units.setdefault(str(unit["unit_id"]), []).append(pair)
    needs = [
        {spec.by or "by": value, "seed": seed, **need}
        for (value, seed), units in measured.items()
        for need in needs_of_curves(
            {name: pairs for name, pairs in units.items() if len({k for k, _ in pairs}) >= 3},
            target=_TARGET,
            labels=_PLANNED_FROM,
        )
    ]
    return pd.DataFrame(needs)


def _expected_seconds(jobs: Sequence[Job], folder: Path, *, redo: bool) -> dict[str, float]:
    """Digest of each job that is to be done -> seconds; what jobs share is counted at the first of them."""
    seen: set[str] = set()
    expected = {}
    for job in jobs:
        if job.skipped or (not redo and found_row(folder / job.folder_name) is not None):
            continue
        cost = job.cost()
        expected[job.digest] = cost.own_s + sum(
            seconds for name, seconds in cost.shared.items() if name not in seen
        )
        seen |= cost.shared.keys()
    return expected


def _say_plan(spec: StudySpec, jobs: Sequence[Job], expected: Mapping[str, float], folder: Path) -> None:
    print(f"study {study_name(spec)}: {len(jobs)} runs, {len(expected)} to do")
    for axis, values in spec.chosen_values().items():
        print(f"  {axis}: {', '.join(values)}")
    print(f"  seeds: {', '.join(map(str, spec.seeds))}")
    if spec.peers:
        print(f"  other sorters: {', '.join(spec.peers)}")
    for reason in dict.fromkeys(job.skipped for job in jobs if job.skipped):
        print(f"  skipped: {reason}")
    print(f"  about {_time(sum(expected.values()))}, by what model=dense takes on 2 cores")
    print(f"  folder: {folder}", flush=True)


def _say_results(
    spec: StudySpec, summary: pd.DataFrame, rows: Sequence[dict[str, Any]], folder: Path
) -> None:
    columns = ["sorter", *spec.axes, "n", "failed", "pooled_accuracy", "pooled_accuracy_low"]
    columns += ["pooled_accuracy_high", "mean_accuracy"]
    columns += [name for name in ("gain", "labels_ratio", "labels_ratio_bound") if name in summary]
    shown = summary.loc[summary["n"] > 0, columns]
    print(shown.to_string(index=False, float_format=lambda value: f"{value:.4g}", na_rep=""))
    ratio = overall_labels_ratio(summary)
    if math.isfinite(ratio):
        print(f"labels ratio to {spec.baseline} at equal accuracy: {ratio:.2f} (geometric mean, no bounds)")
    for row in rows:
        if row["status"] == "failed":
            print(f"failed: {row['folder']}: {row['error']}")
    for name, file in (("table", "table.csv"), ("summary", "summary.csv"), ("figure", "figure.png")):
        print(f"{name + ':':<9} {folder / file}")


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    with write_atomically(path) as partial:
        table.to_csv(partial, index=False)
