"""Accuracy while the tissue moves, with and without following it, against another sorter on the same seconds.

    python benchmarks/drift.py                                  # about 10 minutes, Lupin included
    python benchmarks/drift.py conditions=zigzag seeds=1,2 peers=none

For each condition and seed ``train.py`` as a process of its own learns from 10 labelled spikes of each unit
in the first half, and sorts and scores the second half; once as it is, once with
``model.parameters.follows=false`` (``ours=follows``: not that). Peers see the whole recording and are
scored on the same half, with the same tolerance; *lupin_motion* is Lupin that corrects motion, which it
does not by default. *slow*, *fast* and *nonrigid* are MEArec's, 128 channels; *zigzag* is SpikeInterface's
drifting generator: 64 channels, 40 units, correlated noise, +-20 um with a period of 40 s from second 10 on,
and *still* the same without motion.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import same_seconds
from options import read_options  # beside this file
from rows import Rows
from same_seconds import (
    ROOT,
    TEN,
    command_of,
    learn,
    listed,
    peers_on,
    show,
)  # beside this file

DEFAULTS = {
    "conditions": "still,zigzag,slow,fast,nonrigid",
    "seeds": "1",
    "peers": "lupin,lupin_motion",
    "ours": "follows,stays",
    "output": "benchmarks/results/drift.json",
}
OURS = {"follows": [], "stays": ["model.parameters.follows=false"]}
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
    return same_seconds.overrides_of(made[seed][condition])


def run(condition, seed, ours, peers, made, folder):
    """Learn and sort as `ours` names, and let the peers sort."""
    overrides = overrides_of(condition, seed, made, folder)
    row = {"condition": condition, "seed": seed}
    for name in ours:
        more = OURS[name]
        run_folder = folder / f"{condition}-{seed}-{name}"
        facts, scores, seconds = learn([*TEN, *overrides, *more], seed, run_folder)
        row |= {
            f"{name}_pooled": scores["pooled_accuracy"],
            f"{name}_mean": scores["mean_accuracy"],
            f"{name}_s": seconds,
        }
    return row | peers_on(facts, peers, seed, folder / f"{condition}-{seed}")


def main(arguments):
    options = read_options(arguments, DEFAULTS)
    conditions, peers = listed(options["conditions"]), listed(options["peers"])
    if not set(conditions) <= set(DEFAULTS["conditions"].split(",")):
        sys.exit(f"expected conditions of {DEFAULTS['conditions']}, got {options['conditions']}")
    ours = listed(options["ours"])
    if not set(ours) <= set(OURS):
        sys.exit(f"expected ours of {','.join(OURS)}, got {options['ours']}")
    rows, made = Rows(ROOT / options["output"], options), {}
    with tempfile.TemporaryDirectory() as folder:
        for condition, seed in rows.missing(conditions, listed(options["seeds"])):
            rows.add(run(condition, seed, ours, peers, made, Path(folder)))
            show(rows.rows[-1])
    rows.finish(command_of("drift", options))


if __name__ == "__main__":
    main(sys.argv[1:])
