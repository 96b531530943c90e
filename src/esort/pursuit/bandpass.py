"""One filter for band-pass and decimation: linear phase, short, and exact at any chunk.

The high-pass takes away what a Gaussian average sees: its impulse response has one lobe, so that large
spikes leave no ringing behind them. It works at the reduced rate, where an average has few samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from esort.pursuit.compiled import decimate

__all__ = ["REDUCED_HZ", "Bandpass", "reduction"]

REDUCED_HZ = 10667.0
"""Rate that the reduced rate comes close to: spikes have little above 4 kHz."""

# Beyond so many standard deviations nothing is left of a Gaussian.
_GAUSSIAN_REACH = 4.0
# Where the response of 1 - exp(-f^2 / 2 f0^2) is 0.707, in f0.
_CORNER = math.sqrt(-2 * math.log(1 - math.sqrt(0.5)))
_LOWPASS_MS = 0.5
# Of the reduced rate; what lies above is weak behind the window's slope.
_HIGHEST = 0.45


def reduction(sampling_frequency: float) -> int:
    """Samples of the recording per row of the reduced rate."""
    return max(1, round(sampling_frequency / REDUCED_HZ))


@dataclass(frozen=True, kw_only=True, eq=False)
class Bandpass:
    """A low-pass, every so many-th sample of it, and a high-pass over these.

    Parameters
    ----------
    lowpass : float32 array, shape (K,)
        Symmetric, K odd.
    highpass : float32 array, shape (H,)
        Symmetric, H odd; at the reduced rate.
    step : int
        Samples per row of the reduced rate.
    """

    lowpass: np.ndarray
    highpass: np.ndarray
    step: int

    @classmethod
    def design(
        cls, sampling_frequency: float, *, freq_min_hz: float, freq_max_hz: float, step: int | None = None
    ) -> Bandpass:
        """Design the filter for a recording.

        Parameters
        ----------
        sampling_frequency : float
            In Hz.
        freq_min_hz : float
            Where the high-pass lets 71 % of the amplitude through.
        freq_max_hz : float
            Corner of the low-pass; lowered to what the reduced rate can hold.
        step : int, optional
            By default that of `reduction`.
        """
        step = reduction(sampling_frequency) if step is None else step
        reduced_hz = sampling_frequency / step
        half = math.ceil(_LOWPASS_MS * sampling_frequency / 1000)
        offsets = np.arange(-half, half + 1)
        cutoff = min(freq_max_hz, _HIGHEST * reduced_hz) / sampling_frequency
        lowpass = 2 * cutoff * np.sinc(2 * cutoff * offsets) * np.hanning(2 * half + 3)[1:-1]
        sigma = reduced_hz * _CORNER / (2 * math.pi * freq_min_hz)  # in rows
        reach = math.ceil(_GAUSSIAN_REACH * sigma)
        average = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        highpass = (-average / average.sum()).astype(np.float32)
        highpass[reach] = 0
        highpass[reach] = -highpass.sum(dtype=np.float64)  # no offset comes through
        return cls(lowpass=(lowpass / lowpass.sum()).astype(np.float32), highpass=highpass, step=step)

    @property
    def taps(self) -> np.ndarray:
        """Both in one at the recording's rate, float32 (T,): symmetric, T odd."""
        spread = np.zeros(self.step * (len(self.highpass) - 1) + 1)
        spread[:: self.step] = self.highpass
        taps: np.ndarray = np.convolve(self.lowpass.astype(float), spread).astype(np.float32)
        return taps

    @property
    def num_taps(self) -> int:
        """Samples that a row depends on."""
        return len(self.lowpass) + self.step * (len(self.highpass) - 1)

    def apply(self, traces: np.ndarray, gains: np.ndarray | None = None) -> np.ndarray:
        """Filter, and keep every so many-th sample.

        Parameters
        ----------
        traces : array, shape (N, C)
        gains : float array, shape (C,), optional
            By which the result is multiplied.

        Returns
        -------
        float32 array, shape (C, (N - T) // step + 1)
            Column t is the filter over the samples from ``step`` · t on.
        """
        if traces.dtype != np.int16:
            traces = traces.astype(np.float32, copy=False)
        gains = np.ones(traces.shape[1]) if gains is None else gains
        return decimate(traces, self.lowpass, self.highpass, self.step, gains.astype(np.float32))
