"""esort among SpikeInterface's sorters: listed, run, refused early, sent to other processes."""

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import spikeinterface as si
import spikeinterface.sorters as sorters
from learning_data import make_toy
from spikeinterface.core import NumpyRecording, append_recordings, generate_ground_truth_recording
from test_pursuit_sort import RATE, UNUSED, make_settings, make_subject

import esort
from esort.sorter import Sorter
from esort.spikeinterface_sorter import CarryingRecording, EsortSorter, carry_esort, register
from esort.training import train_backbone

pytestmark = pytest.mark.filterwarnings("ignore:The extractor is not serializable")


@pytest.fixture(scope="module")
def recording(trained):
    """Two seconds that the checkpoint was not made on."""
    whole = trained.subject().recording
    return whole.frame_slice(start_frame=200_000, end_frame=264_000)


@pytest.fixture(scope="module")
def made(trained, recording, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sorter") / "out"
    return folder, sorters.run_sorter(
        "esort", recording, folder=folder, checkpoint=trained.checkpoint, num_workers=1
    )


@pytest.mark.parametrize(
    "program",
    [
        "import esort; begin = seconds(); light(); import spikeinterface.sorters as s",
        "import spikeinterface.sorters as s; light(); import esort; begin = seconds()",
        "import esort; begin = seconds(); import esort; from spikeinterface.sorters import sorterlist as s",
        "from esort.spikeinterface_sorter import carry_esort; begin = 0; import spikeinterface.sorters as s",
    ],
)
def test_importing_esort_is_enough_and_light(program):
    before = (
        "import sys, time; start = time.perf_counter(); seconds = lambda: time.perf_counter() - start\n"
        "def light(): assert not {'torch', 'hydra', 'pandas'} & set(sys.modules)\n"
    )
    after = (
        "\nlight(); assert s.available_sorters().count('esort') == 1 == s.installed_sorters().count('esort')"
    )
    done = subprocess.run(
        [sys.executable, "-c", before + program + after + "\nprint(begin)"], capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


def test_importing_esort_takes_no_time():
    program = "import time; t = time.perf_counter(); import esort; print(time.perf_counter() - t)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.5


def test_registering_twice_changes_nothing():
    before = list(sorters.sorterlist.sorter_full_list)
    register()
    assert sorters.sorterlist.sorter_full_list == before
    assert sorters.sorter_dict["esort"] is EsortSorter


def test_what_spikeinterface_says_of_it():
    parameters = sorters.get_default_sorter_params("esort")
    described = sorters.get_sorter_params_description("esort")
    assert set(parameters) == set(described)
    assert all(len(text) > 10 for text in described.values())
    assert EsortSorter.get_sorter_version() == esort.__version__
    assert "learns" in sorters.get_sorter_description("esort")
    json.dumps(parameters)


def test_it_sorts_as_sort_py_does(made, trained, recording):
    folder, sorting = made
    result = Sorter.load(trained.checkpoint).sort(recording)
    spikes = sorting.to_spike_vector()
    assert spikes.size > 20
    np.testing.assert_array_equal(spikes["sample_index"], result.spikes.sample_index)
    np.testing.assert_array_equal(spikes["unit_index"], result.spikes.unit_index)
    assert sorting.unit_ids.tolist() == list(result.unit_ids)
    probability = np.load(folder / "sorter_output" / "sorting" / "probability.npy")
    np.testing.assert_array_equal(probability, result.spikes.probability)


def test_the_folder_is_like_any_sorter_s(made, trained):
    folder, sorting = made
    for read in (sorters.read_sorter_folder, si.load):
        again = read(folder)
        np.testing.assert_array_equal(again.to_spike_vector(), sorting.to_spike_vector())
        assert again.unit_ids.tolist() == sorting.unit_ids.tolist()
    assert set(sorting.sorting_info) == {"recording", "params", "log"}
    assert sorting.sorting_info["params"]["sorter_params"]["checkpoint"] == str(trained.checkpoint)
    assert sorting.sorting_info["log"]["sorter_version"] == esort.__version__
    assert sorting.has_recording()


def test_an_existing_folder_is_refused(made, trained, recording):
    folder, _ = made
    with pytest.raises(ValueError, match="already exists"):
        sorters.run_sorter("esort", recording, folder=folder, checkpoint=trained.checkpoint)


def test_segments_are_sorted_one_by_one(trained, recording, tmp_path):
    parts = [recording.frame_slice(0, 20_000), recording.frame_slice(20_000, 64_000)]
    silent = NumpyRecording([np.zeros((9000, 4), dtype=recording.dtype)], recording.sampling_frequency)
    silent = silent.rename_channels(recording.channel_ids)
    silent.set_probe(recording.get_probe())
    silent.save(folder=tmp_path / "silent", verbose=False)
    whole = append_recordings([*parts, si.load(tmp_path / "silent")])
    folder = tmp_path / "out"
    sorting = sorters.run_sorter("esort", whole, folder=folder, checkpoint=trained.checkpoint, num_workers=1)
    assert sorting.get_num_segments() == 3
    sorter = Sorter.load(trained.checkpoint)
    for index, part in enumerate(parts):
        alone = sorter.sort(part, num_workers=1).sorting()
        for unit_id in alone.unit_ids:
            train = sorting.get_unit_spike_train(unit_id, segment_index=index)
            np.testing.assert_array_equal(train, alone.get_unit_spike_train(unit_id))
    spikes = sorters.read_sorter_folder(folder).to_spike_vector()
    assert np.unique(spikes["segment_index"]).tolist() == [0, 1]
    assert np.load(folder / "sorter_output" / "sorting" / "probability.npy").size == spikes.size


@pytest.fixture(scope="module")
def pursuit_backbone(tmp_path_factory):
    """Temporal components of some other neurons."""
    folder = tmp_path_factory.mktemp("backbone")
    source = make_toy(num_units=5, num_channels=6, seconds=4.0, rate=RATE, firing_hz=10.0, seed=7)
    path = folder / "backbone.safetensors"
    train_backbone(make_subject(source), source.labels(), UNUSED, make_settings(), path=path, folder=folder)
    return path


@pytest.mark.parametrize("training", ["scratch", "finetune"])
def test_without_a_checkpoint_it_learns_first(trained, pursuit_backbone, tmp_path, training):
    subject = trained.subject()
    subject.ground_truth.save(folder=tmp_path / "labels")
    short = subject.recording.frame_slice(0, 32_000)
    whole = append_recordings([short, subject.recording])  # the longest is learned from
    common = {"epochs": 1, "labels": 20, "label_budget": "per_unit", "training": training, "num_workers": 1}
    with pytest.raises(ValueError, match="teacher_path is for recordings of 1 segment, got 2"):
        sorters.run_sorter("esort", whole, tmp_path / "no", teacher_path=tmp_path / "labels")
    sorting = sorters.run_sorter(
        "esort",
        subject.recording,
        folder=tmp_path / "out",
        teacher_path=tmp_path / "labels",
        teacher_seconds=5.0,
        backbone=pursuit_backbone if training == "finetune" else None,
        cache=tmp_path / "cache",
        **common,
    )
    assert set(sorting.unit_ids) <= set(subject.ground_truth.unit_ids)
    assert sorting.to_spike_vector().size > 100
    output = tmp_path / "out" / "sorter_output"
    assert not (tmp_path / "cache").exists()
    # What was learned sorts on, with the same units and spikes.
    again = sorters.run_sorter(
        "esort", subject.recording, tmp_path / "again", checkpoint=output / "model.safetensors"
    )
    np.testing.assert_array_equal(again.to_spike_vector(), sorting.to_spike_vector())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"checkpoint": "nowhere.safetensors"}, "nowhere.safetensors"),
        ({"thresholds": 0}, r"thresholds must be a number in \(0, 1\], got 0"),
        ({"thresholds": "high"}, r"thresholds must be a number in \(0, 1\], got 'high'"),
        ({"num_workers": 0}, "num_workers must be a whole number of at least 1, got 0"),
        ({"teacher": "kilosort9"}, "teacher must be one of lupin, .*, got 'kilosort9'"),
        ({"teacher": None}, "teacher must be the name of a sorter, got None"),
        ({"teacher_path": "nothing"}, "no sorting at .*nothing: no such file or folder"),
        ({"teacher_groups": ["good"]}, "teacher.groups is for teacher=sorting only, got teacher=lupin"),
        ({"teacher_seconds": -1}, "teacher.seconds must be a number above 0, got -1"),
        ({"label_budget": "some"}, "label_budget must be one of .*, got 'some'"),
        ({"labels": 2}, r"labels for label_budget=proportional must be a number in \(0, 1\], got 2"),
        ({"training": "pretrain"}, "training must be one of finetune, scratch, got 'pretrain'"),
        ({"backbone": "none.safetensors"}, "none.safetensors"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"freq_max_hz": 100.0}, "freq_max_hz must be above freq_min_hz=175.0, got 100.0"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"speed": 1}, "Invalid parameters"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_runs(recording, tmp_path, parameters, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        sorters.run_sorter("esort", recording, folder=tmp_path / "out", **parameters)
    assert not any((tmp_path / "out" / "sorter_output").iterdir())


def test_what_does_not_fit_is_refused_before_anything_runs(trained, recording, tmp_path):
    other, _ = generate_ground_truth_recording(num_channels=5, durations=[1.0], sampling_frequency=32_000.0)
    other = other.save(folder=tmp_path / "recording", verbose=False)
    with pytest.raises(ValueError, match="the checkpoint is for 4 channels, the recording has 5 channels"):
        sorters.run_sorter("esort", other, tmp_path / "channels", checkpoint=trained.checkpoint)
    backbone = next((trained.cache / "backbones").glob("*.safetensors"))
    with pytest.raises(ValueError, match="expected a checkpoint with units, got a backbone"):
        sorters.run_sorter("esort", recording, tmp_path / "backbone", checkpoint=backbone)
    bare = NumpyRecording([np.zeros((9000, 4), dtype=np.float32)], 32_000.0)
    bare = bare.save(folder=tmp_path / "nowhere", verbose=False)
    with pytest.raises(RuntimeError, match="Channel locations are required"):
        sorters.run_sorter("esort", bare, tmp_path / "bare", checkpoint=trained.checkpoint)


def test_a_carrying_recording_is_the_recording(recording):
    carried = carry_esort(recording)
    assert carry_esort(carried) is carried
    again = si.load(json.loads(json.dumps(si.core.core_tools.check_json(carried.to_dict(recursive=True)))))
    assert isinstance(again, CarryingRecording)
    np.testing.assert_array_equal(again.get_traces(), recording.get_traces())
    np.testing.assert_array_equal(again.get_channel_locations(), recording.get_channel_locations())
    in_memory = carry_esort(NumpyRecording([np.ones((9, 2))], 10_000.0))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(in_memory)).get_traces(), np.ones((9, 2)))  # noqa: S301
    assert again.channel_ids.tolist() == recording.channel_ids.tolist()


