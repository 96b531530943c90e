"""Things change while recording: neurons nobody labelled, drift, channels that die. It is said, and where."""

import json
import logging
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from faulty_recordings import RATE, STOP, learn, line, recording_of, stored, subject_of
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_data import make_toy
from spikeinterface.core import NumpyRecording

from esort.announcement import announce
from esort.baseline import Baseline
from esort.doubtful import doubtful_spikes
from esort.fitness import FITS, NO_LONGER, WATCH, Fitness
from esort.minutes import Minutes
from esort.motion import FollowedMotion
from esort.outcome import sort_subject
from esort.sorter import Sorter
from esort.stream import StreamingSorter
from esort.stretches import within
from esort.unknown import UnknownEvents

pytestmark = pytest.mark.filterwarnings("ignore:The extractor is not serializable")  # in memory

# Too few contacts to follow drift by: the neuron would look like its neighbour, moved.
UNLABELLED, SECONDS, CHANNELS = 2, 6.0, 14


def without_early_spikes(toy, unit_index):
    """The same recording, but for a neuron that is silent in the labelled time."""
    traces, before, length = toy.traces.copy(), toy.window.before_samples, toy.window.samples
    early = (toy.unit_index == unit_index) & (toy.sample_index < STOP + length)
    for sample in toy.sample_index[early]:
        traces[sample - before : sample - before + length] -= toy.waveforms[unit_index]
    return replace(toy, traces=traces)


class Changed:
    """A recording with one neuron that was silent when the others were learned, and who learned them."""

    def __init__(self, folder):
        self.toy = make_toy(num_units=6, num_channels=CHANNELS, seconds=SECONDS, rate=RATE, firing_hz=10.0)
        self.traces = stored(self.toy)
        labels = self.toy.labels(per_unit=12, stop=STOP)
        known = np.arange(labels.num_units) != UNLABELLED
        subject = subject_of(recording_of(self.traces), self.toy)
        (folder / "some").mkdir()
        (folder / "all").mkdir()
        earlier = without_early_spikes(self.toy, UNLABELLED)
        earlier = subject_of(recording_of(stored(earlier)), earlier)
        self.path = learn(earlier, labels.of_units(known), folder / "some")
        self.sorter = Sorter.load(self.path)
        self.knows_all = Sorter.load(learn(subject, labels, folder / "all"))
        self.recording = recording_of(self.traces)
        self.result = self.sorter.sort(self.recording)
        self.train = self.toy.sample_index[self.toy.unit_index == UNLABELLED]
        self.place = line(CHANNELS)[np.abs(self.toy.waveforms[UNLABELLED]).max(axis=0).argmax()]


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    return Changed(tmp_path_factory.mktemp("changed"))


def near(times, others, tolerance=16):
    return np.array([len(others) > 0 and np.abs(others - time).min() <= tolerance for time in times])


def same(unknown, wanted):
    for name in UnknownEvents.KEPT:
        np.testing.assert_array_equal(getattr(unknown, name), getattr(wanted, name))


# ------------------------------------------------------------------------------------------ unknown neurons


def test_a_neuron_that_nobody_has_seen_comes_out_as_unknown_events(changed):
    unknown = changed.result.unknown
    assert near(changed.train, unknown.sample_index).mean() > 0.9
    at_train = near(unknown.sample_index, changed.train)
    assert at_train.mean() > 0.9
    distance = np.linalg.norm(unknown.position_um[at_train] - changed.place, axis=1)
    assert np.quantile(distance, 0.9) < 40
    assert (unknown.amplitude <= 0).all()
    assert np.median(unknown.amplitude) < -4
    assert (unknown.size > changed.sorter.tables.baseline.least_size - 1e-3).all()


def test_it_does_not_come_out_as_a_known_unit(changed):
    assert near(changed.train, changed.result.spikes.sample_index).mean() < 0.25  # chance alone: 0.05
    assert set(changed.result.unit_ids) == {f"u{unit}" for unit in range(6) if unit != UNLABELLED}


def test_where_all_neurons_are_known_there_are_few_unknown_events(changed):
    result = changed.knows_all.sort(changed.recording)
    stated = changed.knows_all.tables.baseline.false_per_minute
    assert (
        0 < stated <= 60 / (STOP / RATE)
    )  # nobody can promise less than one in the time that was learned from
    assert len(result.unknown) <= 3


