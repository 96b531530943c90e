"""From milliseconds to samples: the kernel, the exclusion, and the margin that a chunk needs."""

from __future__ import annotations

import math

from . import checks
from .table import ConflictTable

MOST_HALF_WIDTH = 1024  # of the smoothing, so that ten bits are left for a probability


def smoothing_half_width(sampling_frequency: float, smoothing_ms: float) -> int:
    """Samples from the centre of the kernel to its first zero: (taps + 1) / 2.

    Raises
    ------
    ValueError
        A rate that is not positive, a width that is negative or wider than 2047 samples.
    """
    if not (math.isfinite(sampling_frequency) and sampling_frequency > 0):
        raise ValueError(f"sampling_frequency must be a positive number of Hz, got {sampling_frequency}")
    if not (math.isfinite(smoothing_ms) and smoothing_ms >= 0):
        raise ValueError(f"smoothing_ms must be at least 0, got {smoothing_ms}")
    # Just above a whole number of samples, 0.5 ms at 30 kHz must not lose one to rounding.
    half_width = max(1, math.floor((smoothing_ms * sampling_frequency / 1000.0 + 1.0) / 2.0 + 1e-9))
    if half_width > MOST_HALF_WIDTH:
        raise ValueError(
            f"smoothing_ms must span at most {2 * MOST_HALF_WIDTH - 1} samples, got {smoothing_ms} ms at "
            f"{sampling_frequency} Hz"
        )
    return half_width


def exclusion_samples(sampling_frequency: float, refractory_ms: float) -> int:
    """Least distance of two spikes of one unit in samples, at least 1."""
    if not (math.isfinite(refractory_ms) and refractory_ms >= 0):
        raise ValueError(f"refractory_ms must be at least 0, got {refractory_ms}")
    return max(1, round(refractory_ms * sampling_frequency / 1000.0))


def margin_samples(
    sampling_frequency: float,
    *,
    smoothing_ms: float = 0.5,
    refractory_ms: float = 1.0,
    conflicts: ConflictTable | None = None,
    max_rounds: int = 16,
) -> int:
    """Samples on each side that decide whether a sample is a spike; the proof is in `detect_spikes`."""
    half_width = smoothing_half_width(sampling_frequency, smoothing_ms)
    reach = exclusion_samples(sampling_frequency, refractory_ms) - 1
    if conflicts is not None:
        reach = max(reach, conflicts.reach_samples)
    checks.check_count("max_rounds", max_rounds, least=1)
    return (2 * reach + 1) * max_rounds - reach + half_width - 1
