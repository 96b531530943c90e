"""Sorting while the recording goes on: blocks in, spikes out as soon as they are certain.

The spikes are those of `esort.sorter.Sorter.sort`, to the sample, for blocks of any length.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from esort.blanking import Blanking
from esort.buffered import BufferedRecording
from esort.detector import Detector, joined_spikes, no_spikes
from esort.fitness import Fitness
from esort.handling import handling_of, marked
from esort.health import check_finite, match_channels
from esort.inference import block_samples
from esort.latency import Latency
from esort.minutes import Minutes
from esort.motion import FollowedMotion
from esort.postprocess import Spikes
from esort.prepared import PreparedRecording
from esort.pursuit.detector import ScoreDetector
from esort.pursuit.network import PursuitNetwork
from esort.sorter import Sorter
from esort.stretches import merged
from esort.unbroken import UnbrokenStretch
from esort.unknown import UnknownEvents

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording

__all__ = ["StreamingSorter"]

logger = logging.getLogger(__name__)

# What was seen is added up so often.
_COLLECT_S = 0.4


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
        self._known = 0
        self._stretch: UnbrokenStretch | None = None
        # Of the stretches before this one.
        self._blanked: list[np.ndarray] = []
        self._shifts: dict[int, np.ndarray] = {}  # by the first samples of their cells
        self._spikes: list[Spikes] = []  # that were not counted yet
        self._unknown: list[UnknownEvents] = []
        self._minutes: dict[int, Minutes] = {}
        self._collected = 0
        self.gaps = 0
        """How many times samples were missing."""
        self.missing_samples = 0
        """How many were missing in all."""
        recording = self._new_buffer(np.dtype("float32"))
        self._channel_order = order = match_channels(
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
        now = [] if self._stretch is None else [self._stretch.blanked]
        return merged(np.concatenate([np.zeros((0, 2), dtype=np.int64), *self._blanked, *now]))

    @property
    def motion(self) -> FollowedMotion | None:
        """Motion of the tissue so far; None where nothing follows it. Behind a gap it begins anew at 0."""
        follower = self.sorter.follower()
        if follower is None:
            return None
        return FollowedMotion.of_cells(
            self._shifts | ({} if self._stretch is None else self._stretch.shifts),
            depths_um=follower.depths_um,
            length_s=block_samples(self.sorter.network, self.sampling_frequency) / self.sampling_frequency,
            sampling_frequency=self.sampling_frequency,
        )

    @property
    def unknown(self) -> UnknownEvents:
        """Large events so far that no unit explains; channels are columns of the blocks.

        They are told some milliseconds after the spikes around them.
        """
        self._collect()
        self._unknown = [UnknownEvents.joined(self._unknown)]
        return self._unknown[0]

    @property
    def health(self) -> Fitness:
        """Whether the units still fit what is recorded, minute by minute so far."""
        unknown, card = self.unknown, self.sorter.card
        minutes = Minutes.joined(self._minutes.values())
        return Fitness.of(
            Minutes.zeros(np.zeros(0), card.num_units, self.num_channels) if minutes is None else minutes,
            unknown,
            self.motion,
            self.sorter.tables.baseline,
            unit_ids=card.unit_ids,
            channel_ids=tuple(range(self.num_channels)),
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
        filtered = self.sorter.preprocessing.margin_samples(self.sampling_frequency)
        # Networks whose numbers depend on where a block begins compute whole ones.
        block = block_samples(network, self.sampling_frequency)
        decision, blanked = self._detector.margin_samples, self._prepared.blanked
        if isinstance(network, PursuitNetwork) and isinstance(self._detector, ScoreDetector):
            filtered, block = network.bandpass.num_taps // 2, 0
            after -= filtered
            decision = self._detector.latency_samples + network.stride
        return Latency(
            filter_ms=filtered * to_ms,
            window_ms=after * to_ms,
            block_ms=block * to_ms,
            decision_ms=decision * to_ms,
            blanking_ms=0.0 if blanked is None else blanked.look_ahead_samples * to_ms,
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
        if self._stretch is not None and start_sample < self._known:
            raise ValueError(f"expected a block from sample {self._known} on, got one from {start_sample} on")
        check_finite(block, start_sample, np.arange(self.num_channels))
        found = []
        if self._stretch is not None and start_sample > self._known:
            self.gaps += 1
            self.missing_samples += start_sample - self._known
            logger.warning(
                "samples %d to %d are missing: sorting begins anew behind them", self._known, start_sample
            )
            found.append(self.finish())
        if self._stretch is None:
            self._stretch = self._begin(start_sample, block.dtype)
        self._known += len(block)
        found.append(self._stretch.push(block))
        self._spikes.append(found[-1])
        if self._known - self._collected > _COLLECT_S * self.sampling_frequency:
            self._collect()
        return joined_spikes(found)

    def finish(self) -> Spikes:
        """Return the spikes of the last samples: nothing follows them. The next block begins anew."""
        if self._stretch is None:
            return no_spikes()
        spikes = self._stretch.finish()
        self._spikes.append(spikes)
        self._collect()
        self._blanked.append(self._stretch.blanked)
        self._shifts |= self._stretch.shifts
        self._stretch = None
        return spikes

    def _checked(self, block: np.ndarray) -> np.ndarray:
        block = np.asarray(block)
        if block.ndim != 2 or block.shape[1] != self.num_channels:
            raise ValueError(
                f"expected a block of shape (samples, {self.num_channels} channels), got {block.shape}"
            )
        if block.dtype.kind not in "iuf":
            raise ValueError(f"expected a block of integers or real numbers, got {block.dtype}")
        if self._stretch is not None and block.dtype != self._dtype:
            raise ValueError(f"expected a block of {self._dtype} as the blocks before, got {block.dtype}")
        return block

    def _new_buffer(self, dtype: np.dtype) -> BufferedRecording:
        return BufferedRecording(
            sampling_frequency=self.sampling_frequency,
            dtype=dtype,
            contact_positions_um=self._positions,
            **self._units,
        )

    def _begin(self, start_sample: int, dtype: np.dtype) -> UnbrokenStretch:
        """Forget all that came before."""
        self._known = self._collected = start_sample
        self._dtype = dtype
        buffer = self._new_buffer(dtype)
        self._prepared = self._prepare(buffer)
        if isinstance(self._detector, ScoreDetector):
            self._detector.reset()  # its tables take a second to make
        else:
            self._detector = self.sorter.detector(self._thresholds)
        return UnbrokenStretch(
            self.sorter, self._detector, buffer, self._prepared, self._channel_order, start_sample
        )

    def _collect(self) -> None:
        """Add up what was seen since the last time."""
        if self._stretch is None:
            return
        unknown, minutes = self._stretch.seen()
        self._unknown.append(unknown)
        spikes, self._spikes = joined_spikes(self._spikes), []
        minutes = minutes.with_spikes(spikes, self.sampling_frequency)
        for row in range(len(minutes)):
            new = minutes.chosen(slice(row, row + 1))
            known = self._minutes.setdefault(int(new.minute[0]), new)
            if known is not new:
                known.add(new)
        self._collected = self._known

    def _prepare(self, buffer: BufferedRecording) -> PreparedRecording:
        return self.sorter.prepare(marked(buffer, **self._marks))
