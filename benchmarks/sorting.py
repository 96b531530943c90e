"""Speed and memory of ``sort.py`` as a whole process, on a short and on a long recording.

    python benchmarks/sorting.py                        # 128 channels, 60 s and 600 s, 3 runs each
    python benchmarks/sorting.py probe=neuronexus32 repeats=10 runs=1

A simulated recording is written as one int16 binary file, once and `repeats` times over; a checkpoint is
learned from it first (found again in `folder`, so that a second call only sorts). Times are those of the
whole process: start-up, reading, band-pass and common reference, network, post-processing, writing, pictures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from esort.files import write_json
from esort.simulation import Simulation

ROOT = Path(__file__).parents[1]
DEFAULTS = {
    "probe": "neuropixels128",
    "repeats": "10",
    "runs": "3",
    "folder": "data/cache/benchmark",
    "output": "benchmarks/results/sorting.json",
}


def learn(probe, folder):
    """Learn the units of a simulated recording; return the run's folder."""
    run_folder = folder / probe
    if not (run_folder / "model.safetensors").is_file():
        overrides = [f"probe={probe}", "label_budget=per_unit", "labels=10", f"hydra.run.dir={run_folder}"]
        subprocess.run([sys.executable, "train.py", *overrides], cwd=ROOT, check=True)
    return run_folder


def binary_file(simulation, path, repeats):
    """Write the recording `repeats` times over as int16, and its probe beside it."""
    from probeinterface import write_probeinterface

    if not path.is_file():
        partial = path.with_suffix(".partial")
        with open(partial, "wb") as file:
            for _ in range(repeats):
                for start in range(0, simulation.recording.get_num_samples(), 320_000):
                    stop = min(start + 320_000, simulation.recording.get_num_samples())
                    file.write(simulation.recording.get_traces(start_frame=start, end_frame=stop).tobytes())
        os.replace(partial, path)
    write_probeinterface(path.with_suffix(".json"), simulation.recording.get_probe())


def sort(path, model, output, simulation):
    """Run sort.py; return wall seconds, peak memory of the process, and its run.json."""
    overrides = {
        "checkpoint": model,
        "recording.path": path,
        "recording.probe": path.with_suffix(".json"),
        "recording.sampling_frequency": simulation.recording.sampling_frequency,
        "recording.num_channels": simulation.recording.get_num_channels(),
        "recording.dtype": "int16",
        "recording.gain_to_uv": float(simulation.recording.get_channel_gains()[0]),
        "output": output,
        "overwrite": "true",
    }
    command = [sys.executable, "sort.py", *(f"{name}={value}" for name, value in overrides.items())]
    begin = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    return seconds, usage.ru_maxrss * 1024, json.loads((output / "run.json").read_text())


def main(arguments):
    options = DEFAULTS | dict(argument.split("=", 1) for argument in arguments)
    if set(options) != set(DEFAULTS):
        sys.exit(f"expected {', '.join(DEFAULTS)}, got {arguments}")
    folder = ROOT / options["folder"]
    run_folder = learn(options["probe"], folder)
    facts = json.loads((run_folder / "run.json").read_text())
    simulation = Simulation.load(ROOT / facts["recording"])
    duration_s = simulation.recording.get_total_duration()
    rows = []
    for repeats in (1, int(options["repeats"])):
        path = folder / f"{options['probe']}-{repeats}.raw"
        binary_file(simulation, path, repeats)
        runs = [
            sort(path, run_folder / "model.safetensors", folder / "sorted", simulation)
            for _ in range(int(options["runs"]))
        ]
        seconds = float(np.median([run[0] for run in runs]))
        rows.append(
            {
                "recording_s": duration_s * repeats,
                "whole_process_s": seconds,
                "real_time_factor": duration_s * repeats / seconds,
                "peak_rss_gb": float(np.median([run[1] for run in runs])) / 1e9,
                "stages_s": runs[0][2]["seconds"],
                "num_spikes": runs[0][2]["num_spikes"],
            }
        )
        print(
            f"{options['probe']}, {duration_s * repeats:.0f} s: {seconds:.1f} s for the whole process, "
            f"{rows[-1]['real_time_factor']:.2f} times real time, peak {rows[-1]['peak_rss_gb']:.2f} GB",
            flush=True,
        )
    command = "python benchmarks/sorting.py " + " ".join(f"{key}={options[key]}" for key in DEFAULTS)
    content = {"command": command, "cores": os.cpu_count(), "num_units": facts["num_units"], "rows": rows}
    write_json(ROOT / options["output"], content)


if __name__ == "__main__":
    main(sys.argv[1:])
