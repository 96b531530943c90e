"""Files of our own that a disk or a hand has damaged: one line names the file and says what to do."""

import json

import numpy as np
import pytest

from esort.chunks import ChunkFolder
from esort.files import read_json, write_json
from esort.manifest import MANIFEST, Manifest, digest_of
from esort.postprocess import Spikes
from esort.resume import TrainingFiles
from esort.simulation import Simulation
from esort.verify import UNKNOWN, main


def test_what_was_written_is_read(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1, None], "é": "ü"})
    assert read_json(tmp_path / "a.json") == {"a": [1, None], "é": "ü"}
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json")


@pytest.mark.parametrize("text", ["", "{", "[" * 10_000, "\x00", '{"a": 1}}'])
def test_no_json(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"^.*a\.json is damaged: no JSON \(.*\)$"):
        read_json(tmp_path / "a.json")


def test_json_that_is_no_object(tmp_path):
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"a\.json is damaged: expected a JSON object, got list$"):
        read_json(tmp_path / "a.json")


def test_a_damaged_note_of_chunks(tmp_path):
    chunks = ChunkFolder(tmp_path, {"stretch": [0, 9]})
    (tmp_path / "note.json").write_text("[]")
    with pytest.raises(ValueError, match=r"note\.json is damaged: .*: start anew with resume=false$"):
        chunks.begin(resume=True)
    chunks.begin(resume=False)
    assert not (tmp_path / "note.json").exists()


def test_a_chunk_keeps_types_and_shapes(tmp_path):
    chunks = ChunkFolder(tmp_path, {})
    chunks.save(0, Spikes(np.array([5, 9]), np.array([0, 1]), np.array([0.5, 0.75])), np.array([[1, 4]]))
    (path,) = tmp_path.glob("*.npz")
    with np.load(path) as stored:
        whole = {name: stored[name] for name in stored.files}
    assert {name: array.dtype.str for name, array in whole.items()} == {
        "sample_index": "<i8",
        "unit_index": "<i8",
        "probability": "<f4",
        "blanked": "<i8",
    }
    assert chunks.motion([0]) is None
    changes = [
        ("sample_index", whole["sample_index"][:1], "unit_index has 2 spikes, others have 1"),
        ("probability", whole["probability"].astype("f8"), r"probability of type <f8 and shape \(2,\)"),
        ("unit_index", None, "unit_index"),
    ]
    for name, array, reason in changes:
        np.savez(path, **{key: value for key, value in (whole | {name: array}).items() if value is not None})
        with pytest.raises(
            ValueError, match=f"npz is damaged \\(.*{reason}.*\\): start anew with resume=false$"
        ):
            chunks.load(0)
    for array, reason in (
        (np.zeros((2, 3), dtype="i8"), "blanked has 3 ends, others have 2"),
        (None, "blanked"),
    ):
        np.savez(
            path, **{key: value for key, value in (whole | {"blanked": array}).items() if value is not None}
        )
        with pytest.raises(ValueError, match=f"is damaged \\(.*{reason}"):
            chunks.blanked([0])
    motion = {"times_s": np.arange(2.0), "depths_um": np.zeros(3), "shift_um": np.zeros((2, 3), dtype="i8")}
    np.savez(path, **whole, **motion)
    assert chunks.motion([0]).shift_um.shape == (2, 3)
    np.savez(path, **whole, **motion | {"depths_um": np.zeros(4)})
    with pytest.raises(ValueError, match="shift_um has 3 depths, others have 4"):
        chunks.motion([0])


@pytest.mark.parametrize("note", ["{", "7", '{"digest": "d", "metrics": {"loss": "low"}}'])
def test_a_damaged_note_of_a_training(tmp_path, note):
    (tmp_path / "training.json").write_text(note)
    with pytest.raises(ValueError, match=r"training\.json is damaged: .*; start anew with resume=false$"):
        TrainingFiles(tmp_path, "d").begin()


def test_the_note_of_another_training(tmp_path):
    files = TrainingFiles(tmp_path, "d")
    assert files.begin() is None
    assert files.begin() is None
    files.finish({"loss": 0.5, "none": float("nan")})
    assert files.begin() == {"loss": 0.5, "none": None}
    with pytest.raises(ValueError, match="holds a training with other settings"):
        TrainingFiles(tmp_path, "e").begin()


def test_a_damaged_simulation(tmp_path):
    (tmp_path / "recording").mkdir()
    (tmp_path / "recording" / "traces_cached_seg0.raw").write_bytes(b"abc")
    (tmp_path / "spec.json").write_text("{")
    with pytest.raises(FileNotFoundError, match="expected a folder with a complete simulation"):
        Simulation.load(tmp_path)
    (tmp_path / "spec.json").write_text('{"traces_bytes": 3}')
    (tmp_path / "units.json").write_text("{")
    with pytest.raises(ValueError, match=r"is damaged: remove it, it is made anew \("):
        Simulation.load(tmp_path)
    np.savez(tmp_path / "motion.npz", times_s=np.zeros(3))
    with pytest.raises(ValueError, match=r"is damaged: remove it, it is made anew \("):
        Simulation(tmp_path, None, None, []).motion()


def manifest_with(folder, **changes):
    content = json.loads((folder / MANIFEST).read_text())
    content.pop("manifest_sha256")
    content |= changes
    return content | {"manifest_sha256": digest_of(content)}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("config", [], r"config must be an object, got \[\]"),
        ("outputs", {"a": 1}, "outputs.'a' must be a text, got 1"),
        ("command", None, "command must be a text, got None"),
        ("stretch", [0, True], r"stretch must be two whole numbers, got \[0, True\]"),
        ("thresholds", "low", "thresholds must be a number or null, got 'low'"),
        ("inputs", {}, "inputs.recording must be an object, got None"),
        (
            "inputs",
            {"recording": {"opened": {}, "fingerprint": "f"}, "checkpoint": {"path": 3, "sha256": "a"}},
            "inputs.checkpoint.path must be a text, got 3",
        ),
    ],
)
def test_manifests_that_say_something_else(trained_pursuit, tmp_path, capsys, name, value, words):
    (tmp_path / MANIFEST).write_text(json.dumps(manifest_with(trained_pursuit.folder, **{name: value})))
    with pytest.raises(ValueError, match=f"{MANIFEST}: {words}$"):
        Manifest.load(tmp_path)
    assert main([str(tmp_path)]) == UNKNOWN
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("opened", [{}, {"path": 3}, {"path": "a", "door": 1}])
def test_a_manifest_that_does_not_say_how_to_open_its_recording(trained_pursuit, tmp_path, capsys, opened):
    inputs = json.loads((trained_pursuit.folder / MANIFEST).read_text())["inputs"]
    inputs["recording"] |= {"opened": opened}
    (tmp_path / MANIFEST).write_text(json.dumps(manifest_with(trained_pursuit.folder, inputs=inputs)))
    assert main([str(tmp_path)]) == 3
    assert (
        "missing  recording: the manifest does not say how the recording is opened" in capsys.readouterr().out
    )
