"""Other sorters: really run, with sample indices of the whole recording; and what can go wrong."""

import importlib.util
import json

import numpy as np
import pytest
from spikeinterface.core import NumpyRecording, NumpySorting, generate_ground_truth_recording

from esort.evaluation import score
from esort.peers import SORTERS, run_sorter_on
from esort.teacher import Teacher

RATE = 20_000.0


@pytest.fixture(scope="module")
def simulated():
    recording, truth = generate_ground_truth_recording(
        durations=[12.0],
        sampling_frequency=RATE,
        num_channels=4,
        num_units=4,
        generate_probe_kwargs={"num_columns": 2, "xpitch": 20, "ypitch": 20},
        noise_kwargs={"noise_levels": 5.0, "strategy": "on_the_fly"},
        seed=1,
    )
    # in memory, as a user's NumpyRecording would be
    traces = NumpyRecording(recording.get_traces(), RATE)
    traces.set_probegroup(recording.get_probegroup())
    traces.set_channel_gains(1.0)
    traces.set_channel_offsets(0.0)
    return traces, truth


def silent(seconds=1.0):
    recording = NumpyRecording(np.zeros((round(seconds * RATE), 4), "float32"), RATE)
    recording.set_dummy_probe_from_locations(np.column_stack([np.zeros(4), 20.0 * np.arange(4)]))
    return recording


def needs_peers(test):
    missing = importlib.util.find_spec("hdbscan") is None or importlib.util.find_spec("sklearn") is None
    return pytest.mark.skipif(missing, reason="needs esort[peers]")(test)


@pytest.mark.slow
@needs_peers
def test_a_real_sorter_on_a_stretch(simulated, tmp_path, capfd):
    recording, truth = simulated
    start, stop = round(2 * RATE), round(12 * RATE)
    sorting = run_sorter_on(recording, "simple", tmp_path / "simple", start_sample=start, stop_sample=stop)
    samples = sorting.to_spike_vector()["sample_index"]
    assert start <= samples.min() < start + RATE
    assert stop - RATE < samples.max() < stop
    # in the frame of the whole recording: shifted by the stretch's start nothing would match
    assert score(truth, sorting, start_sample=start, stop_sample=stop).mean_accuracy > 0.4
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.slow
@needs_peers
@pytest.mark.parametrize("name", ["lupin", "tridesclous2", "spykingcircus2"])
def test_the_usual_teachers_run(simulated, tmp_path, name):
    recording, truth = simulated
    teacher = Teacher(sorter=name, seconds=10)
    teacher.check()
    sample_index, unit_index, unit_ids = teacher.spikes(recording, tmp_path / name)
    assert sample_index.max() < 10 * RATE
    assert set(unit_index.tolist()) == set(range(len(unit_ids)))
    names = np.asarray(unit_ids)[unit_index]
    sorting = NumpySorting.from_samples_and_labels([sample_index], [names], RATE)
    assert score(truth, sorting, start_sample=0, stop_sample=round(10 * RATE)).mean_accuracy > 0.4


@pytest.mark.slow
@needs_peers
@pytest.mark.parametrize(("name", "known_as"), [("lupin_motion", "lupin"), ("lupin", "lupin")])
def test_who_corrects_motion_is_told_by_the_name(simulated, tmp_path, name, known_as):
    run_sorter_on(simulated[0], name, tmp_path)
    told = json.loads((tmp_path / "sorter" / "spikeinterface_params.json").read_text())
    assert told["sorter_name"] == known_as
    assert told["sorter_params"]["apply_motion_correction"] is (name != known_as)


@needs_peers
def test_sorter_that_fails_says_where_its_log_is(tmp_path):
    with pytest.raises(
        ValueError, match=r"simple (failed on 0-1 s: .+|found no spike in 0-1 s.*); see .*out"
    ) as error:
        run_sorter_on(silent(), "simple", tmp_path / "out")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="simple failed on 0-1 s: .*colour"):
        run_sorter_on(silent(), "simple", tmp_path / "out", parameters={"colour": 1})


@pytest.mark.parametrize("name", [name for name in SORTERS if not SORTERS[name].startswith("esort")])
def test_missing_package_names_the_installation(tmp_path, name):
    if importlib.util.find_spec(SORTERS[name]) is not None:
        pytest.skip(f"{name} is installed")
    with pytest.raises(ValueError, match=f"sorter {name} is not installed: pip install '{SORTERS[name]}'"):
        run_sorter_on(silent(), name, tmp_path / "out")
    with pytest.raises(ValueError, match="is not installed"):
        Teacher(sorter=name).check()


