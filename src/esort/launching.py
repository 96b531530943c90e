"""Runs of a study handed to one of Hydra's launchers: other processes, a SLURM or a Ray cluster."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from esort.files import write_json
from esort.grid import OURS
from esort.jobs import Job, code_digest, given_overrides
from esort.one_line import one_line
from esort.results import MANIFEST
from esort.runs import ERROR_FILE, Run
from esort.worker import BEGUN, silence

__all__ = ["has_launcher", "launch", "launched", "launched_run", "seconds_of"]

logger = logging.getLogger(__name__)

_IN_THIS_PROCESS = "basic"
_TOOK = "took.json"


def has_launcher() -> bool:
    """Whether the command line chose a launcher that starts other processes."""
    return bool(HydraConfig.get().runtime.choices.get("hydra/launcher") != _IN_THIS_PROCESS)


def launch(jobs: Sequence[Job], folder: Path, task: TaskFunction) -> None:
    """Run the trainings of a study by Hydra's launcher, as many at once as it likes; wait for all.

    Each is a run of ``train.py`` in a folder of its own. What failed leaves its line in ``error.txt`` there.

    Parameters
    ----------
    jobs : sequence of Job
        Other sorters among them are left alone.
    folder : Path
        Of the runs; one that every node sees under the same path.
    task : callable
        Does what ``train.py`` does with a configuration.
    """
    ours = [job for job in jobs if job.point.sorter == OURS and not job.skipped]
    if not ours:
        return
    for job in ours:
        _prepare(folder / job.folder_name)
    hydra = HydraConfig.get()
    state = GlobalHydra.instance()
    loader = state.config_loader()
    config = OmegaConf.create({"hydra": OmegaConf.to_container(hydra)})
    config.hydra.sweep.dir = str(folder)
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=HydraContext(config_loader=loader, callbacks=_callbacks()),
        task_function=task,
        config=config,
    )
    setup_globals()
    given = given_overrides()
    overrides = [
        [
            *given,
            *job.point.overrides,
            "study=null",
            "resume=true",
            "hydra.mode=MULTIRUN",
            f"hydra.sweep.dir={folder}",
            f"hydra.sweep.subdir={job.folder_name}",
        ]
        for job in ours
    ]
    try:
        returned: Sequence[JobReturn] = launcher.launch(overrides, initial_job_idx=0)
    finally:
        # Launchers change both for the last of their jobs.
        GlobalHydra.set_instance(state)
        HydraConfig.instance().cfg = OmegaConf.create({"hydra": hydra})  # type: ignore[assignment]
    for job, one in zip(ours, returned, strict=True):
        try:
            one.return_value  # noqa: B018 (it raises what the job raised)
        except Exception as error:  # noqa: BLE001 (whatever the job raised)
            line = one_line(error)
            (folder / job.folder_name / ERROR_FILE).write_text(line + "\n", encoding="utf-8")


def launched(task: Callable[[DictConfig], Any], config: DictConfig) -> Any:
    """Do a run where a launcher wants it; what it prints and how long it took stays in its folder."""
    folder, begin = Path(HydraConfig.get().runtime.output_dir), time.perf_counter()
    with silence(folder):
        result = task(config)
    write_json(folder / _TOOK, {"seconds": time.perf_counter() - begin})
    return result


def seconds_of(folder: Path) -> float | None:
    """How long a launched run took; None for one that was not launched."""
    path = folder / _TOOK
    return float(json.loads(path.read_text())["seconds"]) if path.is_file() else None


def launched_run(config: DictConfig, run: Run) -> None:
    """See whether a run that was launched ended well.

    Raises
    ------
    ValueError
        With its own words, if it did not.
    """
    error = run.folder / ERROR_FILE
    if error.is_file():
        raise ValueError(error.read_text(encoding="utf-8").strip())
    if not (run.folder / MANIFEST).is_file():
        raise ValueError(f"its process ended without a word, see {run.folder}")


def _prepare(folder: Path) -> None:
    """Keep what an interrupted run of the same code left, and say which code it is."""
    begun = folder / BEGUN
    if begun.is_file() and json.loads(begun.read_text())["code"] != code_digest():
        shutil.rmtree(folder)
    write_json(begun, {"code": code_digest()})


def _callbacks():  # type: ignore[no-untyped-def]
    """No callback of the study is one of its runs."""
    from hydra._internal.callbacks import Callbacks

    return Callbacks()
