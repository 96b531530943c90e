"""The record of a run in local files: configuration, numbers, tables, pictures, outcome."""

from __future__ import annotations

import csv
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from esort.files import plain, sha256_of_file, write_atomically, write_json

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

__all__ = ["Tracker", "plain_number", "read_metrics"]

PANEL_KINDS = ("line", "scatter", "bar")
METRIC_COLUMNS = ("time", "step", "name", "value")


class Tracker:
    """Writes what happened into the files of a run's folder.

    ``config.json``; ``metrics.csv`` (one row per number, flushed at once); ``tables/<name>.csv``;
    ``panels.json`` (how a dashboard shows which table); ``artifacts.json`` (name, type, path and digest of
    pictures and files, and whether the run was made from them or made them); ``summary.json``. A run that is
    resumed in the same folder adds to its ``metrics.csv``.

    Parameters
    ----------
    folder : path-like
        Made if it is missing.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._summary: dict[str, Any] = {}
        self._artifacts: list[dict[str, str]] = []
        self._panels: dict[str, dict[str, str | None]] = {}
        path = self.folder / "metrics.csv"
        if path.exists():
            _drop_broken_line(path)
        is_new = not path.exists() or path.stat().st_size == 0
        self._metrics_file = open(path, "a", newline="", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self._metrics_writer = csv.writer(self._metrics_file, lineterminator="\n")
        if is_new:
            self._metrics_writer.writerow(METRIC_COLUMNS)
            self._metrics_file.flush()

    def config(self, values: Mapping[str, Any]) -> None:
        """Record the choices of the run."""
        write_json(self.folder / "config.json", values)

    def metrics(self, values: Mapping[str, Any], step: int) -> None:
        """Record numbers at a step.

        Parameters
        ----------
        values : mapping of str to number
            By custom named ``phase/name``; tensors of one element are taken.
        step : int
            Optimiser steps of that phase so far.
        """
        now = f"{time.time():.3f}"
        rows = [(now, int(step), name, repr(plain_number(value))) for name, value in values.items()]
        self._metrics_writer.writerows(rows)
        self._metrics_file.flush()

    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Record a table, for example one row per unit.

        Raises
        ------
        ValueError
            If a row has not as many entries as there are columns.
        """
        rows = [plain(list(row)) for row in rows]
        for row in rows:
            if len(row) != len(columns):
                raise ValueError(f"table {name!r}: expected rows of {len(columns)} entries, got {len(row)}")
        with (
            write_atomically(self.folder / "tables" / f"{_file_name(name)}.csv") as partial,
            open(partial, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(rows)

    def panel(
        self,
        name: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[Any]],
        *,
        kind: str,
        x: str,
        y: str,
        group: str | None = None,
        title: str = "",
    ) -> None:
        """Record a table and how it is shown.

        Parameters
        ----------
        name : str
        columns, rows
            See `table`.
        kind : {"line", "scatter", "bar"}
        x, y : str
            Columns; `y` holds numbers, `x` too where it is no bar.
        group : str, optional
            Column whose values are told apart: a line each, or bars side by side.
        title : str

        Raises
        ------
        ValueError
            If there is no such kind or column.
        """
        if kind not in PANEL_KINDS:
            raise ValueError(f"panel {name!r}: expected a kind among {', '.join(PANEL_KINDS)}, got {kind!r}")
        for column in filter(None, (x, y, group)):
            if column not in columns:
                raise ValueError(f"panel {name!r}: expected one of {', '.join(columns)}, got {column!r}")
        self._panels[name] = {"kind": kind, "x": x, "y": y, "group": group, "title": title or name}
        Tracker.table(self, name, columns, rows)
        write_json(self.folder / "panels.json", self._panels)

    def image(self, path: str | os.PathLike[str], name: str) -> None:
        """Record a picture that lies at `path`."""
        self._record(path, name, "image")

    def page(self, path: str | os.PathLike[str], name: str) -> None:
        """Record an HTML page that lies at `path`."""
        self._record(path, name, "page")

    def artifact(self, path: str | os.PathLike[str], name: str, type: str) -> None:
        """Record a file that the run made, for example a checkpoint (`type` "model")."""
        self._record(path, name, type)

    def used(self, path: str | os.PathLike[str], name: str, type: str) -> None:
        """Record a file that the run was made from, for example a backbone."""
        self._record(path, name, type, role="input")

    def summary(self, values: Mapping[str, Any]) -> None:
        """Record the outcome of the run; later calls add to it."""
        self._summary.update(plain(dict(values)))
        write_json(self.folder / "summary.json", self._summary)

    def close(self, *, failed: bool = False) -> None:
        """End the run; nothing may be recorded afterwards.

        Parameters
        ----------
        failed : bool
            Whether the run ended by an error.
        """
        self._metrics_file.close()

    def lightning_logger(self) -> Logger:
        """Return a Lightning logger that records into this tracker, whatever its kind."""
        from pytorch_lightning.loggers import Logger

        tracker = self

        class TrackerLogger(Logger):
            """Hands on what Lightning logs; the tracker is closed by whoever opened it."""

            @property
            def name(self) -> str:
                return ""  # so that Lightning keeps its checkpoints in <folder>/checkpoints

            @property
            def version(self) -> str:
                return ""

            @property
            def save_dir(self) -> str:
                return str(tracker.folder)

            @property
            def experiment(self) -> Tracker:
                return tracker

            def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
                pass  # the run's configuration was recorded by `config`

            def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
                values = {name: value for name, value in metrics.items() if name != "epoch"}
                if values:
                    tracker.metrics(values, 0 if step is None else step)

        return TrackerLogger()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(failed=kind is not None)

    def _record(self, path: str | os.PathLike[str], name: str, kind: str, *, role: str = "output") -> None:
        path = Path(path).absolute()
        if not path.is_file():
            raise FileNotFoundError(f"{kind} {name!r}: expected a file, got {path}, which does not exist")
        inside = path.is_relative_to(self.folder.absolute())
        shown = path.relative_to(self.folder.absolute()) if inside else path
        digest = sha256_of_file(path)
        entry = {"name": name, "type": kind, "role": role, "path": shown.as_posix(), "sha256": digest}
        self._artifacts = [old for old in self._artifacts if (old["name"], old["type"]) != (name, kind)]
        self._artifacts.append(entry)
        write_json(self.folder / "artifacts.json", self._artifacts)


def read_metrics(path: str | os.PathLike[str]) -> dict[str, tuple[list[int], list[float]]]:
    """Read the ``metrics.csv`` of a run.

    Returns
    -------
    dict of str to (list of int, list of float)
        For each name its steps and values, in the order in which they were recorded.
    """
    curves: dict[str, tuple[list[int], list[float]]] = {}
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != METRIC_COLUMNS:
            raise ValueError(
                f"{path}: expected the columns {', '.join(METRIC_COLUMNS)}, got {reader.fieldnames}"
            )
        for row in reader:
            if row["value"] is None:
                continue  # the writer was stopped in the middle of this line
            steps, values = curves.setdefault(row["name"], ([], []))
            steps.append(int(row["step"]))
            values.append(float(row["value"]))
    return curves


def plain_number(value: Any) -> float | int:
    """Return a number or a tensor of one element as a plain number."""
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, (int, float)):
        raise ValueError(f"expected a number to record, got {value!r}")
    return value


def _file_name(name: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"expected a name of letters, digits, '_', '-' and '.', got {name!r}")
    return name


def _drop_broken_line(path: Path) -> None:
    """Cut off a last line that a killed process left without its end."""
    with open(path, "r+b") as file:
        content = file.read()
        if content and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)
