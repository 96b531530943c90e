"""A head start from few labels: hidden features that are matched to the labelled units.

In the backbone's temporal features a unit is told from everything else best by the linear discriminant
Σ⁻¹ (μ_unit − μ_background), with Σ the covariance of the background (Fisher 1936). One hidden feature of
each unit starts as its discriminant, and the head as the identity; training goes on from there. The batch
normalisation in between is set so that it passes the discriminants on unchanged, with the statistics that the
batches of the training will have: those hold many more spikes than the background, and with the background's
statistics the first batches would undo the head start.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from esort.dense_network import DenseNetwork
from esort.examples import SpikeExamples
from esort.windows import cut_windows

__all__ = ["start_from_labels"]

_CHUNK = 500
_BACKGROUND_WINDOWS = 6000
_BATCH_WINDOWS = 2000
_MAX_LABELS = 20000
# Of fewer labels the windows say less of a unit than waveforms that a prior knows how to clean, put into so
# many windows of the background.
_FEW_LABELS, _RENDERED_WINDOWS = 5, 200
# Share of the mean variance that is added to the diagonal of the covariance.
_SHRINKAGE = 0.1
# A hidden feature is 1 at its unit's mean and 0 in the mean background, and silent below this.
_OFFSET = 0.2
_GAIN = 6.0
_BIAS = -3.0


@torch.no_grad()
def start_from_labels(network: DenseNetwork, examples: SpikeExamples, rng: np.random.Generator) -> None:
    """Set hidden features and head of a network, in place, from labelled windows and the background.

    Units beyond the number of hidden features start with the others' discriminants mixed at random.

    Parameters
    ----------
    network : DenseNetwork
        Its temporal filters are used as they are.
    examples : SpikeExamples
        Its labelled spikes and unlabelled time.
    rng : numpy.random.Generator
        Draws background windows and batches.

    Raises
    ------
    ValueError
        If a unit has no labelled spike.
    """
    labels = examples.labels
    empty = [str(labels.unit_ids[unit_index]) for unit_index in np.flatnonzero(labels.counts() == 0)]
    if empty:
        raise ValueError(f"expected a labelled spike of each unit, got none of: {', '.join(empty)}")
    was_training = network.training
    network.eval()
    places = examples.background_places(rng, _BACKGROUND_WINDOWS)
    background = _features(network, examples, places)  # (P, C · F)
    means = torch.zeros(labels.num_units, background.shape[1])  # (U, C · F)
    is_rendered = (labels.counts() < _FEW_LABELS) & examples.has_prior
    for unit_index in range(labels.num_units):
        if is_rendered[unit_index]:
            means[unit_index] = _rendered(network, examples, unit_index, places[:_RENDERED_WINDOWS]).mean(0)
            continue
        of_unit = labels.sample_index[labels.unit_index == unit_index][: _MAX_LABELS // labels.num_units + 1]
        means[unit_index] = _features(network, examples, of_unit).mean(0)

    difference = means - background.mean(0)  # (U, C · F)
    covariance = torch.cov(background.T)  # (C · F, C · F)
    # The small number is for silence alone, which has no variance at all.
    covariance.diagonal().add_(_SHRINKAGE * covariance.diagonal().mean() + 1e-9)
    directions = torch.linalg.solve(covariance, difference.T).T  # (U, C · F)
    separation = (directions * difference).sum(1, keepdim=True)  # (U, 1), squared Mahalanobis distance
    directions /= separation.clamp(min=torch.finfo(separation.dtype).tiny)

    count = min(labels.num_units, network.mixing.out_features)
    network.mixing.weight[:count] = directions[:count]
    batches = [
        _temporal(network, examples.batch(rng, _CHUNK).traces) for _ in range(_BATCH_WINDOWS // _CHUNK)
    ]
    hidden = torch.cat(batches) @ network.mixing.weight.T  # (P, H)
    zero = background.mean(0) @ network.mixing.weight.T  # (H,)
    norm = network.mixing_norm
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(hidden.mean(0))
    norm.running_var.copy_(hidden.var(0))
    norm.weight[:count] = (norm.running_var[:count] + norm.eps).sqrt()
    norm.bias[:count] = norm.running_mean[:count] - zero[:count] - _OFFSET
    network.head.weight *= 0.1
    own = torch.arange(count)
    network.head.weight[own, own] = _GAIN
    network.head.bias.fill_(_BIAS)
    network.train(was_training)


def _features(network: DenseNetwork, examples: SpikeExamples, places: np.ndarray) -> Tensor:
    """Temporal features of the windows around places, (P, C · F); a chunk of them is in memory at a time."""
    parts = []
    for begin in range(0, len(places), _CHUNK):
        windows = cut_windows(examples.traces, places[begin : begin + _CHUNK], examples.window)  # (n, T, C)
        parts.append(_temporal(network, windows))
    return torch.cat(parts)


def _rendered(network: DenseNetwork, examples: SpikeExamples, unit_index: int, places: np.ndarray) -> Tensor:
    """Temporal features of the windows around places, with a unit's waveform in each, (P, C · F)."""
    windows = cut_windows(examples.traces, places, examples.window)  # (P, T, C)
    shift = examples.shift_samples
    windows += examples.waveforms[unit_index, shift : shift + examples.window.samples]
    return _temporal(network, windows)


def _temporal(network: DenseNetwork, windows: np.ndarray) -> Tensor:
    """Temporal features of single windows, (n, T, C) to (n, C · F)."""
    return network.temporal(torch.from_numpy(windows))[:, 0]
