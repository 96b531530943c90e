"""Whatever is wrong with a recording: found, named, and either refused in one line or sorted all the same."""

import json
import logging
import re
from dataclasses import replace

import numpy as np
import pytest
from faulty_recordings import (
    RATE,
    STOP,
    agreement,
    arrays,
    assert_same,
    learn,
    line,
    make_world,
    recording_of,
    stored,
    subject_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_data import make_toy
from long_recordings import Repeated
from probeinterface import Probe, ProbeGroup, write_probeinterface
from scipy.signal import resample_poly
from spikeinterface.core import NumpyRecording

from esort import chunks as chunks_module
from esort.artifacts import Blanking
from esort.blanking import BlankedRecording
from esort.chunks import ChunkFolder, sort_in_chunks
from esort.defects import Defects, check_scale, count_nonfinite, look_over, scale_advice
from esort.doctor import examine
from esort.doctor import main as doctor
from esort.handling import handling_of, marked
from esort.health import check_recording
from esort.interpolation import InterpolatedRecording
from esort.outcome import sort_subject
from esort.page.facts import describe_facts
from esort.recordings import RecordingPath
from esort.resampling import ResampledRecording
from esort.sorter import Sorter
from esort.stream import StreamingSorter
from esort.stretches import merged, within

pytestmark = pytest.mark.filterwarnings("ignore:The extractor is not serializable")  # in memory


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def streamed(stream, traces, length):
    found = [arrays(stream.push(traces[start : start + length])) for start in range(0, len(traces), length)]
    found.append(arrays(stream.finish()))
    found = np.concatenate(found, axis=1)
    return found[:, np.lexsort((found[1], found[0]))]


# ----------------------------------------------------------------------------------------- NaN and infinity


def with_nan(world):
    traces = world.traces.astype(np.float32)
    traces[100_000:100_004, 3] = np.nan
    traces[120_000, 5] = np.inf
    return traces


def test_nan_is_located_and_counted(world):
    message = (
        r"traces must be finite, got nan at sample 100000, channel 3, the first of 4 such values on 1 "
        r"channels in samples \d+ to \d+; recording.on_nan=interpolate bridges them"
    )
    with pytest.raises(ValueError, match=message):
        world.sorter.sort(world.recording(with_nan(world)))
    count, first, channels = count_nonfinite(world.recording(with_nan(world)))
    assert (count, first, channels) == (5, 100_000, [3, 5])
    assert count_nonfinite(world.recording()) == (0, None, [])


def test_nan_is_bridged_on_request(world, tmp_path, caplog):
    world.recording(with_nan(world)).save(folder=tmp_path / "nan", verbose=False)
    opened, defects = RecordingPath(path=str(tmp_path / "nan"), on_nan="interpolate").open_checked()
    assert defects.nonfinite == 5
    assert "5 NaN or infinite values are bridged, the first at sample 100000, on channels 3, 5" in caplog.text
    assert agreement(world.sorter.sort(opened).spikes, world.clean) > 0.98
    with pytest.raises(ValueError, match="on_nan must be error or interpolate, got 'ignore'"):
        RecordingPath(path="x", on_nan="ignore")


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), start=st.integers(0, 1990), length=st.integers(1, 2000))
def test_a_bridge_is_the_same_for_any_piece(seed, start, length):
    rng = np.random.default_rng(seed)
    traces = np.cumsum(rng.standard_normal((2000, 3)), axis=0).astype(np.float32)
    for _ in range(6):
        first = rng.integers(2000)
        traces[first : first + rng.integers(1, 300), rng.integers(3)] = np.nan
    bridged = InterpolatedRecording(recording_of(traces, rate=1000.0))
    whole = bridged.get_traces()
    assert np.isfinite(whole).all()
    assert (whole[np.isfinite(traces)] == traces[np.isfinite(traces)]).all()
    stop = min(2000, start + length)
    np.testing.assert_array_equal(bridged.get_traces(start_frame=start, end_frame=stop), whole[start:stop])


