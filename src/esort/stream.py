"""Sorting while the recording goes on: blocks in, spikes out as soon as they are certain.

The spikes are those of `esort.sorter.Sorter.sort`, to the sample, for blocks of any length.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from esort.blanking import Blanking
from esort.buffered import BufferedRecording
from esort.detector import Detector, no_spikes
from esort.handling import handling_of, marked
from esort.health import check_finite, match_channels
from esort.inference import block_samples, compute_block, window_of
from esort.motion import FollowedMotion
from esort.postprocess import Spikes
from esort.prepared import PreparedRecording
from esort.pursuit.detector import ScoreDetector
from esort.pursuit.following import PiecewiseCell
from esort.pursuit.network import PursuitNetwork
from esort.sorter import Sorter
from esort.stretches import merged, within
from esort.threads import one_thread_each

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording

__all__ = ["Latency", "StreamingSorter"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How much must follow a spike before it is certain, in ms: what no faster computer makes shorter.

    Parameters
    ----------
    filter_ms : float
        The filter looks ahead so far.
    window_ms : float
        From a spike's peak to the end of the network's window.
    block_ms : float
        Networks whose numbers depend on where a block begins wait for the block's end, at most so long.
    decision_ms : float
        The competition between units: at most so long.
    blanking_ms : float
        What follows says whether a sample belongs to an artefact. Around one, spikes come up to 30 ms later.
    """

    filter_ms: float
    window_ms: float
    block_ms: float
    decision_ms: float
    blanking_ms: float = 0.0

    @property
    def total_ms(self) -> float:
        """At most, from a spike's peak to the last sample that decides on it."""
        return self.filter_ms + self.window_ms + self.block_ms + self.decision_ms + self.blanking_ms

    def __str__(self) -> str:
        block = f", block {self.block_ms:.1f}" if self.block_ms else ""
        return (
            f"a spike is certain at most {self.total_ms:.1f} ms after its peak: filter {self.filter_ms:.1f}, "
            f"window {self.window_ms:.1f}{block}, decision {self.decision_ms:.1f}, "
            f"artefacts {self.blanking_ms:.1f}"
        )


