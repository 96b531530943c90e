"""Full, limited and read-only disks: old files stay, exit code 1, one line that names path and bytes."""

import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import spikeinterface
from entries import ROOT, SMALL_TARGET, run

from esort.checkpoint import load_card, load_checkpoint, save_checkpoint
from esort.chunks import ChunkFolder
from esort.files import (
    check_writable,
    new_folder_atomically,
    new_memory_map,
    sha256_of_file,
    write_atomically,
    write_json,
)
from esort.postprocess import Spikes
from esort.verify import SAME, main

BYTES = r"cannot write \S+ \(\d+ bytes were written, \d+ are free\)"


@contextmanager
def files_up_to(num_bytes):
    """No file may grow beyond so many bytes: what a quota or a full disk does, without root."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # Python ignores it anyway
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@contextmanager
def small_disk(folder, size="600k"):
    """A disk of its own, where this process may make one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no disk of its own may be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder, leave):
    """Leave only so many bytes of a disk."""
    free = shutil.disk_usage(folder).free
    (folder / "ballast").write_bytes(bytes(max(0, free - leave)))


def write_text(path):
    with write_atomically(path) as partial:
        partial.write_text("x" * 100_000)


def write_array(path):
    with write_atomically(path) as partial, open(partial, "wb") as file:
        np.save(file, np.zeros(100_000))


def write_c_array(path):
    with write_atomically(path) as partial:
        np.zeros(100_000).tofile(partial)  # tells what was written, and not why it was less


def write_mapped(path):
    with write_atomically(path) as partial:
        new_memory_map(partial, np.float64, (1000, 100))[:] = 1


def write_weights(path):
    _, weights = load_checkpoint(path)
    save_checkpoint(path, {name: np.tile(value, 1000) for name, value in weights.items()}, load_card(path))


WRITERS = {
    "json": lambda path: write_json(path, list(range(100_000))),
    "text": write_text,
    "array": write_array,
    "array by C": write_c_array,
    "memory map": write_mapped,
    "checkpoint": write_weights,
}


@pytest.mark.parametrize("name", WRITERS)
def test_an_old_file_stays_when_the_new_one_does_not_fit(tmp_path, trained_pursuit, name):
    path = tmp_path / "file.safetensors"
    shutil.copy(trained_pursuit.checkpoint, path)
    digest = sha256_of_file(path)
    with files_up_to(60_000), pytest.raises(OSError, match=BYTES) as error:
        WRITERS[name](path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert sha256_of_file(path) == digest
    assert os.listdir(tmp_path) == [path.name]


def test_a_folder_that_does_not_fit_is_not_there(tmp_path):
    with (
        files_up_to(10_000),
        pytest.raises(OSError, match=BYTES) as error,
        new_folder_atomically(tmp_path / "new") as partial,
    ):
        (partial / "small").write_bytes(bytes(5_000))
        (partial / "large").write_bytes(bytes(50_000))
    assert f"cannot write {tmp_path / 'new'} (15000 bytes were written" in str(error.value)
    assert os.listdir(tmp_path) == []


def test_a_memory_map_has_its_place_before_anything_is_computed(tmp_path):
    with files_up_to(1000), pytest.raises(OSError, match=BYTES):
        new_memory_map(tmp_path / "a.npy", np.float32, (10**6, 100))
    mapped = new_memory_map(tmp_path / "a.npy", np.float32, (10, 3))
    mapped[:] = 2
    mapped.flush()
    assert (tmp_path / "a.npy").stat().st_blocks > 0
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.full((10, 3), 2, dtype=np.float32))


def test_other_errors_are_left_as_they_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere"), write_atomically(tmp_path / "a") as partial:
        (partial.parent / "elsewhere" / "file").write_text("")


