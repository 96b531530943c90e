"""A small recording that was learned by the pursuit, and recordings like it with something wrong."""

import functools
from dataclasses import dataclass

import numpy as np
import pytest
from learning_data import Toy, make_toy
from spikeinterface.core import NumpyRecording, NumpySorting

from esort.detector import Postprocessing
from esort.fitted import TrainingSettings
from esort.health import fingerprint
from esort.labels import LabelledSpikes
from esort.learning import LearningSpec
from esort.network import NetworkSpec
from esort.preprocessing import Preprocessing
from esort.sorter import Sorter
from esort.subject import Subject
from esort.training import train_units

RATE = 32_000.0
STOP = int(3 * RATE)  # labels come from before
GAIN = 0.2
UNUSED = LearningSpec(epochs=1)
LOST = functools.partial(pytest.fail, "pursuit is learned without a trainer")


def line(num_channels):
    """Contacts above each other, (C, 2) in µm."""
    return np.column_stack([np.zeros(num_channels), 20.0 * np.arange(num_channels)])


def stored(toy):
    """Traces as an amplifier gives them, (N, C): int16 of 0.2 µV with slow waves and an offset."""
    wave = 100 * np.sin(2 * np.pi * 8 * np.arange(len(toy.traces)) / toy.rate)
    return np.round(50 * toy.traces + wave[:, None] + 400).astype(np.int16)


def recording_of(traces, *, positions_um=None, rate=RATE, gain=GAIN, offset=0.0):
    """A recording of these samples."""
    made = NumpyRecording([traces], rate)
    made.set_dummy_probe_from_locations(line(traces.shape[1]) if positions_um is None else positions_um)
    if gain is not None:
        made.set_channel_gains(gain)
        made.set_channel_offsets(offset)
    return made


@dataclass
class World:
    """A toy, what was stored of it, and who learned it."""

    toy: Toy
    traces: np.ndarray
    labels: LabelledSpikes
    path: object

    @functools.cached_property
    def sorter(self):
        return Sorter.load(self.path)

    @functools.cached_property
    def clean(self):
        return self.sorter.sort(self.recording()).spikes

    def recording(self, traces=None, **keywords):
        return recording_of(self.traces if traces is None else traces, **keywords)

    def broken(self):
        return self.traces.copy()


def subject_of(recording, toy):
    truth = NumpySorting.from_samples_and_labels(toy.sample_index, toy.unit_index, toy.rate)
    return Subject(recording=recording, ground_truth=truth, source="toy", fingerprint=fingerprint(recording))


def learn(subject, labels, folder):
    """Learn the units; return the checkpoint."""
    settings = TrainingSettings(
        network=NetworkSpec(name="pursuit"),
        preprocessing=Preprocessing(common_reference="none"),
        postprocessing=Postprocessing(),
        make_trainer=LOST,
    )
    path = folder / "model.safetensors"
    train_units(subject, labels, UNUSED, settings, backbone=None, path=path, folder=folder)
    return path


def make_world(folder, *, num_channels=16, num_units=5, seconds=5.0):
    toy = make_toy(num_units=num_units, num_channels=num_channels, seconds=seconds, rate=RATE, firing_hz=10.0)
    traces, labels = stored(toy), toy.labels(per_unit=15, stop=STOP)
    path = learn(subject_of(recording_of(traces), toy), labels, folder)
    return World(toy, traces, labels, path)


def arrays(spikes):
    return np.stack([spikes.sample_index, spikes.unit_index])


def assert_same(spikes, expected):
    np.testing.assert_array_equal(arrays(spikes), arrays(expected))
    np.testing.assert_array_equal(spikes.probability, expected.probability)


def agreement(spikes, expected, tolerance=13):
    """Which part of all spikes both have, of the same unit within so many samples."""
    both = 0
    for unit in np.unique(expected.unit_index):
        one = np.sort(spikes.sample_index[spikes.unit_index == unit])
        other = np.sort(expected.sample_index[expected.unit_index == unit])
        if len(one):
            near = np.abs(one[:, None] - other[None]).min(axis=0)
            both += int((near <= tolerance).sum())
    return both / max(len(spikes.sample_index), len(expected.sample_index))
