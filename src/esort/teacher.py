"""Whose sorting of a recording's first part serves as labels: another sorter's, or one that is there."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from esort.curation import check_groups
from esort.peers import SORTERS, run_sorter_on, sorter_class
from esort.sortings import open_sorting

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording, BaseSorting

__all__ = ["MIN_SPIKES", "Teacher"]

logger = logging.getLogger(__name__)

# A unit that a sorter found must have this many spikes to be learned from.
MIN_SPIKES = 5


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """Whose sorting of the first part of a recording serves as labels.

    Parameters
    ----------
    sorter : str or None
        A name of `SORTERS` runs it, "sorting" opens `path`, None: there is no teacher.
    seconds : float, optional
        Only the first `seconds` may be learned from; None: the first half of the recording.
    path : str, optional
        The sorting of "sorting", in any format of `open_sorting`.
    format : str
        Format of `path`.
    groups : sequence of str, optional
        Curation groups of `path` to learn from, such as good; None: all but noise.
    seed : int
        For the sorters that take one.
    min_spikes : int, optional
        Units with fewer spikes in that time are left out, with a warning. None: 5 for a sorter, which on
        short recordings finds units of one or two spikes that are none, and 1 for "sorting".

    Raises
    ------
    ValueError
        If a value is outside its limits, or `path` and `sorter` do not fit each other.
    """

    sorter: str | None = None
    seconds: float | None = None
    path: str | None = None
    format: str = "auto"
    groups: Sequence[str] | None = None
    seed: int = 0
    min_spikes: int | None = None

    def __post_init__(self) -> None:
        names = [*SORTERS, "sorting"]
        if self.sorter is not None and self.sorter not in names:
            raise ValueError(f"teacher must be one of {', '.join(names)}, got {self.sorter!r}")
        if self.sorter == "sorting" and self.path is None:
            raise ValueError("teacher=sorting needs the sorting's folder or file as teacher.path, got none")
        if self.sorter != "sorting" and self.path is not None:
            raise ValueError(
                f"teacher.path is for teacher=sorting only, got teacher={self.sorter} and {self.path!r}"
            )
        if self.groups is not None:
            if self.sorter != "sorting":
                raise ValueError(f"teacher.groups is for teacher=sorting only, got teacher={self.sorter}")
            check_groups(self.groups)
        seconds = self.seconds
        if seconds is not None and (
            isinstance(seconds, bool)
            or not isinstance(seconds, (int, float))
            or not math.isfinite(seconds)
            or seconds <= 0
        ):
            raise ValueError(f"teacher.seconds must be a number above 0, got {seconds!r}")

        if self.min_spikes is not None and (isinstance(self.min_spikes, bool) or self.min_spikes < 1):
            raise ValueError(
                f"teacher.min_spikes must be a whole number of at least 1, got {self.min_spikes!r}"
            )

    def check(self) -> None:
        """Find out early whether the teacher can be asked at all.

        Raises
        ------
        ValueError, FileNotFoundError
            If its package or its file is missing.
        """
        if self.path is not None:
            if not Path(self.path).expanduser().exists():
                raise FileNotFoundError(f"no sorting at {self.path}: no such file or folder")
        elif self.sorter is not None:
            sorter_class(self.sorter)

    def stop_sample(self, recording: BaseRecording) -> int:
        """Where the part that may be learned from ends; at most the end of the recording."""
        num_samples = recording.get_num_samples()
        if self.seconds is None:
            return num_samples // 2
        return min(num_samples, max(1, round(self.seconds * recording.sampling_frequency)))

    def sorting(
        self,
        recording: BaseRecording,
        folder: str | os.PathLike[str],
        *,
        start_sample: int = 0,
        stop_sample: int | None = None,
    ) -> BaseSorting:
        """Ask the teacher for a stretch of the recording.

        Parameters
        ----------
        recording : BaseRecording
            As stored.
        folder : path-like
            For what a sorter leaves behind.
        start_sample, stop_sample : int
            The stretch [start_sample, stop_sample); None: to the end.

        Returns
        -------
        BaseSorting
            Sample indices count from the start of the whole recording. A sorting from `path` is returned
            whole.

        Raises
        ------
        ValueError, FileNotFoundError
            See `run_sorter_on` and `open_sorting`; or there is no teacher, or the sorting's spikes lie
            beyond the recording.
        """
        if self.sorter is None:
            raise ValueError("there is no teacher to ask: give teacher=NAME")
        if self.sorter != "sorting":
            return run_sorter_on(
                recording,
                self.sorter,
                folder,
                start_sample=start_sample,
                stop_sample=stop_sample,
                seed=self.seed,
            )
        sorting = open_sorting(
            str(self.path),
            format=self.format,
            sampling_frequency=float(recording.sampling_frequency),
            groups=self.groups,
        )
        last = int(sorting.to_spike_vector()["sample_index"].max(initial=-1))
        if last >= recording.get_num_samples():
            raise ValueError(
                f"{self.path} has a spike at sample {last}, beyond the recording of "
                f"{recording.get_num_samples()} samples: it belongs to another recording"
            )
        return sorting

    def units(
        self,
        recording: BaseRecording,
        folder: str | os.PathLike[str],
        *,
        start_sample: int = 0,
        stop_sample: int | None = None,
    ) -> BaseSorting:
        """Ask the teacher for the units of a stretch that have spikes enough.

        Parameters
        ----------
        recording, folder, start_sample, stop_sample
            See `sorting`.

        Returns
        -------
        BaseSorting
            In memory, with the spikes of the stretch only; units with fewer than `min_spikes` there are left
            out.

        Raises
        ------
        ValueError, FileNotFoundError
            See `sorting`; or no unit is left.
        """
        from spikeinterface.core import NumpySorting

        stop = recording.get_num_samples() if stop_sample is None else stop_sample
        sorting = self.sorting(recording, folder, start_sample=start_sample, stop_sample=stop)
        spikes = sorting.to_spike_vector()
        spikes = spikes[(spikes["sample_index"] >= start_sample) & (spikes["sample_index"] < stop)]
        fewest = self.min_spikes or (1 if self.sorter == "sorting" else MIN_SPIKES)
        counts = np.bincount(spikes["unit_index"], minlength=len(sorting.unit_ids))
        scarce = (counts > 0) & (counts < fewest)
        if scarce.any():
            names = ", ".join(
                f"{unit_id} ({count})"
                for unit_id, count in zip(sorting.unit_ids[scarce], counts[scarce], strict=True)
            )
            logger.warning("units of the teacher with fewer than %d spikes are left out: %s", fewest, names)
            spikes = spikes[~scarce[spikes["unit_index"]]]
        if spikes.size == 0:
            rate = recording.sampling_frequency
            raise ValueError(
                f"teacher {self.path or self.sorter} has no unit of {fewest} spikes or more in the "
                f"{'first ' if start_sample == 0 else ''}{(stop - start_sample) / rate:g} s of the recording"
                f"{f' from {start_sample / rate:g} s on' if start_sample else ''}"
            )
        present, unit_index = np.unique(spikes["unit_index"], return_inverse=True)
        kept = spikes.copy()
        kept["unit_index"] = unit_index
        return NumpySorting(kept, recording.sampling_frequency, np.asarray(sorting.unit_ids)[present])

    def spikes(
        self, recording: BaseRecording, folder: str | os.PathLike[str]
    ) -> tuple[np.ndarray, np.ndarray, tuple]:
        """Ask the teacher for the spikes that may be learned from.

        Parameters
        ----------
        recording, folder
            See `sorting`.

        Returns
        -------
        sample_index, unit_index : int64 arrays, shape (S,)
            In order of time, before `stop_sample`.
        unit_ids : tuple, length U
            Units with fewer than `min_spikes` in that time are left out.

        Raises
        ------
        ValueError, FileNotFoundError
            See `units`.
        """
        units = self.units(recording, folder, stop_sample=self.stop_sample(recording))
        spikes = units.to_spike_vector()
        sample_index, unit_index = (spikes[name].astype(np.int64) for name in ("sample_index", "unit_index"))
        return sample_index, unit_index, tuple(units.unit_ids.tolist())
