"""Neurons that nobody labelled: what they cost the others, and what becomes of their spikes.

    python benchmarks/unknown.py                          # 128 channels, 5 minutes on 2 cores
    python benchmarks/unknown.py probe=neuronexus32 left_out=0.8 seeds=0,1,2

Units are learned from 10 labelled spikes each in the first half of the simulated recordings of ``train.py``,
one for each seed: all of them; without a part, drawn at random; and those again with no search for rivals
(see `esort.pursuit.rivals`). The second half is sorted.

- ``rivals``: neurons without labels that were found;
- ``recall``: spikes of a neuron that was left out with an unknown event within 0.5 ms and 100 µm of it;
- ``as a unit``: its spikes with a spike of a known unit within 0.5 ms whose place is within 50 µm;
- ``not doubtful``: the same without the spikes that `esort.doubtful` names;
- ``pooled``: accuracy of the labelled units, and without their doubtful spikes;
- ``false a minute``: unknown events where all neurons are known, beside what calibration expected;
- ``share``: thread time of looking for them, as part of all thread time of sorting.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import hydra
import numpy as np
from options import read_options  # beside this file

from esort.doubtful import doubtful_spikes
from esort.evaluation import score
from esort.files import write_json
from esort.footprints import estimate_footprints
from esort.observer import Observer
from esort.plan import TrainingPlan
from esort.postprocess import Spikes
from esort.pursuit import training
from esort.pursuit.rivals import find_rivals
from esort.sorter import Sorter
from esort.subject import open_subject
from esort.teaching import draw_labels
from esort.training import train_units

ROOT = Path(__file__).parents[1]
DEFAULTS = {
    "probe": "neuropixels128",
    "left_out": "0.1",
    "seeds": "0",
    "output": "benchmarks/results/unknown.json",
}
TOLERANCE_MS, NEAR_UM, SAME_UM = 0.5, 100.0, 50.0
ALONE = "some, no rivals,"
spent = [0.0]


def no_rivals(*_, known):
    """Search for nothing."""
    return known


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


def pooled_of(result, truth, known, start, stop):
    """Pooled accuracy of the units with these names."""
    strangers = [unit for unit in truth.unit_ids if str(unit) not in known]
    truth = truth.remove_units(strangers) if strangers else truth
    return float(score(truth, result.sorting(), start_sample=start, stop_sample=stop).pooled_accuracy)


def without_doubtful(sorter, result):
    """The result without the spikes that do not fit."""
    kept = ~doubtful_spikes(sorter, result.spikes, result.unknown)
    columns = (result.spikes.sample_index, result.spikes.unit_index, result.spikes.probability)
    return replace(result, spikes=Spikes(*(column[kept] for column in columns)))


def measure_seed(options, seed):
    """One recording: its figures, a row for each neuron left out, and what is said of its minutes."""
    overrides = [f"probe={options['probe']}", "label_budget=per_unit", "labels=10", f"seed={seed}"]
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        plan = TrainingPlan.from_config(hydra.compose("train", overrides))
    subject = open_subject(plan.target, ROOT / plan.cache)
    recording, truth = subject.recording, subject.ground_truth
    tolerance = round(TOLERANCE_MS * recording.sampling_frequency / 1000)
    rng = np.random.default_rng(seed + 1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        labels = draw_labels(subject, plan.teacher, plan.budget, seed=plan.settings.seed, folder=folder)
        stop, number = labels.stop_sample, labels.num_units
        kept = np.ones(number, dtype=bool)
        kept[rng.choice(number, max(1, round(float(options["left_out"]) * number)), replace=False)] = False
        results, sorters, clean = {}, {}, {}
        some = labels.of_units(kept)
        for name, chosen in (("all", labels), ("some", some), (ALONE, some)):
            path = folder / name
            training.find_rivals = no_rivals if name == ALONE else find_rivals
            train_units(
                subject, chosen, plan.finetuning, plan.settings, backbone=None, path=path, folder=folder
            )
            sorters[name] = Sorter.load(path)
            results[name] = measure(sorters[name], recording, stop)
            clean[name] = without_doubtful(sorters[name], results[name][0])
    num_samples = recording.get_num_samples()
    minutes = (num_samples - stop) / recording.sampling_frequency / 60
    prints = estimate_footprints(
        recording, truth, start_sample=0, stop_sample=min(stop, round(20 * recording.sampling_frequency))
    )
    place_of = {str(unit): place for unit, place in zip(prints.unit_ids, prints.positions_um, strict=True)}
    units_um = np.array([place_of.get(str(unit), [np.inf] * 2) for unit in results["some"][0].unit_ids])
    rows = []
    for unit_id in np.array(labels.unit_ids, dtype=object)[~kept]:
        train = truth.get_unit_spike_train(next(one for one in truth.unit_ids if str(one) == str(unit_id)))
        train = train[train >= stop + tolerance]
        snr = round(float(subject.signal_to_noise.get(unit_id, np.nan)), 1)
        row = {"seed": seed, "unit": str(unit_id), "snr": snr, "spikes": len(train)}
        place = place_of.get(str(unit_id))
        if place is None or not len(train):
            continue
        for name, (result, _) in results.items():
            where = result.unknown.sample_index, result.unknown.position_um
            row[f"recall, {name} labelled"] = recall_of(train, place, *where, tolerance, NEAR_UM)
        for name, result in (("as a unit", results["some"][0]), ("not doubtful", clean["some"])):
            where = result.spikes.sample_index, units_um[result.spikes.unit_index]
            row[name] = recall_of(train, place, *where, tolerance, SAME_UM)
        rows.append(row)
        print(said(row))
    everything = {str(unit) for unit in truth.unit_ids}
    known = {"all": everything, "some": everything - {row["unit"] for row in rows}}
    known[ALONE] = known["some"]
    baselines = {name: sorter.tables.baseline for name, sorter in sorters.items()}
    total = {
        "seed": seed,
        "rivals": len(sorters["some"].tables.rivals),
        "mean recall": float(np.mean([row["recall, some labelled"] for row in rows])),
        "mean as a unit": float(np.mean([row["as a unit"] for row in rows])),
        "mean not doubtful": float(np.mean([row["not doubtful"] for row in rows])),
        "false a minute": len(results["all"][0].unknown) / minutes,
        "expected false a minute": baselines["all"].false_per_minute,
        "share of thread time": results["all"][1],
    }
    for name, baseline in baselines.items():
        total[f"least size, {name} labelled"] = baseline.least_size
        for suffix, result in (("", results[name][0]), (", not doubtful", clean[name])):
            pooled = pooled_of(result, truth, known[name], stop, num_samples)
            total[f"pooled, {name} labelled{suffix}"] = pooled
    print(said(total))
    fitness = {
        name: [str(one) for one in result.fitness(baselines[name], recording.channel_ids).minutes]
        for name, (result, _) in results.items()
    }
    return total, rows, fitness


def said(row):
    """A line."""
    return "  ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
    )


def main(arguments):
    options = read_options(arguments, DEFAULTS)
    for name in ("look", "push", "finish", "take"):
        setattr(Observer, name, timed(getattr(Observer, name)))
    found = []
    for seed in options["seeds"].split(","):
        found.append(measure_seed(options, int(seed)))
        totals, rows, fitness = ([one[place] for one in found] for place in range(3))
        mean = {key: float(np.mean([total[key] for total in totals])) for key in totals[0] if key != "seed"}
        command = "python benchmarks/unknown.py " + " ".join(f"{key}={options[key]}" for key in DEFAULTS)
        write_json(
            ROOT / options["output"],
            {"command": command}
            | mean
            | {"seeds": totals, "units": [row for part in rows for row in part], "health": fitness},
        )
    print("mean:", said(mean))


if __name__ == "__main__":
    main(sys.argv[1:])
