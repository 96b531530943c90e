"""Cost over channels and over length: a sorted probe put beside itself, 32 to 1536 channels.

    python benchmarks/scaling.py                                   # about 10 minutes
    python benchmarks/scaling.py channels=32,128 lengths_s=30,60 seconds=10

A checkpoint of 32 channels is learned once. `channels` / 32 copies of it, side by side on one long probe, are
one checkpoint of constant density of units, and as many copies of its recording are one recording. Each is
sorted from memory by `esort.sorter`, in a process of its own. Cost is wall time on all cores per second of
recording; start-up and the tables of the units are not in it. The slopes of the logarithms say how the cost
grows: 1 is linear.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from options import read_options  # beside this file
from speed import ROOT, learn
from spikeinterface.core import BaseRecording, BaseRecordingSegment

from esort.files import write_json
from esort.memory import peak_rss_bytes
from esort.pursuit.scorer import PursuitScorer
from esort.simulation import Simulation
from esort.sorter import Sorter
from esort.style import COLORS, picture

DEFAULTS = {
    "channels": "32,64,128,256,384,768,1536",
    "seconds": "20",
    "lengths_s": "60,120,240,480",
    "folder": "data/cache/benchmark",
    "output": "benchmarks/results/scaling.json",
}
APART_UM = 25.0  # from one copy to the next, as on one long probe; no unit is seen by two


class Tiled(BaseRecording):
    """Copies of a recording in memory, side by side, and again and again."""

    def __init__(self, recording, copies, num_samples):
        ids = list(range(copies * recording.get_num_channels()))
        super().__init__(recording.sampling_frequency, ids, recording.dtype)
        self.add_recording_segment(_Segment(recording, copies, num_samples))
        self.set_channel_gains(np.tile(recording.get_channel_gains(), copies))
        self.set_channel_offsets(np.tile(recording.get_channel_offsets(), copies))
        self.set_dummy_probe_from_locations(positions_of(recording.get_channel_locations(), copies))


class _Segment(BaseRecordingSegment):
    def __init__(self, recording, copies, num_samples):
        super().__init__(sampling_frequency=recording.sampling_frequency)
        self.traces, self.copies, self.num_samples = recording.get_traces(), copies, num_samples

    def get_num_samples(self):
        return self.num_samples

    def get_traces(self, start_frame, end_frame, channel_indices):
        rows = np.arange(start_frame, end_frame) % len(self.traces)
        traces = np.tile(self.traces[rows], (1, self.copies))
        return traces if channel_indices is None else traces[:, channel_indices]


def positions_of(positions_um, copies):
    positions_um = np.asarray(positions_um, dtype=float)
    pitch_um = np.ptp(positions_um[:, 1]) + APART_UM
    return np.concatenate([positions_um + np.array([0.0, copy * pitch_um]) for copy in range(copies)])


def tiled_sorter(sorter, copies):
    """The same units once more on each copy of the probe."""
    scorer, card = sorter.scorer, sorter.card
    channels, units = scorer.num_channels, scorer.num_units
    sizes = replace(scorer.sizes, num_channels=copies * channels, num_units=copies * units)
    arrays = scorer.arrays()
    for name in ("footprint_channels", "head_channels"):
        arrays[name] = np.concatenate([arrays[name] + copy * channels for copy in range(copies)])
    for name in ("footprints", "heads"):
        arrays[name] = np.concatenate([arrays[name]] * copies)
    arrays["whitening"] = np.kron(np.eye(copies, dtype=np.float32), arrays["whitening"])
    arrays["positions"] = positions_of(arrays["positions"], copies)
    card = replace(
        card,
        network_parameters=sizes.to_dict(),
        contact_positions_um=tuple(map(tuple, positions_of(card.contact_positions_um, copies))),
        channel_ids=tuple(range(copies * channels)),
        unit_ids=tuple(f"{copy}-{unit}" for copy in range(copies) for unit in card.unit_ids),
        noise_level_uv=tuple(card.noise_level_uv) * copies,
        thresholds=tuple(card.thresholds) * copies,
    )
    return Sorter(PursuitScorer(sizes, arrays), card, sorter.tables)


def measure(run_folder, channels, seconds):
    """Cost of one size, in a process of its own: its peak of memory is its own, too."""
    command = [sys.executable, __file__, "child", str(run_folder), str(channels), str(seconds)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    row = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{row['channels']:5} channels {row['num_units']:5} units {seconds:5g} s: "
        f"{1 / row['cost']:7.1f} x real time, {1000 * row['cost'] / row['channels']:.3f} ms per second and "
        f"channel, {row['num_spikes']} spikes, made ready in {row['ready_s']:.1f} s, "
        f"peak {row['peak_rss_gb']:.2f} GB",
        flush=True,
    )
    return row


def child(run_folder, channels, seconds):
    """Sort one size; print what it took."""
    facts = json.loads((Path(run_folder) / "run.json").read_text())
    recording = Simulation.load(ROOT / facts["recording"]).recording
    sorter = Sorter.load(Path(run_folder) / "model.safetensors")
    copies = int(channels) // sorter.card.num_channels
    if copies > 1:
        sorter = tiled_sorter(sorter, copies)
    tiled = Tiled(recording, copies, round(float(seconds) * recording.sampling_frequency))
    begin = time.perf_counter()
    sorter.make_ready()
    # Loads what is compiled, and the pages of the recording.
    sorter.sort(tiled, stop_sample=round(2 * recording.sampling_frequency))
    ready_s = time.perf_counter() - begin
    result = sorter.sort(tiled)
    row = {
        "channels": sorter.card.num_channels,
        "num_units": sorter.card.num_units,
        "recording_s": float(seconds),
        "num_spikes": len(result.spikes),
        "cost": result.seconds["total"] / float(seconds),
        "stages_s": result.seconds,
        "ready_s": ready_s,
        "peak_rss_gb": peak_rss_bytes() / 1e9,
    }
    print(json.dumps(row))


def slope(x, y):
    """Power with which y grows with x, by least squares over the logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0]) if len(x) > 1 else float("nan")


