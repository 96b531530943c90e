"""Other spike sorters on the same data: as a teacher to learn from, or as a peer to compare with."""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from esort.recordings import open_sorting

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording, BaseSorting

__all__ = ["SORTERS", "Teacher", "run_sorter_on"]

logger = logging.getLogger(__name__)

# Sorter -> how to get it. All are SpikeInterface's names for them.
SORTERS = {
    "lupin": "esort[peers]",
    "tridesclous2": "esort[peers]",
    "spykingcircus2": "esort[peers]",
    "simple": "esort[peers]",
    "mountainsort5": "mountainsort5",
    "kilosort4": "kilosort",
}

# A unit that a sorter found must have this many spikes to be learned from.
MIN_SPIKES = 5


def run_sorter_on(
    recording: BaseRecording,
    name: str,
    folder: str | os.PathLike[str],
    *,
    start_sample: int = 0,
    stop_sample: int | None = None,
    seed: int = 0,
    num_jobs: int | None = None,
    parameters: dict[str, Any] | None = None,
) -> BaseSorting:
    """Run a sorter that SpikeInterface knows on a stretch of a recording.

    Parameters
    ----------
    recording : BaseRecording
        As stored: sorters filter for themselves. One segment.
    name : str
        One of `SORTERS`.
    folder : path-like
        For what the sorter leaves behind (``sorter``, ``recording``, replaced if they exist); what it
        prints goes to ``printed.txt`` there.
    start_sample, stop_sample : int
        The stretch [start_sample, stop_sample); None: to the end.
    seed : int
        For the sorters that take one.
    num_jobs : int, optional
        Threads for reading and filtering; None: all cores of this process.
    parameters : dict, optional
        Parameters of the sorter that differ from its defaults.

    Returns
    -------
    BaseSorting
        In memory; sample indices count from the start of the whole recording.

    Raises
    ------
    ValueError
        In one line: unknown name, package missing (and how to install it), empty stretch, the sorter failed
        (and where its log is), or it found nothing.
    """
    from spikeinterface.core import NumpySorting
    from spikeinterface.sorters import run_sorter

    sorter_class = _sorter_class(name)
    stop_sample = recording.get_num_samples() if stop_sample is None else stop_sample
    if not 0 <= start_sample < stop_sample <= recording.get_num_samples():
        raise ValueError(
            f"{name} needs an interval inside the recording's [0, {recording.get_num_samples()}), "
            f"got [{start_sample}, {stop_sample})"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in ("recording", "sorter"):
        shutil.rmtree(folder / leftover, ignore_errors=True)
    part = recording.frame_slice(start_frame=start_sample, end_frame=stop_sample)
    stretch = (
        f"{start_sample / recording.sampling_frequency:g}-{stop_sample / recording.sampling_frequency:g} s"
    )
    logger.info("running %s on %s", name, stretch)
    with _quiet(folder / "printed.txt"):
        if not part.check_serializability("json"):
            # The sorter reads the recording from its folder, so one that lives in memory is written there.
            part = part.save(folder=folder / "recording", verbose=False, progress_bar=False)
        try:
            found = run_sorter(
                name,
                part,
                folder=folder / "sorter",
                remove_existing_folder=True,
                verbose=False,
                raise_error=True,
                **_job_parameters(sorter_class, seed, num_jobs),
                **(parameters or {}),
            )
        except Exception as error:
            log = folder / "sorter" / "spikeinterface_log.json"
            raise ValueError(
                f"{name} failed on {stretch}: {_reason(error)}; see {log if log.is_file() else folder}"
            ) from error
        spikes, unit_ids = found.to_spike_vector().copy(), np.asarray(found.unit_ids).copy()
        # Some sorters complain when their shared memory is released: let that happen here, unheard.
        del found, part
        gc.collect()
    if spikes.size == 0:
        raise ValueError(f"{name} found no spike in {stretch} of the recording; see {folder}")
    spikes["sample_index"] += start_sample
    return NumpySorting(spikes, recording.sampling_frequency, unit_ids)


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
            _sorter_class(self.sorter)

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
            str(self.path), format=self.format, sampling_frequency=float(recording.sampling_frequency)
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


def _sorter_class(name: str) -> Any:
    if name not in SORTERS:
        raise ValueError(f"sorter must be one of {', '.join(SORTERS)}, got {name!r}")
    from spikeinterface.sorters import sorter_dict

    sorter_class = sorter_dict[name]
    if not sorter_class.is_installed():
        raise ValueError(f"the sorter {name} is not installed: pip install '{SORTERS[name]}'")
    return sorter_class


def _job_parameters(sorter_class: Any, seed: int, num_jobs: int | None) -> dict[str, Any]:
    """Give each sorter its seed and jobs, under the names that it has for them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    jobs: dict[str, Any] = {
        "n_jobs": num_jobs or cores or 1,
        "pool_engine": "thread",  # a pool of processes might import the caller's script again
        "chunk_duration": "1s",
        "progress_bar": False,
    }
    known = sorter_class.default_params()
    parameters = {key: value for key, value in {"job_kwargs": jobs, "seed": seed}.items() if key in known}
    if "job_kwargs" not in known:
        parameters.update({key: value for key, value in jobs.items() if key in known})
    return parameters


@contextlib.contextmanager
def _quiet(path: Path) -> Iterator[None]:
    """Send what is printed or warned about to a file; a sorter's warnings are not the user's business."""
    with (
        path.open("w", encoding="utf-8") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def _reason(error: Exception) -> str:
    """Return one line; of a traceback that SpikeInterface packs into its error, the last."""
    text = str(error).strip() or type(error).__name__
    if text.startswith("Spike sorting error trace:"):
        text = text.partition("Spike sorting failed.")[0].strip().splitlines()[-1]
    return re.sub(r"\s+", " ", text)[:300]
