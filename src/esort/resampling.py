"""A recording at another rate: by a polyphase filter, lazily, to the bit the same for any piece of it."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from spikeinterface.preprocessing.basepreprocessor import BasePreprocessor, BasePreprocessorSegment

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording

__all__ = ["ResampledRecording"]

# The rate is met to a millionth; samples are counted with the fraction, which is exact.
_LARGEST_DENOMINATOR = 1000
# Half length of the filter, in samples of the lower rate.
_REACH = 16


class ResampledRecording(BasePreprocessor):
    """A recording at another rate.

    SpikeInterface's own resampling transforms each piece as a whole, so its numbers depend on where it is
    cut.

    Parameters
    ----------
    recording : BaseRecording
        One segment.
    resample_rate : float
        In Hz.
    """

    def __init__(self, recording: BaseRecording, resample_rate: float) -> None:
        ratio = Fraction(resample_rate / recording.sampling_frequency).limit_denominator(_LARGEST_DENOMINATOR)
        super().__init__(recording, sampling_frequency=float(resample_rate), dtype="float32")
        self.up, self.down = ratio.numerator, ratio.denominator
        self.add_recording_segment(
            _Segment(recording.segments[0], self.up, self.down, float(resample_rate), recording.dtype)
        )
        self._kwargs = {"recording": recording, "resample_rate": float(resample_rate)}

    def to_original(self, sample_index: np.ndarray) -> np.ndarray:
        """Samples of the recording as it was, int64, nearest to samples of this one."""
        return (2 * np.asarray(sample_index, dtype=np.int64) * self.down + self.up) // (2 * self.up)

    def from_original(self, sample_index: int) -> int:
        """Last sample that does not lie behind one of the recording as it was."""
        return sample_index * self.up // self.down


class _Segment(BasePreprocessorSegment):
    def __init__(self, parent: Any, up: int, down: int, rate: float, dtype: Any) -> None:
        from scipy.signal import firwin

        super().__init__(parent)
        self.sampling_frequency, self.time_vector = rate, None
        self.up, self.down = up, down
        # Unsigned integers lie around the middle of their range.
        self.middle = 2.0 ** (8 * np.dtype(dtype).itemsize - 1) if np.dtype(dtype).kind == "u" else 0.0
        half = _REACH * max(up, down)
        self.half = half
        taps = firwin(2 * half + 1, 0.95 / max(up, down), window=("kaiser", 8.0)) * up
        self.taps = taps.astype(np.float32)

    def get_num_samples(self) -> int:
        return int(self.parent_recording_segment.get_num_samples()) * self.up // self.down

    def get_traces(self, start_frame, end_frame, channel_indices):  # type: ignore[no-untyped-def]
        from scipy.signal import upfirdn

        # Sample k of the output lies at sample k · down / up of the input; a whole one at multiples of up.
        start = int(start_frame) // self.up * self.up
        first = start // self.up * self.down
        margin = self.half // self.up + 1
        last = (int(end_frame) - 1) * self.down // self.up + 1
        available = self.parent_recording_segment.get_num_samples()
        low, high = max(0, first - margin), min(available, last + margin)
        stored = self.parent_recording_segment.get_traces(low, high, channel_indices)
        traces = stored.astype(np.float32) - np.float32(self.middle)
        traces = np.pad(traces, ((low - (first - margin), last + margin - high), (0, 0)), mode="edge")
        # Between the samples lie up - 1 zeros. The filter's middle meets sample `first` after this many.
        skipped = margin * self.up + self.half
        lead = -skipped % self.down
        filtered = upfirdn(np.pad(self.taps, (lead, 0)), traces, self.up, self.down, axis=0)
        begin = (skipped + lead) // self.down + int(start_frame) - start
        resampled: np.ndarray = filtered[begin : begin + int(end_frame) - int(start_frame)]
        return np.ascontiguousarray(resampled, dtype=np.float32)
