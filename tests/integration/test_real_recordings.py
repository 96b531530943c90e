"""Real recordings, learned from a teacher. They carry no ground truth: agreement is all there is to see."""

import json

import pytest
import spikeinterface
from entries import REAL, SHORT_TRAINING, run, run_process

from esort.checkpoint import Card, load_card, save_checkpoint
from esort.network import NetworkSpec, build_network
from esort.recordings import RecordingPath

LOCUST = (
    "recording=path",
    f"recording.path={REAL / 'locust' / 'locust_trial_01.raw'}",
    "recording.sampling_frequency=15000",
    "recording.num_channels=4",
    "recording.dtype=int16",
    "recording.probe=tetrode",
)
MAXONE = (
    "recording=path",
    f"recording.path={REAL / 'maxone_5x5' / 'traces_int16.raw'}",
    f"recording.probe={REAL / 'maxone_5x5' / 'geometry_um.csv'}",
    "recording.sampling_frequency=20000",
    "recording.num_channels=25",
    "recording.dtype=int16",
    "recording.gain_to_uv=6.294",
)
STUB = REAL / "np_ultra_stub" / "p5_g0"

needs_locust = pytest.mark.skipif(not (REAL / "locust").exists(), reason="needs the locust recording")
needs_maxone = pytest.mark.skipif(not (REAL / "maxone_5x5").exists(), reason="needs the MaxOne recording")
needs_stub = pytest.mark.skipif(not STUB.exists(), reason="needs the Neuropixels Ultra stub")


def read(path):
    return json.loads(path.read_text())


@pytest.mark.slow
@needs_locust
def test_locust_learned_from_tridesclous(tmp_path):
    ended = run_process(
        "train.py",
        *LOCUST,
        "teacher=tridesclous2",
        "teacher.seconds=14",
        "label_budget=per_unit",
        "labels=20",
        f"cache={tmp_path}",
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    assert ended.code == 0, ended.out + ended.err
    scores, record = read(tmp_path / "run" / "scores.json"), read(tmp_path / "run" / "run.json")
    assert scores["teacher"] == "tridesclous2"
    assert (scores["start_sample"], scores["stop_sample"]) == (14 * 15_000, record["stop_sample"])
    agreements = sorted(unit["agreement"] for unit in scores["agreement"]["units"])
    assert agreements[-1] > 0.8, "two sorters agree on the clearest unit"
    card = load_card(tmp_path / "run" / "model.safetensors")
    assert card.labels.stop_sample == 14 * 15_000
    assert card.sampling_frequency == 15_000
    assert card.preprocessing["common_reference"] == "none"


@pytest.mark.slow
@needs_maxone
def test_maxone_learned_from_lupin(tmp_path):
    ended = run_process(
        "train.py",
        *MAXONE,
        "teacher=lupin",
        "teacher.seconds=5",
        "label_budget=per_unit",
        "labels=20",
        f"cache={tmp_path}",
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    assert ended.code == 0, ended.out + ended.err
    card = load_card(tmp_path / "run" / "model.safetensors")
    assert card.preprocessing["common_reference"] == "none"  # the pursuit whitens instead
    assert read(tmp_path / "run" / "scores.json")["agreement"] is not None
    assert (tmp_path / "run" / "probe.png").exists()


@pytest.mark.slow
@needs_stub
def test_a_recording_too_short_to_learn_from_says_so(tmp_path):
    ended = run(
        "train.py",
        "recording=path",
        f"recording.path={STUB}",
        "teacher=lupin",
        *SHORT_TRAINING,
        f"cache={tmp_path}",
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    assert "lupin" in ended.error_line()
    assert not (tmp_path / "run" / "model.safetensors").exists()


@needs_stub
def test_the_checkpoint_of_another_probe_is_refused(trained, tmp_path):
    ended = run(
        "sort.py",
        f"checkpoint={trained.checkpoint}",
        f"recording.path={STUB}",
        f"output={tmp_path / 'out'}",
    )
    assert "the checkpoint is for 32000 Hz, the recording has 30000 Hz" in ended.error_line()


@needs_stub
def test_spikeglx_with_a_checkpoint_of_its_probe(tmp_path):
    """An untrained network says nothing of worth; but 384 real channels go all the way through."""
    recording = RecordingPath(path=str(STUB)).open()
    spec = NetworkSpec(name="dense", parameters={"temporal_features": [2, 2], "hidden_features": 4})
    parameters = spec.hyper_parameters(sampling_frequency=30_000.0, num_channels=384, num_units=2)
    network = build_network("dense", parameters)
    card = Card(
        network="dense",
        network_parameters=parameters,
        sampling_frequency=30_000.0,
        contact_positions_um=recording.get_channel_locations(),
        channel_ids=tuple(range(384)),
        unit_ids=(0, 1),
        window_ms=spec.window_ms,
        window_samples=network.window_samples,
        peak_offset_samples=network.peak_offset_samples,
        noise_level_uv=[6.0] * 384,
        thresholds=(0.9, 0.9),
    )
    save_checkpoint(tmp_path / "model.safetensors", network.state_dict(), card)
    ended = run(
        "sort.py",
        f"checkpoint={tmp_path / 'model.safetensors'}",
        f"recording.path={STUB}",
        "recording.stream_id=imec0.ap",
        f"output={tmp_path / 'out'}",
    )
    assert ended.code == 0, ended.out + ended.err
    record = read(tmp_path / "out" / "run.json")
    assert record["num_channels"] == 384
    assert record["stop_sample"] == recording.get_num_samples()
    assert spikeinterface.load(tmp_path / "out" / "sorting").get_num_units() == 2
