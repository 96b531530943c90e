"""A small recording whose tissue moves along the probe, with known motion, spikes and waveforms."""

from dataclasses import dataclass

import numpy as np
from learning_data import torch  # one thread: see there
from spikeinterface.core import NumpyRecording, NumpySorting

from esort.health import fingerprint
from esort.labels import LabelledSpikes
from esort.subject import Subject

__all__ = ["Drifting", "make_drifting", "torch"]

RATE = 32_000.0
SECONDS = 16
BEFORE, LENGTH = 32, 80
_FIELD_UM = 26.0


@dataclass
class Drifting:
    """Traces (N, C) in µV, contacts (C, 2), spikes (S,), and the shift of each second (T,) in um."""

    traces: np.ndarray
    positions_um: np.ndarray
    sample_index: np.ndarray
    unit_index: np.ndarray
    shift_um: np.ndarray
    rate: float = RATE

    @property
    def num_units(self):
        return int(self.unit_index.max()) + 1

    def labels(self, *, per_unit=12, stop_s=SECONDS / 2, seed=0):
        """Some spikes of each unit from the first seconds."""
        rng, chosen = np.random.default_rng(seed), []
        usable = (self.sample_index > 1000) & (self.sample_index < stop_s * self.rate - 1000)
        for unit_index in range(self.num_units):
            (of_unit,) = np.nonzero(usable & (self.unit_index == unit_index))
            chosen.extend(rng.permutation(of_unit)[:per_unit])
        chosen = np.sort(chosen)
        return LabelledSpikes(
            sample_index=self.sample_index[chosen],
            unit_index=self.unit_index[chosen],
            unit_ids=tuple(f"u{unit_index}" for unit_index in range(self.num_units)),
            sampling_frequency=self.rate,
            start_sample=0,
            stop_sample=round(stop_s * self.rate),
            complete=False,
        )

    def recording(self):
        """As a file would hold it."""
        stored = np.round(self.traces / 0.2).astype(np.int16)
        recording = NumpyRecording([stored], self.rate)
        recording.set_dummy_probe_from_locations(self.positions_um)
        recording.set_channel_gains(0.2)
        recording.set_channel_offsets(0.0)
        return recording

    def subject(self):
        recording = self.recording()
        truth = NumpySorting.from_samples_and_labels(self.sample_index, self.unit_index, self.rate)
        return Subject(
            recording=recording, ground_truth=truth, source="drifting", fingerprint=fingerprint(recording)
        )


def contacts(num_rows=12, pitch_um=20.0):
    """Two columns of contacts, (2 num_rows, 2)."""
    x, y = np.meshgrid([0.0, 20.0], pitch_um * np.arange(num_rows))
    return np.column_stack([x.ravel(), y.ravel()])


def courses(num_units):
    """Waveforms in time of a trough of 1, distinct: (U, T)."""
    times = np.arange(LENGTH) - BEFORE
    made = []
    for unit_index in range(num_units):
        width, late = 2.2 + 0.7 * (unit_index % 3), 9 + 4 * (unit_index % 2)
        trough = np.exp(-0.5 * (times / width) ** 2)
        made.append(-trough + (0.3 + 0.1 * (unit_index % 3)) * np.exp(-0.5 * ((times - late) / 5) ** 2))
    return np.stack(made)


def make_drifting(shift_um, *, num_units=6, firing_hz=9.0, noise_uv=10.0, seed=0):
    """Units between the contacts that fire at random while the tissue moves, second by second.

    Parameters
    ----------
    shift_um : (T,) floats
        Of each second, along y.
    """
    rng = np.random.default_rng(seed)
    shift_um = np.asarray(shift_um, dtype=float)
    positions = contacts()
    num_samples = round(len(shift_um) * RATE)
    traces = noise_uv * rng.standard_normal((num_samples, len(positions)), dtype=np.float32)
    depth = np.linspace(45, 175, num_units)
    lateral = np.where(np.arange(num_units) % 2, 18.0, 2.0)
    size = noise_uv * (15 + 4 * (np.arange(num_units) % 3))
    course = courses(num_units)
    samples, units = [], []
    for unit_index in range(num_units):
        gaps = rng.exponential(RATE / firing_hz, round(3 * len(shift_um) * firing_hz)) + 2e-3 * RATE
        train = np.cumsum(gaps).astype(np.int64)
        train = train[(train >= LENGTH) & (train < num_samples - LENGTH)]
        samples.append(train)
        units.append(np.full(train.size, unit_index))
        for sample in train:
            y = depth[unit_index] + shift_um[int(sample // RATE)]
            square = (positions[:, 0] - lateral[unit_index]) ** 2 + (positions[:, 1] - y) ** 2
            field = size[unit_index] * np.exp(-0.5 * square / _FIELD_UM**2)
            first = sample - BEFORE
            traces[first : first + LENGTH] += np.outer(course[unit_index], field).astype(np.float32)
    samples, units = np.concatenate(samples), np.concatenate(units)
    order = np.lexsort((units, samples))
    return Drifting(traces, positions, samples[order], units[order], shift_um)
