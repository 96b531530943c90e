"""Long sortings in chunks: the same spikes, interruptions cost a chunk, length costs no memory."""

import errno
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import spikeinterface
from entries import run
from long_recordings import Repeated

from esort import chunks as chunks_module
from esort.chunks import ChunkFolder, sort_in_chunks
from esort.inference import BLOCK_S
from esort.pursuit.detector import _EPOCH_STEPS, _STEP_MS
from esort.saved import open_saved, save_sorting
from esort.sorter import Sorter

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def sorters(trained_pursuit, trained):
    return {"pursuit": Sorter.load(trained_pursuit.checkpoint), "dense": Sorter.load(trained.checkpoint)}


@pytest.fixture(scope="module")
def recording(trained_pursuit):
    return trained_pursuit.subject().recording


def arrays(spikes):
    return spikes.sample_index, spikes.unit_index, spikes.probability


def assert_same(found, wanted):
    assert len(wanted) > 10
    for one, other in zip(arrays(found), arrays(wanted), strict=True):
        np.testing.assert_array_equal(one, other)


class Stopped(Exception):
    pass


def stopping_after(count):
    """A progress that breaks off after so many blocks."""

    def progress(blocks):
        for number, block in enumerate(blocks):
            if number == count:
                raise Stopped
            yield block

    return progress


@pytest.mark.parametrize("name", ["pursuit", "dense"])
@pytest.mark.parametrize("chunk_s", [0.7, 3.3, 300.0])
def test_same_spikes_for_any_length_of_a_chunk(sorters, recording, tmp_path, monkeypatch, name, chunk_s):
    monkeypatch.setattr(chunks_module, "CHUNK_S", chunk_s)
    sorter = sorters[name]
    stretch = {"start_sample": 1_234, "stop_sample": 150_001}
    found = sort_in_chunks(sorter, recording, ChunkFolder(tmp_path, {}), **stretch)
    whole = sorter.sort(recording, **stretch)
    assert_same(found.spikes, whole.spikes)
    assert found.spikes.sample_index.dtype == np.int64
    assert (found.num_samples, set(found.seconds)) == (whole.num_samples, set(whole.seconds))


def test_an_interrupted_sorting_goes_on_where_it_stopped(sorters, recording, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks_module, "CHUNK_S", 2.0)
    sorter, folder = sorters["pursuit"], ChunkFolder(tmp_path / "chunks", {"of": "this"})
    with pytest.raises(Stopped):
        sort_in_chunks(sorter, recording, folder, progress=stopping_after(12))
    finished = {path.name: path.stat().st_mtime_ns for path in folder.folder.glob("*.npz")}
    assert 1 <= len(finished) < 5
    seen = []

    def progress(blocks):
        for block in blocks:
            seen.append(block)
            yield block

    found = sort_in_chunks(sorter, recording, folder, resume=True, progress=progress)
    assert_same(found.spikes, sorter.sort(recording).spikes)
    assert seen == list(range(20))
    for name, modified in finished.items():
        assert (folder.folder / name).stat().st_mtime_ns == modified
    # All is there now: nothing is sorted again.
    again = sort_in_chunks(sorter, recording, folder, resume=True)
    assert_same(again.spikes, found.spikes)
    assert again.seconds["network"] == 0


def test_chunks_of_another_sorting_are_refused_or_removed(sorters, recording, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks_module, "CHUNK_S", 2.0)
    sorter = sorters["pursuit"]
    with pytest.raises(Stopped):
        sort_in_chunks(sorter, recording, ChunkFolder(tmp_path, {"a": 1}), progress=stopping_after(12))
    other = ChunkFolder(tmp_path, {"a": 2})
    with pytest.raises(ValueError, match="holds chunks of a sorting with another a: resume it with the same"):
        sort_in_chunks(sorter, recording, other, resume=True)
    assert list(tmp_path.glob("*.npz"))
    assert_same(sort_in_chunks(sorter, recording, other).spikes, sorter.sort(recording).spikes)


def sort_overrides(trained_pursuit, output):
    return (
        f"checkpoint={trained_pursuit.checkpoint}",
        f"recording.path={trained_pursuit.run['recording']}",
        f"output={output}",
        f"cache={trained_pursuit.cache}",
        "report=false",
        "executor.chunk_s=2",
    )


