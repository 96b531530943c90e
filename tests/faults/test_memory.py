"""The peak is predicted before long work, and a limit is kept without changing a spike."""

import json
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
import spikeinterface
from entries import ROOT, run
from long_recordings import Repeated

from esort.memory import ADDRESS_SPACE_BYTES, MemoryLimit, plan_memory, resident_bytes
from esort.sorter import Sorter


@pytest.fixture(scope="module")
def sorter(trained_pursuit):
    return Sorter.load(trained_pursuit.checkpoint)


@pytest.fixture(scope="module")
def recording(trained_pursuit):
    return trained_pursuit.subject().recording


def plan(sorter, recording, max_gb=None, **options):
    options = {"num_workers": 4, "chunk_s": 300.0, "report": True} | options
    return plan_memory(sorter, recording, MemoryLimit(max_gb=max_gb), **options)


def test_without_a_limit_nothing_is_given_up(sorter, recording):
    found = plan(sorter, recording)
    assert (found.num_workers, found.chunk_s, found.report) == (4, 300.0, True)
    assert found.stretch_s == 20.0
    assert found.peak_bytes > resident_bytes()
    assert f"about {found.peak_bytes / 1e9:.1f} GB at the peak (4 workers, chunks of 300 s)" == str(found)


def test_a_limit_takes_what_costs_least_first(sorter, recording):
    long = Repeated(recording, 10**9)
    free = plan(sorter, long)
    before = free
    kept = []
    for max_gb in np.arange(free.peak_bytes / 1e9, 0.1, -0.02):
        try:
            found = plan(sorter, long, float(max_gb))
        except ValueError as error:
            assert "is too little: 4 channels, 4 units need at least" in str(error)  # noqa: PT017
            break
        assert found.peak_bytes <= max_gb * 1e9
        assert found.chunk_s <= before.chunk_s
        assert found.num_workers <= before.num_workers
        before = found
        kept.append(found)
    assert kept
    assert kept[-1].chunk_s == 10.0
    assert not kept[-1].report


def test_more_workers_and_a_report_take_more(sorter, recording):
    base = plan(sorter, recording, report=False).peak_bytes
    assert plan(sorter, recording, report=False, num_workers=200).peak_bytes > base
    assert plan(sorter, recording, report=True).peak_bytes > base


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "2", True])
def test_a_limit_is_a_number_above_0(value):
    with pytest.raises(ValueError, match="memory.max_gb must be a number above 0, got"):
        MemoryLimit(max_gb=value)


def sort_overrides(trained, output, *more):
    return (
        f"checkpoint={trained.checkpoint}",
        f"recording.path={trained.run['recording']}",
        f"output={output}",
        *more,
    )


def test_too_little_is_refused_before_long_work(trained_pursuit, tmp_path):
    ended = run("sort.py", *sort_overrides(trained_pursuit, tmp_path / "out", "memory.max_gb=0.05"))
    assert "memory.max_gb=0.05 is too little: 4 channels, 4 units need at least" in ended.error_line()
    assert not (tmp_path / "out" / "sorting").exists()


@pytest.mark.slow
def test_a_run_in_an_address_space_of_the_limit_ends_with_the_same_spikes(trained_pursuit, tmp_path):
    max_gb = 1.0
    allowed = round(max_gb * 1e9) + ADDRESS_SPACE_BYTES

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))

    overrides = sort_overrides(trained_pursuit, tmp_path / "out", f"memory.max_gb={max_gb}")
    held = np.ones(130_000_000)  # memory of this process does not count as its
    done = subprocess.run(
        [sys.executable, "sort.py", *map(str, overrides)],
        cwd=ROOT,
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        preexec_fn=limit,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert held.nbytes > max_gb * 1e9
    assert "memory: about" in done.stdout
    found = json.loads((tmp_path / "out" / "run.json").read_text())
    assert found["peak_rss_bytes"] < max_gb * 1e9
    assert found["peak_rss_bytes"] < found["predicted_peak_bytes"] < max_gb * 1e9
    vector = spikeinterface.load(tmp_path / "out" / "sorting").to_spike_vector()
    wanted = Sorter.load(trained_pursuit.checkpoint).sort(trained_pursuit.subject().recording).spikes
    np.testing.assert_array_equal(vector["sample_index"], wanted.sample_index)
    np.testing.assert_array_equal(vector["unit_index"], wanted.unit_index)
