"""A trained network at work: recording in, spikes out, block by block.

The time axis is cut into blocks of a fixed length that start at multiples of it. Filter and network see one
block (with its margin) at a time, always the same one, so that their numbers do not depend on what is asked
for, on how many workers there are or on where sorting began. Post-processing goes over the joined
probabilities; its result does not depend on the chunks it gets (see `esort.postprocess.detect_spikes`).
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from esort.card import Card
from esort.checkpoint import CheckpointError, load_checkpoint
from esort.health import match_channels
from esort.network import SpikeNetwork, build_network
from esort.postprocess import Spikes, detect_spikes, join_chunks, margin_samples
from esort.prepared import PreparedRecording, prepare
from esort.preprocessing import Preprocessing

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording, BaseSorting

__all__ = ["Postprocessing", "SortResult", "Sorter"]

logger = logging.getLogger(__name__)

_BLOCK_S = 0.5
# Samples that the network takes at once: few enough for its features to stay in the cache.
_NETWORK_SAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Postprocessing:
    """Settings of the post-processing, see `esort.postprocess.detect_spikes`.

    Parameters
    ----------
    smoothing_ms, refractory_ms : float
    """

    smoothing_ms: float = 0.3
    refractory_ms: float = 1.0

    def __post_init__(self) -> None:
        for name, high in (("smoothing_ms", 5), ("refractory_ms", 20)):
            if not 0 <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be in [0, {high}] ms, got {getattr(self, name)!r}")


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
    """

    spikes: Spikes
    unit_ids: tuple
    sampling_frequency: float
    num_samples: int
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def real_time_factor(self) -> float:
        """Seconds of recording per second on the wall; 0 for an empty recording."""
        total = self.seconds.get("total", 0.0)
        return self.num_samples / self.sampling_frequency / total if total else 0.0

    def sorting(self) -> BaseSorting:
        """Return a SpikeInterface sorting with all units, also those without a spike."""
        from spikeinterface.core import NumpySorting
        from spikeinterface.core.base import minimum_spike_dtype

        vector = np.zeros(len(self.spikes.sample_index), dtype=minimum_spike_dtype)
        vector["sample_index"] = self.spikes.sample_index
        vector["unit_index"] = self.spikes.unit_index
        return NumpySorting(vector, self.sampling_frequency, unit_ids=list(self.unit_ids))


