"""Whatever is wrong with the input: one clear line, exit code 1, and nothing is lost."""

import json
import shutil

import numpy as np
import pytest
from entries import SHORT_TRAINING, SMALL, run
from hydra.errors import InstantiationException
from spikeinterface.core import NumpyRecording, NumpySorting

from esort.recordings import RecordingPath

pytestmark = pytest.mark.filterwarnings("ignore:The extractor is not serializable")  # in memory


def train(tmp_path, *overrides):
    return run("train.py", f"cache={tmp_path}", f"hydra.run.dir={tmp_path / 'run'}", *overrides)


def sort(trained, tmp_path, *overrides):
    return run("sort.py", f"checkpoint={trained.checkpoint}", f"output={tmp_path / 'out'}", *overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["labels=0"], "labels for label_budget=proportional must be a number in (0, 1], got 0"),
        (["labels=1.5"], "labels for label_budget=proportional must be a number in (0, 1], got 1.5"),
        (["labels=abc"], "labels for label_budget=proportional must be a number in (0, 1], got 'abc'"),
        (["label_budget=per_unit", "labels=0.5"], "must be a whole number of at least 1, got 0.5"),
        (["recording.target.num_units=0"], "expected num_units to be an integer of at least 1, got 0"),
        (["noise.level_uv=-3"], "expected level_uv between 0 and 1000 uV, got -3"),
        (["seed=-1"], "seed must be a whole number of at least 0, got -1"),
        (["seed=1.5"], "seed must be a whole number of at least 0, got 1.5"),
        (["training.mode=foo"], "training.mode must be one of pretrain, finetune, scratch, got 'foo'"),
        (["training.backbone=/nowhere"], "expected a checkpoint file, got /nowhere, which does not exist"),
        (["training.backbone=README.md"], "README.md: "),
        (["training=pretrain", "training.backbone=README.md"], "expected training.backbone=auto"),
        (["training.finetune.epochs=0"], "epochs must be a whole number of at least 1, got 0"),
        (["teacher=sorting"], "teacher.path has no value"),
        (["teacher=sorting", "teacher.path=/nowhere"], "no sorting at /nowhere: no such file or folder"),
        (["teacher=lupin", "teacher.seconds=-1"], "teacher.seconds must be a number above 0, got -1"),
        (["preprocessing.freq_min_hz=50"], "freq_min_hz must be at least 100 Hz, got 50"),
        (["recording=path"], "recording=path needs a file or folder: give recording.path=PATH"),
        (["recording=path", "recording.path=/nowhere"], "no recording at /nowhere: no such file or folder"),
        (
            ["recording=path", "recording.path=README.md"],
            "README.md is not a recording in any of the formats",
        ),
        (["probe=file", "probe.path=/nowhere.json"], "/nowhere.json"),
    ],
)
def test_training(tmp_path, overrides, message):
    assert message in train(tmp_path, *overrides).error_line()
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("probe=foo", ["neuropixels128", "tetrode"]),
        ("drift=foo", ["none", "nonrigid", "slow"]),
        ("teacher=foo", ["lupin", "sorting"]),
        ("foo=1", ["Could not override 'foo'"]),
    ],
)
def test_unknown_groups_and_keys(tmp_path, override, words):
    ended = train(tmp_path, override)
    assert ended.code == 1
    assert all(word in ended.err for word in words)
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["recording.path=/nowhere"], "no recording at /nowhere: no such file or folder"),
        (["recording.path=conf"], "conf is not a recording in any of the formats tried"),
        (["recording=path"], "recording=path needs a file or folder"),
        (["thresholds=2"], "thresholds must be a number in (0, 1], got 2"),
        (["thresholds=abc"], "thresholds must be a number in (0, 1], got 'abc'"),
        (["num_workers=0"], "num_workers must be a whole number of at least 1, got 0"),
        (["checkpoint=/nowhere"], "expected a checkpoint file, got /nowhere, which does not exist"),
        (["checkpoint=README.md"], "README.md: "),
        (
            ["recording=simulated", "probe=neuronexus32"],
            "the checkpoint is for 4 channels, the recording has",
        ),
    ],
)
def test_sorting(trained, tmp_path, overrides, message):
    if not any("path" in override for override in overrides):
        overrides = [f"recording.path={trained.run['recording']}", *overrides]
    if "recording=simulated" in overrides:
        overrides = [*overrides[1:], "recording.target.duration_s=2", "recording.target.num_units=2"]
        overrides.append(f"cache={tmp_path}")
    ended = run(
        "sort.py",
        *([] if "checkpoint" in overrides[-1] else [f"checkpoint={trained.checkpoint}"]),
        f"output={tmp_path / 'out'}",
        *overrides,
    )
    assert message in ended.error_line()
    assert not (tmp_path / "out" / "sorting").exists()


