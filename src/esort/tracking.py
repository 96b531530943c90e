"""Where a run writes what happened: local files always, Weights & Biases on top when asked for.

The local files are complete without W&B. W&B never ends or delays a run: what goes wrong there is said once,
and the run goes on offline or with local files only.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from esort.files import plain
from esort.one_line import one_line
from esort.tracker import Tracker, plain_number, read_metrics
from esort.wandb_server import has_key

__all__ = ["Tracker", "TrackerSpec", "WandbTracker", "read_metrics"]

KINDS = ("csv", "wandb")
MODES = ("auto", "online", "offline")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrackerSpec:
    """Which tracker a run gets.

    Parameters
    ----------
    kind : {"csv", "wandb"}
        Local files only, or W&B as well.
    project : str
        W&B project.
    entity : str or None
        W&B user or team; None for the default of the account.
    mode : {"auto", "online", "offline"}
        ``auto`` does what the environment variable WANDB_MODE says, else is online where a key is known
        (WANDB_API_KEY or an earlier ``wandb login``), else offline.
    timeout_s : float
        How long to wait for the W&B server at the start and at the end.
    """

    kind: str = "csv"
    project: str = "esort"
    entity: str | None = None
    mode: str = "auto"
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"logger kind: expected one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.mode not in MODES:
            raise ValueError(f"logger mode: expected one of {', '.join(MODES)}, got {self.mode!r}")
        if not self.timeout_s > 0:
            raise ValueError(f"logger timeout_s: expected a number above 0, got {self.timeout_s}")

    def open(
        self, folder: str | os.PathLike[str], *, name: str | None = None, tags: Sequence[str] = ()
    ) -> Tracker:
        """Start tracking a run.

        Parameters
        ----------
        folder : path-like
            The run's folder.
        name : str or None
            Name of the run, as shown by W&B.
        tags : sequence of str
            Shown by W&B.
        """
        if self.kind == "csv" or (self.mode == "auto" and os.environ.get("WANDB_MODE") == "disabled"):
            return Tracker(folder)
        return WandbTracker(folder, spec=self, name=name, tags=tags)


class WandbTracker(Tracker):
    """Writes the local files and sends the same to Weights & Biases.

    Offline runs lie in ``<folder>/wandb``; ``wandb sync`` uploads them later.

    Parameters
    ----------
    folder : path-like
    spec : TrackerSpec
    name, tags : str, sequence of str
        As shown by W&B.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        spec: TrackerSpec,
        name: str | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        super().__init__(folder)
        self._run: Any = None
        mode = _mode(spec.mode)
        if mode == "online" and not has_key():
            # Otherwise W&B would ask on the terminal, and wait.
            self._say("no API key is known")
            mode = "offline"
        for attempt in dict.fromkeys((mode, "offline")):
            try:
                self._run = self._start(spec, attempt, name, tags)
                break
            except Exception as error:  # noqa: BLE001 (a run must not end because its dashboard is away)
                self._say(one_line(error, 200))

    @property
    def is_online(self) -> bool:
        """Whether a W&B server receives the run."""
        return self._run is not None and not self._run.offline

    def config(self, values: Mapping[str, Any]) -> None:
        """See `Tracker.config`."""
        super().config(values)
        self._attempt(lambda: self._run.config.update(plain(dict(values)), allow_val_change=True))

    def metrics(self, values: Mapping[str, Any], step: int) -> None:
        """See `Tracker.metrics`."""
        super().metrics(values, step)
        # W&B's own step only goes up, but each phase counts from 0: the step is a column like any other.
        row = {name: plain_number(value) for name, value in values.items()} | {"step": int(step)}
        self._attempt(lambda: self._run.log(row))

    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """See `Tracker.table`."""
        rows = [plain(list(row)) for row in rows]
        super().table(name, columns, rows)

        def send() -> None:
            import wandb

            self._run.log({name: wandb.Table(columns=list(columns), data=rows, allow_mixed_types=True)})

        self._attempt(send)

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
        """See `Tracker.panel`."""
        rows = [plain(list(row)) for row in rows]
        super().panel(name, columns, rows, kind=kind, x=x, y=y, group=group, title=title)

        def send() -> None:
            import wandb

            if kind == "bar":
                chart: Any = wandb.Plotly(_grouped_bars(columns, rows, x, y, group, title or name))
            else:
                table = wandb.Table(columns=list(columns), data=rows, allow_mixed_types=True)
                if kind == "line":
                    chart = wandb.plot.line(table, x, y, stroke=group, title=title or name)
                else:
                    chart = wandb.plot.scatter(table, x, y, title=title or name)
            self._run.log({f"panels/{name}": chart})

        self._attempt(send)

    def page(self, path: str | os.PathLike[str], name: str) -> None:
        """See `Tracker.page`."""
        super().page(path, name)

        def send() -> None:
            import wandb

            self._run.log({name: wandb.Html(os.fspath(path), inject=False)})

        self._attempt(send)

    def image(self, path: str | os.PathLike[str], name: str) -> None:
        """See `Tracker.image`."""
        super().image(path, name)

        def send() -> None:
            import wandb

            self._run.log({name: wandb.Image(os.fspath(path))})

        self._attempt(send)

    def artifact(self, path: str | os.PathLike[str], name: str, type: str) -> None:
        """See `Tracker.artifact`."""
        super().artifact(path, name, type)
        # What it was made from stands in the artifact itself: offline W&B links nothing.
        inputs = [
            {key: entry[key] for key in ("name", "type", "sha256")}
            for entry in self._artifacts
            if entry["role"] == "input"
        ]
        self._attempt(lambda: self._run.log_artifact(_artifact(path, name, type, made_from=inputs)))

    def used(self, path: str | os.PathLike[str], name: str, type: str) -> None:
        """See `Tracker.used`; W&B links the run with it where a server is reached."""
        super().used(path, name, type)
        if self.is_online:
            self._attempt(lambda: self._run.use_artifact(_artifact(path, name, type)))

    def summary(self, values: Mapping[str, Any]) -> None:
        """See `Tracker.summary`."""
        super().summary(values)
        self._attempt(lambda: self._run.summary.update(plain(dict(values))))

    def close(self, *, failed: bool = False) -> None:
        """See `Tracker.close`."""
        super().close(failed=failed)
        self._attempt(lambda: self._run.finish(exit_code=int(failed)))
        self._run = None

    def _start(self, spec: TrackerSpec, mode: Any, name: str | None, tags: Sequence[str]) -> Any:
        import wandb

        run = wandb.init(
            project=spec.project,
            entity=spec.entity,
            name=name,
            tags=list(tags),
            dir=str(self.folder),
            mode=mode,
            reinit="create_new",
            settings=wandb.Settings(
                console="off",  # the terminal belongs to the run
                silent=True,
                disable_git=True,
                init_timeout=spec.timeout_s,
                login_timeout=spec.timeout_s,
                finish_timeout=spec.timeout_s,
                finish_timeout_raises=False,
            ),
        )
        run.define_metric("step", hidden=True)
        run.define_metric("*", step_metric="step")
        return run

    def _attempt(self, action: Callable[[], Any]) -> None:
        """Do something with the W&B run; on an error say so once and go on without W&B."""
        if self._run is None:
            return
        try:
            action()
        except Exception as error:  # noqa: BLE001 (as above)
            self._say(one_line(error, 200))
            self._run = None

    def _say(self, reason: str) -> None:
        logger.warning("W&B is not available (%s); the run goes on, its files lie in %s", reason, self.folder)


