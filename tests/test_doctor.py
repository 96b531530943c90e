"""Recordings with one fault each; the doctor finds that fault, and says nothing of a healthy one."""

import logging
from pathlib import Path

import numpy as np
import pytest
from entries import run
from probeinterface import Probe, ProbeGroup, generate_multi_columns_probe, write_probeinterface
from spikeinterface.core import NumpyRecording, generate_ground_truth_recording
from spikeinterface.generation import generate_noise

from esort import doctor
from esort.checkpoint import Card, save_checkpoint
from esort.health import check_recording, check_signal
from esort.recordings import RecordingPath
from esort.subject import open_subject
from esort.symptoms import contacts

REAL = Path(__file__).parents[2] / "shared" / "real"
RATE = 30_000.0
SECONDS = 30.0
GAIN_UV = 0.5


def make_probe(num_channels):
    probe = generate_multi_columns_probe(
        num_columns=2, num_contact_per_column=num_channels // 2, xpitch=20, ypitch=20
    )
    probe.set_device_channel_indices(np.arange(num_channels))
    return probe


@pytest.fixture(scope="module")
def healthy():
    """Traces in steps of 0.5 µV, (N, C): background that neighbours share, and 8 units of 15 Hz."""
    probe = make_probe(32)
    spikes, _ = generate_ground_truth_recording(
        durations=[SECONDS],
        sampling_frequency=RATE,
        probe=probe,
        num_units=8,
        noise_kwargs={"noise_levels": 0.0, "strategy": "on_the_fly"},
        seed=0,
    )
    noise = generate_noise(probe, RATE, [SECONDS], noise_levels=12.0, spatial_decay=30.0, seed=1)
    traces = np.concatenate(
        [
            spikes.get_traces(start_frame=start, end_frame=start + 30_000)
            + noise.get_traces(start_frame=start, end_frame=start + 30_000)
            for start in range(0, int(SECONDS * RATE), 30_000)
        ]
    )
    return np.round(traces / GAIN_UV).astype(np.int16)


def recording_of(traces, *, gain_uv=GAIN_UV, rate=RATE, positions=None):
    recording = NumpyRecording([traces], rate)
    if positions is None:
        positions = make_probe(32).contact_positions[: traces.shape[1]]
    recording.set_dummy_probe_from_locations(positions)
    if gain_uv is not None:
        recording.set_channel_gains(gain_uv)
        recording.set_channel_offsets(0.0)
    return recording


def examine(recording, **keywords):
    """A second in all is enough for faults that are always there."""
    return doctor.examine(recording, seconds=1.0, **keywords)


def complaints(recording, **keywords):
    """What is not in order, by check."""
    return {found.check: found for found in examine(recording, **keywords) if found.level != "ok"}


def only(recording, check, **keywords):
    found = complaints(recording, **keywords)
    assert set(found) == {check}, [str(one) for one in found.values()]
    assert found[check].level == "warning"
    assert found[check].advice
    return str(found[check])


def test_a_healthy_recording(healthy):
    found = examine(recording_of(healthy))
    assert [one.level for one in found] == ["ok"] * len(found), [str(one) for one in found]
    texts = {one.check: one.text for one in found}
    assert texts["length"] == "30 s"
    assert texts["contacts"] == "32 contacts, neighbours 20 µm apart"
    assert texts["rate"] == "30000 Hz"
    assert texts["map"] == "neighbours are the channels most alike"
    level = float(texts["noise"].split()[0])
    assert 4 < level < 9
    rate = float(texts["spikes"].split()[1])
    assert 0.4 * 8 * 15 * 60 < rate < 1.5 * 8 * 15 * 60


@pytest.mark.parametrize(("factor", "guess"), [(1e-6, "1e+06 times"), (1e-3, "1000 times"), (30.0, "")])
def test_a_wrong_scale(healthy, factor, guess):
    line = only(recording_of(healthy, gain_uv=GAIN_UV * factor), "noise")
    assert "1 to 100 µV are usual: check recording.gain_to_uv" in line
    assert guess in line


def test_an_unknown_gain(healthy):
    assert "the gain is unknown" in only(recording_of(healthy, gain_uv=None), "noise")


