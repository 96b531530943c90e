"""What the network learns from: real labelled windows, and labelled waveforms put into the background.

Under a budget of annotated spikes most spikes of the recording are unknown. A window of unlabelled time is
then no proof that a unit is silent. Two things follow from that here: a unit's output is not trained on a
window in which that unit's own waveform could be (matched filter), and most positives are *rendered*: a
labelled unit's mean waveform, put at a known time into a window of unlabelled time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from esort.labels import LabelledSpikes
from esort.windows import EstimateWaveforms, Window, cut_windows, mean_waveforms

__all__ = ["Batch", "ExampleSpec", "SpikeExamples"]

# Windows are matched against waveforms in steps of this: a spike is wider than that.
_MATCH_STEP_MS = 0.1
# And of window and waveform a part of the samples is compared: enough to see a spike, and half the work.
_COARSE_STEP_MS = 0.07
_MATCH_CHUNK = 1024


class Batch(NamedTuple):
    """A batch of windows and what is known of them."""

    traces: np.ndarray
    """float32, shape (B, T, C), in units of the noise level."""
    targets: np.ndarray
    """float32, shape (B, U): 1 where the unit's peak lies at the window's, to within the jitter."""
    known: np.ndarray
    """float32, shape (B, U): 0 where nobody knows, or where a peak is neither near nor far."""


@dataclass(frozen=True, kw_only=True)
class ExampleSpec:
    """How examples are made.

    Parameters
    ----------
    jitter_ms : float
        A window is a positive of a unit if its peak is off by this much or less.
    guard_ms : float
        Nothing is said of a unit whose peak is off by more than the jitter but not more than this.
    real_fraction : float
        Part of a batch that is windows around labelled spikes; the rest is background.
    rendered_spikes : float
        Mean number of waveforms put into a background window.
    amplitude_spread : float
        Standard deviation of a rendered spike's amplitude, relative to the mean waveform.
    match_ratio : float
        From this much of a unit's own amplitude on, a window may hold a spike of that unit.
    pool_size : int
        Number of places from which background windows are drawn, and most labelled spikes that windows are
        cut around.

    Raises
    ------
    ValueError
        If a value is outside its limits.
    """

    jitter_ms: float = 0.16
    guard_ms: float = 0.25
    real_fraction: float = 0.5
    rendered_spikes: float = 1.0
    amplitude_spread: float = 0.08
    match_ratio: float = 0.45
    pool_size: int = 12000

    def __post_init__(self) -> None:
        limits = {
            "jitter_ms": (0, 1),
            "guard_ms": (self.jitter_ms, 2),
            "real_fraction": (0, 1),
            "rendered_spikes": (0, 5),
            "amplitude_spread": (0, 1),
            "match_ratio": (0, 1),
            "pool_size": (1, 10**7),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise ValueError(f"{name} must be a number in [{low}, {high}], got {value!r}")
        if not isinstance(self.pool_size, int):
            raise ValueError(f"pool_size must be a whole number, got {self.pool_size!r}")

    def in_samples(self, window: Window, sampling_frequency: float) -> tuple[int, int, int]:
        """Jitter, guard, and how far a rendered spike may lie beside the window's peak: a third of it."""
        jitter = round(self.jitter_ms * sampling_frequency / 1000)
        guard = max(jitter, round(self.guard_ms * sampling_frequency / 1000))
        return jitter, guard, max(guard, window.samples // 3)

    def room(self, window: Window, sampling_frequency: float) -> Window:
        """The stretch that must be there around a labelled spike."""
        _, guard, shift = self.in_samples(window, sampling_frequency)
        return window.widened(shift + guard)


class SpikeExamples:
    """Makes batches of examples from traces and labels.

    Parameters
    ----------
    traces : float32 array, shape (N, C)
        In units of the noise level, row 0 is the recording's sample 0. Must cover the labelled time.
    labels : LabelledSpikes
    window : Window
        What the network sees.
    spec : ExampleSpec
    rng : numpy.random.Generator
        Draws the places of the background.
    prior : callable, optional
        Returns the waveforms to be expected from traces, labels and window, see `esort.waveform_prior`; by
        default they are the mean waveforms of the labels.
    waveforms : float32 array, shape (U, T + 2 shift, C), optional
        What is rendered; by default estimated from these labels.

    Raises
    ------
    ValueError
        If the labelled time is too short for a window, if no labelled spike lies far enough inside it, or if
        waveforms are to be estimated and a unit has no such spike.
    """

    def __init__(
        self,
        traces: np.ndarray,
        labels: LabelledSpikes,
        *,
        window: Window,
        spec: ExampleSpec,
        rng: np.random.Generator,
        prior: EstimateWaveforms | None = None,
        waveforms: np.ndarray | None = None,
    ) -> None:
        self.traces = traces
        self.spec = spec
        self.window = window
        self.jitter_samples, self.guard_samples, self.shift_samples = spec.in_samples(
            window, labels.sampling_frequency
        )
        wide = spec.room(window, labels.sampling_frequency)
        first = labels.start_sample + wide.before_samples
        stop = labels.stop_sample - wide.after_samples + 1
        if stop <= first:
            raise ValueError(
                f"labels must span at least {wide.samples} samples, "
                f"got [{labels.start_sample}, {labels.stop_sample})"
            )
        roomy = (labels.sample_index >= first) & (labels.sample_index < stop)
        self.labels = replace(
            labels, sample_index=labels.sample_index[roomy], unit_index=labels.unit_index[roomy]
        )
        self.roomy_interval = (first, stop)
        if self.labels.num_spikes == 0:
            raise ValueError(
                f"expected labelled spikes in [{first}, {stop}), where a window fits around them, got none"
            )
        if waveforms is None and labels.complete and spec.rendered_spikes == 0:
            waveforms = np.zeros((labels.num_units, 0, 0), dtype=np.float32)  # nobody will ask for them
        if waveforms is None:
            waveforms = (prior or mean_waveforms)(traces, self.labels, window.widened(self.shift_samples))
        self.has_prior = prior is not None
        self.waveforms = waveforms  # (U, T + 2 shift, C)
        self.pool = rng.integers(first, stop, spec.pool_size)
        # Labelled spikes that real windows lie around; the pool's size is enough of them too.
        self.real = np.arange(self.labels.num_spikes)
        if self.real.size > spec.pool_size and not labels.complete:
            self.real = np.sort(rng.choice(self.real, spec.pool_size, replace=False))
        if labels.complete:
            self.pool_known = self.labels_known = None
        else:
            self.pool_known = self._cannot_hold(self.pool)  # (P, U)
            self.labels_known = self._cannot_hold(self.labels.sample_index[self.real])  # (S, U)

    @property
    def num_units(self) -> int:
        """Number of units."""
        return self.labels.num_units

    def batch(self, rng: np.random.Generator, batch_size: int) -> Batch:
        """Make a batch; the same generator state gives the same batch."""
        num_real = round(self.spec.real_fraction * batch_size)
        real = self._real(rng, num_real)
        background = self._background(rng, batch_size - num_real)
        return Batch(*(np.concatenate(parts) for parts in zip(real, background, strict=True)))

    def background_places(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Places that background windows are cut around, int64 array of shape (count,)."""
        return rng.choice(self.pool, count)

    def _real(self, rng: np.random.Generator, count: int) -> Batch:
        chosen = rng.integers(0, len(self.real), count)
        centres = self.labels.sample_index[self.real[chosen]] + rng.integers(
            -self.jitter_samples, self.jitter_samples + 1, count
        )
        known = None if self.labels_known is None else self.labels_known[chosen]
        return self._labelled(centres, known)

    def _background(self, rng: np.random.Generator, count: int) -> Batch:
        chosen = rng.integers(0, len(self.pool), count)
        known = None if self.pool_known is None else self.pool_known[chosen]
        batch = self._labelled(self.pool[chosen], known)
        counts = rng.poisson(self.spec.rendered_spikes, count)
        rows = np.repeat(np.arange(count), counts)
        units = rng.integers(0, self.num_units, rows.size)
        amplitudes = rng.normal(1.0, self.spec.amplitude_spread, rows.size).astype(np.float32)
        # A spike so small that no window is searched for it is none.
        amplitudes = np.maximum(amplitudes, np.float32(self.spec.match_ratio))
        # Half of them at the peak, half anywhere: the network must also learn what is not quite there.
        near = rng.random(rows.size) < 0.5
        reach = np.where(near, self.jitter_samples, self.shift_samples)
        shifts = rng.integers(-reach, reach + 1)
        for row, unit, amplitude, shift in zip(rows, units, amplitudes, shifts, strict=True):
            start = self.shift_samples - shift
            batch.traces[row] += amplitude * self.waveforms[unit, start : start + self.window.samples]
            if abs(shift) <= self.jitter_samples:
                batch.targets[row, unit] = batch.known[row, unit] = 1
            elif abs(shift) <= self.guard_samples and not batch.targets[row, unit]:
                batch.known[row, unit] = 0
        return batch

    def _labelled(self, centres: np.ndarray, known: np.ndarray | None) -> Batch:
        """Windows at `centres` with all that the labels say of them."""
        traces = cut_windows(self.traces, centres, self.window)  # (B, T, C)
        targets = np.zeros((centres.size, self.num_units), dtype=np.float32)
        known = np.ones_like(targets) if known is None else known.astype(np.float32)
        # Labels without room around them were left out: next to where they lay, silence is not certain.
        first, stop = self.roomy_interval
        known[(centres - self.guard_samples < first) | (centres + self.guard_samples >= stop)] = 0
        times = self.labels.sample_index
        low = np.searchsorted(times, centres - self.guard_samples)
        counts = np.searchsorted(times, centres + self.guard_samples, side="right") - low
        rows = np.repeat(np.arange(centres.size), counts)
        spikes = np.repeat(low - np.cumsum(counts) + counts, counts) + np.arange(rows.size)
        units = self.labels.unit_index[spikes]
        near = np.abs(times[spikes] - centres[rows]) <= self.jitter_samples
        known[rows[~near], units[~near]] = 0
        targets[rows[near], units[near]] = known[rows[near], units[near]] = 1
        return Batch(traces, targets, known)

    def _cannot_hold(self, centres: np.ndarray) -> np.ndarray:
        """Tell for each place and unit whether that unit's waveform is certainly not there.

        Returns
        -------
        bool array, shape (len(centres), U)
        """
        shift = self.shift_samples
        rate = self.labels.sampling_frequency
        coarse = max(1, int(_COARSE_STEP_MS * rate / 1000))
        step = max(1, int(_MATCH_STEP_MS * rate / 1000))
        core = self.waveforms[:, shift : shift + self.window.samples : coarse]  # (U, T / coarse, C)
        energy = np.square(core).sum(axis=(1, 2), keepdims=True)
        # A waveform of nothing but zeros matches nothing.
        core = np.divide(core, energy, out=np.zeros_like(core), where=energy > 0)
        filters = core.reshape(self.num_units, -1).T.copy()  # (T / coarse · C, U)
        reach = self.guard_samples + self.jitter_samples
        wide = self.window.widened(reach)
        best = np.full((centres.size, self.num_units), -np.inf, dtype=np.float32)
        for begin in range(0, centres.size, _MATCH_CHUNK):
            windows = cut_windows(self.traces, centres[begin : begin + _MATCH_CHUNK], wide)
            part = best[begin : begin + _MATCH_CHUNK]
            for offset in range(0, 2 * reach + 1, step):
                seen = windows[:, offset : offset + self.window.samples : coarse].reshape(len(windows), -1)
                np.maximum(part, seen @ filters, out=part)
        return best < self.spec.match_ratio
