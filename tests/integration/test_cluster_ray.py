"""A Ray cluster of two nodes on this machine: the same spikes, also when one of them dies."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from entries import ROOT, run, run_process
from ray_cluster import ray_cluster

pytest.importorskip("ray", reason="Ray is not installed: pip install esort[ray]")
pytestmark = pytest.mark.slow

REPEATS = 12


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one core; a test may take the second away."""
    with ray_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def recording(trained_pursuit, tmp_path_factory):
    """The small recording twelve times over, in a file: two minutes at a tetrode."""
    folder = tmp_path_factory.mktemp("long") / "recording"
    short = trained_pursuit.subject().recording
    from spikeinterface.core import concatenate_recordings

    concatenate_recordings([short] * REPEATS).save(folder=folder, verbose=False)
    return folder


@pytest.fixture(scope="module")
def expected(trained_pursuit, recording, tmp_path_factory):
    """What the threads of this process find."""
    output = tmp_path_factory.mktemp("threads") / "out"
    ended = run("sort.py", *overrides(trained_pursuit, recording, output))
    assert ended.code == 0, ended.err
    assert json.loads((output / "run.json").read_text())["executor"] == "threads"
    return output


def overrides(trained_pursuit, recording, output):
    return (
        f"checkpoint={trained_pursuit.checkpoint}",
        f"recording.path={recording}",
        f"output={output}",
        "report=false",
        "recording.bad_channels=[3]",  # marks of the recording reach the nodes
    )


def on_ray(cluster, chunk_s=2):
    return ("executor=ray", f"executor.address={cluster.address}", f"executor.chunk_s={chunk_s}")


def sorting(cluster, trained_pursuit, recording, output):
    """sort.py on the cluster, under way."""
    command = [sys.executable, "sort.py", *overrides(trained_pursuit, recording, output), *on_ray(cluster)]
    return subprocess.Popen(
        list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def assert_same(found, wanted):
    for name in ("spikes.npy", "probability.npy"):
        one, other = (np.load(output / "sorting" / name) for output in (found, wanted))
        assert len(other) > 100
        np.testing.assert_array_equal(one, other)


def test_a_node_that_cannot_open_the_recording_is_named(cluster, trained_pursuit, recording, tmp_path):
    moved = tmp_path / "recording"
    shutil.copytree(recording, moved)
    output = tmp_path / "out"
    with sorting(cluster, trained_pursuit, moved, output) as process:
        assert _wait_for_chunks(output / "chunks", 1, process) > 0
        moved.rename(tmp_path / "moved")  # as when a share goes away
        _, err = process.communicate(timeout=300)
    assert process.returncode == 1, err
    assert re.fullmatch(
        r"error: node \S+ cannot open the recording \(.+\): it must lie where every node sees it "
        r"under the same path\n",
        err,
    )
    assert list((output / "chunks").glob("*.npz"))


def test_no_cluster_at_the_address(trained_pursuit, recording, tmp_path):
    line = run_process(
        "sort.py",
        *overrides(trained_pursuit, recording, tmp_path / "out"),
        "executor=ray",
        "executor.address=127.0.0.1:1",
    ).error_line()
    assert line == "no Ray cluster at 127.0.0.1:1: Connection refused"


def test_no_node_is_large_enough(cluster, trained_pursuit, recording, tmp_path):
    line = run_process(
        "sort.py",
        *overrides(trained_pursuit, recording, tmp_path / "out"),
        *on_ray(cluster),
        "executor.patience_s=3",
        "num_workers=64",
    ).error_line()
    assert line == (
        "no node of the Ray cluster with 64 or more cores for 3 s, 60 chunks are left; "
        "the finished chunks are kept: go on with resume=true"
    )


def test_a_node_dies_and_the_sorting_is_the_same(cluster, trained_pursuit, recording, expected, tmp_path):
    output = tmp_path / "out"
    with sorting(cluster, trained_pursuit, recording, output) as process:
        left = _wait_for_chunks(output / "chunks", 5, process)
        cluster.remove_second()
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert 0 < left < REPEATS * 5, "the node died before or after the sorting"
    assert_same(output, expected)
    content = json.loads((output / "run.json").read_text())
    assert content["executor"] == "ray"
    assert "times real time on a Ray cluster" in out
    assert "error" not in err


def _wait_for_chunks(folder: Path, count: int, process: subprocess.Popen) -> int:
    """Wait for so many finished chunks; return how many are left to do."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        done = len(list(folder.glob("*.npz")))
        if done >= count:
            return REPEATS * 5 - done
        time.sleep(0.01)
    return 0