def test_a_bridge_is_a_straight_line_and_ends_somewhere():
    traces = np.zeros((1000, 2), dtype=np.float32)
    traces[:, 0], traces[:, 1] = np.arange(1000), 7
    traces[100:110, 0] = np.nan
    traces[:, 1][500:900] = np.nan
    bridged = InterpolatedRecording(recording_of(traces, rate=1000.0)).get_traces()
    np.testing.assert_allclose(bridged[:, 0], np.arange(1000))
    assert bridged[550, 1] == 7
    assert bridged[700, 1] == 0  # nobody within 0.1 s knows
    assert (InterpolatedRecording(recording_of(np.full((50, 2), np.nan, "f4"))).get_traces() == 0).all()


# --------------------------------------------------------------------------------- artefacts and saturation

STIMULI = (110_000, 118_000, 133_333)
SATURATED = (125_000, 126_500)


def with_artefacts(world, dtype=np.int16):
    """Three pulses of a millisecond and a decay on all channels, and 47 ms of saturation."""
    traces = world.broken().astype(np.float64)
    decay = 12_000 * np.exp(-np.arange(60) / 8.0)
    for sample in STIMULI:
        traces[sample : sample + 32] += 20_000
        traces[sample + 32 : sample + 92] -= decay[:, None]
    traces[slice(*SATURATED)] = 32_767
    if dtype == np.uint16:
        return (np.clip(traces, -32_768, 32_767) + 32_768).astype(np.uint16)
    return np.clip(traces, -32_768, 32_767).astype(dtype)


def artefacts_are_blanked(result, world):
    starts = [*STIMULI, SATURATED[0]]
    assert len(result.blanked) == 4
    for start, (first, last) in zip(sorted(starts), result.blanked, strict=True):
        assert start - 0.003 * RATE < first <= start
        assert last >= (SATURATED[1] if start == SATURATED[0] else start + 32 + 0.002 * RATE)
        assert last - start < (1600 if start == SATURATED[0] else 0.008 * RATE)
    spikes = result.spikes
    assert not within(spikes.sample_index, result.blanked).any()
    clean = world.clean
    outside = ~within(clean.sample_index, result.blanked + np.array([-40, 40]))
    expected = type(clean)(
        *(getattr(clean, name)[outside] for name in ("sample_index", "unit_index", "probability"))
    )
    assert agreement(spikes, expected) > 0.98


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32])
def test_stimulation_and_saturation_are_blanked_with_margin(world, dtype):
    recording = world.recording(
        with_artefacts(world, dtype), offset=-32_768 * 0.2 if dtype == np.uint16 else 0.0
    )
    artefacts_are_blanked(world.sorter.sort(recording), world)


def test_without_blanking_there_are_false_spikes(world):
    kept = world.sorter.sort(marked(world.recording(with_artefacts(world)), blanking=False))
    assert len(kept.blanked) == 0
    blanked = world.sorter.sort(world.recording(with_artefacts(world))).blanked
    assert within(kept.spikes.sample_index, blanked + np.array([-60, 60])).sum() > 5


def test_nothing_is_blanked_in_a_good_recording(world, trained_pursuit):
    assert len(world.sorter.sort(world.recording()).blanked) == 0
    assert trained_pursuit.run["defects"]["blanked"]["count"] == 0
    assert trained_pursuit.run["defects"]["not_listened_to"] == []


def test_blanking_does_not_depend_on_chunks(world, tmp_path, monkeypatch):
    recording = world.recording(with_artefacts(world))
    whole = world.sorter.sort(recording)
    cuts = [0, 30_001, 110_010, 125_700, len(world.traces)]
    parts = [
        world.sorter.sort(recording, start_sample=start, stop_sample=stop, num_workers=workers)
        for start, stop, workers in zip(cuts[:-1], cuts[1:], (1, 2, 3, 1), strict=True)
    ]
    joined = np.concatenate([arrays(part.spikes) for part in parts], axis=1)
    np.testing.assert_array_equal(joined, arrays(whole.spikes))
    np.testing.assert_array_equal(merged(np.concatenate([part.blanked for part in parts])), whole.blanked)
    monkeypatch.setattr(chunks_module, "CHUNK_S", 0.7)
    chunked = sort_in_chunks(world.sorter, recording, ChunkFolder(tmp_path, {}))
    assert_same(chunked.spikes, whole.spikes)
    np.testing.assert_array_equal(chunked.blanked, whole.blanked)


