"""The pursuit network: band-pass, whitening, shared temporal bank, one sparse head per unit."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from esort.network import SpikeNetwork
from esort.pursuit.bandpass import Bandpass
from esort.pursuit.scorer import PursuitScorer, PursuitSizes

__all__ = ["PursuitNetwork"]


class PursuitNetwork(SpikeNetwork):
    """Scores of units: the energy that a spike of each would explain, before any competition.

    The score of unit u at a row is <x, D_u> - |D_u|² / 2, with x the whitened traces around it and D_u the
    detector: what the temporal bank sees of the unit's footprint on its strongest channels. If x is the
    footprint and noise of level 1, a positive score says that a spike explains it better than silence.

    The shared parts, the temporal bank and the filter, know neither the number of channels nor their order.
    Learning makes it, and it defines the scores; `scorer` computes them.

    Parameters
    ----------
    step : int
        Samples of the recording per row of scores.
    lowpass_samples, highpass_samples : int
        Taps of the two parts of the filter; of the high-pass in rows of the reduced rate.
    num_filters, filter_samples : int
        Size of the temporal bank, in rows of the reduced rate.
    filter_before : int
        Rows of a filter before the peak.
    footprint_before, footprint_samples : int
        Rows of a footprint before its peak, and all of them (L).
    num_footprint_channels : int
        Channels of a footprint (M), at most; the rest is silent.
    num_head_channels : int
        Strongest channels that the detector of a unit looks at.
    num_components : int
        Temporal components that whole footprints mostly consist of; only learning needs them.
    follows : bool
        Whether sorting follows the drift of the tissue along the probe, see `esort.pursuit.following`.
        No boolean is a ValueError.
    moved : bool
        Whether the tissue moved while the units were learned, see `esort.pursuit.moving`.
    **sizes
        See `SpikeNetwork`.
    """

    lowpass: Tensor
    highpass: Tensor
    positions: Tensor
    whitening: Tensor
    filters: Tensor
    basis: Tensor
    footprint_channels: Tensor
    footprints: Tensor
    head_channels: Tensor
    heads: Tensor

    def __init__(self, **parameters: Any) -> None:
        sizes = PursuitSizes(**parameters)
        super().__init__(
            num_channels=sizes.num_channels,
            num_units=sizes.num_units,
            window_samples=sizes.window_samples,
            peak_offset_samples=sizes.peak_offset_samples,
        )
        self.step = sizes.step
        self.filter_before = sizes.filter_before
        self.footprint_before = sizes.footprint_before
        self.num_head_channels = sizes.num_head_channels
        self.follows = sizes.follows
        self.moved = bool(sizes.moved)
        for name, shape in sizes.shapes().items():
            dtype = torch.int64 if name.endswith("_channels") else torch.float32
            self.register_buffer(name, torch.zeros(shape, dtype=dtype))

    @classmethod
    def of_arrays(cls, sizes: PursuitSizes, arrays: Mapping[str, np.ndarray]) -> PursuitNetwork:
        """Return the network of a `PursuitScorer`'s arrays, a copy of them."""
        network = cls(**sizes.to_dict())
        network.load_state_dict({name: torch.from_numpy(arrays[name]) for name in sizes.shapes()})
        return network.eval()

    @property
    def stride(self) -> int:
        """See `SpikeNetwork.stride`."""
        return self.step

    @property
    def samples_at_once(self) -> None:
        """See `SpikeNetwork.samples_at_once`."""
        return None

    def hyper_parameters(self) -> dict[str, Any]:
        """Keywords that make a network of this size: plain values, as a card keeps them."""
        return {
            "num_channels": self.num_channels,
            "num_units": self.num_units,
            "window_samples": self.window_samples,
            "peak_offset_samples": self.peak_offset_samples,
            "step": self.step,
            "lowpass_samples": len(self.lowpass),
            "highpass_samples": len(self.highpass),
            "num_filters": self.filters.shape[0],
            "filter_samples": self.filters.shape[1],
            "filter_before": self.filter_before,
            "footprint_before": self.footprint_before,
            "footprint_samples": self.footprints.shape[2],
            "num_footprint_channels": self.footprints.shape[1],
            "num_head_channels": self.heads.shape[1],
            "num_components": self.basis.shape[0],
            "follows": self.follows,
            "moved": self.moved,
        }

    @property
    def bandpass(self) -> Bandpass:
        """The filter in front."""
        return Bandpass(lowpass=self.lowpass.numpy(), highpass=self.highpass.numpy(), step=self.step)

    @bandpass.setter
    def bandpass(self, bandpass: Bandpass) -> None:
        self.lowpass.copy_(torch.from_numpy(bandpass.lowpass))
        self.highpass.copy_(torch.from_numpy(bandpass.highpass))

    @property
    def energies(self) -> Tensor:
        """|D_u|² of each unit, shape (U,)."""
        return self.heads.square().sum(dim=(1, 2))

    def forward(self, traces: Tensor) -> Tensor:
        """Return scores, shape (B, (T - W) // step + 1, U); see `SpikeNetwork.forward`.

        The definition, for any device; on a CPU `outputs` gives the same several times faster.
        """
        scores, resting = [], torch.from_numpy(self.resting_whitening()).to(traces.device)
        for one in traces:  # (T, C)
            reduced = functional.conv1d(one.T[:, None], self.lowpass[None, None], stride=self.step)
            filtered = functional.conv1d(reduced, self.highpass[None, None])
            whitened = resting @ filtered[:, 0]  # (C, T')
            features = functional.conv1d(whitened[:, None], self.filters[:, None])  # (C, F, T')
            energy = torch.einsum("ucf,cft->tu", self.dense_heads(), features)
            scores.append(energy - self.energies / 2)
        return torch.stack(scores)

    def scorer(self) -> PursuitScorer:
        """What computes the scores on the processor, of the arrays as they are now."""
        sizes = PursuitSizes(**self.hyper_parameters())
        return PursuitScorer(sizes, {name: getattr(self, name).cpu().numpy() for name in sizes.shapes()})

    def outputs(self, traces: np.ndarray, gains: np.ndarray | None = None) -> np.ndarray:
        """See `SpikeNetwork.outputs`: scores, to the bit the same wherever the traces begin."""
        if self.heads.device.type != "cpu":
            scaled = torch.tensor(traces * (1.0 if gains is None else gains), dtype=torch.float32)
            return self(scaled.to(self.heads.device)[None])[0].cpu().numpy()
        return self.scorer().outputs(traces, gains)

    def present_channels(self) -> np.ndarray:
        """See `PursuitScorer.present_channels`."""
        return self.scorer().present_channels()

    def resting_whitening(self) -> np.ndarray:
        """See `PursuitScorer.resting_whitening`."""
        return self.scorer().resting_whitening()

    def filtered(self, traces: np.ndarray, gains: np.ndarray | None = None) -> np.ndarray:
        """See `PursuitScorer.filtered`."""
        return self.bandpass.apply(traces, gains)

    def whitened(self, traces: np.ndarray, gains: np.ndarray | None = None) -> np.ndarray:
        """See `PursuitScorer.whitened`."""
        return self.scorer().whitened(traces, gains)

    def features(self, whitened: np.ndarray) -> np.ndarray:
        """See `PursuitScorer.features`."""
        return self.scorer().features(whitened)

    def scores(self, whitened: np.ndarray) -> np.ndarray:
        """See `PursuitScorer.scores`."""
        return self.scorer().scores(whitened)

    def dense_heads(self) -> Tensor:
        """Heads over all channels, (U, C, F)."""
        dense = self.heads.new_zeros(self.num_units, self.num_channels, self.heads.shape[2])
        return dense.scatter_(1, self.head_channels[:, :, None].expand_as(self.heads), self.heads)

    def of_units(self, unit_index: np.ndarray) -> PursuitNetwork:
        """See `SpikeNetwork.of_units`."""
        copy = deepcopy(self)
        copy.num_units = len(unit_index)
        for name in ("footprint_channels", "footprints", "head_channels", "heads"):
            copy.register_buffer(name, getattr(self, name)[torch.as_tensor(unit_index)].clone())
        return copy

    def folded(self) -> PursuitNetwork:
        """See `SpikeNetwork.folded`: there is nothing to fold."""
        return self

    def parameters_of_head(self) -> list[nn.Parameter]:
        """See `SpikeNetwork.parameters_of_head`: units are learned in closed form, without gradients."""
        return []

    def backbone(self) -> dict[str, Tensor]:
        """See `SpikeNetwork.backbone`."""
        return {"filters": self.filters, "basis": self.basis}
