"""Make the backbones that ship inside the package, and measure what they are worth.

    python data/make_backbones.py            # all of them
    python data/make_backbones.py pursuit    # one
    python data/make_backbones.py dense anew # from the start, whatever there is

Stopped, the same command goes on: weights of the same recipe are kept, and so are the scores that they have.

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
        *(["probe=tetrode", f"labels={labels}", "seed=101"] for labels in (10, 5, 2)),
        ["model=convrecurrent", "probe=tetrode", "labels=10", "seed=101"],
        *(["probe=neuronexus32", f"labels={labels}", "seed=101"] for labels in (10, 2)),
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


def try_out(name: str, shipped: Path, folder: Path) -> None:
    """Score recordings from nothing, from the backbone that ships, and from one of their own.

    Scores are written into the story of the shipped one as soon as they are known; those that stand there are
    not measured again. What costs most, a backbone for each recording, comes last.
    """
    path = shipped.with_suffix(".json")
    story = json.loads(path.read_text(encoding="utf-8"))
    known = {row["recording"]: row for row in story["scores"]}
    trials = {" ".join(overrides): overrides for overrides in TRIALS[name]}
    rows = {recording: known.get(recording, {"recording": recording}) for recording in trials}
    for kinds in (("scratch", "shipped"), ("own",)):
        for number, (recording, overrides) in enumerate(trials.items()):
            model = [] if overrides[0].startswith("model=") else [f"model={name}"]
            for kind in kinds:
                if kind not in rows[recording]:
                    plan = plan_of(*model, "label_budget=per_unit", *overrides)
                    accuracy = try_one(kind, plan, shipped, folder / f"{number}_{kind}")
                    rows[recording][kind] = round(accuracy, 4)
                    print(kind, rows[recording], flush=True)
            story["scores"] = [row for row in rows.values() if {"scratch", "shipped"} <= set(row)]
            write_json(path, story)


def try_one(kind: str, plan: TrainingPlan, shipped: Path, folder: Path) -> float:
    """Score a recording that is learned from nothing, from what ships, or from a backbone of its own."""
    if kind == "scratch":
        return pooled_accuracy(plan, None, folder)
    if kind == "shipped":
        return pooled_accuracy(plan, shipped, folder)
    own, _ = find_or_make_backbone(
        plan.source,
        plan.pretraining,
        plan.settings,
        cache=plan.cache,
        folder=folder.with_name(f"{folder.name}_made"),
    )
    return pooled_accuracy(plan, own, folder)


def is_made(path: Path, command: str, plan: TrainingPlan) -> bool:
    """Whether the package has what this recipe makes."""
    if not (path.is_file() and path.with_suffix(".json").is_file()):
        return False
    story = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    recipe = {
        "command": command,
        "source_digest": plan.source.digest(),
        "learning": json.loads(json.dumps(asdict(plan.pretraining))),
        "file_digest": sha256_of_file(path),
    }
    made = load_card(path).preprocessing
    corners = {name: getattr(plan.settings.preprocessing, name) for name in ("freq_min_hz", "freq_max_hz")}
    return all(story[name] == value for name, value in recipe.items()) and all(
        made[name] == value for name, value in corners.items()
    )


def make(name: str, folder: Path, *, anew: bool) -> None:
    """Make one backbone, with its card, put both into the package, and try it out."""
    overrides = ["training=pretrain", *RECIPES[name]]
    command = shlex.join(["python", "train.py", *overrides])
    plan = plan_of(*overrides)
    target = Path(pretrained.__file__).parent / f"{name}.safetensors"
    if anew or not is_made(target, command, plan):
        made, metrics = find_or_make_backbone(
            plan.source, plan.pretraining, plan.settings, cache=plan.cache, folder=folder
        )
        shutil.copyfile(made, target)
        card = load_card(target)
        story: dict[str, Any] = {
            "command": command,
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
    try_out(name, target, folder)
    print(json.dumps({"made": str(target), "bytes": target.stat().st_size}))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    words = sys.argv[1:]
    chosen = [word for word in words if word != "anew"] or list(RECIPES)
    for word in chosen:
        if word not in RECIPES:
            sys.exit(f"error: expected one of {', '.join(RECIPES)}, got {word!r}")
    with tempfile.TemporaryDirectory() as scratch:
        for word in chosen:
            make(word, Path(scratch) / word, anew="anew" in words)
