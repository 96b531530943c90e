"""The dashboard of a W&B project, from code: which panels show its runs, and in which groups.

``python -m esort.workspace entity=NAME [project=esort] [name=esort]`` saves it as a view of the project,
which needs a server and a key. Each run brings its own numbers, tables and pictures (`esort.tracking`); this
says how the runs of a project are laid side by side.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from esort.one_line import one_line
from esort.wandb_server import has_key, reach_server

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

__all__ = ["WorkspaceSpec", "main", "make_workspace"]

_USAGE = "python -m esort.workspace entity=NAME [project=esort] [name=esort]"
_SCORE = "pooled_accuracy"
# What a run is told apart by, as `esort.runs.Run.columns` names it.
_CONDITIONS = ("noise", "drift", "probe", "model", "training", "label_budget")
_CURVES = ("train/loss", "val/loss", "train/f1", "val/f1")
_PICTURES = ("traces", "probe", "accuracy", "reliability", "learning", "figure", "report")
_TABLES = ("units", "label_plan")


@dataclass(frozen=True, kw_only=True)
class WorkspaceSpec:
    """Where the dashboard is saved.

    Parameters
    ----------
    entity : str
        W&B user or team.
    project : str
    name : str
        Of the view.

    Raises
    ------
    ValueError
        If one is empty.
    """

    entity: str
    project: str = "esort"
    name: str = "esort"

    def __post_init__(self) -> None:
        for name in ("entity", "project", "name"):
            if not getattr(self, name).strip():
                raise ValueError(f"{name} must be a text of at least one character: {_USAGE}")


def make_workspace(spec: WorkspaceSpec) -> Workspace:
    """Lay out the panels; nothing is sent before `Workspace.save`.

    Parameters
    ----------
    spec : WorkspaceSpec

    Returns
    -------
    wandb_workspaces.workspaces.Workspace

    Raises
    ------
    ValueError
        If wandb-workspaces is not installed.
    """
    try:
        from wandb_workspaces.reports import v2 as panels
        from wandb_workspaces.workspaces import Section, Workspace
    except ImportError:
        raise ValueError("a W&B workspace needs wandb-workspaces: pip install 'esort[dashboard]'") from None

    score = panels.SummaryMetric(_SCORE)
    conditions = [
        panels.BarPlot(
            title=f"pooled accuracy over {name}",
            metrics=[_SCORE],
            groupby=panels.Config(name),
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
        )
        for name in _CONDITIONS
    ]
    labels = [
        panels.ScatterPlot(title=f"{y} over labels", x=panels.Config("labels"), y=panels.SummaryMetric(y))
        for y in (_SCORE, "mean_accuracy")
    ]
    told_apart: list[Any] = [panels.Config(name) for name in ("labels", *_CONDITIONS)]
    search = [
        panels.ParallelCoordinatesPlot(
            columns=[panels.ParallelCoordinatesPlotColumn(metric=metric) for metric in [*told_apart, score]]
        ),
        panels.ParameterImportancePlot(with_respect_to=_SCORE),
    ]
    sections: dict[str, list[Any]] = {
        "Accuracy over conditions": conditions,
        "Label efficiency": labels,
        "Learning": [panels.LinePlot(title=name, x="step", y=[name]) for name in _CURVES],
        "Units": [panels.WeavePanelSummaryTable(table_name=name) for name in _TABLES],
        "Pictures and reports": [panels.MediaBrowser(title=name, media_keys=[name]) for name in _PICTURES],
        "Speed": [panels.BarPlot(title="times real time", metrics=["real_time_factor"])],
        "Search": search,
    }
    return Workspace(
        entity=spec.entity,
        project=spec.project,
        name=spec.name,
        sections=[Section(name=name, panels=content, is_open=True) for name, content in sections.items()],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    try:
        workspace = make_workspace(_parse(sys.argv[1:] if arguments is None else arguments))
        if not has_key():
            raise ValueError("a W&B workspace lives on a server and no API key is known: wandb login first")
        reach_server()
        workspace.save()
    except Exception as error:  # noqa: BLE001 (whatever W&B's client raises is one line here)
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    print(workspace.url)
    return 0


def _parse(arguments: Sequence[str]) -> WorkspaceSpec:
    values = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or name not in ("entity", "project", "name"):
            raise ValueError(f"expected entity=, project= or name=, got {argument!r}: {_USAGE}")
        values[name] = value
    if "entity" not in values:
        raise ValueError(f"expected entity=NAME, a W&B user or team: {_USAGE}")
    return WorkspaceSpec(**values)


if __name__ == "__main__":
    sys.exit(main())
