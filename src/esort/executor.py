"""Who sorts the chunks of a long recording: this process, or others (`esort.ray_executor`).

Chunks do not depend on each other: each is sorted with its margins on the grid of `esort.inference`, so its
spikes are the same wherever, whenever and however often it is sorted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from esort.inference import BLOCK_S
from esort.sort_result import SortResult
from esort.sorter import Sorter

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording

__all__ = ["Executor", "Parts", "Stretch", "ThreadExecutor", "check_seconds"]

Stretch = tuple[int, int]
"""First sample, and the one behind the last."""

Parts = Generator[tuple[int, SortResult], None, None]
"""Start of a stretch and what came out of it; closing it ends what is still under way."""


class Executor(Protocol):
    """Sorts stretches of a recording.

    Attributes
    ----------
    name : str
        As it stands in ``run.json``.
    chunk_s : float or None
        Length of a chunk, in seconds; None: whatever is usual.
    """

    @property
    def name(self) -> str:
        """See above."""

    @property
    def chunk_s(self) -> float | None:
        """See above."""

    def sort(
        self,
        sorter: Sorter,
        recording: BaseRecording,
        stretches: Sequence[Stretch],
        *,
        thresholds: float | None = None,
        num_workers: int | None = None,
        advance: Callable[[int], None] = lambda blocks: None,
    ) -> Parts:
        """Sort each stretch as `Sorter.sort` does.

        Parameters
        ----------
        sorter : Sorter
        recording : BaseRecording
        stretches : sequence of (int, int)
            Each [start_sample, stop_sample).
        thresholds, num_workers
            See `Sorter.sort`.
        advance : callable
            Is told how many more blocks of `esort.inference.BLOCK_S` are done.

        Yields
        ------
        start_sample : int
            Of a stretch, in any order.
        result : SortResult
            As soon as it is there.
        """


@dataclass(frozen=True, kw_only=True)
class ThreadExecutor:
    """Sorts one chunk after another in this process, each with a thread per core.

    Parameters
    ----------
    chunk_s : float, optional
        Length of a chunk, in seconds: so much is lost by an interruption. By default what is usual.

    Raises
    ------
    ValueError
        If it is no number of at least `esort.inference.BLOCK_S`.
    """

    name = "threads"
    chunk_s: float | None = None

    def __post_init__(self) -> None:
        if self.chunk_s is not None:
            check_seconds("chunk_s", self.chunk_s)

    def sort(
        self,
        sorter: Sorter,
        recording: BaseRecording,
        stretches: Sequence[Stretch],
        *,
        thresholds: float | None = None,
        num_workers: int | None = None,
        advance: Callable[[int], None] = lambda blocks: None,
    ) -> Parts:
        """See `Executor.sort`."""

        def progress(blocks: Iterable) -> Iterator:
            for block in blocks:
                yield block
                advance(1)

        for start, stop in stretches:
            yield (
                start,
                sorter.sort(
                    recording,
                    start_sample=start,
                    stop_sample=stop,
                    thresholds=thresholds,
                    num_workers=num_workers,
                    progress=progress,
                ),
            )


def check_seconds(name: str, value: float) -> None:
    """Raise a ValueError unless a setting of an executor is a length of time that holds a block.

    Parameters
    ----------
    name : str
        Of the setting.
    value : float
        In seconds.

    Raises
    ------
    ValueError
        If it is no number of at least `esort.inference.BLOCK_S`.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not (number and value >= BLOCK_S):
        raise ValueError(f"executor.{name} must be a number of seconds of at least {BLOCK_S}, got {value!r}")
