"""Exports read back by SpikeInterface, phylib and pynwb: the same spikes of the same units."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import spikeinterface as si
from entries import run
from nwbinspector import Importance, inspect_nwbfile
from phylib.io.model import load_model
from pynwb import NWBHDF5IO
from spikeinterface.core import NumpySorting, generate_ground_truth_recording
from spikeinterface.extractors import read_nwb_sorting, read_phy
from uncompiled import uncompiled

from esort import exports
from esort.exports import EXPORTS, Exportable, check_exports, remove_exports, write_exports
from esort.nwb import Session
from esort.preprocessing import Preprocessing
from esort.sortings import open_sorting
from esort.teacher import Teacher

pytestmark = pytest.mark.filterwarnings("ignore:The extractor is not serializable")
RATE = 25_000.0
# Out of order and with gaps, as ids are that a person has made; the third unit has no spike.
NUMBERS, TEXTS = [3, 7, 1, 12, 0], ["b", "a", "never", "12x", "good one"]
TEXTS_OF_DIGITS = ["3", "7", "1", "12", "0"]


@pytest.fixture(scope="module", autouse=True)
def without_compiling():
    with uncompiled():
        yield


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    recording, truth = generate_ground_truth_recording(
        num_channels=8, durations=[6.0], num_units=5, sampling_frequency=RATE, seed=0
    )
    spikes = truth.to_spike_vector()
    spikes = spikes[spikes["unit_index"] != 2].copy()
    folder = tmp_path_factory.mktemp("recorded") / "recording"
    return recording.save(folder=folder, verbose=False), spikes


def exportable(recorded, unit_ids, *, spikes=None, recording=None, **more):
    stored, all_spikes = recorded
    spikes = all_spikes if spikes is None else spikes
    recording = stored if recording is None else recording
    return Exportable(
        sorting=NumpySorting(spikes, RATE, unit_ids),
        probability=np.random.default_rng(0).uniform(0.5, 1, spikes.size),
        recording=recording,
        filtered=Preprocessing().apply(recording),
        source="somewhere",
        **more,
    )


@pytest.fixture(scope="module", params=[NUMBERS, TEXTS], ids=["numbers", "texts"])
def made(request, recorded, tmp_path_factory):
    content = exportable(recorded, request.param)
    folder = tmp_path_factory.mktemp("exports")
    return SimpleNamespace(
        content=content,
        unit_ids=request.param,
        folder=folder,
        paths=write_exports(["analyzer", "nwb", "phy"], content, folder),
    )


def assert_same(found, content):
    assert found.unit_ids.tolist() == content.sorting.unit_ids.tolist()
    assert found.sampling_frequency == pytest.approx(RATE, rel=1e-12)
    for unit_id in content.sorting.unit_ids:
        expected = content.sorting.get_unit_spike_train(unit_id)
        np.testing.assert_array_equal(found.get_unit_spike_train(unit_id), expected)


def test_all_is_there_and_nothing_else(made):
    assert made.paths == {name: made.folder / path for name, path in EXPORTS.items()}
    assert {path.name for path in made.folder.iterdir()} == set(EXPORTS.values())


def test_spikeinterface_reads_the_same(made):
    assert_same(si.load(made.paths["analyzer"]).sorting, made.content)
    assert_same(read_nwb_sorting(made.paths["nwb"]), made.content)
    phy = read_phy(made.paths["phy"])
    if made.unit_ids == TEXTS:
        # Clusters are numbers; SpikeInterface's reader has the texts as a property.
        phy = phy.rename_units(phy.get_property("unit_name").astype(str))
    assert_same(phy, made.content)


@pytest.mark.parametrize("name", EXPORTS)
def test_esort_reads_the_same_as_labels(made, name):
    assert_same(open_sorting(made.paths[name]), made.content)
    assert_same(open_sorting(made.paths[name], sampling_frequency=RATE), made.content)


def test_texts_of_digits_stay_texts_in_nwb(recorded, tmp_path):
    content = exportable(recorded, TEXTS_OF_DIGITS)
    assert_same(read_nwb_sorting(write_exports(["nwb"], content, tmp_path)["nwb"]), content)


def test_the_analyzer_has_metrics_of_every_unit(made):
    analyzer = si.load(made.paths["analyzer"])
    metrics = analyzer.get_extension("quality_metrics").get_data()
    assert metrics.index.tolist() == made.unit_ids
    assert metrics["snr"].iloc[[0, 1, 3, 4]].min() > 1
    assert {"templates", "unit_locations", "correlograms", "spike_amplitudes"} <= set(
        analyzer.get_loaded_extension_names()
    )
    assert analyzer.has_recording()


def test_phylib_opens_the_folder(made, recorded):
    model = load_model(made.paths["phy"] / "params.py")
    spikes = made.content.sorting.to_spike_vector()
    np.testing.assert_array_equal(model.spike_samples, spikes["sample_index"])
    assert model.n_templates == 4
    assert model.n_channels == 8
    assert model.sample_rate == RATE
    # The stored file itself, not a copy.
    np.testing.assert_array_equal(model.traces[1000:1100], recorded[0].get_traces(0, 1000, 1100))
    np.testing.assert_array_equal(model.spike_attributes["probability"], made.content.probability)
    assert model.sparse_features is not None
    for cluster, unit_index in enumerate([0, 1, 3, 4]):
        of_unit = spikes["unit_index"] == unit_index
        np.testing.assert_array_equal(model.spike_clusters == cluster, of_unit)
        assert np.abs(model.get_template(cluster).template).max() > 0
    name = "si_unit_id" if made.unit_ids == NUMBERS else "unit_name"
    assert [model.metadata[name][cluster] for cluster in (0, 1, 4, 2, 3)] == made.unit_ids
    snr = si.load(made.paths["analyzer"]).get_extension("quality_metrics").get_data()["snr"]
    assert model.metadata["snr"][2] == pytest.approx(snr.iloc[3])


@pytest.mark.slow
def test_phy_gets_a_copy_of_traces_that_are_no_flat_file(recorded, tmp_path):
    part = recorded[0].frame_slice(0, 100_000).select_channels(recorded[0].channel_ids[::-1])
    spikes = recorded[1][recorded[1]["sample_index"] < 99_000]
    content = exportable(recorded, NUMBERS, spikes=spikes, recording=part)
    path = write_exports(["phy"], content, tmp_path)["phy"]
    shutil.copytree(path, tmp_path / "elsewhere")  # the copy belongs to the folder
    shutil.rmtree(path)
    model = load_model(tmp_path / "elsewhere" / "params.py")
    filtered = content.filtered.get_traces(0, 500, 600)
    np.testing.assert_allclose(model.traces[500:600], filtered, rtol=1e-4, atol=1e-2)
    assert {file.name for file in tmp_path.iterdir()} == {"elsewhere"}


def test_no_room_for_the_copy_is_said_before_it_is_made(recorded, tmp_path, monkeypatch):
    part = recorded[0].frame_slice(0, 100_000)
    spikes = recorded[1][recorded[1]["sample_index"] < 99_000]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(ValueError, match="phy's folder needs 0.0 GB for a copy of the filtered traces"):
        write_exports(["phy"], exportable(recorded, NUMBERS, spikes=spikes, recording=part), tmp_path)
    assert not list(tmp_path.iterdir())


def test_nwb_has_the_probability_of_each_spike(made):
    spikes = made.content.sorting.to_spike_vector()
    with NWBHDF5IO(made.paths["nwb"], "r") as file:
        units = file.read().units
        for index in range(len(made.unit_ids)):
            expected = made.content.probability[spikes["unit_index"] == index]
            np.testing.assert_allclose(units["probability"][index], expected, rtol=1e-6)
            assert len(units["spike_times"][index]) == expected.size


def test_nwb_has_the_contacts(made, recorded):
    with NWBHDF5IO(made.paths["nwb"], "r") as file:
        electrodes = file.read().electrodes.to_dataframe()
    positions = recorded[0].get_channel_locations()
    np.testing.assert_allclose(electrodes[["rel_x", "rel_y"]].to_numpy(), positions)
    assert electrodes["channel_name"].tolist() == [str(name) for name in recorded[0].channel_ids]


def test_nwbinspector_finds_nothing_critical(made):
    found = list(inspect_nwbfile(nwbfile_path=str(made.paths["nwb"])))
    serious = [
        (message.check_function_name, message.message)
        for message in found
        if message.importance in (Importance.CRITICAL, Importance.ERROR, Importance.PYNWB_VALIDATION)
    ]
    assert serious == []


def test_what_is_known_of_the_session_leaves_no_violation(recorded, tmp_path):
    session = Session(
        start_time="2024-05-01T10:00:00+02:00",
        subject_id="m7",
        species="Mus musculus",
        age="P90D",
        sex="F",
        location="CA1",
    )
    path = write_exports(["nwb"], exportable(recorded, NUMBERS, session=session), tmp_path)["nwb"]
    least = Importance.BEST_PRACTICE_VIOLATION
    assert not list(inspect_nwbfile(nwbfile_path=str(path), importance_threshold=least))
    with NWBHDF5IO(path, "r") as file:
        nwb = file.read()
        assert nwb.session_start_time.isoformat() == "2024-05-01T10:00:00+02:00"
        assert (nwb.subject.species, nwb.subject.age) == ("Mus musculus", "P90D")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sex": "female"}, "session.sex must be one of F, M, O, U, got 'female'"),
        ({"start_time": "yesterday"}, "session.start_time must be a time with its zone .*, got 'yesterday'"),
        ({"start_time": "2024-05-01T10:00:00"}, "session.start_time must be a time with its zone"),
        ({"start_time": 5}, "session.start_time must be a time with its zone .*, got 5"),
    ],
)
def test_sessions_that_cannot_be(values, message):
    with pytest.raises(ValueError, match=message):
        Session(**values)


def test_a_sorting_without_any_spike(recorded, tmp_path, caplog):
    content = exportable(recorded, NUMBERS, spikes=recorded[1][:0])
    assert list(write_exports(EXPORTS, content, tmp_path)) == ["nwb"]
    assert "no export=analyzer,phy: no spike was found" in caplog.text
    assert_same(read_nwb_sorting(tmp_path / "sorting.nwb"), content)
    # Units but no spikes: nothing to learn from, said in one line.
    teacher = Teacher(sorter="sorting", path=str(tmp_path / "sorting.nwb"))
    with pytest.raises(ValueError, match=r"has no unit of 1 spikes or more in the first 3 s"):
        teacher.spikes(recorded[0], tmp_path)


def test_an_export_replaces_the_old_one(recorded, tmp_path):
    (tmp_path / "phy").mkdir()
    (tmp_path / "phy" / "old.txt").write_text("old")
    write_exports(["phy"], exportable(recorded, NUMBERS), tmp_path)
    assert not (tmp_path / "phy" / "old.txt").exists()
    assert (tmp_path / "phy" / "params.py").is_file()


def test_old_exports_stay_when_a_library_fails(recorded, tmp_path, monkeypatch):
    (tmp_path / "phy").mkdir()
    (tmp_path / "phy" / "old.txt").write_text("old")

    def broken(*args, **keywords):
        raise RuntimeError("something\ninside")

    monkeypatch.setattr("spikeinterface.exporters.export_to_phy", broken)
    with pytest.raises(
        ValueError, match="export=phy failed, the sorting itself is complete: something inside"
    ):
        write_exports(["phy"], exportable(recorded, NUMBERS), tmp_path)
    assert [file.name for file in tmp_path.rglob("*")] == ["phy", "old.txt"]


def test_only_exports_of_ours_are_removed(tmp_path):
    for name in ("phy", "analyzer"):
        (tmp_path / name).mkdir()
    (tmp_path / "sorting.nwb").touch()
    remove_exports(tmp_path)  # nobody says whose they are
    (tmp_path / "run.json").write_text(json.dumps({"exports": ["nwb", "analyzer", "strange"]}))
    remove_exports(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["phy", "run.json"]


def test_what_is_asked_for_is_checked_early(tmp_path, monkeypatch):
    assert check_exports(None) == ()
    assert check_exports("phy") == ("phy",)
    assert check_exports(["nwb", "phy", "nwb"]) == ("nwb", "phy")
    with pytest.raises(ValueError, match="export must be a list among phy, nwb, analyzer, got 'matlab'"):
        check_exports(["phy", "matlab"])
    (tmp_path / "phy").mkdir()
    assert check_exports(["nwb"], tmp_path) == ("nwb",)
    assert check_exports(["phy"], tmp_path, overwrite=True) == ("phy",)
    with pytest.raises(FileExistsError, match="phy exists: choose another folder, or give overwrite=true"):
        check_exports(["phy"], tmp_path)
    monkeypatch.setitem(exports._PACKAGES, "nwb", ("no_such_package",))
    with pytest.raises(ValueError, match=r"export=nwb needs no_such_package: pip install 'esort\[export\]'"):
        check_exports(["nwb"])


def test_a_probability_for_each_spike(recorded):
    with pytest.raises(ValueError, match=r"expected a probability for each of \d+ spikes, got shape \(1,\)"):
        Exportable(
            sorting=NumpySorting(recorded[1], RATE, NUMBERS),
            probability=np.ones(1),
            recording=recorded[0],
            filtered=recorded[0],
            source="somewhere",
        )


def test_sort_py_exports(trained, tmp_path):
    output = tmp_path / "out"
    common = (
        "sort.py",
        f"checkpoint={trained.checkpoint}",
        f"recording.path={trained.run['recording']}",
        f"output={output}",
    )
    ended = run(*common, "export=[phy,nwb,analyzer]", "session.species=Mus musculus")
    assert ended.code == 0, ended.out + ended.err
    sorting = si.load(output / "sorting")
    for found in (
        open_sorting(output / "phy"),
        read_nwb_sorting(output / "sorting.nwb"),
        si.load(output / "analyzer").sorting,
    ):
        assert found.unit_ids.tolist() == sorting.unit_ids.tolist()
        for unit_id in sorting.unit_ids:
            expected = sorting.get_unit_spike_train(unit_id)
            np.testing.assert_array_equal(found.get_unit_spike_train(unit_id), expected)
    assert f"phy:      {output / 'phy'}" in ended.out
    probability = np.load(output / "sorting" / "probability.npy")
    np.testing.assert_array_equal(np.load(output / "phy" / "spike_probability.npy"), probability)
    assert pd.read_csv(output / "phy" / "cluster_group.tsv", sep="\t")["group"].eq("unsorted").all()
    # A phy folder in the output is refused; a new sorting takes the exports of the old one with it.
    assert "sorting exists: choose another folder" in run(*common).error_line()
    ended = run(*common, "overwrite=true", "export=nwb")
    assert ended.code == 0, ended.out + ended.err
    assert not (output / "phy").exists()
    assert not (output / "analyzer").exists()
    assert (output / "sorting.nwb").exists()


def test_sort_py_refuses_what_it_cannot_export(trained, tmp_path):
    ended = run(
        "sort.py",
        f"checkpoint={trained.checkpoint}",
        f"recording.path={trained.run['recording']}",
        f"output={tmp_path / 'out'}",
        "export=[phy,matlab]",
    )
    assert ended.error_line() == "export must be a list among phy, nwb, analyzer, got 'matlab'"
    assert not (tmp_path / "out" / "sorting").exists()
