"""Glue between a network and Lightning: loss, metrics, optimiser."""

from __future__ import annotations

import io
import logging
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.nn import functional

from esort.files import write_atomically
from esort.network import SpikeNetwork

logger = logging.getLogger(__name__)

__all__ = ["EpochLines", "SpikeModule", "WholeFiles", "masked_loss", "quiet_lightning"]

# Warnings of Lightning that tell a user of esort nothing, by their beginning, with the reason.
_NOISE = (
    # Batches are cut from a memory map in less time than a step takes: workers would only cost memory.
    r"The '\w+_dataloader' does not have many workers",
    # Lightning calls a part of torch's tree functions that newer versions of torch deprecate.
    r"`?isinstance\(treespec, LeafSpec\)",
    # Curves have one point per epoch, whatever the steps: there is no logging interval to be smaller than.
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    # On a SLURM cluster: a training is one process, with srun in front or without.
    r"The `srun` command is available",
    # The folder holds the last run's checkpoint, which is what resuming is for.
    r"Checkpoint directory .* exists and is not empty",
)


def masked_loss(logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """Binary cross-entropy over what is known, summed over units, mean over windows.

    Parameters
    ----------
    logits, targets, known : float tensors, shape (B, U)

    Returns
    -------
    float tensor, scalar
    """
    loss = functional.binary_cross_entropy_with_logits(logits, targets, weight=known, reduction="sum")
    return loss / len(logits)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning's advertising and hardware reports from the user's terminal; its warnings stay.

    Only Lightning's own loggers are raised to WARNING, and only the warnings listed in this module are
    dropped; both are as before afterwards.
    """
    talkers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [talker.level for talker in talkers]
    with warnings.catch_warnings():
        for beginning in _NOISE:
            warnings.filterwarnings("ignore", message=beginning)
        for talker in talkers:
            talker.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for talker, level in zip(talkers, levels, strict=True):
                talker.setLevel(level)


class WholeFiles(TorchCheckpointIO):
    """Writes Lightning's checkpoints so that each is whole or absent.

    Lightning moves them from the system's folder for temporary files: on another disk that is a copy, of
    which a killed process leaves a part.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """See `pytorch_lightning.plugins.io.CheckpointIO`."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with write_atomically(path) as partial:
            partial.write_bytes(content.getbuffer())

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read one; whatever lies there, nothing in it is run.

        Raises
        ------
        ValueError
            If it is no checkpoint of a training.
        """
        try:
            return super().load_checkpoint(path, map_location, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError):
            raise ValueError(
                f"{path} is damaged or no checkpoint of a training: start anew with resume=false"
            ) from None


class SpikeModule(pl.LightningModule):
    """Network, optimiser and one step.

    Parameters
    ----------
    network : SpikeNetwork
    learning_rate : float
        Peak of the one-cycle schedule, for the backbone.
    head_learning_rate : float
        The same for the head, which belongs to the units.
    weight_decay : float
    total_steps : int
        Length of the schedule.
    """

    def __init__(
        self,
        network: SpikeNetwork,
        *,
        learning_rate: float,
        head_learning_rate: float,
        weight_decay: float,
        total_steps: int,
    ) -> None:
        super().__init__()
        self.network = network
        self.learning_rate = learning_rate
        self.head_learning_rate = head_learning_rate
        self.weight_decay = weight_decay
        self.total_steps = total_steps

    def forward(self, traces: Tensor) -> Tensor:
        """Return logits, see `SpikeNetwork.forward`."""
        return self.network(traces)

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_index: int) -> Tensor:
        """One step of training."""
        return self._step(batch, "train")

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_index: int) -> Tensor:
        """One step of validation."""
        return self._step(batch, "val")

    def _step(self, batch: tuple[Tensor, Tensor, Tensor], phase: str) -> Tensor:
        traces, targets, known = batch
        logits = self.network(traces)[:, 0]  # (B, U)
        loss = masked_loss(logits, targets, known)
        with torch.no_grad():
            found = (logits > 0).float() * known
            hits = (found * targets).sum()
            # Dice: 2 tp / (2 tp + fp + fn) over the windows of a batch
            f1 = 2 * hits / (found.sum() + (targets * known).sum()).clamp(min=1)
        # "phase/name", one value per epoch: the curves of both phases share an axis.
        self.log_dict(
            {f"{phase}/loss": loss, f"{phase}/f1": f1},
            on_step=False,
            on_epoch=True,
            batch_size=len(traces),
            prog_bar=phase == "val",
            sync_dist=True,  # of processes that train together: the mean
        )
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW with a one-cycle schedule."""
        head = self.network.parameters_of_head()
        of_head = {id(parameter) for parameter in head}
        body = [parameter for parameter in self.network.parameters() if id(parameter) not in of_head]
        rates = [self.learning_rate, self.head_learning_rate]
        optimizer = torch.optim.AdamW(
            [{"params": body, "lr": rates[0]}, {"params": head, "lr": rates[1]}],
            weight_decay=self.weight_decay,
        )
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class EpochLines(Callback):
    """One line in the log per epoch, with the time that is left.

    It remembers the metrics of each epoch, also over a resume.

    Parameters
    ----------
    name : str
        Of the phase.
    epochs : int
        How many there are at the most.
    """

    def __init__(self, name: str, epochs: int) -> None:
        self.name = name
        self.epochs = epochs
        self.history: list[dict[str, float]] = []
        self.begin = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self.begin = perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the line."""
        values = {key: float(value) for key, value in trainer.callback_metrics.items()}
        self.history.append(values)
        seconds = perf_counter() - self.begin
        left = self.epochs - trainer.current_epoch - 1
        logger.info(
            "%s: epoch %d/%d, loss %.3f, validation loss %.3f, F1 %.3f, %.1f s (at most %.0f s left)",
            self.name,
            trainer.current_epoch + 1,
            self.epochs,
            values["train/loss"],
            values["val/loss"],
            values["val/f1"],
            seconds,
            seconds * left,
        )

    def state_dict(self) -> dict[str, Any]:
        """What Lightning keeps in its checkpoints."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self.history = list(state_dict["history"])

    def best(self) -> dict[str, float]:
        """Metrics of the epoch with the lowest validation loss (empty if none was run)."""
        return min(self.history, key=lambda values: values["val/loss"], default={})
