"""A network over a recording, block by block: traces in, outputs for the post-processing out.

The time axis is cut into blocks of a fixed length that start at multiples of it. Filter and network see one
block (with its margin) at a time, always the same one, so that their numbers do not depend on what is asked
for, on how many workers there are or on where sorting began.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from esort.prepared import PreparedRecording
from esort.threads import available_cores, one_thread_each

__all__ = [
    "BLOCK_S",
    "Block",
    "Network",
    "block_samples",
    "compute_block",
    "output_blocks",
    "window_of",
]

BLOCK_S = 0.5

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
    shift_um: np.ndarray | None = None
    """How far the tissue had moved, of a network that follows it."""
    sight: Any = None
    """What an observer saw of the block."""


class Network(Protocol):
    """What sorting asks of a network: `esort.network.SpikeNetwork`, `esort.pursuit.scorer.PursuitScorer`."""

    window_samples: int
    peak_offset_samples: int

    @property
    def stride(self) -> int:
        """See `SpikeNetwork.stride`."""

    @property
    def samples_at_once(self) -> int | None:
        """See `SpikeNetwork.samples_at_once`."""

    def outputs(self, traces: np.ndarray, gains: np.ndarray | None = None) -> np.ndarray:
        """See `SpikeNetwork.outputs`."""

    def filtered(self, traces: np.ndarray, gains: np.ndarray | None = None) -> np.ndarray:
        """See `SpikeNetwork.filtered`."""


class Follower(Protocol):
    """Tells from the blocks before one how far the tissue has moved, see `esort.pursuit.following`."""

    num_cells: int

    def evidence(self, filtered: np.ndarray) -> np.ndarray: ...

    def learn(self, cell: int, evidence: np.ndarray) -> None: ...

    def shift_um(self, cell: int) -> np.ndarray: ...

    def scores_of(self, whitened: np.ndarray) -> np.ndarray: ...

    def whitened(self, filtered: np.ndarray, shift_um: np.ndarray) -> np.ndarray: ...


class Observer(Protocol):
    """Looks at the blocks, from any thread, see `esort.observer`."""

    def outputs(
        self, traces: np.ndarray, gains: np.ndarray | None, start_sample: int, stop_sample: int
    ) -> tuple[np.ndarray, Any]: ...

    def look(
        self, filtered: np.ndarray, whitened: np.ndarray | None, start_sample: int, stop_sample: int
    ) -> Any: ...


def output_blocks(
    network: Network,
    prepared: PreparedRecording,
    start_sample: int,
    stop_sample: int,
    *,
    follower: Follower | None = None,
    observer: Observer | None = None,
    num_workers: int | None = None,
    progress: Callable[[Iterable], Iterable] | None = None,
) -> Iterator[Block]:
    """Yield the blocks that touch [start_sample, stop_sample), in order of time.

    Parameters
    ----------
    network : Network
        In evaluation mode.
    prepared : PreparedRecording
    start_sample, stop_sample : int
        May reach beyond the recording.
    follower : Follower, optional
        Of a network that filters for itself; it sees the blocks before the first one, too.
    observer : Observer, optional
    num_workers : int, optional
        Threads, and blocks that are under way at once; by default one per core.
    progress : callable, optional
        Wraps the iterator over blocks, for example in a progress bar; what it gets has a length.

    Yields
    ------
    Block
        The first may start before `start_sample`, the last may end behind `stop_sample`.
    """
    length = block_samples(network, prepared.sampling_frequency)
    first = max(0, start_sample) // length
    last = -(-min(prepared.num_samples, stop_sample) // length)
    starts = range(first * length, last * length, length)
    shown = iter(starts if progress is None else progress(starts))
    workers = num_workers or available_cores()
    with one_thread_each(), ThreadPoolExecutor(workers) as pool:
        if follower is None:
            tasks: Iterator[Future[Block]] = (
                pool.submit(compute_block, network, prepared, start, length, observer) for start in starts
            )
        else:
            tasks = _following(pool, workers, network, prepared, follower, observer, starts)
        for block in _in_order(tasks, workers):
            yield block
            next(shown)
    for _ in shown:  # lets a progress bar end
        pass


def block_samples(network: Network, sampling_frequency: float) -> int:
    """Length of a block, a multiple of the network's stride."""
    return round(BLOCK_S * sampling_frequency) // network.stride * network.stride


