"""The same input, checkpoint and version give the same integers; the manifest says of what and by what."""

import json
import shutil
from dataclasses import replace

import numba
import numpy as np
import pytest
import torch
from entries import run

from esort import chunks as chunks_module
from esort.checkpoint import load_card
from esort.chunks import ChunkFolder, sort_in_chunks
from esort.manifest import (
    Manifest,
    digest_of,
    digest_of_recording,
    digest_of_spikes,
    how_to_open,
)
from esort.recordings import RecordingPath
from esort.sorter import Sorter
from esort.stream import StreamingSorter
from esort.verify import DIFFERS, SAME, UNKNOWN, main, verify


def arrays(spikes):
    return np.stack([spikes.sample_index, spikes.unit_index])


@pytest.fixture(scope="module")
def sorted_folder(trained_pursuit, tmp_path_factory):
    """What sort.py left, with a digest of every sample."""
    folder = tmp_path_factory.mktemp("reproducible") / "out"
    ended = run(
        "sort.py",
        f"checkpoint={trained_pursuit.checkpoint}",
        f"recording.path={trained_pursuit.run['recording']}",
        f"output={folder}",
        "digest_recording=true",
        "report=false",
    )
    assert ended.code == 0, ended.err
    return folder


@pytest.fixture
def result(sorted_folder, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(sorted_folder, tmp_path / "moved")


def findings(folder, **options):
    return {one.name: one for one in verify(folder, **options)}


@pytest.mark.parametrize("name", ["trained", "trained_pursuit"])
def test_any_number_of_workers_any_chunk_and_streaming_give_the_same_integers(
    request, tmp_path, monkeypatch, name
):
    one = request.getfixturevalue(name)
    sorter, recording = Sorter.load(one.checkpoint), one.subject().recording
    wanted = sorter.sort(recording).spikes
    assert len(wanted) > 10
    monkeypatch.setattr(chunks_module, "CHUNK_S", 1.7)
    for workers in (1, 3):
        chunks = ChunkFolder(tmp_path / str(workers), {})
        found = sort_in_chunks(sorter, recording, chunks, num_workers=workers).spikes
        np.testing.assert_array_equal(arrays(found), arrays(wanted))
    streaming = StreamingSorter.like(sorter, recording)
    traces = recording.get_traces()
    pieces = [streaming.push(traces[start : start + 7_777]) for start in range(0, len(traces), 7_777)]
    pieces.append(streaming.finish())
    found = np.concatenate([arrays(piece) for piece in pieces], axis=1)
    np.testing.assert_array_equal(found[:, np.lexsort(found[::-1])], arrays(wanted))


@pytest.mark.parametrize("name", ["trained", "trained_pursuit"])
def test_the_number_of_threads_changes_no_integer(request, name):
    """PyTorch's and Numba's threads, as OMP_NUM_THREADS and NUMBA_NUM_THREADS would set them."""
    one = request.getfixturevalue(name)
    sorter, recording = Sorter.load(one.checkpoint), one.subject().recording
    before = torch.get_num_threads(), numba.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
            found.append(sorter.sort(recording).spikes)
    finally:
        torch.set_num_threads(before[0])
        numba.set_num_threads(before[1])
    assert len(found[0]) > 10
    np.testing.assert_array_equal(arrays(found[0]), arrays(found[1]))
    np.testing.assert_array_equal(found[0].probability, found[1].probability)


def test_a_manifest_goes_out_with_every_result(trained, trained_pursuit, sorted_folder):
    for folder, command in ((trained.folder, "train"), (sorted_folder, "sort")):
        manifest = Manifest.load(folder)
        assert manifest.command == command
        assert {"python", "esort", "numpy", "torch", "spikeinterface"} <= manifest.versions.keys()
        assert manifest.seeds == {"seed": 0}
        assert {"sorting/spikes.npy", "sorting/probability.npy", "run.json"} <= manifest.outputs.keys()
        assert manifest.config_sha256 == digest_of(manifest.config)
        assert verify(folder)
        assert main([str(folder)]) == SAME
    manifest = Manifest.load(trained.folder)
    assert manifest.inputs["checkpoint"]["path"] == "model.safetensors"
    assert manifest.inputs["recording"]["sha256"] is None
    assert "backbone" in manifest.inputs
    # Without the digest of every sample some places were looked at, and the name says so.
    assert findings(trained.folder)["recording (at 5 places)"].state == "same"
    assert findings(sorted_folder)["recording"].state == "same"


def test_sorted_again_a_moved_result_gives_the_same_integers(result, capsys):
    assert main([str(result), "resort=true"]) == SAME
    assert "same     sorted again" in capsys.readouterr().out
    assert main([str(result), "json=true"]) == SAME
    assert json.loads(capsys.readouterr().out)["same"]


def test_the_digest_of_spikes_sees_every_integer_and_nothing_else(trained_pursuit):
    sorting = trained_pursuit.subject().ground_truth
    digest = digest_of_spikes(sorting)
    assert digest_of_spikes(sorting.frame_slice(0, trained_pursuit.subject().num_samples)) == digest
    assert digest_of_spikes(sorting.select_units(sorting.unit_ids[:-1])) != digest
    renamed = sorting.rename_units([f"x{name}" for name in sorting.unit_ids])
    assert digest_of_spikes(renamed) != digest


def test_the_digest_of_a_recording_sees_every_sample(trained_pursuit):
    from spikeinterface.core import NumpyRecording

    recording = trained_pursuit.subject().recording
    traces = recording.get_traces().copy()

    def again(traces):
        copy = NumpyRecording(traces, recording.sampling_frequency)
        copy.set_probegroup(recording.get_probegroup())
        return copy

    assert digest_of_recording(again(traces)) == digest_of_recording(recording)
    traces[123_456, 2] += 1
    assert digest_of_recording(again(traces)) != digest_of_recording(recording)


def damage(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["sorting/spikes.npy", "sorting/probability.npy", "run.json"])
def test_a_changed_or_missing_output_is_found(result, capsys, name):
    damage(result / name)
    assert findings(result)[name].state == "differs"
    assert main([str(result)]) == DIFFERS
    assert f"differs  {name}: expected" in capsys.readouterr().out
    (result / name).unlink()
    assert findings(result)[name].state == "missing"


def test_a_changed_spike_is_told_from_the_recording_sorted_again(result, capsys):
    vector = np.load(result / "sorting" / "spikes.npy")
    sample = int(vector["sample_index"][5])
    vector["sample_index"][5] += 1
    np.save(result / "sorting" / "spikes.npy", vector)
    found = findings(result, resort=True)
    assert found["spikes"].state == "differs"
    assert f"the first difference is at spike 5, sample {sample}" in found["sorted again"].text
    np.save(result / "sorting" / "spikes.npy", vector[:5])
    assert "5 spikes were saved" in findings(result, resort=True)["sorted again"].text


def test_another_recording_or_checkpoint_is_found(result, trained, trained_pursuit, tmp_path):
    other = findings(result, checkpoint=str(trained.checkpoint))
    assert other["checkpoint"].state == "differs"
    assert findings(result, checkpoint=str(tmp_path / "gone"))["checkpoint"].state == "missing"
    copy = shutil.copytree(trained_pursuit.run["recording"], tmp_path / "recording")
    assert findings(result, recording=str(copy))["recording"].state == "same"
    damage(copy / "recording" / "traces_cached_seg0.raw")
    assert findings(result, recording=str(copy))["recording"].state == "differs"
    gone = findings(result, recording=str(tmp_path / "gone"))["recording"]
    assert (gone.state, "no recording at" in gone.text) == ("missing", True)
    with pytest.raises(ValueError, match="cannot sort again: no recording at"):
        verify(result, resort=True, recording=str(tmp_path / "gone"))


def rewrite(folder, **changes):
    """A manifest with other content and a right digest of itself."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text()) | changes
    content.pop("manifest_sha256")
    path.write_text(json.dumps(content | {"manifest_sha256": digest_of(content)}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "expected schema version 1, got 2"),
        ({"schema_version": True}, "expected schema version 1, got True"),
        ({"extra": 1}, "missing or unknown fields ['extra']"),
        ({"outputs": [1]}, "outputs must be an object, got [1]"),
        ({"stretch": [1]}, "stretch must be two whole numbers, got [1]"),
        ({"outputs": {"../../etc/passwd": "0"}}, "the manifest names '../../etc/passwd', which lies outside"),
        ({"outputs": {"/etc/passwd": "0"}}, "the manifest names '/etc/passwd', which lies outside"),
    ],
)
def test_a_manifest_that_cannot_be_believed(result, capsys, changes, message):
    rewrite(result, **changes)
    assert main([str(result)]) == UNKNOWN
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_damaged_edited_missing_or_huge_manifest(result, capsys):
    path = result / "manifest.json"
    text = path.read_text()
    for content, message in (
        (text.replace('"seed": 0', '"seed": 1'), "does not match its own digest"),
        (text[:-20], "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        (" " * (2**24 + 1), "expected at most 16777216 bytes, got 16777217"),
        ("[]", "expected schema version 1, got None"),
    ):
        path.write_text(content)
        assert main([str(result)]) == UNKNOWN
        assert message in capsys.readouterr().err
    path.unlink()
    assert main([str(result)]) == UNKNOWN
    assert "no manifest.json in" in capsys.readouterr().err


def test_other_versions_are_noted_and_no_reason_to_doubt(result, capsys):
    rewrite(result, versions={"python": "3.99", "numpy": "0.1"})
    assert main([str(result)]) == SAME
    assert "note     version of numpy: made with 0.1, here is" in capsys.readouterr().out


def test_a_manifest_opens_a_recording_by_known_fields_only(result):
    content = json.loads((result / "manifest.json").read_text())
    content["inputs"]["recording"]["opened"] = {"_target_": "os.system", "path": "x"}
    rewrite(result, inputs=content["inputs"])
    found = findings(result)["recording"]
    assert (found.state, found.text) == ("missing", "the manifest does not say how the recording is opened")


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["a", "resort=maybe"], ["/nowhere"]])
def test_the_command_line(arguments, capsys):
    assert main(arguments) == UNKNOWN
    assert capsys.readouterr().err.startswith("error: ")


def test_a_recording_is_opened_again_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "probe.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    spec = RecordingPath(path="x.raw", probe="probe.json", dtype="int16", num_channels=2)
    again = how_to_open(spec, "/data/x.raw")
    assert RecordingPath(**again) == replace(spec, path="/data/x.raw", probe=str(tmp_path / "probe.json"))
    assert json.loads(json.dumps(again)) == again


@pytest.mark.slow
def test_two_trainings_give_the_same_weights(trained, tmp_path):
    from entries import SMALL

    ended = run("train.py", *SMALL, f"cache={tmp_path / 'cache'}", f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.code == 0, ended.err
    again, first = (load_card(one / "model.safetensors") for one in (tmp_path / "run", trained.folder))
    assert again.weights_digest == first.weights_digest
    assert Manifest.load(tmp_path / "run").spikes_sha256 == Manifest.load(trained.folder).spikes_sha256
