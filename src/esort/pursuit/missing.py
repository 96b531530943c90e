"""A learned network when some channels have died since: whitening and footprints of those that are left."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np

from esort.pursuit.whitening import zca_rows

if TYPE_CHECKING:
    from esort.pursuit.network import PursuitNetwork

__all__ = ["without_channels"]


def _noise(network: PursuitNetwork) -> tuple[np.ndarray, np.ndarray]:
    """What undoes the whitening, and the covariance of the noise that it makes white, (C, C) both."""
    coloring = np.linalg.inv(network.whitening.numpy().astype(np.float64))
    return coloring, coloring @ coloring.T


def without_channels(network: PursuitNetwork, channels: np.ndarray) -> PursuitNetwork:
    """Take channels out of a network, as if they had been missing when it learned.

    A dead channel is more than a zero: its neighbours' whitening subtracts what it used to share with them,
    and the heads wait for its part of each footprint. The learned whitening tells the noise that it was made
    for, and so the whitening of the channels that are left, and footprints and heads behind that.

    Parameters
    ----------
    network : PursuitNetwork
    channels : int array
        Positions of those to take out. Their traces do not matter any more, unless they are NaN or infinite.

    Returns
    -------
    PursuitNetwork
        Of the same sizes. Units that were seen by these channels alone have heads of zero.

    Raises
    ------
    ValueError
        If no channel is left.
    """
    import torch  # few recordings have dead channels

    missing = np.zeros(network.num_channels, dtype=bool)
    missing[channels] = True
    if missing.all():
        raise ValueError(f"all {network.num_channels} channels are bad: expected at least 1 good one")
    if not missing.any():
        return network
    coloring, covariance = _noise(network)
    level = np.sqrt(np.diagonal(covariance))
    near = (network.whitening.numpy() != 0) & ~missing
    near[missing] = False
    rows = zca_rows(covariance / np.outer(level, level), level, near)
    changed = deepcopy(network)
    changed.whitening.copy_(torch.from_numpy(rows))
    change = torch.from_numpy((rows @ coloring).astype(np.float32))  # whitened as before to whitened as now
    members = network.footprint_channels
    for unit_index, own in enumerate(members):
        changed.footprints[unit_index] = change[own][:, own] @ network.footprints[unit_index]
    first = network.footprint_before - network.filter_before
    middle = changed.footprints[:, :, first : first + network.filters.shape[1]]  # (U, M, Lb)
    seen = middle @ network.filters.T  # (U, M, F)
    strongest = seen.square().sum(dim=2).topk(network.heads.shape[1], dim=1).indices.sort(dim=1).values
    changed.head_channels.copy_(torch.gather(members, 1, strongest))
    changed.heads.copy_(seen.gather(1, strongest[:, :, None].expand(-1, -1, seen.shape[2])))
    return changed.of_units(np.arange(network.num_units))  # without what the network keeps of its old self
