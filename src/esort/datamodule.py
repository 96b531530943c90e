"""Examples for Lightning: the same batches for the same seed, wherever training was resumed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from esort.examples import SpikeExamples

__all__ = ["SpikeDataModule"]

_PHASES = {"train": 0, "val": 1}


class _Batches(Dataset):
    """Batches by number: batch i follows from the seed and i alone, of which each process has a share."""

    def __init__(
        self, examples: SpikeExamples, *, phase: str, batch_size: int, seed: int, share: slice
    ) -> None:
        self.examples = examples
        self.phase = phase
        self.batch_size = batch_size
        self.seed = seed
        self.share = share

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = np.random.default_rng([self.seed, _PHASES[self.phase], index])
        batch = self.examples.batch(rng, self.batch_size)
        return (
            torch.from_numpy(batch.traces[self.share]),  # (B, T, C)
            torch.from_numpy(batch.targets[self.share]),  # (B, U)
            torch.from_numpy(batch.known[self.share]),  # (B, U)
        )


class _EpochSampler(Sampler[int]):
    """Numbers of the batches of one epoch."""

    def __init__(self, num_batches: int, epoch: int) -> None:
        self.num_batches = num_batches
        self.epoch = epoch

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this in front of each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.epoch * self.num_batches, (self.epoch + 1) * self.num_batches))

    def __len__(self) -> int:
        return self.num_batches


class SpikeDataModule(pl.LightningDataModule):
    """Batches of examples for training and validation.

    Parameters
    ----------
    train, validation : SpikeExamples
        Made from labelled spikes that do not overlap.
    batch_size : int
    batches_per_epoch : int
    validation_batches : int
        The same ones in each epoch.
    seed : int
        Batch i of an epoch e is a function of this and ``e * batches_per_epoch + i``.
    """

    def __init__(
        self,
        train: SpikeExamples,
        validation: SpikeExamples,
        *,
        batch_size: int,
        batches_per_epoch: int,
        validation_batches: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.train = train
        self.validation = validation
        self.batch_size = batch_size
        self.batches_per_epoch = batches_per_epoch
        self.validation_batches = validation_batches
        self.seed = seed

    def train_dataloader(self) -> DataLoader:
        """Loader of the training batches."""
        # After a resume Lightning asks for the first batches before it has told the sampler the epoch.
        # `processed` and not `current_epoch`: a checkpoint saved at the end of an epoch has yet to count it.
        epoch = 0 if self.trainer is None else self.trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
        return self._loader(self.train, "train", _EpochSampler(self.batches_per_epoch, epoch))

    def val_dataloader(self) -> DataLoader:
        """Loader of the validation batches."""
        return self._loader(self.validation, "val", range(self.validation_batches))

    def _loader(self, examples: SpikeExamples, phase: str, sampler: Sampler[int] | range) -> DataLoader:
        # Processes that train together see the batches that one would see, each a part of the windows. All
        # validate on all windows, so that they agree on which epoch is the best.
        together = self.trainer if phase == "train" else None
        share = slice(together.global_rank, None, together.world_size) if together else slice(None)
        batches = _Batches(examples, phase=phase, batch_size=self.batch_size, seed=self.seed, share=share)
        return DataLoader(batches, sampler=sampler, batch_size=None, num_workers=0)
