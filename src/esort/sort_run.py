"""The phases of `sort.py`, from their objects to what they leave; without PyTorch where none is needed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from esort.announcement import announce
from esort.dashboards import show_outcome
from esort.executor import Executor
from esort.exports import check_exports
from esort.manifest import how_to_open, make_manifest
from esort.memory import MemoryLimit
from esort.objects import make, target_of, threshold, whole_number
from esort.outcome import Outcome, sort_subject
from esort.recordings import RecordingPath
from esort.runs import Run
from esort.simulation import SimulationSpec
from esort.sorter import Sorter
from esort.subject import Subject, open_subject
from esort.tracking import TrackerSpec

__all__ = ["sort", "write_manifest"]


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
    run = Run.current(config)
    if OmegaConf.is_missing(config, "checkpoint"):
        raise ValueError("sort.py needs a checkpoint that train.py made: give checkpoint=FILE")
    spec = target_of(config)
    tracker_spec: TrackerSpec = make(config.logger)
    executor: Executor = make(config.executor)
    memory: MemoryLimit = make(config.memory)
    thresholds = threshold(config.thresholds)
    exports, session = check_exports(config.export), make(config.session)
    num_workers = (
        None if config.num_workers is None else whole_number("num_workers", config.num_workers, least=1)
    )
    checkpoint = Path(config.checkpoint).expanduser()
    sorter = Sorter.load(checkpoint)  # a file that cannot be used is found before the recording is opened
    with tracker_spec.open(run.folder, name=run.name) as tracker:
        tracker.config(run.columns | {"checkpoint": str(checkpoint)})
        with ThreadPoolExecutor(1) as pool:
            ready = pool.submit(sorter.make_ready if executor.name == "threads" else lambda: None)
            subject = open_subject(spec, config.cache)
            ready.result()
        outcome = sort_subject(
            checkpoint,
            subject,
            run.folder,
            thresholds=thresholds,
            num_workers=num_workers,
            overwrite=bool(config.overwrite),
            resume=bool(config.resume),
            exports=exports,
            session=session,
            report=bool(config.report),
            executor=executor,
            memory=memory,
            sorter=sorter,
        )
        tracker.used(checkpoint, "model", "model")
        show_outcome(tracker, subject, outcome)
        write_manifest("sort", config, spec, subject, outcome, thresholds)
    announce(outcome)
    return outcome.scores.pooled_accuracy if outcome.scores else None


def write_manifest(
    command: str,
    config: DictConfig,
    spec: SimulationSpec | RecordingPath,
    subject: Subject,
    outcome: Outcome,
    thresholds: float | None = None,
) -> None:
    """Say last of all what belongs to the result; see `esort.verify`."""
    content = OmegaConf.to_container(config, resolve=True)
    assert isinstance(content, dict)
    make_manifest(
        command,
        outcome.folder,
        sorting=outcome.sorting,
        recording=subject.recording,
        opened=how_to_open(spec, subject.source),
        config={str(key): value for key, value in content.items() if key != "hydra"},
        thresholds=thresholds,
        whole_recording=bool(config.digest_recording),
    ).save(outcome.folder)
