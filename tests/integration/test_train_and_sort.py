"""The two commands end to end, at sizes that take seconds."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import spikeinterface
from entries import SHORT_TRAINING, SMALL, SMALL_SOURCE, SMALL_TARGET, run, run_process

from esort.checkpoint import load_card
from esort.recordings import RecordingPath


def read(path):
    return json.loads(Path(path).read_text())


def spikes_of(folder):
    return spikeinterface.load(Path(folder) / "sorting").to_spike_vector()


def sort(trained, output, *overrides):
    ended = run("sort.py", f"checkpoint={trained.checkpoint}", f"output={output}", *overrides)
    assert ended.code == 0, ended.out + ended.err
    return ended


@pytest.fixture(scope="module")
def sorted_again(trained, tmp_path_factory):
    output = tmp_path_factory.mktemp("sorted") / "all"
    sort(trained, output, f"recording.path={trained.run['recording']}")
    return output


def test_training_leaves_what_a_user_looks_for(trained):
    names = {path.name for path in trained.folder.iterdir()}
    assert {"sorting", "scores.json", "run.json", "model.safetensors", "config.json", "metrics.csv"} <= names
    assert {"traces.png", "probe.png", "accuracy.png", "learning.png"} <= names
    assert "scratch" not in names
    assert trained.scores["pooled_accuracy"] > 0.8
    assert trained.run["num_labels"] == 80
    for name in ("sorting", "scores", "model", "picture"):
        assert f"{name + ':':<9} {trained.folder}" in trained.ended.out
    assert trained.ended.err == ""
    assert "serializable" not in trained.ended.out


def test_columns_of_a_dashboard_come_from_the_choices(trained):
    config = read(trained.folder / "config.json")
    assert config["probe"] == "tetrode"
    assert config["drift"] == "none"
    assert config["labels"] == 20
    assert config["name"] == "tetrode-medium-dense-finetune-per_unit20-seed0"
    artifacts = {artifact["name"]: artifact for artifact in read(trained.folder / "artifacts.json")}
    assert artifacts["model"]["path"] == "model.safetensors"
    assert {"traces", "probe", "accuracy", "learning"} <= set(artifacts)
    with open(trained.folder / "tables" / "units.csv") as file:
        assert len(list(csv.DictReader(file))) == 4


def test_sorting_gives_the_score_of_the_training_back(trained, sorted_again):
    assert read(sorted_again / "scores.json") == trained.scores
    again, first = spikes_of(sorted_again), spikes_of(trained.folder)
    np.testing.assert_array_equal(again[again["sample_index"] >= 160_000], first)
    record = read(sorted_again / "run.json")
    assert record["checkpoint_sha256"] == trained.run["checkpoint_sha256"]
    assert record["stop_sample"] == 320_000


def write_nwb(recording, path):
    pynwb = pytest.importorskip("pynwb")
    from datetime import UTC, datetime

    file = pynwb.NWBFile("a session", "an identifier", datetime.now(UTC))
    device = file.create_device("probe")
    group = file.create_electrode_group("group", "contacts", "cortex", device)
    for name in ("rel_x", "rel_y"):
        file.add_electrode_column(name, "in um")
    for x, y in recording.get_channel_locations():
        file.add_electrode(location="cortex", group=group, rel_x=float(x), rel_y=float(y))
    region = file.create_electrode_table_region(list(range(recording.get_num_channels())), "all")
    file.add_acquisition(
        pynwb.ecephys.ElectricalSeries(
            name="traces",
            data=recording.get_traces(),
            electrodes=region,
            rate=recording.sampling_frequency,
            conversion=float(recording.get_channel_gains()[0]) * 1e-6,
        )
    )
    with pynwb.NWBHDF5IO(path, "w") as io:
        io.write(file)


def stored(recording, kind, folder):
    """Store a recording in another format; return what sort.py has to be told to open it."""
    if kind == "folder":
        recording.save(folder=folder / "folder", verbose=False)
        return [f"recording.path={folder / 'folder'}"]
    if kind == "zarr":
        recording.save(folder=folder / "copy.zarr", format="zarr", verbose=False)
        return [f"recording.path={folder / 'copy.zarr'}"]
    if kind == "nwb":
        write_nwb(recording, folder / "copy.nwb")
        return [f"recording.path={folder / 'copy.nwb'}"]
    recording.get_traces().tofile(folder / "copy.raw")
    lines = ["x_um,y_um", *(f"{x},{y}" for x, y in recording.get_channel_locations())]
    (folder / "probe.csv").write_text("\n".join(lines))
    gain = float(recording.get_channel_gains()[0])
    facts = {"sampling_frequency": 32000, "num_channels": 4, "dtype": "int16", "gain_to_uv": gain}
    facts |= {"path": folder / "copy.raw", "probe": folder / "probe.csv"}
    return [f"recording.{name}={value}" for name, value in facts.items()]


@pytest.mark.parametrize("kind", ["folder", "zarr", "raw", "nwb"])
def test_the_same_recording_in_any_format(trained, sorted_again, tmp_path, kind):
    recording = RecordingPath(path=trained.run["recording"]).open()
    sort(trained, tmp_path / "out", *stored(recording, kind, tmp_path))
    found, expected = spikes_of(tmp_path / "out"), spikes_of(sorted_again)
    assert abs(len(found) - len(expected)) <= 0.01 * len(expected)
    assert len(np.intersect1d(found["sample_index"], expected["sample_index"])) > 0.98 * len(expected)
    assert not (tmp_path / "out" / "scores.json").exists()


def test_ground_truth_of_its_own_folder(trained, sorted_again, tmp_path):
    source = Path(trained.run["recording"])
    sort(
        trained,
        tmp_path / "out",
        f"recording.path={source / 'recording'}",
        f"recording.ground_truth={source / 'sorting'}",
    )
    assert read(tmp_path / "out" / "scores.json") == trained.scores


def test_shorter_than_a_window(trained, tmp_path):
    recording = RecordingPath(path=trained.run["recording"]).open()
    recording.frame_slice(start_frame=0, end_frame=40).save(folder=tmp_path / "short", verbose=False)
    ended = sort(trained, tmp_path / "out", f"recording.path={tmp_path / 'short'}")
    assert "40 samples, network and filter need 60: nothing to sort" in ended.out
    assert spikes_of(tmp_path / "out").size == 0
    assert spikeinterface.load(tmp_path / "out" / "sorting").get_num_units() == 4


def test_sweep_of_sorting_ends_with_one_table(trained, tmp_path):
    ended = run(
        "sort.py",
        "-m",
        f"checkpoint={trained.checkpoint}",
        "thresholds=0.3,0.6,2",
        "recording=simulated",
        *SMALL_TARGET,
        f"cache={trained.cache}",
        f"output={tmp_path / 'sweep'}",
    )
    assert ended.code == 1
    with open(tmp_path / "sweep" / "table.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["thresholds"] for row in rows] == ["0.3", "0.6", "2"]
    assert all(float(row["pooled_accuracy"]) > 0.6 for row in rows[:2])
    assert rows[2]["error"] == "thresholds must be a number in (0, 1], got 2"
    assert "error: job 2: thresholds must be a number in (0, 1], got 2" in ended.err
    assert "error: 1 of 3 jobs failed" in ended.err
    table = ended.out[ended.out.rindex("job ") :]
    assert "thresholds" in table
    assert "probe" not in table  # it is the same in all jobs
    again = run("sort.py", "-m", f"checkpoint={trained.checkpoint}", f"output={tmp_path / 'sweep'}")
    assert "exists: choose another folder" in again.error_line()


def test_training_from_scratch_with_wandb_offline(trained, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    folder = tmp_path / "run"
    ended = run(
        "train.py",
        *SMALL,
        "training=scratch",
        "logger=wandb",
        f"cache={trained.cache}",
        f"hydra.run.dir={folder}",
    )
    assert ended.code == 0, ended.out + ended.err
    assert list((folder / "wandb").glob("offline-run-*/*.wandb"))
    assert read(folder / "config.json")["training"] == "scratch"
    assert read(folder / "run.json")["backbone"] is None
    assert {"pooled_accuracy", "num_units", "val/f1"} <= set(read(folder / "summary.json"))


def test_pretraining_alone_then_resume_and_a_backbone_by_name(trained, tmp_path):
    """A backbone can be made alone, and given by its file; a finished run can be gone on with."""
    overrides = [name for name in SMALL if "finetune" not in name]
    overrides += [f"cache={trained.cache}", "training=pretrain", "training.pretrain.epochs=1"]
    ended = run("train.py", *overrides, f"hydra.run.dir={tmp_path / 'a'}")
    assert ended.code == 0, ended.err
    backbone = read(tmp_path / "a" / "run.json")["backbone"]
    assert load_card(backbone).is_backbone
    assert f"backbone: {Path(backbone)}" in ended.out
    assert run("train.py", *overrides, f"hydra.run.dir={tmp_path / 'a'}").code == 1

    overrides = [*SMALL, f"cache={trained.cache}", f"training.backbone={backbone}"]
    folder = f"hydra.run.dir={tmp_path / 'b'}"
    assert run("train.py", *overrides, folder).code == 0
    first, scores = load_card(tmp_path / "b" / "model.safetensors"), read(tmp_path / "b" / "scores.json")
    shutil.rmtree(tmp_path / "b" / "sorting")
    assert run("train.py", *overrides, folder, "resume=true").code == 0
    again = load_card(tmp_path / "b" / "model.safetensors")
    assert again.weights_digest == first.weights_digest
    assert read(tmp_path / "b" / "scores.json") == scores


def test_the_held_out_part_is_never_looked_at(trained, tmp_path):
    """Poison it: weights, thresholds and all else that is learned stay the same to the bit."""
    source = Path(trained.run["recording"])
    recording = RecordingPath(path=str(source)).open()
    traces = recording.get_traces().copy()
    traces[160_000:] = np.random.default_rng(0).normal(0, 400, traces[160_000:].shape)
    digests = []
    for name, content in (("clean", recording.get_traces()), ("poisoned", traces)):
        path = tmp_path / name
        shutil.copytree(source, path)
        (raw,) = (path / "recording").glob("*.raw")
        content.astype(np.int16).tofile(raw)
        ended = run(
            "train.py",
            "recording=path",
            f"recording.path={path}",
            "training=scratch",
            "label_budget=per_unit",
            "labels=20",
            *SHORT_TRAINING,
            f"cache={tmp_path}",
            f"hydra.run.dir={tmp_path / f'run-{name}'}",
        )
        assert ended.code == 0, ended.out + ended.err
        card = load_card(tmp_path / f"run-{name}" / "model.safetensors")
        digests.append((card.weights_digest, card.thresholds, card.noise_level_uv, card.unit_ids))
    assert digests[0] == digests[1]


def teach(trained, tmp_path, *overrides):
    """Learn from the ground truth as if it were somebody's sorting."""
    source = Path(trained.run["recording"])
    return run(
        "train.py",
        "recording=path",
        f"recording.path={source / 'recording'}",
        "teacher=sorting",
        f"teacher.path={source / 'sorting'}",
        "training=scratch",
        "label_budget=per_unit",
        "labels=20",
        *SHORT_TRAINING,
        f"cache={tmp_path}",
        f"hydra.run.dir={tmp_path / 'run'}",
        *overrides,
    )


