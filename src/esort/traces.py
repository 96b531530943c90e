"""The picture of a short stretch of traces with the spikes that were found in it, missed or made up."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from esort.events import Event, classify_spikes
from esort.footprints import Footprints, estimate_footprints, read_traces_uv
from esort.style import COLORS, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from spikeinterface.core import BaseRecording, BaseSorting

__all__ = ["context_of", "plot_traces"]

# Around the stretch, so that every unit has some spikes to show where it lies.
CONTEXT_S = 3.0
COLORED_MS = (-0.5, 0.9)
COLORED_SHARE = 0.4

# Kind of spike -> marker, colour, words for one and for many.
KINDS = {
    "hit": ("o", COLORS["green"], "found"),
    "false": ("X", COLORS["vermilion"], "false positive"),
    "miss": ("D", COLORS["blue"], "missed"),
}


def plot_traces(
    recording: BaseRecording,
    sorting: BaseSorting,
    path: str | os.PathLike[str],
    *,
    start_s: float,
    duration_s: float = 0.04,
    ground_truth: BaseSorting | None = None,
    matches: Mapping[Any, Any] | None = None,
    channel_ids: Sequence[Any] | None = None,
    max_channels: int = 32,
    delta_ms: float = 0.4,
    footprints: Footprints | None = None,
) -> dict[str, int]:
    """Draw a short stretch of traces, ordered by depth, with the spikes of a sorting.

    Where the truth is known, spikes are green circles if they are right and vermilion crosses if they are
    not, and blue diamonds stand where one was missed; otherwise each unit has a colour.

    Parameters
    ----------
    recording : BaseRecording
        Filtered, of one segment.
    sorting : BaseSorting
        What was found, in the recording's time.
    path : path-like
        The PNG file.
    start_s, duration_s : float
        The stretch, in seconds from the recording's first sample.
    ground_truth : BaseSorting, optional
    matches : mapping of true unit id to found unit id or None, optional
        By default units of one name are one.
    channel_ids : sequence, optional
        Which channels; by default the `max_channels` neighbours in depth with the most spikes.
    max_channels : int
        A spike whose peak lies on another one has its colour, and no marker.
    delta_ms : float
        How far apart two spikes may be and still be the same.
    footprints : Footprints, optional
        Of the sorting's units, if they are known; by default from what lies around the stretch.

    Returns
    -------
    dict of str to int
        How many spikes of each kind are drawn: ``hit``, ``false``, ``miss``; without truth ``found``.

    Raises
    ------
    ValueError
        If the stretch does not lie in the recording.
    """
    rate = recording.sampling_frequency
    start_sample = round(start_s * rate)
    stop_sample = start_sample + round(duration_s * rate)
    num_samples = recording.get_num_frames(0)
    if not 0 <= start_sample < stop_sample <= num_samples:
        raise ValueError(
            f"expected a stretch within 0 to {num_samples / rate:g} s, got {start_s:g} to "
            f"{start_s + duration_s:g} s"
        )
    context = dict(zip(("start_sample", "stop_sample"), context_of(start_sample, rate), strict=True))
    found_footprints = footprints or estimate_footprints(recording, sorting, **context)
    true_footprints = found_footprints
    if ground_truth is not None:
        true_footprints = estimate_footprints(recording, ground_truth, **context)
    events = classify_spikes(
        sorting,
        ground_truth,
        start_sample=start_sample,
        stop_sample=stop_sample,
        delta_samples=round(delta_ms * rate / 1e3),
        matches=matches,
    )
    seen: list[tuple[Event, np.ndarray]] = []
    for event in events:
        footprints = true_footprints if event.kind in ("hit", "miss") else found_footprints
        amplitudes_uv = _amplitudes(footprints, event.unit_id)
        if amplitudes_uv is not None:
            seen.append((event, amplitudes_uv))

    shown = _shown_channels(recording, seen, channel_ids, max_channels)
    traces_uv = read_traces_uv(recording, start_sample, stop_sample)[:, shown]  # (N, shown)
    noise_uv = float(np.median(found_footprints.noise_uv[shown]))
    spacing_uv = max(7 * noise_uv, 0.35 * float(np.abs(traces_uv).max(initial=0)), 1e-6)
    time_ms = np.arange(len(traces_uv)) / rate * 1e3
    level_uv = np.arange(len(shown)) * spacing_uv

    with picture(path, width_in=10, height_in=1.6 + 0.23 * len(shown)) as figure:
        axis = figure.subplots()
        axis.plot(time_ms, traces_uv + level_uv, color="#8A9099", linewidth=0.55, zorder=1)
        counts: dict[str, int] = {}
        for event, amplitudes_uv in seen:
            drawn = _draw_event(axis, event, amplitudes_uv, shown, start_sample, time_ms, traces_uv, level_uv)
            counts[event.kind] = counts.get(event.kind, 0) + drawn
        _finish(
            axis, recording, shown, time_ms, spacing_uv, level_uv, start_s, counts, ground_truth is not None
        )
    return counts


def context_of(start_sample: int, sampling_frequency: float) -> tuple[int, int]:
    """Return the samples around a stretch in which every unit has some spikes, most of the time."""
    half = round(CONTEXT_S * sampling_frequency)
    return start_sample - half, start_sample + half


def _amplitudes(footprints: Footprints, unit_id: Any) -> np.ndarray | None:
    """Return a unit's amplitude on each channel, or None if it was not seen around the stretch."""
    if unit_id not in footprints.unit_ids:
        return None
    return np.abs(footprints.templates_uv[footprints.unit_ids.index(unit_id)]).max(axis=0)  # (C,)


