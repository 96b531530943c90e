"""A network over a recording, block by block: traces in, outputs for the post-processing out.

The time axis is cut into blocks of a fixed length that start at multiples of it. Filter and network see one
block (with its margin) at a time, always the same one, so that their numbers do not depend on what is asked
for, on how many workers there are or on where sorting began.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from time import perf_counter
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from esort.network import SpikeNetwork
from esort.prepared import PreparedRecording

__all__ = [
    "BLOCK_S",
    "Block",
    "available_cores",
    "compute_block",
    "map_in_threads",
    "one_thread_each",
    "output_blocks",
]

BLOCK_S = 0.5

_In = TypeVar("_In")
_Out = TypeVar("_Out")


class Block(NamedTuple):
    """What the network says of one block."""

    start_sample: int
    outputs: np.ndarray
    """float32, shape (N / stride, U): probabilities, or scores of a network that has these."""
    read_filter_s: float
    """Time that reading and filtering took."""
    network_s: float
    """Time that the network took."""


def output_blocks(
    network: SpikeNetwork,
    prepared: PreparedRecording,
    start_sample: int,
    stop_sample: int,
    *,
    num_workers: int | None = None,
    progress: Callable[[Iterable], Iterable] | None = None,
) -> Iterator[Block]:
    """Yield the blocks that touch [start_sample, stop_sample), in order of time.

    Parameters
    ----------
    network : SpikeNetwork
        In evaluation mode.
    prepared : PreparedRecording
    start_sample, stop_sample : int
        May reach beyond the recording.
    num_workers : int, optional
        Threads, and blocks that are under way at once; by default one per core.
    progress : callable, optional
        Wraps the iterator over blocks, for example in a progress bar; what it gets has a length.

    Yields
    ------
    Block
        The first may start before `start_sample`, the last may end behind `stop_sample`.
    """
    length = round(BLOCK_S * prepared.sampling_frequency) // network.stride * network.stride
    first = max(0, start_sample) // length
    last = -(-min(prepared.num_samples, stop_sample) // length)
    starts = range(first * length, last * length, length)
    shown = iter(starts if progress is None else progress(starts))
    workers = num_workers or available_cores()
    with one_thread_each(), ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Block]] = deque()
        for start in starts:
            waiting.append(pool.submit(compute_block, network, prepared, start, length))
            # One block more than workers is under way: none of them waits, and memory is bounded.
            if len(waiting) > workers:
                yield waiting.popleft().result()
                next(shown)
        while waiting:
            yield waiting.popleft().result()
            next(shown)
    for _ in shown:  # lets a progress bar end
        pass


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def compute_block(network: SpikeNetwork, prepared: PreparedRecording, start: int, length: int) -> Block:
    """Read, filter and run the network over [start, start + length) of a recording.

    Parameters
    ----------
    network : SpikeNetwork
        In evaluation mode.
    prepared : PreparedRecording
    start, length : int
        Multiples of the network's stride; what lies beyond the recording's end is left out.
    """
    begin = perf_counter()
    stop = min(prepared.num_samples, start + length)
    before = network.peak_offset_samples
    after = network.window_samples - before - 1
    low, high = max(0, start - before), min(prepared.num_samples, stop + after)
    traces, gains = prepared.stored(low, high)
    # Outside the recording there is silence: spikes in the first and last window are found too.
    missing = ((low - (start - before), stop + after - high), (0, 0))
    if any(missing[0]):
        mode = "edge" if prepared.preprocessing.inside_network else "constant"
        traces = np.pad(traces, missing, mode=mode)  # type: ignore[call-overload]
    read = perf_counter()
    step = network.samples_at_once or stop - start
    with torch.inference_mode():
        parts = [
            network.outputs(traces[offset : offset + step + before + after], gains)
            for offset in range(0, stop - start, step)
        ]
    outputs = parts[0] if len(parts) == 1 else np.concatenate(parts)  # (N / stride, U)
    return Block(start, outputs, read - begin, perf_counter() - read)


def map_in_threads(function: Callable[[_In], _Out], items: Iterable[_In]) -> list[_Out]:
    """Call a function for each item, in one thread per core, and return its results in order."""
    with one_thread_each(), ThreadPoolExecutor(available_cores()) as pool:
        return list(pool.map(function, items))


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Give every worker one thread: faster than sharing, and the same numbers for any number of workers."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