@pytest.mark.parametrize("length", [320, 7001])
def test_blanking_in_a_stream(world, length):
    traces = with_artefacts(world)
    recording = world.recording(traces)
    whole = world.sorter.sort(recording)
    stream = StreamingSorter.like(world.sorter, recording)
    np.testing.assert_array_equal(streamed(stream, traces, length), arrays(whole.spikes))
    np.testing.assert_array_equal(stream.blanked, whole.blanked)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    start=st.integers(0, 5990),
    length=st.integers(1, 6000),
    dtype=st.sampled_from(["int16", "uint16", "float32"]),
)
def test_blanked_traces_are_the_same_for_any_piece(seed, start, length, dtype):
    rng = np.random.default_rng(seed)
    traces = 20 * rng.standard_normal((6000, 6)) + 1000
    for _ in range(rng.integers(1, 6)):
        first, last = rng.integers(6000), rng.integers(2, 900)
        traces[first : first + last] = rng.choice([30_000, 1000, 9000])
    blanked = BlankedRecording(recording_of(traces.astype(dtype), rate=10_000.0), Blanking())
    whole = blanked.get_traces()
    assert whole.dtype == dtype
    stretches = blanked.stretches(0, 6000)
    stop = min(6000, start + length)
    piece = BlankedRecording(recording_of(traces.astype(dtype), rate=10_000.0), Blanking())
    np.testing.assert_array_equal(piece.get_traces(start_frame=start, end_frame=stop), whole[start:stop])
    np.testing.assert_array_equal(
        within(np.arange(start, stop), piece.stretches(start, stop)),
        within(np.arange(start, stop), stretches),
    )
    outside = ~within(np.arange(6000), stretches)
    np.testing.assert_array_equal(whole[outside], traces.astype(dtype)[outside])


def test_lost_packets_are_blanked(world):
    traces = world.broken()
    traces[130_000:131_000] = 0
    blanked = world.sorter.sort(world.recording(traces)).blanked
    assert len(blanked) == 1
    assert blanked[0, 0] <= 130_000 < 131_000 <= blanked[0, 1] < 131_200


def test_the_level_of_saturation_can_be_given(world):
    traces = world.broken()
    traces[130_000:131_000] = 3000 + world.broken()[130_000:131_000] % 7  # noisy, and reached slowly
    traces[129_000:130_000] += np.linspace(0, 2500, 1000)[:, None].astype(np.int16)
    traces[131_000:132_000] += np.linspace(2500, 0, 1000)[:, None].astype(np.int16)
    recording = marked(world.recording(traces), blanking=Blanking(saturation_uv=590.0))
    blanked = world.sorter.sort(recording).blanked
    assert within(np.arange(130_000, 131_000), blanked).all()
    assert len(world.sorter.sort(world.recording(traces)).blanked) == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"jump_uv": 0}, "blanking.jump_uv must be a number of µV above 0 or null, got 0"),
        ({"saturation_uv": "a"}, "blanking.saturation_uv must be a number of µV above 0 or null, got 'a'"),
        ({"held_ms": 0.1}, r"blanking.held_ms must be a number in \[0.3, 100\] ms, got 0.1"),
        ({"after_ms": float("nan")}, r"blanking.after_ms must be a number in \[0, 100\] ms, got nan"),
    ],
)
def test_wrong_values_for_blanking(values, message):
    with pytest.raises(ValueError, match=message):
        Blanking(**values)
    with pytest.raises(ValueError, match=message):
        RecordingPath(path="x", blank=values)
    with pytest.raises(ValueError, match="blank must be true, false or values for jump_uv, .*, got {'a': 1}"):
        RecordingPath(path="x", blank={"a": 1})


