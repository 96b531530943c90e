"""Labelled spikes in rows of the reduced rate, and the traces around spikes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from esort.labels import LabelledSpikes
from esort.pursuit.recipe import Layout
from esort.pursuit.shifting import shifted

__all__ = ["RowLabels", "windows_at"]


@dataclass(frozen=True, kw_only=True, eq=False)
class RowLabels:
    """Labelled spikes in rows of the reduced rate."""

    time: np.ndarray
    unit_index: np.ndarray
    num_units: int

    @classmethod
    def of(cls, labels: LabelledSpikes, step: int) -> RowLabels:
        """Labelled spikes of a recording of which every so many samples make a row."""
        return cls(time=labels.sample_index / step, unit_index=labels.unit_index, num_units=labels.num_units)

    def joined(self, rivals: Sequence[np.ndarray]) -> RowLabels:
        """These, and spikes of more units behind them: rows of each."""
        if not rivals:
            return self
        names = np.repeat(self.num_units + np.arange(len(rivals)), [len(rows) for rows in rivals])
        return RowLabels(
            time=np.concatenate([self.time, *rivals]),
            unit_index=np.concatenate([self.unit_index, names]),
            num_units=self.num_units + len(rivals),
        )

    def counts(self) -> np.ndarray:
        """Labels of each unit, (U,)."""
        return np.bincount(self.unit_index, minlength=self.num_units)

    def of_unit(self, unit_index: int) -> np.ndarray:
        """Times of one unit's labels."""
        return self.time[self.unit_index == unit_index]


def windows_at(traces: np.ndarray, time: np.ndarray, channels: np.ndarray, layout: Layout) -> torch.Tensor:
    """Traces around events, moved to a common phase: (n, M, L)."""
    row = np.rint(time).astype(np.int64)
    start = row - layout.footprint_before
    inside = (start >= 0) & (start + layout.footprint_samples <= traces.shape[1])
    start, time, row = start[inside], time[inside], row[inside]
    windows = np.empty((len(start), len(channels), layout.footprint_samples), dtype=np.float32)
    for position, first in enumerate(start):
        windows[position] = traces[channels, first : first + layout.footprint_samples]
    return shifted(torch.from_numpy(windows), torch.from_numpy(row - time)[:, None])
