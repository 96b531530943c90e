"""Batches by number: what they depend on and what not."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from learning_data import make_toy

from esort.datamodule import SpikeDataModule
from esort.examples import ExampleSpec, SpikeExamples
from esort.lightning import quiet_lightning


@pytest.fixture(scope="module")
def examples():
    toy = make_toy(seconds=2.0)
    return SpikeExamples(
        toy.traces,
        toy.labels(per_unit=5),
        window=toy.window,
        spec=ExampleSpec(pool_size=200),
        rng=np.random.default_rng(0),
    )


def make(examples, *, seed=0, batches_per_epoch=3):
    return SpikeDataModule(
        examples,
        examples,
        batch_size=8,
        batches_per_epoch=batches_per_epoch,
        validation_batches=2,
        seed=seed,
    )


def batches(loader, epoch=0):
    if hasattr(loader.sampler, "set_epoch"):
        loader.sampler.set_epoch(epoch)
    return list(loader)


def equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_batch_depends_on_seed_and_number_only(examples):
    first, again, other = make(examples), make(examples), make(examples, seed=1)
    for epoch in (0, 2):
        one = batches(first.train_dataloader(), epoch)
        assert len(one) == 3
        # asked for in another order, from a module that made no batch before
        for index in (2, 0, 1):
            single = again.train_dataloader().dataset[epoch * 3 + index]
            assert equal(one[index], single)
        assert not any(map(equal, one, batches(other.train_dataloader(), epoch)))
    traces, targets, known = one[0]
    assert traces.shape == (8, examples.window.samples, 8)
    assert targets.shape == known.shape == (8, 3)
    assert {traces.dtype, targets.dtype, known.dtype} == {torch.float32}


def test_epochs_differ_and_validation_stays(examples):
    data = make(examples)
    seen = [batch for epoch in range(3) for batch in batches(data.train_dataloader(), epoch)]
    for index, batch in enumerate(seen):
        assert not any(equal(batch, other) for other in seen[:index])
    first, second = batches(data.val_dataloader()), batches(data.val_dataloader())
    assert len(first) == 2
    assert all(map(equal, first, second))
    assert not any(equal(a, b) for a in first for b in seen)


class Recorder(pl.LightningModule):
    """Learns nothing, remembers what it was given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def training_step(self, batch, batch_index):
        self.seen.append(batch[0].sum().item())
        return (self.weight**2).sum()

    def validation_step(self, batch, batch_index):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(examples, folder, *, epochs, resume=None):
    module = Recorder()
    with quiet_lightning():
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            default_root_dir=folder,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(module, datamodule=make(examples), ckpt_path=resume)
        trainer.save_checkpoint(folder / "last.ckpt")
    return module.seen


def test_resumed_training_sees_what_uninterrupted_training_sees(examples, tmp_path):
    whole = fit(examples, tmp_path, epochs=3)
    assert len(set(whole)) == 9
    begun = fit(examples, tmp_path, epochs=1)
    rest = fit(examples, tmp_path, epochs=3, resume=tmp_path / "last.ckpt")
    assert begun + rest == whole
