"""A recording to work on: opened or made, checked before anything is made of it."""

import numpy as np
import pytest
from spikeinterface.core import NumpyRecording

from esort.probes import ProbeSpec
from esort.recordings import RecordingPath
from esort.simulation import NoiseSpec, SimulationSpec
from esort.subject import Subject, open_subject

pytestmark = pytest.mark.filterwarnings("ignore:The extractor is not serializable")  # in memory


def spec(**changes):
    values = {"probe": ProbeSpec(name="tetrode"), "noise": NoiseSpec(level_uv=10), "duration_s": 4.0}
    return SimulationSpec(**{**values, "num_units": 3, "seed": 0, **changes})


def floats(tmp_path, *, nan_at=None):
    traces = np.random.default_rng(0).normal(0, 10, (30_000, 4)).astype(np.float32)
    if nan_at is not None:
        traces[nan_at] = np.nan
    recording = NumpyRecording([traces], 10_000.0)
    recording.set_dummy_probe_from_locations(np.array([[0, 0], [0, 20], [20, 0], [20, 20]]))
    recording.save(folder=tmp_path / "recording", verbose=False)
    return RecordingPath(path=str(tmp_path / "recording"))


def test_a_simulation_is_made_once_and_is_the_same_from_its_folder(tmp_path):
    made = open_subject(spec(), tmp_path)
    assert made.num_samples == 4 * 32_000
    assert made.sampling_frequency == 32_000
    assert made.contact_positions_um.shape == (4, 2)
    assert set(made.signal_to_noise) == set(made.ground_truth.unit_ids)
    assert open_subject(spec(), tmp_path).source == made.source
    opened = open_subject(RecordingPath(path=made.source), tmp_path)
    assert opened.fingerprint == made.fingerprint
    assert opened.ground_truth.unit_ids.tolist() == made.ground_truth.unit_ids.tolist()


def test_a_recording_without_ground_truth(tmp_path):
    subject = open_subject(floats(tmp_path), tmp_path)
    assert isinstance(subject, Subject)
    assert subject.ground_truth is None
    assert subject.signal_to_noise == {}
    subject.check_traces(subject.num_samples)


def test_a_nan_at_the_beginning_is_found_when_opened(tmp_path):
    with pytest.raises(ValueError, match="traces must be finite, got nan at sample 7, channel 3"):
        open_subject(floats(tmp_path, nan_at=(7, 3)), tmp_path)


def test_a_nan_further_on_is_found_where_it_is_looked_for(tmp_path):
    subject = open_subject(floats(tmp_path, nan_at=(21_111, 1)), tmp_path)
    subject.check_traces(21_111)
    with pytest.raises(ValueError, match="traces must be finite, got nan at sample 21111, channel 1"):
        subject.check_traces(21_112)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no recording at"):
        open_subject(RecordingPath(path=str(tmp_path / "nothing")), tmp_path)
