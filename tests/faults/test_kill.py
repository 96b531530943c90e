"""Killed at any moment: nothing half-written is taken for whole, and going on gives what was to come."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import spikeinterface
from entries import ROOT, SMALL, run

from esort.checkpoint import load_card, load_checkpoint
from esort.locks import LOCK, FolderInUseError, check_free, hold_folder
from esort.manifest import Manifest
from esort.runs import INTERRUPTED, TERMINATED
from esort.verify import SAME, main, verify

MOMENTS = 20
# Chunks that are finished within the recording of the tests.
CHUNKS = "executor.chunk_s=1"
# sort.py that stands still when so many chunks are finished, so that a test can choose what happens then.
PAUSING = """
import os, signal, sys
from runpy import run_path
from esort.chunks import ChunkFolder
count, *sys.argv = sys.argv[1:]
save, saved = ChunkFolder.save, []
def saving(self, *arguments):
    save(self, *arguments)
    saved.append(arguments)
    if len(saved) == int(count):
        os.kill(os.getpid(), signal.SIGSTOP)
ChunkFolder.save = saving
run_path(sys.argv[0], run_name="__main__")
"""


def start(script, *overrides, pause_after=None):
    program = [script] if pause_after is None else ["-c", PAUSING, str(pause_after), script]
    return subprocess.Popen(
        [sys.executable, *program, *map(str, overrides)],
        cwd=ROOT,
        env={**os.environ, "MPLBACKEND": "Agg"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_pause(process):
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), process.stderr.read()


def finish(process):
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, out + err
    return out


def kill_after(process, seconds):
    """Kill a process; the seconds that it took if it had ended before, infinity if it was at work."""
    begin = time.monotonic()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    taken = time.monotonic() - begin
    process.communicate()
    return np.inf if process.returncode == -signal.SIGKILL else taken


def wait_for(process, condition, seconds=120):
    """Wait until something lies on the disk; the process is at work then."""
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.002)


def sort_overrides(trained, output, *more):
    return (
        f"checkpoint={trained.checkpoint}",
        f"recording.path={trained.run['recording']}",
        f"output={output}",
        "resume=true",
        "report=false",
        CHUNKS,
        *more,
    )


def spikes_of(folder):
    vector = spikeinterface.load(folder / "sorting").to_spike_vector()
    return np.stack([vector["sample_index"], vector["unit_index"]])


def nothing_half_is_taken_for_whole(folder, wanted):
    """What a reader may find in a folder, at any moment, and what it must be."""
    if (folder / "sorting").exists():
        np.testing.assert_array_equal(spikes_of(folder), wanted)
    if (folder / "model.safetensors").exists():
        load_checkpoint(folder / "model.safetensors")
    for path in folder.glob("*.json"):
        json.loads(path.read_text())
    if (folder / "manifest.json").exists():
        assert all(one.state in ("same", "note") for one in verify(folder))


@pytest.fixture(scope="module")
def wanted(trained_pursuit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "out"
    assert run("sort.py", *sort_overrides(trained_pursuit, folder)).code == 0
    return spikes_of(folder)


def test_a_sorting_that_was_ended_and_killed_goes_on_with_its_chunks(trained_pursuit, wanted, tmp_path):
    folder = tmp_path / "out"
    process = start("sort.py", *sort_overrides(trained_pursuit, folder), pause_after=2)
    wait_for_pause(process)
    process.terminate()
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate()
    # SIGTERM has its own exit code, and leaves finished chunks, nothing half-written and no lock.
    assert process.returncode == TERMINATED == 143
    assert err.splitlines() == [
        f"error: ended by SIGTERM: what was finished is kept in {folder}, resume=true goes on with it"
    ]
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("chunks/*.npz")}
    assert len(finished) in (2, 3)
    assert not list(folder.rglob(".*.partial-*"))
    assert not (folder / LOCK).exists()

    process = start("sort.py", *sort_overrides(trained_pursuit, folder), pause_after=2)
    wait_for_pause(process)
    try:
        # While it is at work, nobody else may be.
        second = run("sort.py", *sort_overrides(trained_pursuit, folder)).error_line()
        assert f"{folder} is in use by process {process.pid} on {socket.gethostname()} since 20" in second
        assert {path: path.stat().st_mtime_ns for path in finished} == finished
        assert len(list(folder.glob("chunks/*.npz"))) == len(finished) + 2
    finally:
        process.kill()
        process.communicate()
    nothing_half_is_taken_for_whole(folder, wanted)

    # A reader of the disk may have seen one more moment: whole, and not yet said to be so.
    for _ in range(2):
        assert not (folder / "manifest.json").exists()
        ended = run("sort.py", *sort_overrides(trained_pursuit, folder))
        assert ended.code == 0, ended.err
        np.testing.assert_array_equal(spikes_of(folder), wanted)
        assert main([str(folder)]) == SAME
        assert not list(folder.glob(".*.partial-*"))
        assert not (folder / LOCK).exists()
        (folder / "manifest.json").unlink()


@pytest.mark.slow
def test_ctrl_c_has_an_exit_code_of_its_own_too(trained_pursuit, tmp_path):
    process = start("sort.py", *sort_overrides(trained_pursuit, tmp_path / "out"), pause_after=1)
    wait_for_pause(process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate()
    assert process.returncode == INTERRUPTED == 130
    assert err.startswith("error: ended by Ctrl-C: what was finished is kept in")
    assert list((tmp_path / "out").glob("chunks/*.npz"))


# Training: four epochs, of which one is lost at most.
TRAINING = (*SMALL, "training.finetune.epochs=4", "training.pretrain.epochs=3", "resume=true")


def train_overrides(cache, folder):
    return (*TRAINING, f"cache={cache}", f"hydra.run.dir={folder}")


def weights(folder):
    return load_card(folder / "model.safetensors").weights_digest


@pytest.mark.slow
def test_sigterm_in_training_keeps_the_last_epoch(trained, tmp_path):
    folder = tmp_path / "run"
    overrides = ("training=scratch", *train_overrides(trained.cache, folder))
    process = start("train.py", *overrides)
    wait_for(process, (folder / "finetune" / "last.ckpt").exists)
    process.terminate()
    _, err = process.communicate()
    assert process.returncode == TERMINATED, err
    assert "error: ended by SIGTERM: what was finished is kept in" in err.splitlines()[-1]
    assert (folder / "finetune" / "last.ckpt").exists()
    assert not (folder / "model.safetensors").exists()
    assert not (folder / "scratch").exists()
    ended = run("train.py", *overrides)
    assert ended.code == 0, ended.err
    whole = run("train.py", "training=scratch", *train_overrides(trained.cache, tmp_path / "whole"))
    assert whole.code == 0, whole.err
    assert weights(folder) == weights(tmp_path / "whole")
    assert Manifest.load(folder).spikes_sha256 == Manifest.load(tmp_path / "whole").spikes_sha256


@pytest.mark.slow
def test_sorting_killed_at_random_moments(trained_pursuit, wanted, tmp_path):
    begin = time.monotonic()
    finish(start("sort.py", *sort_overrides(trained_pursuit, tmp_path / "whole")))
    length = time.monotonic() - begin
    rng = np.random.default_rng(0)
    killed = 0
    for moment in range(MOMENTS):
        folder = tmp_path / str(moment)
        # Starting up takes half the time and writes nothing.
        process = start("sort.py", *sort_overrides(trained_pursuit, folder))
        taken = kill_after(process, rng.uniform(0.4, 1.0) * length)
        # Alone on the machine a run is shorter than the first.
        killed, length = killed + (taken == np.inf), min(length, taken)
        nothing_half_is_taken_for_whole(folder, wanted)
        if not (folder / "manifest.json").exists():  # else it had ended
            finish(start("sort.py", *sort_overrides(trained_pursuit, folder)))
        np.testing.assert_array_equal(spikes_of(folder), wanted)
        assert main([str(folder)]) == SAME
        assert not list(folder.glob(".*.partial-*"))
    print(f"{killed} of {MOMENTS} were killed at work")
    assert killed > MOMENTS // 2


@pytest.mark.slow
def test_training_killed_at_random_moments(tmp_path):
    """Simulation, pretraining, fine-tuning, sorting: every moment of a whole run, cache included."""
    begin = time.monotonic()
    finish(start("train.py", *train_overrides(tmp_path / "cache", tmp_path / "whole")))
    length = time.monotonic() - begin
    wanted, digest = spikes_of(tmp_path / "whole"), weights(tmp_path / "whole")
    rng = np.random.default_rng(1)
    killed = 0
    for moment in range(MOMENTS):
        folder, cache = tmp_path / str(moment), tmp_path / f"cache{moment}"
        process = start("train.py", *train_overrides(cache, folder))
        taken = kill_after(process, rng.uniform(0.2, 1.0) * length)
        killed, length = killed + (taken == np.inf), min(length, taken)
        nothing_half_is_taken_for_whole(folder, wanted)
        out = finish(start("train.py", *train_overrides(cache, folder)))
        assert weights(folder) == digest, out
        np.testing.assert_array_equal(spikes_of(folder), wanted)
        assert main([str(folder)]) == SAME
        assert not list(folder.glob(".*.partial-*"))
    print(f"{killed} of {MOMENTS} were killed at work")
    assert killed > MOMENTS // 2


# Locks

HOLD = """
import sys, time
from esort.locks import hold_folder
with hold_folder(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_is_held_by_one_and_taken_over_from_the_dead(tmp_path):
    process = holder(tmp_path)
    try:
        who = f"in use by process {process.pid} on {socket.gethostname()} since 20.*: choose another folder$"
        with pytest.raises(FolderInUseError, match=who), hold_folder(tmp_path):
            pass
        (tmp_path / ".a.partial-1-0123abcd").write_text("at work")
    finally:
        process.kill()
        process.communicate()
    assert (tmp_path / LOCK).exists()
    check_free(tmp_path)
    with hold_folder(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
        assert not (tmp_path / ".a.partial-1-0123abcd").exists()
    assert list(tmp_path.iterdir()) == []


def note_of(folder, **changes):
    note = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": "2026-01-01T00:00:00+00:00",
        "started": None,
    }
    (folder / LOCK).write_text(json.dumps(note | changes))


def test_a_process_on_another_host_is_believed_until_its_lock_is_removed(tmp_path):
    note_of(tmp_path, host="elsewhere", pid=7)
    message = (
        f"in use by process 7 on elsewhere since 2026.*or remove {tmp_path}/.lock if that process is dead"
    )
    for attempt in (check_free, lambda folder: hold_folder(folder).__enter__()):
        with pytest.raises(FolderInUseError, match=message):
            attempt(tmp_path)
    (tmp_path / LOCK).unlink()
    check_free(tmp_path)


def test_where_the_file_system_keeps_no_locks_the_note_decides(tmp_path, monkeypatch):
    import errno

    def none(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    note_of(tmp_path)
    with pytest.raises(FolderInUseError):
        check_free(tmp_path)
    note_of(tmp_path, started="1")  # another process with the number of a dead one
    check_free(tmp_path)
    note_of(tmp_path, pid=2**22 + 1)
    check_free(tmp_path)
    for text in ("", "{", "[]", '{"pid": "x"}', "[" * 4096):
        (tmp_path / LOCK).write_text(text)
        check_free(tmp_path)


def test_other_errors_of_a_lock_are_told(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="Input/output error"), hold_folder(tmp_path):
        pass
