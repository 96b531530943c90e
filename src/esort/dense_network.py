"""The published design of the family: temporal filters, dense spatial mixing, a sigmoid per unit.

Shapes as in `esort.network`.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_linear_bn_eval

from esort.network import SpikeNetwork

__all__ = ["DenseNetwork", "filter_bank"]

_HIDDEN_FEATURES = 256
# The head starts with the belief that a unit fires in one window of fifty.
_PRIOR_LOGIT = -4.0
# Outputs per block of a filter bank: longer blocks copy less and multiply more zeros.
_FILTER_BLOCK = 16


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

    # Of the window, in front of and behind what the filters see.
    margin_samples = 0

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


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
