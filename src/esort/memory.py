"""How much memory a sorting will take, said before it begins, and kept below a limit."""

from __future__ import annotations

import math
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from esort.inference import BLOCK_S
from esort.threads import available_cores

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording

    from esort.sorter import Sorter

__all__ = ["ADDRESS_SPACE_BYTES", "MemoryLimit", "MemoryPlan", "peak_rss_bytes", "plan_memory"]

ADDRESS_SPACE_BYTES = 1_500_000_000
"""What libraries reserve without using it: a limit of the address space (``ulimit -v``, RLIMIT_AS) must be
so much above `MemoryLimit.max_gb`."""

# Measured with networks of 32 to 384 channels; each figure is rounded up.
_COMPILED_BYTES = 100_000_000
_COPIES_OF_A_BLOCK = 8
_BYTES_PER_SPIKE = 60
_SPIKES_PER_UNIT_S = 20.0
# Scores and pictures: what their libraries take, and copies of the stretch that they look at.
_PICTURES_BYTES = 300_000_000
_COPIES_OF_A_STRETCH = 3
_STRETCH_S = 20.0
_LEAST_STRETCH_S = 1.0
_STRETCH_BYTES = 1_000_000_000
_PAGE_BYTES = 700_000_000
# Shorter chunks would mostly be margins.
_LEAST_CHUNK_S = 10.0


@dataclass(frozen=True, kw_only=True)
class MemoryLimit:
    """How much memory a sorting may take.

    Parameters
    ----------
    max_gb : float or None
        Of the resident set, in 10⁹ bytes. None: whatever it takes.

    Raises
    ------
    ValueError
        If it is not a number above 0.
    """

    max_gb: float | None = None

    def __post_init__(self) -> None:
        value = self.max_gb
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf
        ):
            raise ValueError(f"memory.max_gb must be a number above 0, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """How a sorting goes about it.

    Parameters
    ----------
    num_workers : int
    chunk_s : float
    stretch_s : float
        So much of the recording is looked at for pictures.
    report : bool
        Whether there is room for the report.
    peak_bytes : int
        Predicted.
    """

    num_workers: int
    chunk_s: float
    stretch_s: float
    report: bool
    peak_bytes: int

    def __str__(self) -> str:
        workers = f"{self.num_workers} worker{'s' if self.num_workers > 1 else ''}"
        return f"about {self.peak_bytes / 1e9:.1f} GB at the peak ({workers}, chunks of {self.chunk_s:g} s)"


def plan_memory(
    sorter: Sorter,
    recording: BaseRecording,
    limit: MemoryLimit,
    *,
    num_workers: int | None,
    chunk_s: float,
    report: bool,
) -> MemoryPlan:
    """Predict the peak of the resident set, and choose chunks, workers and extras so that it keeps the limit.

    Nothing that is chosen changes a spike.

    Parameters
    ----------
    sorter : Sorter
    recording : BaseRecording
    limit : MemoryLimit
    num_workers : int or None
        At most; None: one per core.
    chunk_s : float
        At most.
    report : bool
        Whether a report is wanted.

    Returns
    -------
    MemoryPlan

    Raises
    ------
    ValueError
        If the least that can be done takes more than the limit.
    """
    rate, channels = float(recording.sampling_frequency), recording.get_num_channels()
    seconds = recording.get_num_samples() / rate
    now = resident_bytes()

    def bytes_of(workers: int, chunk_s: float, stretch_s: float, report: bool) -> int:
        block = round(BLOCK_S * rate) * channels * 4
        spikes = sorter.card.num_units * _SPIKES_PER_UNIT_S * min(chunk_s, seconds) * _BYTES_PER_SPIKE
        sorting = _COMPILED_BYTES + (workers + 1) * _COPIES_OF_A_BLOCK * block + spikes
        stretch = min(stretch_s, seconds) * rate * channels * 4 * _COPIES_OF_A_STRETCH
        after = _PICTURES_BYTES + max(stretch, _PAGE_BYTES if report else 0)
        # What the sorting took is not given back to the system.
        return round(now + max(sorting, after))

    stretch_s = min(_STRETCH_S, _STRETCH_BYTES / (rate * channels * 4 * _COPIES_OF_A_STRETCH))
    workers = num_workers or available_cores()
    most = math.inf if limit.max_gb is None else limit.max_gb * 1e9
    # In this order: what costs least comes first.
    choices = [(workers, chunk_s, stretch_s, report)]
    chunk_s = min(chunk_s, max(_LEAST_CHUNK_S, BLOCK_S))
    choices.append((workers, chunk_s, stretch_s, report))
    choices.extend((workers, chunk_s, shorter, report) for shorter in _halves(stretch_s, _LEAST_STRETCH_S))
    choices.extend((workers, chunk_s, _LEAST_STRETCH_S, asked) for asked in {report, False})
    choices.extend((fewer, chunk_s, _LEAST_STRETCH_S, False) for fewer in range(workers - 1, 0, -1))
    for choice in choices:
        peak = bytes_of(*choice)
        if peak <= most:
            return MemoryPlan(
                num_workers=choice[0],
                chunk_s=choice[1],
                stretch_s=choice[2],
                report=choice[3],
                peak_bytes=peak,
            )
    raise ValueError(
        f"memory.max_gb={limit.max_gb:g} is too little: {channels} channels, {sorter.card.num_units} units "
        f"need at least {math.ceil(peak / 1e8) / 10:.1f} GB with 1 worker"
    )


def _halves(value: float, least: float) -> list[float]:
    found = []
    while value / 2 > least:
        value /= 2
        found.append(value)
    return found


def resident_bytes() -> int:
    """Memory that this process has now."""
    status = Path("/proc/self/statm")
    if status.is_file():
        return int(status.read_text().split()[1]) * resource.getpagesize()
    return peak_rss_bytes()


def peak_rss_bytes() -> int:
    """Most memory that this process has had."""
    status = Path("/proc/self/status")
    if status.is_file():
        # `ru_maxrss` begins with the memory of the process that started this one.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
