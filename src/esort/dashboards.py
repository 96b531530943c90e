"""What a dashboard shows of runs and studies: panels, tables and where things came from.

Everything goes through `esort.tracker.Tracker`: into local files, and to W&B as well where it is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esort.page import REPORT
from esort.simulation import TemplateBank

if TYPE_CHECKING:
    import pandas as pd

    from esort.grid import StudySpec
    from esort.outcome import Outcome
    from esort.subject import Subject
    from esort.tracker import Tracker

__all__ = ["show_lineage", "show_outcome", "show_study", "show_units"]

_UNIT_COLUMNS = ("unit_id", "accuracy", "precision", "recall", "num_spikes", "matched_unit_id")


def show_units(tracker: Tracker, units: list[dict[str, Any]], signal_to_noise: Mapping[Any, float]) -> None:
    """A row for each true unit, and accuracy against signal-to-noise where that is known.

    Parameters
    ----------
    tracker : Tracker
    units : list of dict
        Of ``scores.json``.
    signal_to_noise : mapping of unit id to float
        See `esort.subject.Subject`.
    """
    rows = [[unit[name] for name in _UNIT_COLUMNS] for unit in units]
    tracker.table("units", _UNIT_COLUMNS, rows)
    known = {str(name): value for name, value in signal_to_noise.items()}
    pairs = [
        [unit["unit_id"], known[str(unit["unit_id"])], unit["accuracy"]]
        for unit in units
        if str(unit["unit_id"]) in known
    ]
    if pairs:
        tracker.panel(
            "accuracy_of_units",
            ["unit_id", "signal_to_noise", "accuracy"],
            pairs,
            kind="scatter",
            x="signal_to_noise",
            y="accuracy",
            title="accuracy of units against signal to noise",
        )


def show_study(tracker: Tracker, summary: pd.DataFrame, spec: StudySpec, *, title: str) -> None:
    """The figure of a study as a panel: labels against accuracy as lines, conditions as grouped bars.

    Parameters
    ----------
    tracker : Tracker
    summary : DataFrame
        See `esort.study_table.summarise`.
    spec : StudySpec
    title : str
    """
    shown = summary[(summary["n"] > 0) & summary["pooled_accuracy"].notna()]
    is_curve = spec.figure == "curve"
    x, group = ("labels_per_unit" if is_curve else spec.x), spec.by or "sorter"
    if is_curve:
        shown = shown[shown[x].map(math.isfinite)].sort_values(x)
    columns = list(dict.fromkeys([x, group, "sorter", "pooled_accuracy", "mean_accuracy", "n"]))
    content = shown[columns].astype(object)
    tracker.panel(
        f"panel_{spec.name}",
        columns,
        content.where(content.notna(), None).to_numpy().tolist(),
        kind="line" if is_curve else "bar",
        x=x,
        y="pooled_accuracy",
        group=group,
        title=title,
    )


def show_lineage(tracker: Tracker, subject: Subject | None, backbone: Path | None) -> None:
    """What a run is made from: the template bank of its simulated recordings, and the backbone.

    Call it before the run's own artifacts are recorded: they name what they were made from.

    Parameters
    ----------
    tracker : Tracker
    subject : Subject or None
    backbone : Path or None
    """
    if subject is not None and subject.signal_to_noise:
        tracker.used(TemplateBank.shipped_path(), "template-bank", "dataset")
    if backbone is not None:
        tracker.used(backbone, "backbone", "model")


def show_outcome(
    tracker: Tracker, target: Subject, outcome: Outcome, agreement: dict[str, Any] | None = None
) -> None:
    """Everything of a sorting, and what a teacher thinks of it where the truth is unknown."""
    names = ("num_units", "num_spikes", "real_time_factor", "peak_rss_bytes")
    summary = {name: outcome.run[name] for name in names}
    if outcome.scores is not None:
        content = outcome.scores.to_dict()
        summary.update({name: content[name] for name in ("pooled_accuracy", "mean_accuracy")})
        show_units(tracker, content["units"], target.signal_to_noise)
    if agreement is not None:
        summary.update({f"agreement_{name}": agreement[name] for name in ("mean_best", "pooled")})
        columns = ["unit_id", "num_spikes", "best_unit_id", "agreement"]
        tracker.table("units", columns, [[unit[name] for name in columns] for unit in agreement["units"]])
    tracker.summary(summary)
    for picture in outcome.pictures:
        tracker.image(picture, picture.stem)
    if (outcome.folder / REPORT).is_file():
        tracker.page(outcome.folder / REPORT, "report")
