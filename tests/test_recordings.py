"""Open real files of every format, and say in one line what is wrong with the others."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import quantities as pq
from probeinterface import Probe, ProbeGroup, generate_tetrode, write_probeinterface
from pynwb import NWBHDF5IO, NWBFile
from pynwb.ecephys import ElectricalSeries
from spikeinterface.core import NpzSortingExtractor, NumpyRecording, NumpySorting

from esort.recordings import (
    RecordingPath,
    check_finite,
    check_recording,
    find_nonfinite,
    fingerprint,
    match_channels,
)
from esort.sortings import open_sorting

REAL = Path(__file__).parents[2] / "shared" / "real"
RATE = 20_000.0


def needs(name):
    return pytest.mark.skipif(not (REAL / name).exists(), reason=f"{name} is not on this machine")


def make_recording(num_samples=2000, num_channels=4, dtype="int16", positions=None, seed=0):
    traces = (np.random.default_rng(seed).normal(size=(num_samples, num_channels)) * 50).astype(dtype)
    recording = NumpyRecording(traces, RATE)
    if positions is None:
        positions = np.column_stack([np.zeros(num_channels), 20.0 * np.arange(num_channels)])
    recording.set_dummy_probe_from_locations(np.asarray(positions, dtype=float))
    recording.set_channel_gains(0.5)
    recording.set_channel_offsets(0.0)
    return recording


def make_sorting():
    return NumpySorting.from_unit_dict([{"a": np.array([10, 500]), "b": np.array([70])}], RATE)


@pytest.fixture
def recording():
    return make_recording()


@pytest.fixture
def raw(recording, tmp_path):
    path = tmp_path / "traces.raw"
    recording.get_traces().tofile(path)
    return {"path": str(path), "sampling_frequency": RATE, "num_channels": 4, "dtype": "int16"}


def assert_same(opened, recording):
    np.testing.assert_array_equal(opened.get_traces(), recording.get_traces())
    np.testing.assert_allclose(opened.get_channel_locations(), recording.get_channel_locations())
    assert opened.sampling_frequency == recording.sampling_frequency


@pytest.mark.parametrize("kind", ["binary", "zarr"])
def test_spikeinterface_folders(recording, tmp_path, kind):
    folder = tmp_path / ("saved.zarr" if kind == "zarr" else "saved")
    recording.save(folder=folder, format=kind, verbose=False, progress_bar=False)
    opened = RecordingPath(path=str(folder)).open()
    assert_same(opened, recording)
    check_recording(opened)
    assert RecordingPath(path=str(folder)).open_ground_truth() is None


def test_our_simulation_brings_its_ground_truth(recording, tmp_path):
    recording.save(folder=tmp_path / "sim" / "recording", verbose=False, progress_bar=False)
    make_sorting().save(folder=tmp_path / "sim" / "sorting")
    source = RecordingPath(path=str(tmp_path / "sim"))
    assert_same(source.open(), recording)
    truth = source.open_ground_truth()
    assert truth.get_unit_spike_train("a").tolist() == [10, 500]
    assert open_sorting(tmp_path / "sim").get_num_units() == 2


def test_ground_truth_may_lie_elsewhere(raw, tmp_path):
    make_sorting().save(folder=tmp_path / "truth")
    truth = RecordingPath(**raw, probe="tetrode", ground_truth=str(tmp_path / "truth")).open_ground_truth()
    assert truth.unit_ids.tolist() == ["a", "b"]


def save_nwb(nwb, path):
    with NWBHDF5IO(path, "w") as file:
        file.write(nwb)


def test_nwb(recording, tmp_path):
    nwb = NWBFile("test", "test", datetime(2020, 1, 1, tzinfo=UTC))
    device = nwb.create_device("probe")
    group = nwb.create_electrode_group("shank", description="", location="unknown", device=device)
    nwb.add_electrode_column("rel_x", "µm")
    nwb.add_electrode_column("rel_y", "µm")
    for x, y in recording.get_channel_locations():
        nwb.add_electrode(rel_x=x, rel_y=y, group=group, location="unknown")
    nwb.add_acquisition(
        ElectricalSeries(
            name="raw",
            data=recording.get_traces(),
            electrodes=nwb.create_electrode_table_region([0, 1, 2, 3], "all"),
            rate=RATE,
            starting_time=0.0,
            conversion=0.5e-6,
        )
    )
    nwb.add_unit(spike_times=[0.0005, 0.025])
    path = tmp_path / "session.nwb"
    save_nwb(nwb, path)

    opened = RecordingPath(path=str(path)).open()
    assert_same(opened, recording)
    assert opened.get_channel_gains().tolist() == pytest.approx([0.5] * 4)
    assert RecordingPath(path=str(path)).open_ground_truth() is None
    # the clock of the only recording in the file is taken, whether the rate is given or not
    for keywords in ({}, {"sampling_frequency": RATE}):
        sorting = open_sorting(path, **keywords)
        assert sorting.get_unit_spike_train(sorting.unit_ids[0]).tolist() == [10, 500]
    with pytest.raises(ValueError, match="sorting at 20000 Hz, but the recording has 30000 Hz"):
        open_sorting(path, sampling_frequency=30_000)


def test_nwb_units_without_a_recording_need_the_rate(tmp_path):
    nwb = NWBFile("test", "test", datetime(2020, 1, 1, tzinfo=UTC))
    nwb.add_unit(spike_times=[0.0005, 0.025])
    save_nwb(nwb, tmp_path / "units.nwb")
    sorting = open_sorting(tmp_path / "units.nwb", sampling_frequency=RATE)
    assert sorting.get_unit_spike_train(sorting.unit_ids[0]).tolist() == [10, 500]
    with pytest.raises(ValueError, match="cannot open .*units.nwb as nwb: .*sampling_frequency"):
        open_sorting(tmp_path / "units.nwb")


def test_openephys(recording, tmp_path):
    folder = tmp_path / "Record Node 101" / "experiment1" / "recording1"
    stream = folder / "continuous" / "Acquisition-100.A"
    stream.mkdir(parents=True)
    recording.get_traces().tofile(stream / "continuous.dat")
    np.save(stream / "timestamps.npy", np.arange(2000) / RATE)
    np.save(stream / "sample_numbers.npy", np.arange(2000))
    channels = [{"channel_name": f"CH{i}", "bit_volts": 0.195, "units": "uV"} for i in range(4)]
    description = {
        "folder_name": "Acquisition-100.A/",
        "sample_rate": RATE,
        "source_processor_name": "Acquisition",
        "source_processor_id": 100,
        "recorded_processor_id": 101,
        "stream_name": "A",
        "num_channels": 4,
        "channels": channels,
    }
    content = {"GUI version": "0.6.0", "continuous": [description], "events": [], "spikes": []}
    (folder / "structure.oebin").write_text(json.dumps(content))
    for path in (tmp_path, folder / "structure.oebin"):
        opened = RecordingPath(path=str(path), probe="tetrode").open()
        np.testing.assert_array_equal(opened.get_traces(), recording.get_traces())
        assert opened.get_channel_gains().tolist() == [0.195] * 4


def test_mearec_brings_its_ground_truth(tmp_path):
    import h5py
    import MEArec
    import MEAutility
    import neo

    traces = np.random.default_rng(0).normal(size=(2000, 4)).astype("float32")
    train = neo.SpikeTrain([0.0005, 0.025], t_stop=0.1, units="s", sampling_rate=RATE * pq.Hz, cell_type="E")
    generator = MEArec.RecordingGenerator(
        rec_dict={
            "recordings": traces,
            "spiketrains": [train],
            "channel_positions": MEAutility.return_mea("tetrode").positions,
            "templates": np.zeros((1, 4, 60)),
            "template_locations": np.zeros((1, 3)),
            "template_rotations": np.zeros((1, 3)),
            "template_celltypes": ["E"],
            "timestamps": np.arange(2000) / RATE,
        },
        info={
            "recordings": {"fs": RATE, "duration": 0.1, "drifting": False, "dtype": "float32"},
            "electrodes": MEAutility.return_mea_info("tetrode"),
        },
    )
    generator.gain_to_uV = None
    MEArec.save_recording_generator(generator, filename=str(tmp_path / "made.h5"), verbose=False)
    source = RecordingPath(path=str(tmp_path / "made.h5"))
    opened = source.open()
    np.testing.assert_array_equal(opened.get_traces(), traces)
    check_recording(opened)
    truth = source.open_ground_truth()
    assert truth.get_unit_spike_train(truth.unit_ids[0]).tolist() == [10, 500]
    # another HDF5 file is not MEArec's
    h5py.File(tmp_path / "other.h5", "w").close()
    with pytest.raises(ValueError, match="is not a recording"):
        RecordingPath(path=str(tmp_path / "other.h5")).open()


@needs("np_ultra_stub")
@pytest.mark.parametrize("inside", ["", "p5_g0", "p5_g0/p5_g0_imec0/p5_g0_t0.imec0.ap.bin"])
def test_spikeglx_takes_the_electrodes_not_the_synchronisation(inside):
    opened = RecordingPath(path=str(REAL / "np_ultra_stub" / inside)).open()
    assert opened.get_num_channels() == 384
    check_recording(opened)


@needs("np_ultra_stub")
def test_unknown_stream_names_the_streams():
    with pytest.raises(ValueError, match=r"as spikeglx: .*stream_id x .*imec0.ap-SYNC") as error:
        RecordingPath(path=str(REAL / "np_ultra_stub"), stream_id="x").open()
    assert "\n" not in str(error.value)


@needs("maxone_5x5")
def test_raw_binary_with_positions_from_csv():
    opened = RecordingPath(
        path=str(REAL / "maxone_5x5" / "traces_int16.raw"),
        sampling_frequency=20_000,
        num_channels=25,
        dtype="int16",
        gain_to_uv=6.29425,
        offset_to_uv=-3222.656,
        probe=str(REAL / "maxone_5x5" / "geometry_um.csv"),
    ).open()
    check_recording(opened)
    assert opened.get_total_duration() == pytest.approx(10.01)
    assert opened.get_channel_locations()[0].tolist() == [1907.5, 700.0]
    assert abs(np.median(opened.get_traces(end_frame=2000, return_in_uV=True))) < 100


@needs("locust")
def test_raw_binary_with_a_named_probe():
    opened = RecordingPath(
        path=str(REAL / "locust" / "locust_trial_01.raw"),
        sampling_frequency=15_000,
        num_channels=4,
        dtype="int16",
        probe="tetrode",
    ).open()
    check_recording(opened)
    assert opened.get_channel_gains() is None


@pytest.mark.parametrize("header", ["", "channel,y_um,x_um\n"])
def test_csv_of_positions_with_and_without_header(raw, tmp_path, header):
    rows = ["0,1,2", "1,3,4", "2,5,6", "3,7,8"] if header else ["2,1", "4,3", "6,5", "8,7"]
    (tmp_path / "xy.csv").write_text(header + "\n".join(rows) + "\n")
    opened = RecordingPath(**raw, probe=str(tmp_path / "xy.csv")).open()
    np.testing.assert_array_equal(opened.get_channel_locations(), [[2, 1], [4, 3], [6, 5], [8, 7]])


@pytest.mark.parametrize("wired", [None, [3, 2, 1, 0]])
def test_probeinterface_file_follows_its_wiring(raw, tmp_path, wired):
    group = ProbeGroup()
    group.add_probe(generate_tetrode())
    if wired is not None:
        group.probes[0].set_device_channel_indices(wired)
    write_probeinterface(tmp_path / "probe.json", group)
    opened = RecordingPath(**raw, probe=str(tmp_path / "probe.json")).open()
    expected = generate_tetrode().contact_positions[wired if wired else [0, 1, 2, 3]]
    np.testing.assert_allclose(opened.get_channel_locations(), expected)


def test_prb_file(raw, tmp_path):
    (tmp_path / "probe.prb").write_text(
        "channel_groups = {0: {'channels': [0, 1, 2, 3],"
        " 'geometry': {0: [0, 0], 1: [0, 20], 2: [0, 40], 3: [0, 60]}}}\n"
    )
    opened = RecordingPath(**raw, probe=str(tmp_path / "probe.prb")).open()
    assert opened.get_channel_locations()[:, 1].tolist() == [0, 20, 40, 60]


def test_gain_is_given_or_replaced(raw, recording, tmp_path):
    assert (
        RecordingPath(**raw, probe="tetrode", gain_to_uv=2.0).open().get_channel_gains().tolist() == [2] * 4
    )
    recording.save(folder=tmp_path / "saved", verbose=False, progress_bar=False)
    opened = RecordingPath(path=str(tmp_path / "saved"), gain_to_uv=3.0, offset_to_uv=1.0).open()
    assert opened.get_channel_gains().tolist() == [3] * 4
    assert opened.get_channel_offsets().tolist() == [1] * 4


def test_missing_numbers_of_raw_binary_are_named(raw):
    with pytest.raises(
        ValueError, match="does not say its num_channels, dtype: give recording.num_channels=..."
    ):
        RecordingPath(path=raw["path"], sampling_frequency=RATE).open()


def test_raw_binary_that_ends_inside_a_frame_warns(raw, caplog):
    with open(raw["path"], "ab") as file:
        file.write(b"abc")
    assert RecordingPath(**raw, probe="tetrode").open().get_num_samples() == 2000
    assert "16003 bytes are not a whole number of frames of 4 channels of int16" in caplog.text


def test_no_such_path():
    with pytest.raises(FileNotFoundError, match="no recording at /nowhere/at/all: no such file or folder"):
        RecordingPath(path="/nowhere/at/all").open()
    with pytest.raises(FileNotFoundError, match="no sorting at /nowhere"):
        open_sorting("/nowhere")


def test_not_a_recording_names_the_formats_tried(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(
            ValueError, match=r"is not a recording in any of the formats tried \(simulation, nwb, .*raw\)"
        ):
            RecordingPath(path=str(path)).open()
    with pytest.raises(ValueError, match=r"is not a sorting in any of the formats tried \(.*phy.*\)"):
        open_sorting(tmp_path)


def test_broken_file_is_one_line(tmp_path):
    (tmp_path / "broken.nwb").write_text("no HDF5")
    with pytest.raises(ValueError, match=r"cannot open .*broken.nwb as nwb: ") as error:
        RecordingPath(path=str(tmp_path / "broken.nwb")).open()
    assert "\n" not in str(error.value)


def test_unknown_format_names_the_known_ones(raw):
    with pytest.raises(ValueError, match="must be one of auto, simulation, .*intan.*, got 'excel'"):
        RecordingPath(path=raw["path"], format="excel").open()


def test_other_readers_of_spikeinterface_go_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"cannot open .* as intan: "):
        RecordingPath(path=str(tmp_path), format="intan").open()


def test_sorting_is_not_a_recording_and_the_other_way_round(recording, tmp_path):
    make_sorting().save(folder=tmp_path / "sorting")
    recording.save(folder=tmp_path / "recording_only", verbose=False, progress_bar=False)
    with pytest.raises(ValueError, match="holds a .*Sorting.*, not a recording"):
        RecordingPath(path=str(tmp_path / "sorting")).open()
    with pytest.raises(ValueError, match="holds a .*Recording.*, not a sorting"):
        open_sorting(tmp_path / "recording_only")


def test_no_streams_to_choose_from(raw):
    with pytest.raises(ValueError, match="raw has no streams to choose from, got stream_id='a'"):
        RecordingPath(**raw, stream_id="a").open()


def test_recording_without_probe_says_how_to_give_one(raw):
    with pytest.raises(
        ValueError, match=r"says nothing of its probe: give recording.probe=FILE .*4 channels.*tetrode"
    ):
        RecordingPath(**raw).open()


def test_probe_of_another_size(raw):
    with pytest.raises(
        ValueError, match=r"neuronexus32 has 32 connected contacts.* 0\.\.3, but .* has 4 channels"
    ):
        RecordingPath(**raw, probe="neuronexus32").open()


def test_probe_that_cannot_be_read(raw, tmp_path):
    with pytest.raises(
        ValueError, match="must be a .json, .prb or .csv file or one of .*tetrode, got 'octrode'"
    ):
        RecordingPath(**raw, probe="octrode").open()
    with pytest.raises(FileNotFoundError, match="no probe file at .*none.csv"):
        RecordingPath(**raw, probe=str(tmp_path / "none.csv")).open()
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="cannot read .*bad.csv as a probe: a header must name a column x"):
        RecordingPath(**raw, probe=str(tmp_path / "bad.csv")).open()


def test_segments_are_chosen_never_joined(tmp_path):
    traces = [np.full((100, 4), value, dtype="int16") for value in (1, 2)]
    recording = NumpyRecording(traces, RATE)
    recording.set_dummy_probe_from_locations(np.column_stack([np.zeros(4), np.arange(4.0)]))
    recording.save(folder=tmp_path / "two", verbose=False, progress_bar=False)
    with pytest.raises(ValueError, match=r"has 2 segments, which are sorted one by one: give segment=0\.\.1"):
        RecordingPath(path=str(tmp_path / "two")).open()
    with pytest.raises(ValueError, match=r"segment must be in 0\.\.1, got 2"):
        RecordingPath(path=str(tmp_path / "two"), segment=2).open()
    assert RecordingPath(path=str(tmp_path / "two"), segment=1).open().get_traces()[0, 0] == 2


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        (
            "sampling_frequency",
            25_000.0,
            "has sampling_frequency=20000.0, but sampling_frequency=25000.0 was given",
        ),
        ("num_channels", 5, "has num_channels=4, but num_channels=5"),
        ("dtype", "float32", "has dtype=int16, but dtype=float32"),
    ],
)
def test_what_the_files_say_themselves_is_compared(recording, tmp_path, name, given, message):
    recording.save(folder=tmp_path / "saved", verbose=False, progress_bar=False)
    with pytest.raises(ValueError, match=message):
        RecordingPath(path=str(tmp_path / "saved"), **{name: given}).open()


@pytest.mark.parametrize(
    ("name", "value", "limits"),
    [
        ("sampling_frequency", 0, "a number of Hz above 0"),
        ("num_channels", 2.5, "a whole number of at least 1"),
        ("segment", -1, "a whole number of at least 0"),
        ("gain_to_uv", 0, "a finite number other than 0"),
        ("offset_to_uv", "x", "a finite number"),
        ("dtype", "int17", "one of numpy's such as int16"),
    ],
)
def test_numbers_outside_their_limits(name, value, limits):
    with pytest.raises(ValueError, match=f"{name} must be {limits}, got {value!r}"):
        RecordingPath(path="x", **{name: value})


# ---------------------------------------------------------------------------------------------- sortings


@pytest.mark.parametrize("kind", ["numpy_folder", "zarr"])
def test_saved_sortings(tmp_path, kind):
    folder = tmp_path / ("saved.zarr" if kind == "zarr" else "saved")
    make_sorting().save(folder=folder, format=kind)
    assert open_sorting(folder).get_unit_spike_train("a").tolist() == [10, 500]


def test_npz_file(tmp_path):
    NpzSortingExtractor.write_sorting(make_sorting(), tmp_path / "sorting.npz")
    assert open_sorting(tmp_path / "sorting.npz").get_num_units() == 2


@pytest.fixture
def phy(tmp_path):
    folder = tmp_path / "phy"
    folder.mkdir()
    (folder / "params.py").write_text(f"sample_rate = {RATE}\ndtype = 'int16'\n")
    np.save(folder / "spike_times.npy", np.array([5, 10, 20, 30, 40]))
    np.save(folder / "spike_clusters.npy", np.array([0, 1, 0, 2, 1]))
    return folder


def test_phy_leaves_out_what_was_called_noise(phy):
    (phy / "cluster_group.tsv").write_text("cluster_id\tgroup\n0\tgood\n1\tnoise\n2\tmua\n")
    sorting = open_sorting(phy)
    assert sorting.unit_ids.tolist() == [0, 2]
    assert sorting.get_unit_spike_train(0).tolist() == [5, 20]


def test_phy_without_curation_keeps_all(phy):
    assert open_sorting(phy).unit_ids.tolist() == [0, 1, 2]
    assert open_sorting(phy, format="kilosort").unit_ids.tolist() == [0, 1, 2]


def test_sorting_at_another_rate(phy):
    with pytest.raises(ValueError, match="is a sorting at 20000 Hz, but the recording has 30000 Hz"):
        open_sorting(phy, sampling_frequency=30_000)


# ------------------------------------------------------------------------------------------------ health


def test_doubled_positions_name_the_channels():
    group = ProbeGroup()
    for channels in ([0, 1], [2, 3]):
        probe = Probe(ndim=2)
        probe.set_contacts(positions=[[0, 20 * channels[0]], [0, 20]])
        probe.set_device_channel_indices(channels)
        group.add_probe(probe)
    recording = NumpyRecording(np.zeros((10, 4), "int16"), RATE)
    recording.set_probegroup(group, check_overlap=False)
    with pytest.raises(ValueError, match=r"channels 1, 3 are all at \(0, 20\) µm"):
        check_recording(recording)


def test_positions_must_be_there_and_finite():
    with pytest.raises(ValueError, match="no contact positions"):
        check_recording(NumpyRecording(np.zeros((10, 2), "int16"), RATE))
    recording = NumpyRecording(np.zeros((10, 2), "int16"), RATE)
    recording.set_dummy_probe_from_locations(np.array([[0.0, 0.0], [np.nan, 0.0]]))
    with pytest.raises(ValueError, match="channel 1 has no finite position"):
        check_recording(recording)


def test_empty_recordings():
    with pytest.raises(ValueError, match="0 samples"):
        check_recording(make_recording(num_samples=0))
    with pytest.raises(ValueError, match="0 channels"):
        check_recording(NumpyRecording(np.zeros((10, 0), "int16"), RATE))
    with pytest.raises(ValueError, match="1 segment, got 2"):
        check_recording(NumpyRecording([np.zeros((10, 2))] * 2, RATE))


def test_non_finite_values_are_located():
    recording = make_recording(dtype="float32")
    check_recording(recording)
    recording.get_traces()[123, 2] = np.nan
    with pytest.raises(ValueError, match="traces must be finite, got nan at sample 123, channel 2"):
        check_recording(recording)


def test_find_nonfinite_counts_from_the_start_of_the_chunk():
    traces = np.zeros((5, 3), dtype="float32")
    assert find_nonfinite(traces, 100) is None
    traces[2, 1] = np.inf
    traces[4, 0] = np.nan
    assert find_nonfinite(traces, 100) == (102, 1)
    assert find_nonfinite(np.zeros((5, 3), dtype="int16")) is None
    check_finite(traces[:2])
    with pytest.raises(ValueError, match="got inf at sample 102, channel CH7"):
        check_finite(traces, 100, ["CH6", "CH7", "CH8"])


def test_fingerprint_follows_the_content_not_the_path(recording, tmp_path):
    recording.save(folder=tmp_path / "a", verbose=False, progress_bar=False)
    assert fingerprint(RecordingPath(path=str(tmp_path / "a")).open()) == fingerprint(recording)
    others = [
        make_recording(seed=1),
        make_recording(num_samples=1999),
        make_recording(positions=np.eye(4)[:, :2] + [[0, 0], [0, 9], [3, 3], [5, 5]]),
    ]
    assert len({fingerprint(other) for other in [recording, *others]}) == 4
    assert len(fingerprint(make_recording(num_samples=3))) == 64


def test_channels_are_matched_by_position():
    positions = np.random.default_rng(0).uniform(0, 500, (6, 2))
    shuffled = np.random.default_rng(1).permutation(6)
    recording = make_recording(num_channels=6, positions=positions[shuffled])
    order = match_channels(positions, recording)
    np.testing.assert_allclose(recording.get_channel_locations()[order], positions)
    assert order.dtype == np.int64


@pytest.mark.parametrize(
    ("card", "rate", "message"),
    [
        ([[0, 0], [0, 20], [0, 40], [0, 60]], 32_000, "is for 32000 Hz, the recording has 20000 Hz"),
        ([[0, 0], [0, 20]], None, "is for 2 channels, the recording has 4 channels"),
        (
            [[0, 0], [0, 20], [7, 40], [0, 60]],
            None,
            r"\(7, 40\) µm \(channel 2\), .* 7 µm away at \(0, 40\) µm \(channel 2\)",
        ),
        ([[0, 0], [0, 0.2], [0, 40], [0, 60]], None, "do not pair up within 0.5 µm"),
    ],
)
def test_recording_of_another_probe_is_refused_with_both_sides(recording, card, rate, message):
    with pytest.raises(ValueError, match=message):
        match_channels(card, recording, card_sampling_frequency=rate)
