"""Accuracy while the tissue moves, with and without following it, against another sorter on the same seconds.

    python benchmarks/drift.py                                  # about 10 minutes, Lupin included
    python benchmarks/drift.py conditions=zigzag seeds=1,2 peers=none

For each condition and seed ``train.py`` as a process of its own learns from 10 labelled spikes of each unit
in the first half, and sorts and scores the second half; once as it is, once with
``model.parameters.follows=false``. The peer sees the whole recording and is scored on the same half, with
the same tolerance. *slow*, *fast* and *nonrigid* are MEArec's, 128 channels; *zigzag* is SpikeInterface's
drifting generator: 64 channels, 40 units, correlated noise, +-20 um with a period of 40 s from second 10 on,
and *still* the same without motion.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import spikeinterface

from esort.evaluation import score
from esort.files import write_json
from esort.peers import run_sorter_on
from esort.recordings import RecordingPath

ROOT = Path(__file__).parents[1]
DEFAULTS = {
    "conditions": "still,zigzag,slow,fast,nonrigid",
    "seeds": "1",
    "peers": "lupin",
    "output": "benchmarks/results/drift.json",
}
LABELS = ["label_budget=per_unit", "labels=10"]
DELTA_MS = 0.4
DURATION_S = 60.0


def generated(folder, *, seed):
    """Make the drifting recording and the one that does not move; return their folders."""
    from spikeinterface.generation import generate_drifting_recording

    rng = np.random.default_rng(seed)
    still, zigzag, sorting = generate_drifting_recording(
        num_units=40,
        duration=DURATION_S,
        sampling_frequency=30000.0,
        generate_probe_kwargs={
            "num_columns": 2,
            "num_contact_per_column": 32,
            "xpitch": 32,
            "ypitch": 20,
            "contact_shapes": "circle",
            "contact_shape_params": {"radius": 6},
        },
        generate_displacement_vector_kwargs={
            "displacement_sampling_frequency": 5.0,
            "drift_start_um": [0, 20],
            "drift_stop_um": [0, -20],
            "drift_step_um": 1,
            "motion_list": [
                {
                    "drift_mode": "zigzag",
                    "non_rigid_gradient": None,
                    "t_start_drift": 10.0,
                    "t_end_drift": None,
                    "period_s": 40,
                }
            ],
        },
        generate_sorting_kwargs={"firing_rates": rng.uniform(2, 12, 40), "refractory_period_ms": 4.0},
        generate_noise_kwargs={"noise_levels": (6.0, 8.0), "spatial_decay": 25.0},
        seed=seed,
    )
    paths = {}
    for name, recording in (("still", still), ("zigzag", zigzag)):
        paths[name] = folder / f"{name}-{seed}-recording"
        recording.save(folder=paths[name] / "recording", dtype="float32", n_jobs=1, progress_bar=False)
        sorting.save(folder=paths[name] / "sorting")
    return paths


def overrides_of(condition, seed, made, folder):
    """What `train.py` is told of the recording."""
    if condition not in ("still", "zigzag"):
        return ["probe=neuropixels128", f"drift={condition}"]
    if seed not in made:
        made[seed] = generated(folder, seed=seed)
    path = made[seed][condition]
    return [
        "recording=path",
        f"recording.path={path / 'recording'}",
        f"recording.ground_truth={path / 'sorting'}",
    ]


def learn(overrides, seed, folder):
    """Call ``train.py``; return the facts of the run, its scores, and seconds."""
    begin = time.perf_counter()
    command = [sys.executable, "train.py", *LABELS, *overrides, f"seed={seed}", f"hydra.run.dir={folder}"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - begin
    facts, scores = (json.loads((folder / name).read_text()) for name in ("run.json", "scores.json"))
    return facts, scores, seconds


def run(condition, seed, peers, made, folder):
    """Learn and sort twice, and let the peers sort."""
    overrides = overrides_of(condition, seed, made, folder)
    row = {"condition": condition, "seed": seed}
    for name, more in (("follows", []), ("stays", ["model.parameters.follows=false"])):
        run_folder = folder / f"{condition}-{seed}-{name}"
        facts, scores, seconds = learn([*overrides, *more], seed, run_folder)
        row |= {
            f"{name}_pooled": scores["pooled_accuracy"],
            f"{name}_mean": scores["mean_accuracy"],
            f"{name}_s": seconds,
        }
    where = RecordingPath(path=str(ROOT / facts["recording"]))
    recording = where.open()
    truth = where.open_ground_truth() or spikeinterface.load(Path(facts["recording"]).parent / "sorting")
    for peer in peers:
        begin = time.perf_counter()
        found = run_sorter_on(recording, peer, folder / f"{condition}-{seed}-{peer}", seed=seed)
        seconds = time.perf_counter() - begin
        stretch = {"start_sample": facts["start_sample"], "stop_sample": facts["stop_sample"]}
        scores = score(truth, found, **stretch, delta_ms=DELTA_MS)
        row |= {
            f"{peer}_pooled": scores.pooled_accuracy,
            f"{peer}_mean": scores.mean_accuracy,
            f"{peer}_s": seconds,
        }
    return row


def main(arguments):
    options = DEFAULTS | dict(argument.split("=", 1) for argument in arguments)
    conditions = options["conditions"].split(",")
    unknown = sorted(set(options) - set(DEFAULTS))
    if unknown or not set(conditions) <= set(DEFAULTS["conditions"].split(",")):
        sys.exit(
            f"expected {', '.join(DEFAULTS)} and conditions of {DEFAULTS['conditions']}, got {arguments}"
        )
    peers = [] if options["peers"] == "none" else options["peers"].split(",")
    rows, made = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for condition in conditions:
            for seed in map(int, options["seeds"].split(",")):
                rows.append(run(condition, seed, peers, made, Path(folder)))
                shown = (
                    f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}"
                    for name, value in rows[-1].items()
                )
                print("  ".join(shown), flush=True)
    command = "python benchmarks/drift.py " + " ".join(f"{key}={options[key]}" for key in DEFAULTS)
    write_json(ROOT / options["output"], {"command": command, "rows": rows})


if __name__ == "__main__":
    main(sys.argv[1:])
