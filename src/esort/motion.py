"""How far the tissue moved along the probe while it was sorted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from spikeinterface.core.motion import Motion

__all__ = ["LEAST_MOTION_UM", "FollowedMotion"]

LEAST_MOTION_UM = 4
"""Motion of less than this is none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FollowedMotion:
    """Motion that sorting followed.

    Parameters
    ----------
    times_s : float64 array, shape (N,)
        Middles of cells of `esort.inference.BLOCK_S`, ascending; 0 is the recording's first sample.
    depths_um : float64 array, shape (D,)
        Along the probe (y), ascending; in between the shift is linear.
    shift_um : int64 array, shape (N, D)
        How far the tissue was from where its units were learned: upwards (y) is positive.
    """

    times_s: np.ndarray
    depths_um: np.ndarray
    shift_um: np.ndarray

    def __post_init__(self) -> None:
        if self.shift_um.shape != (len(self.times_s), len(self.depths_um)):
            raise ValueError(
                f"expected shifts of {len(self.times_s)} times at {len(self.depths_um)} depths, "
                f"got shape {self.shift_um.shape}"
            )

    @property
    def range_um(self) -> int:
        """From the lowest to the highest shift at any depth."""
        return int(np.ptp(self.shift_um, axis=0).max()) if self.shift_um.size else 0

    @property
    def is_any(self) -> bool:
        """Whether it is worth a word."""
        return self.range_um >= LEAST_MOTION_UM

    @classmethod
    def of_cells(
        cls,
        shifts: Mapping[int, np.ndarray],
        *,
        depths_um: np.ndarray,
        length_s: float,
        sampling_frequency: float,
    ) -> FollowedMotion:
        """Take the shifts (D,) of cells of one length by the index of their first samples."""
        starts = sorted(shifts)
        return cls(
            times_s=np.array(starts, dtype=np.float64) / sampling_frequency + length_s / 2,
            depths_um=depths_um,
            shift_um=np.array([shifts[start] for start in starts], dtype=np.int64).reshape(
                len(starts), len(depths_um)
            ),
        )

    @classmethod
    def joined(cls, parts: Iterable[FollowedMotion]) -> FollowedMotion | None:
        """Put stretches of one recording together; what two tell of is told once. None: there are none."""
        parts = list(parts)
        if not parts:
            return None
        times_s, first = np.unique(np.concatenate([part.times_s for part in parts]), return_index=True)
        shift_um = np.concatenate([part.shift_um for part in parts])
        return cls(times_s=times_s, depths_um=parts[0].depths_um, shift_um=shift_um[first])

    def to_spikeinterface(self, *others: FollowedMotion) -> Motion:
        """As SpikeInterface's object, whose displacement has the same sign; others are further segments."""
        from spikeinterface.core.motion import Motion

        segments = (self, *others)
        return Motion(
            [segment.shift_um.astype(np.float64) for segment in segments],
            [segment.times_s for segment in segments],
            self.depths_um,
        )

    @classmethod
    def from_spikeinterface(cls, motion: Motion) -> FollowedMotion:
        """Take what `to_spikeinterface` gave, with one segment."""
        return cls(
            times_s=motion.temporal_bins_s[0],
            depths_um=motion.spatial_bins_um,
            shift_um=np.rint(motion.displacement[0]).astype(np.int64),
        )

    def save(self, folder: Path) -> None:
        """Save as SpikeInterface's folder, which it replaces; at least one cell."""
        self.to_spikeinterface().save(folder, overwrite=True)

    @classmethod
    def load(cls, folder: Path) -> FollowedMotion:
        """Load what `save` has saved.

        Raises
        ------
        OSError
            If there is nothing of that kind in the folder.
        """
        from spikeinterface.core.motion import Motion

        return cls.from_spikeinterface(Motion.load(folder))