def test_blanked_stretches_are_listed_in_json_and_report(world, tmp_path, caplog):
    recording = world.recording(with_artefacts(world))
    subject = subject_of(recording, world.toy)
    with caplog.at_level(logging.INFO):
        outcome = sort_subject(world.path, replace(subject, defects=look_over(recording)), tmp_path)
    listed = json.loads((tmp_path / "defects.json").read_text())["blanked"]
    assert listed == json.loads((tmp_path / "run.json").read_text())["defects"]["blanked"]
    assert listed["count"] == 4
    assert listed["stretches_s"][0][0] == pytest.approx(STIMULI[0] / RATE, abs=0.003)
    assert "4 stretches, 0.0" in caplog.text
    assert "no spike is reported in them; defects.json lists them" in caplog.text
    facts = dict(describe_facts(outcome.run, world.sorter.card))
    assert facts["blanked"].startswith("4 artefacts, 0.0")


def test_labels_in_artefacts_are_left_out_and_training_goes_on(world, tmp_path, caplog):
    traces = world.broken()
    first = int(world.labels.sample_index[5])
    traces[first - 10 : first + 500] = 32_767
    learn(subject_of(world.recording(traces), world.toy), world.labels, tmp_path)
    assert "labelled spikes lie in artefacts, left out" in caplog.text
    traces[:STOP] = 32_767
    with pytest.raises(
        ValueError, match="no channel has any noise|all .* labelled spikes lie in 1 artefacts"
    ):
        learn(subject_of(world.recording(traces), world.toy), world.labels, tmp_path)


# ---------------------------------------------------------------------------------- dead and noisy channels


@pytest.mark.parametrize("kind", ["dead", "noisy"])
def test_a_channel_that_went_bad_after_learning_is_found_and_taken_out(world, kind, caplog):
    traces = world.broken()
    bad = 7
    noise = 0 if kind == "dead" else 1500 * np.random.default_rng(0).standard_normal(len(traces))
    traces[:, bad] = np.asarray(noise).astype(np.int16) if kind == "noisy" else 400
    recording = world.recording(traces)
    found = look_over(recording)
    assert getattr(found, kind) == (bad,)
    assert f"1 of 16 channels are {kind} and not listened to: 7" in caplog.text
    result = world.sorter.sort(found.mark(recording))
    assert result.bad_channel_ids == (bad,)
    assert agreement(result.spikes, world.clean) > 0.9
    assert agreement(result.spikes, world.clean) >= agreement(
        world.sorter.sort(recording).spikes, world.clean
    )
    pieces = [
        world.sorter.sort(found.mark(recording), start_sample=start, stop_sample=stop).spikes
        for start, stop in ((0, 50_000), (50_000, len(traces)))
    ]
    joined = np.concatenate([arrays(piece) for piece in pieces], axis=1)
    np.testing.assert_array_equal(joined, arrays(result.spikes))
    stream = StreamingSorter.like(world.sorter, found.mark(recording))
    np.testing.assert_array_equal(streamed(stream, traces, 5000), arrays(result.spikes))


@pytest.mark.parametrize("kind", ["dead", "noisy"])
@pytest.mark.parametrize("part", [slice(0, 0.4), slice(0.5, None), slice(0.3, 0.6)], ids=str)
def test_a_channel_that_is_bad_for_a_part_of_the_recording_is_taken_out_of_all_of_it(world, kind, part):
    traces = world.broken()
    length = len(traces)
    rows = slice(int(part.start * length), int((part.stop or 1) * length))
    count = rows.stop - rows.start
    loud = 2500 * np.random.default_rng(0).standard_normal(count)
    traces[rows, 7] = 400 if kind == "dead" else loud.astype(np.int16)
    recording = world.recording(traces)
    found = look_over(recording)
    assert getattr(found, kind) == (7,)
    assert found.bad_channel_ids == [7]
    result = world.sorter.sort(found.mark(recording))
    assert agreement(result.spikes, world.clean) > 0.9


