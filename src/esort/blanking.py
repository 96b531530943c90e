"""A recording without its artefacts: lazily, the same for any piece of it, with a note of where they were."""

from __future__ import annotations

from dataclasses import asdict
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from spikeinterface.preprocessing.basepreprocessor import BasePreprocessor, BasePreprocessorSegment

from esort.artifacts import ArtifactFinder, Blanking, zero_levels
from esort.stretches import merged, runs_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from spikeinterface.core import BaseRecording

__all__ = ["BlankedRecording", "Blanking"]

# Stretches up to this length are bridged by a straight line between the samples around them. In longer ones
# the traces go to 0 µV within half of it, slowly enough for the band-pass to see nothing.
_BRIDGE_MS = 30.0
# Samples on either side that say where a bridge begins and ends.
_EDGE = 8


class BlankedRecording(BasePreprocessor):
    """A recording without its artefacts, lazily; it notes where it found some.

    Parameters
    ----------
    recording : BaseRecording
        As stored, one segment.
    blanking : Blanking or dict
    ignored : sequence of int
        Positions of bad channels, which do not count.
    """

    def __init__(
        self, recording: BaseRecording, blanking: Blanking | dict[str, Any], ignored: Iterable[int] = ()
    ) -> None:
        super().__init__(recording)
        self.blanking = Blanking(**blanking) if isinstance(blanking, dict) else blanking
        ignored = [int(channel) for channel in ignored]
        self._segment = _Segment(recording, self.blanking, ignored)
        self.add_recording_segment(self._segment)
        self._kwargs = {"recording": recording, "blanking": asdict(self.blanking), "ignored": ignored}

    @property
    def reach_samples(self) -> int:
        """Samples before one that decide on it, at most."""
        return self._segment.reach + self._segment.finder.history

    @property
    def look_ahead_samples(self) -> int:
        """Samples after one that decide on it where nothing is found."""
        return self._segment.finder.future

    def certain_until(self, stop_sample: int) -> int:
        """Say up to which sample the traces are certain if only those before `stop_sample` are known."""
        segment = self._segment
        known = stop_sample - segment.finder.future
        start = max(0, known - segment.reach)
        if known <= 0:
            return 0
        return start if segment.read(start, known)[1].any() else known

    def stretches(self, start_sample: int, stop_sample: int) -> np.ndarray:
        """Return what was blanked of [start_sample, stop_sample), as far as it was read.

        Returns
        -------
        int64 array, shape (S, 2)
            Stretches [start, stop), in order, apart from each other.
        """
        with self._segment.lock:
            self._segment.found = merged(self._segment.found).tolist()
            found = np.array(self._segment.found, dtype=np.int64).reshape(-1, 2)
        clipped = np.clip(found, start_sample, stop_sample)
        return clipped[clipped[:, 0] < clipped[:, 1]]

    def forget(self, before: int) -> np.ndarray:
        """Return the stretches that end before a sample, (S, 2), and do not note them any longer."""
        every = self.stretches(0, self.get_num_samples())
        old = every[:, 1] < before
        with self._segment.lock:
            self._segment.found = every[~old].tolist()
        return every[old]


class _Segment(BasePreprocessorSegment):
    def __init__(self, recording: BaseRecording, blanking: Blanking, ignored: list[int]) -> None:
        super().__init__(recording.segments[0])
        self.finder = ArtifactFinder(recording, blanking, ignored)
        self.bridge = max(2, round(_BRIDGE_MS * float(recording.sampling_frequency) / 1000))
        self.reach = self.bridge + _EDGE + 1
        self.dtype, self.zero = np.dtype(recording.dtype), zero_levels(recording)
        self.lock = Lock()
        self.found: list[list[int]] = []

    def get_traces(self, start_frame, end_frame, channel_indices):  # type: ignore[no-untyped-def]
        start = 0 if start_frame is None else int(start_frame)
        stop = self.get_num_samples() if end_frame is None else int(end_frame)
        traces, blanked = self.read(start, stop)
        if blanked.any():
            with self.lock:
                self.found += (runs_of(blanked) + start).tolist()
            where = np.flatnonzero(blanked)
            traces = self._filled(start, stop, start + int(where[0]), start + int(where[-1]) + 1)
        return traces if channel_indices is None else traces[:, channel_indices]

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the stored samples of a stretch, (N, C), and which of them are blanked, (N,)."""
        first = max(0, start - self.finder.history)
        last = min(self.get_num_samples(), stop + self.finder.future)
        stored = self.parent_recording_segment.get_traces(first, last, slice(None))
        inside = slice(start - first, stop - first)
        return stored[inside], self.finder.find(stored)[inside]

    def _filled(self, start: int, stop: int, begin_blanked: int, end_blanked: int) -> np.ndarray:
        """The samples of a stretch with its blanked ones bridged."""
        first = max(0, min(start, begin_blanked - self.reach))
        last = min(self.get_num_samples(), max(stop, end_blanked + self.reach))
        stored, blanked = self.read(first, last)
        traces = stored.astype(np.float64)
        runs = runs_of(blanked)
        for number, (begin, end) in enumerate(runs):
            if end <= start - first or begin >= stop - first:
                continue
            earliest = runs[number - 1][1] if number else 0
            latest = runs[number + 1][0] if number + 1 < len(runs) else len(stored)
            left = stored[max(earliest, begin - _EDGE) : begin]
            right = stored[end : min(latest, end + _EDGE)]
            seen = (begin > 0 or first == 0) and (end < len(stored) or last == self.get_num_samples())
            place = np.arange(end - begin)[:, None]
            if seen and end - begin <= self.bridge:
                left, right = left if len(left) else right, right if len(right) else left
                if not len(left):
                    traces[begin:end] = self.zero
                    continue
                share = (place + 1) / (end - begin + 1)
                traces[begin:end] = (1 - share) * left.mean(axis=0) + share * right.mean(axis=0)
                continue
            traces[begin:end] = self.zero
            if len(left):
                traces[begin:end] += self._fading(place) * (left.mean(axis=0) - self.zero)
            if len(right):
                traces[begin:end] += self._fading(place[::-1]) * (right.mean(axis=0) - self.zero)
        traces = traces[start - first : stop - first]
        if self.dtype.kind == "f":
            return traces.astype(self.dtype, copy=False)
        limits = np.iinfo(self.dtype)
        return np.clip(np.rint(traces), limits.min, limits.max).astype(self.dtype)

    def _fading(self, distance: np.ndarray) -> np.ndarray:
        """From 1 to 0 within half a bridge."""
        phase: np.ndarray = np.minimum((distance + 1) / (self.bridge // 2 + 1), 1.0)
        return (1 + np.cos(np.pi * phase)) / 2
