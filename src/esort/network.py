"""Networks that turn traces into one logit per sample and unit: what they share, and which there are.

Shapes, in one alphabet: B batch, T time samples of the input, W samples of the network's window, C channels,
F features, H hidden features, U units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["NETWORKS", "NetworkSpec", "SpikeNetwork", "build_network"]


class SpikeNetwork(nn.Module):
    """What every network of the family has in common.

    A network sees a window of `window_samples` at a time, on all channels, and says for each unit whether
    one of its spikes has its peak `peak_offset_samples` after the window's start. Given more samples than a
    window it does so for each window (stride of one sample).

    Parameters
    ----------
    num_channels, num_units, window_samples, peak_offset_samples : int
    """

    def __init__(
        self, *, num_channels: int, num_units: int, window_samples: int, peak_offset_samples: int
    ) -> None:
        super().__init__()
        for name, value in (("num_channels", num_channels), ("num_units", num_units)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= peak_offset_samples < window_samples:
            raise ValueError(
                f"the peak must lie inside the window's {window_samples} samples, got {peak_offset_samples}"
            )
        self.num_channels = num_channels
        self.num_units = num_units
        self.window_samples = window_samples
        self.peak_offset_samples = peak_offset_samples

    @property
    def stride(self) -> int:
        """Samples of the recording per row of outputs."""
        return 1

    @property
    def samples_at_once(self) -> int | None:
        """Samples that are computed together, few enough for the processor's cache; None: as they come."""
        return 1000

    def outputs(self, traces: np.ndarray, gains: np.ndarray | None = None) -> np.ndarray:
        """What the post-processing takes: for one stretch of traces (T, C), probabilities (T - W + 1, U).

        Only a network that filters for itself may be given gains, (C,): by these the traces are multiplied.
        """
        assert gains is None
        with torch.inference_mode():
            return self(torch.from_numpy(traces)[None])[0].sigmoid().numpy()

    def filtered(self, traces: np.ndarray, gains: np.ndarray | None = None) -> np.ndarray:
        """Band-pass and decimate, of a network that does it for itself: (T, C) to (C, T / stride)."""
        raise NotImplementedError

    def forward(self, traces: Tensor) -> Tensor:
        """Return logits.

        Parameters
        ----------
        traces : float tensor, shape (B, T, C)
            In units of the noise level; T >= W.

        Returns
        -------
        float tensor, shape (B, T - W + 1, U)

        Raises
        ------
        ValueError
            If the traces are shorter than a window.
        """
        raise NotImplementedError

    def parameters_of_head(self) -> list[nn.Parameter]:
        """Parameters that belong to the units of one recording."""
        raise NotImplementedError

    def backbone(self) -> dict[str, Tensor]:
        """Weights that know no unit, for other recordings to start from."""
        raise NotImplementedError

    def load_backbone(self, weights: Mapping[str, Tensor]) -> list[str]:
        """Start from a backbone; layers that do not fit this probe stay as they are.

        A layer and its normalisation (``name`` and ``name_norm``) are taken together or not at all: running
        statistics mean nothing behind other weights.

        Returns
        -------
        list of str
            Names of the weights that were taken.
        """
        own = self.backbone()
        misfits = {
            _layer_of(name)
            for name in own.keys() | weights.keys()
            if name not in own or name not in weights or own[name].shape != weights[name].shape
        }
        taken = [name for name in weights if _layer_of(name) not in misfits]
        self.load_state_dict({name: weights[name] for name in taken}, strict=False)
        return taken

    def of_units(self, unit_index: np.ndarray) -> SpikeNetwork:
        """Return a copy that has only some of the units."""
        raise NotImplementedError

    def folded(self) -> SpikeNetwork:
        """Return a copy for inference, its normalisation folded into the weights (of itself: as it is)."""
        raise NotImplementedError


def _layer_of(name: str) -> str:
    """Layer that a weight belongs to; a normalisation belongs to the layer that it follows."""
    return name.split(".")[0].removesuffix("_norm")


# They build on this module: each is found when it is asked for.
NETWORKS: dict[str, str] = {
    "dense": "esort.dense_network:DenseNetwork",
    "convrecurrent": "esort.convrecurrent:ConvRecurrentNetwork",
    "pursuit": "esort.pursuit.network:PursuitNetwork",
}
"""Networks by name; a checkpoint's card names one of them."""


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """Choice of a network, before the probe, the rate and the units are known.

    Parameters
    ----------
    name : str
        One of `NETWORKS`.
    window_ms : float
        Length of the window.
    peak_ms : float
        Where in the window the peak of a spike lies.
    parameters : mapping
        Other hyper-parameters of the network.

    Raises
    ------
    ValueError
        If the name is unknown, the times do not fit, or the network does not take the parameters.
    """

    name: str = "dense"
    window_ms: float = 1.875
    peak_ms: float = 0.75
    parameters: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.name not in NETWORKS:
            raise ValueError(f"model must be one of {', '.join(NETWORKS)}, got {self.name!r}")
        if not 0.5 <= self.window_ms <= 20:
            raise ValueError(f"window_ms must be in [0.5, 20], got {self.window_ms!r}")
        if not 0 <= self.peak_ms < self.window_ms:
            raise ValueError(f"peak_ms must be in [0, window_ms={self.window_ms}), got {self.peak_ms!r}")
        # A mistake in the parameters shall show now, not after the recordings were made.
        trial = {"num_channels": 1, "num_units": 1, "window_samples": 2, "peak_offset_samples": 0}
        for name in trial.keys() & self._plain_parameters().keys():
            raise ValueError(f"{name} follows from the recording, it is no parameter of a model")
        with torch.device("meta"):
            build_network(self.name, trial | self._plain_parameters())

    def hyper_parameters(
        self, *, sampling_frequency: float, num_channels: int, num_units: int
    ) -> dict[str, Any]:
        """Return the keywords for `build_network`: plain values, as a card keeps them."""
        return {
            "num_channels": num_channels,
            "num_units": num_units,
            "window_samples": round(self.window_ms * sampling_frequency / 1000),
            "peak_offset_samples": round(self.peak_ms * sampling_frequency / 1000),
            **self._plain_parameters(),
        }

    def _plain_parameters(self) -> dict[str, Any]:
        return {name: _plain(value) for name, value in (self.parameters or {}).items()}


def build_network(name: str, parameters: Mapping[str, Any]) -> SpikeNetwork:
    """Build a network by name from plain values.

    Raises
    ------
    ValueError
        If the name is unknown, or the values do not fit the network.
    """
    if name not in NETWORKS:
        raise ValueError(f"network must be one of {', '.join(NETWORKS)}, got {name!r}")
    try:
        return resolve_name(NETWORKS[name])(**parameters)
    except TypeError as error:
        raise ValueError(f"network {name} does not take these hyper-parameters: {error}") from None


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
