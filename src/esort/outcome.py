"""Sort a recording with a checkpoint and leave the folder that a user looks at."""

from __future__ import annotations

import logging
import os
import platform
import resource
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from esort.checkpoint import package_versions
from esort.evaluation import Scores, score
from esort.files import new_folder_atomically, sha256_of_file, write_json
from esort.footprints import estimate_footprints
from esort.report import plot_accuracy, plot_probe
from esort.sorter import Sorter, SortResult
from esort.subject import Subject
from esort.traces import plot_traces

if TYPE_CHECKING:
    from spikeinterface.core import BaseSorting

__all__ = ["Outcome", "sort_subject", "unlabelled_stretch"]

logger = logging.getLogger(__name__)

_PICTURE_S = 0.04
# Mean waveforms for the pictures are taken from this much of the recording.
_FOOTPRINT_S = 20.0


@dataclass(kw_only=True, eq=False)
class Outcome:
    """What sorting left behind.

    Parameters
    ----------
    folder : Path
    run : dict
        Content of ``run.json``.
    sorting : BaseSorting
        As it lies in ``sorting/``.
    scores : Scores or None
        Against the ground truth, where it is known.
    pictures : list of Path
    """

    folder: Path
    run: dict[str, Any]
    sorting: BaseSorting
    scores: Scores | None
    pictures: list[Path]


def unlabelled_stretch(sorter: Sorter, subject: Subject) -> tuple[int, int]:
    """Return the time of a recording that no label of the sorter came from, for scoring.

    Raises
    ------
    ValueError
        If nothing is left.
    """
    labels = sorter.card.labels
    if labels is None or labels.recording_fingerprint != subject.fingerprint:
        return 0, subject.num_samples
    before, after = labels.start_sample, subject.num_samples - labels.stop_sample
    if max(before, after) <= 0:
        raise ValueError("the labels of this checkpoint came from all of this recording: nothing to score on")
    return (labels.stop_sample, subject.num_samples) if after >= before else (0, before)


def sort_subject(
    checkpoint: Path,
    subject: Subject,
    folder: Path,
    *,
    start_sample: int = 0,
    stop_sample: int | None = None,
    thresholds: float | None = None,
    num_workers: int | None = None,
    overwrite: bool = False,
    facts: dict[str, Any] | None = None,
) -> Outcome:
    """Sort a stretch of a recording; write ``sorting/``, ``run.json``, ``scores.json`` and pictures.

    Parameters
    ----------
    checkpoint : Path
    subject : Subject
    folder : Path
        Made if it is missing.
    start_sample, stop_sample : int
        The stretch; None: to the end.
    thresholds : float, optional
        For all units, in the place of the checkpoint's.
    num_workers : int, optional
        Threads; None: one per core.
    overwrite : bool
        Whether a sorting that lies in the folder may be replaced.
    facts : dict, optional
        More for ``run.json``.

    Returns
    -------
    Outcome

    Raises
    ------
    FileExistsError
        If there is a sorting in the folder and `overwrite` is false.
    FileNotFoundError, CheckpointError, ValueError
        If the checkpoint cannot be read, or does not fit the recording.
    """
    check_output(folder, overwrite=overwrite)
    sorter = Sorter.load(checkpoint)
    result = sorter.sort(
        subject.recording,
        start_sample=start_sample,
        stop_sample=stop_sample,
        thresholds=thresholds,
        num_workers=num_workers,
        progress=_progress_bar(subject.sampling_frequency),
    )
    sorting = _write_sorting(result, folder / "sorting")
    stop_sample = start_sample + result.num_samples
    run = {
        "recording": subject.source,
        "recording_fingerprint": subject.fingerprint,
        "checkpoint": str(checkpoint.resolve()),
        "checkpoint_sha256": sha256_of_file(checkpoint),
        "start_sample": start_sample,
        "stop_sample": stop_sample,
        "sampling_frequency": result.sampling_frequency,
        "num_channels": subject.recording.get_num_channels(),
        "num_units": len(result.unit_ids),
        "num_spikes": len(result.spikes),
        "seconds": result.seconds,
        "real_time_factor": result.real_time_factor,
        "peak_rss_bytes": _peak_rss_bytes(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "platform": platform.platform(),
        "versions": package_versions(),
        **(facts or {}),
    }
    write_json(folder / "run.json", run)
    scores = None
    if subject.ground_truth is not None and result.num_samples:
        first, last = unlabelled_stretch(sorter, subject)
        scores = score(
            subject.ground_truth,
            sorting,
            start_sample=max(first, start_sample),
            stop_sample=min(last, stop_sample),
        )
        scores.save(folder / "scores.json")
    pictures = _draw(sorter, subject, result, sorting, scores, folder, start_sample)
    return Outcome(folder=folder, run=run, sorting=sorting, scores=scores, pictures=pictures)


def check_output(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that holds a sorting already.

    Raises
    ------
    FileExistsError
        Unless `overwrite`.
    """
    if (folder / "sorting").exists() and not overwrite:
        raise FileExistsError(
            f"{folder / 'sorting'} exists: choose another folder, or replace it by overwrite=true"
        )


def _write_sorting(result: SortResult, path: Path) -> BaseSorting:
    """Save as SpikeInterface's folder, whole or not at all, with each spike's probability beside it."""
    import spikeinterface

    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    with new_folder_atomically(path.with_name(f".{path.name}.new")) as partial:
        result.sorting().save(folder=partial / "sorting")
        np.save(partial / "sorting" / "probability.npy", result.spikes.probability)
    new = path.with_name(f".{path.name}.new")
    if path.exists():
        os.rename(path, old)
    os.rename(new / "sorting", path)
    shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    return spikeinterface.load(path)


def _draw(
    sorter: Sorter,
    subject: Subject,
    result: SortResult,
    sorting: BaseSorting,
    scores: Scores | None,
    folder: Path,
    start_sample: int,
) -> list[Path]:
    """Pictures of what was found; none where nothing was."""
    rate = result.sampling_frequency
    if len(result.spikes) == 0 or result.num_samples < rate * _PICTURE_S:
        return []
    filtered = sorter.prepare(subject.recording).filtered
    pictures = [folder / "traces.png", folder / "probe.png"]
    plot_traces(
        filtered,
        sorting,
        pictures[0],
        start_s=(start_sample + (result.num_samples - rate * _PICTURE_S) / 2) / rate,
        duration_s=_PICTURE_S,
        ground_truth=subject.ground_truth,
        matches={unit.unit_id: unit.matched_unit_id for unit in scores.units} if scores else None,
    )
    footprints = estimate_footprints(
        filtered,
        sorting,
        start_sample=start_sample,
        stop_sample=min(start_sample + result.num_samples, start_sample + round(_FOOTPRINT_S * rate)),
    )
    if scores is None:
        plot_probe(footprints, pictures[1])
        return pictures
    matched = [unit for unit in scores.units if unit.matched_unit_id is not None]
    accuracy = {unit.matched_unit_id: unit.accuracy for unit in matched}
    plot_probe(footprints, pictures[1], values=accuracy)
    pictures.append(folder / "accuracy.png")
    plot_accuracy(scores.to_dict(), pictures[2], signal_to_noise=subject.signal_to_noise or None)
    return pictures


def _progress_bar(sampling_frequency: float) -> Callable[[Iterable], Iterable]:
    def wrap(blocks: Iterable) -> Iterable:
        return tqdm(blocks, desc="sorting", unit="block", disable=None, file=sys.stderr)

    return wrap


def _peak_rss_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
