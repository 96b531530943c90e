"""Sort a recording with a checkpoint and leave the folder that a user looks at."""

from __future__ import annotations

import functools
import logging
import platform
import sys
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from esort.checkpoint import package_versions
from esort.chunks import CHUNK_S, ChunkFolder, sort_in_chunks
from esort.defects import check_scale
from esort.doubtful import doubtful_spikes
from esort.evaluation import Scores, score
from esort.executor import Executor, ThreadExecutor
from esort.exports import Exportable, check_exports, remove_exports, write_exports
from esort.files import new_folder_atomically, sha256_of_file, write_json
from esort.handling import handling_of
from esort.inference import BLOCK_S
from esort.memory import MemoryLimit, peak_rss_bytes, plan_memory
from esort.nwb import Session
from esort.page import REPORT, try_page
from esort.pictures import PICTURES, draw_pictures
from esort.results import CHUNKS, DEFECTS, MANIFEST, RUN, SCORES, SORTING, check_output, set_aside
from esort.saved import open_saved, save_sorting
from esort.sort_result import SortResult
from esort.sorter import Sorter
from esort.subject import Subject
from esort.threads import available_cores

if TYPE_CHECKING:
    from spikeinterface.core import BaseSorting

__all__ = ["Outcome", "sort_subject", "unlabelled_stretch"]

logger = logging.getLogger(__name__)

_PROGRESS = "{desc}: {percentage:3.0f}% |{bar}| {n:.0f} of {total:.0f} s of recording, {remaining} left"
# ``run.json`` lists so many of the stretches that were blanked, ``defects.json`` all; a share to warn of.
_STRETCHES_SHOWN = 100
_MUCH_BLANKED = 0.05


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
    """Return the time [start, stop) of a recording that no label of the sorter came from, for scoring.

    Of the time before and after the labels, the longer; empty where the labels came from everywhere.
    """
    labels = sorter.card.labels
    if labels is None or labels.recording_fingerprint != subject.fingerprint:
        return 0, subject.num_samples
    before, after = labels.start_sample, subject.num_samples - labels.stop_sample
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
    resume: bool = False,
    facts: dict[str, Any] | None = None,
    exports: Iterable[str] = (),
    session: Session | None = None,
    report: bool = False,
    executor: Executor | None = None,
    memory: MemoryLimit | None = None,
    sorter: Sorter | None = None,
) -> Outcome:
    """Sort a stretch of a recording; write ``sorting/``, ``run.json``, ``scores.json``, pictures and exports.

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
    resume : bool
        Whether to go on with the chunks that an interrupted sorting left in the folder, and to replace what
        else it left.
    facts : dict, optional
        More for ``run.json``.
    exports : sequence of str
        See `esort.exports.write_exports`.
    session : Session, optional
        For the NWB file.
    report : bool
        Whether to leave ``report.html`` too.
    executor : Executor, optional
        Who sorts the chunks; by default this process.
    memory : MemoryLimit, optional
        Kept by shorter chunks and less to look at; no spike depends on it.
    sorter : Sorter, optional
        Of the checkpoint, if it is loaded already.

    Returns
    -------
    Outcome

    Raises
    ------
    FileExistsError
        If there is a sorting in the folder and `overwrite` is false.
    FileNotFoundError, CheckpointError, ValueError
        If the checkpoint cannot be read, or does not fit the recording; or an export fails.
    """
    # Without a manifest the run did not end: what lies there is the first part of what is to come.
    overwrite = overwrite or (resume and not (folder / MANIFEST).exists())
    exports = check_exports(exports, folder, overwrite=overwrite)
    if not overwrite and (folder / SORTING).exists():
        check_output(folder, overwrite=False)
    executor = ThreadExecutor() if executor is None else executor
    sorter = Sorter.load(checkpoint) if sorter is None else sorter
    check_scale(subject.defects, sorter.noise_uv)
    handling = handling_of(subject.recording)
    digest = sha256_of_file(checkpoint)
    plan = plan_memory(
        sorter,
        subject.recording,
        memory or MemoryLimit(),
        num_workers=num_workers,
        chunk_s=executor.chunk_s or CHUNK_S,
        report=report,
    )
    logger.info("memory: %s", plan)
    if report and not plan.report:
        logger.warning("no report: memory.max_gb leaves no room for it")
    if isinstance(executor, ThreadExecutor):  # the nodes of a cluster have memory of their own
        executor, num_workers = replace(executor, chunk_s=plan.chunk_s), plan.num_workers
    chunks = ChunkFolder(
        folder / CHUNKS,
        {
            "checkpoint": digest,
            "recording": subject.fingerprint,
            "stretch": [start_sample, stop_sample],
            "thresholds": thresholds,
            "bad_channels": subject.recording.channel_ids[handling.bad].tolist(),
            "blank": None if handling.blanking is None else asdict(handling.blanking),
            "resample": handling.resample,
            "chunk_s": executor.chunk_s or CHUNK_S,
            "versions": package_versions(),
        },
    )
    result = sort_in_chunks(
        sorter,
        subject.recording,
        chunks,
        start_sample=start_sample,
        stop_sample=stop_sample,
        thresholds=thresholds,
        num_workers=num_workers,
        progress=_progress_bar,
        resume=resume,
        executor=executor,
    )
    sorting = _write_sorting(sorter, result, folder / SORTING)
    for name in (MANIFEST, SCORES, DEFECTS, REPORT, *PICTURES):
        (folder / name).unlink(missing_ok=True)  # of the sorting that was replaced
    remove_exports(folder)
    stop_sample = start_sample + result.num_samples
    fitness = result.fitness(sorter.tables.baseline, subject.recording.channel_ids.tolist())
    fitness.log()
    run = {
        "recording": subject.source,
        "recording_fingerprint": subject.fingerprint,
        "checkpoint": str(checkpoint.resolve()),
        "checkpoint_sha256": digest,
        "start_sample": start_sample,
        "stop_sample": stop_sample,
        "executor": executor.name,
        "predicted_peak_bytes": plan.peak_bytes,
        **_describe(result, subject),
        "num_rivals": len(sorter.tables.rivals),
        "health": fitness.to_dict(),
        "defects": _defects(result, subject, every=False),
        **({"exports": list(exports)} if exports else {}),
        **(facts or {}),
    }
    write_json(folder / RUN, run)
    write_json(folder / DEFECTS, _defects(result, subject, every=True))
    _say_what_was_blanked(run["defects"])
    scores = _score(sorter, subject, sorting, start_sample, stop_sample)
    if scores is not None:
        scores.save(folder / SCORES)
    pictures = draw_pictures(sorter, subject, result, sorting, scores, folder, start_sample, plan.stretch_s)
    if plan.report:
        try_page(folder, subject)
    if exports:
        content = Exportable(
            sorting=sorting,
            probability=result.spikes.probability,
            recording=subject.recording,
            filtered=sorter.preprocessing.resolve(subject.recording).apply(subject.recording),
            source=subject.source,
            session=session or Session(),
        )
        write_exports(exports, content, folder)
    chunks.clear()  # only now: all that they hold is written
    return Outcome(folder=folder, run=run, sorting=sorting, scores=scores, pictures=pictures)