def test_spikes_at_unknown_events_are_doubtful(changed):
    """By hand: at the trough of a unit's spike and its place, too late, and too far away."""
    sorter, rate = changed.knows_all, RATE
    found = changed.knows_all.sort(changed.recording).spikes
    own = found.sample_index[found.unit_index == UNLABELLED][:3]
    late = [0, round(1e-3 * rate), 0]
    places = np.array([changed.place, changed.place, changed.place + np.array([0, 80])], dtype=np.float32)
    events = UnknownEvents(
        sample_index=own + late,
        channel_index=np.zeros(3, dtype=np.int64),
        position_um=places,
        amplitude=np.zeros(3, dtype=np.float32),
        size=np.full(3, 10, dtype=np.float32),
    )
    doubtful = doubtful_spikes(sorter, found, events)
    assert doubtful.dtype == bool
    assert own[0] in found.sample_index[doubtful & (found.unit_index == UNLABELLED)]
    assert not np.isin(own[1:], found.sample_index[doubtful & (found.unit_index == UNLABELLED)]).any()
    assert not doubtful_spikes(sorter, found, UnknownEvents.none()).any()


def test_sorting_writes_which_spikes_are_doubtful(changed, tmp_path, monkeypatch):
    monkeypatch.setattr("esort.saved._SPIKES_AT_ONCE", 7)
    subject = subject_of(changed.recording, changed.toy)
    made = sort_subject(changed.path, subject, tmp_path)
    doubtful = np.load(made.folder / "sorting" / "doubtful.npy")
    np.testing.assert_array_equal(
        doubtful, doubtful_spikes(changed.sorter, changed.result.spikes, changed.result.unknown)
    )
    assert doubtful.size == made.run["num_spikes"] > 7


def test_where_all_neurons_are_known_hardly_a_spike_is_doubtful(changed):
    result = changed.knows_all.sort(changed.recording)
    assert doubtful_spikes(changed.knows_all, result.spikes, result.unknown).mean() < 0.02


@settings(max_examples=8, deadline=None)
@given(
    lengths=st.lists(st.integers(100, 60_000), min_size=1, max_size=4),
    cuts=st.lists(st.integers(1, round(SECONDS * RATE) - 1), max_size=2, unique=True),
)
def test_unknown_events_and_counts_do_not_depend_on_how_a_recording_is_cut(changed, lengths, cuts):
    edges = [0, *sorted(cuts), len(changed.traces)]
    parts = [
        changed.sorter.sort(changed.recording, start_sample=start, stop_sample=stop)
        for start, stop in pairwise(edges)
    ]
    same(UnknownEvents.joined(part.unknown for part in parts), changed.result.unknown)
    stream = StreamingSorter.like(changed.sorter, changed.recording)
    start, number = 0, 0
    while start < len(changed.traces):
        stream.push(changed.traces[start : start + lengths[number % len(lengths)]])
        start, number = start + lengths[number % len(lengths)], number + 1
    stream.finish()
    same(stream.unknown, changed.result.unknown)
    joined = Minutes.joined(part.minutes for part in parts)
    assert joined is not None
    for name, wanted in changed.result.minutes.arrays().items():
        np.testing.assert_array_equal(joined.arrays()[name], wanted, err_msg=name)
    fitness = changed.result.fitness(changed.sorter.tables.baseline, range(CHANNELS))
    assert stream.health.minutes == fitness.minutes


def test_behind_a_gap_of_a_stream_unknown_events_go_on(changed):
    stream = StreamingSorter.like(changed.sorter, changed.recording)
    stream.push(changed.traces)
    before = len(changed.result.unknown)
    stream.push(changed.traces, start_sample=len(changed.traces) + 5_000)
    stream.finish()
    assert len(stream.unknown) == 2 * before
    shifted = stream.unknown.sample_index[before:] - len(changed.traces) - 5_000
    np.testing.assert_array_equal(shifted, changed.result.unknown.sample_index)


def test_artefacts_hold_no_unknown_events(changed):
    traces = changed.traces.copy()
    for start in range(20_000, len(traces) - 1000, 9_000):
        traces[start : start + 40] = 32_000
    result = changed.sorter.sort(recording_of(traces))
    assert len(result.blanked) > 10
    assert not within(result.unknown.sample_index, result.blanked).any()
    elsewhere = near(result.unknown.sample_index, changed.result.unknown.sample_index)
    assert (~elsewhere).sum() <= 3  # none at the edges of what was cut out


