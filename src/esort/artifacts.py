"""Artefacts in a few milliseconds of traces: stimulation, saturation, lost packets.

SpikeInterface's detectors go over the whole file first and want the level at which the amplifier saturates.
Here each sample is judged by what lies just around it, so that a file, any piece of it and a stream agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from esort.stretches import merged

if TYPE_CHECKING:
    from collections.abc import Iterable

    from spikeinterface.core import BaseRecording

__all__ = ["ArtifactFinder", "Blanking", "zero_levels"]

# A jump is the difference of two samples so far apart; on many channels at once it is neither spike nor slow
# wave.
_JUMP_MS = 0.5
# From this many channels on, a jump of half of them is none of a neuron, however small.
_MIN_CHANNELS_COMMON = 16
# Only where so long a window spans enough is each sample looked at.
_WINDOW_MS = 10.0


@dataclass(frozen=True, kw_only=True)
class Blanking:
    """What is an artefact, and how much around it is left out.

    Parameters
    ----------
    jump_uv : float or None
        A sample differs that much from the one 0.5 ms before, on a tenth of the channels and on two at least
        (where there are two). None: jumps are not looked at. They are neither where the gain is unknown.
    common_jump_uv : float or None
        The same on half of the channels, from 16 channels on: what all have in common is no neuron.
    saturation_uv : float or None
        Values that are at least that large, of either sign, on a tenth of the channels. None: the ends of the
        range of integers.
    held_ms : float
        Half of the channels do not change for so long: a saturated amplifier, or packets that were lost.
    before_ms, after_ms : float
        Margin around what was found.

    Raises
    ------
    ValueError
        If a value is outside its limits.
    """

    jump_uv: float | None = 1000.0
    common_jump_uv: float | None = 250.0
    saturation_uv: float | None = None
    held_ms: float = 1.0
    before_ms: float = 0.5
    after_ms: float = 2.0

    def __post_init__(self) -> None:
        for name in ("jump_uv", "common_jump_uv", "saturation_uv"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and value > 0):
                raise ValueError(f"blanking.{name} must be a number of µV above 0 or null, got {value!r}")
        for name, least, most in (("held_ms", 0.3, 100), ("before_ms", 0, 100), ("after_ms", 0, 100)):
            value = getattr(self, name)
            if not (_is_number(value) and least <= value <= most):
                raise ValueError(f"blanking.{name} must be a number in [{least}, {most}] ms, got {value!r}")


class ArtifactFinder:
    """Finds artefacts in the stored samples of a recording.

    Parameters
    ----------
    recording : BaseRecording
        Only its rate, type and gains are looked at.
    blanking : Blanking
    ignored : sequence of int
        Positions of bad channels, which do not count.
    """

    def __init__(self, recording: BaseRecording, blanking: Blanking, ignored: Iterable[int] = ()) -> None:
        rate, dtype = float(recording.sampling_frequency), np.dtype(recording.dtype)

        def samples(milliseconds: float) -> int:
            return max(1, round(milliseconds * rate / 1000))

        self._lag, self._window = samples(_JUMP_MS), samples(_WINDOW_MS)
        self._held = max(3, samples(blanking.held_ms))
        self._before, self._after = round(blanking.before_ms * rate / 1000), samples(blanking.after_ms)
        self.history = self._after + self._lag + self._held
        """Samples before one that decide on it."""
        self.future = max(self._before, self._held)
        """Samples after one that decide on it."""
        self._listened = np.setdiff1d(np.arange(recording.get_num_channels()), list(ignored))
        count = len(self._listened)
        self._few = max(math.ceil(0.1 * count), min(2, count))
        self._half = max(1, math.ceil(0.5 * count))
        self._jumps: list[tuple[np.ndarray, int]] = []  # how large on each channel, and on how many
        self._rails: tuple[np.ndarray, np.ndarray] | None = None  # the ends of the range
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            self._rails = np.full(count, float(limits.min)), np.full(count, float(limits.max))
        gains = recording.get_channel_gains()
        if gains is None:
            return
        gain = np.abs(np.asarray(gains, dtype=np.float64))[self._listened]
        if blanking.jump_uv is not None:
            self._jumps.append((blanking.jump_uv / gain, self._few))
        if blanking.common_jump_uv is not None and count >= _MIN_CHANNELS_COMMON:
            self._jumps.append((blanking.common_jump_uv / gain, self._half))
        if blanking.saturation_uv is not None:
            level, middle = blanking.saturation_uv / gain, zero_levels(recording)[self._listened]
            self._rails = middle - level, middle + level

    def find(self, traces: np.ndarray) -> np.ndarray:
        """Say which samples are to be blanked, with their margin.

        Parameters
        ----------
        traces : array, shape (N, C)
            As stored. Certain are the answers from sample `history` on to sample N - `future`, and those
            at the recording's ends.

        Returns
        -------
        bool array, shape (N,)
        """
        if not len(self._listened) or not len(traces):
            return np.zeros(len(traces), dtype=bool)
        some = traces if len(self._listened) == traces.shape[1] else traces[:, self._listened]
        loud = _widened(self._loud(some), self._before, self._after)
        return loud | _widened(self._constant(some), self._held - 1, self._after)

    def _loud(self, traces: np.ndarray) -> np.ndarray:
        """Samples at which enough channels jump, or stand at an end of their range, (N,)."""
        found = np.zeros(len(traces), dtype=bool)
        if not (self._jumps or self._rails) or not len(traces):
            return found
        edges = np.arange(0, len(traces), self._window)
        from esort.extrema import extrema  # brings a compiler along, which who only opens files does not need

        low, high = (bound.astype(np.float64) for bound in extrema(traces, self._window))  # (windows, C)
        if self._rails is not None:
            at_rail = ((low <= self._rails[0]) | (high >= self._rails[1])).sum(axis=1) >= self._few
            for window in np.flatnonzero(at_rail):
                part = slice(edges[window], edges[window] + self._window)
                there = (traces[part] <= self._rails[0]) | (traces[part] >= self._rails[1])
                found[part] |= there.sum(axis=1) >= self._few
        # A jump into a window begins in it or in the one before.
        span = np.maximum(high, np.roll(high, 1, axis=0)) - np.minimum(low, np.roll(low, 1, axis=0))
        span[0] = high[0] - low[0]
        for level, least in self._jumps:
            for window in np.flatnonzero((span >= level).sum(axis=1) >= least):
                start = max(self._lag, int(edges[window]))
                stop = min(len(traces), int(edges[window]) + self._window)
                if start < stop:
                    now = traces[start:stop].astype(np.float32)
                    then = traces[start - self._lag : stop - self._lag].astype(np.float32)
                    found[start:stop] |= (np.abs(now - then) >= level).sum(axis=1) >= least
        return found

    def _constant(self, traces: np.ndarray) -> np.ndarray:
        """Samples at which half of the channels have not changed for so long, (N,)."""
        found = np.zeros(len(traces), dtype=bool)
        step = max(1, self._held // 3)
        if len(traces) < self._held:
            return found
        # So long a run covers two neighbours of every so many-th sample, which must be equal.
        few = traces[::step]
        maybe = np.flatnonzero((few[1:] == few[:-1]).sum(axis=1) >= self._half)
        if not maybe.size:
            return found
        for start, stop in merged(np.stack([(maybe - 3) * step, (maybe + 5) * step], axis=1)):
            start, stop = max(0, start - self._held), min(len(traces), stop + self._held)
            same = traces[start + 1 : stop] == traces[start : stop - 1]  # (n, C)
            ends = np.cumsum(~same, axis=0, dtype=np.int32)
            length = self._held - 1
            still = ends[length - 1 :].copy()
            still[1:] -= ends[:-length]  # changes within the last so many steps
            found[start + length : stop] |= (still == 0).sum(axis=1) >= self._half
        return found


def zero_levels(recording: BaseRecording) -> np.ndarray:
    """Stored value of 0 µV on each channel, (C,); where nobody knows, the middle of the range."""
    dtype = np.dtype(recording.dtype)
    middle = 2.0 ** (8 * dtype.itemsize - 1) if dtype.kind == "u" else 0.0
    gains, offsets = recording.get_channel_gains(), recording.get_channel_offsets()
    if gains is None or offsets is None or not np.any(offsets):
        return np.full(recording.get_num_channels(), middle)
    return -np.asarray(offsets, dtype=np.float64) / gains


def _widened(found: np.ndarray, before: int, after: int) -> np.ndarray:
    """Samples that lie so close to one that was found."""
    if not found.any():
        return found
    from scipy.ndimage import maximum_filter1d  # takes a while, and most recordings have no artefacts

    size = before + after + 1
    padded = np.pad(found.view(np.uint8), (after, before))
    wide: np.ndarray = maximum_filter1d(padded, size, origin=0, mode="constant")
    middle = size // 2
    return wide[middle : middle + len(found)].astype(bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