def test_no_checkpoint(tmp_path):
    ended = run("sort.py", "recording.path=README.md", f"output={tmp_path / 'out'}")
    assert "give checkpoint=FILE" in ended.error_line()


def everything_in(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_results_are_not_overwritten(trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)
    before = everything_in(folder)
    again = train(tmp_path, *SMALL)
    assert f"{folder / 'sorting'} exists: choose another folder, or give resume=true" in again.error_line()
    shutil.rmtree(folder / "sorting")
    sorting = run("sort.py", f"checkpoint={trained.checkpoint}", "recording.path=x", f"output={folder}")
    assert f"{folder / 'model.safetensors'} exists: choose another" in sorting.error_line()
    before = {path: content for path, content in before.items() if "sorting" not in path.parts}
    assert everything_in(folder) == before


def test_a_file_in_the_place_of_the_output(trained, tmp_path):
    (tmp_path / "out").write_text("mine")
    message = sort(trained, tmp_path, "recording.path=README.md").error_line()
    assert "expected a folder for the results, got the file" in message
    assert (tmp_path / "out").read_text() == "mine"


def test_nan_in_the_traces(trained, tmp_path):
    recording = RecordingPath(path=trained.run["recording"]).open()
    traces = recording.get_traces().astype(np.float32)
    traces[100_000, 3] = np.nan
    poisoned = NumpyRecording([traces], recording.sampling_frequency)
    poisoned.set_dummy_probe_from_locations(recording.get_channel_locations())
    poisoned.save(folder=tmp_path / "nan", verbose=False)
    where = "traces must be finite, got nan at sample 100000, channel 3"
    paths = ["recording=path", f"recording.path={tmp_path / 'nan'}"]
    assert where in sort(trained, tmp_path, *paths).error_line()
    truth = f"recording.ground_truth={trained.run['recording']}"
    assert where in train(tmp_path, *paths, truth, *SHORT_TRAINING).error_line()
    assert where in train(tmp_path, *paths, "teacher=lupin").error_line()
    assert not (tmp_path / "out" / "sorting").exists()


def silent(tmp_path, trains):
    """A second of noise and a sorting of it."""
    traces = np.random.default_rng(0).normal(0, 100, (32_000, 4)).astype(np.int16)
    recording = NumpyRecording([traces], 32_000.0)
    recording.set_channel_gains(0.1)
    recording.set_channel_offsets(0.0)
    recording.set_dummy_probe_from_locations(np.array([[0, 0], [0, 20], [20, 0], [20, 20]]))
    recording.save(folder=tmp_path / "recording", verbose=False)
    sorting = NumpySorting.from_unit_dict(
        [{name: np.array(train) for name, train in trains.items()}], sampling_frequency=32_000.0
    )
    sorting.save(folder=tmp_path / "sorting")
    return [
        "recording=path",
        f"recording.path={tmp_path / 'recording'}",
        f"recording.ground_truth={tmp_path / 'sorting'}",
        "training=scratch",
        *SHORT_TRAINING,
    ]


@pytest.mark.parametrize(
    ("trains", "message"),
    [
        ({}, "labels need at least 1 unit, got 0"),
        ({"a": []}, "no labelled spike of 1 units"),
        ({"a": [20_000]}, "no labelled spike of 1 units"),  # the second half is held out
        ({"a": [5]}, "labelled spikes with"),  # no window fits around it
    ],
)
def test_nothing_to_learn_from(tmp_path, trains, message):
    assert message in train(tmp_path, *silent(tmp_path, trains)).error_line()


def test_nobody_to_learn_from(trained, tmp_path):
    recording = f"recording.path={trained.run['recording']}/recording"
    message = train(tmp_path, "recording=path", recording).error_line()
    assert "the recording has no labels: give teacher=lupin" in message


def test_a_unit_with_fewer_labels_than_the_budget_is_kept_and_named(trained, tmp_path):
    budget = ["training=scratch", "label_budget=per_unit", "labels=45"]
    ended = train(tmp_path, *SMALL, *budget, f"cache={trained.cache}")
    assert ended.code == 0, ended.out + ended.err
    assert "fewer labels than the 45 of each unit that the budget allows" in ended.out
    assert json.loads((tmp_path / "run" / "run.json").read_text())["labelled_units"] == 4


def test_the_traceback_is_there_for_those_who_ask(tmp_path):
    overrides = ["labels=0", f"hydra.run.dir={tmp_path / 'run'}"]
    with pytest.raises(InstantiationException, match="ValueError.*labels for label_budget=proportional must"):
        run("train.py", *overrides, HYDRA_FULL_ERROR="1")
