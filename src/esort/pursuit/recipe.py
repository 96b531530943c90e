"""From footprints to a network: what every network of a recording has in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from esort.pursuit.denoising import NUM_COMPONENTS, denoised, temporal_components
from esort.pursuit.network import PursuitNetwork

__all__ = ["Layout", "Recipe"]

# Footprints begin and end softly.
TAPER_MS = 0.5
# What a backbone knows of waveforms is better than the means over a few labels, and worse than what these
# units tell by themselves once so many events of most of them are found.
_ENOUGH = 20


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Sizes of footprints and filters in rows."""

    rate_hz: float
    footprint_before: int
    footprint_samples: int
    filter_before: int
    filter_samples: int
    num_filters: int
    num_footprint_channels: int
    num_head_channels: int
    exclusion_rows: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Recipe:
    """How footprints become a network.

    Parameters
    ----------
    layout : Layout
    sizes : dict
        What the network takes besides: sizes of the band-pass and so on.
    filters : float tensor, shape (F, Lb), optional
        Temporal bank to begin with; by default, and once there are enough events, the strongest temporal
        components of the footprints.
    basis : float tensor, shape (R, L), optional
        Temporal components of whole footprints, in the same way.
    """

    layout: Layout
    sizes: dict[str, Any]
    filters: torch.Tensor | None = None
    basis: torch.Tensor | None = None

    def network(self, footprints: torch.Tensor, channels: np.ndarray, counts: np.ndarray) -> PursuitNetwork:
        """Take the noise off footprints, and derive temporal bank and heads.

        Parameters
        ----------
        footprints : float tensor, shape (U, M, L)
        channels : int64 array, shape (U, M)
        counts : float array, shape (U,)
            Events in each footprint.
        """
        length = self.layout.footprint_samples
        ramp = round(TAPER_MS * self.layout.rate_hz / 1000)
        taper = torch.ones(length)
        taper[:ramp] = torch.linspace(0, 1, ramp)
        taper[-2 * ramp :] = torch.linspace(1, 0, 2 * ramp)
        own = bool(np.median(counts) >= _ENOUGH)
        basis = self.basis
        if basis is None or own:
            basis = temporal_components(footprints, NUM_COMPONENTS)
        footprints = denoised(footprints, counts, basis) * taper
        first = self.layout.footprint_before - self.layout.filter_before
        middle = footprints[:, :, first : first + self.layout.filter_samples]  # (U, M, Lb)
        filters = self.filters
        if filters is None or own:
            filters = temporal_components(middle, self.layout.num_filters)
        seen = middle @ filters.T  # (U, M, F)
        number = min(self.layout.num_head_channels, seen.shape[1])
        strongest = seen.square().sum(dim=2).topk(number, dim=1).indices.sort(dim=1).values  # (U, H)
        network = PursuitNetwork(
            num_units=len(footprints),
            num_filters=len(filters),
            filter_samples=self.layout.filter_samples,
            filter_before=self.layout.filter_before,
            footprint_before=self.layout.footprint_before,
            footprint_samples=length,
            num_footprint_channels=self.layout.num_footprint_channels,
            num_head_channels=self.layout.num_head_channels,
            num_components=len(basis),
            **self.sizes,
        )
        network.filters.copy_(filters)
        network.basis.copy_(basis)
        network.footprint_channels.copy_(torch.from_numpy(channels))
        network.footprints.copy_(footprints)
        network.head_channels.copy_(torch.gather(network.footprint_channels, 1, strongest))
        network.heads.copy_(seen.gather(1, strongest[:, :, None].expand(-1, -1, seen.shape[2])))
        return network
