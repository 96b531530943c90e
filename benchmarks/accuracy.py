"""Accuracy of the main job on held-out time, with and without competition between the units.

    python benchmarks/accuracy.py                                 # 128 channels, 3 seeds: about 15 minutes
    python benchmarks/accuracy.py conditions=static,noisy seeds=0
    python benchmarks/accuracy.py conditions=all seeds=0          # about half an hour

For each condition and seed: ``train.py`` as a process of its own learns from 10 labelled spikes of each unit
(``labels=``) in the first half, after pretraining on a recording that shares no template, and sorts the
second half. Then the same checkpoint sorts it again with each unit on its own. Other sorters
(``peers=lupin``) see the whole recording. Scores are those of `esort.evaluation` at 0.4 ms on the second
half, which neither labels nor thresholds have seen.

A *duplicate* is one event that two units have, and one neuron: a spike that is none of its own unit's neuron,
within 0.4 ms of a spike that another unit has rightly. A unit is held to the neuron that its labels came
from, whether or not enough of its spikes are right for a match: without the graph hardly a unit is matched,
and its duplicates would not be seen.

In the condition *hopeless units* six neurons with a template norm of 2 to 6 times the noise are added to a
recording. They are labelled like the others (``graph``), or fire unlabelled (``unlabelled``): the difference
is what it costs to be asked for units that nobody can sort. ``others`` is the accuracy pooled over the
neurons that are not hopeless, where all spikes of unmatched units count as false.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from options import read_options  # beside this file
from rows import Rows
from same_seconds import (  # beside this file
    DELTA_MS,
    ROOT,
    command_of,
    learn,
    listed,
    open_target,
    overrides_of,
    peers_on,
)

from esort.evaluation import score
from esort.sorter import Sorter

DEFAULTS = {
    "conditions": "static",
    "seeds": "0,1,2",
    "labels": "10",
    "peers": "none",
    "overrides": "",  # more words for train.py, with spaces between them
    "output": "benchmarks/results/accuracy.json",
}
OF_128 = ["probe=neuropixels128"]
CONDITIONS = {
    "static": OF_128,
    "noisy": [*OF_128, "noise=high"],
    "slow drift": [*OF_128, "drift=slow"],
    "slow drift noisy": [*OF_128, "drift=slow", "noise=high"],
    "32 channels": ["probe=neuronexus32"],
    "384 channels": ["probe=neuropixels"],
    "generator": [],
    "generator noisy": [],
    "generator 128 channels": [],
    "weak units": [],
    "hopeless units": [],
}
# Of SpikeInterface's generator: channels, units, noise in uV, range of alpha, hopeless units.
GENERATED = {
    "generator": (32, 20, 8.0, (250.0, 700.0), 0),
    "generator noisy": (32, 20, 16.0, (250.0, 700.0), 0),
    "generator 128 channels": (128, 80, 7.0, (250.0, 700.0), 0),
    "weak units": (32, 20, 8.0, (30.0, 700.0), 0),
    "hopeless units": (32, 26, 8.0, (250.0, 700.0), 6),
}
HOPELESS_NORM = (2.0, 6.0)


def generated(folder, condition, *, seed):
    """Make a recording by SpikeInterface's generator; return where it is, and the hopeless units."""
    from spikeinterface.core import generate_ground_truth_recording

    num_channels, num_units, noise_uv, alpha, num_hopeless = GENERATED[condition]
    rng = np.random.default_rng(seed)
    settings = {
        "durations": [60.0],
        "sampling_frequency": 30000.0,
        "num_channels": num_channels,
        "num_units": num_units,
        "generate_sorting_kwargs": {
            "firing_rates": rng.uniform(2, 12, num_units),
            "refractory_period_ms": 4.0,
        },
        "noise_kwargs": {"noise_levels": noise_uv, "strategy": "on_the_fly"},
        "generate_templates_kwargs": {"unit_params": {"alpha": alpha}},
        "seed": seed,
    }
    recording, sorting = generate_ground_truth_recording(**settings)
    hopeless = []
    if num_hopeless:
        templates = recording.templates  # (U, T, C)
        norms = np.sqrt(np.square(templates).sum(axis=(1, 2))) / noise_uv
        templates[-num_hopeless:] *= (rng.uniform(*HOPELESS_NORM, num_hopeless) / norms[-num_hopeless:])[
            :, None, None
        ]
        probe = recording.get_probe()
        recording, sorting = generate_ground_truth_recording(
            **settings, probe=probe, sorting=sorting, templates=templates
        )
        hopeless = sorting.unit_ids[-num_hopeless:].tolist()
    path = folder / f"{condition.replace(' ', '-')}-{seed}-recording"
    recording.save(folder=path / "recording", dtype="float32", n_jobs=1, progress_bar=False)
    sorting.save(folder=path / "sorting")
    sorting.remove_units(hopeless).save(folder=path / "without")
    return path, hopeless