def test_a_channel_that_is_bad_for_a_moment_is_kept(world):
    traces = world.broken()
    traces[1000:4000, 7] = 400  # at the first of the places that are looked at
    traces[: len(traces) // 15, 3] = 400
    assert look_over(world.recording(traces)).bad_channel_ids == []


def test_places_at_which_the_whole_probe_is_silent_condemn_no_channel(world):
    traces = world.broken()
    traces[: len(traces) // 3] = 400
    assert look_over(world.recording(traces)).bad_channel_ids == []


def test_channels_dead_before_learning_do_not_stop_it(world, tmp_path):
    traces = world.broken()
    traces[:, [0, 5]] = 400
    recording = look_over(world.recording(traces)).mark(world.recording(traces))
    path = learn(subject_of(recording, world.toy), world.labels, tmp_path)
    result = Sorter.load(path).sort(recording)
    assert result.bad_channel_ids == (0, 5)
    assert agreement(result.spikes, world.clean) > 0.9


def test_a_network_learned_by_gradient_does_without_a_channel(trained):
    recording = trained.subject().recording.frame_slice(0, 64_000)
    sorter = Sorter.load(trained.checkpoint)
    without = sorter.without_channels([1])
    assert (without.prepare(recording).traces(0, 3200)[:, 1] == 0).all()
    result = sorter.sort(marked(recording, bad_channel_ids=[recording.channel_ids[1]]))
    assert_same(result.spikes, without.sort(recording).spikes)


def test_channels_named_by_the_user(world, tmp_path):
    world.recording().save(folder=tmp_path / "recording", verbose=False)
    opened, defects = RecordingPath(path=str(tmp_path / "recording"), bad_channels=[3, "4"]).open_checked()
    assert np.flatnonzero(handling_of(opened).bad).tolist() == [3, 4]
    assert defects.given == (3, "4")
    none, _ = RecordingPath(path=str(tmp_path / "recording"), bad_channels=[]).open_checked()
    assert not handling_of(none).bad.any()
    with pytest.raises(
        ValueError, match="bad_channels names 99, but the recording's 16 channels are 0, 1, 2"
    ):
        RecordingPath(path=str(tmp_path / "recording"), bad_channels=[99]).open()
    with pytest.raises(ValueError, match="all 16 channels are bad: expected at least 1 good one"):
        marked(world.recording(), bad_channel_ids=range(16))
    with pytest.raises(ValueError, match="all 16 channels are bad: expected at least 1 good one"):
        world.sorter.without_channels(range(16))
    with pytest.raises(ValueError, match="bad_channels must be auto or a list of channels, got 'some'"):
        RecordingPath(path="x", bad_channels="some")


# ----------------------------------------------------------------------------- format, unit, rate, geometry


def test_a_truncated_last_frame_is_ignored_and_said(world, tmp_path, caplog):
    path = tmp_path / "traces.raw"
    path.write_bytes(world.traces.tobytes() + b"1234567")
    (tmp_path / "probe.csv").write_text(
        "\n".join(f"{x},{y}" for x, y in world.sorter.card.contact_positions_um)
    )
    spec = RecordingPath(
        path=str(path),
        sampling_frequency=RATE,
        num_channels=16,
        dtype="int16",
        gain_to_uv=0.2,
        probe=str(tmp_path / "probe.csv"),
    )
    recording, _ = spec.open_checked()
    assert "are not a whole number of frames of 16 channels of int16; the rest is ignored" in caplog.text
    assert_same(world.sorter.sort(recording).spikes, world.clean)


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32", "float64"])
def test_the_same_spikes_for_any_type_of_sample(world, dtype):
    middle = 32_768 if dtype == "uint16" else 0
    recording = world.recording((world.traces.astype(np.int64) + middle).astype(dtype), offset=-0.2 * middle)
    found = world.sorter.sort(recording).spikes
    # A filter in single precision does not see the same last bit behind another offset.
    assert agreement(found, world.clean, tolerance=1) > 0.995


def test_a_missing_gain_is_said_and_the_unit_compared(world, caplog):
    unknown = world.recording(gain=None)
    look = look_over(unknown)
    assert not look.in_uv
    with pytest.raises(ValueError, match="different units"):
        check_scale(replace(look, noise_uv=look.noise_uv * 50), world.sorter.noise_uv)
    check_scale(look, world.sorter.noise_uv)
    assert "check gain and wiring, or learn again from this recording" in caplog.text
    assert world.sorter.noise_uv == pytest.approx(6, rel=0.2)  # 10 µV of white noise in the band


def test_volts_are_recognised_and_refused_by_a_checkpoint_in_microvolts(world, tmp_path, caplog):
    volts = recording_of((world.traces * 0.2e-6).astype(np.float32), gain=1.0)
    defects = look_over(volts)
    assert (
        "the traces look like volts, give recording.gain_to_uv with 1e+06 times what it is now" in caplog.text
    )
    message = "noise is .* µV, the checkpoint knows .* µV: .*give recording.gain_to_uv=µV per stored unit"
    with pytest.raises(ValueError, match=message):
        sort_subject(world.path, replace(subject_of(volts, world.toy), defects=defects), tmp_path)
    assert not (tmp_path / "sorting").exists()
    declared = recording_of((world.traces * 0.2e-6).astype(np.float32), gain=1e6)
    assert agreement(world.sorter.sort(declared).spikes, world.clean) > 0.99


def test_advice_on_the_unit():
    assert scale_advice(10.0, in_uv=True) == scale_advice(10.0, in_uv=False) == ""
    assert "volts" in scale_advice(1e-5, in_uv=False)
    assert "millivolts" in scale_advice(1e-2, in_uv=True)
    assert "nanovolts" in scale_advice(2e4, in_uv=True)
    assert scale_advice(500.0, in_uv=False) == ""
    assert scale_advice(1e9, in_uv=True).endswith("check recording.gain_to_uv")
    check_scale(Defects(), 10.0)  # nothing is known


def test_another_rate_is_refused_or_resampled(world, tmp_path):
    slower = resample_poly(world.traces.astype(np.float64), 3, 4, axis=0)  # 24 kHz
    recording = world.recording(np.round(slower).astype(np.int16), rate=24_000.0)
    with pytest.raises(ValueError, match="the checkpoint is for 32000 Hz, the recording has 24000 Hz"):
        world.sorter.sort(recording)
    recording = marked(recording, resample=True)
    result = world.sorter.sort(recording)
    assert result.sampling_frequency == 24_000
    in_time = type(result.spikes)(
        np.round(result.spikes.sample_index * 4 / 3).astype(int),
        result.spikes.unit_index,
        result.spikes.probability,
    )
    assert agreement(in_time, world.clean, tolerance=3) > 0.98
    parts = [
        world.sorter.sort(recording, start_sample=start, stop_sample=stop).spikes
        for start, stop in ((0, 40_001), (40_001, 77_777), (77_777, len(slower)))
    ]
    joined = np.concatenate([arrays(part) for part in parts], axis=1)
    np.testing.assert_array_equal(joined, arrays(result.spikes))
    unknown = replace(subject_of(recording, world.toy), ground_truth=None)
    outcome = sort_subject(world.path, unknown, tmp_path)
    assert outcome.sorting.sampling_frequency == 24_000
    with pytest.raises(ValueError, match="resample must be true or false, got 1"):
        RecordingPath(path="x", resample=1)


@settings(max_examples=20, deadline=None)
@given(
    rate=st.sampled_from([20_000.0, 24_414.0625, 25_000.0, 30_000.0, 40_000.0]),
    start=st.integers(0, 2000),
    length=st.integers(1, 2000),
)
def test_resampled_traces_are_right_and_the_same_for_any_piece(rate, start, length):
    time = np.arange(int(0.1 * rate)) / rate
    wave = (1000 * np.sin(2 * np.pi * 900 * time)).astype(np.float32)
    resampled = ResampledRecording(recording_of(wave[:, None].repeat(2, axis=1), rate=rate), 32_000.0)
    whole = resampled.get_traces()
    stop = min(len(whole), start + length)
    np.testing.assert_array_equal(resampled.get_traces(start_frame=start, end_frame=stop), whole[start:stop])
    inside = slice(100, len(whole) - 100)
    expected = 1000 * np.sin(2 * np.pi * 900 * np.arange(len(whole)) * resampled.down / resampled.up / rate)
    assert np.abs(whole[inside, 0] - expected[inside]).max() < 1


def test_permuted_channels_are_recognised_by_geometry(world):
    order = np.random.default_rng(0).permutation(16)
    positions = np.asarray(world.sorter.card.contact_positions_um)[order]
    recording = world.recording(world.traces[:, order], positions_um=positions)
    assert_same(world.sorter.sort(recording).spikes, world.clean)
    bad = marked(recording, bad_channel_ids=[3])  # position 3 is another contact now
    same = marked(world.recording(), bad_channel_ids=[int(order[3])])
    assert_same(world.sorter.sort(bad).spikes, world.sorter.sort(same).spikes)


# ----------------------------------------------------------------------------------------- gaps and lengths


def test_a_jump_of_the_clock_is_said(world, caplog):
    recording = world.recording()
    times = np.arange(len(world.traces)) / RATE
    times[50_000:] += 2.0
    recording.set_times(times)
    look_over(recording)
    assert "the clock jumps 1 times, first after sample 49999: cut the recording there" in caplog.text


def test_several_segments_are_refused_or_chosen(world, tmp_path):
    traces = world.traces
    both = NumpyRecording([traces[:64_000], traces[64_000:]], RATE)
    both.set_dummy_probe_from_locations(np.asarray(world.sorter.card.contact_positions_um))
    both.set_channel_gains(0.2)
    both.set_channel_offsets(0.0)
    with pytest.raises(ValueError, match="expected a recording of 1 segment, got 2"):
        check_recording(both)
    both.save(folder=tmp_path / "both", verbose=False)
    with pytest.raises(ValueError, match="has 2 segments, which are sorted one by one: give segment=0..1"):
        RecordingPath(path=str(tmp_path / "both")).open()
    second = RecordingPath(path=str(tmp_path / "both"), segment=1).open()
    assert_same(world.sorter.sort(second).spikes, world.sorter.sort(world.recording(traces[64_000:])).spikes)


@pytest.mark.parametrize("num_samples", [0, 1, 50, 500])
def test_shorter_than_a_window(world, num_samples, caplog):
    result = world.sorter.sort(world.recording(world.traces[:num_samples]))
    assert len(result.spikes) == 0
    if num_samples < world.sorter.network.window_samples:
        assert f"the recording has {num_samples} samples, network and filter need" in caplog.text


def test_zero_length_is_refused_by_name(world):
    with pytest.raises(ValueError, match="the recording has 0 samples, expected at least 1"):
        check_recording(world.recording(world.traces[:0]))
    fatal = [finding for finding in examine(world.recording(world.traces[:0])) if finding.level == "fatal"]
    assert "0 samples" in str(fatal[0])


def test_behind_two_to_the_31_samples(world):
    period = 96_000
    short = world.recording(world.traces[:period])
    turns = 2**31 // period + 2
    endless = Repeated(short, turns * period)
    start = (turns - 1) * period
    assert start > 2**31
    far = world.sorter.sort(endless, start_sample=start - 1000, stop_sample=start + 50_000)
    near = world.sorter.sort(
        Repeated(short, 3 * period), start_sample=period - 1000, stop_sample=period + 50_000
    )
    assert far.spikes.sample_index.max() > 2**31
    shifted = arrays(near.spikes)
    shifted[0] += start - period
    both = set(map(tuple, arrays(far.spikes).T)) & set(map(tuple, shifted.T))
    # The competition is cleared on a grid of seconds, which lies elsewhere there.
    assert len(both) > 0.98 * len(near.spikes.sample_index) > 20


def test_spikes_in_the_first_and_last_window(world):
    clean = world.clean
    sure = np.flatnonzero(clean.probability >= np.quantile(clean.probability, 0.8))
    window = world.sorter.network.window_samples
    for spike in sure[[len(sure) // 3, len(sure) // 2]]:
        sample, unit = int(clean.sample_index[spike]), clean.unit_index[spike]
        early = world.sorter.sort(world.recording(world.traces[sample - 20 : sample + 20_000])).spikes
        late = world.sorter.sort(world.recording(world.traces[sample - 20_000 : sample + 30])).spikes
        assert np.any((np.abs(early.sample_index - 20) <= 3) & (early.unit_index == unit))
        assert np.any((np.abs(late.sample_index - 20_000) <= 3) & (late.unit_index == unit))
        assert window > 30


# --------------------------------------------------------------------------------------------------- probes


def test_one_contact(tmp_path, caplog):
    toy = make_toy(num_units=2, num_channels=1, seconds=5.0, rate=RATE, firing_hz=8.0)
    toy.traces[:] = np.random.default_rng(1).standard_normal(toy.traces.shape)
    for sample, unit in zip(toy.sample_index, toy.unit_index, strict=True):
        begin = sample - toy.window.before_samples
        toy.traces[begin : begin + toy.window.samples] += (2.2 if unit else 1) * toy.waveforms[unit]
    recording = recording_of(stored(toy))
    path = learn(subject_of(recording, toy), toy.labels(per_unit=15, stop=STOP), tmp_path)
    found = Sorter.load(path).sort(recording).spikes
    expected = type(found)(toy.sample_index, toy.unit_index, np.ones(len(toy.unit_index)))
    assert agreement(found, expected) > 0.8
    assert any("1 contact" in str(finding) for finding in examine(recording))


def two_probes(shift_um):
    group = ProbeGroup()
    positions = line(8)
    for number in range(2):
        probe = Probe(ndim=2, si_units="um")
        probe.set_contacts(
            positions + np.array([shift_um * number, 0]), shapes="circle", shape_params={"radius": 5.0}
        )
        probe.set_device_channel_indices(np.arange(8) + 8 * number)
        group.add_probe(probe)
    return group


def test_two_probes_on_top_of_each_other_are_refused_with_a_way_out(world, tmp_path):
    path = tmp_path / "two.json"
    write_probeinterface(path, two_probes(0.0))
    world.recording().save(folder=tmp_path / "recording", verbose=False)
    message = (
        "Probes are overlapping! .* Its 2 probes must lie beside each other: move one of them in the file"
    )
    with pytest.raises(ValueError, match=message):
        RecordingPath(path=str(tmp_path / "recording"), probe=str(path)).open()


def test_two_probes_side_by_side_are_learned_and_sorted(world, tmp_path):
    recording = NumpyRecording([world.traces], RATE)
    recording.set_channel_gains(0.2)
    recording.set_channel_offsets(0.0)
    recording.set_probegroup(two_probes(1000.0))
    check_recording(recording)
    path = learn(subject_of(recording, world.toy), world.labels, tmp_path)
    assert agreement(Sorter.load(path).sort(recording).spikes, world.clean) > 0.8


def test_duplicate_contacts_are_refused_by_name(world, tmp_path):
    world.recording().save(folder=tmp_path / "recording", verbose=False)
    positions = line(16)
    positions[4] = positions[9]
    (tmp_path / "probe.csv").write_text("\n".join(f"{x},{y}" for x, y in positions))
    message = r"cannot read .*probe.csv as a probe: .*Contact positions must be unique .* at indices \[4, 9\]"
    with pytest.raises(ValueError, match=message):
        RecordingPath(path=str(tmp_path / "recording"), probe=str(tmp_path / "probe.csv")).open()


@pytest.fixture
def loud():
    """The doctor silences the package's log."""
    level = logging.getLogger("esort").level
    yield
    logging.getLogger("esort").setLevel(level)


def test_the_doctor_knows_the_noise_of_a_pursuit(trained_pursuit, capsys, loud):
    recording = f"recording.path={trained_pursuit.run['recording']}"
    arguments = ["recording=path", recording, f"checkpoint={trained_pursuit.checkpoint}"]
    assert doctor(arguments) == 0
    (ratio,) = re.findall(r"noise is ([\d.]+) times what the network learned with", capsys.readouterr().out)
    assert 0.7 < float(ratio) < 1.5  # its band is not quite that of the doctor
    assert doctor([*arguments, "recording.bad_channels=[0,1]", "recording.blank=false"]) == 0
    assert doctor([*arguments, "recording.on_nan=maybe"]) == 1
    assert "on_nan must be error or interpolate, got 'maybe'" in capsys.readouterr().err
