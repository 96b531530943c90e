"""Whatever is wrong with labels: refused in one line, left out by name, reported while training goes on."""

import json
import logging

import numpy as np
import pytest
from faulty_recordings import RATE, STOP, World, learn, recording_of, stored, subject_of
from learning_data import make_toy
from spikeinterface.core import NumpySorting

from esort.evaluation import score
from esort.label_pairs import suspicious_labels
from esort.labels import LabelBudget, LabelledSpikes, select_labels
from esort.sorter import Sorter
from esort.sortings import open_sorting
from esort.teacher import Teacher
from esort.teaching import draw_labels

pytestmark = pytest.mark.filterwarnings("ignore:The extractor is not serializable")  # in memory


@pytest.fixture(scope="module")
def world():
    toy = make_toy(num_units=5, num_channels=16, seconds=5.0, rate=RATE, firing_hz=10.0)
    return World(toy, stored(toy), toy.labels(stop=STOP), None)


def labels_of(samples, units, names, **changes):
    order = np.lexsort((units, samples))
    values = {
        "sample_index": np.asarray(samples)[order],
        "unit_index": np.asarray(units)[order],
        "unit_ids": tuple(names),
        "sampling_frequency": RATE,
        "start_sample": 0,
        "stop_sample": STOP,
        "complete": False,
    }
    return LabelledSpikes(**(values | changes))


def select(samples, units, names=("a", "b"), **changes):
    values = {
        "budget": LabelBudget(),
        "sampling_frequency": RATE,
        "start_sample": 0,
        "stop_sample": 1000,
        "rng": np.random.default_rng(0),
    }
    return select_labels(samples, units, names, **(values | changes))


# ------------------------------------------------------------------------------------------ times and names


def saved(tmp_path, trains, rate=RATE):
    sorting = NumpySorting.from_unit_dict(
        [{name: np.asarray(train) for name, train in trains.items()}], sampling_frequency=rate
    )
    sorting.save(folder=tmp_path / "sorting")
    return tmp_path / "sorting"


def test_times_beyond_the_recording_are_refused(world, tmp_path):
    beyond = len(world.traces) + 5
    path = saved(tmp_path, {"a": [100, 50_000], "b": [60_000, beyond]})
    message = f"has a spike at sample {beyond}, beyond the recording of {len(world.traces)} samples"
    with pytest.raises(ValueError, match=message):
        Teacher(sorter="sorting", path=str(path)).units(world.recording(), tmp_path)
    subject = subject_of(world.recording(world.traces[:90_000]), world.toy)
    with pytest.raises(
        ValueError, match=r"the ground truth has \d+ of \d+ spikes outside .* of 90000 samples"
    ):
        draw_labels(subject, Teacher(), LabelBudget(), seed=0, folder=tmp_path)


def test_negative_times_are_refused(world, tmp_path):
    truth = NumpySorting.from_samples_and_labels(np.array([-5, 200]), np.array([0, 0]), RATE)
    subject = subject_of(world.recording(), world.toy)
    object.__setattr__(subject, "ground_truth", truth)
    with pytest.raises(ValueError, match="the ground truth has 1 of 2 spikes outside the recording"):
        draw_labels(subject, Teacher(), LabelBudget(), seed=0, folder=tmp_path)


def test_unsorted_labels_are_put_in_order():
    found = select([300, 100, 200], [1, 0, 0])
    assert found.sample_index.tolist() == [100, 200, 300]
    assert found.unit_index.tolist() == [0, 0, 1]
    with pytest.raises(ValueError, match="sample_index of labelled spikes must be in ascending order"):
        LabelledSpikes(
            sample_index=np.array([300, 100]),
            unit_index=np.array([0, 0]),
            unit_ids=("a",),
            sampling_frequency=RATE,
            start_sample=0,
            stop_sample=1000,
            complete=False,
        )


def test_duplicated_labels_are_kept_once(caplog):
    found = select([100, 100, 100, 200], [0, 0, 1, 1])
    assert found.sample_index.tolist() == [100, 100, 200]
    assert "1 labels name the same unit at the same sample twice; kept once" in caplog.text


@pytest.mark.parametrize("times", [[0.1, 0.2], [100.0, 200.0]])
def test_times_that_are_no_samples_are_refused(times):
    message = "sample_index must be a 1-d array of integers, got float64 of shape .*: samples, not seconds"
    with pytest.raises(ValueError, match=message):
        select(times, [0, 1])


def test_labels_of_another_rate_are_refused(tmp_path):
    path = saved(tmp_path, {"a": [100]}, rate=30_000.0)
    with pytest.raises(ValueError, match="is a sorting at 30000 Hz, but the recording has 32000 Hz"):
        open_sorting(path, sampling_frequency=RATE)


def test_labels_at_the_wrong_places_teach_nothing(world, tmp_path, caplog):
    """As of another rate or another recording that says nothing of itself."""
    rng = np.random.default_rng(0)
    wrong = labels_of(rng.integers(2000, STOP - 2000, 60), np.repeat(np.arange(3), 20), "abc")
    with pytest.raises(ValueError, match="no unit can be told from the noise"):
        learn(subject_of(world.recording(), world.toy), wrong, tmp_path)


def test_units_without_spikes_are_left_out_by_name(caplog):
    found = select([100, 200], [0, 0], names=("a", "nobody"))
    assert found.unit_ids == ("a",)
    assert "units left out, no labelled spike in samples [0, 1000): nobody" in caplog.text
    with pytest.raises(ValueError, match="no labelled spike of 2 units"):
        select([], [])
    with pytest.raises(ValueError, match="unit ids must be different from each other"):
        select([1], [0], names=("a", "a"))


