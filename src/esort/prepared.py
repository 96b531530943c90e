"""Traces as a network takes them: filtered, channels in the network's order, in units of the noise level."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from esort.blanking import BlankedRecording
from esort.files import new_memory_map, write_atomically
from esort.handling import handling_of
from esort.health import check_finite
from esort.preprocessing import Preprocessing, noise_levels_uv

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording

__all__ = ["PreparedRecording", "prepare"]

# Longer blocks waste less of the filter's margin, shorter ones need less memory.
_BLOCK_S = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedRecording:
    """A recording behind filter and scaling.

    Parameters
    ----------
    raw : BaseRecording
        As stored, channels in the network's order.
    filtered : BaseRecording
        The same behind the filter, lazily.
    preprocessing : Preprocessing
        What lies between them.
    noise_level_uv : float64 array, shape (C,)
        By which the traces are divided.
    silent_channels : int64 array
        Bad channels, whose traces are zero.
    blanked : BlankedRecording or None
        Between `raw` and `filtered`: without artefacts. None: nothing is blanked.
    """

    raw: BaseRecording
    filtered: BaseRecording
    preprocessing: Preprocessing
    noise_level_uv: np.ndarray
    silent_channels: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    blanked: BlankedRecording | None = None

    @property
    def sampling_frequency(self) -> float:
        """In Hz."""
        return float(self.raw.sampling_frequency)

    @property
    def num_samples(self) -> int:
        """Length of the recording."""
        return int(self.raw.get_num_samples())

    @property
    def num_channels(self) -> int:
        """Number of channels."""
        return int(self.raw.get_num_channels())

    def traces(self, start_sample: int, stop_sample: int) -> np.ndarray:
        """Read a stretch.

        Returns
        -------
        float32 array, shape (stop_sample - start_sample, C)
            In units of the noise level.

        Raises
        ------
        ValueError
            If the stored traces hold a NaN or an infinity, in the stretch or so near that the filter would
            spread it into the stretch; it says where.
        """
        if np.dtype(self.raw.dtype).kind == "f":
            # The filter spreads one NaN over all that it reads, so look for it in front of the filter.
            margin = self.preprocessing.margin_samples(self.sampling_frequency)
            first, last = max(0, start_sample - margin), min(self.num_samples, stop_sample + margin)
            stored = self.raw.get_traces(start_frame=first, end_frame=last)
            check_finite(stored, first, self.raw.channel_ids)
        traces = self.filtered.get_traces(start_frame=start_sample, end_frame=stop_sample)
        scaled: np.ndarray = traces / self.noise_level_uv.astype(np.float32)
        scaled[:, self.silent_channels] = 0
        return scaled

    def blanked_stretches(self, start_sample: int, stop_sample: int) -> np.ndarray:
        """Return the artefacts in [start_sample, stop_sample), as far as it was read: int64, (S, 2)."""
        if self.blanked is None:
            return np.zeros((0, 2), dtype=np.int64)
        return self.blanked.stretches(start_sample, stop_sample)

    def stored(self, start_sample: int, stop_sample: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Read a stretch for a network, as it is stored if that will do.

        Returns
        -------
        traces : array, shape (stop_sample - start_sample, C)
            Of any type of numbers; may not be written to.
        gains : float32 array, shape (C,), or None
            To be multiplied with, by a network that filters for itself: an offset does not pass its filter.
            None: they are in units of the noise level.

        Raises
        ------
        ValueError
            See `traces`.
        """
        if not self.preprocessing.inside_network:
            return self.traces(start_sample, stop_sample), None
        if self.blanked is None or np.dtype(self.raw.dtype).kind == "f":
            traces = self.raw.get_traces(start_frame=start_sample, end_frame=stop_sample)
            check_finite(traces, start_sample, self.raw.channel_ids)
        if self.blanked is not None:
            traces = self.blanked.get_traces(start_frame=start_sample, end_frame=stop_sample)
        if traces.dtype == np.uint16:
            traces = (traces ^ np.uint16(0x8000)).view(np.int16)
        gains_to_uv = self.raw.get_channel_gains()
        gains = (1.0 if gains_to_uv is None else gains_to_uv) / self.noise_level_uv
        gains[self.silent_channels] = 0
        return traces, gains.astype(np.float32)

    def memory_map(
        self, path: str | os.PathLike[str], *, stop_sample: int, num_workers: int = 2
    ) -> np.ndarray:
        """Write the traces of [0, stop_sample) to a file and return them as a read-only memory map.

        Parameters
        ----------
        path : path-like
            The file, in NumPy's format; it is whole or absent.
        stop_sample : int
        num_workers : int
            Threads; the file does not depend on them.

        Returns
        -------
        float32 array, shape (stop_sample, C)
        """
        shape = (stop_sample, self.num_channels)
        with write_atomically(Path(path)) as partial:
            out = new_memory_map(partial, np.float32, shape)
            with ThreadPoolExecutor(num_workers) as pool:
                list(pool.map(lambda block: self._write(out, *block), self._blocks(stop_sample)))
            out.flush()
        return np.load(path, mmap_mode="r")

    def _write(self, out: np.ndarray, start_sample: int, stop_sample: int) -> None:
        out[start_sample:stop_sample] = self.traces(start_sample, stop_sample)

    def _blocks(self, stop_sample: int) -> Iterator[tuple[int, int]]:
        length = round(_BLOCK_S * self.sampling_frequency)
        for start in range(0, stop_sample, length):
            yield start, min(stop_sample, start + length)


def prepare(
    recording: BaseRecording,
    preprocessing: Preprocessing,
    *,
    noise_level_uv: np.ndarray | None = None,
    noise_stop_sample: int | None = None,
    channel_order: np.ndarray | None = None,
    silent_channels: Sequence[int] | np.ndarray = (),
    seed: int = 0,
) -> PreparedRecording:
    """Put a recording behind filter and scaling, without its artefacts (see `esort.handling`).

    Parameters
    ----------
    recording : BaseRecording
    preprocessing : Preprocessing
    noise_level_uv : array, shape (C,), optional
        As measured before; otherwise measured here, on [0, `noise_stop_sample`).
    noise_stop_sample : int, optional
        By default the whole recording may be looked at.
    channel_order : int array, shape (C,), optional
        Which channels to take, in the network's order.
    silent_channels : sequence of int
        Bad channels, in that order: their traces become zero.
    seed : int
        Where the noise is measured.

    Raises
    ------
    ValueError
        If the band does not fit the rate, the recording is too short for the filter, or there are not as many
        noise levels as channels.
    """
    if channel_order is not None and not np.array_equal(
        channel_order, np.arange(recording.get_num_channels())
    ):
        recording = recording.select_channels(recording.channel_ids[channel_order])
    resolved = preprocessing.resolve(recording)
    blanking = handling_of(recording).blanking
    blanked = None if blanking is None else BlankedRecording(recording, blanking, silent_channels)
    filtered = resolved.apply(recording if blanked is None else blanked)
    if noise_level_uv is None:
        noise_level_uv = noise_levels_uv(filtered, stop_sample=noise_stop_sample, seed=seed)
    if np.shape(noise_level_uv) != (recording.get_num_channels(),):
        raise ValueError(
            f"expected a noise level for each of {recording.get_num_channels()} channels, "
            f"got shape {np.shape(noise_level_uv)}"
        )
    return PreparedRecording(
        raw=recording,
        filtered=filtered,
        preprocessing=resolved,
        noise_level_uv=np.asarray(noise_level_uv, dtype=np.float64),
        silent_channels=np.asarray(silent_channels, dtype=np.int64),
        blanked=blanked,
    )
