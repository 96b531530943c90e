"""Where each unit is seen on the probe and how well it stands out, from its spikes in a recording."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording, BaseSorting

__all__ = ["Footprints", "estimate_footprints"]

BEFORE_MS, AFTER_MS = 1.0, 1.5
# Contacts below this share of the largest amplitude are mostly noise and would pull positions to the middle.
POSITION_SHARE = 0.3


@dataclass(frozen=True, kw_only=True, eq=False)
class Footprints:
    """Mean waveforms of units.

    Parameters
    ----------
    unit_ids : tuple
        Units with at least one spike in the stretch that was read (U).
    templates_uv : float32 array, shape (U, T, C)
        Mean traces around the spikes, in the recording's unit (µV where the recording has a gain).
    noise_uv : float array, shape (C,)
        Robust standard deviation of each channel: 1.4826 times the median absolute deviation.
    contact_positions_um : float array, shape (C, 2)
    """

    unit_ids: tuple
    templates_uv: np.ndarray
    noise_uv: np.ndarray
    contact_positions_um: np.ndarray

    @property
    def amplitudes_uv(self) -> np.ndarray:
        """Largest absolute value of each template on each channel, shape (U, C)."""
        return np.abs(self.templates_uv).max(axis=1)  # (U, C)

    @property
    def channel_index(self) -> np.ndarray:
        """Channel on which each unit is largest, shape (U,)."""
        return self.amplitudes_uv.argmax(axis=1)  # (U,)

    @property
    def positions_um(self) -> np.ndarray:
        """Centre of mass of each unit's squared amplitudes, shape (U, 2)."""
        amplitudes = self.amplitudes_uv  # (U, C)
        largest = amplitudes.max(axis=1, keepdims=True)  # (U, 1)
        weight = np.where(amplitudes >= POSITION_SHARE * largest, amplitudes, 0.0) ** 2  # (U, C)
        return (
            weight @ self.contact_positions_um / np.maximum(weight.sum(axis=1, keepdims=True), 1e-12)
        )  # (U, 2)

    @property
    def signal_to_noise(self) -> dict:
        """Largest amplitude over the noise of its channel, by unit id."""
        rows = np.arange(len(self.unit_ids))
        largest = self.amplitudes_uv[rows, self.channel_index]  # (U,)
        noise_uv = np.maximum(self.noise_uv[self.channel_index], 1e-12)
        return dict(zip(self.unit_ids, (largest / noise_uv).tolist(), strict=True))


def estimate_footprints(
    recording: BaseRecording,
    sorting: BaseSorting,
    *,
    start_sample: int,
    stop_sample: int,
    max_spikes: int = 50,
) -> Footprints:
    """Average the traces around the spikes of each unit.

    Parameters
    ----------
    recording, sorting : BaseRecording, BaseSorting
        One segment, same rate.
    start_sample, stop_sample : int
        The stretch to read; all of it is held in memory.
    max_spikes : int
        Of each unit at most these, evenly spread over its spikes in the stretch.

    Returns
    -------
    Footprints
    """
    from spikeinterface.core.waveform_tools import estimate_templates_with_accumulator

    rate = recording.sampling_frequency
    start_sample, stop_sample = max(start_sample, 0), min(stop_sample, recording.get_num_frames(0))
    # In memory, because a lazily filtered recording would be filtered once per spike otherwise.
    stretch = recording.frame_slice(start_sample, stop_sample).save(
        format="memory", n_jobs=1, progress_bar=False
    )
    num_before, num_after = int(BEFORE_MS * rate / 1e3), int(AFTER_MS * rate / 1e3)
    chosen, unit_ids = [], []
    for unit_id in sorting.unit_ids:
        spikes = np.asarray(sorting.get_unit_spike_train(unit_id, segment_index=0)) - start_sample
        spikes = spikes[(spikes >= num_before) & (spikes < stop_sample - start_sample - num_after)]
        if len(spikes):
            spread = np.linspace(0, len(spikes) - 1, min(max_spikes, len(spikes))).astype(int)
            chosen.append(spikes[spread])
            unit_ids.append(unit_id.item() if isinstance(unit_id, np.generic) else unit_id)
    vector = _spike_vector(chosen)
    num_channels = recording.get_num_channels()
    templates_uv = np.zeros((0, num_before + num_after, num_channels), dtype=np.float32)
    if unit_ids:
        scaled = stretch.has_scaleable_traces()
        templates_uv = estimate_templates_with_accumulator(
            stretch,
            vector,
            unit_ids,
            num_before,
            num_after,
            return_in_uV=scaled,
            n_jobs=1,
            progress_bar=False,
        )  # (U, T, C)
    traces = read_traces_uv(stretch, 0, stop_sample - start_sample)  # (N, C)
    # A few thousand samples tell the noise level as well as all of them.
    sample = traces[:: max(1, len(traces) // 20_000)]
    noise_uv = 1.4826 * np.median(np.abs(sample - np.median(sample, axis=0)), axis=0)  # (C,)
    return Footprints(
        unit_ids=tuple(unit_ids),
        templates_uv=np.asarray(templates_uv, dtype=np.float32),
        noise_uv=noise_uv,
        contact_positions_um=np.asarray(recording.get_channel_locations(), dtype=float),
    )


def read_traces_uv(recording: BaseRecording, start_sample: int, stop_sample: int) -> np.ndarray:
    """Return traces, shape (N, C), in µV where the recording has a gain and as they are where it has none."""
    return recording.get_traces(
        segment_index=0,
        start_frame=start_sample,
        end_frame=stop_sample,
        return_in_uV=recording.has_scaleable_traces(),
    ).astype(np.float32)


def _spike_vector(trains: list[np.ndarray]) -> np.ndarray:
    """Return spike trains in SpikeInterface's form of one vector, sorted by time."""
    from spikeinterface.core.base import minimum_spike_dtype

    vector = np.zeros(sum(len(train) for train in trains), dtype=minimum_spike_dtype)
    if trains:
        vector["sample_index"] = np.concatenate(trains)
        vector["unit_index"] = np.repeat(np.arange(len(trains)), [len(train) for train in trains])
        vector.sort(order="sample_index")
    return vector
