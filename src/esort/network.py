"""Networks that turn traces into one logit per sample and unit.

Shapes, in one alphabet: B batch, T time samples of the input, W samples of the network's window, C channels,
F features, H hidden features, U units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_linear_bn_eval

__all__ = ["NETWORKS", "DenseNetwork", "NetworkSpec", "SpikeNetwork", "build_network"]

_HIDDEN_FEATURES = 256
# The head starts with the belief that a unit fires in one window of fifty.
_PRIOR_LOGIT = -4.0
# Outputs per block of a filter bank: longer blocks copy less and multiply more zeros.
_FILTER_BLOCK = 16


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


class DenseNetwork(SpikeNetwork):
    """The published design: shared temporal filters, dense spatial mixing, one sigmoid per unit.

    Temporal filters over the whole window run on every channel alike (1 to 8 features, then 8 to 16), each
    with batch normalisation and ReLU; all features of all channels are mixed to 256 hidden features; each
    unit is a linear function of these. Several units may fire at once. After Han & Wang, arXiv 2409.13067.

    Parameters
    ----------
    temporal_features : pair of int
        Features of the two temporal layers.
    hidden_features : int, optional
        Features after the mixing. By default 256 as published, or three for every four channels where that is
        more: each unit starts with one of its own, and large probes see more units.
    **sizes
        See `SpikeNetwork`.

    Raises
    ------
    ValueError
        If a number of features is not a whole number of at least 1.
    """

    def __init__(
        self, *, temporal_features: Sequence[int] = (8, 16), hidden_features: int | None = None, **sizes: int
    ) -> None:
        super().__init__(**sizes)
        if len(temporal_features) != 2 or not all(_is_count(number) for number in temporal_features):
            raise ValueError(
                f"temporal_features must be two whole numbers of at least 1, got {temporal_features!r}"
            )
        if hidden_features is None:
            hidden_features = max(_HIDDEN_FEATURES, 3 * self.num_channels // 4)
        if not _is_count(hidden_features):
            raise ValueError(f"hidden_features must be a whole number of at least 1, got {hidden_features!r}")
        first, second = temporal_features
        self.filters = nn.Linear(self.window_samples, first, bias=False)
        self.filters_norm = nn.BatchNorm1d(first)
        self.features = nn.Linear(first, second, bias=False)
        self.features_norm = nn.BatchNorm1d(second)
        self.mixing = nn.Linear(self.num_channels * second, hidden_features, bias=False)
        self.mixing_norm = nn.BatchNorm1d(hidden_features)
        self.head = nn.Linear(hidden_features, self.num_units)
        nn.init.constant_(self.head.bias, _PRIOR_LOGIT)

    def forward(self, traces: Tensor) -> Tensor:
        """See `SpikeNetwork.forward`."""
        return self.head(self.hidden(self.temporal(traces)))  # (B, T - W + 1, U)

    def temporal(self, traces: Tensor) -> Tensor:
        """Return the temporal features of each channel, shape (B, T - W + 1, C · F)."""
        x = filter_bank(traces, self.filters.weight)  # (B, T - W + 1, C, F)
        x = functional.relu(_normalised(self.filters_norm, x, self.filters.bias))
        x = functional.relu(_normalised(self.features_norm, self.features(x)))  # (B, T - W + 1, C, F)
        return x.flatten(2)  # (B, T - W + 1, C · F)

    def hidden(self, features: Tensor) -> Tensor:
        """Mix over channels: (B, T', C · F) to (B, T', H)."""
        return functional.relu(_normalised(self.mixing_norm, self.mixing(features)))  # (B, T', H)

    def parameters_of_head(self) -> list[nn.Parameter]:
        """See `SpikeNetwork.parameters_of_head`."""
        return list(self.head.parameters())

    def backbone(self) -> dict[str, Tensor]:
        """See `SpikeNetwork.backbone`."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("head.")}

    def of_units(self, unit_index: np.ndarray) -> DenseNetwork:
        """See `SpikeNetwork.of_units`."""
        copy = deepcopy(self)
        copy.num_units = len(unit_index)
        copy.head = nn.Linear(self.head.in_features, copy.num_units)
        with torch.no_grad():
            copy.head.weight.copy_(self.head.weight[unit_index])
            copy.head.bias.copy_(self.head.bias[unit_index])
        return copy

    def folded(self) -> DenseNetwork:
        """See `SpikeNetwork.folded`."""
        copy = deepcopy(self).eval()
        for layer in ("filters", "features", "mixing"):
            norm = getattr(copy, f"{layer}_norm")
            if isinstance(norm, nn.BatchNorm1d):
                setattr(copy, layer, fuse_linear_bn_eval(getattr(copy, layer), norm))
                setattr(copy, f"{layer}_norm", nn.Identity())
        return copy


def filter_bank(traces: Tensor, weights: Tensor) -> Tensor:
    """Correlate every channel with a bank of filters, as one matrix product over blocks of time.

    A block of n outputs needs W + n - 1 samples; the filters stand n times in a banded matrix, shifted by one
    sample each. On CPUs that is several times faster than a convolution with a single input channel.

    Parameters
    ----------
    traces : float tensor, shape (B, T, C)
    weights : float tensor, shape (F, W)

    Returns
    -------
    float tensor, shape (B, T - W + 1, C, F)

    Raises
    ------
    ValueError
        If there are fewer samples than a filter has.
    """
    num_filters, window = weights.shape
    num_outputs = traces.shape[1] - window + 1
    if num_outputs < 1:
        raise ValueError(f"traces must have at least the window's {window} samples, got {traces.shape[1]}")
    block = min(_FILTER_BLOCK, num_outputs)
    num_blocks = (num_outputs + block - 1) // block
    traces = functional.pad(traces, (0, 0, 0, num_blocks * block - num_outputs))
    blocks = traces.unfold(1, window + block - 1, block)  # (B, T' / n, C, W + n - 1)
    banded = torch.stack(
        [functional.pad(weights, (shift, block - 1 - shift)) for shift in range(block)]
    )  # (n, F, W + n - 1)
    x = blocks @ banded.flatten(0, 1).T  # (B, T' / n, C, n · F)
    x = x.unflatten(3, (block, num_filters)).transpose(2, 3)  # (B, T' / n, n, C, F)
    return x.flatten(1, 2)[:, :num_outputs]  # (B, T - W + 1, C, F)


def _normalised(norm: nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Batch normalisation over the last axis; once folded, what is left of it is a bias."""
    if isinstance(norm, nn.BatchNorm1d):
        return norm(x.flatten(0, -2)).view_as(x)
    return x if bias is None else x + bias


def _layer_of(name: str) -> str:
    """Layer that a weight belongs to; a normalisation belongs to the layer that it follows."""
    return name.split(".")[0].removesuffix("_norm")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


# Those of other modules, which build on this one, are named and found when they are asked for.
NETWORKS: dict[str, type[SpikeNetwork] | str] = {
    "dense": DenseNetwork,
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
    network = NETWORKS[name]
    if isinstance(network, str):
        network = resolve_name(network)
    try:
        return network(**parameters)
    except TypeError as error:
        raise ValueError(f"network {name} does not take these hyper-parameters: {error}") from None


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
