"""From labels to spikes with model=pursuit: learned, saved, loaded, sorted."""

import functools
import json
import logging
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from entries import SMALL_TARGET, run
from learning_data import make_toy
from spikeinterface.core import NumpyRecording, NumpySorting

from esort.checkpoint import load_card, load_checkpoint
from esort.detector import Postprocessing
from esort.evaluation import score
from esort.fitted import TrainingSettings
from esort.health import fingerprint
from esort.labels import LabelledSpikes
from esort.learning import LearningSpec
from esort.network import NetworkSpec
from esort.preprocessing import Preprocessing
from esort.pursuit.bandpass import reduction
from esort.pursuit.network import PursuitNetwork
from esort.sorter import Sorter
from esort.subject import Subject
from esort.training import train_units

RATE = 32_000.0
# Labels come from the first four of eight seconds.
STOP = int(4 * RATE)
UNUSED = LearningSpec(epochs=1)
LOST = functools.partial(pytest.fail, "pursuit is learned without a trainer")


def make_settings(**changes):
    values = {
        "network": NetworkSpec(name="pursuit"),
        "preprocessing": Preprocessing(common_reference="none"),
        "postprocessing": Postprocessing(),
        "make_trainer": LOST,
    }
    return TrainingSettings(**(values | changes))


def make_subject(toy, dtype="int16", order=slice(None)):
    """As a file would hold it: with a gain, an offset and low frequencies."""
    num_samples, num_channels = toy.traces.shape
    wave = 30 * np.sin(2 * np.pi * 8 * np.arange(num_samples) / toy.rate)
    stored = np.round(50 * toy.traces + wave[:, None] + 100)
    recording = NumpyRecording([stored.astype(dtype)[:, order]], toy.rate)
    positions = np.column_stack([np.zeros(num_channels), 20.0 * np.arange(num_channels)])[order]
    recording.set_dummy_probe_from_locations(positions)
    recording.set_channel_gains(0.2)
    recording.set_channel_offsets(-20.0)
    truth = NumpySorting.from_samples_and_labels(toy.sample_index, toy.unit_index, toy.rate)
    return Subject(recording=recording, ground_truth=truth, source="toy", fingerprint=fingerprint(recording))


@pytest.fixture(scope="module")
def toy():
    return make_toy(num_units=4, seconds=8.0, rate=RATE, firing_hz=10.0, noise=3.2)


@pytest.fixture(scope="module")
def labels(toy):
    return toy.labels(per_unit=10, stop=STOP)


def fit_units(toy, folder, labels, *, subject=None, settings=None):
    path = folder / "model.safetensors"
    metrics = train_units(
        make_subject(toy) if subject is None else subject,
        labels,
        UNUSED,
        make_settings() if settings is None else settings,
        backbone=None,
        path=path,
        folder=folder,
    )
    assert all(np.isfinite(value) for value in metrics.values())
    return path


@pytest.fixture(scope="module")
def path(toy, labels, tmp_path_factory):
    return fit_units(toy, tmp_path_factory.mktemp("pursuit"), labels)


@pytest.fixture(scope="module")
def sorter(path):
    return Sorter.load(path)


@pytest.fixture(scope="module")
def subject(toy):
    return make_subject(toy)


@pytest.fixture(scope="module")
def whole(sorter, subject):
    return sorter.sort(subject.recording, num_workers=1)


def arrays(spikes):
    return spikes.sample_index, spikes.unit_index, spikes.probability


def assert_same(spikes, expected):
    for found, wanted in zip(arrays(spikes), arrays(expected), strict=True):
        np.testing.assert_array_equal(found, wanted)


def part_of(spikes, start, stop):
    inside = (spikes.sample_index >= start) & (spikes.sample_index < stop)
    return type(spikes)(*(values[inside] for values in arrays(spikes)))


def test_ten_labels_sort_what_follows(whole, subject):
    scores = score(subject.ground_truth, whole.sorting(), start_sample=STOP, stop_sample=subject.num_samples)
    assert scores.pooled_accuracy > 0.9
    assert min(unit.accuracy for unit in scores.units) > 0.85


