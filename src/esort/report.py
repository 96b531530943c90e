"""Pictures of a run: traces with spikes, accuracy of units, learning curves, units on the probe."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from esort.footprints import Footprints
from esort.style import COLORS, picture
from esort.traces import plot_traces
from esort.tracker import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_accuracy", "plot_curve", "plot_probe", "plot_reliability", "plot_traces"]


def plot_accuracy(
    scores: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    signal_to_noise: Mapping[Any, float] | None = None,
    title: str = "Accuracy of each unit",
) -> None:
    """Draw the accuracy of the units, sorted, and against how well they stand out.

    Parameters
    ----------
    scores : mapping
        ``pooled_accuracy``, ``mean_accuracy`` and ``units``, a list of mappings with ``unit_id``,
        ``accuracy``, ``precision``, ``recall`` and ``num_spikes``.
    path : path-like
        The PNG file.
    signal_to_noise : mapping of unit id to float, optional
        Without it the right panel shows the number of spikes.
    title : str
    """
    from matplotlib.ticker import MaxNLocator

    units = sorted(scores["units"], key=lambda unit: -unit["accuracy"])
    accuracy = np.array([unit["accuracy"] for unit in units], dtype=float)
    rank = np.arange(1, len(units) + 1)
    with picture(path, width_in=9, height_in=3.8) as figure:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1.25, 1])
        left.vlines(
            rank, 0, accuracy, color=COLORS["sky"], alpha=0.35, linewidth=min(5, 250 / (len(units) + 5))
        )
        for name, marker, color in (("precision", "^", "vermilion"), ("recall", "v", "orange")):
            values = [unit[name] for unit in units]
            left.scatter(rank, values, s=13, marker=marker, color=COLORS[color], linewidths=0, label=name)
        left.scatter(rank, accuracy, s=20, color=COLORS["blue"], linewidths=0, label="accuracy", zorder=3)
        left.set_ylim(-0.02, 1.03)
        left.set_xlim(0.3, len(units) + 0.7)
        left.xaxis.set_major_locator(MaxNLocator(integer=True))
        left.set_xlabel("unit, best first")
        left.set_ylabel("accuracy, precision, recall")
        left.set_title(title)
        left.legend(
            loc="lower right", bbox_to_anchor=(1.02, 0.985), ncols=3, handletextpad=0, columnspacing=0.8
        )
        found = int((accuracy >= 0.9).sum())
        right.set_title(
            f"pooled {_score(scores['pooled_accuracy'])} · mean {_score(scores['mean_accuracy'])} · "
            f"{found} of {len(units)} ≥ 0.9",
            fontweight="normal",
        )
        if signal_to_noise is None:
            x = [unit["num_spikes"] for unit in units]
            right.set_xlabel("number of true spikes")
        else:
            x = [signal_to_noise.get(unit["unit_id"], np.nan) for unit in units]
            right.set_xlabel("signal-to-noise ratio (largest amplitude / noise)")
        right.scatter(x, accuracy, s=22, color=COLORS["blue"], alpha=0.75, linewidths=0)
        if len(x) and np.nanmax([*x, 1]) > 20 * max(np.nanmin([*x, 1e9]), 1e-9):
            right.set_xscale("log")
        right.axhline(0.9, color=COLORS["grey"], linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        # Few units fail, and who they are is the first question.
        for unit, x_unit in [entry for entry in zip(units, x, strict=True) if entry[0]["accuracy"] < 0.7][
            :12
        ]:
            right.annotate(
                str(unit["unit_id"]),
                (x_unit, unit["accuracy"]),
                (4, 2),
                textcoords="offset points",
                fontsize=7,
            )


def plot_reliability(
    probability: np.ndarray,
    is_true: np.ndarray,
    path: str | os.PathLike[str],
    *,
    num_bins: int = 8,
    title: str = "Are the probabilities right?",
) -> None:
    """Draw which part of the spikes of a probability is true.

    Parameters
    ----------
    probability : float array, shape (S,)
        Of each spike that was found.
    is_true : bool array, shape (S,)
    path : path-like
        The PNG file.
    num_bins : int
        Spikes are grouped by probability, as many in each group.
    title : str

    Raises
    ------
    ValueError
        If there is no spike.
    """
    if len(probability) == 0:
        raise ValueError("expected at least 1 spike to draw reliability, got 0")
    groups = np.array_split(np.argsort(probability, kind="stable"), min(num_bins, len(probability)))
    stated = np.array([probability[group].mean() for group in groups])
    found = np.array([is_true[group].mean() for group in groups])
    spread = np.sqrt(found * (1 - found) / np.array([len(group) for group in groups]))
    with picture(path, width_in=4.6, height_in=4.2) as figure:
        axis = figure.subplots()
        axis.plot([0, 1], [0, 1], color=COLORS["grey"], linestyle="--", linewidth=1)
        axis.errorbar(
            stated, found, yerr=1.96 * spread, color=COLORS["blue"], marker="o", linewidth=1.5, capsize=3
        )
        low = max(0.0, min(stated.min(), found.min()) - 0.08)
        axis.set(xlim=(low, 1.02), ylim=(low, 1.02))
        axis.set_xlabel("probability of a spike, as stated")
        axis.set_ylabel("part of such spikes that is true")
        axis.set_title(title, loc="left", fontweight="bold")


def plot_curve(
    metrics_path: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    names: Sequence[str] | None = None,
    title: str = "Learning curves",
) -> None:
    """Draw what a run recorded over its steps: one panel per quantity, one line per phase.

    Parameters
    ----------
    metrics_path : path-like
        The ``metrics.csv`` of the run.
    path : path-like
        The PNG file.
    names : sequence of str, optional
        Which metrics, as ``phase/name``; by default all that have two or more steps.
    title : str

    Raises
    ------
    ValueError
        If there is nothing to draw.
    """
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    curves = read_metrics(metrics_path)
    if names is None:
        names = [name for name, (steps, _) in curves.items() if len(set(steps)) > 1]
    missing = [name for name in names if name not in curves]
    if missing or not names:
        raise ValueError(f"{metrics_path}: expected metrics {missing or 'over steps'}, got {sorted(curves)}")
    quantities: dict[str, list[str]] = {}
    for name in names:
        quantities.setdefault(name.rpartition("/")[2], []).append(name)
    palette = [COLORS[name] for name in ("blue", "vermilion", "green", "orange", "purple", "sky", "black")]
    with picture(path, width_in=4.4 * len(quantities), height_in=3.4) as figure:
        axes = figure.subplots(1, len(quantities), squeeze=False)[0]
        for axis, (quantity, members) in zip(axes, quantities.items(), strict=True):
            for number, name in enumerate(members):
                color = palette[number % len(palette)]
                order = np.argsort(curves[name][0], kind="stable")
                steps = np.asarray(curves[name][0])[order]
                values = np.asarray(curves[name][1])[order]
                _draw_curve(axis, steps, values, color=color, label=name.rpartition("/")[0] or name)
            finite = np.concatenate([curves[name][1] for name in members])
            finite = finite[np.isfinite(finite)]
            if len(finite) and finite.min() > 0 and finite.max() > 20 * finite.min():
                axis.set_yscale("log")
                axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
                axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.yaxis.set_minor_formatter(NullFormatter())
            axis.set_xlabel("step")
            axis.set_ylabel(quantity)
            axis.legend()
        axes[0].set_title(title)


def plot_probe(
    footprints: Footprints,
    path: str | os.PathLike[str],
    *,
    values: Mapping[Any, float] | None = None,
    label: str = "accuracy",
    title: str = "Units on the probe",
) -> None:
    """Draw the contacts of the probe and the units where they are; the larger, the louder.

    Parameters
    ----------
    footprints : Footprints
        Of the units, from `esort.footprints.estimate_footprints`.
    path : path-like
        The PNG file.
    values : mapping of unit id to float in [0, 1], optional
        Gives the units their colour.
    label : str
        What the values are.
    title : str
    """
    contacts = footprints.contact_positions_um
    spans = np.maximum(np.ptp(contacts, axis=0), 20.0)
    # A long probe would be a thread if both axes had one scale: then the width is stretched.
    is_long = spans[1] > 5 * spans[0]
    height_in = 7.0 if is_long else float(np.clip(4.2 * spans[1] / spans[0], 2.8, 7.0))
    with picture(path, width_in=4.6, height_in=height_in) as figure:
        axis = figure.subplots()
        axis.scatter(
            contacts[:, 0], contacts[:, 1], s=14, marker="s", color="#D5D8DC", linewidths=0, label="contact"
        )
        positions = footprints.positions_um
        size = 18 + 1.2 * np.minimum(footprints.amplitudes_uv.max(axis=1, initial=0), 300)
        style: dict[str, Any] = {"alpha": 0.85, "edgecolors": "white", "linewidths": 0.6}
        if values is None:
            axis.scatter(
                positions[:, 0], positions[:, 1], s=size, color=COLORS["blue"], label="unit", **style
            )
        else:
            color = [values.get(unit_id, np.nan) for unit_id in footprints.unit_ids]
            drawn = axis.scatter(
                positions[:, 0],
                positions[:, 1],
                c=color,
                cmap="cividis",
                vmin=0,
                vmax=1,
                plotnonfinite=True,
                **style,
            )
            figure.colorbar(drawn, ax=axis, label=label, shrink=0.6, aspect=25)
        if not is_long:
            axis.set_aspect("equal")
        margin = 0.12 * spans
        axis.set_xlim(contacts[:, 0].min() - margin[0], contacts[:, 0].max() + margin[0])
        axis.set_ylim(contacts[:, 1].min() - 0.4 * margin[1], contacts[:, 1].max() + 0.4 * margin[1])
        axis.set_xlabel("x (µm)")
        axis.set_ylabel("y (µm)")
        axis.set_title(f"{title} ({len(positions)})")


def _draw_curve(axis: Axes, steps: np.ndarray, values: np.ndarray, *, color: str, label: str) -> None:
    """Draw one line; a noisy one pale, with its running median on top."""
    if len(values) <= 80:
        axis.plot(steps, values, color=color, label=label, marker="o", markersize=3, linewidth=1.5)
        return
    axis.plot(steps, values, color=color, alpha=0.25, linewidth=0.7)
    width = len(values) // 40 * 2 + 1
    padded = np.pad(values, width // 2, mode="edge")
    median = np.median(np.lib.stride_tricks.sliding_window_view(padded, width), axis=1)
    axis.plot(steps, median, color=color, label=label, linewidth=1.8)


def _score(value: float | None) -> str:
    return "undefined" if value is None or not np.isfinite(value) else f"{value:.3f}"
