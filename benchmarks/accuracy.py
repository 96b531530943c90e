"""Accuracy of the main job on held-out time, with and without competition between the units.

    python benchmarks/accuracy.py                                 # 128 channels, 3 seeds: about 15 minutes
    python benchmarks/accuracy.py conditions=static,noisy seeds=0

For each condition and seed: ``train.py`` as a process of its own learns from 10 labelled spikes of each unit
in the first half (after pretraining on a recording that shares no template), and sorts the second half.
Then the same checkpoint sorts it again with each unit on its own. Scores are those of `esort.evaluation` at
0.4 ms on the second half, which neither labels nor thresholds have seen. A *duplicate* is a false spike
within 0.4 ms of a spike that was rightly given to another unit.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import spikeinterface

from esort.evaluation import score
from esort.files import write_json
from esort.recordings import RecordingPath
from esort.sorter import Sorter

ROOT = Path(__file__).parents[1]
DEFAULTS = {"conditions": "static", "seeds": "0,1,2", "output": "benchmarks/results/accuracy.json"}
TEN_OF_128 = ["probe=neuropixels128", "label_budget=per_unit", "labels=10"]
CONDITIONS = {
    "static": TEN_OF_128,
    "noisy": [*TEN_OF_128, "noise=high"],
    "slow drift": [*TEN_OF_128, "drift=slow"],
    "32 channels": ["probe=neuronexus32", "label_budget=per_unit", "labels=10"],
    "generator": ["label_budget=per_unit", "labels=10"],
    "hopeless units": ["label_budget=per_unit", "labels=10"],
}
DELTA_MS = 0.4


def generated(folder, *, seed, hopeless):
    """A recording by SpikeInterface's generator, with or without units close to the noise."""
    from spikeinterface.core import generate_ground_truth_recording

    rng = np.random.default_rng(seed)
    recording, sorting = generate_ground_truth_recording(
        durations=[60.0],
        sampling_frequency=30000.0,
        num_channels=32,
        num_units=20,
        generate_sorting_kwargs={"firing_rates": rng.uniform(2, 12, 20), "refractory_period_ms": 4.0},
        noise_kwargs={"noise_levels": 8.0, "strategy": "on_the_fly"},
        generate_templates_kwargs={"unit_params": {"alpha": (30.0, 700.0) if hopeless else (250.0, 700.0)}},
        seed=seed,
    )
    path = folder / f"generator-{seed}-{hopeless}"
    recording.save(folder=path / "recording", dtype="float32", n_jobs=1, progress_bar=False)
    sorting.save(folder=path / "sorting")
    return [
        "recording=path",
        f"recording.path={path / 'recording'}",
        f"recording.ground_truth={path / 'sorting'}",
    ]


def duplicates(truth, found, matches, delta):
    """Number of false spikes that lie on a spike that was rightly given to another unit."""
    right, false = [], []
    for true_id, found_id in matches.items():
        if found_id is None:
            continue
        true_train, found_train = truth[true_id], found[found_id]
        nearest = np.abs(found_train[:, None] - _neighbours(true_train, found_train)).min(axis=1)
        right.append(found_train[nearest <= delta])
        false.append(found_train[nearest > delta])
    right_all, false_all = np.sort(np.concatenate(right)), np.concatenate(false)
    return int((np.abs(false_all[:, None] - _neighbours(right_all, false_all)).min(axis=1) <= delta).sum())


def _neighbours(sorted_train, at):
    """The two spikes of a train around each sample, (n, 2)."""
    position = np.searchsorted(sorted_train, at)
    last = len(sorted_train) - 1
    return np.stack(
        [sorted_train[np.clip(position - 1, 0, last)], sorted_train[np.clip(position, 0, last)]], axis=1
    )


def measure(model, recording, truth, start, stop, *, competition):
    """Sort and score one stretch with or without competition."""
    sorter = Sorter.load(model)
    sorter.postprocessing = replace(sorter.postprocessing, competition=competition)
    result = sorter.sort(recording, start_sample=start, stop_sample=stop)
    sorting = result.sorting()
    scores = score(truth, sorting, start_sample=start, stop_sample=stop, delta_ms=DELTA_MS)
    slice_ = truth.frame_slice(start, stop)
    true_trains = {unit: slice_.get_unit_spike_train(unit) + start for unit in truth.unit_ids}
    found_trains = {unit: sorting.get_unit_spike_train(unit) for unit in sorting.unit_ids}
    matches = {unit.unit_id: unit.matched_unit_id for unit in scores.units}
    delta = round(DELTA_MS * sorting.sampling_frequency / 1000)
    return scores, duplicates(true_trains, found_trains, matches, delta)


def run(condition, seed, folder):
    """Train, then sort both ways."""
    run_folder = folder / f"{condition.replace(' ', '-')}-{seed}"
    overrides = list(CONDITIONS[condition])
    if condition in ("generator", "hopeless units"):
        overrides += generated(folder, seed=seed, hopeless=condition == "hopeless units")
    begin = time.perf_counter()
    command = [sys.executable, "train.py", *overrides, f"seed={seed}", f"hydra.run.dir={run_folder}"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - begin
    facts = json.loads((run_folder / "run.json").read_text())
    where = RecordingPath(path=str(ROOT / facts["recording"]))
    recording = where.open()
    truth = where.open_ground_truth() or spikeinterface.load(Path(facts["recording"]).parent / "sorting")
    row = {"condition": condition, "seed": seed, "units": facts["num_units"], "seconds": seconds}
    for name, competition in (("graph", True), ("alone", False)):
        scores, doubled = measure(
            run_folder / "model.safetensors",
            recording,
            truth,
            facts["start_sample"],
            facts["stop_sample"],
            competition=competition,
        )
        row |= {
            f"{name}_pooled": scores.pooled_accuracy,
            f"{name}_mean": scores.mean_accuracy,
            f"{name}_duplicates": doubled,
        }
    return row


def main(arguments):
    options = DEFAULTS | dict(argument.split("=", 1) for argument in arguments)
    unknown = sorted(set(options) - set(DEFAULTS))
    conditions = options["conditions"].split(",") if options["conditions"] != "all" else list(CONDITIONS)
    if unknown or not set(conditions) <= set(CONDITIONS):
        sys.exit(f"expected {', '.join(DEFAULTS)} and conditions of {', '.join(CONDITIONS)}, got {arguments}")
    rows = []
    columns = ["condition", "seed", "units", "graph_pooled", "graph_mean", "graph_duplicates"]
    columns += ["alone_pooled", "alone_mean", "alone_duplicates", "seconds"]
    print("  ".join(f"{name:>16}" for name in columns))
    with tempfile.TemporaryDirectory() as folder:
        for condition in conditions:
            for seed in options["seeds"].split(","):
                rows.append(run(condition, int(seed), Path(folder)))
                values = (rows[-1][name] for name in columns)
                shown = (f"{value:.4f}" if isinstance(value, float) else str(value) for value in values)
                print("  ".join(f"{text:>16}" for text in shown), flush=True)
    means = {}
    for condition in conditions:
        pooled = np.array([row["graph_pooled"] for row in rows if row["condition"] == condition])
        means[condition] = float(pooled.mean())
        print(
            f"{condition}: pooled accuracy {pooled.mean():.4f}, from {pooled.min():.4f} to {pooled.max():.4f}"
        )
    command = "python benchmarks/accuracy.py " + " ".join(f"{key}={options[key]}" for key in DEFAULTS)
    write_json(ROOT / options["output"], {"command": command, "rows": rows, "mean_pooled": means})


if __name__ == "__main__":
    main(sys.argv[1:])
