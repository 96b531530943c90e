"""What noise leaves in means over few spikes, taken off by what waveforms have in common over time."""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["NUM_COMPONENTS", "denoised", "temporal_components"]

# Temporal components that footprints mostly consist of.
NUM_COMPONENTS = 12
# Noise is taken off so many times: a little too much is better than leaving some.
_CAUTION = 1.5
# Events are not so much worse than clean ones.
_MOST_NOISE = 4.0


def temporal_components(waveforms: torch.Tensor, number: int) -> torch.Tensor:
    """The strongest components of the units' waveforms over time, each unit weighted alike.

    (U, M, T) to (number, T), orthonormal.
    """
    norm = waveforms.square().sum(dim=(1, 2)).sqrt().clamp(min=1)  # (U,)
    lines = (waveforms / norm[:, None, None]).flatten(0, 1)  # (U · M, T)
    return torch.linalg.svd(lines, full_matrices=False).Vh[:number].contiguous()


def denoised(footprints: torch.Tensor, counts: np.ndarray, basis: torch.Tensor) -> torch.Tensor:
    """Take off what is left of the noise in means over few events.

    What the temporal basis holds of a channel and what it does not are shrunk apart, each by the share that
    noise of level 1 has in its energy.

    Parameters
    ----------
    footprints : float tensor, shape (U, M, L)
    counts : float array, shape (U,)
        Events in each mean.
    basis : float tensor, shape (R, L)
        Orthonormal.

    Returns
    -------
    float tensor, shape (U, M, L)
    """
    inside = footprints @ basis.T @ basis
    outside = footprints - inside
    degrees = basis.shape[1] - len(basis)
    expected = 1 / torch.from_numpy(np.maximum(counts, 1)).float()  # (U,)
    # Most channels see nothing of a unit that the basis does not hold: what they have there is noise, and
    # what is left of others.
    level = outside.square().sum(dim=2).median(dim=1).values / degrees
    level = level.clamp(min=expected, max=_MOST_NOISE * expected)[:, None, None]
    return _shrunk(inside, len(basis) * level) + _shrunk(outside, degrees * level)


def _shrunk(waveforms: torch.Tensor, of_noise: torch.Tensor) -> torch.Tensor:
    energy = waveforms.square().sum(dim=2, keepdim=True)  # (U, M, 1)
    return waveforms * (1 - _CAUTION * of_noise / energy.clamp(min=1e-9)).clamp(0, 1)