def test_the_card(path, sorter, labels, subject):
    card = sorter.card
    assert isinstance(sorter.network, PursuitNetwork)
    assert card.network == "pursuit"
    assert card.unit_ids == labels.unit_ids
    assert card.preprocessing["inside_network"] is True
    assert card.labels.num_labels == 40
    assert card.labels.stop_sample == STOP
    assert card.labels.recording_fingerprint == subject.fingerprint
    assert not (path.parent / "scratch").exists()
    calibration = json.loads((path.parent / "calibration.json").read_text())
    assert len(calibration["units"]) == 4


def test_times_are_those_of_the_labels(whole, toy):
    """No offset by the filter, the decimation or the bank."""
    for unit_index in range(4):
        found = whole.spikes.sample_index[whole.spikes.unit_index == unit_index]
        wanted = toy.sample_index[toy.unit_index == unit_index]
        offset = [found[np.abs(found - sample).argmin()] - sample for sample in wanted]
        assert abs(np.median(offset)) <= 1
        near = np.abs(offset) <= 12
        assert np.std(np.array(offset)[near]) < 2


def test_probabilities_are_believable(whole):
    probability = whole.spikes.probability
    assert probability.dtype == np.float32
    assert 0 <= probability.min() < probability.max() <= 1
    assert np.median(probability) > 0.9


