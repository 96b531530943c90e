"""One filter for band-pass and decimation: linear phase, short, and exact at any chunk.

The high-pass takes away what a Gaussian average sees: its impulse response has one lobe, so that large
spikes leave no ringing behind them.
"""

from __future__ import annotations

import math

import numpy as np

from esort.pursuit.compiled import fir_bank, polyphase

__all__ = ["REDUCED_HZ", "bandpass_taps", "decimate", "reduction"]

REDUCED_HZ = 16000.0
"""Rate that the reduced rate comes close to."""

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


def bandpass_taps(sampling_frequency: float, *, freq_min_hz: float, freq_max_hz: float) -> np.ndarray:
    """Design the filter.

    Parameters
    ----------
    sampling_frequency : float
        In Hz.
    freq_min_hz : float
        Where the high-pass lets 71 % of the amplitude through.
    freq_max_hz : float
        Corner of the low-pass; lowered to what the reduced rate can hold.

    Returns
    -------
    float32 array, shape (K,)
        Symmetric, K odd; its sum is 0.
    """
    sigma = sampling_frequency * _CORNER / (2 * math.pi * freq_min_hz)  # in samples
    reach = math.ceil(_GAUSSIAN_REACH * sigma)
    average = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    highpass = -average / average.sum()
    highpass[reach] += 1.0
    highest = min(freq_max_hz, _HIGHEST * sampling_frequency / reduction(sampling_frequency))
    half = math.ceil(_LOWPASS_MS * sampling_frequency / 1000)
    offsets = np.arange(-half, half + 1)
    cutoff = highest / sampling_frequency
    lowpass = 2 * cutoff * np.sinc(2 * cutoff * offsets) * np.hanning(2 * half + 3)[1:-1]
    taps: np.ndarray = np.convolve(lowpass / lowpass.sum(), highpass).astype(np.float32)
    return taps


def decimate(traces: np.ndarray, taps: np.ndarray, step: int) -> np.ndarray:
    """Filter, and keep every so many-th sample.

    Parameters
    ----------
    traces : array, shape (N, C)
    taps : float32 array, shape (K,)
        Symmetric.
    step : int

    Returns
    -------
    float32 array, shape (C, (N - K) // step + 1)
        Column t is the filter over the samples from ``step`` · t on.
    """
    num_rows = (len(traces) - len(taps)) // step + 1
    split = np.pad(taps, (0, -len(taps) % step)).reshape(-1, step).T  # (P, K / step)
    lines = polyphase(traces, step, num_rows + split.shape[1] - 1)
    return fir_bank(lines, np.ascontiguousarray(split[None]), num_rows)[:, 0]
