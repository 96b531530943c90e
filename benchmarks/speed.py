"""Us and other sorters on the same file, whole process each; and the two floors under all of them.

    python benchmarks/speed.py                               # 128 channels, 300 s, all that are installed
    python benchmarks/speed.py channels=384 peers=none       # a few minutes
    python benchmarks/speed.py peers=kilosort4 seconds=60

A simulated recording is written as one int16 file, as often over as it takes; a checkpoint is learned from it
first (found again in `folder`). Then every sorter runs `runs` times, all of them once before any of them
again, as a process of its own that opens the file, sorts and has its spikes; ours is ``sort.py``, which also
writes and draws them. The floors, in the same run: SpikeInterface reads the file and band-passes it, and
nothing else; the machine multiplies large float32 matrices. Kilosort4 without a GPU runs on 32 channels for
`piece_seconds`, and so do we beside it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from options import read_options  # beside this file

from esort.files import write_json
from esort.simulation import Simulation

ROOT = Path(__file__).parents[1]
PEERS = ("lupin", "tridesclous2", "spykingcircus2", "mountainsort5", "kilosort4")
ON_PIECE = ("kilosort4",)
PROBES = {"32": "neuronexus32", "128": "neuropixels128", "384": "neuropixels"}
DEFAULTS = {
    "channels": "128",
    "seconds": "300",
    "piece_seconds": "60",
    "peers": ",".join(PEERS),
    "runs": "3",
    "folder": "data/cache/benchmark",
    "output": "benchmarks/results/speed.json",
}
LABELS = ["model=pursuit", "training=scratch", "label_budget=per_unit", "labels=10"]
STARTUP_S = 1.0
# A process begins with the peak of the one that starts it: this one is small, and not the benchmark.
LAUNCHER = """
import os, sys, time
begin = time.perf_counter()
quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
process = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=quiet)
_, status, usage = os.wait4(process, 0)
wall = time.perf_counter() - begin
print(wall, usage.ru_maxrss, usage.ru_utime + usage.ru_stime, os.waitstatus_to_exitcode(status))
"""


def learn(probe, folder):
    """Learn the units of a simulated recording; return the run's folder."""
    from esort.sorter import Sorter

    run_folder = folder / f"{probe}-pursuit"
    try:
        Sorter.load(run_folder / "model.safetensors")
    except (FileNotFoundError, ValueError):  # none yet, or other code's
        shutil.rmtree(run_folder, ignore_errors=True)
        overrides = [f"probe={probe}", *LABELS, f"hydra.run.dir={run_folder}"]
        subprocess.run([sys.executable, "train.py", *overrides], cwd=ROOT, check=True)
    return run_folder


def binary_file(simulation, path, seconds):
    """Write so many seconds as int16, the recording as often over as it takes, and its probe beside it."""
    from probeinterface import write_probeinterface

    recording = simulation.recording
    missing = round(seconds * recording.sampling_frequency)
    if not path.is_file():
        partial = path.with_suffix(".partial")
        with open(partial, "wb") as file:
            while missing > 0:
                for start in range(0, min(missing, recording.get_num_samples()), 320_000):
                    stop = min(start + 320_000, recording.get_num_samples(), start + missing)
                    file.write(recording.get_traces(start_frame=start, end_frame=stop).tobytes())
                    missing -= stop - start
        os.replace(partial, path)
    write_probeinterface(path.with_suffix(".json"), recording.get_probe())


def learned_file(probe, seconds, folder):
    """The run that learned a probe's units, and a file of its recording with what `open_file` must know."""
    run_folder = learn(probe, folder)
    run = json.loads((run_folder / "run.json").read_text())
    simulation = Simulation.load(ROOT / run["recording"])
    path = folder / f"{probe}-{seconds:g}s.raw"
    binary_file(simulation, path, seconds)
    recording = simulation.recording
    facts = (recording.sampling_frequency, recording.get_num_channels(), recording.get_channel_gains()[0])
    return run_folder, (path, *facts)


