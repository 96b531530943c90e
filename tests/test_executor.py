"""Who sorts the chunks: this process; what a cluster asks for is refused in one line before any work."""

import sys

import numpy as np
import pytest
from entries import run
from spikeinterface.core import NumpyRecording

from esort.executor import ThreadExecutor
from esort.ray_executor import RayExecutor
from esort.sorter import Sorter


@pytest.fixture(scope="module")
def sorter(trained_pursuit):
    return Sorter.load(trained_pursuit.checkpoint)


def test_threads_sort_each_stretch_and_say_how_far_they_are(sorter, trained_pursuit):
    recording = trained_pursuit.subject().recording
    stretches = [(64_000, 96_000), (0, 33_333)]
    blocks = []
    parts = list(ThreadExecutor().sort(sorter, recording, stretches, num_workers=1, advance=blocks.append))
    assert [start for start, _ in parts] == [64_000, 0]
    assert sum(blocks) >= 2 + 3  # and those of the margins
    for (start, stop), (_, result) in zip(stretches, parts, strict=True):
        direct = sorter.sort(recording, start_sample=start, stop_sample=stop)
        assert len(direct.spikes) > 10
        np.testing.assert_array_equal(result.spikes.sample_index, direct.spikes.sample_index)
        np.testing.assert_array_equal(result.spikes.unit_index, direct.spikes.unit_index)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"chunk_s": 0.2}, "executor.chunk_s must be a number of seconds of at least 0.5, got 0.2"),
        ({"chunk_s": float("nan")}, "executor.chunk_s must be a number of seconds of at least 0.5, got nan"),
        (
            {"patience_s": "long"},
            "executor.patience_s must be a number of seconds of at least 0.5, got 'long'",
        ),
        ({"attempts": 0}, "executor.attempts must be a whole number of at least 1, got 0"),
        ({"attempts": True}, "executor.attempts must be a whole number of at least 1, got True"),
        (
            {"address": "head"},
            "executor.address must be host:port, ray://host:port, auto or local, got 'head'",
        ),
        ({"address": ""}, "executor.address must be host:port, ray://host:port, auto or local, got ''"),
    ],
)
def test_wrong_values_are_named(wrong, line):
    pytest.importorskip("ray")
    with pytest.raises(ValueError) as error:
        RayExecutor(**wrong)
    assert str(error.value) == line


def test_without_ray_one_line_names_the_command(trained_pursuit, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    line = run(
        "sort.py",
        "executor=ray",
        f"checkpoint={trained_pursuit.checkpoint}",
        f"recording.path={trained_pursuit.run['recording']}",
        f"output={tmp_path / 'out'}",
    ).error_line()
    assert line.endswith("executor=ray needs Ray, which is not installed: pip install esort[ray]")


def test_a_recording_in_memory_is_refused(sorter):
    pytest.importorskip("ray")
    recording = NumpyRecording([np.zeros((32_000, 4), dtype=np.int16)], 32_000.0)
    with pytest.raises(ValueError) as error:
        next(RayExecutor().sort(sorter, recording, [(0, 32_000)]))
    assert str(error.value) == (
        "executor=ray needs a recording that lies in files, got NumpyRecording in memory"
    )