def test_outputs_of_a_stretch(sorter, subject):
    """A row for every so many-th sample, wherever the stretch begins."""
    stride = sorter.network.stride
    prepared = sorter.prepare(subject.recording)
    whole = sorter.outputs(prepared, 0, 50_000)
    assert whole.shape == (-(-50_000 // stride), 4)
    for start, stop in ((0, 2), (15_999, 16_001), (16_001, 40_000), (40_000, 40_003)):
        part = sorter.outputs(prepared, start, stop)
        np.testing.assert_array_equal(part, whole[-(-start // stride) : -(-stop // stride)])


@pytest.mark.parametrize("num_workers", [2, None])
def test_the_same_for_any_number_of_workers(sorter, subject, whole, num_workers):
    assert_same(sorter.sort(subject.recording, num_workers=num_workers).spikes, whole.spikes)


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 1), (0, 100_000), (31_999, 64_001), (100_001, 240_000), (250_003, 256_000)]
)
def test_a_stretch_has_the_spikes_of_the_whole(sorter, subject, whole, start, stop):
    spikes = sorter.sort(subject.recording, start_sample=start, stop_sample=stop).spikes
    assert_same(spikes, part_of(whole.spikes, start, stop))


def test_a_recording_that_ends_at_any_sample(sorter, subject, whole):
    """Its length is no multiple of the stride, and the last window has all that there is."""
    for stop in (99_999, 100_001):
        cut = subject.recording.frame_slice(0, stop)
        spikes = sorter.sort(cut).spikes
        early = part_of(whole.spikes, 0, stop - 2000)
        assert_same(part_of(spikes, 0, stop - 2000), early)
        assert (spikes.sample_index < stop).all()


def test_the_order_of_channels_does_not_matter(toy, sorter, whole):
    order = np.random.default_rng(0).permutation(8)
    shuffled = make_subject(toy, order=order)
    assert_same(sorter.sort(shuffled.recording).spikes, whole.spikes)


def test_any_type_of_numbers(toy, sorter, whole):
    assert_same(sorter.sort(make_subject(toy, "float32").recording).spikes, whole.spikes)


def test_a_recording_too_short_for_a_window(sorter, subject, caplog):
    short = sorter.sort(subject.recording.frame_slice(0, 100))
    assert len(short.spikes) == 0
    assert "nothing to sort" in caplog.text


def test_a_user_s_threshold_is_a_probability(sorter, subject, whole):
    """Less probable spikes are left out, the others stay as they are."""
    least = float(np.median(whole.spikes.probability))
    kept = whole.spikes.probability >= least
    found = sorter.sort(subject.recording, thresholds=least).spikes
    assert_same(found, type(found)(*(values[kept] for values in arrays(whole.spikes))))


def test_learned_again_it_is_the_same(path, toy, labels, tmp_path):
    again = fit_units(toy, tmp_path, labels)
    assert load_card(again).weights_digest == load_card(path).weights_digest
    assert load_card(again).thresholds == load_card(path).thresholds


def test_nothing_behind_the_labelled_time_is_looked_at(toy, labels, path, tmp_path):
    poisoned = replace(toy, traces=toy.traces.copy())
    poisoned.traces[STOP:] = np.nan
    again = fit_units(toy, tmp_path, labels, subject=make_subject(poisoned, "float32"))
    (_, weights), (_, same) = load_checkpoint(path), load_checkpoint(again)
    for name, value in weights.items():
        np.testing.assert_array_equal(same[name], value)


def test_a_nan_in_the_labelled_time_is_located(toy, labels, tmp_path):
    bad = replace(toy, traces=toy.traces.copy())
    bad.traces[12_345, 3] = np.nan
    with pytest.raises(ValueError, match="traces must be finite, got nan at sample 12345, channel 3"):
        fit_units(toy, tmp_path, labels, subject=make_subject(bad, "float32"))
    assert list(tmp_path.iterdir()) == []


def test_labels_without_room(toy, labels, tmp_path):
    rim = replace(labels, sample_index=np.arange(4), unit_index=np.arange(4))
    with pytest.raises(ValueError, match=r"samples before and after them in \[0, 128000\), got none"):
        fit_units(toy, tmp_path, rim)


def test_a_unit_without_room_is_left_out_and_named(toy, labels, tmp_path, caplog):
    with_rim = replace(
        labels,
        sample_index=np.concatenate([[1], labels.sample_index]),
        unit_index=np.concatenate([[4], labels.unit_index]),
        unit_ids=(*labels.unit_ids, "rim"),
    )
    card = load_card(fit_units(toy, tmp_path, with_rim))
    assert card.unit_ids == labels.unit_ids
    assert "rim" in caplog.text


def test_a_unit_that_is_none_disturbs_nobody(toy, labels, path, tmp_path, caplog):
    """Labels between the spikes, where there is only noise: the others are as if nobody had given them."""
    distance = np.abs(np.arange(0, STOP, 500)[:, None] - toy.sample_index).min(axis=1)
    quiet = np.arange(0, STOP, 500)[distance > 250][2:22]
    sample_index = np.concatenate([labels.sample_index, quiet])
    unit_index = np.concatenate([labels.unit_index, np.full(len(quiet), 4)])
    order = np.argsort(sample_index, kind="stable")
    with_noise = replace(
        labels,
        sample_index=sample_index[order],
        unit_index=unit_index[order],
        unit_ids=(*labels.unit_ids, "nothing"),
    )
    again = load_card(fit_units(toy, tmp_path, with_noise))
    assert "nothing (" in caplog.text
    assert again.unit_ids == labels.unit_ids
    assert again.weights_digest == load_card(path).weights_digest
    assert again.thresholds == load_card(path).thresholds


def test_labels_of_noise_alone(toy, tmp_path):
    quiet = make_toy(num_units=1, seconds=4.0, rate=RATE, firing_hz=1e-9)
    nothing = LabelledSpikes(
        sample_index=np.arange(5000, 120_000, 5000),
        unit_index=np.zeros(23, dtype=np.int64),
        unit_ids=("nothing",),
        sampling_frequency=RATE,
        start_sample=0,
        stop_sample=STOP,
        complete=False,
    )
    with pytest.raises(ValueError, match="no unit can be told from the noise"):
        fit_units(quiet, tmp_path, nothing)


def test_one_unit_on_one_channel(tmp_path):
    one = make_toy(num_units=1, num_channels=1, seconds=4.0, rate=20_000.0)
    path = fit_units(one, tmp_path, one.labels(per_unit=5))
    spikes = Sorter.load(path).sort(make_subject(one).recording).spikes
    assert abs(len(spikes) - len(one.sample_index)) <= 0.1 * len(one.sample_index)


@pytest.mark.parametrize("rate", [15_000.0, 24_414.0625, 48_000.0])
def test_other_rates(rate, tmp_path):
    toy = make_toy(num_units=3, seconds=4.0, rate=rate, noise=2.0)
    path = fit_units(toy, tmp_path, toy.labels(per_unit=10))
    assert load_card(path).network_parameters["step"] == reduction(rate)
    subject = make_subject(toy)
    sorting = Sorter.load(path).sort(subject.recording).sorting()
    scores = score(subject.ground_truth, sorting, start_sample=0, stop_sample=subject.num_samples)
    assert scores.pooled_accuracy > 0.9


def test_constant_traces(toy, labels, tmp_path):
    dead = replace(toy, traces=np.zeros_like(toy.traces))
    subject = make_subject(dead)
    subject.recording.get_traces()[:] = 7
    with pytest.raises(ValueError, match="all traces are constant"):
        fit_units(dead, tmp_path, labels, subject=subject)


def test_parameters_of_the_network_reach_it(toy, labels, tmp_path):
    network = NetworkSpec(name="pursuit", parameters={"num_filters": 4, "num_head_channels": 3})
    card = load_card(fit_units(toy, tmp_path, labels, settings=make_settings(network=network)))
    assert card.network_parameters["num_filters"] == 4
    assert card.network_parameters["num_head_channels"] == 3


def test_train_and_sort_as_a_user_does(tmp_path, caplog):
    """The two commands; the spikes of the rest are those that training said."""
    caplog.set_level(logging.INFO)
    common = (*SMALL_TARGET, f"cache={tmp_path / 'cache'}")
    learned = tmp_path / "learned"
    ended = run(
        "train.py",
        *common,
        "model=pursuit",
        "training=scratch",
        "label_budget=per_unit",
        "labels=10",
        "trainer=cpu",
        f"hydra.run.dir={learned}",
    )
    assert ended.code == 0, ended.out + ended.err
    scores = json.loads((learned / "scores.json").read_text())
    assert scores["pooled_accuracy"] > 0.9
    facts = json.loads((learned / "run.json").read_text())
    assert facts["num_labels"] == 40
    config = json.loads((learned / "config.json").read_text())
    assert config["model"] == "pursuit"
    output = tmp_path / "sorted"
    ended = run(
        "sort.py",
        f"checkpoint={learned / 'model.safetensors'}",
        f"recording.path={facts['recording']}",
        f"output={output}",
        "report=false",
    )
    assert ended.code == 0, ended.out + ended.err
    import spikeinterface

    of_training = spikeinterface.load(learned / "sorting").to_spike_vector()
    spikes = spikeinterface.load(output / "sorting").to_spike_vector()
    rest = spikes[spikes["sample_index"] >= facts["start_sample"]]
    np.testing.assert_array_equal(rest["sample_index"], of_training["sample_index"])
    np.testing.assert_array_equal(rest["unit_index"], of_training["unit_index"])


def test_a_sorter_that_was_made_ready_finds_the_same(path, subject, whole):
    ready = Sorter.load(path)
    ready.make_ready()
    assert_same(ready.sort(subject.recording, num_workers=1).spikes, whole.spikes)


def test_sorting_loads_no_more_than_it_needs(path, subject, whole, tmp_path):
    """PyTorch takes longer to load than a minute takes to sort, filters that are not used a second."""
    recording = subject.recording.save(folder=tmp_path / "recording", verbose=False)
    program = (
        "import sys, numpy, esort.sort_run\n"
        "from esort.defects import look_over\n"
        "from esort.sorter import Sorter\n"
        "from spikeinterface.core import load\n"
        "recording = load(sys.argv[2])\n"
        "assert not look_over(recording).bad_channel_ids\n"
        "spikes = Sorter.load(sys.argv[1]).sort(recording).spikes\n"
        "numpy.save(sys.argv[3], spikes.sample_index)\n"
        "print(*{'torch', 'pytorch_lightning', 'matplotlib', 'pandas', 'scipy.signal'} & set(sys.modules))"
    )
    found = tmp_path / "found.npy"
    command = [sys.executable, "-c", program, path, tmp_path / "recording", found]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.split() == []
    assert recording.get_num_samples() == subject.num_samples
    np.testing.assert_array_equal(np.load(found), whole.spikes.sample_index)
