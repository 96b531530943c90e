"""Two processes that train together find what one finds, and leave what one leaves."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
from entries import SMALL, run_process

from esort.tracking import read_metrics

TOLERANCE = 0.02
"""Batch normalisation sees half a batch in each process: with gloo there is no exchange of it."""


def files(folder: Path) -> set[str]:
    """Names of all that a run left, without what is named by the time."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_two_processes_score_as_one(trained, tmp_path):
    folder = tmp_path / "two"
    ended = run_process(
        "train.py",
        *SMALL,
        "trainer.devices=2",
        "trainer.strategy=ddp",
        f"cache={tmp_path / 'cache'}",
        f"hydra.run.dir={folder}",
    )
    assert ended.code == 0, ended.out + ended.err
    assert "2 processes train together" in ended.out
    scores = json.loads((folder / "scores.json").read_text())
    for name in ("pooled_accuracy", "mean_accuracy"):
        print(f"{name}: {trained.scores[name]:.4f} by one process, {scores[name]:.4f} by two")
        assert scores[name] == pytest.approx(trained.scores[name], abs=TOLERANCE), name
    # Only the first process writes: the same files, each epoch once.
    assert files(folder) == files(trained.folder)
    for name, (steps, _) in read_metrics(folder / "metrics.csv").items():
        assert steps == read_metrics(trained.folder / "metrics.csv")[name][0], name
    with open(folder / "metrics.csv") as file:
        rows = Counter((row["time"], row["name"]) for row in csv.DictReader(file))
    assert max(rows.values()) == 1
    assert ended.out.count("finetune: epoch 1/2") == 1