def _describe(result: SortResult, subject: Subject) -> dict[str, Any]:
    """What came out and what it took."""
    return {
        "sampling_frequency": result.sampling_frequency,
        "num_channels": subject.recording.get_num_channels(),
        "num_units": len(result.unit_ids),
        "num_spikes": len(result.spikes),
        "motion_um": None if result.motion is None else result.motion.range_um,
        "seconds": result.seconds,
        "real_time_factor": result.real_time_factor,
        "peak_rss_bytes": peak_rss_bytes(),
        "cores": available_cores(),
        "platform": platform.platform(),
        "versions": package_versions(),
    }


def _defects(result: SortResult, subject: Subject, *, every: bool) -> dict[str, Any]:
    """What was wrong with the recording, and what was cut out of it: all stretches, or the first ones."""
    rate, length = result.sampling_frequency, np.diff(result.blanked, axis=1).sum()
    shown = result.blanked if every else result.blanked[:_STRETCHES_SHOWN]
    share = float(length / result.num_samples) if result.num_samples else 0.0
    return subject.defects.to_dict() | {
        "not_listened_to": list(result.bad_channel_ids),
        "blanked": {
            "count": len(result.blanked),
            "seconds": float(length / rate),
            "share": share,
            "stretches_s": (shown / rate).round(6).tolist(),
        },
    }


def _say_what_was_blanked(defects: dict[str, Any]) -> None:
    blanked = defects["blanked"]
    if blanked["count"]:
        log = logger.warning if blanked["share"] > _MUCH_BLANKED else logger.info
        log(
            "%d stretches, %.3g s (%.2g %% of the time), hold artefacts: no spike is reported in them; %s "
            "lists them (recording.blank=false keeps them)",
            blanked["count"],
            blanked["seconds"],
            100 * blanked["share"],
            DEFECTS,
        )


def _write_sorting(sorter: Sorter, result: SortResult, path: Path) -> BaseSorting:
    """Save as SpikeInterface's folder, whole or not at all: see `esort.saved.save_sorting`."""
    with set_aside(path), new_folder_atomically(path) as partial, warnings.catch_warnings():
        # The spikes come from a network, not from a file: there is no provenance to save.
        warnings.filterwarnings("ignore", message="The extractor is not serializable")
        doubtful = functools.partial(doubtful_spikes, sorter, unknown=result.unknown)
        save_sorting(result, partial, doubtful=doubtful if sorter.is_pursuit else None)
    return open_saved(path)


def _score(
    sorter: Sorter, subject: Subject, sorting: BaseSorting, start_sample: int, stop_sample: int
) -> Scores | None:
    """Compare with the ground truth, where there is one, on the time that no label came from."""
    if subject.ground_truth is None:
        return None
    first, last = unlabelled_stretch(sorter, subject)
    first, last = max(first, start_sample), min(last, stop_sample)
    if first >= last:
        logger.warning("no scores: the checkpoint's labels came from all that was sorted")
        return None
    return score(subject.ground_truth, sorting, start_sample=first, stop_sample=last)


def _progress_bar(blocks: Iterable) -> Iterable:
    """Seconds of recording that are done, of how many, and the time that is left; only on a terminal."""
    return tqdm(
        blocks,
        desc="sorting",
        unit="s",
        unit_scale=BLOCK_S,
        disable=None,
        file=sys.stderr,
        bar_format=_PROGRESS,
    )
