"""The figure of a study: accuracy against labels, a matrix of two axes, or bars."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from esort.grid import OURS, StudySpec
from esort.label_curve import ErrorCurve
from esort.style import COLORS, picture

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["plot_study"]

_ORDER = ("blue", "vermilion", "green", "orange", "purple", "sky", "black", "grey")
_SCORE = "pooled_accuracy"


def plot_study(
    summary: pd.DataFrame,
    spec: StudySpec,
    path: str | os.PathLike[str],
    *,
    title: str,
    curves: dict[str, ErrorCurve] | None = None,
) -> None:
    """Draw a study.

    Parameters
    ----------
    summary : DataFrame
        See `esort.study_table.summarise`. Axes that the figure does not show are averaged over.
    spec : StudySpec
        Its `figure`, `x` and `by` say what is drawn.
    path : path-like
        The PNG file.
    title : str
    curves : dict of str to ErrorCurve, optional
        Fits to draw with a "curve".
    """
    shown = summary[summary["n"] > 0]
    with picture(path, width_in=7.5, height_in=4.2) as figure:
        axes = figure.subplots()
        draw = {"curve": _draw_curve, "matrix": _draw_matrix, "bars": _draw_bars}[spec.figure]
        draw(axes, shown, spec)
        if spec.figure == "curve":
            _draw_fits(axes, shown, curves or {})
        axes.set_title(title)


def _groups(summary: pd.DataFrame, spec: StudySpec) -> list[tuple[str, pd.DataFrame]]:
    """What is told apart: the values of `by`, and other sorters."""
    by = spec.by or "sorter"
    ours = summary[summary["sorter"] == OURS] if by != "sorter" else summary
    groups = [(str(name), group) for name, group in ours.groupby(by, sort=False)]
    if by != "sorter":
        peers = summary[summary["sorter"] != OURS]
        groups += [(str(name), group) for name, group in peers.groupby("sorter", sort=False)]
    return groups


def _draw_curve(axes: Axes, summary: pd.DataFrame, spec: StudySpec) -> None:
    """Accuracy over labels on a logarithmic axis; other sorters as level lines."""
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    for (name, group), color in zip(_groups(summary, spec), _ORDER, strict=False):
        if (group["sorter"] != OURS).all():
            axes.axhline(group[_SCORE].mean(), color=COLORS[color], linewidth=1, linestyle="--", label=name)
            continue
        points = group.groupby(spec.x, sort=False)[
            ["labels_per_unit", _SCORE, f"{_SCORE}_low", f"{_SCORE}_high"]
        ].mean()
        points = points.sort_values("labels_per_unit")
        x = points["labels_per_unit"].to_numpy()
        axes.plot(x, points[_SCORE], marker="o", markersize=4, color=COLORS[color], label=name)
        axes.fill_between(
            x,
            points[f"{_SCORE}_low"].clip(0, 1),
            points[f"{_SCORE}_high"].clip(0, 1),
            color=COLORS[color],
            alpha=0.15,
            linewidth=0,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("labelled spikes of each unit (mean)")
    axes.set_ylabel("pooled accuracy, 95 % interval over seeds")
    axes.set_ylim(top=1.01)
    axes.legend(loc="lower right")


def _draw_fits(axes: Axes, summary: pd.DataFrame, curves: dict[str, ErrorCurve]) -> None:
    labels = summary["labels_per_unit"].dropna()
    if labels.empty:
        return
    x = np.geomspace(labels.min(), labels.max(), 100)
    for curve in curves.values():
        y = [1 - curve.error(one) for one in x]
        axes.plot(x, y, color=COLORS["grey"], linewidth=0.8, linestyle=":", zorder=0)


def _draw_matrix(axes: Axes, summary: pd.DataFrame, spec: StudySpec) -> None:
    """Rows: `by`; columns: `x`; the numbers are written into the fields."""
    by = spec.by or "sorter"
    values = summary.pivot_table(index=by, columns=spec.x, values=_SCORE, sort=False, observed=True)
    seen = values.to_numpy()
    # Shades over what is there: differences of a point are to be seen.
    low = min(float(np.nanmin(seen)), 0.99)
    axes.imshow(seen, cmap="Blues", vmin=low - 0.3 * (1 - low), vmax=1.0, aspect="auto")
    for row, column in np.argwhere(np.isfinite(seen)):
        bright = seen[row, column] > 0.5 * (1 + low)
        axes.text(
            column,
            row,
            f"{seen[row, column]:.3f}",
            ha="center",
            va="center",
            color="white" if bright else "black",
        )
    axes.set_xticks(range(values.shape[1]), [str(name) for name in values.columns])
    axes.set_yticks(range(values.shape[0]), [str(name) for name in values.index])
    axes.set_xlabel(spec.x.replace("_", " "))
    axes.set_ylabel(by.replace("_", " "))


def _draw_bars(axes: Axes, summary: pd.DataFrame, spec: StudySpec) -> None:
    """Groups of bars along `x`, one colour for each value of `by`, intervals on top."""
    places = list(dict.fromkeys(str(value) for value in summary[spec.x] if str(value)))
    groups = _groups(summary, spec)
    width = 0.8 / max(len(groups), 1)
    for number, (name, group) in enumerate(groups):
        means = group.groupby(group[spec.x].astype(str), sort=False)[
            [_SCORE, f"{_SCORE}_low", f"{_SCORE}_high"]
        ].mean()
        means = means.reindex(places)
        x = np.arange(len(places)) + (number - (len(groups) - 1) / 2) * width
        errors = np.abs(
            np.stack(
                [
                    means[_SCORE] - means[f"{_SCORE}_low"].clip(0, 1),
                    means[f"{_SCORE}_high"].clip(0, 1) - means[_SCORE],
                ]
            )
        )
        axes.bar(
            x,
            means[_SCORE],
            width * 0.92,
            yerr=errors,
            color=COLORS[_ORDER[number % len(_ORDER)]],
            ecolor="#444444",
            error_kw={"linewidth": 0.8},
            label=name,
        )
    axes.set_xticks(range(len(places)), places)
    axes.set_ylim(0, 1.03)
    axes.set_xlabel(spec.x.replace("_", " "))
    axes.set_ylabel("pooled accuracy, 95 % interval over seeds")
    axes.legend(loc="lower left", ncols=3, framealpha=0.8, frameon=True)
