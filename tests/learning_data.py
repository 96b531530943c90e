"""A small recording with known waveforms, in units of the noise level, for the tests of what learns."""

from dataclasses import dataclass

import numpy as np
import torch

from esort.labels import LabelledSpikes
from esort.windows import Window

# Networks this small gain nothing from threads, and on a busy machine lose minutes waiting for each other.
torch.set_num_threads(1)


@dataclass
class Toy:
    """Traces (N, C), spikes (S,), and the waveforms (U, T, C) that were put at them."""

    traces: np.ndarray
    sample_index: np.ndarray
    unit_index: np.ndarray
    waveforms: np.ndarray
    window: Window
    rate: float

    def labels(self, *, per_unit=None, start=0, stop=None, complete=False, seed=0):
        """Labels of [start, stop): all of them, or some of each unit."""
        stop = len(self.traces) if stop is None else stop
        chosen = (self.sample_index >= start) & (self.sample_index < stop)
        if per_unit is not None:
            rng = np.random.default_rng(seed)
            room = self.window.widened(self.window.samples)
            usable = (self.sample_index >= start + room.before_samples) & (
                self.sample_index < stop - room.after_samples
            )
            kept = np.zeros_like(chosen)
            for unit_index in range(len(self.waveforms)):
                (of_unit,) = np.nonzero(usable & (self.unit_index == unit_index))
                kept[rng.permutation(of_unit)[:per_unit]] = True
            chosen = kept
        return LabelledSpikes(
            sample_index=self.sample_index[chosen],
            unit_index=self.unit_index[chosen],
            unit_ids=tuple(f"u{unit_index}" for unit_index in range(len(self.waveforms))),
            sampling_frequency=self.rate,
            start_sample=start,
            stop_sample=stop,
            complete=complete,
        )


def make_toy(*, num_units=3, num_channels=8, seconds=3.0, rate=20_000.0, firing_hz=8.0, noise=1.0, seed=0):
    """Units with a trough of 8 to 14 noise levels on neighbouring channels, firing at random."""
    rng = np.random.default_rng(seed)
    window = Window(before_samples=round(0.75e-3 * rate), samples=round(1.875e-3 * rate))
    times_ms = (np.arange(window.samples) - window.before_samples) * 1000 / rate  # (T,)
    places = np.linspace(0, num_channels - 1, num_units) if num_units > 1 else np.array([num_channels // 2])
    waveforms = np.empty((num_units, window.samples, num_channels), dtype=np.float32)
    for unit_index, place in enumerate(places):
        width_ms = 0.10 + 0.03 * (unit_index % 3)
        course = np.exp(-0.5 * (times_ms / width_ms) ** 2)
        course -= 0.4 * np.exp(-0.5 * ((times_ms - 0.45) / (2 * width_ms)) ** 2)
        space = np.exp(-0.5 * ((np.arange(num_channels) - place) / 0.8) ** 2)
        waveforms[unit_index] = -(8 + 3 * (unit_index % 3)) * course[:, None] * space
    num_samples = round(seconds * rate)
    traces = noise * rng.standard_normal((num_samples, num_channels)).astype(np.float32)
    samples, units = [], []
    for unit_index in range(num_units):
        gaps = rng.exponential(rate / firing_hz, round(3 * seconds * firing_hz) + 10) + 2e-3 * rate
        train = np.cumsum(gaps).astype(np.int64)
        train = train[(train >= window.samples) & (train < num_samples - window.samples)]
        for sample in train:
            begin = sample - window.before_samples
            traces[begin : begin + window.samples] += waveforms[unit_index]
        samples.append(train)
        units.append(np.full(train.size, unit_index))
    samples, units = np.concatenate(samples), np.concatenate(units)
    order = np.lexsort((units, samples))
    return Toy(traces.astype(np.float32), samples[order], units[order], waveforms, window, rate)
