"""Other spike sorters on the same data: as a teacher to learn from, or as a peer to compare with."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from esort.threads import available_cores

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording, BaseSorting

__all__ = ["SORTERS", "run_sorter_on", "sorter_class"]

logger = logging.getLogger(__name__)

# Sorter -> how to get it. All are SpikeInterface's names for them; with "_motion" they correct motion.
SORTERS = {
    "lupin": "esort[peers]",
    "tridesclous2": "esort[peers]",
    "spykingcircus2": "esort[peers]",
    "simple": "esort[peers]",
    "mountainsort5": "mountainsort5",
    "kilosort4": "kilosort",
    "lupin_motion": "esort[peers]",
    "tridesclous2_motion": "esort[peers]",
}
# These correct motion only when asked to, the others by default or not at all.
_ASKED = {
    name: (name.removesuffix("_motion"), {"apply_motion_correction": True})
    for name in SORTERS
    if name.endswith("_motion")
}


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

    sorter_type = sorter_class(name)
    known_as, asked = _ASKED.get(name, (name, {}))
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
                known_as,
                part,
                folder=folder / "sorter",
                remove_existing_folder=True,
                verbose=False,
                raise_error=True,
                **_job_parameters(sorter_type, seed, num_jobs),
                **(asked | (parameters or {})),
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


def sorter_class(name: str) -> Any:
    """Return SpikeInterface's class of a sorter.

    Raises
    ------
    ValueError
        If the name is unknown or the sorter's package is missing; it says how to install it.
    """
    if name not in SORTERS:
        raise ValueError(f"sorter must be one of {', '.join(SORTERS)}, got {name!r}")
    from spikeinterface.sorters import sorter_dict

    known_as, _ = _ASKED.get(name, (name, {}))
    sorter_type = sorter_dict[known_as]
    if not sorter_type.is_installed():
        raise ValueError(f"the sorter {name} is not installed: pip install '{SORTERS[name]}'")
    return sorter_type


def _job_parameters(sorter_type: Any, seed: int, num_jobs: int | None) -> dict[str, Any]:
    """Give each sorter its seed and jobs, under the names that it has for them."""
    jobs: dict[str, Any] = {
        "n_jobs": num_jobs or available_cores(),
        "pool_engine": "thread",  # a pool of processes might import the caller's script again
        "chunk_duration": "1s",
        "progress_bar": False,
    }
    known = sorter_type.default_params()
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
