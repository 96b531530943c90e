"""The folder of a run: results are never overwritten by accident, nor lost when something fails."""

import re

import pytest

from esort.results import check_output, set_aside


@pytest.mark.parametrize("name", ["sorting", "model.safetensors", "run.json"])
def test_results_are_not_overwritten(tmp_path, name):
    (tmp_path / name).mkdir()
    message = f"{tmp_path / name} exists: choose another folder, or give overwrite=true to replace it"
    with pytest.raises(FileExistsError, match=re.escape(message)):
        check_output(tmp_path, overwrite=False)
    check_output(tmp_path, overwrite=True)


def test_other_files_do_not_matter(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    check_output(tmp_path, overwrite=False)
    check_output(tmp_path / "missing", overwrite=False)


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="expected a folder for the results, got the file"):
        check_output(tmp_path / "file", overwrite=True)


def folder(path, text):
    path.mkdir()
    (path / "text").write_text(text)


def test_set_aside_replaces(tmp_path):
    folder(tmp_path / "a", "old")
    with set_aside(tmp_path / "a"):
        folder(tmp_path / "a", "new")
    assert (tmp_path / "a" / "text").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_set_aside_brings_the_old_back(tmp_path):
    folder(tmp_path / "a", "old")
    with pytest.raises(RuntimeError), set_aside(tmp_path / "a"):
        folder(tmp_path / "a", "half")
        raise RuntimeError
    assert (tmp_path / "a" / "text").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_set_aside_finds_what_a_killed_process_left(tmp_path):
    folder(tmp_path / ".a.old", "old")
    with pytest.raises(RuntimeError), set_aside(tmp_path / "a"):
        raise RuntimeError
    assert (tmp_path / "a" / "text").read_text() == "old"
    folder(tmp_path / ".a.old", "older")
    with set_aside(tmp_path / "a"):
        folder(tmp_path / "a", "new")
    assert (tmp_path / "a" / "text").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