def test_learning_from_a_sorting(trained, tmp_path):
    ended = teach(trained, tmp_path, "teacher.seconds=6")
    assert ended.code == 0, ended.out + ended.err
    scores = read(tmp_path / "run" / "scores.json")
    assert scores["pooled_accuracy"] is None
    assert (scores["start_sample"], scores["stop_sample"]) == (192_000, 320_000)
    assert len(scores["agreement"]["units"]) == 4
    assert scores["agreement"]["mean_best"] > 0.6
    assert f"agreement with the teacher on the rest: {scores['agreement']['mean_best']:.3f}" in ended.out
    assert load_card(tmp_path / "run" / "model.safetensors").labels.stop_sample == 192_000


def test_a_teacher_of_all_of_the_recording_leaves_nothing_to_agree_on(trained, tmp_path):
    ended = teach(trained, tmp_path, "teacher.seconds=100")
    assert ended.code == 0, ended.out + ended.err
    assert "nothing is left to agree on" in ended.out
    assert read(tmp_path / "run" / "scores.json")["agreement"]["mean_best"] is None
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.slow
def test_sweep_of_trainings(trained, tmp_path):
    ended = run_process(
        "train.py",
        "-m",
        *SMALL_TARGET,
        *SMALL_SOURCE,
        *SHORT_TRAINING,
        "labels=0.3,1.0,1.5",
        "drift=none,slow",
        f"cache={trained.cache}",
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
    )
    assert ended.code == 1
    with open(tmp_path / "sweep" / "table.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["labels"], row["drift"]) for row in rows] == [
        (labels, drift) for labels in ("0.3", "1.0", "1.5") for drift in ("none", "slow")
    ]
    assert all(row["pooled_accuracy"] for row in rows[:4])
    assert all("must be a number in (0, 1], got 1.5" in row["error"] for row in rows[4:])
    names = {read(tmp_path / "sweep" / str(job) / "config.json")["name"] for job in range(4)}
    assert len(names) == 4