def draw(over_channels, over_length, path):
    with picture(path, width_in=9, height_in=3.6) as figure:
        left, right = figure.subplots(1, 2)
        x = np.array([row["channels"] for row in over_channels])
        y = np.array([row["cost"] for row in over_channels])
        left.loglog(x, y, "o-", color=COLORS["blue"])
        left.loglog(x, y[0] * x / x[0], ":", color="#8A9099", label="linear")
        left.set_xlabel("channels, units at constant density")
        left.set_ylabel("seconds per second of recording")
        left.legend()
        right.plot(
            [row["recording_s"] for row in over_length],
            [row["cost"] * row["recording_s"] for row in over_length],
            "o-",
            color=COLORS["blue"],
        )
        right.set_xlim(0)
        right.set_ylim(0)
        right.set_xlabel("recording (s)")
        right.set_ylabel("sorting (s), 32 channels")


def main(arguments):
    options = read_options(arguments, DEFAULTS)
    run_folder = learn("neuronexus32", ROOT / options["folder"])
    seconds = float(options["seconds"])
    over_channels = [measure(run_folder, int(number), seconds) for number in options["channels"].split(",")]
    over_length = [measure(run_folder, 32, float(length)) for length in options["lengths_s"].split(",")]
    of_channels = slope(
        [row["channels"] for row in over_channels],
        [row["cost"] for row in over_channels],
    )
    of_length = slope(
        [row["recording_s"] for row in over_length],
        [row["cost"] * row["recording_s"] for row in over_length],
    )
    print(f"cost grows with the channels to the power {of_channels:.2f}, with the length to {of_length:.2f}")
    output = ROOT / Path(options["output"])
    draw(over_channels, over_length, output.with_suffix(".png"))
    content = {
        "command": "python benchmarks/scaling.py " + " ".join(f"{key}={options[key]}" for key in DEFAULTS),
        "cores": os.cpu_count(),
        "power_of_channels": of_channels,
        "power_of_length": of_length,
        "over_channels": over_channels,
        "over_length": over_length,
    }
    write_json(output, content)


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(*sys.argv[2:])
    else:
        main(sys.argv[1:])
