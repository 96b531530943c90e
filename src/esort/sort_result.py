"""What sorting a recording gave."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from esort.baseline import Baseline
from esort.fitness import Fitness
from esort.minutes import Minutes
from esort.motion import FollowedMotion
from esort.postprocess import Spikes
from esort.unknown import UnknownEvents

if TYPE_CHECKING:
    from spikeinterface.core import BaseSorting

__all__ = ["SortResult"]


@dataclass(kw_only=True)
class SortResult:
    """What sorting a recording gave.

    Parameters
    ----------
    spikes : Spikes
        NumPy arrays; sample_index in samples of the recording.
    unit_ids : tuple
        Names of the units that `spikes.unit_index` points at.
    sampling_frequency : float
        In Hz.
    num_samples : int
        Samples that were sorted.
    seconds : dict of str to float
        Time of each stage, summed over workers, and ``total`` on the wall.
    blanked : int64 array, shape (K, 2)
        Stretches [start, stop) of samples that hold artefacts instead of neurons: no spike lies in them.
    bad_channel_ids : tuple
        Channels that were not listened to.
    unknown : UnknownEvents
        Large events that no unit explains; they are no part of the spikes.
    minutes : Minutes or None
        What was counted in each minute, see `esort.fitness`.
    motion : FollowedMotion or None
        Of the tissue, in the cells of time that the stretch touches; None where nothing follows it.
    """

    spikes: Spikes
    unit_ids: tuple
    sampling_frequency: float
    num_samples: int
    seconds: dict[str, float] = field(default_factory=dict)
    blanked: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), dtype=np.int64))
    bad_channel_ids: tuple = ()
    motion: FollowedMotion | None = None
    unknown: UnknownEvents = field(default_factory=UnknownEvents.none)
    minutes: Minutes | None = None

    @property
    def real_time_factor(self) -> float:
        """Seconds of recording per second on the wall; 0 for an empty recording."""
        total = self.seconds.get("total", 0.0)
        return self.num_samples / self.sampling_frequency / total if total else 0.0

    def fitness(self, baseline: Baseline | None, channel_ids: Iterable) -> Fitness:
        """Whether the units still fit what was recorded, minute by minute.

        Parameters
        ----------
        baseline : Baseline or None
            What was usual while they were learned, as `UnitTables` has it.
        channel_ids : iterable
            Of the recording.
        """
        if self.minutes is None:  # too short to sort
            return Fitness(minutes=())
        return Fitness.of(
            self.minutes,
            self.unknown,
            self.motion,
            baseline,
            unit_ids=self.unit_ids,
            channel_ids=tuple(channel_ids),
            sampling_frequency=self.sampling_frequency,
        )

    def sorting(self) -> BaseSorting:
        """Return a SpikeInterface sorting with all units, also those without a spike."""
        from spikeinterface.core import NumpySorting
        from spikeinterface.core.base import minimum_spike_dtype

        vector = np.zeros(len(self.spikes.sample_index), dtype=minimum_spike_dtype)
        vector["sample_index"] = self.spikes.sample_index
        vector["unit_index"] = self.spikes.unit_index
        return NumpySorting(vector, self.sampling_frequency, unit_ids=list(self.unit_ids))
