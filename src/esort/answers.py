"""How a network answers to spikes whose unit, time and size are known: who is found, who is mistaken."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from esort.network import SpikeNetwork

__all__ = ["THRESHOLDS", "Answers", "Smoothing", "network_answers"]

THRESHOLDS = np.linspace(0.2, 0.9, 15).round(2)
"""Thresholds that are tried, K of them."""

# Answers that never reach this are not worth an edge of the graph.
_MIN_ANSWER = 0.1
# The sample at which a spike is found scatters by this much around its own.
_SCATTER_SAMPLES = 2


class Answers:
    """Collects the answers of all units to spikes of each."""

    def __init__(self, num_units: int, lag_samples: int) -> None:
        self.num_units = num_units
        self.lag_samples = lag_samples
        self.recall = np.zeros((num_units, THRESHOLDS.size))
        # Part of the spikes of a unit (first axis) that make another (second) cross a threshold nonetheless.
        self.false_share = np.zeros((num_units, num_units, THRESHOLDS.size), dtype=np.float32)
        self.pairs: list[tuple[int, int]] = []
        self.kernels: list[np.ndarray] = []

    def add(self, unit_index: int, after: np.ndarray, silent: np.ndarray) -> None:
        """Take the answers (n, 2 L + 1, U) to a unit's spikes where units were silent before, (n, U)."""
        near = slice(self.lag_samples - self.lag_samples // 3, self.lag_samples + self.lag_samples // 3 + 1)
        own = after[:, near, unit_index].max(axis=1)[silent[:, unit_index]]  # (n,)
        if own.size:
            self.recall[unit_index] = (own[:, None] >= THRESHOLDS).mean(axis=0)
        loud = (after * silent[:, None]).max(axis=(0, 1)) >= _MIN_ANSWER  # (U,)
        loud[unit_index] = False
        even = np.arange(len(after)) % 2 == 0
        for other in np.flatnonzero(loud):
            usable = silent[:, other]
            answer = after[:, :, other]  # (n, 2 L + 1)
            self.pairs.append((unit_index, int(other)))
            self.kernels.append(_highest(answer[usable]))
            # What a table of the one half would leave of the other half is what to expect of new spikes.
            if (usable & even).any() and (usable & ~even).any():
                left = (answer[usable & ~even] - _highest(answer[usable & even])).max(axis=1)  # (n,)
                self.false_share[unit_index, other] = (left[:, None] >= THRESHOLDS).mean(axis=0)

    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs (P, 2) and kernels (P, 2 L + 1)."""
        pairs = np.array(self.pairs, dtype=np.int64).reshape(-1, 2)
        kernels = np.array(self.kernels, dtype=np.float32).reshape(len(pairs), 2 * self.lag_samples + 1)
        return pairs, kernels


class Smoothing:
    """The triangular kernel of the post-processing on windows; ends that lack neighbours are left out."""

    def __init__(self, half_width: int) -> None:
        offsets = torch.arange(1 - half_width, half_width)
        self.kernel = (half_width - offsets.abs()) / half_width**2  # (2 h - 1,)

    def __call__(self, probabilities: Tensor) -> np.ndarray:
        """Smooth over time, (n, T, U) to (n, T - 2 h + 2, U)."""
        rows, samples, units = probabilities.shape
        flat = probabilities.transpose(1, 2).reshape(-1, 1, samples)  # (n · U, 1, T)
        return functional.conv1d(flat, self.kernel[None, None]).view(rows, units, -1).transpose(1, 2).numpy()


def _highest(answers: np.ndarray) -> np.ndarray:
    """Highest answer at each lag or close to it, (n, 2 L + 1) to (2 L + 1,)."""
    highest = np.pad(answers.max(axis=0), _SCATTER_SAMPLES, mode="edge")
    return np.lib.stride_tricks.sliding_window_view(highest, 2 * _SCATTER_SAMPLES + 1).max(axis=1)


@torch.inference_mode()
def network_answers(network: SpikeNetwork, windows: np.ndarray) -> Tensor:
    """Probabilities on windows, (n, T, C) to (n, T - W + 1, U)."""
    return network(torch.from_numpy(windows)).sigmoid()
