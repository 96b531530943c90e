"""A sorting as it lies in a folder: written and opened without ever being in memory as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from esort.detector import no_spikes
from esort.postprocess import Spikes
from esort.results import DOUBTFUL, MOTION, UNKNOWN
from esort.sort_result import SortResult

if TYPE_CHECKING:
    from spikeinterface.core import BaseSorting

__all__ = ["open_saved", "save_sorting", "write_array"]

# Spikes that are in memory at once when a sorting is written.
_SPIKES_AT_ONCE = 2**20


def save_sorting(
    result: SortResult, folder: Path, *, doubtful: Callable[[Spikes], np.ndarray] | None = None
) -> None:
    """Save a sorting as SpikeInterface's folder; in it each spike's probability, motion, unknown events.

    Parameters
    ----------
    result : SortResult
    folder : Path
        Replaced.
    doubtful : callable, optional
        Tells of some spikes which are doubtful, see `esort.doubtful`; saved too, one bool for each spike.
    """
    from spikeinterface.core.base import minimum_spike_dtype

    spikes, count = result.spikes, len(result.spikes)
    parts = [slice(start, start + _SPIKES_AT_ONCE) for start in range(0, count, _SPIKES_AT_ONCE)]
    replace(result, spikes=no_spikes()).sorting().save(folder=folder, overwrite=True)

    def pieces() -> Iterator[np.ndarray]:
        for part in parts:
            vector = np.zeros(len(spikes.sample_index[part]), dtype=minimum_spike_dtype)
            vector["sample_index"] = spikes.sample_index[part]
            vector["unit_index"] = spikes.unit_index[part]
            yield vector

    write_array(folder / "spikes.npy", np.dtype(minimum_spike_dtype), count, pieces())
    probabilities = (spikes.probability[part] for part in parts)
    write_array(folder / "probability.npy", np.dtype("<f4"), count, probabilities)
    if doubtful is not None:
        flags = (
            doubtful(Spikes(spikes.sample_index[part], spikes.unit_index[part], spikes.probability[part]))
            for part in parts
        )
        write_array(folder / DOUBTFUL, np.dtype(bool), count, flags)
    if result.motion is not None:
        result.motion.save(folder / MOTION)
    if result.minutes is not None:
        result.unknown.save(folder / UNKNOWN)


def open_saved(folder: Path) -> BaseSorting:
    """Open what `save_sorting` has saved; its spikes stay on disk."""
    from spikeinterface.core import NumpyFolderSorting

    with open(folder / "spikes.npy", "rb") as file:
        np.lib.format.read_magic(file)
        shape = np.lib.format.read_array_header_1_0(file)[0]
    return NumpyFolderSorting(folder, mmap_mode="r" if shape[0] else None)  # an empty file cannot be mapped


def write_array(path: Path, dtype: np.dtype, count: int, pieces: Iterable[np.ndarray]) -> None:
    """Write a one-dimensional array in NumPy's format without ever holding it."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count,)}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for piece in pieces:
            file.write(np.ascontiguousarray(piece, dtype=dtype).tobytes())