def test_unknown_events_are_peaks_of_spikeinterface_and_lie_beside_the_sorting(changed, tmp_path):
    from spikeinterface.core.node_pipeline import base_peak_dtype

    peaks = changed.result.unknown.peaks(segment_index=1)
    assert peaks.dtype == np.dtype(base_peak_dtype)
    assert (peaks["segment_index"] == 1).all()
    changed.result.unknown.save(tmp_path / "unknown.npz")
    same(UnknownEvents.load(tmp_path / "unknown.npz"), changed.result.unknown)
    with pytest.raises(FileNotFoundError):
        UnknownEvents.load(tmp_path / "none.npz")
    (tmp_path / "damaged.npz").write_bytes((tmp_path / "unknown.npz").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"damaged\.npz holds no unknown events \("):
        UnknownEvents.load(tmp_path / "damaged.npz")


def test_a_run_says_what_is_unknown(changed, tmp_path, caplog):
    traces = changed.traces.copy()
    traces[len(traces) // 2 :, 5] = 0
    recording = recording_of(traces)
    unknown = changed.sorter.sort(recording).unknown
    subject = subject_of(recording, changed.toy)
    with caplog.at_level(logging.WARNING):
        outcome = sort_subject(changed.path, subject, tmp_path, report=True)
    told = json.loads((tmp_path / "run.json").read_text())["health"]
    assert told == json.loads(json.dumps(outcome.run["health"]))
    assert told["unknown"]["per_minute"] == [len(unknown)]
    stated = changed.sorter.tables.baseline.false_per_minute
    assert told["unknown"]["expected_false_per_minute"] == pytest.approx(stated)
    assert told["verdict"] == WATCH
    assert told["minutes"][0]["flat_channels"] == [5]
    assert sum("minute 0: " in record.message for record in caplog.records) == 1
    same(UnknownEvents.load(tmp_path / "sorting" / "unknown_events.npz"), unknown)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "large spikes that fit no unit" in page
    assert told["minutes"][0]["line"].split(": ")[0] in page


# ----------------------------------------------------------------------------------------------- channels


def test_a_channel_that_dies_in_mid_recording_is_named(changed):
    traces = changed.traces.copy()
    traces[len(traces) // 2 :, 5] = traces[len(traces) // 2, 5]
    (minute,) = health_of(changed, traces).minutes
    assert minute.flat_channels == (5,)
    assert minute.verdict != FITS
    assert "channel 5 say nothing any more: name them as bad" in "; ".join(minute.advice)


def test_a_channel_that_becomes_noisy_is_named(changed):
    rng = np.random.default_rng(0)
    traces = changed.traces.astype(float)
    traces[len(traces) // 3 :, 11] += 400 * rng.standard_normal(len(traces) - len(traces) // 3)
    (minute,) = health_of(changed, np.round(traces).astype(np.int16)).minutes
    assert minute.noisy_channels == (11,)
    assert not minute.flat_channels


def test_channels_that_are_not_listened_to_are_not_named_again(changed):
    traces = changed.traces.copy()
    traces[:, 5] = 0
    stream = StreamingSorter(
        changed.sorter, gain_to_uv=0.2, contact_positions_um=line(CHANNELS), bad_channels=[5]
    )
    stream.push(traces)
    stream.finish()
    assert stream.health.minutes[0].flat_channels == ()


def health_of(changed, traces):
    recording: NumpyRecording = recording_of(traces)
    result = changed.sorter.sort(recording)
    fitness = result.fitness(changed.sorter.tables.baseline, recording.channel_ids.tolist())
    stream = StreamingSorter.like(changed.sorter, recording)
    for start in range(0, len(traces), 7_000):
        stream.push(traces[start : start + 7_000])
    stream.finish()
    assert stream.health.minutes == fitness.minutes
    return fitness


# ----------------------------------------------------------------------------------------------- verdicts


BASELINE = Baseline(rates_hz=np.full(4, 5.0), least_size=9, false_per_minute=1, unknown_share=0.01, fit=0.97)


def counted(*, spikes=(300,) * 4, fit=0.96, flat=(), noisy=(), noise=1.0):
    """One whole minute of 4 units and 20 channels."""
    minutes = Minutes.zeros(np.array([7]), 4, 20)
    minutes.num_cells[0], minutes.num_looked[0] = 120, 100_000
    minutes.num_spikes[0] = spikes
    minutes.num_fits[0], minutes.sum_fits[0] = 1000, round(1000 * 1000 * fit)
    minutes.num_within[0] = {1.0: 50_000, 1.5: 34_700, 3.0: 17_800}[noise]
    minutes.num_flat[0, list(flat)] = 120
    minutes.num_noisy[0, list(noisy)] = 120
    return minutes


def events(number):
    sample = 7 * 60 * 32_000 + 100 * np.arange(number)
    one = np.ones(number, dtype=np.float32)
    return UnknownEvents(
        sample_index=sample,
        channel_index=np.zeros(number, dtype=np.int64),
        position_um=np.zeros((number, 2), dtype=np.float32),
        amplitude=-5 * one,
        size=12 * one,
    )


def judged(*, unknown=0, shift_um=0, baseline=BASELINE, **counts):
    motion = FollowedMotion(
        times_s=np.array([430.0]), depths_um=np.array([100.0]), shift_um=np.array([[shift_um]])
    )
    fitness = Fitness.of(
        counted(**counts),
        events(unknown),
        motion,
        baseline,
        unit_ids=("a", "b", "c", "d"),
        channel_ids=tuple(f"ch{number}" for number in range(20)),
        sampling_frequency=32_000.0,
    )
    return fitness.minutes[0]


@pytest.mark.parametrize(
    ("case", "verdict", "advice"),
    [
        ({}, FITS, ""),
        ({"unknown": 20}, FITS, ""),
        ({"unknown": 200}, WATCH, "many unknown events: label the neurons that are new"),
        ({"unknown": 900}, NO_LONGER, "many unknown events"),
        ({"spikes": (120,) * 4}, WATCH, "0.40 times the expected spikes"),
        ({"spikes": (30,) * 4}, NO_LONGER, "0.10 times the expected spikes"),
        ({"spikes": (2000,) * 4}, NO_LONGER, "6.67 times the expected spikes"),
        ({"spikes": (300, 20, 300, 300)}, WATCH, "relabel unit b: hardly any spikes"),
        ({"fit": 0.8}, WATCH, "units explain 0.80 of large events, 0.97 while learning: check drift"),
        ({"fit": 0.6}, NO_LONGER, "check drift"),
        ({"shift_um": -34}, WATCH, "the tissue is 34 um away, up to 48 um are followed: check drift"),
        ({"shift_um": 48}, NO_LONGER, "the tissue is 48 um away, up to 48 um are followed"),
        ({"noise": 1.5}, WATCH, "1.50 times the noise of learning: check gain and grounding"),
        ({"noise": 3.0}, NO_LONGER, "times the noise of learning"),
        ({"flat": [3]}, WATCH, "channel ch3 say nothing any more: name them as bad"),
        ({"noisy": [1, 2, 3]}, NO_LONGER, "channels ch1, ch2, ch3 have become noisy: name them as bad"),
    ],
)
def test_a_verdict_a_minute(case, verdict, advice):
    minute = judged(**case)
    assert minute.verdict == verdict
    assert advice in "; ".join(minute.advice)
    assert str(minute).startswith(f"minute 7: {verdict}: ")


def test_without_a_baseline_less_is_told():
    minute = judged(baseline=None, spikes=(1, 0, 0, 0), fit=0.5)
    assert minute.expected_spikes is None
    assert minute.verdict == FITS


def test_a_baseline_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"fit must be in \[0, 1\] or NaN, got 1.5"):
        Baseline(rates_hz=np.zeros(2), fit=1.5)
    with pytest.raises(ValueError, match="least_size must be above 0, got -1"):
        Baseline(rates_hz=np.zeros(2), least_size=-1)
    with pytest.raises(ValueError, match="expected rates of units of at least 0 Hz"):
        Baseline(rates_hz=np.array([-1.0]))
    with pytest.raises(ValueError, match="expected usual.rates_hz and 4 usual.numbers"):
        Baseline.from_weights({"usual.rates_hz": np.zeros(2)})
    kept = Baseline.from_weights(BASELINE.to_weights())
    assert kept is not None
    assert (kept.least_size, kept.fit) == (9, pytest.approx(0.97))
    assert Baseline.from_weights({}) is None


def test_a_neuron_that_fired_unlabelled_while_learning_is_a_rival(changed, tmp_path, capsys):
    labels = changed.toy.labels(per_unit=12, stop=STOP)
    subject = subject_of(changed.recording, changed.toy)
    path = learn(subject, labels.of_units(np.arange(6) != UNLABELLED), tmp_path)
    made = sort_subject(path, subject, tmp_path / "out", report=True)
    assert made.run["num_rivals"] == 1
    assert made.run["num_units"] == 5
    assert (
        near(changed.train, made.sorting.to_spike_vector()["sample_index"]).mean() < 0.25
    )  # chance alone: 0.05
    assert len(Sorter.load(path).sort(changed.recording).unknown) <= 5
    announce(made)
    assert "neurons that nobody labelled compete: 1" in capsys.readouterr().out
    assert "neurons that nobody labelled" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
