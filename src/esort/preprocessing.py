"""The filter in front of everything: band-pass, µV, common reference, by SpikeInterface and lazily."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording

logger = logging.getLogger(__name__)

# From this many channels on, the median over channels is hardly moved by a spike on some of them.
MIN_CHANNELS_FOR_REFERENCE = 16
# Margin on either side of a chunk, in periods of the lower corner. Measured with the 5th order at 300 Hz:
# what a chunk's edge changes inside is 2e-6 of the raw traces' standard deviation (3 periods: 2e-4).
_MARGIN_PERIODS = 6
BAND_HZ = (175.0, 4300.0)
"""Corners for the pursuit, the default network: those of conf/preprocessing/pursuit.yaml."""
_REFERENCES = ("auto", "median", "none")


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Band-pass and common reference.

    Parameters
    ----------
    freq_min_hz, freq_max_hz : float
        Corners of the band.
    common_reference : {"auto", "median", "none"}
        "median" subtracts the median over channels from each sample; "auto" does so from 16 channels on.
    filter_order : int
        Order of the Butterworth filter, which runs forward and backward (no delay).
    inside_network : bool
        The network filters for itself: traces come to it as stored, in µV. It takes the corners from here;
        reference and order are not used.

    Raises
    ------
    ValueError
        If a value is outside its limits.
    """

    freq_min_hz: float = 300.0
    freq_max_hz: float = 6000.0
    common_reference: str = "auto"
    filter_order: int = 5
    inside_network: bool = False

    def __post_init__(self) -> None:
        for name in ("freq_min_hz", "freq_max_hz"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError(f"{name} must be a number of Hz, got {value!r}")
        if self.freq_min_hz < 100:
            # SpikeInterface refuses lower corners too: its margins would outgrow the chunks.
            raise ValueError(f"freq_min_hz must be at least 100 Hz, got {self.freq_min_hz!r}")
        if self.freq_max_hz <= self.freq_min_hz:
            raise ValueError(
                f"freq_max_hz must be above freq_min_hz={self.freq_min_hz}, got {self.freq_max_hz!r}"
            )
        if self.common_reference not in _REFERENCES:
            raise ValueError(
                f"common_reference must be one of {', '.join(_REFERENCES)}, got {self.common_reference!r}"
            )
        if self.filter_order not in range(1, 11):
            raise ValueError(f"filter_order must be a whole number in [1, 10], got {self.filter_order!r}")
        if not isinstance(self.inside_network, bool):
            raise ValueError(f"inside_network must be true or false, got {self.inside_network!r}")

    def resolve(self, recording: BaseRecording) -> Preprocessing:
        """Decide what "auto" means for this recording.

        Raises
        ------
        ValueError
            If the band does not fit the recording's rate.
        """
        nyquist = recording.sampling_frequency / 2
        if self.freq_max_hz >= nyquist:
            raise ValueError(
                f"freq_max_hz must be below half the sampling rate ({nyquist:g} Hz for a recording at "
                f"{recording.sampling_frequency:g} Hz), got {self.freq_max_hz:g}"
            )
        if self.inside_network:
            return replace(self, common_reference="none")  # whitening takes out what channels share
        if self.common_reference != "auto":
            return self
        enough = recording.get_num_channels() >= MIN_CHANNELS_FOR_REFERENCE
        return replace(self, common_reference="median" if enough else "none")

    def margin_samples(self, sampling_frequency: float) -> int:
        """Samples that `apply` reads on either side of what it is asked for.

        With them the traces of a chunk equal those of the whole recording, wherever the chunk begins, to
        1e-5 of the raw traces' standard deviation. Callers need no margin of their own for the filter.
        """
        return 0 if self.inside_network else int(self._margin_ms() * sampling_frequency / 1000)

    @property
    def min_samples(self) -> int:
        """Samples of the shortest recording that the filter can take (scipy's padding wants them)."""
        return 1 if self.inside_network else 3 * (2 * self.filter_order + 1) + 1

    def _margin_ms(self) -> float:
        return _MARGIN_PERIODS * 1000 / self.freq_min_hz

    def apply(self, recording: BaseRecording) -> BaseRecording:
        """Return the recording behind the filter, lazily.

        Parameters
        ----------
        recording : BaseRecording
            Any dtype. Without a gain its unit is kept, with a warning.

        Returns
        -------
        BaseRecording
            float32, in µV, with gain 1 and offset 0 where the unit is known.

        Raises
        ------
        ValueError
            If the band does not fit the rate, or the recording is shorter than `min_samples`.
        """
        from spikeinterface.preprocessing import astype, bandpass_filter, common_reference, scale_to_uV

        chosen, recording = self._ready(recording)
        if chosen.inside_network:
            unknown = recording.get_channel_gains() is None
            return astype(recording, "float32") if unknown else scale_to_uV(recording)
        filtered = bandpass_filter(
            recording,
            freq_min=chosen.freq_min_hz,
            freq_max=chosen.freq_max_hz,
            margin_ms=chosen._margin_ms(),
            filter_order=chosen.filter_order,
            dtype="float32",
        )
        filtered = _in_uv(filtered)
        if chosen.common_reference == "median":
            filtered = common_reference(filtered, reference="global", operator="median", dtype="float32")
        return filtered

    def roughly(self, recording: BaseRecording) -> BaseRecording:
        """Do as `apply` without a reference, behind a filter of soft edges: for a first look.

        It is there at once; to load those of SciPy, which `apply` takes, is a second of start-up.
        """
        from spikeinterface.preprocessing import astype, gaussian_filter

        _, recording = self._ready(recording)
        return _in_uv(gaussian_filter(astype(recording, "float32"), self.freq_min_hz, self.freq_max_hz))

    def _ready(self, recording: BaseRecording) -> tuple[Preprocessing, BaseRecording]:
        """Decide what "auto" means, refuse what cannot be filtered, and centre unsigned traces."""
        from spikeinterface.preprocessing import unsigned_to_signed

        chosen = self.resolve(recording)
        if recording.get_num_samples() < self.min_samples:
            raise ValueError(
                f"a filter of order {self.filter_order} needs a recording of at least "
                f"{self.min_samples} samples, got {recording.get_num_samples()}"
            )
        unsigned = np.dtype(recording.dtype).kind == "u"
        return chosen, unsigned_to_signed(recording) if unsigned else recording

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint's card."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """Make it from `to_dict`'s values.

        Raises
        ------
        ValueError
            If a name is unknown.
        """
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"preprocessing has no {', '.join(unknown)}")
        return cls(**values)


def noise_levels_uv(
    recording: BaseRecording,
    *,
    start_sample: int = 0,
    stop_sample: int | None = None,
    seed: int | None = 0,
    num_chunks: int = 20,
    chunk_s: float = 0.2,
) -> np.ndarray:
    """Noise level of each channel: median absolute deviation over 0.6745, averaged over random chunks.

    Parameters
    ----------
    recording : BaseRecording
        Usually behind the filter. Without a gain the levels are in the recording's own unit.
    start_sample, stop_sample : int
        Only this time is looked at (the filter's own margin apart).
    seed : int or None
        Where the chunks lie; None: somewhere else each time.
    num_chunks, chunk_s : int, float
        How much to look at; chunks may overlap.

    Returns
    -------
    float64 array, shape (C,)
        Above 0. A channel without any noise (dead) gets the median of the others, so that dividing by it
        leaves it silent, and is named in a warning.

    Raises
    ------
    ValueError
        If the interval is empty or no channel has any noise.
    """
    from spikeinterface.core import get_noise_levels

    num_samples = recording.get_num_samples()
    stop_sample = num_samples if stop_sample is None else stop_sample
    if not 0 <= start_sample < stop_sample <= num_samples:
        raise ValueError(
            f"noise needs an interval inside the recording's [0, {num_samples}), "
            f"got [{start_sample}, {stop_sample})"
        )
    chunk_samples = min(max(1, round(chunk_s * recording.sampling_frequency)), stop_sample - start_sample)
    part = recording.frame_slice(start_frame=start_sample, end_frame=stop_sample)
    levels = get_noise_levels(
        part,
        return_in_uV=recording.has_scaleable_traces(),
        method="mad",
        force_recompute=True,  # a level cached on the parent may come from other time
        random_slices_kwargs={
            "num_chunks_per_segment": min(num_chunks, -(-(stop_sample - start_sample) // chunk_samples)),
            "chunk_duration": None,
            "chunk_size": chunk_samples,
            "seed": seed,
        },
        n_jobs=1,
        progress_bar=False,
    ).astype(np.float64)
    dead = ~(levels > 0)
    if dead.all():
        raise ValueError(
            f"no channel has any noise in samples [{start_sample}, {stop_sample}): all traces are constant"
        )
    if dead.any():
        logger.warning(
            "channels without any noise (dead): %s", ", ".join(map(str, recording.channel_ids[dead]))
        )
        levels[dead] = np.median(levels[~dead])
    return levels


def _in_uv(filtered: BaseRecording) -> BaseRecording:
    """Scale traces that a band-pass has freed of any offset; without a gain they keep their unit."""
    from spikeinterface.preprocessing import scale_to_uV

    if filtered.get_channel_gains() is None:
        logger.warning("the recording does not say its gain: traces keep their own unit instead of µV")
        return filtered
    filtered.set_channel_offsets(0.0)
    return scale_to_uV(filtered)