def test_unknown_sorter_and_empty_stretch(tmp_path):
    with pytest.raises(
        ValueError,
        match="sorter must be one of lupin, .*kilosort4, lupin_motion, tridesclous2_motion, got 'magic'",
    ):
        run_sorter_on(silent(), "magic", tmp_path)
    with pytest.raises(ValueError, match=r"inside the recording's \[0, 20000\), got \[0, 30000\)"):
        run_sorter_on(silent(), "lupin", tmp_path, stop_sample=30_000)


def save_sorting(folder, trains, rate=RATE):
    units = {unit: np.array(train, dtype="int64") for unit, train in trains.items()}
    NumpySorting.from_unit_dict([units], rate).save(folder=folder)
    return str(folder)


def test_teacher_from_a_sorting_up_to_its_seconds(tmp_path):
    path = save_sorting(tmp_path / "sorting", {"a": [10, 15_000], "late": [12_000], "b": [5]})
    teacher = Teacher(sorter="sorting", path=path, seconds=0.5)
    teacher.check()
    assert teacher.stop_sample(silent()) == 10_000
    sample_index, unit_index, unit_ids = teacher.spikes(silent(), tmp_path / "work")
    assert unit_ids == ("a", "b")
    assert list(zip(sample_index.tolist(), unit_index.tolist(), strict=True)) == [(5, 1), (10, 0)]
    assert sample_index.dtype == unit_index.dtype == np.int64
    assert teacher.sorting(silent(), tmp_path / "work").get_num_units() == 3


def test_units_with_too_few_spikes_teach_nothing(tmp_path, caplog):
    path = save_sorting(tmp_path / "sorting", {"a": [10, 20, 30], "b": [5, 6], "late": [15_000] * 4})
    teacher = Teacher(sorter="sorting", path=path, seconds=0.5, min_spikes=3)
    assert teacher.spikes(silent(), tmp_path / "work")[2] == ("a",)
    assert "with fewer than 3 spikes are left out: b (2)" in caplog.text


def test_teacher_without_seconds_teaches_the_first_half():
    assert Teacher(sorter="lupin").stop_sample(silent(3.0)) == 30_000
    assert Teacher(sorter="lupin", seconds=60).stop_sample(silent(3.0)) == 60_000


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sorter": "magic"}, "teacher must be one of lupin, .*sorting, got 'magic'"),
        ({"sorter": "sorting"}, "needs the sorting's folder or file as teacher.path"),
        (
            {"sorter": "lupin", "path": "x"},
            "teacher.path is for teacher=sorting only, got teacher=lupin and 'x'",
        ),
        (
            {"sorter": "lupin", "min_spikes": 0},
            "teacher.min_spikes must be a whole number of at least 1, got 0",
        ),
        ({"sorter": "lupin", "seconds": 0}, "teacher.seconds must be a number above 0, got 0"),
        ({"sorter": "lupin", "seconds": "x"}, "teacher.seconds must be a number above 0, got 'x'"),
    ],
)
def test_teacher_checks_itself(values, message):
    with pytest.raises(ValueError, match=message):
        Teacher(**values)


def test_teacher_that_does_not_fit_the_recording(tmp_path):
    def ask(trains, rate=RATE, **values):
        path = save_sorting(tmp_path / f"{rate}-{len(trains)}-{len(str(trains))}", trains, rate)
        Teacher(sorter="sorting", path=path, **values).spikes(silent(), tmp_path / "work")

    with pytest.raises(ValueError, match="spike at sample 20000, beyond the recording of 20000 samples"):
        ask({"a": [5, 20_000]})
    with pytest.raises(ValueError, match="sorting at 30000 Hz, but the recording has 20000 Hz"):
        ask({"a": [5]}, rate=30_000.0)
    with pytest.raises(ValueError, match="has no unit of 1 spikes or more in the first 0.1 s"):
        ask({"a": [15_000]}, seconds=0.1)
    with pytest.raises(FileNotFoundError, match="no sorting at /nowhere"):
        Teacher(sorter="sorting", path="/nowhere").check()
    with pytest.raises(ValueError, match="there is no teacher to ask"):
        Teacher().spikes(silent(), tmp_path / "work")
