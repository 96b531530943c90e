"""Loss against a loop, a real fit, and what Lightning may say."""

import logging
import warnings

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_data import make_toy

from esort.datamodule import SpikeDataModule
from esort.dense_network import DenseNetwork
from esort.examples import ExampleSpec, SpikeExamples
from esort.lightning import EpochLines, SpikeModule, masked_loss, quiet_lightning


def make_network(toy, num_units=3):
    torch.manual_seed(0)
    return DenseNetwork(
        num_channels=toy.traces.shape[1],
        num_units=num_units,
        window_samples=toy.window.samples,
        peak_offset_samples=toy.window.before_samples,
        hidden_features=24,
    )


def make_module(network, total_steps=40):
    return SpikeModule(
        network, learning_rate=5e-3, head_learning_rate=1e-2, weight_decay=1e-4, total_steps=total_steps
    )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), windows=st.integers(1, 6), num_units=st.integers(1, 4))
def test_loss_against_a_loop(seed, windows, num_units):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 5, (windows, num_units))
    targets, known = rng.integers(0, 2, (2, windows, num_units))
    expected = 0.0
    for row in range(windows):
        for unit in range(num_units):
            if known[row, unit]:
                probability = 1 / (1 + np.exp(-logits[row, unit]))
                right = probability if targets[row, unit] else 1 - probability
                expected -= np.log(right)
    found = masked_loss(*(torch.as_tensor(a, dtype=torch.float64) for a in (logits, targets, known)))
    assert found.item() == pytest.approx(expected / windows, rel=1e-6, abs=1e-9)


def test_what_is_unknown_has_no_gradient():
    logits = torch.zeros(2, 2, requires_grad=True)
    known = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    masked_loss(logits, torch.ones(2, 2), known).backward()
    assert torch.equal(logits.grad != 0, known != 0)


def test_loss_is_finite_for_certain_and_wrong_outputs():
    logits = torch.tensor([[1e4, -1e4]])
    assert torch.isfinite(masked_loss(logits, torch.tensor([[0.0, 1.0]]), torch.ones(1, 2)))


def test_head_and_body_have_their_own_rates():
    toy = make_toy(seconds=0.5)
    network = make_network(toy)
    chosen = make_module(network).configure_optimizers()
    body, head = chosen["optimizer"].param_groups
    assert {id(p) for p in head["params"]} == {id(p) for p in network.parameters_of_head()}
    assert len(body["params"]) + len(head["params"]) == len(list(network.parameters()))
    assert (body["max_lr"], head["max_lr"]) == (5e-3, 1e-2)
    assert chosen["lr_scheduler"]["interval"] == "step"


def make_data(toy, batches_per_epoch=10):
    examples = SpikeExamples(
        toy.traces,
        toy.labels(per_unit=10),
        window=toy.window,
        spec=ExampleSpec(pool_size=500),
        rng=np.random.default_rng(0),
    )
    return SpikeDataModule(
        examples, examples, batch_size=32, batches_per_epoch=batches_per_epoch, validation_batches=2, seed=0
    )


def make_trainer(folder, callbacks=(), epochs=4):
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
    )


def test_a_real_fit_lowers_the_loss_in_silence(tmp_path, caplog, capfd):
    toy = make_toy(seconds=2.0)
    module = make_module(make_network(toy))
    lines = EpochLines("toy", 4)
    with (
        caplog.at_level(logging.INFO),
        warnings.catch_warnings(record=True) as caught,
        quiet_lightning(),
    ):
        trainer = make_trainer(tmp_path, [lines])
        trainer.fit(module, datamodule=make_data(toy))
    assert [str(warning.message) for warning in caught] == []
    assert {record.name for record in caplog.records} == {"esort.lightning"}
    assert capfd.readouterr() == ("", "")
    assert set(trainer.callback_metrics) == {"train/loss", "train/f1", "val/loss", "val/f1"}
    losses = [epoch["val/loss"] for epoch in lines.history]
    assert len(losses) == 4
    assert losses[-1] < 0.7 * losses[0]
    assert lines.best() == min(lines.history, key=lambda epoch: epoch["val/loss"])
    assert 0 <= lines.best()["val/f1"] <= 1
    first, *_, last = (record.getMessage() for record in caplog.records)
    assert first.startswith("toy: epoch 1/4, loss ")
    assert last.startswith("toy: epoch 4/4, loss ")
    assert last.endswith("(at most 0 s left)")


def test_memory_of_the_epochs_can_be_kept():
    lines, again = EpochLines("a", 3), EpochLines("a", 3)
    assert lines.best() == {}
    lines.history = [{"val/loss": 2.0}, {"val/loss": 1.0}]
    again.load_state_dict(lines.state_dict())
    assert again.best() == {"val/loss": 1.0}


def test_quiet_only_inside_and_only_what_is_listed(recwarn):
    talker = logging.getLogger("pytorch_lightning")
    before = talker.level
    with pytest.raises(KeyError), quiet_lightning():
        assert talker.getEffectiveLevel() == logging.WARNING
        assert logging.getLogger("esort").level != logging.WARNING
        warnings.warn("The 'val_dataloader' does not have many workers which may be", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
        raise KeyError
    assert talker.level == before
    assert [str(warning.message) for warning in recwarn] == ["something else"]


def test_logits_of_the_module_are_the_networks():
    toy = make_toy(seconds=0.5)
    network = make_network(toy).eval()
    traces = torch.randn(2, toy.window.samples + 4, 8)
    assert torch.equal(make_module(network)(traces), network(traces))
