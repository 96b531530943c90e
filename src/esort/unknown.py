"""Events that no known unit explains: neurons that were never labelled, or that have changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from esort.files import write_atomically
from esort.one_line import one_line

__all__ = ["UnknownEvents"]

# Fields of SpikeInterface's peaks.
_PEAK = [
    ("sample_index", "int64"),
    ("channel_index", "int64"),
    ("amplitude", "float64"),
    ("segment_index", "int64"),
]


@dataclass(frozen=True, kw_only=True, eq=False)
class UnknownEvents:
    """Large peaks of what the spikes of known units leave of the traces; they are no part of the sorting.

    Parameters
    ----------
    sample_index : int64 array, shape (S,)
        Ascending, in samples of the recording.
    channel_index : int64 array, shape (S,)
        Channel of the recording where the trough is deepest.
    position_um : float32 array, shape (S, 2)
        Centre of the event's energy.
    amplitude : float32 array, shape (S,)
        Of the trough behind whitening, in noise levels, negative.
    size : float32 array, shape (S,)
        Norm over all channels around, noise taken off, in noise levels, as of a unit's footprint.
    """

    sample_index: np.ndarray
    channel_index: np.ndarray
    position_um: np.ndarray
    amplitude: np.ndarray
    size: np.ndarray

    KEPT: ClassVar[dict[str, tuple[str, ...]]] = {
        "sample_index": ("<i8", "events"),
        "channel_index": ("<i8", "events"),
        "position_um": ("<f4", "events", "axes"),
        "amplitude": ("<f4", "events"),
        "size": ("<f4", "events"),
    }
    """Type and axes of each array in a file."""

    def __len__(self) -> int:
        return len(self.sample_index)

    @classmethod
    def none(cls) -> UnknownEvents:
        """Nothing unknown."""
        empty = np.zeros(0, dtype=np.int64)
        real = np.zeros(0, dtype=np.float32)
        return cls(
            sample_index=empty,
            channel_index=empty,
            position_um=np.zeros((0, 2), dtype=np.float32),
            amplitude=real,
            size=real,
        )

    @classmethod
    def joined(cls, parts: Iterable[UnknownEvents]) -> UnknownEvents:
        """Put stretches of one recording together, by sample, then channel."""
        found = [cls.none(), *parts]
        arrays = {name: np.concatenate([getattr(part, name) for part in found]) for name in cls.KEPT}
        return cls(**arrays).chosen(np.lexsort((arrays["channel_index"], arrays["sample_index"])))

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> UnknownEvents:
        """Take what `arrays` gave."""
        return cls(**{name: np.asarray(arrays[name], dtype=kept[0]) for name, kept in cls.KEPT.items()})

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays, by name."""
        return {name: getattr(self, name) for name in self.KEPT}

    def chosen(self, which: np.ndarray) -> UnknownEvents:
        """Some of the events."""
        return UnknownEvents(**{name: getattr(self, name)[which] for name in self.KEPT})

    def peaks(self, segment_index: int = 0) -> np.ndarray:
        """As SpikeInterface's components take peaks: a structured array with the fields of these."""
        peaks = np.zeros(len(self), dtype=_PEAK)
        for name in ("sample_index", "channel_index", "amplitude"):
            peaks[name] = getattr(self, name)
        peaks["segment_index"] = segment_index
        return peaks

    def save(self, path: Path) -> None:
        """Save to an ``.npz`` file, whole or not at all; ``peaks`` in it is what `peaks` returns."""
        with write_atomically(path) as partial, open(partial, "wb") as file:
            np.savez(file, peaks=self.peaks(), position_um=self.position_um, size=self.size)

    @classmethod
    def load(cls, path: Path) -> UnknownEvents:
        """Load what `save` has saved.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it does not hold unknown events.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                peaks, position_um, size = (stored[name] for name in ("peaks", "position_um", "size"))
            if (
                peaks.dtype != np.dtype(_PEAK)
                or position_um.shape != (len(peaks), 2)
                or size.shape != peaks.shape
            ):
                raise ValueError(f"peaks {peaks.shape}, position_um {position_um.shape}, size {size.shape}")
        except FileNotFoundError:
            raise
        except Exception as error:  # noqa: BLE001 (zip, zlib and NumPy have errors of many kinds)
            reason = one_line(error, 100)
            raise ValueError(f"{path} holds no unknown events ({reason})") from None
        names = ("sample_index", "channel_index", "amplitude")
        return cls.of_arrays(
            {name: peaks[name] for name in names} | {"position_um": position_um, "size": size}
        )
