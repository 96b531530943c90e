"""Where labels come from, the ground truth or a teacher; and how far the student agrees with the teacher."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from esort.evaluation import agreement
from esort.labels import LabelBudget, LabelledSpikes, select_labels
from esort.results import AGREEMENT
from esort.subject import Subject
from esort.teacher import Teacher

__all__ = ["agreement_with_teacher", "all_labels", "draw_labels"]

logger = logging.getLogger(__name__)


def all_labels(subject: Subject) -> LabelledSpikes:
    """Return every spike of a recording whose ground truth is known."""
    return draw_labels(
        subject, Teacher(), LabelBudget(), seed=0, folder=Path(), stop_sample=subject.num_samples
    )


def draw_labels(
    subject: Subject,
    teacher: Teacher,
    budget: LabelBudget,
    *,
    seed: int,
    folder: Path,
    stop_sample: int | None = None,
) -> LabelledSpikes:
    """Ask the teacher, or the ground truth where there is none, for the labels that the budget allows.

    Parameters
    ----------
    subject : Subject
    teacher : Teacher
    budget : LabelBudget
    seed : int
        Of the draw.
    folder : Path
        For what a teacher leaves behind.
    stop_sample : int, optional
        End of the part that may be learned from; by default the teacher's.

    Raises
    ------
    ValueError
        If there is nobody to ask, or no spike in that time; or the traces hold a NaN there.
    """
    stop_sample = teacher.stop_sample(subject.recording) if stop_sample is None else stop_sample
    subject.check_traces(stop_sample)
    if teacher.sorter is not None:
        sample_index, unit_index, unit_ids = teacher.spikes(subject.recording, folder / "teacher")
    elif subject.ground_truth is not None:
        spikes = subject.ground_truth.to_spike_vector()
        sample_index, unit_index = spikes["sample_index"], spikes["unit_index"]
        outside = (sample_index < 0) | (sample_index >= subject.num_samples)
        if outside.any():
            raise ValueError(
                f"the ground truth has {outside.sum()} of {outside.size} spikes outside the recording of "
                f"{subject.num_samples} samples, one at {sample_index[outside][0]}: it belongs to another"
            )
        unit_ids = tuple(subject.ground_truth.unit_ids)
    else:
        raise ValueError(
            "the recording has no labels: give teacher=lupin (or another sorter), "
            "teacher=sorting teacher.path=FOLDER, or recording.ground_truth=FOLDER"
        )
    return select_labels(
        sample_index,
        unit_index,
        unit_ids,
        budget=budget,
        sampling_frequency=subject.sampling_frequency,
        start_sample=0,
        stop_sample=stop_sample,
        rng=np.random.default_rng(seed),
    )


def agreement_with_teacher(
    sorting: Any, subject: Subject, teacher: Teacher, *, start_sample: int, stop_sample: int, folder: Path
) -> dict[str, Any]:
    """Ask the same teacher for the rest of the recording and compare.

    Neither is the truth. Units of the teacher with too few spikes to be learned from do not count.

    Returns
    -------
    dict
        For ``scores.json``: ``mean_best`` (over the teacher's units, agreement with their best partner),
        ``pooled`` (pooled accuracy with the teacher in the place of the truth), ``units``; both None where
        nothing is left of the recording, or the teacher finds nothing there.
    """
    nothing: dict[str, Any] = {"mean_best": None, "pooled": None, "units": []}
    if stop_sample <= start_sample:
        logger.warning("the teacher's part is all of the recording: nothing is left to agree on")
        return nothing
    try:
        rest = teacher.units(
            subject.recording, folder / "teacher_rest", start_sample=start_sample, stop_sample=stop_sample
        )
    except ValueError as error:
        # The student has learned and sorted: that stays, whatever the teacher says of the rest.
        logger.warning("no agreement: %s", error)
        return nothing
    found = agreement(rest, sorting, start_sample=start_sample, stop_sample=stop_sample)
    found.save(folder / AGREEMENT)
    counts = rest.count_num_spikes_per_unit()
    units = [pair | {"num_spikes": int(counts[pair["unit_id"]])} for pair in found.best()]
    logger.info(
        "agreement with %s on the rest: %.3f in the mean over its %d units, %.3f of all spikes",
        teacher.path or teacher.sorter,
        found.mean_best,
        len(units),
        found.pooled,
    )
    return {"mean_best": found.mean_best, "pooled": found.pooled, "units": units}
