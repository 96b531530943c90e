"""What a training leaves in its folder, so that it can be gone on with after an interruption."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from esort.files import read_json, write_json
from esort.labels import LabelledSpikes
from esort.network import SpikeNetwork

__all__ = ["TrainingFiles", "training_digest"]


def training_digest(
    network: SpikeNetwork, traces: np.ndarray, labels: LabelledSpikes, settings: dict[str, Any], seed: int
) -> str:
    """Return what tells trainings apart, in hexadecimal.

    It covers first weights, labels, settings, seed, and of the traces their shape and beginning.

    Parameters
    ----------
    network : SpikeNetwork
        Before the training.
    traces : float32 array, shape (N, C)
    labels : LabelledSpikes
    settings : dict
        Plain values.
    seed : int
    """
    content = [settings, seed, traces.shape, labels.start_sample, labels.stop_sample, labels.complete]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for array in (labels.sample_index, labels.unit_index, traces[: network.window_samples]):
        digest.update(np.ascontiguousarray(array).tobytes())
    for name, value in network.state_dict().items():
        digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class TrainingFiles:
    """Lightning's checkpoints of one training, and a note of whose they are.

    Parameters
    ----------
    folder : Path
    digest : str
        See `training_digest`.
    """

    folder: Path
    digest: str

    @property
    def best(self) -> Path:
        """Checkpoint of the lowest validation loss."""
        return self.folder / "best.ckpt"

    @property
    def last(self) -> Path:
        """Checkpoint of the last epoch."""
        return self.folder / "last.ckpt"

    @property
    def note(self) -> Path:
        """Says which training the checkpoints are of, and its metrics once it is finished."""
        return self.folder / "training.json"

    def clear(self) -> None:
        """Remove all, first the note: without it nobody believes the others."""
        for path in (self.note, self.last, self.best):
            path.unlink(missing_ok=True)

    def begin(self) -> dict[str, float] | None:
        """Make ready to begin or to go on; return the metrics of a training that was finished before.

        Raises
        ------
        ValueError
            If the files are another training's, or their note is damaged.
        """
        if not self.note.exists():
            self.clear()
            write_json(self.note, {"digest": self.digest, "metrics": None})
            return None
        try:
            content = read_json(self.note)
            metrics = content.get("metrics")
            if metrics is not None and not _are_numbers(metrics):
                raise ValueError(f"{self.note} is damaged: metrics must be numbers, got {metrics!r:.80}")
        except ValueError as error:
            raise ValueError(f"{error}; start anew with resume=false") from None
        if content.get("digest") != self.digest:
            raise ValueError(
                f"{self.folder} holds a training with other settings, labels or traces: resume it with "
                "the same ones, or start anew with resume=false"
            )
        return metrics

    def finish(self, metrics: dict[str, float]) -> None:
        """Note that the training has been finished."""
        write_json(self.note, {"digest": self.digest, "metrics": metrics})

    def load_best(self, network: SpikeNetwork) -> None:
        """Give the network the weights of the lowest validation loss, and put it into evaluation mode."""
        state = torch.load(self.best, map_location="cpu", weights_only=True)["state_dict"]
        network.load_state_dict({name.removeprefix("network."): value for name, value in state.items()})
        network.eval()


def _are_numbers(metrics: Any) -> bool:
    return isinstance(metrics, dict) and all(
        value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
        for value in metrics.values()
    )
