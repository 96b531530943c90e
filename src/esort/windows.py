"""Windows cut from traces, and what the labelled ones have in common: the units' mean waveforms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from esort.labels import LabelledSpikes

if TYPE_CHECKING:
    from esort.network import SpikeNetwork

__all__ = ["EstimateWaveforms", "Window", "cut_windows", "mean_waveforms"]

# More waveforms than these cost time and gain nothing.
_MAX_WAVEFORMS = 60
# From this many waveforms on, the highest and the lowest quarter of the values are left out.
_MIN_TO_TRIM = 4
# The variance of such a mean is larger than that of the whole by this factor (Gaussian noise).
_TRIMMED_VARIANCE = 1.2


@dataclass(frozen=True, kw_only=True)
class Window:
    """A stretch of time around a spike's peak.

    Parameters
    ----------
    before_samples : int
        Samples before the peak's own.
    samples : int
        Length of the window.
    """

    before_samples: int
    samples: int

    def __post_init__(self) -> None:
        if not 0 <= self.before_samples < self.samples:
            raise ValueError(
                f"the peak must lie inside the window's {self.samples} samples, got {self.before_samples}"
            )

    @classmethod
    def of(cls, network: SpikeNetwork) -> Window:
        """What a network sees of a spike."""
        return cls(before_samples=network.peak_offset_samples, samples=network.window_samples)

    @property
    def after_samples(self) -> int:
        """Samples from the peak's own to the end."""
        return self.samples - self.before_samples

    def times_ms(self, sampling_frequency: float) -> np.ndarray:
        """Times of the samples from the peak, float64 (T,), in ms; the rate in Hz."""
        return (np.arange(self.samples) - self.before_samples) / sampling_frequency * 1000

    def widened(self, margin_samples: int) -> Window:
        """The window with a margin on either side."""
        return Window(
            before_samples=self.before_samples + margin_samples, samples=self.samples + 2 * margin_samples
        )


EstimateWaveforms = Callable[[np.ndarray, LabelledSpikes, Window], np.ndarray]
"""Of traces, labels and window returns each unit's waveform, as `mean_waveforms` does."""


def cut_windows(traces: np.ndarray, sample_index: np.ndarray, window: Window) -> np.ndarray:
    """Cut the window around each sample.

    Parameters
    ----------
    traces : float32 array, shape (N, C)
        May be a memory map; only what is asked for is read.
    sample_index : int array, shape (B,)
        All windows must lie inside the traces.
    window : Window

    Returns
    -------
    float32 array, shape (B, T, C)

    Raises
    ------
    ValueError
        If a window reaches beyond the traces.
    """
    starts = np.asarray(sample_index) - window.before_samples
    if starts.size and not 0 <= starts.min() <= starts.max() <= len(traces) - window.samples:
        raise ValueError(
            f"windows must lie inside the {len(traces)} samples of the traces, "
            f"got {starts.min()} to {starts.max() + window.samples}"
        )
    windows = np.empty((starts.size, window.samples, traces.shape[1]), dtype=np.float32)
    for row, start in enumerate(starts):  # whole blocks are copied much faster than gathered rows
        windows[row] = traces[start : start + window.samples]
    return windows


def mean_waveforms(
    traces: np.ndarray, labels: LabelledSpikes, window: Window, *, masked: bool = True
) -> np.ndarray:
    """Estimate each unit's waveform from its labelled spikes.

    The interquartile mean over spikes (robust against spikes of others nearby; the mean below four), on those
    channels where it stands out from what the noise alone would leave.

    Parameters
    ----------
    traces : float32 array, shape (N, C)
        In units of the noise level; row 0 is the recording's sample 0.
    labels : LabelledSpikes
        All windows must lie inside the traces.
    window : Window
    masked : bool
        Whether the channels that do not stand out are zero.

    Returns
    -------
    float32 array, shape (U, T, C)

    Raises
    ------
    ValueError
        If a unit has no labelled spike.
    """
    empty = [str(labels.unit_ids[unit_index]) for unit_index in np.flatnonzero(labels.counts() == 0)]
    if empty:
        raise ValueError(f"expected a labelled spike of each unit, got none of: {', '.join(empty)}")
    waveforms = np.zeros((labels.num_units, window.samples, traces.shape[1]), dtype=np.float32)
    for unit_index in range(labels.num_units):
        of_unit = labels.sample_index[labels.unit_index == unit_index]
        if of_unit.size > _MAX_WAVEFORMS:
            of_unit = of_unit[np.linspace(0, of_unit.size - 1, _MAX_WAVEFORMS).astype(int)]
        windows = cut_windows(traces, of_unit, window)  # (k, T, C)
        trimmed = of_unit.size // 4 if of_unit.size >= _MIN_TO_TRIM else 0
        if trimmed:
            windows = np.sort(windows, axis=0)[trimmed:-trimmed]
        waveform = windows.mean(axis=0)  # (T, C)
        if not masked:
            waveforms[unit_index] = waveform
            continue
        energy = np.square(waveform).sum(axis=0)  # (C,)
        of_noise = window.samples / of_unit.size * (_TRIMMED_VARIANCE if trimmed else 1.0)
        stands_out = energy > np.minimum(2 * of_noise, energy.max())
        stands_out[energy.argmax()] = True  # a unit that drowns in noise keeps its best channel
        waveforms[unit_index] = waveform * stands_out
    return waveforms