def test_a_unit_that_never_fires_where_labels_come_from_is_named_and_scored_as_missed(tmp_path, caplog):
    toy = make_toy(num_units=4, num_channels=16, seconds=5.0, rate=RATE, firing_hz=10.0)
    silent = (toy.unit_index == 2) & (toy.sample_index < STOP)
    for sample in toy.sample_index[silent]:
        begin = sample - toy.window.before_samples
        toy.traces[begin : begin + toy.window.samples] -= toy.waveforms[2]
    toy.sample_index, toy.unit_index = toy.sample_index[~silent], toy.unit_index[~silent]
    subject = subject_of(recording_of(stored(toy)), toy)
    budget = LabelBudget(kind="per_unit", amount=10_000)  # more than there are
    labels = draw_labels(subject, Teacher(seconds=STOP / RATE), budget, seed=0, folder=tmp_path)
    assert labels.num_units == 3
    assert labels.num_spikes <= (toy.sample_index < STOP).sum()
    assert "units left out, no labelled spike" in caplog.text
    assert "fewer labels than the 10000 of each unit" in caplog.text
    sorter = Sorter.load(learn(subject, labels, tmp_path))
    found = sorter.sort(subject.recording, start_sample=STOP).sorting()
    scores = score(subject.ground_truth, found, start_sample=STOP, stop_sample=subject.num_samples)
    accuracy = {str(unit.unit_id): unit.accuracy for unit in scores.units}
    assert accuracy.pop("2") == 0.0
    assert len(accuracy) == 3
    assert min(accuracy.values()) > 0.8


# ----------------------------------------------------------------------------------------- split and merged


def whitened_windows(toy):
    rows = np.arange(round(1.6e-3 * RATE)) - round(0.6e-3 * RATE)
    return lambda samples: toy.traces[samples[:, None] + rows]


def suspects(world, labels):
    return suspicious_labels(labels, whitened_windows(world.toy), RATE)


def relabelled(world, change, per_unit=None):
    labels = world.toy.labels(stop=STOP, per_unit=per_unit)
    inside = (labels.sample_index > 1000) & (labels.sample_index < STOP - 1000)
    samples, units = change(labels.sample_index[inside], labels.unit_index[inside].copy())
    present = np.unique(units)
    return labels_of(samples, np.searchsorted(present, units), [f"u{unit}" for unit in present])


def split(samples, units):
    own = np.flatnonzero(units == 1)
    units[own[::2]] = 7
    return samples, units


def merge(samples, units):
    units[units == 3] = 2
    return samples, units


def doubled(samples, units):
    own = units == 4
    return np.concatenate([samples, samples[own] + 2]), np.concatenate([units, np.full(own.sum(), 8)])


@pytest.mark.parametrize("per_unit", [None, 8])
def test_good_labels_are_not_suspected(world, per_unit):
    assert suspects(world, relabelled(world, lambda *labels: labels, per_unit)) == []


@pytest.mark.parametrize("per_unit", [None, 10])
def test_one_neuron_under_two_names(world, per_unit):
    (found,) = suspects(world, relabelled(world, split, per_unit))
    assert (found.kind, found.unit_ids) == ("split", ("u1", "u7"))
    assert found.similarity > 0.97
    assert "u1 and u7 look like one neuron" in str(found)


def test_two_neurons_under_one_name(world):
    (found,) = suspects(world, relabelled(world, merge))
    assert (found.kind, found.unit_ids) == ("merged", ("u2",))
    assert found.similarity < 0.8
    assert "u2 looks like two neurons" in str(found)


def test_the_same_spikes_under_two_names(world):
    (found,) = suspects(world, relabelled(world, doubled))
    assert (found.kind, found.unit_ids) == ("duplicate", ("u4", "u8"))
    assert "name the same spikes" in str(found)


def test_two_neurons_that_look_alike_but_ignore_each_other_are_not_suspected():
    toy = make_toy(num_units=2, num_channels=8, seconds=5.0, rate=RATE, firing_hz=40.0)
    toy.traces[:] = np.random.default_rng(1).standard_normal(toy.traces.shape)
    for sample in toy.sample_index:  # one waveform for both
        begin = sample - toy.window.before_samples
        toy.traces[begin : begin + toy.window.samples] += toy.waveforms[0]
    labels = toy.labels()
    inside = (labels.sample_index > 1000) & (labels.sample_index < len(toy.traces) - 1000)
    labels = labels_of(
        labels.sample_index[inside], labels.unit_index[inside], "ab", stop_sample=len(toy.traces)
    )
    assert suspicious_labels(labels, whitened_windows(toy), RATE) == []


def test_training_goes_on_and_reports(world, tmp_path, caplog):
    labels = relabelled(world, lambda *labels: split(*merge(*labels)))
    with caplog.at_level(logging.WARNING):
        path = learn(subject_of(recording_of(world.traces), world.toy), labels, tmp_path)
    assert path.is_file()
    assert "labels: u1 and u7 look like one neuron" in caplog.text
    assert "labels: u2 looks like two neurons" in caplog.text
    listed = json.loads((tmp_path / "suspicious_labels.json").read_text())
    assert {tuple(suspect["unit_ids"]) for suspect in listed} == {("u1", "u7"), ("u2",)}


def test_the_run_keeps_what_was_suspected(trained_pursuit):
    assert trained_pursuit.run["suspicious_labels"] == []
