"""A learned pursuit network at work: arrays and compiled loops, without PyTorch.

What sorts needs no more than the arrays of a checkpoint, and PyTorch takes longer to load than a minute of
recording takes to sort. `esort.pursuit.network.PursuitNetwork` learns, defines the scores, and hands its
arrays over to this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from esort.pursuit.bandpass import Bandpass
from esort.pursuit.compiled import fir_bank
from esort.pursuit.mixing import SparseRows
from esort.pursuit.moving import MovedWhitening

if TYPE_CHECKING:
    from esort.pursuit.network import PursuitNetwork

__all__ = ["PursuitScorer", "PursuitSizes", "score_thresholds", "scorer_of"]


@dataclass(frozen=True, kw_only=True)
class PursuitSizes:
    """Hyper-parameters of a pursuit network, see `esort.pursuit.network.PursuitNetwork`.

    Raises
    ------
    ValueError
        If a value is outside its limits.
    """

    num_channels: int
    num_units: int
    window_samples: int
    peak_offset_samples: int
    step: int = 2
    lowpass_samples: int = 1
    highpass_samples: int = 1
    num_filters: int = 6
    filter_samples: int = 1
    filter_before: int = 0
    footprint_before: int = 0
    footprint_samples: int = 1
    num_footprint_channels: int = 1
    num_head_channels: int = 14
    num_components: int = 1
    follows: bool = False
    moved: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.follows, bool):
            raise ValueError(f"follows must be true or false, got {self.follows!r}")
        for name in ("num_channels", "num_units"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.peak_offset_samples < self.window_samples:
            raise ValueError(
                f"the peak must lie inside the window's {self.window_samples} samples, "
                f"got {self.peak_offset_samples}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a card keeps them."""
        return asdict(self)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each array; those named ``..._channels`` are int64, the others float32."""
        members = min(self.num_footprint_channels, self.num_channels)
        heads = min(self.num_head_channels, self.num_channels)
        return {
            "lowpass": (self.lowpass_samples,),
            "highpass": (self.highpass_samples,),
            "positions": (self.num_channels, 2),
            "whitening": (self.num_channels, self.num_channels),
            "filters": (self.num_filters, self.filter_samples),
            "basis": (self.num_components, self.footprint_samples),
            "footprint_channels": (self.num_units, members),
            "footprints": (self.num_units, members, self.footprint_samples),
            "head_channels": (self.num_units, heads),
            "heads": (self.num_units, heads, self.num_filters),
        }


class PursuitScorer:
    """Scores of units from traces, on the processor.

    Parameters
    ----------
    sizes : PursuitSizes
    arrays : mapping of str to array
        Of the shapes that `sizes` tells; not copied where their type fits.
    """

    lowpass: np.ndarray
    highpass: np.ndarray
    positions: np.ndarray
    whitening: np.ndarray
    filters: np.ndarray
    basis: np.ndarray
    footprint_channels: np.ndarray
    footprints: np.ndarray
    head_channels: np.ndarray
    heads: np.ndarray

    samples_at_once: int | None = None
    """See `esort.network.SpikeNetwork.samples_at_once`."""

    def __init__(self, sizes: PursuitSizes, arrays: Mapping[str, np.ndarray]) -> None:
        self.sizes = sizes
        self.num_channels = sizes.num_channels
        self.num_units = sizes.num_units
        self.window_samples = sizes.window_samples
        self.peak_offset_samples = sizes.peak_offset_samples
        self.stride = sizes.step
        self.filter_before = sizes.filter_before
        self.footprint_before = sizes.footprint_before
        self.follows = sizes.follows
        for name in sizes.shapes():
            dtype = np.int64 if name.endswith("_channels") else np.float32
            setattr(self, name, np.ascontiguousarray(arrays[name], dtype=dtype))
        self.bandpass = Bandpass(lowpass=self.lowpass, highpass=self.highpass, step=self.stride)
        """The filter in front."""
        self.energies: np.ndarray = np.square(self.heads).sum(axis=(1, 2))
        """|D_u|² of each unit, float32 (U,)."""

    def __reduce__(self) -> tuple[type[PursuitScorer], tuple[PursuitSizes, dict[str, np.ndarray]]]:
        """Take along the arrays, and not what is made of them."""
        return PursuitScorer, (self.sizes, self.arrays())

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays, by name."""
        return {name: getattr(self, name) for name in self.sizes.shapes()}

    def folded(self) -> PursuitScorer:
        """See `esort.network.SpikeNetwork.folded`: there is nothing to fold."""
        return self

    def outputs(self, traces: np.ndarray, gains: np.ndarray | None = None) -> np.ndarray:
        """See `esort.network.SpikeNetwork.outputs`: scores, the same to the bit wherever the traces begin."""
        return self.scores(self.whitened(traces, gains)).T

    def present_channels(self) -> np.ndarray:
        """Channels that are listened to: int64, ascending."""
        return np.flatnonzero(np.diagonal(self.whitening))

    def resting_whitening(self) -> np.ndarray:
        """Whitening of traces where the tissue has not moved, float32 (C, C)."""
        return self.moved_whitening.matrix(np.zeros(1), np.zeros(1))

    @cached_property
    def peak_channels(self) -> np.ndarray:
        """Channel on which each unit is largest, int64 (U,)."""
        largest = np.square(self.footprints).sum(axis=2).argmax(axis=1)
        channels: np.ndarray = self.footprint_channels[np.arange(self.num_units), largest]
        return channels

    @cached_property
    def moved_whitening(self) -> MovedWhitening:
        """Whitening of traces wherever the tissue is."""
        return MovedWhitening(self.whitening, self.positions.astype(np.float64), smooth=self.sizes.moved)

    @cached_property
    def resting_rows(self) -> SparseRows:
        """`resting_whitening` for the processor, (C, C)."""
        return SparseRows(self.resting_whitening())

    @cached_property
    def head_rows(self) -> SparseRows:
        """Heads over the rows of all features, (U, C · F)."""
        return SparseRows(self.dense_heads().reshape(self.num_units, -1))

    @cached_property
    def noise_uv(self) -> np.ndarray:
        """Noise level of each channel that was learned with, in µV behind the band-pass: float64 (C,).

        Infinite where nobody listens.
        """
        present = self.present_channels()
        coloring = np.linalg.inv(self.whitening.astype(np.float64)[np.ix_(present, present)])
        level = np.full(self.num_channels, np.inf)
        level[present] = np.sqrt(np.square(coloring).sum(axis=1))
        return level

    def filtered(self, traces: np.ndarray, gains: np.ndarray | None = None) -> np.ndarray:
        """Band-pass and decimate: (N, C) in µV, or as stored with gains (C,), to float32 (C, T)."""
        return self.bandpass.apply(traces, gains)

    def whitened(self, traces: np.ndarray, gains: np.ndarray | None = None) -> np.ndarray:
        """Band-pass, decimate and whiten: (N, C) in µV, or as stored with gains (C,), to float32 (C, T)."""
        return self.resting_rows @ self.filtered(traces, gains)

    def features(self, whitened: np.ndarray) -> np.ndarray:
        """Filter each channel with the temporal bank: (C, T) to float32 (C, F, T - Lb + 1)."""
        return fir_bank(whitened, self.filters)

    def scores(self, whitened: np.ndarray) -> np.ndarray:
        """Scores of all units: (C, T) to float32 (U, T - Lb + 1)."""
        return self.head_rows.of_filtered(whitened, self.filters, -self.energies / 2)

    def dense_heads(self) -> np.ndarray:
        """Heads over all channels, (U, C, F)."""
        dense = np.zeros((self.num_units, self.num_channels, self.heads.shape[2]), dtype=np.float32)
        np.put_along_axis(dense, self.head_channels[:, :, None], self.heads, axis=1)
        return dense


def scorer_of(network: PursuitScorer | PursuitNetwork) -> PursuitScorer:
    """What works with the arrays of a network that learns, or is its own."""
    return network if isinstance(network, PursuitScorer) else network.scorer()


def score_thresholds(energies: np.ndarray) -> np.ndarray:
    """Least score of a spike of each unit, from the energy of its detector.

    A spike must be likelier than noise given how rare spikes are, stand out from the noise, and be no small
    part of the footprint. (U,) to (U,).
    """
    # The score of an amplitude a is (a - 1/2) times the energy, which may be 0.
    standing_out = 4.3 * np.sqrt(energies) - 0.5 * energies
    thresholds: np.ndarray = np.maximum(np.maximum(7.3, standing_out), 0.1 * energies)
    return thresholds
