"""What was counted in each minute of a recording: whole numbers, so that any pieces add up to the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from esort.postprocess import Spikes

__all__ = ["FIT_STEPS", "MINUTE_S", "Minutes", "minute_of"]

MINUTE_S = 60.0
FIT_STEPS = 1000
"""A sum of fits counts such parts of 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Minutes:
    """Counts of the minutes that were touched: N minutes, C channels, U units; all int64.

    Parameters
    ----------
    minute : array, shape (N,)
        Of the recording, ascending from 0.
    num_cells : array, shape (N,)
        Cells of `esort.inference.BLOCK_S` that were looked at.
    num_spikes : array, shape (N, U)
        Of known units.
    num_fits, sum_fits : arrays, shape (N,)
        Large events of which a fit was measured, and the sum of the fits in `FIT_STEPS`.
    num_looked : array, shape (N,)
        Rows of each channel that were looked at for its noise.
    num_within : array, shape (N, C)
        Of these, those that are smaller than the median noise is.
    num_flat, num_noisy : arrays, shape (N, C)
        Cells in which a channel says nothing, or has several times the noise that it had.
    """

    minute: np.ndarray
    num_cells: np.ndarray
    num_spikes: np.ndarray
    num_fits: np.ndarray
    sum_fits: np.ndarray
    num_looked: np.ndarray
    num_within: np.ndarray
    num_flat: np.ndarray
    num_noisy: np.ndarray

    KEPT: ClassVar[dict[str, tuple[str, ...]]] = {
        "minute": ("<i8", "minutes"),
        "num_cells": ("<i8", "minutes"),
        "num_spikes": ("<i8", "minutes", "units"),
        "num_fits": ("<i8", "minutes"),
        "sum_fits": ("<i8", "minutes"),
        "num_looked": ("<i8", "minutes"),
        "num_within": ("<i8", "minutes", "channels"),
        "num_flat": ("<i8", "minutes", "channels"),
        "num_noisy": ("<i8", "minutes", "channels"),
    }
    """Type and axes of each array in a file."""

    def __len__(self) -> int:
        return len(self.minute)

    @classmethod
    def zeros(cls, minute: np.ndarray, num_units: int, num_channels: int) -> Minutes:
        """Nothing counted yet, in these minutes."""
        sizes = {"minutes": len(minute), "units": num_units, "channels": num_channels}
        arrays = {
            name: np.zeros([sizes[axis] for axis in axes], dtype=np.int64)
            for name, (_, *axes) in cls.KEPT.items()
        }
        return cls(**arrays | {"minute": np.asarray(minute, dtype=np.int64)})

    @classmethod
    def joined(cls, parts: Iterable[Minutes]) -> Minutes | None:
        """Add up what was counted in pieces of one recording; None: there are none."""
        parts = list(parts)
        if not parts:
            return None
        units, channels = parts[0].num_spikes.shape[1], parts[0].num_within.shape[1]
        total = cls.zeros(np.unique(np.concatenate([part.minute for part in parts])), units, channels)
        for part in parts:
            rows = np.searchsorted(total.minute, part.minute)
            for name in cls.KEPT:
                if name != "minute":
                    getattr(total, name)[rows] += getattr(part, name)
        return total

    def with_spikes(self, spikes: Spikes, sampling_frequency: float) -> Minutes:
        """Count these spikes as well."""
        minute, row = np.unique(minute_of(spikes.sample_index, sampling_frequency), return_inverse=True)
        counted = Minutes.zeros(minute, self.num_spikes.shape[1], self.num_within.shape[1])
        np.add.at(counted.num_spikes, (row, spikes.unit_index), 1)
        joined = Minutes.joined([self, counted])
        assert joined is not None
        return joined

    def chosen(self, which: np.ndarray | slice) -> Minutes:
        """Some of the minutes, as copies."""
        return Minutes(**{name: getattr(self, name)[which].copy() for name in self.KEPT})

    def add(self, other: Minutes) -> None:
        """Add the counts of the same minutes, in place."""
        assert np.array_equal(self.minute, other.minute)
        for name in self.KEPT:
            if name != "minute":
                getattr(self, name)[:] += getattr(other, name)

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Minutes:
        """Take what `arrays` gave."""
        return cls(**{name: np.asarray(arrays[name], dtype=np.int64) for name in cls.KEPT})

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays, by name."""
        return {name: getattr(self, name) for name in self.KEPT}


def minute_of(sample_index: np.ndarray, sampling_frequency: float) -> np.ndarray:
    """Minute that samples lie in, int64."""
    return np.asarray(sample_index, dtype=np.int64) // max(1, round(MINUTE_S * sampling_frequency))
