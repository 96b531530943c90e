"""The last samples of a stream as a recording, so that filter and scaling are those of any other."""

from __future__ import annotations

import numpy as np
from spikeinterface.core import BaseRecording, BaseRecordingSegment

__all__ = ["BufferedRecording"]

# While a stream goes on nobody knows its length.
_ENDLESS = 2**62


class BufferedRecording(BaseRecording):
    """A recording that grows, and keeps only its end.

    Parameters
    ----------
    sampling_frequency : float
        In Hz.
    dtype : dtype
        Of the blocks.
    contact_positions_um : float array, shape (C, 2)
        In the order of the blocks' columns.
    gain_to_uv, offset_to_uv : float or (C,) floats, optional
        Stored value × gain + offset = µV. None: nobody knows the unit.
    """

    def __init__(
        self,
        *,
        sampling_frequency: float,
        dtype: np.dtype,
        contact_positions_um: np.ndarray,
        gain_to_uv: float | np.ndarray | None = None,
        offset_to_uv: float | np.ndarray | None = None,
    ) -> None:
        num_channels = len(contact_positions_um)
        super().__init__(sampling_frequency, list(range(num_channels)), dtype)
        self._segment = _Segment(sampling_frequency, np.zeros((0, num_channels), dtype=dtype))
        self.add_recording_segment(self._segment)
        if gain_to_uv is not None:
            self.set_channel_gains(gain_to_uv)
            self.set_channel_offsets(0.0 if offset_to_uv is None else offset_to_uv)
        self.set_dummy_probe_from_locations(np.asarray(contact_positions_um, dtype=float))

    @property
    def stop_sample(self) -> int:
        """Samples that have come."""
        return self._segment.first + len(self._segment.held)

    @property
    def num_held(self) -> int:
        """Samples that are in memory."""
        return len(self._segment.held)

    def append(self, block: np.ndarray) -> None:
        """Take the next samples, (n, C)."""
        self._segment.held = np.concatenate([self._segment.held, block])

    def forget(self, before: int) -> None:
        """Let go of the samples before one."""
        segment = self._segment
        count = min(max(before - segment.first, 0), len(segment.held))
        if count:
            segment.held, segment.first = segment.held[count:].copy(), segment.first + count

    def end(self) -> None:
        """No more samples come."""
        self._segment.ended = True


class _Segment(BaseRecordingSegment):
    def __init__(self, sampling_frequency: float, held: np.ndarray) -> None:
        super().__init__(sampling_frequency=sampling_frequency)
        self.held = held
        self.first = 0
        self.ended = False

    def get_num_samples(self) -> int:
        return self.first + len(self.held) if self.ended else _ENDLESS

    def get_traces(self, start_frame=None, end_frame=None, channel_indices=None):  # type: ignore
        assert self.first <= start_frame <= end_frame <= self.first + len(self.held)
        traces = self.held[start_frame - self.first : end_frame - self.first]
        return traces if channel_indices is None else traces[:, channel_indices]
