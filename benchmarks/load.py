"""A long day: hours of 128 channels that lie nowhere, sorted in one run with flat memory.

    python benchmarks/load.py                  # 8 hours of recording
    python benchmarks/load.py hours=0.1        # a look

The recording is made while it is read: each second is a piece of noise made beforehand by SpikeInterface's
generator, with templates of SpikeInterface's generator at times drawn for that second alone. So the truth of
any hour is known, no two hours are the same, and nothing is held. The first two minutes are written and
learned (``train.py``, 20 spikes a unit); then one `esort.chunks.sort_in_chunks` sorts all, as ``sort.py``
does. The memory of this process is sampled meanwhile; every hour is counted and scored on its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
from options import read_options  # beside this file
from spikeinterface.core import BaseRecording, BaseRecordingSegment, NumpySorting

from esort.chunks import ChunkFolder, sort_in_chunks
from esort.evaluation import score
from esort.files import write_json
from esort.memory import resident_bytes
from esort.probes import ProbeSpec
from esort.saved import save_sorting
from esort.sorter import Sorter
from esort.style import COLORS, picture

ROOT = Path(__file__).parents[1]
DEFAULTS = {
    "hours": "8",
    "units": "60",
    "probe": "neuropixels128",
    "folder": "data/cache/benchmark",
    "output": "benchmarks/results/load.json",
}
RATE_HZ = 32_000
LEARNED_S = 120
NOISE_UV, GAIN_UV = 10.0, 0.195
NOISE_S = 10
FIRING_HZ = 8.0
REFRACTORY_S = 0.003
SAMPLED_EVERY_S = 2.0


class Endless(BaseRecording):
    """Noise and templates, made when they are read.

    Parameters
    ----------
    probe : probeinterface.Probe
    num_units : int
    seconds : int
    """

    def __init__(self, probe, num_units, seconds):
        positions = probe.contact_positions
        super().__init__(RATE_HZ, list(range(len(positions))), "int16")
        self.segment = _Segment(positions, num_units, seconds)
        self.add_recording_segment(self.segment)
        self.set_channel_gains(GAIN_UV)
        self.set_channel_offsets(0.0)
        self.set_dummy_probe_from_locations(positions)

    def truth(self, start_s, stop_s):
        """Every spike of these seconds."""
        trains = [self.segment.spikes(second) for second in range(start_s, stop_s)]
        samples = np.concatenate([one[0] + RATE_HZ * second for second, one in enumerate(trains, start_s)])
        units = np.concatenate([one[1] for one in trains])
        return sorting_of(samples, units, self.segment.num_units)


class _Segment(BaseRecordingSegment):
    def __init__(self, positions, num_units, seconds):
        from spikeinterface.core.generate import generate_unit_locations
        from spikeinterface.generation import NoiseGeneratorRecording, generate_templates

        super().__init__(sampling_frequency=RATE_HZ)
        places = generate_unit_locations(num_units, positions, minimum_distance=15.0, seed=0)
        templates = generate_templates(positions, places, RATE_HZ, 1.0, 3.0, seed=0)  # (U, T, C)
        rng = np.random.default_rng(0)
        peaks = np.abs(templates).max(axis=(1, 2))
        templates *= (rng.uniform(60, 200, num_units) / peaks)[:, None, None] / GAIN_UV
        self.before = round(RATE_HZ / 1000)
        self.templates = []  # first channel, int16 (T, some channels) of each
        for template in np.rint(templates).astype(np.int16):
            channels = np.flatnonzero(np.abs(template).max(axis=0) >= 0.3 * NOISE_UV / GAIN_UV)
            first, last = channels[0], channels[-1] + 1
            self.templates.append((first, np.ascontiguousarray(template[:, first:last])))
        noise = NoiseGeneratorRecording(
            len(positions), RATE_HZ, [NOISE_S], noise_levels=NOISE_UV / GAIN_UV, seed=0
        ).get_traces()
        self.noise = np.rint(noise).astype(np.int16)
        self.num_units, self.seconds = num_units, seconds
        self.made_s = 0.0
        self.made = 0
        self._count = threading.Lock()
        self.second = lru_cache(maxsize=6)(self._second)

    def get_num_samples(self):
        return self.seconds * RATE_HZ

    def spikes(self, second):
        """Samples within a second and units of its spikes, in order of units; none too near to the next."""
        rng = np.random.default_rng([1, second])
        room = RATE_HZ - round(REFRACTORY_S * RATE_HZ)
        samples, units = [], []
        for unit, count in enumerate(rng.poisson(FIRING_HZ, self.num_units)):
            train = np.sort(rng.integers(self.before, room, count))
            train = train[np.diff(train, prepend=-RATE_HZ) > REFRACTORY_S * RATE_HZ]
            samples.append(train)
            units.append(np.full(len(train), unit))
        return np.concatenate(samples), np.concatenate(units)

    def _second(self, second):
        begin = time.thread_time()
        start = int(np.random.default_rng([2, second]).integers(0, (NOISE_S - 1) * RATE_HZ))
        traces = self.noise[start : start + RATE_HZ].copy()
        for sample, unit in zip(*map(np.ndarray.tolist, self.spikes(second)), strict=True):
            first, template = self.templates[unit]
            place = traces[sample - self.before :, first : first + template.shape[1]][: len(template)]
            place += template[: len(place)]
        with self._count:
            self.made_s += time.thread_time() - begin
            self.made += 1
        return traces

    def get_traces(self, start_frame, end_frame, channel_indices):
        parts = []
        for second in range(start_frame // RATE_HZ, -(-end_frame // RATE_HZ)):
            inside = slice(max(0, start_frame - second * RATE_HZ), end_frame - second * RATE_HZ)
            parts.append(self.second(second)[inside])
        traces = np.concatenate(parts) if len(parts) != 1 else parts[0].copy()
        return traces if channel_indices is None else traces[:, channel_indices]


def sorting_of(samples, units, num_units):
    order = np.argsort(samples, kind="stable")
    return NumpySorting.from_samples_and_labels(
        [np.asarray(samples)[order]], [np.asarray(units)[order]], RATE_HZ, list(range(num_units))
    )


def learn(recording, folder):
    """Learn the units from the first minutes; the checkpoint."""
    from probeinterface import write_probeinterface

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with open(folder / "learned.raw", "wb") as file:
        for second in range(LEARNED_S):
            file.write(recording.segment.second(second).tobytes())
    write_probeinterface(folder / "probe.json", recording.get_probe())
    recording.truth(0, LEARNED_S).save(folder=folder / "truth")
    overrides = [
        *("recording=path", f"recording.path={folder / 'learned.raw'}", "recording.dtype=int16"),
        *(f"recording.probe={folder / 'probe.json'}", f"recording.sampling_frequency={RATE_HZ}"),
        *(f"recording.num_channels={recording.get_num_channels()}", f"recording.gain_to_uv={GAIN_UV}"),
        *(f"recording.ground_truth={folder / 'truth'}", "model=pursuit", "training=scratch"),
        *("label_budget=per_unit", "labels=20", "report=false", f"hydra.run.dir={folder / 'run'}"),
    ]
    subprocess.run([sys.executable, "train.py", *overrides], cwd=ROOT, check=True)
    return folder / "run" / "model.safetensors"


class Watch:
    """Samples the memory of this process in a thread."""

    def __init__(self):
        self.rows = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self):
        self._begin = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _look(self):
        over = False
        while not over:
            over = self._over.wait(SAMPLED_EVERY_S if self.rows else 0)
            self.rows.append((time.perf_counter() - self._begin, resident_bytes()))


def hours_of(recording, spikes, num_units, seconds):
    """Spikes and accuracy of every hour; what was learned from is not scored."""
    rows = []
    for number, start in enumerate(range(0, seconds, 3600)):
        stop = min(start + 3600, seconds)
        first = LEARNED_S if start == 0 else start
        edges = np.searchsorted(spikes.sample_index, [first * RATE_HZ, stop * RATE_HZ])
        found = sorting_of(spikes.sample_index[slice(*edges)], spikes.unit_index[slice(*edges)], num_units)
        truth = recording.truth(first, stop)
        scores = score(truth, found, start_sample=first * RATE_HZ, stop_sample=stop * RATE_HZ)
        rows.append(
            {
                "hour": number,
                "scored_s": [first, stop],
                "true_spikes": int(truth.count_total_num_spikes()),
                "found_spikes": int(found.count_total_num_spikes()),
                "pooled_accuracy": scores.pooled_accuracy,
                "mean_accuracy": scores.mean_accuracy,
            }
        )
        print(
            f"hour {number}: {rows[-1]['found_spikes']} spikes of {rows[-1]['true_spikes']}, "
            f"pooled accuracy {scores.pooled_accuracy:.4f}",
            flush=True,
        )
    return rows


def draw(memory, hours, path):
    with picture(path, width_in=9, height_in=3.4) as figure:
        left, right = figure.subplots(1, 2)
        times, sizes = np.array(memory).T
        left.plot(times / 60, sizes / 1e9, color=COLORS["blue"])
        left.set_ylim(0)
        left.set_xlabel("time of sorting (min)")
        left.set_ylabel("resident memory (GB)")
        right.plot([row["hour"] + 1 for row in hours], [row["pooled_accuracy"] for row in hours], "o-")
        right.set_ylim(0, 1.02)
        right.set_xlabel("hour of the recording")
        right.set_ylabel("pooled accuracy")


def main(arguments):
    options = read_options(arguments, DEFAULTS)
    seconds, folder = round(3600 * float(options["hours"])), ROOT / options["folder"] / "load"
    recording = Endless(ProbeSpec(name=options["probe"]).build(), int(options["units"]), seconds)
    sorter = Sorter.load(learn(recording, folder))
    # Names of the truth are numbers from 0 on, so that a unit's place in the card is not its number.
    names = [int(name) for name in sorter.card.unit_ids]
    sorter.sort(recording, start_sample=0, stop_sample=5 * RATE_HZ)  # loads what is compiled
    recording.segment.made, recording.segment.made_s = 0, 0.0
    with Watch() as watch:
        begin, processor = time.perf_counter(), time.process_time()
        result = sort_in_chunks(sorter, recording, ChunkFolder(folder / "chunks", {}))
        save_sorting(result, folder / "sorting")
        wall, processor = time.perf_counter() - begin, time.process_time() - processor
    spikes = result.spikes
    memory = [(round(moment, 2), size) for moment, size in watch.rows]
    hours = hours_of(
        recording,
        type(spikes)(spikes.sample_index, np.array(names)[spikes.unit_index], spikes.probability),
        int(options["units"]),
        seconds,
    )
    # Warm after a tenth of the time: what is allocated once has been.
    warm = [(moment, size) for moment, size in memory if moment >= 0.1 * wall] or memory[-1:]
    slope = np.polyfit(*np.array(warm).T, 1)[0] if len(warm) > 2 else 0.0
    content = {
        "command": "python benchmarks/load.py " + " ".join(f"{key}={options[key]}" for key in DEFAULTS),
        "cores": os.cpu_count(),
        "channels": recording.get_num_channels(),
        "num_units": int(options["units"]),
        "recording_s": seconds,
        "sorting_s": wall,
        "processor_s": processor,
        "real_time_factor": seconds / wall,
        "generating_share_of_processor_time": recording.segment.made_s / processor,
        "seconds_generated": recording.segment.made,
        "num_spikes": len(spikes),
        "resident_first_gb": warm[0][1] / 1e9,
        "resident_last_gb": warm[-1][1] / 1e9,
        "resident_peak_gb": max(size for _, size in memory) / 1e9,
        "growth_mb_per_recorded_hour": slope * wall / (seconds / 3600) / 1e6,
        "hours": hours,
        "memory": memory[:: max(1, len(memory) // 1000)],
    }
    output = ROOT / options["output"]
    write_json(output, content)
    draw(memory, hours, output.with_suffix(".png"))
    shutil.rmtree(folder / "chunks", ignore_errors=True)
    print(
        f"{seconds} s in {wall:.0f} s: {seconds / wall:.1f} x real time; making the recording took "
        f"{content['generating_share_of_processor_time']:.0%} of the processor time; memory "
        f"{content['resident_first_gb']:.2f} GB when warm, {content['resident_last_gb']:.2f} GB at the end, "
        f"peak {content['resident_peak_gb']:.2f} GB; "
        f"{content['growth_mb_per_recorded_hour']:+.1f} MB per hour"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