def duplicates(truth, found, delta):
    """Number of spikes that are none of their own neuron's and lie on a spike that another unit has rightly.

    Parameters
    ----------
    truth, found : dict
        Trains by unit; a unit found has the name of the neuron that its labels came from.
    delta : int
        Samples within which two spikes are one event.
    """
    right, false = {}, {}
    for unit, found_train in found.items():
        is_right = _apart(found_train, truth[unit]) <= delta
        right[unit], false[unit] = found_train[is_right], found_train[~is_right]
    count = 0
    for unit, train in false.items():
        others = [right[other] for other in right if other != unit]
        count += int((_apart(train, np.sort(np.concatenate([[], *others]))) <= delta).sum())
    return count


def _apart(train, sorted_train):
    """Samples from each spike to the nearest of another train."""
    if len(train) == 0 or len(sorted_train) == 0:
        return np.full(len(train), np.inf)
    return np.abs(train[:, None] - _neighbours(sorted_train, train)).min(axis=1)


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
    delta = round(DELTA_MS * sorting.sampling_frequency / 1000)
    return scores, duplicates(true_trains, found_trains, delta)


def pooled_over(scores, hopeless):
    """Pooled accuracy over the neurons that are not hopeless; spikes of unmatched units are false."""
    units = [unit for unit in scores.units if unit.unit_id not in hopeless]
    right = sum(unit.tp for unit in units)
    wrong = sum(unit.fp + unit.fn for unit in units) + scores.num_unmatched_spikes
    return right / (right + wrong)


def run(condition, seed, options, folder):
    """Train, then sort both ways, and let other sorters sort."""
    run_folder = folder / f"{condition.replace(' ', '-')}-{seed}"
    budget = ["label_budget=per_unit", f"labels={options['labels']}", *CONDITIONS[condition]]
    budget += options["overrides"].split()
    overrides, hopeless, path = budget, [], None
    if condition in GENERATED:
        path, hopeless = generated(folder, condition, seed=seed)
        overrides = [*budget, *overrides_of(path)]
    facts, _, seconds = learn(overrides, seed, run_folder)
    recording, truth = open_target(facts)
    row = {"condition": condition, "seed": seed, "units": facts["num_units"], "seconds": seconds}
    stretch = facts["start_sample"], facts["stop_sample"]
    for name, competition in (("graph", True), ("alone", False)):
        model = run_folder / "model.safetensors"
        scores, doubled = measure(model, recording, truth, *stretch, competition=competition)
        row |= {
            f"{name}_pooled": scores.pooled_accuracy,
            f"{name}_mean": scores.mean_accuracy,
            f"{name}_duplicates": doubled,
        }
        if hopeless:
            row[f"{name}_others"] = pooled_over(scores, hopeless)
    if hopeless:
        folder_without = run_folder.with_name(run_folder.name + "-without")
        learn([*budget, *overrides_of(path, "without")], seed, folder_without)
        model = folder_without / "model.safetensors"
        scores, doubled = measure(model, recording, truth, *stretch, competition=True)
        row |= {
            "unlabelled_pooled": scores.pooled_accuracy,
            "unlabelled_others": pooled_over(scores, hopeless),
            "unlabelled_duplicates": doubled,
        }
    return row | peers_on(facts, listed(options["peers"]), seed, run_folder)


def main(arguments):
    options = read_options(arguments, DEFAULTS)
    conditions = list(CONDITIONS) if options["conditions"] == "all" else listed(options["conditions"])
    if not set(conditions) <= set(CONDITIONS):
        sys.exit(f"expected conditions of {', '.join(CONDITIONS)}, got {options['conditions']}")
    peers = listed(options["peers"])
    kept = Rows(ROOT / options["output"], options)
    rows = kept.rows
    columns = ["condition", "seed", "units", "graph_pooled", "graph_mean", "graph_duplicates"]
    columns += ["alone_pooled", "alone_mean", "alone_duplicates", "seconds"]
    columns += [f"{peer}_{name}" for peer in peers for name in ("pooled", "mean")]
    print("  ".join(f"{name:>16}" for name in columns))
    with tempfile.TemporaryDirectory() as folder:
        for condition, seed in kept.missing(conditions, listed(options["seeds"])):
            kept.add(run(condition, seed, options, Path(folder)))
            values = (rows[-1][name] for name in columns)
            shown = (f"{value:.4f}" if isinstance(value, float) else str(value) for value in values)
            print("  ".join(f"{text:>16}" for text in shown), flush=True)
            if "graph_others" in rows[-1]:
                print(
                    f"neurons that are not hopeless: pooled {rows[-1]['graph_others']:.4f} with the "
                    f"labels of the hopeless ones, {rows[-1]['unlabelled_others']:.4f} without",
                    flush=True,
                )
    means = {}
    for condition in conditions:
        pooled = np.array([row["graph_pooled"] for row in rows if row["condition"] == condition])
        means[condition] = float(pooled.mean())
        print(
            f"{condition}: pooled accuracy {pooled.mean():.4f}, from {pooled.min():.4f} to {pooled.max():.4f}"
        )
    command = command_of("accuracy", {name: value for name, value in options.items() if value})
    kept.finish(command, mean_pooled=means)


if __name__ == "__main__":
    main(sys.argv[1:])
