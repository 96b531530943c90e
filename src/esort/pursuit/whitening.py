"""Spatial whitening: noise that neighbouring channels share is told from spikes, from quiet samples alone."""

from __future__ import annotations

import logging

import numpy as np

__all__ = ["local_whitening", "noise_of", "zca_rows"]

logger = logging.getLogger(__name__)

# Channels further apart share little noise, and each more takes noise from its own estimate.
RADIUS_UM = 120.0
# A sample this many noise levels high is no noise, nor is what lies so close to it.
_LOUD = 4.0
_LOUD_MS = 1.5
# Every so many-th row suffices for a covariance.
_ROW_STEP = 2
# Least eigenvalue, of the largest: directions with less noise than that are not blown up.
_LEAST_EIGENVALUE = 0.01
# Pairs of channels that are quiet together less often say nothing of their covariance.
_MIN_ROWS = 200


def noise_of(traces: np.ndarray) -> np.ndarray:
    """Noise level of each channel: median absolute deviation over 0.6745.

    Parameters
    ----------
    traces : float array, shape (C, T)

    Returns
    -------
    float64 array, shape (C,)
        Above 0; a dead channel gets the median of the others, with a warning.

    Raises
    ------
    ValueError
        If no channel has any noise.
    """
    some = traces[:, :: max(1, traces.shape[1] // 100_000)]  # (C, n)
    levels = np.median(np.abs(some - np.median(some, axis=1, keepdims=True)), axis=1) / 0.6745
    dead = ~(levels > 0)
    if dead.all():
        raise ValueError("no channel has any noise: all traces are constant")
    if dead.any():
        logger.warning("channels without any noise (dead): %s", ", ".join(map(str, np.flatnonzero(dead))))
        levels[dead] = np.median(levels[~dead])
    return levels.astype(np.float64)


def local_whitening(
    traces: np.ndarray, noise: np.ndarray, contact_positions_um: np.ndarray, *, rate_hz: float
) -> np.ndarray:
    """Estimate a matrix that makes the noise white over each neighbourhood of channels.

    For each channel, the row of the symmetric (ZCA) whitening of the channels around it; the covariance is
    that of samples at which both channels are quiet.

    Parameters
    ----------
    traces : float array, shape (C, T)
        Band-passed.
    noise : float array, shape (C,)
        Noise level of each channel.
    contact_positions_um : float array, shape (C, 2)
    rate_hz : float
        Of the traces.

    Returns
    -------
    float32 array, shape (C, C)
        ``whitening @ traces`` is in units of the noise level; takes the scaling in.
    """
    import torch
    from scipy.ndimage import maximum_filter1d

    scaled = traces / noise[:, None].astype(np.float32)  # (C, T)
    reach = round(_LOUD_MS * rate_hz / 1000)
    loud = maximum_filter1d((np.abs(scaled) > _LOUD).view(np.uint8), 2 * reach + 1, axis=1)[:, ::_ROW_STEP]
    quiet = torch.from_numpy(1.0 - loud.astype(np.float32))  # (C, n)
    silenced = torch.from_numpy(np.ascontiguousarray(scaled[:, ::_ROW_STEP])) * quiet
    count = (quiet @ quiet.T).numpy()  # (C, C)
    products = (silenced @ silenced.T).numpy()
    covariance = np.where(count >= _MIN_ROWS, products / np.maximum(count, 1), 0.0)
    own = np.diagonal(covariance)
    # Without enough quiet samples, for example on a channel that bursts all the time: the robust level.
    np.fill_diagonal(covariance, np.where(own > 0, own, 1.0))
    distances = np.linalg.norm(contact_positions_um[:, None] - contact_positions_um[None], axis=2)
    return zca_rows(covariance, noise, distances <= RADIUS_UM)


def zca_rows(covariance: np.ndarray, noise: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Whiten each channel over its neighbourhood.

    Parameters
    ----------
    covariance : float array, shape (C, C)
        Of traces in units of the noise level.
    noise : float array, shape (C,)
        Noise level of each channel.
    near : bool array, shape (C, C)
        The neighbourhood of each channel, itself included; a channel without one stays silent.

    Returns
    -------
    float32 array, shape (C, C)
    """
    whitening = np.zeros(covariance.shape, dtype=np.float32)
    for channel, members in enumerate(map(np.flatnonzero, near)):
        if not members.size:
            continue
        eigenvalues, vectors = np.linalg.eigh(covariance[np.ix_(members, members)].astype(np.float64))
        least = np.maximum(eigenvalues, _LEAST_EIGENVALUE * eigenvalues[-1])
        row = (vectors[members == channel] / np.sqrt(least)) @ vectors.T  # (1, M)
        whitening[channel, members] = row[0] / noise[members]
    return whitening