def open_file(path, rate, num_channels, gain):
    """The file as a peer sees it."""
    from esort.recordings import RecordingPath

    return RecordingPath(
        path=str(path),
        probe=str(Path(path).with_suffix(".json")),
        sampling_frequency=float(rate),
        num_channels=int(num_channels),
        dtype="int16",
        gain_to_uv=float(gain),
    ).open()


def child(kind, path, *facts):
    """What a process of its own does."""
    folder = Path(path).parent / f"peer-{kind}"
    recording = open_file(path, *facts)
    if kind == "floor":
        filter_all(recording)
        return
    from esort.peers import run_sorter_on

    sorting = run_sorter_on(recording, kind, folder)
    write_json(folder / "found.json", {"num_units": len(sorting.unit_ids)})


def filter_all(recording):
    """Read and band-pass every sample, in as many threads as there are cores, and keep nothing."""
    from concurrent.futures import ThreadPoolExecutor

    from spikeinterface.preprocessing import bandpass_filter

    from esort.threads import available_cores, one_thread_each

    filtered = bandpass_filter(recording, freq_min=300.0, freq_max=6000.0, dtype="float32")
    length = round(recording.sampling_frequency)

    def one_second(start):
        stop = min(start + length, recording.get_num_samples())
        return filtered.get_traces(start_frame=start, end_frame=stop).shape

    with one_thread_each(), ThreadPoolExecutor(available_cores()) as pool:
        for _ in pool.map(one_second, range(0, recording.get_num_samples(), length)):
            pass


def timed(command):
    """Wall seconds, peak memory in bytes and processor seconds of a process."""
    launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER, *map(str, command)]
    done = subprocess.run(launcher, cwd=ROOT, capture_output=True, text=True, check=False)
    wall, peak, processor, code = done.stdout.split()
    if int(code):
        lines = done.stderr.strip().splitlines() or ["no word"]
        raise RuntimeError(f"failed ({lines[-1]}): {' '.join(map(str, command))}")
    return float(wall), int(peak) * 1024, float(processor)


def command_of(name, path, facts, model):
    """Our command, or that of a peer or of the floor."""
    if name != "esort":
        return [sys.executable, __file__, "child", name, path, *facts]
    rate, num_channels, gain = facts
    return [
        sys.executable,
        "sort.py",
        f"checkpoint={model}",
        f"recording.path={path}",
        f"recording.probe={path.with_suffix('.json')}",
        f"recording.sampling_frequency={rate}",
        f"recording.num_channels={num_channels}",
        "recording.dtype=int16",
        f"recording.gain_to_uv={gain}",
        f"output={path.parent / 'sorted'}",
        "overwrite=true",
        "report=false",
    ]


def matrix_rate():
    """Float32 operations per second of a product of large matrices on all cores."""
    import torch

    matrix = torch.rand(3000, 3000)
    best = np.inf
    for _ in range(5):
        begin = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - begin)
    return 2 * 3000**3 / best


def operations_per_second(model):
    """Float32 operations that the network needs for a second of recording."""
    from esort.sorter import Sorter

    sorter = Sorter.load(model)
    network = sorter.network
    per_row = 2 * network.num_channels * (len(network.lowpass) + len(network.highpass))
    per_row += 2 * int((network.whitening != 0).sum())
    per_row += 2 * network.num_channels * network.filters.numel()
    per_row += 2 * network.heads.numel()
    return per_row * sorter.card.sampling_frequency / network.stride


def installed(names):
    """Those that can run here; the others are named."""
    from esort.peers import sorter_class

    found = []
    for name in names:
        try:
            sorter_class(name)
        except ValueError as error:
            print(f"skipped: {error}", flush=True)
        else:
            found.append(name)
    return found


