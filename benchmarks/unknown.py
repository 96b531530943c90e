"""Neurons that nobody labelled: how many of their spikes come out as unknown events, and how many are false.

    python benchmarks/unknown.py                          # 128 channels, 4 minutes on 2 cores
    python benchmarks/unknown.py probe=neuronexus32 left_out=0.2

Units are learned from 10 labelled spikes each in the first half of the simulated recording of ``train.py``,
once all of them and once without a part, drawn at random; the second half is sorted.

- ``recall``: spikes of a neuron that was left out with an unknown event within 0.5 ms and 100 µm of it;
- ``as a unit``: its spikes with a spike of a known unit within 0.5 ms whose place is within 50 µm;
- ``false a minute``: unknown events where all neurons are known, beside what calibration expected;
- ``share``: thread time of looking for them, as part of all thread time of sorting.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import hydra
import numpy as np
from options import read_options  # beside this file

from esort.files import write_json
from esort.footprints import estimate_footprints
from esort.observer import Observer
from esort.plan import TrainingPlan
from esort.sorter import Sorter
from esort.subject import open_subject
from esort.teaching import draw_labels
from esort.training import train_units

ROOT = Path(__file__).parents[1]
DEFAULTS = {
    "probe": "neuropixels128",
    "left_out": "0.1",
    "seed": "0",
    "output": "benchmarks/results/unknown.json",
}
TOLERANCE_MS, NEAR_UM, SAME_UM = 0.5, 100.0, 50.0
spent = [0.0]


def timed(method):
    """Add up the thread time of a method."""

    def wrapped(*arguments, **keywords):
        begin = time.thread_time()
        try:
            return method(*arguments, **keywords)
        finally:
            spent[0] += time.thread_time() - begin

    return wrapped


def measure(sorter, recording, start):
    """Sort what follows the labels; return the result and the share of time that watching took."""
    sorter.sort(recording, start_sample=start, stop_sample=start + round(recording.sampling_frequency))
    spent[0], begin = 0.0, time.process_time()
    result = sorter.sort(recording, start_sample=start)
    return result, spent[0] / (time.process_time() - begin)


def nearest(times, others):
    """Distance of each time to the nearest of the others, and which that is."""
    after = np.clip(np.searchsorted(others, times), 1, max(len(others) - 1, 1))
    which = np.where(
        times - others[after - 1] <= others[np.minimum(after, len(others) - 1)] - times, after - 1, after
    )
    return np.abs(others[which] - times), which


def recall_of(train, place, sample_index, places, tolerance, reach):
    """Part of a train with an event at its time and place."""
    own = np.sort(sample_index[np.linalg.norm(places - place, axis=1) <= reach])
    return float((nearest(train, own)[0] <= tolerance).mean()) if len(own) > 1 else 0.0


def main(arguments):
    options = read_options(arguments, DEFAULTS)
    overrides = [f"probe={options['probe']}", "label_budget=per_unit", "labels=10", f"seed={options['seed']}"]
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        plan = TrainingPlan.from_config(hydra.compose("train", overrides))
    for name in ("look", "push", "finish", "take"):
        setattr(Observer, name, timed(getattr(Observer, name)))
    subject = open_subject(plan.target, ROOT / plan.cache)
    recording, truth = subject.recording, subject.ground_truth
    tolerance = round(TOLERANCE_MS * recording.sampling_frequency / 1000)
    rng = np.random.default_rng(int(options["seed"]) + 1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        labels = draw_labels(subject, plan.teacher, plan.budget, seed=plan.settings.seed, folder=folder)
        stop, number = labels.stop_sample, labels.num_units
        kept = np.ones(number, dtype=bool)
        kept[rng.choice(number, max(1, round(float(options["left_out"]) * number)), replace=False)] = False
        results, sorters = {}, {}
        for name, chosen in (("all", labels), ("some", labels.of_units(kept))):
            path = folder / name
            train_units(
                subject, chosen, plan.finetuning, plan.settings, backbone=None, path=path, folder=folder
            )
            sorters[name] = Sorter.load(path)
            results[name] = measure(sorters[name], recording, stop)
    minutes = (recording.get_num_samples() - stop) / recording.sampling_frequency / 60
    prints = estimate_footprints(
        recording, truth, start_sample=0, stop_sample=min(stop, round(20 * recording.sampling_frequency))
    )
    place_of = {str(unit): place for unit, place in zip(prints.unit_ids, prints.positions_um, strict=True)}
    units_um = np.array([place_of.get(str(unit), [np.inf] * 2) for unit in results["some"][0].unit_ids])
    rows = []
    for unit_id in np.array(labels.unit_ids, dtype=object)[~kept]:
        train = truth.get_unit_spike_train(next(one for one in truth.unit_ids if str(one) == str(unit_id)))
        train = train[train >= stop + tolerance]
        row = {"unit": str(unit_id), "snr": round(float(subject.signal_to_noise.get(unit_id, np.nan)), 1)}
        place = place_of.get(str(unit_id))
        if place is None or not len(train):
            continue
        for name, (result, _) in results.items():
            unknown, spikes = result.unknown, result.spikes
            row[f"recall, {name} labelled"] = recall_of(
                train, place, unknown.sample_index, unknown.position_um, tolerance, NEAR_UM
            )
            if name == "some":
                row["as a unit"] = recall_of(
                    train, place, spikes.sample_index, units_um[spikes.unit_index], tolerance, SAME_UM
                )
        rows.append(row | {"spikes": len(train)})
        print(
            "  ".join(
                f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
                for key, value in rows[-1].items()
            )
        )
    baselines = {name: sorter.tables.baseline for name, sorter in sorters.items()}
    total = {
        "mean recall": float(np.mean([row["recall, some labelled"] for row in rows])),
        "mean as a unit": float(np.mean([row["as a unit"] for row in rows])),
        "false a minute": len(results["all"][0].unknown) / minutes,
        "expected false a minute": baselines["all"].false_per_minute,
        "least size, all labelled": baselines["all"].least_size,
        "least size, some labelled": baselines["some"].least_size,
        "share of thread time": results["all"][1],
    }
    for name, value in total.items():
        print(f"{name}: {value:.3g}")
    fitness = {}
    for name, (result, _) in results.items():
        fitness[name] = [str(one) for one in result.fitness(baselines[name], recording.channel_ids).minutes]
        print(f"{name} labelled:", *fitness[name], sep="\n  ")
    command = "python benchmarks/unknown.py " + " ".join(f"{key}={options[key]}" for key in DEFAULTS)
    write_json(ROOT / options["output"], {"command": command} | total | {"units": rows, "health": fitness})


if __name__ == "__main__":
    main(sys.argv[1:])