class Sorter:
    """A network, its card and its thresholds.

    Parameters
    ----------
    network : SpikeNetwork
    card : Card
        Must have units.

    Raises
    ------
    ValueError
        If the card is a backbone's, or does not fit the network.
    """

    def __init__(self, network: SpikeNetwork, card: Card) -> None:
        if card.is_backbone:
            raise ValueError("expected a checkpoint with units, got a backbone: fine-tune it first")
        sizes = (network.num_channels, network.num_units, network.window_samples)
        of_card = (card.num_channels, card.num_units, card.window_samples)
        if sizes != of_card:
            raise ValueError(f"network and card differ in channels, units, window: {sizes} and {of_card}")
        self.card = card
        self.network = network.folded()
        self.postprocessing = Postprocessing(**card.postprocess)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Sorter:
        """Load a checkpoint.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        CheckpointError
            If the file cannot be believed, or its weights do not fit its network.
        """
        card, weights = load_checkpoint(path, framework="torch")
        try:
            network = build_network(card.network, card.network_parameters)
            network.load_state_dict(weights)
            return cls(network, card)
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(path, " ".join(str(error).split())) from None

    def prepare(self, recording: BaseRecording) -> PreparedRecording:
        """Put a recording behind the filter and scaling that the network learned with.

        Raises
        ------
        ValueError
            If rate or contacts differ; both sides are named.
        """
        order = match_channels(
            np.asarray(self.card.contact_positions_um),
            recording,
            card_sampling_frequency=self.card.sampling_frequency,
        )
        return prepare(
            recording,
            Preprocessing.from_dict(self.card.preprocessing),
            noise_level_uv=np.asarray(self.card.noise_level_uv),
            channel_order=order,
        )

    def sort(
        self,
        recording: BaseRecording,
        *,
        start_sample: int = 0,
        stop_sample: int | None = None,
        thresholds: float | Iterable[float] | None = None,
        num_workers: int | None = None,
        progress: Callable[[Iterable], Iterable] | None = None,
    ) -> SortResult:
        """Sort a recording or a stretch of it.

        Parameters
        ----------
        recording : BaseRecording
            One segment, with the contacts of the card in any order.
        start_sample, stop_sample : int
            Spikes of [start_sample, stop_sample) are returned.
        thresholds : float or (U,) floats, optional
            In the place of the card's.
        num_workers : int, optional
            Threads; by default one per core.
        progress : callable, optional
            Wraps the iterator over blocks, for example in a progress bar; it has a length.

        Returns
        -------
        SortResult

        Raises
        ------
        ValueError
            If the recording does not fit the card, or holds a NaN; it says where.
        """
        begin = perf_counter()
        num_samples = int(recording.get_num_samples())
        stop_sample = num_samples if stop_sample is None else stop_sample
        if not 0 <= start_sample <= stop_sample <= num_samples:
            raise ValueError(
                f"expected a stretch inside the recording's [0, {num_samples}), "
                f"got [{start_sample}, {stop_sample})"
            )
        seconds = {"read_filter": 0.0, "network": 0.0, "postprocess": 0.0}
        result = SortResult(
            spikes=self._no_spikes(),
            unit_ids=self.card.unit_ids,
            sampling_frequency=float(recording.sampling_frequency),
            num_samples=stop_sample - start_sample,
            seconds=seconds,
        )
        if stop_sample - start_sample < self.network.window_samples or num_samples <= 0:
            logger.warning(
                "the recording has %d samples, the network's window %d: nothing to sort",
                stop_sample - start_sample,
                self.network.window_samples,
            )
        else:
            prepared = self.prepare(recording)
            blocks = self._probabilities(prepared, start_sample, stop_sample, seconds, num_workers, progress)
            result.spikes = self._detect(blocks, start_sample, stop_sample, thresholds, seconds)
        seconds["total"] = perf_counter() - begin
        return result

    def probabilities(self, prepared: PreparedRecording, start_sample: int, stop_sample: int) -> np.ndarray:
        """Return what the network says of a short stretch: float32, (stop_sample - start_sample, U)."""
        seconds = {"read_filter": 0.0, "network": 0.0}
        blocks = list(self._probabilities(prepared, start_sample, stop_sample, seconds, 1, None))
        first = blocks[0][0]
        joined = np.concatenate([probabilities for _, probabilities in blocks])
        return joined[start_sample - first : stop_sample - first]

    def _no_spikes(self) -> Spikes:
        empty = np.zeros(0, dtype=np.int64)
        return Spikes(empty, empty, np.zeros(0, dtype=np.float32))

    def _detect(
        self,
        blocks: Iterator[tuple[int, np.ndarray]],
        start_sample: int,
        stop_sample: int,
        thresholds: float | Iterable[float] | None,
        seconds: dict[str, float],
    ) -> Spikes:
        """Post-process the joined blocks, keeping as little of them as the margin needs."""
        rate = self.card.sampling_frequency
        settings: dict[str, Any] = {
            "smoothing_ms": self.postprocessing.smoothing_ms,
            "refractory_ms": self.postprocessing.refractory_ms,
        }
        chosen = self.card.thresholds if thresholds is None else thresholds
        limits = chosen if isinstance(chosen, (int, float)) else [float(value) for value in chosen]
        margin = margin_samples(rate, **settings)
        found: list[Spikes] = []
        held: np.ndarray | None = None
        first = done = 0

        def detect(upto: int) -> None:
            nonlocal held, first, done
            assert held is not None
            found.append(
                detect_spikes(
                    held,
                    sampling_frequency=rate,
                    thresholds=limits,
                    first_sample=first,
                    core=(done - first, upto - first),
                    **settings,
                )
            )
            done = upto
            keep = max(first, done - margin)
            held, first = held[keep - first :], keep

        for start, probabilities in blocks:
            begin = perf_counter()
            if held is None:
                held, first, done = probabilities, start, start
            else:
                held = np.concatenate([held, probabilities])
            certain = first + len(held) - margin
            if certain > done:
                detect(certain)
            seconds["postprocess"] += perf_counter() - begin
        if held is None:
            return self._no_spikes()
        begin = perf_counter()
        detect(first + len(held))
        spikes = join_chunks(found)
        inside = (spikes.sample_index >= start_sample) & (spikes.sample_index < stop_sample)
        seconds["postprocess"] += perf_counter() - begin
        return Spikes(spikes.sample_index[inside], spikes.unit_index[inside], spikes.probability[inside])

    def _probabilities(
        self,
        prepared: PreparedRecording,
        start_sample: int,
        stop_sample: int,
        seconds: dict[str, float],
        num_workers: int | None,
        progress: Callable[[Iterable], Iterable] | None,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first sample, probabilities) of the blocks around a stretch, in order."""
        length = round(_BLOCK_S * self.card.sampling_frequency)
        margin = margin_samples(
            self.card.sampling_frequency,
            smoothing_ms=self.postprocessing.smoothing_ms,
            refractory_ms=self.postprocessing.refractory_ms,
        )
        first = max(0, start_sample - margin) // length
        last = -(-min(prepared.num_samples, stop_sample + margin) // length)
        starts = range(first * length, last * length, length)
        shown = iter(starts if progress is None else progress(starts))
        workers = num_workers or os.cpu_count() or 1
        with _one_thread_each(), ThreadPoolExecutor(workers) as pool:
            waiting: deque[Future] = deque()
            for start in starts:
                waiting.append(pool.submit(self._block, prepared, start, length))
                # One block more than workers is under way: none of them waits, and memory is bounded.
                if len(waiting) > workers:
                    yield self._finished(waiting, seconds, shown)
            while waiting:
                yield self._finished(waiting, seconds, shown)
            for _ in shown:  # lets a progress bar end
                pass

    def _finished(
        self, waiting: deque[Future], seconds: dict[str, float], shown: Iterator
    ) -> tuple[int, np.ndarray]:
        start, probabilities, reading, computing = waiting.popleft().result()
        seconds["read_filter"] += reading
        seconds["network"] += computing
        next(shown)
        return start, probabilities

    def _block(
        self, prepared: PreparedRecording, start: int, length: int
    ) -> tuple[int, np.ndarray, float, float]:
        """Read, filter and run the network over one block."""
        begin = perf_counter()
        stop = min(prepared.num_samples, start + length)
        before = self.network.peak_offset_samples
        after = self.network.window_samples - before - 1
        low, high = max(0, start - before), min(prepared.num_samples, stop + after)
        traces = prepared.traces(low, high)
        # Outside the recording there is silence: spikes in the first and last window are found too.
        traces = np.pad(traces, ((low - (start - before), stop + after - high), (0, 0)))
        read = perf_counter()
        probabilities = np.empty((stop - start, self.network.num_units), dtype=np.float32)
        with torch.inference_mode():
            for offset in range(0, stop - start, _NETWORK_SAMPLES):
                count = min(_NETWORK_SAMPLES, stop - start - offset)
                part = torch.from_numpy(traces[None, offset : offset + count + before + after])
                probabilities[offset : offset + count] = self.network(part)[0].sigmoid().numpy()  # (n, U)
        return start, probabilities, read - begin, perf_counter() - read


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Give every worker one thread: faster than sharing, and the same numbers for any number of workers."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
