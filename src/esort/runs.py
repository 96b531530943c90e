"""What Hydra knows of a run: its folder, its name, its choices; and how its errors reach the terminal."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from esort.files import saying_where
from esort.locks import hold_folder

__all__ = ["ERROR_FILE", "INTERRUPTED", "TERMINATED", "Run", "complain", "full_errors", "one_line_errors"]

TERMINATED, INTERRUPTED = 128 + signal.SIGTERM, 128 + signal.SIGINT
"""Exit codes after SIGTERM (from SLURM, for example) and Ctrl-C."""

# A job of a sweep that failed leaves its error here; the table at the end of the sweep shows it.
ERROR_FILE = "error.txt"
# Groups whose choices tell runs apart, in the order of a run's name.
_NAMED_GROUPS = ("probe", "noise", "drift", "model", "training", "teacher")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as Hydra started it.

    Parameters
    ----------
    folder : Path
        Where its files go.
    name : str
        Made from the choices that tell runs apart.
    columns : dict
        Choice of each group and the scalars that people sweep, for a dashboard.
    """

    folder: Path
    name: str
    columns: dict[str, Any]

    @classmethod
    def current(cls, config: DictConfig) -> Run:
        """Return the run that Hydra is in."""
        hydra = HydraConfig.get()
        return cls.of(config, hydra.runtime.choices, Path(hydra.runtime.output_dir))

    @classmethod
    def of(
        cls, config: DictConfig, choices: Mapping[str, Any], folder: Path, *, name: str | None = None
    ) -> Run:
        """Return the run of a configuration.

        Parameters
        ----------
        config : DictConfig
        choices : mapping
            Group -> the option that was chosen.
        folder : Path
        name : str, optional
            By default made from the choices.
        """
        choices = {
            group: choice
            for group, choice in choices.items()
            if not group.startswith("hydra") and choice is not None
        }
        scalars = {key: config[key] for key in ("labels", "thresholds", "seed") if key in config}
        name = name or _name(choices, config)
        return cls(folder=folder, name=name, columns=choices | scalars | {"name": name})


def _name(choices: dict[str, Any], config: DictConfig) -> str:
    parts = {group: choices[group] for group in _NAMED_GROUPS if choices.get(group, "none") != "none"}
    if choices.get("recording") == "path":
        # The contacts and the noise are the recording's own; its file tells it apart.
        for group in ("noise", "drift"):
            parts.pop(group, None)
        parts["probe"] = Path(str(config.recording.get("path"))).name
    labels = []
    if "labels" in config:
        amount = "" if choices["label_budget"] == "teacher" else config.labels  # it has no say there
        labels = [f"{choices['label_budget']}{amount}"]
    return "-".join([*map(str, parts.values()), *labels, f"seed{config.seed}"])


def one_line_errors(task: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """Turn an expected error into one line on stderr and exit code 1; keep other processes out of the folder.

    SIGTERM and Ctrl-C end the run with `TERMINATED` or `INTERRUPTED`: what was finished is on the disk.

    With HYDRA_FULL_ERROR=1 the traceback stays. In a sweep the other jobs go on: the failed job returns NaN
    and leaves its line in ``error.txt``; the sweep ends with exit code 1 (see `esort.sweep`).

    Parameters
    ----------
    task : callable
        Takes a configuration.
    """

    @functools.wraps(task)
    def run(config: DictConfig) -> Any:
        hydra = HydraConfig.get()
        folder = Path(hydra.runtime.output_dir)
        error_file = folder / ERROR_FILE
        try:
            with _ending_in_order(), saying_where(folder, folder), hold_folder(folder):
                error_file.unlink(missing_ok=True)
                return task(config)
        except _Terminated as end:
            by = "SIGTERM" if end.code == TERMINATED else "Ctrl-C"
            complain(f"ended by {by}: what was finished is kept in {folder}, resume=true goes on with it")
            raise
        except (ValueError, OSError, OmegaConfBaseException, InstantiationException) as error:
            if full_errors():
                raise
            line = _one_line(error)
            if hydra.mode != RunMode.MULTIRUN:
                complain(line)
                sys.exit(1)
            complain(f"job {hydra.job.num}: {line}")
            with suppress(OSError):  # of a full disk, for example
                error_file.write_text(line + "\n", encoding="utf-8")
            return float("nan")

    return run


class _Terminated(SystemExit):
    """Unwinds the stack, so that every half-written file is removed and every lock released."""


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C end the block like an error does; only the main thread can choose."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: Any) -> None:
        raise _Terminated(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def complain(line: str) -> None:
    """Say on stderr what went wrong."""
    print(f"error: {line}", file=sys.stderr)


def full_errors() -> bool:
    """Whether the user asked Hydra for tracebacks."""
    return os.environ.get("HYDRA_FULL_ERROR", "0") not in ("0", "")


def _one_line(error: BaseException) -> str:
    """What a user needs to know of an error."""
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        # Hydra wraps what a target raised; the reason counts, not the wrapping.
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[0] if lines else type(error).__name__
    if "Missing mandatory value" in line:
        line = f"{line.rpartition(' ')[2]} has no value: give it one"
    return line
