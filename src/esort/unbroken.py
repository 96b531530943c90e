"""Sorting of a stretch of a stream in which no sample is missing."""

from __future__ import annotations

from typing import Any

import numpy as np

from esort.buffered import BufferedRecording
from esort.detector import Detector, joined_spikes, no_spikes
from esort.inference import block_samples, compute_block, window_of
from esort.minutes import Minutes
from esort.observer import Observer
from esort.postprocess import Spikes
from esort.prepared import PreparedRecording
from esort.pursuit.detector import ScoreDetector
from esort.pursuit.following import PiecewiseCell
from esort.sorter import Sorter
from esort.stretches import within
from esort.threads import one_thread_each
from esort.unknown import UnknownEvents

__all__ = ["UnbrokenStretch"]


class UnbrokenStretch:
    """Samples that follow each other; all that is known of those before them is forgotten.

    Parameters
    ----------
    sorter : Sorter
    detector : Detector or ScoreDetector
        That has seen nothing yet.
    buffer : BufferedRecording
        Empty.
    prepared : PreparedRecording
        The buffer behind filter and scaling.
    channel_order : int64 array, shape (C,)
        Columns of the blocks that are the network's channels.
    start_sample : int
        Sample of the stream that is the buffer's first.
    """

    def __init__(
        self,
        sorter: Sorter,
        detector: Detector | ScoreDetector,
        buffer: BufferedRecording,
        prepared: PreparedRecording,
        channel_order: np.ndarray,
        start_sample: int,
    ) -> None:
        self.start_sample = start_sample
        self.shifts: dict[int, np.ndarray] = {}
        """How far the tissue had moved, by the first samples of its cells in the stream."""
        self._sorter = sorter
        self._detector = detector
        self._buffer = buffer
        self._prepared = prepared
        self._follower = sorter.follower()
        self._cell: PiecewiseCell | None = None
        self._cell_samples = block_samples(sorter.scorer, prepared.sampling_frequency)
        self._observer = Observer(
            sorter,
            detector,
            channel_order,
            sampling_frequency=prepared.sampling_frequency,
            origin_sample=start_sample,
        )
        self._next = 0  # output that comes next, in samples of this stretch
        self._blanked: list[np.ndarray] = []

    @property
    def num_held(self) -> int:
        """Samples that are kept in memory."""
        return self._buffer.num_held

    @property
    def blanked(self) -> np.ndarray:
        """Stretches [start, stop) of the stream that were cut out so far: int64, (K, 2)."""
        now = self._prepared.blanked_stretches(0, self._next)
        return np.concatenate([*self._blanked, now]) + self.start_sample

    def push(self, block: np.ndarray) -> Spikes:
        """Take the next samples (n, C) and return the spikes that became certain."""
        self._buffer.append(block)
        return self._advance()

    def finish(self) -> Spikes:
        """Return the spikes of the last samples: nothing follows them."""
        self._buffer.end()
        spikes = joined_spikes([self._advance(), self._in_stream(self._detector.finish())])
        self._observer.finish()
        return spikes

    def seen(self) -> tuple[UnknownEvents, Minutes]:
        """Unknown events, and counts without spikes, of what was decided since the last call.

        To be called once a second: artefacts that are longer ago are forgotten.
        """
        return self._observer.take(self._prepared.blanked_stretches(0, self._buffer.stop_sample))

    def _advance(self) -> Spikes:
        """Compute what the samples that are there allow."""
        buffer, network = self._buffer, self._sorter.scorer
        filter_margin = self._sorter.preprocessing.margin_samples(self._prepared.sampling_frequency)
        if buffer.stop_sample < max(network.window_samples, self._sorter.preprocessing.min_samples):
            return no_spikes()
        ended = buffer.get_num_samples() == buffer.stop_sample
        after = network.window_samples - network.peak_offset_samples - 1 + filter_margin
        blanked = self._prepared.blanked
        known = buffer.stop_sample
        if not ended and blanked is not None:
            known = blanked.certain_until(known)
        ready = known if ended else known - after
        found = []
        with one_thread_each():
            while self._next < ready:
                length = self._cell_samples
                if self._sorter.is_pursuit and not ended:
                    length = min(length, (ready - self._next) // network.stride * network.stride)
                # One cell at a time.
                length = min(length, self._cell_samples - self._next % self._cell_samples)
                if length == 0 or (self._next + length > ready and not ended):
                    break
                outputs, sight = self._outputs(length)
                found.append(self._in_stream(self._detector.push(outputs, self._next)))
                self._observer.push(sight)
                self._next += length
        history = 0 if blanked is None else blanked.reach_samples
        # What is not certain yet is looked at again, with all that decides on it.
        first = min(self._next - network.peak_offset_samples - filter_margin, known)
        buffer.forget(first - 2 * history)
        if blanked is not None:
            old = blanked.forget(self._next - round(self._prepared.sampling_frequency))
            self._blanked.extend([old] if len(old) else [])
        return joined_spikes(found)

    def _outputs(self, length: int) -> tuple[np.ndarray, Any]:
        """Outputs of the next samples, (length / stride, U), and what was seen of them."""
        network, start = self._sorter.scorer, self._next
        if self._follower is None:
            block = compute_block(network, self._prepared, start, length, self._observer)
            return block.outputs, block.sight
        if self._cell is None or self._cell.cell != start // self._cell_samples:
            if self._cell is not None:
                self._cell.end()
            self._cell = self._follower.piecewise(start // self._cell_samples)
            self.shifts[start + self.start_sample] = self._cell.shift_um
        stop = min(self._prepared.num_samples, start + length)
        filtered = network.filtered(*window_of(network, self._prepared, start, stop))
        whitened = self._cell.whitened(filtered)
        return self._follower.scores_of(whitened), self._observer.look(filtered, whitened, start, stop)

    def _in_stream(self, spikes: Spikes) -> Spikes:
        """Spikes of this stretch, at the stream's samples."""
        sample = spikes.sample_index
        kept = (sample >= 0) & (sample < self._buffer.stop_sample)
        kept &= ~within(sample, self._prepared.blanked_stretches(0, self._buffer.stop_sample))
        return Spikes(sample[kept] + self.start_sample, spikes.unit_index[kept], spikes.probability[kept])
