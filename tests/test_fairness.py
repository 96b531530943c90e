"""The rules of a fair comparison hold, and what breaks them is stopped."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import pytorch_lightning as pl
from entries import run
from learning_data import make_toy
from spikeinterface.core import NumpyRecording, NumpySorting

from esort.card import LabelSource
from esort.checkpoint import load_card
from esort.detector import Postprocessing
from esort.examples import ExampleSpec
from esort.fairness import check_apart, check_same_task, check_scored_time
from esort.health import fingerprint
from esort.labels import LabelBudget
from esort.learning import LearningSpec
from esort.network import NetworkSpec
from esort.preprocessing import Preprocessing
from esort.probes import ProbeSpec
from esort.simulation import SimulationSpec, TemplateBank
from esort.subject import Subject
from esort.teacher import Teacher
from esort.teaching import draw_labels
from esort.training import TrainingSettings, train_units

SOURCE = SimulationSpec(probe=ProbeSpec(name="tetrode"), split="source")
TARGET = replace(SOURCE, split="target")
pytestmark = pytest.mark.filterwarnings("ignore:The extractor is not serializable")


def test_source_and_target_share_no_template_and_on_demand_no_cell_model():
    check_apart(SOURCE, TARGET)
    apart = [replace(spec, disjoint_cell_models=True) for spec in (SOURCE, TARGET)]
    check_apart(*apart)
    bank = TemplateBank.load()
    models = [set(bank.cell_models[bank.split(spec.split, disjoint_cell_models=True)]) for spec in apart]
    assert not models[0] & models[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "target"}, "source and target must share no template, got 335 in common"),
        ({"disjoint_cell_models": True}, "must share no template, got .* source source .*=True"),
    ],
)
def test_what_is_not_apart_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        check_apart(replace(SOURCE, **changes), TARGET)


def test_training_refuses_it_before_anything_is_made(tmp_path):
    ended = run("train.py", "recording.source.split=target", f"hydra.run.dir={tmp_path / 'run'}")
    assert "source and target must share no template, got 335 in common" in ended.error_line()
    # From nothing there is no source.
    ended = run(
        "train.py",
        "recording.source.split=target",
        "training=scratch",
        "label_budget=per_unit",
        "labels=0",
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    assert "labels for label_budget=per_unit must be" in ended.error_line()


def make_subject(toy, *, truth=True):
    num_channels = toy.traces.shape[1]
    recording = NumpyRecording((10 * toy.traces).astype("float32"), toy.rate)
    recording.set_dummy_probe_from_locations(
        np.column_stack([np.zeros(num_channels), 20.0 * np.arange(num_channels)])
    )
    recording.set_channel_gains(1.0)
    recording.set_channel_offsets(0.0)
    sorting = NumpySorting.from_samples_and_labels(toy.sample_index, toy.unit_index, toy.rate)
    return Subject(
        recording=recording,
        ground_truth=sorting if truth else None,
        source="toy",
        fingerprint=fingerprint(recording),
    )


def learned(subject, labels, folder):
    """Everything that a training decided: weights, thresholds."""
    settings = TrainingSettings(
        network=NetworkSpec(parameters={"temporal_features": [4, 6], "hidden_features": 16}),
        preprocessing=Preprocessing(common_reference="none"),
        postprocessing=Postprocessing(),
        make_trainer=functools.partial(
            pl.Trainer,
            accelerator="cpu",
            deterministic=True,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
        ),
    )
    learning = LearningSpec(
        epochs=2, batches_per_epoch=5, batch_size=64, examples=ExampleSpec(pool_size=300), matched_start=True
    )
    path = folder / "model.safetensors"
    train_units(subject, labels, learning, settings, backbone=None, path=path, folder=folder)
    card = load_card(path)
    return card.weights_digest, card.thresholds, card.noise_level_uv


def test_under_a_budget_nothing_else_of_the_ground_truth_is_used(tmp_path):
    toy = make_toy(seconds=4.0)
    subject = make_subject(toy)
    labels = draw_labels(subject, Teacher(), LabelBudget(kind="per_unit", amount=5), seed=0, folder=tmp_path)
    assert labels.num_spikes == 15
    known = learned(subject, labels, tmp_path / "known")
    assert learned(make_subject(toy, truth=False), labels, tmp_path / "unknown") == known


def test_nothing_that_is_decided_depends_on_the_part_that_is_scored(tmp_path):
    toy = make_toy(seconds=4.0)
    labels = toy.labels(per_unit=5, stop=len(toy.traces) // 2)
    first = learned(make_subject(toy), labels, tmp_path / "first")
    toy.traces[labels.stop_sample :] *= -3.0
    assert learned(make_subject(toy), labels, tmp_path / "second") == first


LABELS = LabelSource(recording_fingerprint="abc", start_sample=0, stop_sample=100, num_labels=5)


@pytest.mark.parametrize("interval", [(100, 200), (150, 151)])
def test_time_without_labels_may_be_scored(interval):
    scores = dict(zip(("start_sample", "stop_sample"), interval, strict=True))
    check_scored_time(LABELS, scores, recording_fingerprint="abc")


@pytest.mark.parametrize("interval", [(0, 200), (99, 200), (0, 1)])
def test_labelled_time_may_not_be_scored(interval):
    scores = dict(zip(("start_sample", "stop_sample"), interval, strict=True))
    with pytest.raises(RuntimeError, match=r"scored on \[.*\), but labels came from \[0, 100\)"):
        check_scored_time(LABELS, scores, recording_fingerprint="abc")
    check_scored_time(LABELS, scores, recording_fingerprint="another recording")


def test_all_sorters_get_the_same_seconds_and_the_same_tolerance():
    row = {"recording_fingerprint": "abc", "start_sample": 5, "stop_sample": 9, "delta_ms": 0.4}
    same = [row | {"sorter": name} for name in ("esort", "lupin", "tridesclous2")]
    check_same_task(same)
    check_same_task([])
    for name, value in (("start_sample", 0), ("delta_ms", 0.5), ("recording_fingerprint", "other")):
        with pytest.raises(RuntimeError, match=f"esort and lupin are compared on different {name}"):
            check_same_task([same[0], same[1] | {name: value}])
