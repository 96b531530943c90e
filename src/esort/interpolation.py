"""NaN and infinity in traces: bridged in time, lazily, the same for any piece of the recording."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from spikeinterface.preprocessing.basepreprocessor import BasePreprocessor, BasePreprocessorSegment

from esort.artifacts import zero_levels

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording

__all__ = ["InterpolatedRecording"]

# A value that far from the next finite one is not made up from it.
_REACH_S = 0.1


class InterpolatedRecording(BasePreprocessor):
    """A recording with a straight line, channel by channel, over its NaN and infinite values.

    Where only one finite value lies within 0.1 s it is held, where none does the traces are 0 µV.

    Parameters
    ----------
    recording : BaseRecording
        Of real numbers, one segment. Integers pass through.
    """

    def __init__(self, recording: BaseRecording) -> None:
        super().__init__(recording)
        reach = max(1, round(_REACH_S * float(recording.sampling_frequency)))
        self.add_recording_segment(_Segment(recording.segments[0], reach, zero_levels(recording)))
        self._kwargs = {"recording": recording}


class _Segment(BasePreprocessorSegment):
    def __init__(self, parent: Any, reach: int, zero: np.ndarray) -> None:
        super().__init__(parent)
        self.reach, self.zero = reach, zero

    def get_traces(self, start_frame, end_frame, channel_indices):  # type: ignore[no-untyped-def]
        start = 0 if start_frame is None else int(start_frame)
        stop = self.get_num_samples() if end_frame is None else int(end_frame)
        traces = self.parent_recording_segment.get_traces(start, stop, channel_indices)
        if traces.dtype.kind != "f" or np.isfinite(traces).all():
            return traces
        first, last = max(0, start - self.reach), min(self.get_num_samples(), stop + self.reach)
        wide = self.parent_recording_segment.get_traces(first, last, channel_indices)
        zero = self.zero if channel_indices is None else self.zero[channel_indices]
        bridged = traces.copy()
        finite = np.isfinite(wide)
        for channel in np.flatnonzero(~np.isfinite(traces).all(axis=0)):
            rows = np.flatnonzero(~np.isfinite(traces[:, channel]))
            bridged[rows, channel] = _bridge(
                wide[:, channel],
                np.flatnonzero(finite[:, channel]),
                rows + start - first,
                self.reach,
                zero[channel],
            )
        return bridged


def _bridge(values: np.ndarray, finite: np.ndarray, rows: np.ndarray, reach: int, zero: float) -> np.ndarray:
    """What to put at some rows, from the finite ones around them."""
    if not finite.size:
        return np.full(len(rows), zero)
    position = np.searchsorted(finite, rows)
    before, after = finite[np.maximum(position - 1, 0)], finite[np.minimum(position, len(finite) - 1)]
    has_before = (position > 0) & (rows - before <= reach)
    has_after = (position < len(finite)) & (after - rows <= reach)
    left, right = values[before].astype(np.float64), values[after].astype(np.float64)
    share = (rows - before) / np.maximum(after - before, 1)
    between = left + (right - left) * share
    return np.select([has_before & has_after, has_before, has_after], [between, left, right], zero)
