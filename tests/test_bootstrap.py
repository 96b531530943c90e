"""Learning without Hydra has the defaults of ``conf/train.yaml``, apart from what is meant to differ."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from entries import ROOT
from hydra import compose, initialize_config_dir

from esort.bootstrap import Bootstrap, default_cache
from esort.plan import TrainingPlan
from esort.recordings import RecordingPath
from esort.subject import open_subject


@pytest.fixture(scope="module")
def plan():
    overrides = ["recording=path", "recording.path=somewhere", "teacher=lupin", "trainer=auto"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return TrainingPlan.from_config(compose("train", overrides=overrides))


def test_the_same_learning(plan):
    ours = Bootstrap()
    assert asdict(ours.pretraining) == asdict(plan.pretraining)
    assert asdict(ours.finetuning) == asdict(plan.finetuning)
    assert replace(ours.settings, make_trainer=None, network=None) == replace(
        plan.settings, make_trainer=None, network=None
    )
    assert asdict(ours.settings.network) == asdict(plan.settings.network)
    assert ours.settings.make_trainer.func is plan.settings.make_trainer.func
    assert ours.settings.make_trainer.keywords == plan.settings.make_trainer.keywords


def test_the_same_source_so_that_backbones_are_shared(plan, trained):
    subject = open_subject(RecordingPath(path=trained.run["recording"]), trained.cache)
    assert Bootstrap().source(subject).digest() == plan.source_for(subject).digest()


def test_values_reach_their_objects():
    ours = Bootstrap.from_parameters(
        {"labels": 5, "label_budget": "per_unit", "freq_min_hz": 500.0, "epochs": 3, "seed": 7, "other": 1}
    )
    assert ours.budget.amount == 5
    assert ours.settings.preprocessing.freq_min_hz == 500
    assert ours.settings.seed == 7
    assert ours.finetuning.epochs == 3


def test_the_teacher_is_shown_a_part_of_a_long_recording(trained, tmp_path):
    """Labels come from `teacher_seconds`, and the checkpoint says so."""
    subject = trained.subject()
    subject.ground_truth.save(folder=tmp_path / "labels")
    ours = Bootstrap(teacher_path=str(tmp_path / "labels"), teacher_seconds=4.0, training="scratch", epochs=1)
    checkpoint = ours.learn(subject, tmp_path / "out")
    from esort.checkpoint import load_card

    labels = load_card(checkpoint).labels
    assert (labels.start_sample, labels.stop_sample) == (0, 128_000)
    train = subject.ground_truth.to_spike_vector()["sample_index"]
    assert labels.num_labels <= np.searchsorted(train, 128_000)


def test_the_cache_is_the_user_s(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache().name == "esort"