def jobs(recording, checkpoint, folder):
    return [
        {
            "sorter_name": "esort",
            "recording": carry_esort(part),
            "folder": folder / name,
            "checkpoint": str(checkpoint),
            "num_workers": 1,
        }
        for name, part in (
            ("first", recording.frame_slice(0, 32_000)),
            ("second", recording.frame_slice(32_000, 64_000)),
        )
    ]


@pytest.mark.slow
def test_spikeinterface_s_joblib_engine(trained, recording, tmp_path):
    found = sorters.run_sorter_jobs(
        jobs(recording, trained.checkpoint, tmp_path),
        engine="joblib",
        engine_kwargs={"n_jobs": 2, "backend": "loky"},
        return_output=True,
    )
    assert all(sorting.to_spike_vector().size > 10 for sorting in found)


def test_spikeinterface_s_slurm_engine(trained, recording, tmp_path, monkeypatch):
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    # What slurm does with the script, on this machine: run its last argument in a process of its own.
    sbatch.write_text('#!/bin/sh\nfor script; do :; done\ncd / && "$script" && echo done\n')
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}{os.pathsep}{os.environ['PATH']}")
    sorters.run_sorter_jobs(
        jobs(recording, trained.checkpoint, tmp_path)[:1],
        engine="slurm",
        engine_kwargs={"tmp_script_folder": tmp_path / "scripts", "sbatch_args": {"cpus-per-task": 1}},
    )
    assert sorters.read_sorter_folder(tmp_path / "first").to_spike_vector().size > 10


@pytest.mark.slow
def test_spikeinterface_s_common_suite(tmp_path):
    """What SpikeInterface asks of each of its sorters: its SorterCommonTestSuite, not in its wheel.

    With default parameters on four channels, 60 s, at its seed; the folder of the sorter is deleted
    afterwards, what tells how it ran stays.
    """
    recording, _ = generate_ground_truth_recording(num_channels=4, durations=[60], seed=0)
    recording = recording.save(folder=tmp_path / "recording", verbose=False, format="binary")
    folder = tmp_path / "esort"
    sorting = sorters.run_sorter(
        "esort",
        recording,
        folder=folder,
        remove_existing_folder=True,
        delete_output_folder=True,
        verbose=False,
        raise_error=True,
        **(EsortSorter.default_params() | {"cache": tmp_path / "cache"}),
    )
    assert {"recording", "params", "log"} <= set(sorting.sorting_info)
    assert sorting.to_spike_vector().size > 1000
    assert {path.name for path in folder.iterdir()} >= {
        f"spikeinterface_{name}.json" for name in ("recording", "params", "log")
    }
    assert not (folder / "sorter_output").exists()
