"""Make the backbones that ship inside the package, and measure what they are worth.

    python data/make_backbones.py            # all of them
    python data/make_backbones.py pursuit    # one

Each is what ``train.py training=pretrain`` makes with the overrides below. It is pretrained on neurons of the
bank's source half; the recordings that are simulated to be learned and sorted take theirs from the other
half (`esort.fairness`). Beside the weights a JSON file says how they were made, and what is gained: pooled
accuracy on the second half of recordings, with ten, five and two labels of each unit, starting from nothing,
from a backbone made for that recording, and from this one.
"""

from __future__ import annotations

import json
import logging
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from esort import pretrained
from esort.backbones import find_or_make_backbone
from esort.checkpoint import load_card
from esort.command import conf_folder
from esort.evaluation import score
from esort.files import sha256_of_file, write_json
from esort.plan import TrainingPlan
from esort.simulation import TemplateBank
from esort.sorter import Sorter
from esort.subject import open_subject
from esort.teaching import draw_labels
from esort.training import train_units

# Wide and dense, so that many neurons are seen: what is learned from them is for any probe. No seed of a
# benchmark.
RECIPES = {
    "pursuit": ["model=pursuit", "probe=neuropixels128", "recording.source.duration_s=60", "seed=100"],
    "dense": ["model=dense", "probe=neuronexus32", "seed=100"],
}
# Recordings that it is tried on, and labels of each unit.
TRIALS = {
    "pursuit": [
        *(["probe=neuronexus32", f"labels={labels}", "seed=101"] for labels in (10, 5, 2)),
        ["probe=neuronexus32", "labels=2", "seed=102"],
        ["probe=neuronexus32", "noise=high", "labels=5", "seed=101"],
        ["probe=tetrode", "labels=5", "seed=101"],
    ],
    # A probe of the same contacts, and one that takes the layers over time alone. The first costs most.
    "dense": [
        *(["probe=tetrode", f"labels={labels}", "seed=101"] for labels in (10, 5)),
        ["model=convrecurrent", "probe=tetrode", "labels=10", "seed=101"],
        ["probe=neuronexus32", "labels=10", "seed=101"],
    ],
}


def plan_of(*overrides: str) -> TrainingPlan:
    """Make the objects of a command line of ``train.py``."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return TrainingPlan.from_config(compose("train", overrides=list(overrides)))


def pooled_accuracy(plan: TrainingPlan, backbone: Path | None, folder: Path) -> float:
    """Learn the first half of a recording, sort the second, score it."""
    target = open_subject(plan.target, plan.cache)
    labels = draw_labels(target, plan.teacher, plan.budget, seed=plan.settings.seed, folder=folder)
    assert plan.finetuning is not None
    path = folder / "model.safetensors"
    train_units(target, labels, plan.finetuning, plan.settings, backbone=backbone, path=path, folder=folder)
    start, stop = plan.teacher.stop_sample(target.recording), target.num_samples
    found = Sorter.load(path).sort(target.recording, start_sample=start, stop_sample=stop).sorting()
    return score(target.ground_truth, found, start_sample=start, stop_sample=stop).pooled_accuracy


def try_out(name: str, shipped: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """Score recordings from nothing, from a backbone of their own, and from the one that ships."""
    for number, overrides in enumerate(TRIALS[name]):
        model = [] if overrides[0].startswith("model=") else [f"model={name}"]
        plan = plan_of(*model, "label_budget=per_unit", *overrides)
        own, _ = find_or_make_backbone(
            plan.source, plan.pretraining, plan.settings, cache=plan.cache, folder=folder / f"{number}_own"
        )
        row: dict[str, Any] = {"recording": " ".join(overrides)}
        for kind, backbone in (("scratch", None), ("own", own), ("shipped", shipped)):
            accuracy = pooled_accuracy(plan, backbone, folder / f"{number}_{kind}")
            row[kind] = round(accuracy, 4)
        print(row, flush=True)
        yield row


def make(name: str, folder: Path) -> None:
    """Make one backbone, with its card, and put both into the package."""
    overrides = ["training=pretrain", *RECIPES[name]]
    plan = plan_of(*overrides)
    made, metrics = find_or_make_backbone(
        plan.source, plan.pretraining, plan.settings, cache=plan.cache, folder=folder
    )
    target = Path(pretrained.__file__).parent / f"{name}.safetensors"
    shutil.copyfile(made, target)
    card = load_card(target)
    story: dict[str, Any] = {
        "command": shlex.join(["python", "train.py", *overrides]),
        "source": plan.source.to_dict(),
        "source_digest": plan.source.digest(),
        "template_bank": TemplateBank.load().digest,
        "learning": asdict(plan.pretraining),
        "seed": card.seed,
        "created": card.created,
        "versions": card.versions,
        "weights_digest": card.weights_digest,
        "file_digest": sha256_of_file(target),
        "validation": metrics,
        "scores": [],
    }
    # Beside the weights from the start: without it they are of no use.
    write_json(target.with_suffix(".json"), story)
    for row in try_out(name, target, folder):
        story["scores"].append(row)
        write_json(target.with_suffix(".json"), story)
    print(json.dumps({"made": str(target), "bytes": target.stat().st_size}))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        for chosen in sys.argv[1:] or RECIPES:
            if chosen not in RECIPES:
                sys.exit(f"error: expected one of {', '.join(RECIPES)}, got {chosen!r}")
            make(chosen, Path(scratch) / chosen)