def _grouped_bars(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], x: str, y: str, group: str | None, title: str
) -> Any:
    """Bars side by side in the order of the rows, which W&B's own bar chart cannot."""
    import plotly.graph_objects as go

    at = {name: column for column, name in enumerate(columns)}
    groups = list(dict.fromkeys(row[at[group]] for row in rows)) if group else [None]
    bars = []
    for one in groups:
        own = rows if group is None else [row for row in rows if row[at[group]] == one]
        bars.append(
            go.Bar(
                x=[str(row[at[x]]) for row in own],
                y=[row[at[y]] for row in own],
                name="" if one is None else str(one),
            )
        )
    figure = go.Figure(bars)
    figure.update_layout(title=title, barmode="group", legend_title=group, yaxis_title=y)
    figure.update_xaxes(title=x, type="category")
    return figure


def _artifact(path: str | os.PathLike[str], name: str, type: str, **metadata: Any) -> Any:
    """A file as W&B keeps it."""
    import wandb

    artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", name), type=type, metadata=metadata or None)
    artifact.add_file(os.fspath(path))
    return artifact


def _mode(mode: str) -> str:
    """Return "online" or "offline" for a spec's mode."""
    if mode != "auto":
        return mode
    asked = os.environ.get("WANDB_MODE", "")
    if asked in ("online", "offline"):
        return asked
    return "online" if has_key() else "offline"
