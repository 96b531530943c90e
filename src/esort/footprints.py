"""Where each unit is seen on the probe and how well it stands out, from its spikes in a recording."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording, BaseSorting

__all__ = ["Footprints", "estimate_footprints"]

BEFORE_MS, AFTER_MS = 1.0, 1.5
# Contacts below this share of the largest amplitude are mostly noise and would pull positions to the middle.
POSITION_SHARE = 0.3
# A piece of the stretch, so that a lazily filtered recording is filtered once and not held as a whole.
_PIECE_S = 0.25
_THREADS = 2
# Of each piece: a few thousand samples tell the noise level as well as all of them.
_NOISE_SAMPLES = 250


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
        The stretch to read.
    max_spikes : int
        Of each unit at most these, evenly spread over its spikes in the stretch.

    Returns
    -------
    Footprints
    """
    rate = recording.sampling_frequency
    start_sample, stop_sample = max(start_sample, 0), min(stop_sample, recording.get_num_frames(0))
    before, after = int(BEFORE_MS * rate / 1e3), int(AFTER_MS * rate / 1e3)
    spikes, units = _chosen_spikes(sorting, start_sample + before, stop_sample - after, max_spikes)
    present, row = np.unique(units, return_inverse=True)
    num_channels = recording.get_num_channels()

    def summed(piece: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Units of a piece (K,), sums over their spikes (K, T, C), and some of its samples."""
        first, last = piece
        low, high = max(first - before, 0), min(last + after, recording.get_num_frames(0))
        traces = read_traces_uv(recording, low, high)
        inside = (spikes >= first) & (spikes < last)
        own, place = np.unique(row[inside], return_inverse=True)
        sums = np.zeros((len(own), before + after, num_channels), dtype=np.float32)
        for spike, unit in zip(spikes[inside] - before - low, place, strict=True):
            sums[unit] += traces[spike : spike + before + after]
        # A copy: a view would keep the memory of the whole piece.
        return own, sums, traces[:: max(1, len(traces) // _NOISE_SAMPLES)].copy()

    edges = [*range(start_sample, stop_sample, max(1, round(_PIECE_S * rate))), stop_sample]
    total = np.zeros((len(present), before + after, num_channels), dtype=np.float32)
    samples = []
    with ThreadPoolExecutor(_THREADS) as pool:
        # A few pieces at a time: all of them would be the whole stretch.
        for some in _in_parts(list(pairwise(edges)), _THREADS):
            for own, sums, sample in pool.map(summed, some):
                total[own] += sums
                samples.append(sample)
    sample = np.concatenate(samples) if samples else np.zeros((1, num_channels), dtype=np.float32)
    ids = [sorting.unit_ids[unit] for unit in present]
    total /= np.maximum(np.bincount(row, minlength=len(present)), 1)[:, None, None]
    return Footprints(
        unit_ids=tuple(unit_id.item() if isinstance(unit_id, np.generic) else unit_id for unit_id in ids),
        templates_uv=total,
        noise_uv=1.4826 * np.median(np.abs(sample - np.median(sample, axis=0)), axis=0),  # (C,)
        contact_positions_um=np.asarray(recording.get_channel_locations(), dtype=float),
    )


def read_traces_uv(recording: BaseRecording, start_sample: int, stop_sample: int) -> np.ndarray:
    """Return traces, shape (N, C), in µV where the recording has a gain and as they are where it has none."""
    return recording.get_traces(
        segment_index=0,
        start_frame=start_sample,
        end_frame=stop_sample,
        return_in_uV=recording.has_scaleable_traces(),
    ).astype(np.float32, copy=False)


def _chosen_spikes(
    sorting: BaseSorting, start_sample: int, stop_sample: int, max_spikes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Spikes of [start_sample, stop_sample) and their units, at most so many of each, evenly spread."""
    vector = sorting.to_spike_vector()
    first, last = np.searchsorted(vector["sample_index"], [start_sample, max(start_sample, stop_sample)])
    part = vector[first:last]
    chosen = []
    for unit in range(len(sorting.unit_ids)):
        own = np.flatnonzero(part["unit_index"] == unit)
        chosen.append(own[np.linspace(0, len(own) - 1, min(max_spikes, len(own))).astype(int)])
    kept = np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, dtype=np.int64)
    return part["sample_index"][kept].astype(np.int64), part["unit_index"][kept].astype(np.int64)


def _in_parts(pieces: list[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    for start in range(0, len(pieces), size):
        yield pieces[start : start + size]
