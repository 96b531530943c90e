"""The pursuit network: band-pass, whitening, shared temporal bank, one sparse head per unit."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from esort.network import SpikeNetwork
from esort.pursuit.bandpass import Bandpass
from esort.pursuit.compiled import fir_bank
from esort.pursuit.mixing import SparseRows
from esort.pursuit.moving import MovedWhitening

__all__ = ["PursuitNetwork"]

# Units that share one matrix product over the channels that any of them needs.
_GROUP_UNITS = 16


class PursuitNetwork(SpikeNetwork):
    """Scores of units: the energy that a spike of each would explain, before any competition.

    The score of unit u at a row is <x, D_u> - |D_u|² / 2, with x the whitened traces around it and D_u the
    detector: what the temporal bank sees of the unit's footprint on its strongest channels. If x is the
    footprint and noise of level 1, a positive score says that a spike explains it better than silence.

    The shared parts, the temporal bank and the filter, know neither the number of channels nor their order.

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

    def __init__(
        self,
        *,
        step: int = 2,
        lowpass_samples: int = 1,
        highpass_samples: int = 1,
        num_filters: int = 6,
        filter_samples: int = 1,
        filter_before: int = 0,
        footprint_before: int = 0,
        footprint_samples: int = 1,
        num_footprint_channels: int = 1,
        num_head_channels: int = 14,
        num_components: int = 1,
        follows: bool = False,
        moved: bool = False,
        **sizes: int,
    ) -> None:
        if not isinstance(follows, bool):
            raise ValueError(f"follows must be true or false, got {follows!r}")
        super().__init__(**sizes)
        self.step = step
        self.filter_before = filter_before
        self.footprint_before = footprint_before
        self.num_head_channels = num_head_channels
        self.follows = follows
        self.moved = bool(moved)
        members = min(num_footprint_channels, self.num_channels)
        heads = min(num_head_channels, self.num_channels)
        self.register_buffer("lowpass", torch.zeros(lowpass_samples))
        self.register_buffer("highpass", torch.zeros(highpass_samples))
        self.register_buffer("positions", torch.zeros(self.num_channels, 2))
        self.register_buffer("whitening", torch.zeros(self.num_channels, self.num_channels))
        self.register_buffer("filters", torch.zeros(num_filters, filter_samples))
        self.register_buffer("basis", torch.zeros(num_components, footprint_samples))
        self.register_buffer("footprint_channels", torch.zeros(self.num_units, members, dtype=torch.int64))
        self.register_buffer("footprints", torch.zeros(self.num_units, members, footprint_samples))
        self.register_buffer("head_channels", torch.zeros(self.num_units, heads, dtype=torch.int64))
        self.register_buffer("heads", torch.zeros(self.num_units, heads, num_filters))
        self._groups: list[tuple[np.ndarray, slice, Tensor]] | None = None
        self._sparse: dict[str, SparseRows] = {}

    @property
    def stride(self) -> int:
        """See `SpikeNetwork.stride`."""
        return self.step

    @property
    def samples_at_once(self) -> None:
        """See `SpikeNetwork.samples_at_once`."""
        return None

    def hyper_parameters(self) -> dict[str, int]:
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

    def outputs(self, traces: np.ndarray, gains: np.ndarray | None = None) -> np.ndarray:
        """See `SpikeNetwork.outputs`: scores, to the bit the same wherever the traces begin."""
        if self.heads.device.type != "cpu":
            scaled = torch.tensor(traces * (1.0 if gains is None else gains), dtype=torch.float32)
            return self(scaled.to(self.heads.device)[None])[0].cpu().numpy()
        return self.scores(self.whitened(traces, gains)).T

    def present_channels(self) -> np.ndarray:
        """Channels that are listened to: int64, ascending."""
        return np.flatnonzero(np.diagonal(self.whitening.numpy()))

    def resting_whitening(self) -> np.ndarray:
        """Whitening of traces where the tissue has not moved, float32 (C, C)."""
        return self.moved_whitening().matrix(np.zeros(1), np.zeros(1))

    def moved_whitening(self) -> MovedWhitening:
        """Whitening of traces wherever the tissue is."""
        positions = self.positions.cpu().double().numpy()
        return MovedWhitening(self.whitening.cpu().numpy(), positions, smooth=self.moved)

    def filtered(self, traces: np.ndarray, gains: np.ndarray | None = None) -> np.ndarray:
        """Band-pass and decimate: (N, C) in µV, or as stored with gains (C,), to float32 (C, T)."""
        return self.bandpass.apply(traces, gains)

    def whitened(self, traces: np.ndarray, gains: np.ndarray | None = None) -> np.ndarray:
        """Band-pass, decimate and whiten: (N, C) in µV, or as stored with gains (C,), to float32 (C, T)."""
        if "whitening" not in self._sparse:
            self._sparse["whitening"] = SparseRows(self.resting_whitening())
        return self._sparse["whitening"] @ self.filtered(traces, gains)

    def features(self, whitened: np.ndarray) -> np.ndarray:
        """Filter each channel with the temporal bank: (C, T) to float32 (C, F, T - Lb + 1)."""
        return fir_bank(whitened, self.filters.numpy())

    def scores(self, whitened: np.ndarray) -> np.ndarray:
        """Scores of all units: (C, T) to float32 (U, T - Lb + 1)."""
        return self._sparse_heads().of_filtered(whitened, self.filters.numpy(), -self.energies.numpy() / 2)

    def dense_heads(self) -> Tensor:
        """Heads over all channels, (U, C, F)."""
        dense = self.heads.new_zeros(self.num_units, self.num_channels, self.heads.shape[2])
        return dense.scatter_(1, self.head_channels[:, :, None].expand_as(self.heads), self.heads)

    def _sparse_heads(self) -> SparseRows:
        if "heads" not in self._sparse:
            self._sparse["heads"] = SparseRows(self.dense_heads().flatten(1).numpy())
        return self._sparse["heads"]

    def groups(self) -> list[tuple[np.ndarray, slice, Tensor]]:
        """Units that lie together, the rows of the features that they need, and their weights on these."""
        if self._groups is None:
            self._groups = self._grouped()
        return self._groups

    def _grouped(self) -> list[tuple[np.ndarray, slice, Tensor]]:
        num_filters = self.heads.shape[2]
        centre = self.head_channels.float().mean(dim=1)
        groups = []
        for units in torch.argsort(centre, stable=True).split(_GROUP_UNITS):
            channels = self.head_channels[units]  # (u, H)
            first, last = int(channels.min()), int(channels.max()) + 1
            weights = self.heads.new_zeros(len(units), last - first, num_filters)
            weights.scatter_(1, (channels - first)[:, :, None].expand(-1, -1, num_filters), self.heads[units])
            groups.append((units.numpy(), slice(first * num_filters, last * num_filters), weights.flatten(1)))
        return groups

    def of_units(self, unit_index: np.ndarray) -> PursuitNetwork:
        """See `SpikeNetwork.of_units`."""
        copy = deepcopy(self)
        copy.num_units = len(unit_index)
        copy._groups, copy._sparse = None, {}
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
