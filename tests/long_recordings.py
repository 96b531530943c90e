"""Recordings of any length that lie nowhere: a short one over and over."""

import numpy as np
from spikeinterface.core import BaseRecording, BaseRecordingSegment


class Repeated(BaseRecording):
    """The samples of a short recording again and again.

    Parameters
    ----------
    recording : BaseRecording
        Held in memory.
    num_samples : int
    first_row : int
        Row of the short recording that its sample 0 is.
    """

    def __init__(self, recording, num_samples, first_row=0):
        super().__init__(recording.sampling_frequency, recording.channel_ids, recording.dtype)
        self.add_recording_segment(
            _Segment(recording.get_traces(), recording.sampling_frequency, num_samples, first_row)
        )
        self.set_channel_gains(recording.get_channel_gains())
        self.set_channel_offsets(recording.get_channel_offsets())
        self.set_dummy_probe_from_locations(recording.get_channel_locations())


class _Segment(BaseRecordingSegment):
    def __init__(self, traces, sampling_frequency, num_samples, first_row):
        super().__init__(sampling_frequency=sampling_frequency)
        self.traces = traces
        self.num_samples = num_samples
        self.first_row = first_row

    def get_num_samples(self):
        return self.num_samples

    def get_traces(self, start_frame, end_frame, channel_indices):
        rows = (np.arange(start_frame, end_frame) + self.first_row) % len(self.traces)
        traces = self.traces[rows]
        return traces if channel_indices is None else traces[:, channel_indices]