def compare(channels, seconds, peers, *, runs, folder):
    """Run the floor, us and the peers on one file; print and return what was measured."""
    probe = PROBES[channels]
    run_folder, (path, *facts) = learned_file(probe, seconds, folder)
    _, (short, *_) = learned_file(probe, STARTUP_S, folder)
    model = run_folder / "model.safetensors"
    run = json.loads((run_folder / "run.json").read_text())
    startup = [timed(command_of("esort", short, facts, model))[0] for _ in range(max(2, runs))]
    measured, stages = {name: [] for name in ("floor", "esort", *peers)}, {}
    for number in range(runs):
        for name in measured:
            try:
                measured[name].append(timed(command_of(name, path, facts, model)))
            except RuntimeError as error:
                print(error, flush=True)
                continue
            if name == "esort":
                stages = json.loads((folder / "sorted" / "run.json").read_text())["seconds"]
            wall, peak, processor = measured[name][-1]
            print(
                f"run {number + 1}: {name} {wall:.1f} s, {processor:.1f} s of the processor, "
                f"{peak / 1e9:.2f} GB",
                flush=True,
            )
    ours = float(np.median([wall for wall, *_ in measured["esort"]]))
    print(f"\n{channels} channels, {run['num_units']} units, {seconds:g} s, {os.cpu_count()} cores")
    rows = [row_of(name, found, seconds, ours) for name, found in measured.items() if found]
    rate, needed = matrix_rate(), operations_per_second(model) * seconds
    floors = {
        "read_and_filter_share": next(row["wall_s"] for row in rows if row["name"] == "floor") / ours,
        "matrix_rate_gflops": rate / 1e9,
        "network_gflop": needed / 1e9,
        "matrix_share": needed / rate / ours,
    }
    startup_s = min(startup)
    print(
        f"our process: start-up (with {STARTUP_S:g} s of recording) {startup_s:.1f} s, "
        f"{(seconds - STARTUP_S) / max(ours - startup_s, 1e-9):.1f} x real time without it; "
        f"stages {json.dumps({key: round(value, 1) for key, value in stages.items()})}"
    )
    print(
        f"floors: reading and band-pass alone take {floors['read_and_filter_share']:.2f} of our time; at "
        f"{rate / 1e9:.0f} GFLOP/s of matrix products the network's {needed / 1e9:.0f} GFLOP would take "
        f"{floors['matrix_share']:.2f} of it",
        flush=True,
    )
    return {
        "channels": int(channels),
        "num_units": run["num_units"],
        "recording_s": seconds,
        "startup_s": startup_s,
        "stages_s": stages,
        "rows": rows,
        "floors": floors,
    }


def row_of(name, measured, seconds, ours):
    """Medians of one sorter's runs, printed."""
    wall, peak, processor = (float(value) for value in np.median(measured, axis=0))
    print(
        f"{name:<16} {wall:8.1f} s  {seconds / wall:6.1f} x real time  {peak / 1e9:5.2f} GB"
        f"  {wall / ours:6.2f} x our time"
    )
    return {
        "name": name,
        "wall_s": wall,
        "real_time_factor": seconds / wall,
        "peak_rss_gb": peak / 1e9,
        "processor_s": processor,
        "times_ours": wall / ours,
        "runs": len(measured),
    }


def main(arguments):
    options = read_options(arguments, DEFAULTS)
    if options["channels"] not in PROBES:
        sys.exit(f"expected channels={' or '.join(PROBES)}, got {options['channels']}")
    folder, runs = ROOT / options["folder"], int(options["runs"])
    folder.mkdir(parents=True, exist_ok=True)
    peers = installed([] if options["peers"] == "none" else options["peers"].split(","))
    content = {
        "command": "python benchmarks/speed.py " + " ".join(f"{key}={options[key]}" for key in DEFAULTS),
        "cores": os.cpu_count(),
    }
    whole = [name for name in peers if name not in ON_PIECE]
    content |= compare(options["channels"], float(options["seconds"]), whole, runs=runs, folder=folder)
    apart = [name for name in peers if name in ON_PIECE]
    if apart:
        print()
        content["piece"] = compare("32", float(options["piece_seconds"]), apart, runs=runs, folder=folder)
    write_json(ROOT / options["output"], content)


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(*sys.argv[2:])
    else:
        main(sys.argv[1:])