def test_a_converter_that_does_not_resolve_the_noise(healthy):
    line = only(recording_of(healthy // 64, gain_uv=GAIN_UV * 64), "noise")
    assert "the converter hardly resolves it" in line


def test_a_channel_at_the_end_of_its_range(healthy):
    traces = healthy.copy()
    swing = 3000 * np.sin(np.arange(len(traces)) * 2 * np.pi * 2 / RATE)
    traces[:, 5] = np.clip(traces[:, 5] + swing, -2000, 2000)
    line = str(complaints(recording_of(traces))["saturation"])
    assert "1 of 32 channels stand at an end of their range for up to" in line
    assert "(5)" in line


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda traces: np.zeros_like(traces), "dead"),
        (lambda traces: np.random.default_rng(0).normal(0, 400, traces.shape).astype(np.int16), "noisy"),
    ],
)
def test_bad_channels_are_named(healthy, change, word):
    traces = healthy.copy()
    traces[:, [7, 20]] = change(traces[:, [7, 20]])
    line = only(recording_of(traces), "channels")
    assert f"2 of 32 channels look {word} (7, 20)" in line
    assert "recording.bad_channels" in line


def test_bad_channels_of_a_small_probe(healthy):
    traces = healthy[:, :6].copy()
    traces[:, 2] = 7
    traces[:, 4] *= 20
    found = [str(one) for one in examine(recording_of(traces)) if one.check == "channels"]
    assert "1 of 6 channels look dead (2)" in found[0]
    assert "1 of 6 channels look noisy (4)" in found[1]


def test_a_shuffled_channel_map(healthy):
    order = np.random.default_rng(0).permutation(32)
    assert "the channel map looks shuffled" in only(recording_of(healthy[:, order]), "map")


def test_unsigned_samples_are_looked_at_like_others(healthy):
    found = examine(recording_of((healthy.astype(int) + 32_768).astype(np.uint16)))
    assert {one.level for one in found} == {"ok"}, [str(one) for one in found]


def test_channels_that_have_nothing_in_common_say_nothing_of_the_map():
    traces = np.random.default_rng(0).normal(0, 20, (int(SECONDS * RATE), 16)).astype(np.int16)
    found = {one.check: one for one in examine(recording_of(traces))}
    assert found["map"].level == "ok"
    assert "does not tell" in found["map"].text
    assert found["spikes"].level == "warning"
    assert "hardly any spikes" in str(found["spikes"])


def test_a_large_type(healthy):
    assert "float64" in only(recording_of(healthy.astype(float)), "dtype")


def test_one_contact(healthy):
    recording = recording_of(healthy[:, 3:4])
    assert str(contacts(recording)).startswith("warning  contacts    1 contact; units can only be told apart")
    assert "fatal" not in {one.level for one in examine(recording)}


def test_positions_in_another_unit(healthy):
    positions = make_probe(32).contact_positions / 1e6
    assert "positions must be in µm" in only(recording_of(healthy, positions=positions), "contacts")


def test_a_short_recording(healthy):
    line = str(complaints(recording_of(healthy[: 6 * 30_000]))["length"])
    assert "a unit of 1 Hz fires 6.0 times" in line
    line = str(complaints(recording_of(healthy[: 2 * 30_000]))["length"])
    assert "too short to learn units from, which takes 5 s at the least; a checkpoint can sort it" in line


def test_lost_packets(healthy):
    traces = healthy.copy()
    traces[:3000] = 0
    assert "no channel changes for 100 ms, at 1 of 10 places" in only(recording_of(traces), "gaps")


def test_a_clock_that_jumps(healthy):
    recording = recording_of(healthy)
    times = np.arange(len(healthy)) / RATE
    times[400_000:] += 3.0
    recording.set_times(times)
    assert "the clock jumps 1 times, first after sample 399999" in only(recording, "gaps")


def test_artefacts_everywhere(healthy):
    traces = np.zeros((int(SECONDS * RATE), 2), dtype=np.float32)
    traces += np.random.default_rng(0).normal(0, 5, traces.shape)
    traces[::100] -= 500
    assert "artefacts or line noise" in str(complaints(recording_of(traces))["spikes"])


# --------------------------------------------------------------------------- fatal, here and there


def fatal_recordings(healthy):
    # A probe refuses two contacts at one place; two shanks of one group do not.
    group = ProbeGroup()
    for channels in ([0, 1], [2, 3]):
        probe = Probe(ndim=2)
        probe.set_contacts(positions=[[0, 20 * channels[0]], [0, 20]])
        probe.set_device_channel_indices(channels)
        group.add_probe(probe)
    doubled = NumpyRecording([healthy[:60_000, :4]], RATE)
    doubled.set_probegroup(group, check_overlap=False)
    broken = healthy[:60_000].astype(np.float32)
    broken[100, 4] = np.nan
    return {
        "doubled": (doubled, "channels 1, 3 are all at"),
        "nan": (recording_of(broken), "traces must be finite, got nan at sample 100, channel 4"),
        "silent": (recording_of(np.full((60_000, 4), 3, np.int16)), "all 4 traces are constant at each of 5"),
        "complex": (recording_of(healthy[:60_000].astype(np.complex64)), "integers or real numbers"),
        "empty": (recording_of(healthy[:0]), "0 samples"),
    }


