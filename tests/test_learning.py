"""Splits of the labels, and training on a small recording: seeds, interruption, best weights."""

import functools
import json
import logging

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_data import make_toy

from esort.dense_network import DenseNetwork
from esort.examples import ExampleSpec, SpikeExamples
from esort.labels import LabelledSpikes
from esort.learning import LearningSpec, learn, split_labels
from esort.windows import Window

SPEC = LearningSpec(
    epochs=3,
    batches_per_epoch=8,
    batch_size=32,
    validation_batches=2,
    matched_start=True,
    examples=ExampleSpec(pool_size=300),
)


class Interrupted(Exception):
    """Pulled plug."""


class PullThePlug(pl.Callback):
    """Stop in the middle of an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
        if trainer.current_epoch == self.epoch and batch_index == 3:
            raise Interrupted


def make_trainer(*, callbacks, extra=(), **options):
    return pl.Trainer(
        accelerator="cpu",
        devices=1,
        deterministic=True,
        gradient_clip_val=10.0,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks, *extra],
        **options,
    )


def make_network(toy, num_units=None, seed=0):
    torch.manual_seed(seed)
    return DenseNetwork(
        num_channels=toy.traces.shape[1],
        num_units=len(toy.waveforms) if num_units is None else num_units,
        window_samples=toy.window.samples,
        peak_offset_samples=toy.window.before_samples,
        hidden_features=16,
    )


@pytest.fixture(scope="module")
def toy():
    return make_toy(seconds=2.5)


def train(toy, folder, spec=SPEC, *, labels=None, seed=0, plug=None, network=None, **options):
    network = make_network(toy) if network is None else network
    trainer = functools.partial(make_trainer, extra=() if plug is None else (PullThePlug(plug),))
    labels = toy.labels(per_unit=10) if labels is None else labels
    metrics = learn(
        network, toy.traces, labels, spec, make_trainer=trainer, folder=folder, seed=seed, **options
    )
    return metrics, {name: value.clone() for name, value in network.state_dict().items()}


@pytest.fixture(scope="module")
def whole(toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return (*train(toy, folder), folder)


def assert_same(first, second):
    assert set(first) == set(second)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_same_seed_same_bits(toy, whole, tmp_path):
    metrics, state, _ = whole
    torch.manual_seed(77)  # what happened before does not matter
    again, same = train(toy, tmp_path, network=make_network(toy))
    assert again == metrics
    assert_same(same, state)
    _, other = train(toy, tmp_path, seed=1)
    assert not torch.equal(other["head.weight"], state["head.weight"])


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_interrupted_and_resumed_is_as_if_nothing_had_happened(toy, whole, tmp_path, epoch):
    metrics, state, _ = whole
    with pytest.raises(Interrupted):
        train(toy, tmp_path, plug=epoch)
    again, resumed = train(toy, tmp_path, resume=True)
    assert again == metrics
    assert_same(resumed, state)


def test_a_finished_training_is_not_done_again(toy, whole, caplog):
    metrics, state, folder = whole
    caplog.set_level(logging.INFO)
    again, resumed = train(toy, folder, resume=True)
    assert again == metrics
    assert_same(resumed, state)
    assert caplog.text == ""


def test_without_resume_old_files_are_not_believed(toy, whole, tmp_path):
    _, state, _ = whole
    train(toy, tmp_path, seed=1)
    with pytest.raises(Interrupted):
        train(toy, tmp_path, plug=0)
    _, resumed = train(toy, tmp_path, resume=True)
    assert_same(resumed, state)


def test_another_training_is_not_resumed(toy, tmp_path):
    with pytest.raises(Interrupted):
        train(toy, tmp_path, plug=1)
    for changes in (
        {"seed": 1},
        {"labels": toy.labels(per_unit=9)},
        {"spec": LearningSpec(epochs=4, examples=SPEC.examples)},
        {"network": make_network(toy, seed=5)},
    ):
        with pytest.raises(ValueError, match="holds a training with other settings, labels or traces"):
            train(toy, tmp_path, resume=True, **changes)


def test_the_best_weights_are_restored(toy, whole):
    metrics, state, folder = whole
    best = torch.load(folder / "best.ckpt", weights_only=True)["state_dict"]
    for name, value in state.items():
        assert torch.equal(value, best[f"network.{name}"])
    assert metrics["epochs"] == 3
    assert json.loads((folder / "training.json").read_text())["metrics"] == metrics


def test_training_that_gets_worse_ends_early_with_its_best(toy, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    spec = LearningSpec(
        epochs=8,
        batches_per_epoch=6,
        batch_size=16,
        validation_batches=2,
        learning_rate=1.0,  # far too much once the schedule has warmed up
        head_learning_rate=1.0,
        patience=1,
        examples=SPEC.examples,
    )
    network = make_network(toy)
    metrics, state = train(toy, tmp_path, spec, network=network)
    losses = [float(r.getMessage().split("validation loss ")[1].split(",")[0]) for r in caplog.records]
    assert metrics["epochs"] == len(losses) < 8
    assert metrics["val/loss"] == pytest.approx(min(losses), abs=1e-3)
    assert losses[-1] > min(losses)
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert not torch.equal(last["network.head.weight"], state["head.weight"])


def test_training_lowers_the_loss_and_ends_in_evaluation(toy, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    network = make_network(toy)
    spec = LearningSpec(
        epochs=3, batches_per_epoch=20, batch_size=32, validation_batches=2, examples=SPEC.examples
    )
    metrics, _ = train(toy, tmp_path, spec, network=network, name="scratch")
    assert not network.training
    first = float(caplog.records[0].getMessage().split("validation loss ")[1].split(",")[0])
    assert metrics["val/loss"] < 0.8 * first
    assert caplog.records[0].getMessage().startswith("scratch: epoch 1/3")


def test_normalisation_learns_after_a_matched_start(toy, whole):
    """Lightning trains in the mode that it finds: one left in evaluation would freeze the statistics."""
    _, state, _ = whole
    seen = state["mixing_norm.num_batches_tracked"].item()
    assert seen in (8, 16, 24)  # all batches up to the best epoch


def test_nothing_reaches_the_terminal(toy, tmp_path, capfd, recwarn, caplog):
    caplog.set_level(logging.INFO)
    train(toy, tmp_path)
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in recwarn] == []
    assert {record.name for record in caplog.records} == {"esort.lightning"}


def test_traces_beyond_the_labelled_time_are_not_read(toy, tmp_path):
    stop = 40_000
    labels = toy.labels(per_unit=8, stop=stop)
    metrics, state = train(toy, tmp_path, labels=labels)
    poisoned = make_toy(seconds=2.5)
    poisoned.traces[stop:] = np.nan
    again, same = train(poisoned, tmp_path, labels=labels)
    assert again == metrics
    assert_same(same, state)


@pytest.mark.parametrize("complete", [True, False])
def test_one_unit_one_label_one_channel(tmp_path, complete):
    toy = make_toy(num_units=1, num_channels=1, seconds=1.0)
    labels = toy.labels(per_unit=1, complete=complete)
    metrics, state = train(toy, tmp_path, labels=labels)
    assert np.isfinite(metrics["val/loss"])
    assert all(torch.isfinite(value).all() for value in state.values())


def test_annotated_time_with_no_room_for_validation_serves_both(tmp_path):
    """The last part, cut off for validation, would be shorter than a window."""
    toy = make_toy(num_units=2, seconds=0.5, firing_hz=30.0)
    room = SPEC.examples.room(toy.window, toy.rate)
    spec = LearningSpec(
        epochs=1, batches_per_epoch=2, batch_size=8, validation_fraction=0.005, examples=SPEC.examples
    )
    assert 0.005 * len(toy.traces) < room.samples
    metrics, _ = train(toy, tmp_path, spec, labels=toy.labels(complete=True))
    assert np.isfinite(metrics["val/loss"])


def make_labels(samples, units, *, num_units, stop=1000, complete):
    return LabelledSpikes(
        sample_index=np.asarray(samples, dtype=np.int64),
        unit_index=np.asarray(units, dtype=np.int64),
        unit_ids=tuple(range(num_units)),
        sampling_frequency=20_000.0,
        start_sample=0,
        stop_sample=stop,
        complete=complete,
    )


@settings(max_examples=80, deadline=None)
@given(
    samples=st.lists(st.integers(0, 999), min_size=1, max_size=60),
    num_units=st.integers(1, 4),
    fraction=st.floats(0, 0.5),
    complete=st.booleans(),
    seed=st.integers(0, 100),
)
def test_a_split_is_disjoint_and_keeps_every_unit(samples, num_units, fraction, complete, seed):
    rng = np.random.default_rng(seed)
    labels = make_labels(
        sorted(samples), rng.integers(0, num_units, len(samples)), num_units=num_units, complete=complete
    )
    room = Window(before_samples=20, samples=50)
    usable = labels.counts()
    train_part, validation = split_labels(labels, fraction, np.random.default_rng(seed), room=room)
    assert train_part.unit_ids == validation.unit_ids == labels.unit_ids
    if train_part is labels:
        assert validation is labels
        return
    both = np.concatenate([train_part.sample_index, validation.sample_index])
    np.testing.assert_array_equal(np.sort(both), labels.sample_index)
    assert (train_part.counts()[usable > 0] > 0).all()
    assert validation.num_spikes > 0
    if complete:
        assert train_part.stop_sample == validation.start_sample
        assert (train_part.start_sample, validation.stop_sample) == (0, 1000)
    else:
        assert (validation.counts()[usable < 5] == 0).all()
        assert (train_part.start_sample, train_part.stop_sample) == (0, 1000)
    again = split_labels(labels, fraction, np.random.default_rng(seed), room=room)
    np.testing.assert_array_equal(again[0].sample_index, train_part.sample_index)
    # and both parts are of use for examples with that room
    for part in (train_part, validation):
        inside = (part.sample_index >= part.start_sample + 20) & (part.sample_index <= part.stop_sample - 30)
        assert inside.any()


def test_how_many_labels_are_kept():
    samples = np.arange(100, 900, 8)  # 100 of them
    labels = make_labels(samples, np.repeat([0, 1], [90, 10]), num_units=2, complete=False)
    _, validation = split_labels(labels, 0.2, np.random.default_rng(0))
    assert validation.counts().tolist() == [18, 2]
    _, validation = split_labels(labels, 0.001, np.random.default_rng(0))
    assert validation.counts().tolist() == [1, 1]


@pytest.mark.parametrize("complete", [True, False])
def test_nothing_is_kept_where_nothing_shall_be(complete):
    labels = make_labels(np.arange(100, 900, 8), np.zeros(100, dtype=int), num_units=1, complete=complete)
    train_part, validation = split_labels(labels, 0.0, np.random.default_rng(0))
    assert train_part is validation is labels


def test_few_labels_serve_both():
    labels = make_labels([100, 200, 300], [0, 0, 1], num_units=2, complete=False)
    assert split_labels(labels, 0.2, np.random.default_rng(0)) == (labels, labels)


def test_a_unit_that_fires_late_only_is_learned_nonetheless():
    labels = make_labels([100, 200, 950], [0, 0, 1], num_units=2, complete=True)
    assert split_labels(labels, 0.2, np.random.default_rng(0)) == (labels, labels)
    # also where its early spike has no room before the cut at 800
    labels = make_labels([100, 200, 790, 950], [0, 0, 1, 0], num_units=2, complete=True)
    assert split_labels(labels, 0.2, np.random.default_rng(0))[0] is not labels
    room = Window(before_samples=20, samples=50)
    assert split_labels(labels, 0.2, np.random.default_rng(0), room=room) == (labels, labels)


def test_validation_that_would_be_empty_behind_the_room():
    labels = make_labels([100, 200, 995], [0, 0, 0], num_units=1, complete=True)
    room = Window(before_samples=20, samples=50)
    assert split_labels(labels, 0.2, np.random.default_rng(0), room=room) == (labels, labels)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("epochs", 0, "a whole number of at least 1, got 0"),
        ("epochs", 1.5, "a whole number of at least 1, got 1.5"),
        ("batches_per_epoch", True, "a whole number of at least 1, got True"),
        ("batch_size", 1, "a whole number of at least 2, got 1"),
        ("validation_batches", 0, "a whole number of at least 1, got 0"),
        ("patience", 0, "a whole number of at least 1, got 0"),
        ("learning_rate", -1, r"a number in \[0, 1.0\], got -1"),
        ("head_learning_rate", "fast", r"a number in \[0, 1.0\], got 'fast'"),
        ("weight_decay", float("nan"), r"a number in \[0, 1.0\], got nan"),
        ("validation_fraction", 0.6, r"a number in \[0, 0.5\], got 0.6"),
    ],
)
def test_limits(name, value, text):
    with pytest.raises(ValueError, match=f"{name} must be {text}"):
        LearningSpec(**({"epochs": 1} | {name: value}))


@pytest.mark.parametrize("epochs", [1, 2])
def test_the_shortest_training(toy, tmp_path, epochs):
    spec = LearningSpec(epochs=epochs, batches_per_epoch=1, batch_size=2, validation_batches=1)
    metrics, _ = train(toy, tmp_path, spec)
    assert metrics["epochs"] == epochs


def test_examples_of_training_and_validation_share_no_label(toy):
    labels = toy.labels(per_unit=10)
    parts = split_labels(labels, 0.2, np.random.default_rng(0))
    train_examples, validation = (
        SpikeExamples(
            toy.traces, part, window=toy.window, spec=SPEC.examples, rng=np.random.default_rng(0)
        ).labels
        for part in parts
    )
    pairs = [
        set(zip(part.sample_index, part.unit_index, strict=True)) for part in (train_examples, validation)
    ]
    assert not pairs[0] & pairs[1]
