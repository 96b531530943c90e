"""Where a unit lies and what its spikes look like, from the traces around its labels alone."""

from __future__ import annotations

import numpy as np
import torch

from esort.pursuit.examples import RowLabels, windows_at
from esort.pursuit.recipe import TAPER_MS, Layout

__all__ = [
    "ALIGNED_MS",
    "evenly",
    "first_footprints",
    "focused_if_single",
    "mean_footprints",
    "peak_rows",
    "typical",
    "where_large",
]

# More events of a unit cost time and gain nothing.
_MAX_EVENTS = 100
# Two events of one unit differ by less, in noise levels of each: noise alone by 1.4.
_ALIKE = 4.0
# The peak of a unit lies so close to its labels.
_CENTRE_MS = 0.4
ALIGNED_MS = 0.1
"""The peak around one label lies so close to where most units have theirs; of more, others average out."""

# Where a footprint has this part of its largest power, it is large.
_LARGE = 0.05
# Only this much of a mean around labels is believed at first: before and after in ms, around in um; of one
# label less, for what else lies there is as large as the spike.
_FOCUS, _FOCUS_OF_ONE = (1.0, 1.8, 80.0), (0.7, 1.3, 60.0)


def mean_footprints(
    whitened: np.ndarray, labels: RowLabels, contact_positions_um: np.ndarray, layout: Layout
) -> tuple[torch.Tensor, np.ndarray]:
    """Average the traces at the labels on the channels around each unit.

    Returns
    -------
    footprints : float tensor, shape (U, M, L)
    channels : int64 array, shape (U, M)
    """
    channels = _footprint_channels(whitened, labels, contact_positions_um, layout)
    footprints = [
        typical(windows_at(whitened, evenly(labels.of_unit(unit_index)), channels[unit_index], layout))
        for unit_index in range(labels.num_units)
    ]
    return torch.stack(footprints), channels


def first_footprints(
    whitened: np.ndarray, labels: RowLabels, contact_positions_um: np.ndarray, layout: Layout
) -> tuple[torch.Tensor, np.ndarray]:
    """Of `mean_footprints`, only what lies close to the peak in time and space.

    Elsewhere one spike of another unit may be larger.
    """
    footprints, channels = mean_footprints(whitened, labels, contact_positions_um, layout)
    focus = np.where(labels.counts()[:, None] == 1, _FOCUS_OF_ONE, _FOCUS)  # (U, 3)
    return _focused(footprints, channels, focus, contact_positions_um, layout), channels


def focused_if_single(
    footprints: torch.Tensor,
    channels: np.ndarray,
    labels: RowLabels,
    contact_positions_um: np.ndarray,
    layout: Layout,
) -> torch.Tensor:
    """Of the footprints of units of one label what lies close to the peak, of the others all of it."""
    focus = np.where(labels.counts()[:, None] == 1, _FOCUS_OF_ONE, np.inf)  # (U, 3)
    return _focused(footprints, channels, focus, contact_positions_um, layout)


def peak_rows(footprints: torch.Tensor, layout: Layout) -> np.ndarray:
    """Row of each footprint's largest value, among those where its peak lies: (U, M, L) to (U,)."""
    rows: np.ndarray = footprints[:, :, _middle(layout)].abs().amax(dim=1).argmax(dim=1).numpy()
    return rows


def where_large(footprint: torch.Tensor) -> torch.Tensor:
    """Where most of a footprint's energy lies: (M, L) to booleans (M, L)."""
    energy = footprint.square()
    return energy > energy.max() * _LARGE


def _focused(
    footprints: torch.Tensor, channels: np.ndarray, focus: np.ndarray, positions: np.ndarray, layout: Layout
) -> torch.Tensor:
    """Take off what lies further from the peak than before and after it in ms, around it in um: (U, 3)."""
    row_ms = 1000 / layout.rate_hz * (np.arange(layout.footprint_samples) - layout.footprint_before)
    before_ms, after_ms, around_um = focus.T[:, :, None]  # (U, 1) each
    outside = np.maximum(-row_ms - before_ms, row_ms - after_ms).clip(min=0)  # (U, L)
    in_time = torch.from_numpy(np.exp(-0.5 * (outside / TAPER_MS) ** 2)).float()
    peak = footprints[:, :, _middle(layout)].square().sum(dim=2).argmax(dim=1).numpy()  # (U,)
    where = positions[channels]  # (U, M, 2)
    distance = np.linalg.norm(where - where[np.arange(len(peak)), peak][:, None], axis=2)  # (U, M)
    in_space = torch.from_numpy(np.exp(-0.5 * (distance / around_um) ** 2)).float()
    return footprints * in_time[:, None] * in_space[:, :, None]


def evenly(values: np.ndarray, most: int = _MAX_EVENTS) -> np.ndarray:
    """At most so many of them, from the first to the last."""
    if len(values) <= most:
        return values
    chosen: np.ndarray = values[np.linspace(0, len(values) - 1, most).astype(int)]
    return chosen


def typical(windows: torch.Tensor) -> torch.Tensor:
    """Interquartile mean over events, robust against spikes of others: (n, M, L) to (M, L).

    Of two events where they differ by more than noise, the smaller value if they agree in sign: what only one
    of them shows is of others.
    """
    if len(windows) == 2:
        smaller = windows.abs().amin(dim=0) * windows[0].sign()
        shared = torch.where(windows[0] * windows[1] > 0, smaller, 0.0)
        return torch.where((windows[0] - windows[1]).abs() < _ALIKE, windows.mean(dim=0), shared)
    trimmed = max(len(windows) // 4, 1) if len(windows) >= 3 else 0
    if trimmed:
        windows = windows.sort(dim=0).values[trimmed:-trimmed]
    return windows.mean(dim=0)


def _footprint_channels(
    whitened: np.ndarray, labels: RowLabels, positions: np.ndarray, layout: Layout
) -> np.ndarray:
    """The channels closest to each unit's strongest one, (U, M)."""
    every = np.arange(len(whitened))
    sizes = []
    for unit_index in range(labels.num_units):
        windows = windows_at(whitened, evenly(labels.of_unit(unit_index)), every, layout)
        sizes.append(typical(windows).abs().numpy()[:, _middle(layout)])
    usual = np.median([size.max(axis=0).argmax() for size in sizes])
    tolerance = ALIGNED_MS * layout.rate_hz / 1000 * labels.counts()
    channels = np.zeros((labels.num_units, min(layout.num_footprint_channels, len(whitened))), dtype=np.int64)
    for unit_index, size in enumerate(sizes):  # (C, rows)
        aside = (size.argmax(axis=1) - usual) / tolerance[unit_index]
        peak = (size.max(axis=1) * np.exp(-0.5 * aside**2)).argmax()
        distance = np.linalg.norm(positions - positions[peak], axis=1)
        channels[unit_index] = np.sort(np.argsort(distance, kind="stable")[: channels.shape[1]])
    return channels


def _middle(layout: Layout) -> slice:
    """Rows of a footprint where its peak lies; elsewhere a larger spike of another unit may lie."""
    reach = round(_CENTRE_MS * layout.rate_hz / 1000)
    return slice(layout.footprint_before - reach, layout.footprint_before + reach + 1)
