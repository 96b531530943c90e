"""What benchmarks share that compare: our training, and other sorters, scored on the same seconds."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import spikeinterface

from esort.evaluation import score
from esort.peers import run_sorter_on
from esort.recordings import RecordingPath

ROOT = Path(__file__).parents[1]
TEN = ["label_budget=per_unit", "labels=10"]
DELTA_MS = 0.4


def learn(overrides, seed, folder):
    """Call ``train.py`` as a process of its own; return the facts of the run, its scores, and seconds."""
    begin = time.perf_counter()
    command = [sys.executable, "train.py", *map(str, overrides), f"seed={seed}", f"hydra.run.dir={folder}"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - begin
    facts, scores = (json.loads((folder / name).read_text()) for name in ("run.json", "scores.json"))
    return facts, scores, seconds


def overrides_of(path, sorting="sorting"):
    """How ``train.py`` is told of a recording that a benchmark made."""
    return [
        "recording=path",
        f"recording.path={path / 'recording'}",
        f"recording.ground_truth={path / sorting}",
    ]


def open_target(facts):
    """The recording of a run, and the truth about it."""
    where = RecordingPath(path=str(ROOT / facts["recording"]))
    truth = where.open_ground_truth() or spikeinterface.load(Path(facts["recording"]).parent / "sorting")
    return where.open(), truth


def peers_on(facts, peers, seed, folder):
    """Let other sorters sort all of a run's recording; score them where the run is scored."""
    recording, truth = open_target(facts)
    stretch = {"start_sample": facts["start_sample"], "stop_sample": facts["stop_sample"]}
    columns = {}
    for peer in peers:
        begin = time.perf_counter()
        found = run_sorter_on(recording, peer, folder / f"{peer}-{seed}", seed=seed)
        seconds = time.perf_counter() - begin
        scores = score(truth, found, **stretch, delta_ms=DELTA_MS)
        columns |= {
            f"{peer}_pooled": scores.pooled_accuracy,
            f"{peer}_mean": scores.mean_accuracy,
            f"{peer}_s": seconds,
        }
    return columns


def listed(text):
    """The parts of "a,b"; none of "none"."""
    return [] if text == "none" else text.split(",")


def command_of(script, options):
    """The command that made a result."""
    words = (shlex.quote(f"{name}={value}") for name, value in options.items())
    return " ".join([f"python benchmarks/{script}.py", *words])


def show(row):
    """Print a row as it is found."""
    print(
        "  ".join(
            f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}"
            for name, value in row.items()
        ),
        flush=True,
    )