@pytest.mark.parametrize("fault", ["doubled", "nan", "silent", "complex", "empty"])
def test_what_is_fatal_is_refused_by_the_sorter_too(healthy, fault):
    recording, message = fatal_recordings(healthy)[fault]
    found = [one for one in examine(recording) if one.level == "fatal"]
    assert len(found) == 1
    assert message in found[0].text
    with pytest.raises(ValueError, match=message):
        check_recording(recording)
        check_signal(recording)


def test_a_silent_file_is_refused_when_it_is_opened(tmp_path):
    recording_of(np.zeros((60_000, 4), np.int16)).save(folder=tmp_path / "r", verbose=False)
    with pytest.raises(ValueError, match="all 4 traces are constant .* is it the right file and stream"):
        open_subject(RecordingPath(path=str(tmp_path / "r")), tmp_path)


def test_one_living_channel_is_a_signal(healthy):
    traces = np.zeros((60_000, 4), np.int16)
    traces[:, 2] = healthy[:60_000, 2]
    check_signal(recording_of(traces))


def test_a_rate_below_the_filter(healthy):
    found = complaints(recording_of(healthy, rate=8_000.0))
    assert "freq_max_hz must be below half the sampling rate" in found["rate"].text
    assert found["rate"].level == "fatal"


def test_a_recording_shorter_than_the_filter(healthy):
    found = complaints(recording_of(healthy[:20]))
    assert found["length"].level == "fatal"
    assert found["length"].text == "20 samples, the filter needs 34"


# -------------------------------------------------------------------------------- with a checkpoint


def make_card(**changes):
    values = {
        "network": "dense",
        "network_parameters": {},
        "sampling_frequency": RATE,
        "contact_positions_um": make_probe(32).contact_positions,
        "channel_ids": list(range(32)),
        "unit_ids": [0],
        "thresholds": [0.5],
        "noise_level_uv": [6.0] * 32,
        "window_ms": 2.0,
        "window_samples": 60,
        "peak_offset_samples": 24,
    }
    return Card(**values | changes)


def test_a_recording_that_fits_its_checkpoint(healthy):
    found = [one for one in examine(recording_of(healthy), card=make_card()) if one.check == "checkpoint"]
    assert [one.level for one in found] == ["ok", "ok"]
    assert found[0].text == "rate and contacts fit"
    order = np.random.default_rng(0).permutation(32)
    moved = recording_of(healthy[:, order], positions=make_probe(32).contact_positions[order])
    found = [one for one in examine(moved, card=make_card()) if one.check == "checkpoint"]
    assert found[0].text == "rate and contacts fit; channels come in another order and are mapped"


def test_noise_that_the_network_does_not_know(healthy):
    card = make_card(noise_level_uv=[60.0] * 32)
    line = only(recording_of(healthy), "checkpoint", card=card)
    assert "times what the network learned with; check gain and wiring" in line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling_frequency": 32_000.0, "window_ms": 60 / 32}, "is for 32000 Hz, the recording has 30000"),
        ({"contact_positions_um": make_probe(32).contact_positions + 7}, "the recording's nearest is"),
        ({"unit_ids": [], "thresholds": []}, "got a backbone: fine-tune it first"),
    ],
)
def test_a_checkpoint_that_does_not_fit(healthy, changes, message):
    found = complaints(recording_of(healthy), card=make_card(**changes))
    assert found["checkpoint"].level == "fatal"
    assert message in found["checkpoint"].text


# --------------------------------------------------------------------------------- the command line


@pytest.fixture
def raw(healthy, tmp_path):
    healthy.tofile(tmp_path / "traces.raw")
    group = make_probe(32)
    write_probeinterface(tmp_path / "probe.json", group)
    return [
        "recording=path",
        f"recording.path={tmp_path / 'traces.raw'}",
        f"recording.sampling_frequency={RATE}",
        "recording.num_channels=32",
        "recording.dtype=int16",
        f"recording.gain_to_uv={GAIN_UV}",
        f"recording.probe={tmp_path / 'probe.json'}",
        "recording.segment=null",
    ]


def test_the_command(raw, capsys):
    assert doctor.main(raw) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("ok ") for line in lines[:-1])
    assert lines[-1].endswith("traces.raw: can be learned from and sorted, 0 fatal, 0 warnings")


