"""Glue between a network and Lightning: loss, metrics, optimiser."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional

from esort.network import SpikeNetwork

__all__ = ["SpikeModule", "masked_loss"]


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
        # One name in both phases: curves of training and validation lie in one picture.
        self.log_dict(
            {f"{phase}/loss": loss, f"{phase}/f1": f1},
            on_step=False,
            on_epoch=True,
            batch_size=len(traces),
            prog_bar=phase == "val",
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
