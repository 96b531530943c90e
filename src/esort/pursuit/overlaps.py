"""How much a spike of one unit adds to the score of another: the edges of the conflict graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esort.postprocess import ConflictTable
from esort.pursuit.compiled import mix
from esort.pursuit.scorer import PursuitScorer, scorer_of
from esort.pursuit.shifting import shifted
from esort.threads import map_in_threads

if TYPE_CHECKING:
    from esort.pursuit.network import PursuitNetwork

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
# How much likelier than noise a spike must be, for spikes are rare: as `scorer.score_thresholds` has it.
_RARE = 7.3


def phase_offsets() -> np.ndarray:
    """Offsets of the phases from the row, in rows, shape (P,); as the post-processing counts them."""
    return (np.arange(NUM_PHASES) + 0.5) / NUM_PHASES - 0.5


def conflict_table(network: PursuitScorer | PursuitNetwork) -> ConflictTable:
    """Pass each footprint through the network and note which units answer, at which lag, how much.

    To what an accepted spike explains in another unit's score is added the `doubt` about that score.

    Returns
    -------
    ConflictTable
        NumPy arrays, kernels by phase.
    """
    scorer = scorer_of(network)
    # Most answers are zero: all of them at once would grow with the square of the units.
    edges = map_in_threads(lambda unit_index: _edges(scorer, unit_index), range(scorer.num_units))
    pairs = [
        np.column_stack([np.full(len(others), unit_index), others])
        for unit_index, (others, _) in enumerate(edges)
    ]
    return ConflictTable.from_pairs(
        scorer.num_units,
        np.concatenate(pairs).astype(np.int64),  # (E, 2)
        np.concatenate([kernels for _, kernels in edges]),  # (E, P, 2 R + 1)
    )


def _edges(scorer: PursuitScorer, unit_index: int) -> tuple[np.ndarray, np.ndarray]:
    """Units that answer to one footprint enough to matter, (n,), and how, (n, P, 2 R + 1)."""
    units, answers = _answers(scorer, unit_index)
    matters = (np.abs(answers) >= _LEAST_OVERLAP).any(axis=1)  # (n, 2 R + 1)
    chosen = matters.any(axis=1)
    units, kernels, matters = units[chosen], answers[chosen], matters[chosen]
    lags = np.arange(kernels.shape[2])
    first = matters.argmax(axis=1)[:, None]
    last = len(lags) - 1 - matters[:, ::-1].argmax(axis=1)[:, None]
    kernels *= ((lags >= first) & (lags <= last))[:, None]
    others = units != unit_index
    kernels[others] += doubt(kernels[others], scorer.energies[units[others], None, None])
    return units, kernels


def doubt(kernel: np.ndarray, energy: float | np.ndarray) -> np.ndarray:
    """How much more a score must be where an accepted spike of another unit may have left something.

    A score of noise alone has the variance E, the energy of its detector. What is left of a spike that
    overlaps it by k adds (0.04 k)², and a spike is likelier than both together by a factor of e^7.3 only if
    its score reaches 7.3 (1 + (0.04 k)² / E) instead of 7.3. Without it the remains of a spike of norm 150
    are a spike of each weak unit around it.

    Parameters
    ----------
    kernel : float array, shape (..., P, 2 R + 1)
        The overlap k by phase and lag; the largest of a lag and those beside it counts.
    energy : float, or array that goes with the kernels
        Of the other unit's detector.

    Returns
    -------
    float32 array, shape (..., P, 2 R + 1)
        At most 0.3 k.
    """
    size = np.abs(kernel)
    around = size.copy()
    np.maximum(around[..., 1:], size[..., :-1], out=around[..., 1:])
    np.maximum(around[..., :-1], size[..., 1:], out=around[..., :-1])
    around[size == 0] = 0
    extra = _RARE * (_LEFT_OVER * around) ** 2 / np.maximum(energy, _LEAST_ENERGY)
    return np.minimum(extra, _MOST_LEFT_OVER * around).astype(np.float32)


def _answers(scorer: PursuitScorer, unit_index: int) -> tuple[np.ndarray, np.ndarray]:
    """Units that look where a footprint is, (n,), and their answers to it at each phase, (n, P, 2 R + 1)."""
    length = scorer.footprints.shape[2]
    num_filters, filter_samples = scorer.filters.shape
    lead = scorer.footprint_before - scorer.filter_before
    reach = max(lead + filter_samples - 1, length - lead - 1)
    before = reach - lead
    after = 2 * reach + filter_samples - before - length
    channels = scorer.footprint_channels[unit_index]
    footprint = np.pad(scorer.footprints[unit_index], ((0, 0), (before, after)))  # (M, T)
    phases = np.stack([shifted(footprint, float(offset)) for offset in phase_offsets()], axis=1)
    features = scorer.features(phases.reshape(-1, phases.shape[2]))  # (M · P, F, 2 R + 1)
    num_lags = features.shape[2]
    features = features.reshape(len(channels), NUM_PHASES, num_filters, num_lags).swapaxes(1, 2)
    lines = np.ascontiguousarray(features).reshape(len(channels) * num_filters, -1)  # (M · F, P · (2 R + 1))
    # Of the heads, what lies on the footprint's channels.
    place = np.full(scorer.num_channels, -1)
    place[channels] = np.arange(len(channels))
    members = place[scorer.head_channels]  # (U, H)
    units = np.flatnonzero((members >= 0).any(axis=1))
    unit, head = np.nonzero(members[units] >= 0)
    rows = members[units][unit, head][:, None] * num_filters + np.arange(num_filters)  # (entries, F)
    firsts = num_filters * np.searchsorted(unit, np.arange(len(units) + 1))
    weights = scorer.heads[units][unit, head]  # (entries, F)
    answers = mix(lines, firsts.astype(np.int64), rows.ravel().astype(np.int64), weights.ravel())
    return units, answers.reshape(len(units), NUM_PHASES, num_lags)
