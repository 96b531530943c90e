"""Some short stretches of a recording, enough to judge the whole by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording

__all__ = ["Excerpt", "take_excerpt"]

# So many places, together at most so large.
_PLACES = 10
_BYTES = 160e6


@dataclass(frozen=True, kw_only=True, eq=False)
class Excerpt:
    """Some short stretches of a recording.

    Parameters
    ----------
    raw : list of arrays, shape (N, C)
        As stored.
    filtered : list of float32 arrays, shape (N, C)
        The same behind the filter, in µV where the gain is known.
    noise : float64 array, shape (C,)
        Median absolute deviation over 0.6745 of `filtered`, as `preprocessing.noise_levels_uv` has it.
    positions_um : float array, shape (C, 2)
    channel_ids : array, shape (C,)
    sampling_frequency : float
    in_uv : bool
        Whether the gain is known.
    """

    raw: list[np.ndarray]
    filtered: list[np.ndarray]
    noise: np.ndarray
    positions_um: np.ndarray
    channel_ids: np.ndarray
    sampling_frequency: float
    in_uv: bool

    @property
    def seconds(self) -> float:
        """Length of all stretches together."""
        return sum(map(len, self.raw)) / self.sampling_frequency

    def names(self, channels: np.ndarray) -> str:
        """Names of the channels at these positions, the first few of many."""
        names = [str(self.channel_ids[channel]) for channel in channels]
        return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")


def take_excerpt(recording: BaseRecording, behind: BaseRecording, *, seconds: float = 5.0) -> Excerpt:
    """Read stretches that lie evenly over the recording.

    Parameters
    ----------
    recording : BaseRecording
    behind : BaseRecording
        The same behind a filter.
    seconds : float
        Length of all stretches together, at most; of many channels fewer, so that memory is bounded.
    """
    num_samples, rate = int(recording.get_num_samples()), float(recording.sampling_frequency)
    in_all = min(seconds * rate, _BYTES / 4 / recording.get_num_channels(), num_samples)
    length = max(1, int(in_all / _PLACES))
    starts = np.linspace(0, num_samples - length, _PLACES).astype(int).tolist()
    stretches = [{"start_frame": start, "end_frame": start + length} for start in starts]
    filtered = [behind.get_traces(**stretch).astype(np.float32, copy=False) for stretch in stretches]
    spread = [np.median(np.abs(traces - np.median(traces, axis=0)), axis=0) for traces in filtered]
    return Excerpt(
        raw=[recording.get_traces(**stretch) for stretch in stretches],
        filtered=filtered,
        noise=np.mean(spread, axis=0).astype(np.float64) / 0.6745,
        positions_um=np.asarray(recording.get_channel_locations(), dtype=float)[:, :2],
        channel_ids=np.asarray(recording.channel_ids),
        sampling_frequency=rate,
        in_uv=recording.get_channel_gains() is not None,
    )
