"""One training that many tests look at."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from entries import SMALL, SMALL_TARGET, Ended, run, run_process


@dataclass(frozen=True)
class Trained:
    """What ``python train.py`` left."""

    ended: Ended
    folder: Path
    cache: Path

    @property
    def checkpoint(self):
        return self.folder / "model.safetensors"

    @property
    def run(self):
        return json.loads((self.folder / "run.json").read_text())

    @property
    def scores(self):
        return json.loads((self.folder / "scores.json").read_text())

    def subject(self):
        """The recording that was learned and sorted."""
        from esort.recordings import RecordingPath
        from esort.subject import open_subject

        return open_subject(RecordingPath(path=self.run["recording"]), self.cache)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    folder = tmp_path_factory.mktemp("runs") / "trained"
    ended = run_process("train.py", *SMALL, f"cache={cache}", f"hydra.run.dir={folder}")
    assert ended.code == 0, ended.out + ended.err
    return Trained(ended, folder, cache)


@pytest.fixture(scope="session")
def trained_pursuit(trained, tmp_path_factory):
    """The same recording, learned by the pursuit."""
    folder = tmp_path_factory.mktemp("runs") / "pursuit"
    ended = run(
        "train.py",
        *SMALL_TARGET,
        "model=pursuit",
        "training=scratch",
        "label_budget=per_unit",
        "labels=20",
        f"cache={trained.cache}",
        f"hydra.run.dir={folder}",
    )
    assert ended.code == 0, ended.out + ended.err
    return Trained(ended, folder, trained.cache)
