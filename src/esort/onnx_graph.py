"""Network and post-processing as one module that `torch.export` can trace with a free time axis.

Shapes: T time samples, W samples of the network's window, N = T - W + 1 windows, C channels, F features, U
units, n outputs of a block of the filter bank, K blocks.
"""

from __future__ import annotations

import array_api_compat.torch as xp
import torch
from torch import Tensor, nn
from torch._higher_order_ops import while_loop
from torch.nn import functional

from esort.network import DenseNetwork, SpikeNetwork
from esort.postprocess.checks import as_thresholds
from esort.postprocess.detect import score_scale
from esort.postprocess.rounds import BEYOND, solve_rounds
from esort.postprocess.sliding import smooth

__all__ = ["SpikeGraph"]

# Outputs per block of the filter bank, as in `esort.network.filter_bank`.
_FILTER_BLOCK = 16


class SpikeGraph(nn.Module):
    """Filtered traces in; probabilities, spikes and their heights out.

    The integers are those of `esort.postprocess.detect_spikes`: smoothing and rounds are its own functions.
    Only their repetition is new: a loop that ends as soon as nothing is undecided, which ONNX has a word
    for, in the place of `max_rounds` copies.

    Parameters
    ----------
    network : SpikeNetwork
        Folded.
    noise_level_uv : sequence of float, length C
        By which the traces are divided.
    thresholds : sequence of float, length U
        In (0, 1].
    half_width_samples, exclusion_samples, max_rounds : int
        As in `esort.postprocess.accept_mask`.

    Raises
    ------
    ValueError
        If the lengths do not fit the network, or a threshold is outside (0, 1].
    """

    limits: Tensor
    noise_level_uv: Tensor
    bank: Tensor

    def __init__(
        self,
        network: SpikeNetwork,
        *,
        noise_level_uv: tuple[float, ...],
        thresholds: tuple[float, ...],
        half_width_samples: int,
        exclusion_samples: int,
        max_rounds: int,
    ) -> None:
        super().__init__()
        if len(noise_level_uv) != network.num_channels:
            raise ValueError(
                f"noise_level_uv must have one value for each of {network.num_channels} channels, "
                f"got {len(noise_level_uv)}"
            )
        self.network = network
        self.half_width = half_width_samples
        self.exclusion_samples = exclusion_samples
        self.max_rounds = max_rounds
        self.scale = score_scale(half_width_samples, exclusion_samples, None)
        self.unit_scale = self.scale / half_width_samples**2  # a power of two: the product is exact
        limits = as_thresholds(xp, list(thresholds), torch.empty(0, network.num_units), most=1.0)
        limits = (limits * self.unit_scale).round().to(torch.int32).clamp(min=1) * half_width_samples**2
        self.register_buffer("limits", limits)  # (U,)
        self.register_buffer("noise_level_uv", torch.tensor(noise_level_uv, dtype=torch.float32))  # (C,)
        if isinstance(network, DenseNetwork):
            self.register_buffer("bank", _banded(network.filters.weight.detach()))  # (n F, 1, W + n - 1)

    def forward(self, traces_uv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return probabilities, spikes and heights.

        Parameters
        ----------
        traces_uv : float32 tensor, shape (1, T, C)
            Behind the filter and the common reference, in µV; T >= W.

        Returns
        -------
        probabilities : float32 tensor, shape (N, U)
            Row i is about sample i + peak_offset_samples of the traces.
        accepted : bool tensor, shape (N, U)
            Where the spikes are.
        heights : float32 tensor, shape (N, U)
            The smoothed probability at each spike, 0 elsewhere.
        """
        probabilities = self.probabilities(traces_uv)
        fixed = torch.round(probabilities * self.unit_scale).to(torch.int32)  # (N, U)
        scores = smooth(fixed, self.half_width)  # (N, U)
        accepted = self._accepted(scores)
        heights = torch.where(accepted, scores, 0).to(torch.float32) * (1.0 / self.scale)
        return probabilities, accepted, heights

    def probabilities(self, traces_uv: Tensor) -> Tensor:
        """Return what the network says of each window, shape (N, U)."""
        traces = traces_uv / self.noise_level_uv
        if not isinstance(self.network, DenseNetwork):
            return self.network(traces).squeeze(0).sigmoid()
        return self.network.head(self.network.hidden(self._features(traces.squeeze(0)))).sigmoid()

    def _features(self, traces: Tensor) -> Tensor:
        """Do as `DenseNetwork.temporal`, its blocks of time as a strided convolution: (T, C) -> (N, C F).

        Pads by a constant, so that no size but T - W + 1 has to be computed from T: PyTorch's and ONNX's
        integer division differ for negative numbers.
        """
        dense = self.network
        assert isinstance(dense, DenseNetwork)
        num_windows = traces.shape[0] - dense.window_samples + 1
        x = functional.pad(traces.T.unsqueeze(1), (0, _FILTER_BLOCK - 1))  # (C, 1, T + n - 1)
        x = functional.conv1d(x, self.bank, stride=_FILTER_BLOCK)  # (C, n F, K)
        x = x.unflatten(1, (_FILTER_BLOCK, -1)).permute(3, 1, 0, 2)  # (K, n, C, F)
        x = x.flatten(0, 1)[:num_windows]  # (N, C, F)
        x = functional.relu(x + dense.filters.bias)
        return functional.relu(dense.features(x)).flatten(1)  # (N, C F)

    def _accepted(self, scores: Tensor) -> Tensor:
        """Rounds until nothing is undecided, `max_rounds` at the most: int32 (N, U) -> bool (N, U)."""

        def unfinished(done: Tensor, live: Tensor, _accepted: Tensor) -> Tensor:
            return (done < self.max_rounds) & live.any()

        def one_round(done: Tensor, live: Tensor, accepted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            # Undecided nodes never stand side by side: among themselves each is still a local maximum.
            weights = torch.where(live, scores, BEYOND)
            winners, _, live = solve_rounds(
                weights, self.limits, exclusion_samples=self.exclusion_samples, max_rounds=1
            )
            return done + 1, live, accepted | winners

        none = torch.zeros_like(scores, dtype=torch.bool)
        start = (torch.zeros((), dtype=torch.int64), ~none, none)
        _, _, accepted = while_loop(unfinished, one_round, start)
        return accepted


def _banded(weights: Tensor) -> Tensor:
    """Filters n times, shifted by one sample each: (F, W) -> (n F, 1, W + n - 1)."""
    shifts = range(_FILTER_BLOCK)
    rows = [functional.pad(weights, (shift, _FILTER_BLOCK - 1 - shift)) for shift in shifts]
    return torch.stack(rows).flatten(0, 1).unsqueeze(1)
