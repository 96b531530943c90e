"""Delay of streaming beyond the algorithmic latency: 10 ms blocks of 128 channels, played in real time.

    python benchmarks/latency.py                     # half a minute, after a training of a minute
    python benchmarks/latency.py seconds=10 block_ms=5 paced=false

A block is due when its last sample has been recorded; its delay is the time from then until `push` has
returned the spikes that it made certain. So the 99th percentile over blocks is what a closed loop waits for
longer than it must. Beside it the time of the processor that `push` takes, which other processes do not
change. A checkpoint is learned from the simulated recording first, and found again later.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from options import read_options  # beside this file
from speed import ROOT, learn

from esort.files import write_json
from esort.simulation import Simulation
from esort.stream import StreamingSorter

DEFAULTS = {
    "probe": "neuropixels128",
    "seconds": "30",
    "block_ms": "10",
    "paced": "true",  # false: block after block, as fast as they are sorted
    "folder": "data/cache/benchmark",
    "output": "benchmarks/results/latency.json",
}


def play(stream, recording, *, seconds, block_ms, paced):
    """Push block after block; return delays and times of the processor in ms, and the number of spikes."""
    rate = recording.sampling_frequency
    length = round(block_ms * rate / 1000)
    num_samples = min(round(seconds * rate), recording.get_num_samples())
    traces = recording.get_traces(end_frame=num_samples)
    for start in range(0, min(round(rate), num_samples), length):  # loads what is compiled
        stream.push(traces[start : start + length])
    stream.finish()
    gc.collect()
    gc.freeze()  # what the imports left is no garbage
    delays_ms, processor_ms, num_spikes, begin = [], [], 0, time.perf_counter()
    for start in range(0, num_samples, length):
        block = traces[start : start + length].copy()  # as it comes from a socket
        due = time.perf_counter()
        if paced:
            due = begin + (start + len(block)) / rate
            time.sleep(max(0.0, due - time.perf_counter()))
        busy = time.thread_time()
        num_spikes += len(stream.push(block))
        processor_ms.append((time.thread_time() - busy) * 1000)
        delays_ms.append((time.perf_counter() - due) * 1000)
    return np.array(delays_ms), np.array(processor_ms), num_spikes + len(stream.finish())


def percentiles(values):
    p50, p99, longest = (float(value) for value in np.percentile(values, [50, 99, 100]))
    return {"p50": p50, "p99": p99, "max": longest, "mean": float(values.mean())}


def main(arguments):
    options = read_options(arguments, DEFAULTS)
    run_folder = learn(options["probe"], ROOT / options["folder"])
    facts = json.loads((run_folder / "run.json").read_text())
    recording = Simulation.load(ROOT / facts["recording"]).recording
    stream = StreamingSorter.like(run_folder / "model.safetensors", recording)
    block_ms = float(options["block_ms"])
    delays_ms, processor_ms, num_spikes = play(
        stream,
        recording,
        seconds=float(options["seconds"]),
        block_ms=block_ms,
        paced=options["paced"] == "true",
    )
    delay, processor = percentiles(delays_ms), percentiles(processor_ms)
    print(stream.latency)
    print(
        f"{recording.get_num_channels()} channels, blocks of {block_ms:g} ms, {len(delays_ms)} blocks, "
        f"{num_spikes} spikes: beyond that p50 {delay['p50']:.2f} ms, p99 {delay['p99']:.2f} ms, "
        f"max {delay['max']:.2f} ms; of the processor p50 {processor['p50']:.2f} ms, "
        f"p99 {processor['p99']:.2f} ms"
    )
    content = {
        "command": "python benchmarks/latency.py " + " ".join(f"{key}={options[key]}" for key in DEFAULTS),
        "cores": os.cpu_count(),
        "num_units": facts["num_units"],
        "num_spikes": num_spikes,
        "algorithmic_ms": stream.latency.total_ms,
        "delay_ms": delay,
        "processor_ms": processor,
    }
    write_json(ROOT / Path(options["output"]), content)


if __name__ == "__main__":
    main(sys.argv[1:])
