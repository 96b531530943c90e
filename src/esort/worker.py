"""One job of a study at work: a training, or another sorter; and the row that it leaves."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from esort.checkpoint import load_card
from esort.evaluation import score
from esort.fairness import check_scored_time
from esort.files import write_json
from esort.grid import OURS
from esort.jobs import Job, code_digest
from esort.one_line import one_line
from esort.peers import run_sorter_on
from esort.results import MODEL, RUN, SCORES
from esort.runs import Run
from esort.subject import open_subject

__all__ = ["BEGUN", "TrainOne", "found_row", "job_row", "run_job", "silence"]

logger = logging.getLogger(__name__)

TrainOne = Callable[[DictConfig, Run], Any]
"""Does one training in the folder of the run that it gets."""
_DONE, BEGUN = "point.json", "begun.json"


def run_job(job: Job, folder: Path, train_one: TrainOne, *, seconds: float | None = None) -> dict[str, Any]:
    """Run a job; one that found nothing to learn or to sort has failed and counts with an accuracy of 0.

    Parameters
    ----------
    job : Job
    folder : Path
        Made if it is missing; what an interrupted run of the same code left there is gone on with.
    train_one : callable
        See `TrainOne`.
    seconds : float, optional
        What the job took, where it was done before this.

    Returns
    -------
    dict
        What came out; see `job_row`.

    Raises
    ------
    ValueError
        If there is nothing to score.
    RuntimeError
        If labels came from the time that is scored.
    """
    begun = folder / BEGUN
    if begun.is_file() and json.loads(begun.read_text())["code"] != code_digest():
        shutil.rmtree(folder)  # other code's half a training is of no use
    write_json(begun, {"code": code_digest(), "overrides": list(job.point.overrides)})
    begin = time.perf_counter()
    failed = {"status": "failed", "pooled_accuracy": 0.0, "mean_accuracy": 0.0}
    if job.point.sorter == OURS and job.plan.budget.kind == "per_unit":
        failed["labels_per_unit"] = float(job.plan.budget.amount)
    with silence(folder):
        try:
            if job.point.sorter == OURS:
                train_one(job.config, Run.of(job.config, job.choices, folder, name=job.point.label))
            else:
                _run_peer(job, folder)
        except ValueError as error:
            logger.error("failed: %s", error)
            return failed | {"error": one_line(error), "seconds": time.perf_counter() - begin}
    for leftover in ("pretrain", "finetune", "peer"):  # to go on with, and as large as all the rest
        shutil.rmtree(folder / leftover, ignore_errors=True)
    seconds = time.perf_counter() - begin if seconds is None else seconds
    result = {"status": "done", "seconds": seconds, **_scored(job, folder)}
    write_json(folder / _DONE, {"code": code_digest(), "row": job_row(job, folder, result)})
    return result


def _run_peer(job: Job, folder: Path) -> None:
    """Run another sorter on the whole recording, all that ours has seen; score it where ours is scored."""
    subject = open_subject(job.plan.target, job.plan.cache)
    assert subject.ground_truth is not None  # see `plan_jobs`
    begin = time.perf_counter()
    sorting = run_sorter_on(subject.recording, job.point.sorter, folder / "peer", seed=job.point.seed)
    total = time.perf_counter() - begin
    start, stop = job.plan.teacher.stop_sample(subject.recording), subject.num_samples
    scores = score(subject.ground_truth, sorting, start_sample=start, stop_sample=stop)
    scores.save(folder / SCORES)
    content = {
        "recording": subject.source,
        "recording_fingerprint": subject.fingerprint,
        "start_sample": start,
        "stop_sample": stop,
        "num_units": len(sorting.unit_ids),
        "real_time_factor": subject.num_samples / subject.sampling_frequency / total,
    }
    write_json(folder / RUN, content)


def _scored(job: Job, folder: Path) -> dict[str, Any]:
    """What a run left in its folder, after a look at whether it is fair."""
    run = json.loads((folder / RUN).read_text())
    scores = json.loads((folder / SCORES).read_text()) if (folder / SCORES).is_file() else {}
    if scores.get("pooled_accuracy") is None:
        raise ValueError(
            f"a study needs true spikes in time that no label came from, got none for {job.point.label}"
        )
    if job.point.sorter == OURS:
        labels = load_card(folder / MODEL).labels
        assert labels is not None
        check_scored_time(labels, scores, recording_fingerprint=run["recording_fingerprint"])
    labelled = run.get("labelled_units")
    return {
        "pooled_accuracy": scores["pooled_accuracy"],
        "mean_accuracy": scores["mean_accuracy"],
        "true_units": len(scores["units"]),
        "found_units": run["num_units"],
        "units_above_0.9": sum(unit["accuracy"] >= 0.9 for unit in scores["units"]),
        "num_labels": run.get("num_labels"),
        "labels_per_unit": run["num_labels"] / labelled if labelled else None,
        "real_time_factor": run["real_time_factor"],
        "recording_fingerprint": run["recording_fingerprint"],
        "start_sample": scores["start_sample"],
        "stop_sample": scores["stop_sample"],
        "delta_ms": scores["delta_ms"],
    }


def job_row(job: Job, folder: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """What the table says of a job."""
    columns = ("pooled_accuracy", "mean_accuracy", "labels_per_unit", "seconds")
    return {
        "sorter": job.point.sorter,
        **job.point.values,
        "seed": job.point.seed,
        **dict.fromkeys(columns),
        "error": "",
        **result,
        "code": code_digest(),
        "folder": folder.name,
    }


def found_row(folder: Path) -> dict[str, Any] | None:
    """Row of a run that is done."""
    if not (folder / _DONE).is_file():
        return None
    row: dict[str, Any] = json.loads((folder / _DONE).read_text())["row"]
    return row


@contextlib.contextmanager
def silence(folder: Path) -> Iterator[None]:
    """Send what a run prints and logs to files in its folder: forty runs drown the study's own lines."""
    root = logging.getLogger()
    quieted = [
        (handler, handler.level)
        for handler in root.handlers
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)
    ]
    file = logging.FileHandler(folder / "run.log", encoding="utf-8")
    file.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
    root.addHandler(file)
    for handler, _ in quieted:
        handler.setLevel(logging.CRITICAL)
    try:
        with (
            (folder / "printed.txt").open("a", encoding="utf-8") as printed,
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
        ):
            yield
    finally:
        root.removeHandler(file)
        file.close()
        for handler, level in quieted:
            handler.setLevel(level)