def _shown_channels(
    recording: BaseRecording,
    seen: list[tuple[Event, np.ndarray]],
    channel_ids: Sequence[Any] | None,
    max_channels: int,
) -> np.ndarray:
    """Return the indices of the channels to draw, from the bottom of the picture to its top."""
    positions_um = np.asarray(recording.get_channel_locations(), dtype=float)  # (C, 2)
    by_depth = np.lexsort((positions_um[:, 0], positions_um[:, 1]))
    if channel_ids is not None:
        wanted = set(recording.ids_to_indices(list(channel_ids)).tolist())
        return np.array([index for index in by_depth if int(index) in wanted])
    peaks = [int(amplitudes_uv.argmax()) for _, amplitudes_uv in seen]
    spikes_by_depth = np.bincount(peaks, minlength=len(by_depth))[by_depth]
    width = min(max_channels, len(by_depth))
    # Spikes in the middle of the block count most: their whole footprint is seen.
    weight = np.hanning(width + 2)[1:-1]
    first = int(np.argmax(np.convolve(spikes_by_depth, weight, mode="valid")))
    return by_depth[first : first + width]


def _draw_event(
    axis: Axes,
    event: Event,
    amplitudes_uv: np.ndarray,
    shown: np.ndarray,
    start_sample: int,
    time_ms: np.ndarray,
    traces_uv: np.ndarray,
    level_uv: np.ndarray,
) -> int:
    """Colour the traces under a spike, mark its trough; return 0 if that lies elsewhere."""
    from matplotlib.patheffects import withStroke

    peak_channel = int(amplitudes_uv.argmax())
    marker, color, _ = KINDS.get(event.kind, ("o", _unit_color(event.unit_id), ""))
    sample = event.sample_index - start_sample
    begin, end = np.searchsorted(time_ms, time_ms[sample] + np.array(COLORED_MS))
    for row in np.flatnonzero(amplitudes_uv[shown] >= COLORED_SHARE * amplitudes_uv[peak_channel]):
        axis.plot(
            time_ms[begin:end],
            traces_uv[begin:end, row] + level_uv[row],
            color=color,
            linewidth=1.1,
            zorder=2,
        )
    rows = np.flatnonzero(shown == peak_channel)
    if not len(rows):
        return 0
    peak_row = int(rows[0])
    near = traces_uv[max(0, sample - 5) : sample + 6, peak_row]
    spacing_uv = level_uv[1] if len(level_uv) > 1 else np.abs(near).max()
    marker_uv = float(near.min()) + level_uv[peak_row] - 0.35 * spacing_uv
    axis.scatter(
        time_ms[sample],
        marker_uv,
        s=34,
        marker=marker,
        color=color,
        edgecolors="white",
        linewidths=0.7,
        zorder=4,
    )
    if event.kind == "found":
        axis.annotate(
            str(event.unit_id),
            (time_ms[sample], marker_uv),
            (5, -6),
            textcoords="offset points",
            color=color,
            fontsize=8,
            fontweight="bold",
            path_effects=[withStroke(linewidth=2, foreground="white")],
            zorder=4,
        )
    return 1


def _finish(
    axis: Axes,
    recording: BaseRecording,
    shown: np.ndarray,
    time_ms: np.ndarray,
    spacing_uv: float,
    level_uv: np.ndarray,
    start_s: float,
    counts: dict[str, int],
    has_truth: bool,
) -> None:
    """Label the axes, add a scale bar and say how many spikes of each kind there are."""
    from matplotlib.lines import Line2D

    depths_um = np.asarray(recording.get_channel_locations(), dtype=float)[shown, 1]
    every = max(1, len(shown) // 12)
    axis.set_yticks(level_uv[::every], [f"{depth:g}" for depth in depths_um[::every]])
    axis.set_ylabel("contact, by depth (µm)")
    axis.set_xlabel(f"time from {start_s:g} s (ms)")
    axis.set_xlim(time_ms[0], time_ms[-1])
    axis.set_ylim(level_uv[0] - 1.8 * spacing_uv, level_uv[-1] + 1.4 * spacing_uv)
    axis.tick_params(left=False)
    axis.spines["left"].set_visible(False)
    bar_uv = float(10 ** np.floor(np.log10(2 * spacing_uv)))
    bar_uv *= max(step for step in (1, 2, 5) if step * bar_uv <= 2 * spacing_uv)
    right = axis.get_yaxis_transform()
    axis.plot([1.008, 1.008], [0, bar_uv], transform=right, color="#333333", linewidth=2, clip_on=False)
    unit = " µV" if recording.has_scaleable_traces() else ""  # without a gain nobody knows the unit
    axis.text(1.014, bar_uv / 2, f"{bar_uv:g}{unit}", transform=right, rotation=90, va="center", fontsize=8)
    if has_truth:
        handles = [
            Line2D(
                [],
                [],
                linestyle="",
                marker=marker,
                color=color,
                markersize=6,
                label=f"{words} ({counts.get(kind, 0)})",
            )
            for kind, (marker, color, words) in KINDS.items()
        ]
        axis.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, handletextpad=0.1)
        axis.set_title("Found and true spikes")
    else:
        axis.set_title(f"Found spikes ({counts.get('found', 0)}), one colour per unit")


def _unit_color(unit_id: Any) -> str:
    """Return a colour that stays with a unit from picture to picture."""
    palette = [COLORS[name] for name in ("blue", "vermilion", "green", "orange", "purple", "sky")]
    return palette[sum(str(unit_id).encode()) % len(palette)]
