import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from esort.files import new_folder_atomically, plain, sha256_of_file, write_atomically, write_json


def test_a_file_appears_whole_and_alone(tmp_path):
    path = tmp_path / "deep" / "er" / "scores.json"
    with write_atomically(path) as partial:
        partial.write_text("new")
        assert partial.parent == path.parent
        assert partial.suffix == path.suffix
        assert not path.exists()
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["scores.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "run.json"
    path.write_text("old")
    with pytest.raises(error), write_atomically(path) as partial:
        partial.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["run.json"]


def test_writing_nothing_is_an_error(tmp_path):
    with (
        pytest.raises(RuntimeError, match=r"nothing was written for .*run\.json"),
        write_atomically(tmp_path / "run.json"),
    ):
        pass


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "run.json"
    path.write_text("old")
    program = (
        "import sys, time; from esort.files import write_atomically\n"
        "with write_atomically(sys.argv[1]) as partial:\n"
        "    partial.write_text('half'); print('written', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"written\n"
        writer.send_signal(signal.SIGKILL)
    assert path.read_text() == "old"


def test_json_takes_what_results_are_made_of(tmp_path):
    @dataclass(frozen=True)
    class Unit:
        unit_id: str
        accuracy: float

    content = {
        "units": [Unit("a", 0.5)],
        3: np.arange(2, dtype=np.int16),
        "rate": np.float32(0.5),
        "undefined": float("nan"),
        "flag": np.bool_(True),
        "folder": Path("a/b"),
        "names": {"b", "a"},
        "nothing": None,
    }
    write_json(tmp_path / "a.json", content)
    assert json.loads((tmp_path / "a.json").read_text()) == {
        "units": [{"unit_id": "a", "accuracy": 0.5}],
        "3": [0, 1],
        "rate": 0.5,
        "undefined": None,
        "flag": True,
        "folder": "a/b",
        "names": ["a", "b"],
        "nothing": None,
    }


def test_json_refuses_what_it_cannot_hold_and_keeps_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError, match="expected something that JSON can hold, got object"):
        write_json(tmp_path / "a.json", {"a": object()})
    with pytest.raises(TypeError, match="expected keys of type str or int, got tuple"):
        plain({(1, 2): 3})
    assert (tmp_path / "a.json").read_text() == "1\n"


def test_a_folder_appears_whole(tmp_path):
    path = tmp_path / "cache" / "recording"
    with new_folder_atomically(path) as partial:
        (partial / "part").mkdir()
        (partial / "part" / "traces.raw").write_bytes(b"1234")
        assert not path.exists()
        assert partial.name.startswith(f".recording.partial-{os.getpid()}")
    assert (path / "part" / "traces.raw").read_bytes() == b"1234"
    assert os.listdir(path.parent) == ["recording"]


def test_a_folder_vanishes_on_an_error(tmp_path):
    with pytest.raises(ValueError, match="halfway"), new_folder_atomically(tmp_path / "recording") as partial:
        (partial / "traces.raw").write_bytes(b"12")
        raise ValueError("halfway")
    assert os.listdir(tmp_path) == []


def test_an_existing_folder_is_refused(tmp_path):
    (tmp_path / "recording").mkdir()
    with (
        pytest.raises(FileExistsError, match="expected a folder that does not exist yet, got .*recording"),
        new_folder_atomically(tmp_path / "recording"),
    ):
        pass


def test_the_slower_of_two_makers_of_a_folder_is_told(tmp_path):
    path = tmp_path / "recording"
    with pytest.raises(FileExistsError, match="was made by another process"), new_folder_atomically(path):
        path.mkdir()
        (path / "theirs").touch()
    assert os.listdir(tmp_path) == ["recording"]
    assert os.listdir(path) == ["theirs"]


def test_digest_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert (
        sha256_of_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