def test_the_command_with_a_checkpoint_that_does_not_fit(raw, tmp_path, capsys):
    path = tmp_path / "m.safetensors"
    card = make_card(contact_positions_um=make_probe(32).contact_positions * 2)
    save_checkpoint(path, {"a": np.zeros(1, np.float32)}, card)
    assert doctor.main([*raw, f"checkpoint={path}"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("fatal    checkpoint ") for line in lines)
    assert lines[-1].endswith("cannot be sorted, 1 fatal, 0 warnings")


def test_training_refuses_a_rate_before_the_teacher_works(raw, tmp_path, capsys):
    raw = [word.replace(f"={RATE}", "=8000") for word in raw]
    assert doctor.main(raw) == 1
    assert "fatal    rate        freq_max_hz must be below half" in capsys.readouterr().out
    ended = run("train.py", *raw, "teacher=lupin", f"hydra.run.dir={tmp_path / 'run'}", f"cache={tmp_path}")
    assert ended.error_line().startswith("freq_max_hz must be below half the sampling rate")
    assert not (tmp_path / "run" / "teacher").exists()


def test_what_cannot_be_opened_is_fatal(raw, tmp_path, capsys):
    assert doctor.main(raw[:-2]) == 1
    assert "fatal    open        " in (out := capsys.readouterr().out)
    assert "says nothing of its probe: give recording.probe=FILE" in out
    recording = NumpyRecording([np.ones((100, 4), "int16")] * 2, RATE)
    recording.set_dummy_probe_from_locations(np.column_stack([np.zeros(4), np.arange(4.0)]))
    recording.save(folder=tmp_path / "two", verbose=False)
    assert doctor.main(["recording=path", f"recording.path={tmp_path / 'two'}"]) == 1
    assert "has 2 segments, which are sorted one by one: give segment=0..1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the doctor needs a recording: python -m esort.doctor recording=path recording.path=FOLDER"),
        (["folder"], "expected NAME=VALUE, got 'folder'"),
        (
            ["recording=simulated"],
            "the doctor looks at files: expected recording=path, got recording=simulated",
        ),
        (["recording.colour=red"], "expected checkpoint or one of recording.path, recording.format"),
        (["path=x"], "expected checkpoint or one of recording.path"),
        (["recording.path=x", "recording.num_channels=many"], "recording.num_channels must be a number, got"),
        (
            ["recording.path=x", "recording.num_channels=0"],
            "num_channels must be a whole number of at least 1",
        ),
        (["recording.path=x", "checkpoint=nothing"], "expected a checkpoint file, got nothing"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys):
    assert doctor.main(arguments) == 1
    ended = capsys.readouterr()
    assert ended.out == ""
    assert ended.err.startswith(f"error: {message}")
    assert ended.err.count("\n") == 1


@pytest.fixture(autouse=True)
def _loggers_as_they_were():
    level = logging.getLogger("esort").level
    yield
    logging.getLogger("esort").setLevel(level)


@pytest.mark.skipif(not (REAL / "maxone_5x5").exists(), reason="the real recordings are not on this machine")
def test_real_recordings(capsys):
    maxone = REAL / "maxone_5x5"
    arguments = [
        f"recording.path={maxone / 'traces_int16.raw'}",
        f"recording.probe={maxone / 'geometry_um.csv'}",
        "recording.sampling_frequency=20000",
        "recording.num_channels=25",
        "recording.dtype=int16",
        "recording.gain_to_uv=6.294",
    ]
    assert doctor.main(arguments) == 0
    out = capsys.readouterr().out
    assert "0 fatal, 1 warning\n" in out  # it is short
    assert "ok       map         neighbours are the channels most alike" in out
    stub = [f"recording.path={REAL / 'np_ultra_stub'}"]
    assert doctor.main(stub) == 0
    out = capsys.readouterr().out
    assert "ok       channels    none of 384 looks dead or noisy" in out
    assert "np_ultra_stub: can only be sorted, 0 fatal, 1 warning\n" in out


@pytest.mark.skipif(not (REAL / "maxone_5x5").exists(), reason="the real recordings are not on this machine")
def test_dead_channels_do_not_look_like_a_shuffled_map():
    """Behind a common reference all that they have is the reference, so that they are alike."""
    traces = np.fromfile(REAL / "maxone_5x5" / "traces_int16.raw", dtype=np.int16).reshape(-1, 25)
    positions = np.loadtxt(REAL / "maxone_5x5" / "geometry_um.csv", delimiter=",", skiprows=1)
    traces[:, [4, 7]] = 0
    recording = NumpyRecording([traces], 20_000.0)
    recording.set_dummy_probe_from_locations(positions)
    recording.set_channel_gains(6.294)
    recording.set_channel_offsets(0.0)
    found = {one.check: one for one in doctor.examine(recording)}
    assert "2 of 25 channels look dead (4, 7)" in found["channels"].text
    assert (found["map"].level, found["map"].text) == ("ok", "neighbours are the channels most alike")
