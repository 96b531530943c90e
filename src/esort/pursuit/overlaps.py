"""How much a spike of one unit adds to the score of another: the edges of the conflict graph."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from esort.postprocess import ConflictTable
from esort.pursuit.network import PursuitNetwork
from esort.pursuit.shifting import shifted
from esort.threads import map_in_threads

__all__ = ["NUM_PHASES", "conflict_table", "doubt", "phase_offsets"]

NUM_PHASES = 8
"""Places between two rows that a footprint is subtracted at."""

AMPLITUDE_LIMITS = (0.7, 1.4)
"""A spike is that much smaller or larger than the footprint of its unit."""

# Overlaps smaller than this, in units of the noise's energy, change no decision.
_LEAST_OVERLAP = 0.5

# A spike that is taken away leaves so much of itself, for its shape is never quite the footprint.
# Measured where one spike overlaps another unit's detector most: 0.025 in the middle two thirds of spikes,
# 0.05 to 0.07 in the outer twentieth.
_LEFT_OVER = 0.04
# What is left is no more than this part of the spike.
_MOST_LEFT_OVER = 0.3
# Of a unit of which nothing is left once the noise is taken off.
_LEAST_ENERGY = 1e-6
# How much likelier than noise a spike must be, for spikes are rare: as `learning.score_thresholds` has it.
_RARE = 7.3


def phase_offsets() -> Tensor:
    """Offsets of the phases from the row, in rows, shape (P,); as the post-processing counts them."""
    return (torch.arange(NUM_PHASES) + 0.5) / NUM_PHASES - 0.5


def conflict_table(network: PursuitNetwork) -> ConflictTable:
    """Pass each footprint through the network and note which units answer, at which lag, how much.

    To what an accepted spike explains in another unit's score is added the `doubt` about that score.

    Returns
    -------
    ConflictTable
        NumPy arrays, kernels by phase.
    """
    pairs: list[tuple[int, int]] = []
    kernels: list[np.ndarray] = []
    num_units = network.num_units
    # Most answers are zero: all of them at once would grow with the square of the units.
    edges_of = map_in_threads(lambda unit_index: _edges(network, unit_index), range(num_units))
    for unit_index, edges in enumerate(edges_of):
        for other, kernel in edges:
            pairs.append((unit_index, other))
            kernels.append(kernel)
    del edges_of
    return ConflictTable.from_pairs(
        num_units,
        np.array(pairs, dtype=np.int64).reshape(-1, 2),
        np.stack(kernels) if kernels else np.zeros((0, NUM_PHASES, 1), dtype=np.float32),
    )


def _edges(network: PursuitNetwork, unit_index: int) -> list[tuple[int, np.ndarray]]:
    """Units that answer to one footprint enough to matter, and how, (P, 2 R + 1)."""
    answers = _answers(network, unit_index)
    edges = []
    for other in np.flatnonzero(np.abs(answers).max(axis=(1, 2)) >= _LEAST_OVERLAP):
        lags = np.flatnonzero((np.abs(answers[other]) >= _LEAST_OVERLAP).any(axis=0))
        kernel = np.zeros_like(answers[other])
        kernel[:, lags[0] : lags[-1] + 1] = answers[other][:, lags[0] : lags[-1] + 1]
        if other != unit_index:
            kernel += doubt(kernel, float(network.energies[other]))
        edges.append((int(other), kernel))
    return edges


def doubt(kernel: np.ndarray, energy: float) -> np.ndarray:
    """How much more a score must be where an accepted spike of another unit may have left something.

    A score of noise alone has the variance E, the energy of its detector. What is left of a spike that
    overlaps it by k adds (0.04 k)², and a spike is likelier than both together by a factor of e^7.3 only if
    its score reaches 7.3 (1 + (0.04 k)² / E) instead of 7.3. Without it the remains of a spike of norm 150
    are a spike of each weak unit around it.

    Parameters
    ----------
    kernel : float array, shape (P, 2 R + 1)
        The overlap k by phase and lag; the largest of a lag and those beside it counts.
    energy : float
        Of the other unit's detector.

    Returns
    -------
    float32 array, shape (P, 2 R + 1)
        At most 0.3 k.
    """
    size = np.abs(kernel)
    padded = np.pad(size, ((0, 0), (1, 1)))
    around = np.maximum(np.maximum(padded[:, :-2], padded[:, 2:]), size)
    around[size == 0] = 0
    extra = _RARE * (_LEFT_OVER * around) ** 2 / max(energy, _LEAST_ENERGY)
    return np.minimum(extra, _MOST_LEFT_OVER * around).astype(np.float32)


def _answers(network: PursuitNetwork, unit_index: int) -> np.ndarray:
    """Answers of all units to one footprint at each phase, (U, P, 2 R + 1)."""
    length = network.footprints.shape[2]
    filter_samples = network.filters.shape[1]
    lead = network.footprint_before - network.filter_before
    reach = max(lead + filter_samples - 1, length - lead - 1)
    before = reach - lead
    after = 2 * reach + filter_samples - before - length
    channels = network.footprint_channels[unit_index].numpy()
    footprint = torch.nn.functional.pad(network.footprints[unit_index], (before, after))  # (M, T)
    phases = torch.stack([shifted(footprint, float(offset)) for offset in phase_offsets()], dim=1)
    features = network.features(phases.flatten(0, 1).numpy())  # (M · P, F, 2 R + 1)
    num_filters, num_lags = features.shape[1:]
    features = features.reshape(len(channels), NUM_PHASES, num_filters, num_lags).swapaxes(1, 2)
    answers = np.zeros((network.num_units, NUM_PHASES, num_lags), dtype=np.float32)
    for units, rows, weights in network.groups():
        first, last = rows.start // num_filters, rows.stop // num_filters
        inside = (channels >= first) & (channels < last)
        if not inside.any():
            continue
        dense = np.zeros((last - first, *features.shape[1:]), dtype=np.float32)  # (c, F, P, 2 R + 1)
        dense[channels[inside] - first] = features[inside]
        answered = weights @ torch.from_numpy(dense).view(weights.shape[1], -1)
        answers[units] = answered.view(len(units), NUM_PHASES, num_lags).numpy()
    return answers
