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

from esort.dense_network import DenseNetwork
from esort.network import SpikeNetwork
from esort.postprocess import ConflictTable
from esort.postprocess.checks import as_thresholds
from esort.postprocess.detect import score_scale
from esort.postprocess.rounds import (
    BEYOND,
    beats_own_unit,
    local_maxima,
    solve_rounds,
    within,
)
from esort.postprocess.sliding import maxima_around, pad_time, smooth

__all__ = ["SpikeGraph"]

# Outputs per block of the filter bank, as in `esort.dense_network.filter_bank`.
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
    conflicts : ConflictTable of PyTorch tensors, optional
        With kernels; units that lower each other's scores.

    Raises
    ------
    ValueError
        If the lengths do not fit the network, a threshold is outside (0, 1], or pairs are exclusive.
    """

    limits: Tensor
    kernels: Tensor
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
        conflicts: ConflictTable | None = None,
    ) -> None:
        super().__init__()
        if len(noise_level_uv) != network.num_channels:
            raise ValueError(
                f"noise_level_uv must have one value for each of {network.num_channels} channels, "
                f"got {len(noise_level_uv)}"
            )
        if conflicts is not None and (conflicts.has_exclusive or conflicts.kernels is None):
            raise ValueError("conflicts must be kernels without exclusive pairs to be exported")
        self.network = network
        self.half_width = half_width_samples
        self.exclusion_samples = exclusion_samples
        self.max_rounds = max_rounds
        self.conflicts = conflicts
        self.scale = score_scale(half_width_samples, exclusion_samples, conflicts)
        self.unit_scale = self.scale / half_width_samples**2  # a power of two: the product is exact
        limits = as_thresholds(xp, list(thresholds), torch.empty(0, network.num_units), most=1.0)
        limits = (limits * self.unit_scale).round().to(torch.int32).clamp(min=1) * half_width_samples**2
        self.register_buffer("limits", limits)  # (U,)
        if conflicts is not None:
            self.register_buffer("kernels", conflicts.quantise(self.scale))  # int32 (P + 1, 2 L + 1)
        self.register_buffer("noise_level_uv", torch.tensor(noise_level_uv, dtype=torch.float32))  # (C,)
        if type(network) is DenseNetwork:
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
        if self.conflicts is None:
            accepted = self._accepted(scores)
            heights = torch.where(accepted, scores, 0)
        else:
            accepted, heights = self._accepted_of_competitors(scores, self.conflicts)
        return probabilities, accepted, heights.to(torch.float32) * (1.0 / self.scale)

    def probabilities(self, traces_uv: Tensor) -> Tensor:
        """Return what the network says of each window, shape (N, U)."""
        traces = traces_uv / self.noise_level_uv
        if type(self.network) is not DenseNetwork:  # those that build on it do other things as well
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

    def _accepted_of_competitors(self, scores: Tensor, table: ConflictTable) -> tuple[Tensor, Tensor]:
        """Do as `solve_rounds` with kernels: int32 (N, U) -> bool and int32 (N, U), scores as accepted."""

        def unfinished(done: Tensor, _scores: Tensor, live: Tensor, *_others: Tensor) -> Tensor:
            return (done < self.max_rounds) & live.any()

        def one_round(
            done: Tensor, scores: Tensor, live: Tensor, blocked: Tensor, accepted: Tensor, heights: Tensor
        ) -> tuple[Tensor, ...]:
            weights = torch.where(live, scores, BEYOND)
            winners = live & beats_own_unit(xp, weights, self.exclusion_samples - 1)
            winners = _beating_neighbours(weights, winners, table)
            heights = torch.where(winners, scores, heights)
            blocked = blocked | within(xp, winners, self.exclusion_samples - 1)
            scores = self._lowered(scores, winners, table)
            live = (scores >= self.limits) & ~blocked & local_maxima(scores)
            return done + 1, scores, live, blocked, accepted | winners, heights

        none = torch.zeros_like(scores, dtype=torch.bool)
        live = local_maxima(scores) & (scores >= self.limits)
        begin = torch.zeros((), dtype=torch.int64)
        state = (begin, scores, live, none, none.clone(), torch.zeros_like(scores))
        *_, accepted, heights = while_loop(unfinished, one_round, state)
        return accepted, heights

    def _lowered(self, scores: Tensor, winners: Tensor, table: ConflictTable) -> Tensor:
        """Subtract the kernels of accepted spikes: in rows beyond the ends, too, which are cut off."""
        num_units, reach = scores.shape[1], table.lag_samples
        sample, unit = winners.nonzero().unbind(1)  # (S,) each
        amount = self.kernels[table.kernel_out[unit]]  # (S, D, 2 L + 1), zeros for absent neighbours
        others = table.neighbours[unit].clamp(min=0)  # (S, D)
        row = sample[:, None] + torch.arange(2 * reach + 1)  # (S, 2 L + 1), of the padded scores
        place = row[:, None, :] * num_units + others[:, :, None]  # (S, D, 2 L + 1)
        padded = pad_time(xp, scores, reach, reach, 0).flatten()  # ((N + 2 L) U,)
        padded = padded.scatter_add(0, place.flatten(), -amount.flatten())
        return padded.unflatten(0, (-1, num_units))[reach : reach + scores.shape[0]]  # (N, U)


def _beating_neighbours(weights: Tensor, nodes: Tensor, table: ConflictTable) -> Tensor:
    """Nodes that beat the live nodes of all neighbours within reach, as `solve_rounds` decides: (N, U)."""
    num_units = weights.shape[1]
    before, after = maxima_around(xp, weights, table.reach_samples, BEYOND)  # (N, U) each
    sample, unit = nodes.nonzero().unbind(1)  # (S,) each
    others = table.neighbours[unit]  # (S, D), -1 where a unit has fewer
    place = sample[:, None] * num_units + others.clamp(min=0)
    here = sample * num_units + unit  # (S,)
    own = weights.flatten()[here][:, None]  # (S, 1)
    earlier, now, later = (values.flatten()[place] for values in (before, weights, after))
    # Of equals at one sample the lower unit wins. onnxruntime has no `where` of bools.
    wins_now = (own > now) | ((own == now) & (others >= unit[:, None]))
    wins = (own > earlier) & (own >= later) & wins_now | (others < 0)  # (S, D)
    kept = torch.zeros_like(weights).flatten().scatter_add(0, here, wins.all(1).to(torch.int32))
    return kept.unflatten(0, (-1, num_units)) > 0


def _banded(weights: Tensor) -> Tensor:
    """Filters n times, shifted by one sample each: (F, W) -> (n F, 1, W + n - 1)."""
    shifts = range(_FILTER_BLOCK)
    rows = [functional.pad(weights, (shift, _FILTER_BLOCK - 1 - shift)) for shift in shifts]
    return torch.stack(rows).flatten(0, 1).unsqueeze(1)