@pytest.fixture(scope="module")
def whole(trained_pursuit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "out"
    assert run("sort.py", *sort_overrides(trained_pursuit, folder)).code == 0
    return folder


def sort_overrides(trained, output, *more):
    return (
        f"checkpoint={trained.checkpoint}",
        f"recording.path={trained.run['recording']}",
        f"output={output}",
        "report=false",
        "executor.chunk_s=2",
        *more,
    )


def spikes_of(folder):
    vector = spikeinterface.load(folder / "sorting").to_spike_vector()
    return np.stack([vector["sample_index"], vector["unit_index"]])


def error_line(ended):
    """The line of a command that failed; Hydra's log file may complain too that it cannot grow."""
    assert ended.code == 1, ended.out + ended.err
    (line,) = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    return line


# Too small for a chunk; for a chunk, not for the spikes; for these, not for the pictures.
@pytest.mark.parametrize("limit", [600, 3_000, 20_000])
def test_sorting_again_on_a_full_disk_leaves_the_old_sorting(trained_pursuit, whole, tmp_path, limit):
    folder = shutil.copytree(whole, tmp_path / "out")
    wanted = spikes_of(folder)
    with files_up_to(limit):
        ended = run("sort.py", *sort_overrides(trained_pursuit, folder, "overwrite=true"))
    assert re.search(BYTES, error_line(ended)), ended.err
    np.testing.assert_array_equal(spikes_of(folder), wanted)
    assert not list(folder.glob(".*.partial-*"))
    again = run("sort.py", *sort_overrides(trained_pursuit, folder, "overwrite=true", "resume=true"))
    assert again.code == 0, again.err
    np.testing.assert_array_equal(spikes_of(folder), wanted)
    assert main([str(folder)]) == SAME


def train_overrides(trained, folder):
    labels = ("label_budget=per_unit", "labels=20")
    return (*SMALL_TARGET, *labels, "training=scratch", f"cache={trained.cache}", f"hydra.run.dir={folder}")


def test_learning_on_a_full_disk_leaves_no_model(trained_pursuit, tmp_path):
    for limit, name in ((100_000, "filtered.npy"), (4_000_000, "")):
        with files_up_to(limit):
            ended = run("train.py", *train_overrides(trained_pursuit, tmp_path / "run"))
        if not name:
            assert ended.code == 0, ended.err
            continue
        assert re.search(BYTES, error_line(ended))
        assert name in error_line(ended)
        assert not (tmp_path / "run" / "model.safetensors").exists()
        assert not (tmp_path / "run" / "scratch").exists()


@pytest.mark.parametrize("leave", [0, 20_000, 120_000])
def test_a_disk_that_is_full(trained_pursuit, tmp_path, leave):
    with small_disk(tmp_path / "disk") as disk:
        fill(disk, leave)
        ended = run("sort.py", *sort_overrides(trained_pursuit, disk / "out"))
        line = error_line(ended)
        assert "No space left on device" in line
        assert re.search(BYTES, line), line
        assert not list(disk.rglob(".*.partial-*"))
        assert not (disk / "out" / "manifest.json").exists()
        (disk / "ballast").unlink()
        again = run("sort.py", *sort_overrides(trained_pursuit, disk / "out", "resume=true"))
        assert again.code == 0, again.err
        assert main([str(disk / "out")]) == SAME


def test_a_disk_that_is_read_only(trained_pursuit, tmp_path, whole):
    with small_disk(tmp_path / "disk", "2m") as disk:
        shutil.copytree(whole, disk / "out")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for output in (disk / "out", disk / "new"):
            line = run("sort.py", *sort_overrides(trained_pursuit, output, "overwrite=true")).error_line()
            assert "Read-only file system: cannot write" in line
            assert str(output) in line
        assert main([str(disk / "out")]) == SAME  # to verify, nothing is written


def test_a_map_on_a_full_disk_is_an_error_and_not_the_end_of_the_process(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        program = (
            "import sys, numpy as np; from esort.files import new_memory_map\n"
            "try:\n    new_memory_map(sys.argv[1], np.float64, (10**6,))[:] = 1\n"
            "except OSError as error:\n    sys.exit(0 if error.errno == 28 else 1)"
        )
        subprocess.run([sys.executable, "-c", program, str(disk / "a.npy")], check=True, cwd=ROOT)


def test_a_folder_that_takes_nothing_is_told_before_anything_is_done(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert os.listdir(tmp_path) == []
    with files_up_to(100), pytest.raises(OSError, match=BYTES) as error:
        check_writable(tmp_path / "a")
    assert error.value.errno == errno.EFBIG
    assert f"cannot write {tmp_path / 'a'} (" in str(error.value)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_loses_no_chunk_that_was_finished(tmp_path):
    chunks = ChunkFolder(tmp_path / "chunks", {"of": "this"})
    spikes = Spikes(np.arange(10), np.zeros(10, int), np.ones(10, np.float32))
    many = Spikes(np.arange(10_000), np.zeros(10_000, int), np.ones(10_000, np.float32))
    chunks.begin(resume=False)
    chunks.save(0, spikes)
    with files_up_to(20_000), pytest.raises(OSError, match=BYTES):
        chunks.save(5, many)
    np.testing.assert_array_equal(chunks.load(0).sample_index, spikes.sample_index)
    assert chunks.load(5) is None