def _in_order(tasks: Iterator[Future[_Out]], workers: int) -> Iterator[_Out]:
    """Results in the order of their tasks; one task more than workers is under way: none of them waits."""
    waiting: deque[Future[_Out]] = deque()
    for task in tasks:
        waiting.append(task)
        if len(waiting) > workers:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _following(
    pool: ThreadPoolExecutor,
    workers: int,
    network: Network,
    prepared: PreparedRecording,
    follower: Follower,
    observer: Observer | None,
    starts: range,
) -> Iterator[Future[Block]]:
    """Tasks in two parts: the shift of a block is known once the blocks before it are filtered."""
    earlier = range(max(0, starts.start - follower.num_cells * starts.step), starts.start, starts.step)
    fronts = (
        pool.submit(_observe_block, network, prepared, follower, start, starts.step)
        for start in (*earlier, *starts)
    )
    for front in _in_order(fronts, workers):
        cell = front.start_sample // starts.step
        if front.start_sample >= starts.start:
            yield pool.submit(_follow_block, follower, observer, front, follower.shift_um(cell))
        follower.learn(cell, front.evidence)


class _Front(NamedTuple):
    """What comes before the shift of a block is known."""

    start_sample: int
    stop_sample: int
    filtered: np.ndarray
    evidence: np.ndarray
    read_filter_s: float
    network_s: float


def _observe_block(
    network: Network, prepared: PreparedRecording, follower: Follower, start: int, length: int
) -> _Front:
    begin = perf_counter()
    stop = min(prepared.num_samples, start + length)
    traces, gains = window_of(network, prepared, start, stop)
    read = perf_counter()
    filtered = network.filtered(traces, gains)
    evidence = follower.evidence(filtered)
    return _Front(start, stop, filtered, evidence, read - begin, perf_counter() - read)


def _follow_block(
    follower: Follower, observer: Observer | None, front: _Front, shift_um: np.ndarray
) -> Block:
    begin = perf_counter()
    whitened, sight = follower.whitened(front.filtered, shift_um), None
    outputs = follower.scores_of(whitened)
    if observer is not None:
        sight = observer.look(front.filtered, whitened, front.start_sample, front.stop_sample)
    spent = front.network_s + perf_counter() - begin
    return Block(front.start_sample, outputs, front.read_filter_s, spent, shift_um, sight)


def compute_block(
    network: Network, prepared: PreparedRecording, start: int, length: int, observer: Observer | None = None
) -> Block:
    """Read, filter and run the network over [start, start + length) of a recording.

    Parameters
    ----------
    network : Network
        In evaluation mode.
    prepared : PreparedRecording
    start, length : int
        Multiples of the network's stride; what lies beyond the recording's end is left out.
    observer : Observer, optional
    """
    begin = perf_counter()
    stop = min(prepared.num_samples, start + length)
    margin = network.window_samples - 1
    traces, gains = window_of(network, prepared, start, stop)
    read = perf_counter()
    if observer is not None and prepared.preprocessing.inside_network:
        outputs, sight = observer.outputs(traces, gains, start, stop)
        return Block(start, outputs, read - begin, perf_counter() - read, None, sight)
    sight = None if observer is None else observer.look(traces, None, start, stop)
    step = network.samples_at_once or stop - start
    parts = [
        network.outputs(traces[offset : offset + step + margin], gains)
        for offset in range(0, stop - start, step)
    ]
    outputs = parts[0] if len(parts) == 1 else np.concatenate(parts)  # (N / stride, U)
    return Block(start, outputs, read - begin, perf_counter() - read, None, sight)


def window_of(
    network: Network, prepared: PreparedRecording, start: int, stop: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read all that the outputs of [start, stop) depend on; beyond the recording there is silence.

    Returns
    -------
    traces : array, shape (stop - start + W - 1, C)
    gains : float array, shape (C,), or None
        By which the traces are to be multiplied yet.
    """
    before = network.peak_offset_samples
    after = network.window_samples - before - 1
    low, high = max(0, start - before), min(prepared.num_samples, stop + after)
    traces, gains = prepared.stored(low, high)
    # Spikes in the first and last window are found too.
    missing = ((low - (start - before), stop + after - high), (0, 0))
    if any(missing[0]):
        mode = "edge" if prepared.preprocessing.inside_network else "constant"
        traces = np.pad(traces, missing, mode=mode)  # type: ignore[call-overload]
    return traces, gains
