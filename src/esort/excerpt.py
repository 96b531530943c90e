"""Some short stretches of a recording, enough to judge the whole by."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording

__all__ = ["Excerpt", "take_excerpt"]

# So many places, together at most so large.
_PLACES = 10
_BYTES = 160e6
# Noise of a channel over the median of all. SpikeInterface's "mad" has the same factor for noisy ones, and
# none for dead ones; its coherence wants a probe full of channels in tissue, else it would silence good ones.
_NOISY, _DEAD = 5.0, 0.1
# A channel that is bad at so many places is not to be trusted at the others; at one, something else happened.
_BAD_PLACES = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Excerpt:
    """Some short stretches of a recording.

    Parameters
    ----------
    raw : list of arrays, shape (N, C)
        As stored.
    filtered : list of float32 arrays, shape (N, C)
        The same behind the filter, in µV where the gain is known.
    noise_at : float64 array, shape (P, C)
        Median absolute deviation over 0.6745 of each of `filtered`.
    positions_um : float array, shape (C, 2)
    channel_ids : array, shape (C,)
    sampling_frequency : float
    in_uv : bool
        Whether the gain is known.
    """

    raw: list[np.ndarray]
    filtered: list[np.ndarray]
    noise_at: np.ndarray
    positions_um: np.ndarray
    channel_ids: np.ndarray
    sampling_frequency: float
    in_uv: bool

    @property
    def noise(self) -> np.ndarray:
        """Mean over the places, shape (C,), as `preprocessing.noise_levels_uv` has it."""
        return self.noise_at.mean(axis=0)

    @cached_property
    def constant_at(self) -> np.ndarray:
        """Which channels never change, at each place, bool (P, C)."""
        return np.stack([(traces == traces[0]).all(axis=0) for traces in self.raw])

    @property
    def constant(self) -> np.ndarray:
        """Which channels never change at any place, bool (C,)."""
        return np.asarray(self.constant_at.all(axis=0))

    @property
    def seconds(self) -> float:
        """Length of all stretches together."""
        return sum(map(len, self.raw)) / self.sampling_frequency

    def dead_and_noisy(self) -> tuple[np.ndarray, np.ndarray]:
        """Tell which channels are far quieter or louder than the others, on the whole or at some places.

        Returns
        -------
        dead, noisy : bool arrays, shape (C,)
            A channel that died or became noisy in mid-recording is among them, if that was not at the very
            end. Places at which the whole probe is silent tell nothing.
        """
        at_places = np.where(self.constant_at, 0.0, self.noise_at)  # (P, C); NaN where there is a NaN
        on_the_whole = np.where(self.constant, 0.0, self.noise)
        dead, noisy = _far_off(at_places)
        dead_overall, noisy_overall = _far_off(on_the_whole[None])
        dead = dead_overall[0] | (dead.sum(axis=0) >= _BAD_PLACES)
        return dead, ~dead & (noisy_overall[0] | (noisy.sum(axis=0) >= _BAD_PLACES))

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
        noise_at=np.stack(spread).astype(np.float64) / 0.6745,
        positions_um=np.asarray(recording.get_channel_locations(), dtype=float)[:, :2],
        channel_ids=np.asarray(recording.channel_ids),
        sampling_frequency=rate,
        in_uv=recording.get_channel_gains() is not None,
    )


def _far_off(noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tell which noise levels, (P, C), are far below and far above what is usual in their row."""
    usual = np.array([np.median(row[row > 0]) if (row > 0).any() else np.nan for row in noise])[:, None]
    return noise < _DEAD * usual, noise > _NOISY * usual
