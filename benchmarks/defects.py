"""What dead channels cost: pooled accuracy with 0 to 10 % of the channels dead, before and after learning.

    python benchmarks/defects.py                      # 128 channels, 3 draws each: 15 minutes on 2 cores
    python benchmarks/defects.py shares=0.05 draws=1

Units are learned from 10 labelled spikes each in the first half of the simulated 128-channel recording of
``train.py probe=neuropixels128``, without a backbone; the second half is sorted and scored at 0.4 ms. A dead
channel is constant. Ways to deal with it:

- ``as it is``: nobody knows of it, it is sorted as a channel like any other;
- ``interpolated``: `spikeinterface.preprocessing.interpolate_bad_channels` fills it from its neighbours;
- ``taken out`` (after learning only): whitening and footprints are those of the channels that are left,
  `esort.pursuit.missing.without_channels`.
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
from spikeinterface.preprocessing import interpolate_bad_channels
from spikeinterface.preprocessing.basepreprocessor import BasePreprocessor, BasePreprocessorSegment

from esort.evaluation import score
from esort.files import write_json
from esort.plan import TrainingPlan
from esort.sorter import Sorter
from esort.subject import open_subject
from esort.teaching import draw_labels
from esort.training import train_units

ROOT = Path(__file__).parents[1]
DEFAULTS = {
    "shares": "0.01,0.05,0.1",
    "draws": "3",
    "probe": "neuropixels128",
    "seed": "0",
    "output": "benchmarks/results/defects.json",
}


class Dead(BasePreprocessor):
    """A recording some of whose channels are constant."""

    def __init__(self, recording, channels):
        super().__init__(recording)
        for parent in recording.segments:
            self.add_recording_segment(_DeadSegment(parent, channels))


class _DeadSegment(BasePreprocessorSegment):
    def __init__(self, parent, channels):
        super().__init__(parent)
        self.channels = channels

    def get_traces(self, start_frame, end_frame, channel_indices):
        traces = self.parent_recording_segment.get_traces(start_frame, end_frame, slice(None)).copy()
        traces[:, self.channels] = 0
        return traces if channel_indices is None else traces[:, channel_indices]


def learn(subject, plan, labels, folder):
    """Learn the units of a recording; return its sorter."""
    train_units(
        subject, labels, plan.finetuning, plan.settings, backbone=None, path=folder / "model", folder=folder
    )
    return Sorter.load(folder / "model")


def measure(sorter, recording, truth, stop):
    """Sort and score what follows the labels."""
    result = sorter.sort(recording, start_sample=stop)
    scores = score(truth, result.sorting(), start_sample=stop, stop_sample=recording.get_num_samples())
    return {"pooled": scores.pooled_accuracy, "mean": scores.mean_accuracy, "units": len(result.unit_ids)}


def main(arguments):
    options = read_options(arguments, DEFAULTS)
    overrides = [f"probe={options['probe']}", "label_budget=per_unit", "labels=10", f"seed={options['seed']}"]
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        plan = TrainingPlan.from_config(hydra.compose("train", overrides))
    subject = open_subject(plan.target, ROOT / plan.cache)
    recording, truth = subject.recording, subject.ground_truth
    num_channels = recording.get_num_channels()
    rows = []

    def note(**row):
        rows.append(row)
        shown = (f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values())
        print("  ".join(f"{text:>12}" for text in shown), flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        labels = draw_labels(subject, plan.teacher, plan.budget, seed=plan.settings.seed, folder=folder)
        stop = labels.stop_sample
        begin = time.perf_counter()
        sorter = learn(subject, plan, labels, folder)
        note(dead="never", share=0.0, draw=0, way="as it is", **measure(sorter, recording, truth, stop))
        print(f"one round takes {time.perf_counter() - begin:.0f} s", flush=True)
        for share in map(float, options["shares"].split(",")):
            for draw in range(int(options["draws"])):
                rng = np.random.default_rng([round(1000 * share), draw])
                count = max(1, round(share * num_channels))
                dead = np.sort(rng.choice(num_channels, count, replace=False))
                broken = Dead(recording, dead)
                filled = interpolate_bad_channels(broken, recording.channel_ids[dead])
                case = {"share": share, "draw": draw}
                ways = {
                    "as it is": (sorter, broken),
                    "interpolated": (sorter, filled),
                    "taken out": (sorter.without_channels(dead), broken),
                }
                for way, (by, traces) in ways.items():
                    note(dead="after", **case, way=way, **measure(by, traces, truth, stop))
                for way, traces in (("as it is", broken), ("interpolated", filled)):
                    again = learn(replace(subject, recording=traces), plan, labels, folder)
                    note(dead="before", **case, way=way, **measure(again, traces, truth, stop))
    whole = rows[0]["pooled"]
    means = {}
    for row in rows[1:]:
        means.setdefault(f"{row['dead']} learning, {row['share']:.0%} dead, {row['way']}", []).append(
            row["pooled"] - whole
        )
    lost = {name: float(np.mean(values)) for name, values in means.items()}
    for name, value in lost.items():
        print(f"{name}: pooled accuracy {value:+.4f}")
    command = "python benchmarks/defects.py " + " ".join(f"{key}={options[key]}" for key in DEFAULTS)
    write_json(
        ROOT / options["output"], {"command": command, "pooled": whole, "mean_change": lost, "rows": rows}
    )


if __name__ == "__main__":
    main(sys.argv[1:])