class StreamingSorter:
    """Sorts a stream with a checkpoint.

    Parameters
    ----------
    checkpoint : path-like or Sorter
    gain_to_uv, offset_to_uv : float or (C,) floats
        Stored value × gain + offset = µV. By default the blocks are in µV. None: in the unit of a recording
        that did not say its gain, as the one that the units were learned from.
    contact_positions_um : float array, shape (C, 2), optional
        Contacts in the order of the blocks' columns; by default that of the checkpoint.
    thresholds : float or (U,) floats, optional
        In the place of the card's.
    bad_channels : sequence of int
        Columns of the blocks that are not to be listened to. A stream cannot be looked over beforehand.
    blanking : Blanking or bool
        What is cut out as an artefact, without spikes in it; False: nothing.

    Raises
    ------
    FileNotFoundError, CheckpointError
        See `Sorter.load`.
    ValueError
        If the contacts are not those of the checkpoint.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str] | Sorter,
        *,
        gain_to_uv: float | np.ndarray | None = 1.0,
        offset_to_uv: float | np.ndarray | None = 0.0,
        contact_positions_um: np.ndarray | None = None,
        thresholds: float | Iterable[float] | None = None,
        bad_channels: Iterable[int] = (),
        blanking: Blanking | bool = True,
    ) -> None:
        self.sorter = checkpoint if isinstance(checkpoint, Sorter) else Sorter.load(checkpoint)
        card = self.sorter.card
        positions = card.contact_positions_um if contact_positions_um is None else contact_positions_um
        self._positions = np.asarray(positions, dtype=float)
        self._units = {"gain_to_uv": gain_to_uv, "offset_to_uv": offset_to_uv}
        self._marks: dict[str, Any] = {"bad_channel_ids": list(bad_channels), "blanking": blanking}
        self._thresholds = thresholds
        self._dtype: np.dtype | None = None
        self._start = self._known = 0
        self._buffer: BufferedRecording | None = None
        self._blanked: list[np.ndarray] = []
        self.gaps = 0
        """How many times samples were missing."""
        self.missing_samples = 0
        """How many were missing in all."""
        self._shifts: dict[int, np.ndarray] = {}  # by the first sample of their cell, at the stream's samples
        recording = self._new_buffer(np.dtype("float32"))
        order = match_channels(
            np.asarray(card.contact_positions_um), recording, card_sampling_frequency=card.sampling_frequency
        )
        marks = handling_of(marked(recording, **self._marks))
        self.sorter = self.sorter.without_channels(np.flatnonzero(marks.bad[order]))
        self._detector: Detector | ScoreDetector = self.sorter.detector(thresholds)
        self._prepared: PreparedRecording = self._prepare(recording)

    @classmethod
    def like(
        cls,
        checkpoint: str | os.PathLike[str] | Sorter,
        recording: BaseRecording,
        *,
        thresholds: float | Iterable[float] | None = None,
    ) -> StreamingSorter:
        """Take blocks as a recording holds them: its gains, its offsets, its order of channels.

        Raises
        ------
        ValueError
            If the recording does not fit the checkpoint.
        """
        sorter = checkpoint if isinstance(checkpoint, Sorter) else Sorter.load(checkpoint)
        match_channels(
            np.asarray(sorter.card.contact_positions_um),
            recording,
            card_sampling_frequency=sorter.card.sampling_frequency,
        )
        return cls(
            sorter,
            gain_to_uv=recording.get_channel_gains(),
            offset_to_uv=recording.get_channel_offsets(),
            contact_positions_um=recording.get_channel_locations(),
            thresholds=thresholds,
            bad_channels=np.flatnonzero(handling_of(recording).bad).tolist(),
            blanking=handling_of(recording).blanking or False,
        )

    @property
    def blanked(self) -> np.ndarray:
        """Stretches [start, stop) of the stream that were cut out so far: int64, (K, 2)."""
        now = [self._blanked_now()] if self._buffer is not None else []
        return merged(np.concatenate([np.zeros((0, 2), dtype=np.int64), *self._blanked, *now]))

    @property
    def motion(self) -> FollowedMotion | None:
        """Motion of the tissue so far; None where nothing follows it. Behind a gap it begins anew at 0."""
        follower = self.sorter.follower()
        if follower is None:
            return None
        return FollowedMotion.of_cells(
            self._shifts,
            depths_um=follower.depths_um,
            length_s=self._grid / self.sampling_frequency,
            sampling_frequency=self.sampling_frequency,
        )

    @property
    def num_channels(self) -> int:
        """Columns of a block."""
        return len(self._positions)

    @property
    def sampling_frequency(self) -> float:
        """In Hz."""
        return self.sorter.card.sampling_frequency

    @property
    def next_sample(self) -> int:
        """Sample index that the next block begins with, unless it says otherwise."""
        return self._known

    @property
    def latency(self) -> Latency:
        """How long a spike takes to become certain, computing time apart."""
        network, to_ms = self.sorter.network, 1000 / self.sampling_frequency
        after = network.window_samples - network.peak_offset_samples - 1
        filtered, block = self._filter_margin, self._grid
        decision = self._detector.margin_samples
        if isinstance(network, PursuitNetwork) and isinstance(self._detector, ScoreDetector):
            filtered, block = network.bandpass.num_taps // 2, 0
            after -= filtered
            decision = self._detector.latency_samples + network.stride
        return Latency(
            filter_ms=filtered * to_ms,
            window_ms=after * to_ms,
            block_ms=block * to_ms,
            decision_ms=decision * to_ms,
            blanking_ms=self._look_ahead * to_ms,
        )

    def push(self, block: np.ndarray, start_sample: int | None = None) -> Spikes:
        """Take the next samples and return the spikes that became certain.

        Parameters
        ----------
        block : array, shape (n, C)
            Integers or real numbers in the stored unit, always of one type; n may be 0.
        start_sample : int, optional
            Sample index of the first row. If it lies behind `next_sample`, samples are missing: what came
            before them is finished, `gaps` counts, and sorting begins anew. By default nothing is missing.

        Returns
        -------
        Spikes
            By sample, then unit; the sample indices are those of the stream. A spike may lie up to 1 ms
            before one that was returned earlier.

        Raises
        ------
        ValueError
            If the block does not fit, holds a NaN, or begins before `next_sample`. It was not taken then, and
            the next one may be.
        """
        block = self._checked(block)
        start_sample = self._known if start_sample is None else start_sample
        if self._buffer is not None and start_sample < self._known:
            raise ValueError(f"expected a block from sample {self._known} on, got one from {start_sample} on")
        check_finite(block, start_sample, np.arange(self.num_channels))
        found = []
        if self._buffer is not None and start_sample > self._known:
            self.gaps += 1
            self.missing_samples += start_sample - self._known
            logger.warning(
                "samples %d to %d are missing: sorting begins anew behind them", self._known, start_sample
            )
            found.append(self.finish())
        if self._buffer is None:
            self._begin(start_sample, block.dtype)
        assert self._buffer is not None
        self._buffer.append(block)
        self._known += len(block)
        found.append(self._advance())
        return _joined(found)

    def finish(self) -> Spikes:
        """Return the spikes of the last samples: nothing follows them. The next block begins anew."""
        if self._buffer is None:
            return no_spikes()
        self._buffer.end()
        spikes = _joined([self._advance(), self._in_stream(self._detector.finish())])
        self._blanked.append(self._blanked_now())
        self._buffer = None
        return spikes

    def _checked(self, block: np.ndarray) -> np.ndarray:
        block = np.asarray(block)
        if block.ndim != 2 or block.shape[1] != self.num_channels:
            raise ValueError(
                f"expected a block of shape (samples, {self.num_channels} channels), got {block.shape}"
            )
        if block.dtype.kind not in "iuf":
            raise ValueError(f"expected a block of integers or real numbers, got {block.dtype}")
        if self._buffer is not None and block.dtype != self._dtype:
            raise ValueError(f"expected a block of {self._dtype} as the blocks before, got {block.dtype}")
        return block

    def _new_buffer(self, dtype: np.dtype) -> BufferedRecording:
        return BufferedRecording(
            sampling_frequency=self.sampling_frequency,
            dtype=dtype,
            contact_positions_um=self._positions,
            **self._units,
        )

    def _begin(self, start_sample: int, dtype: np.dtype) -> None:
        """Forget all that came before."""
        self._start = self._known = start_sample
        self._dtype = dtype
        self._buffer = self._new_buffer(dtype)
        self._prepared = self._prepare(self._buffer)
        if isinstance(self._detector, ScoreDetector):
            self._detector.reset()  # its tables take a second to make
        else:
            self._detector = self.sorter.detector(self._thresholds)
        self._follower = self.sorter.follower()
        self._cell: PiecewiseCell | None = None
        self._next = 0  # output that comes next, in samples of this stretch

    def _prepare(self, buffer: BufferedRecording) -> PreparedRecording:
        return self.sorter.prepare(marked(buffer, **self._marks))

    def _blanked_now(self) -> np.ndarray:
        """What was cut out since sorting began anew, at the stream's samples."""
        return self._prepared.blanked_stretches(0, self._next) + self._start

    @property
    def _look_ahead(self) -> int:
        """Samples after one that say whether it is blanked."""
        return 0 if self._prepared.blanked is None else self._prepared.blanked.look_ahead_samples

    @property
    def _filter_margin(self) -> int:
        return self.sorter.preprocessing.margin_samples(self.sampling_frequency)

    @property
    def _grid(self) -> int:
        """Blocks of this length are computed as one wherever their numbers depend on that."""
        return block_samples(self.sorter.network, self.sampling_frequency)

    def _advance(self) -> Spikes:
        """Compute what the samples that are there allow."""
        buffer, network = self._buffer, self.sorter.network
        assert buffer is not None
        if buffer.stop_sample < max(network.window_samples, self.sorter.preprocessing.min_samples):
            return no_spikes()
        ended = buffer.get_num_samples() == buffer.stop_sample
        after = network.window_samples - network.peak_offset_samples - 1 + self._filter_margin
        blanked = self._prepared.blanked
        known = buffer.stop_sample
        if not ended and blanked is not None:
            known = blanked.certain_until(known)
        ready = known if ended else known - after
        found = []
        with one_thread_each():
            while self._next < ready:
                length = self._grid
                if isinstance(network, PursuitNetwork) and not ended:
                    length = min(length, (ready - self._next) // network.stride * network.stride)
                if self._follower is not None:  # one cell at a time
                    length = min(length, self._grid - self._next % self._grid)
                if length == 0 or (self._next + length > ready and not ended):
                    break
                found.append(self._in_stream(self._detector.push(self._outputs(length), self._next)))
                self._next += length
        history = 0 if blanked is None else blanked.reach_samples
        # What is not certain yet is looked at again, with all that decides on it.
        first = min(self._next - network.peak_offset_samples - self._filter_margin, known)
        buffer.forget(first - 2 * history)
        if blanked is not None:
            old = blanked.forget(self._next - round(self.sampling_frequency))
            self._blanked.extend([old + self._start] if len(old) else [])
        return _joined(found)

    def _outputs(self, length: int) -> np.ndarray:
        """Outputs of the next samples, (length / stride, U)."""
        network, start = self.sorter.network, self._next
        if self._follower is None:
            return compute_block(network, self._prepared, start, length).outputs
        if self._cell is None or self._cell.cell != start // self._grid:
            if self._cell is not None:
                self._cell.end()
            self._cell = self._follower.piecewise(start // self._grid)
            self._shifts[start + self._start] = self._cell.shift_um
        stop = min(self._prepared.num_samples, start + length)
        return self._cell.scores(network.filtered(*window_of(network, self._prepared, start, stop)))

    def _in_stream(self, spikes: Spikes) -> Spikes:
        """Spikes of this stretch, at the stream's samples."""
        assert self._buffer is not None
        sample = spikes.sample_index
        kept = (sample >= 0) & (sample < self._buffer.stop_sample)
        kept &= ~within(sample, self._prepared.blanked_stretches(0, self._buffer.stop_sample))
        return Spikes(sample[kept] + self._start, spikes.unit_index[kept], spikes.probability[kept])


def _joined(found: list[Spikes]) -> Spikes:
    if not found:
        return no_spikes()
    columns = [
        np.concatenate([getattr(spikes, name) for spikes in found])
        for name in ("sample_index", "unit_index", "probability")
    ]
    order = np.lexsort((columns[1], columns[0]))
    return Spikes(*(column[order] for column in columns))
