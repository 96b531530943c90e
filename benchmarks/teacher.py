"""A student and its teacher: what another sorter found in the first seconds is learned, the rest is sorted.

    python benchmarks/teacher.py                              # 32 channels, 60 s, Lupin on the first 30 s
    python benchmarks/teacher.py conditions=generator seeds=0

No manual label: ``train.py teacher=lupin teacher.seconds=30`` lets the teacher sort the first 30 s, learns
all units that it found there and sorts the other 30 s. The teacher itself sorts the whole recording
(``teacher``: it has seen the seconds that it is scored on), and both are scored against the truth on the
other 30 s at 0.4 ms.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from accuracy import GENERATED, generated
from options import read_options  # beside this file
from rows import Rows
from same_seconds import ROOT, command_of, learn, listed, overrides_of, peers_on, show

DEFAULTS = {
    "conditions": "simulated,generator",
    "seeds": "0,1,2",
    "teacher": "lupin",
    "seconds": "30",
    "output": "benchmarks/results/teacher.json",
}
# Of MEArec, and of SpikeInterface's generator.
CONDITIONS = {"simulated": ["probe=neuronexus32"], "noisy": ["probe=neuronexus32", "noise=high"]}


def run(condition, seed, options, folder):
    """Learn from the teacher, sort the rest; and let the teacher sort all."""
    overrides = CONDITIONS.get(condition, [])
    if condition in GENERATED:
        overrides = overrides_of(generated(folder, condition, seed=seed)[0])
    teacher = options["teacher"]
    asked = [f"teacher={teacher}", f"teacher.seconds={options['seconds']}", "label_budget=teacher"]
    facts, scores, seconds = learn([*asked, *overrides], seed, folder / f"{condition}-{seed}")
    row = {
        "condition": condition,
        "seed": seed,
        "true_units": len(scores["units"]),
        "taught_units": facts["labelled_units"],
        "student_units": facts["num_units"],
        "student_pooled": scores["pooled_accuracy"],
        "student_mean": scores["mean_accuracy"],
        "student_s": seconds,
    }
    return row | peers_on(facts, [teacher], seed, folder / f"{condition}-{seed}")


def main(arguments):
    options = read_options(arguments, DEFAULTS)
    conditions = listed(options["conditions"])
    known = [*CONDITIONS, *GENERATED]
    if not set(conditions) <= set(known):
        sys.exit(f"expected conditions of {', '.join(known)}, got {options['conditions']}")
    rows = Rows(ROOT / options["output"], options)
    with tempfile.TemporaryDirectory() as folder:
        for condition, seed in rows.missing(conditions, listed(options["seeds"])):
            rows.add(run(condition, seed, options, Path(folder)))
            show(rows.rows[-1])
    rows.finish(command_of("teacher", options))


if __name__ == "__main__":
    main(sys.argv[1:])