def test_a_full_disk_keeps_finished_chunks_and_resume_uses_them(trained_pursuit, tmp_path, monkeypatch):
    overrides = sort_overrides(trained_pursuit, tmp_path / "out")
    replace = os.replace

    def full(source, target):
        if Path(target).name == f"{3 * 64_000:015d}.npz":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        assert "No space left on device" in run("sort.py", *overrides).error_line()
    kept = sorted(path.name for path in (tmp_path / "out" / "chunks").iterdir())
    assert kept == [*(f"{start * 64_000:015d}.npz" for start in range(3)), "note.json"]
    assert not (tmp_path / "out" / "sorting").exists()
    other = run("sort.py", *overrides, "resume=true", "thresholds=0.5").error_line()
    assert "holds chunks of a sorting with another thresholds" in other
    ended = run("sort.py", *overrides, "resume=true")
    assert ended.code == 0, ended.err
    assert not (tmp_path / "out" / "chunks").exists()
    direct = Sorter.load(trained_pursuit.checkpoint).sort(trained_pursuit.subject().recording)
    saved = spikeinterface.load(tmp_path / "out" / "sorting")
    np.testing.assert_array_equal(saved.to_spike_vector()["sample_index"], direct.spikes.sample_index)
    probability = np.load(tmp_path / "out" / "sorting" / "probability.npy")
    np.testing.assert_array_equal(probability, direct.spikes.probability)
    assert "overwrite=true to replace it" in run("sort.py", *overrides).error_line()
    assert "overwrite=true to replace it" in run("sort.py", *overrides, "resume=true").error_line()


def test_a_sorting_without_spikes_is_saved_too(sorters, recording, tmp_path):
    quiet = recording.frame_slice(start_frame=0, end_frame=200)
    result = sort_in_chunks(sorters["pursuit"], quiet, ChunkFolder(tmp_path / "chunks", {}))
    save_sorting(result, tmp_path / "sorting")
    for saved in (open_saved(tmp_path / "sorting"), spikeinterface.load(tmp_path / "sorting")):
        assert saved.to_spike_vector().size == 0
        assert saved.unit_ids.tolist() == list(sorters["pursuit"].card.unit_ids)


def grid_samples(sorter):
    """What time is cut into: spikes are the same to the sample where a recording is moved by a multiple."""
    stride, rate = sorter.network.stride, sorter.card.sampling_frequency
    block = round(BLOCK_S * rate) // stride * stride
    step = max(1, round(_STEP_MS * rate / stride / 1000))
    return math.lcm(block, _EPOCH_STEPS * step * stride)


@pytest.mark.parametrize("name", ["pursuit", "dense"])
def test_samples_beyond_two_to_the_31(sorters, recording, tmp_path, name):
    """A virtual recording of 20 hours: the spikes far out are those of one that begins there."""
    sorter, period = sorters[name], recording.get_num_samples()
    grid = grid_samples(sorter)
    shift = -(-(2**31) // grid) * grid
    near = Repeated(recording, 3 * period)
    first = sorter.sort(near, start_sample=period, stop_sample=2 * period).spikes
    start = shift + period
    assert start > 2**31
    far = sort_in_chunks(
        sorter,
        Repeated(recording, shift + 3 * period, first_row=-shift % period),
        ChunkFolder(tmp_path / "chunks", {}),
        start_sample=start,
        stop_sample=start + period,
    )
    assert far.spikes.sample_index.dtype == np.int64
    np.testing.assert_array_equal(far.spikes.sample_index - start, first.sample_index - period)
    np.testing.assert_array_equal(far.spikes.unit_index, first.unit_index)
    save_sorting(far, tmp_path / "sorting")
    saved = open_saved(tmp_path / "sorting")
    np.testing.assert_array_equal(saved.to_spike_vector()["sample_index"], far.spikes.sample_index)
    unit = saved.unit_ids[0]
    train = far.spikes.sample_index[far.spikes.unit_index == 0]
    np.testing.assert_array_equal(saved.get_unit_spike_train(unit), train)


MEASURE = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
from long_recordings import Repeated
from esort.chunks import ChunkFolder, sort_in_chunks
from esort.saved import save_sorting
from esort.memory import peak_rss_bytes
from esort.recordings import RecordingPath
from esort.sorter import Sorter
checkpoint, path, seconds, folder = sys.argv[1:]
recording = RecordingPath(path=path).open()
endless = Repeated(recording, round(float(seconds) * recording.sampling_frequency))
result = sort_in_chunks(Sorter.load(checkpoint), endless, ChunkFolder(Path(folder) / "chunks", {}))
save_sorting(result, Path(folder) / "sorting")
print(len(result.spikes), peak_rss_bytes(), result.real_time_factor)
"""


def measured(trained, seconds, folder):
    command = [sys.executable, "-c", MEASURE, trained.checkpoint, trained.run["recording"], seconds, folder]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(map(float, done.stdout.split()))


@pytest.mark.slow
def test_ten_hours_need_no_more_memory_than_ten_minutes(trained_pursuit, tmp_path):
    short = measured(trained_pursuit, 600, tmp_path / "short")
    long = measured(trained_pursuit, 36_000, tmp_path / "long")
    assert long[0] > 59 * short[0]
    assert long[1] < 1.1 * short[1] + 50e6
    for seconds, (_, peak, factor) in ((600, short), (36_000, long)):
        print(f"{seconds} s: peak {peak / 1e6:.0f} MB, {factor:.0f} times real time")
