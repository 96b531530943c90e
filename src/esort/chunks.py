"""A long sorting in chunks on disk: it needs no more memory than a short one, and survives interruptions."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from esort.executor import Executor, ThreadExecutor
from esort.files import plain, read_json, write_atomically, write_json
from esort.inference import BLOCK_S
from esort.minutes import Minutes
from esort.motion import FollowedMotion
from esort.one_line import one_line
from esort.postprocess import Spikes
from esort.saved import write_array
from esort.sort_result import SortResult
from esort.sorter import Sorter
from esort.stretches import merged
from esort.unknown import UnknownEvents

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording

__all__ = ["CHUNK_S", "ChunkFolder", "sort_in_chunks"]

CHUNK_S = 300.0
"""So much of a recording is lost by an interruption, at most."""

# Columns of the spikes, and what they are kept as.
_COLUMNS = {"sample_index": "<i8", "unit_index": "<i8", "probability": "<f4"}
_BLANKED = "blanked"
_MOTION = ("times_s", "depths_um", "shift_um")
# Type and axes of all that a chunk holds.
_KEPT = {
    **{name: (dtype, "spikes") for name, dtype in _COLUMNS.items()},
    _BLANKED: ("<i8", "stretches", "ends"),
    "times_s": ("<f8", "times"),
    "depths_um": ("<f8", "depths"),
    "shift_um": ("<i8", "times", "depths"),
    **{f"unknown_{name}": kept for name, kept in UnknownEvents.KEPT.items()},
    **{f"minutes_{name}": kept for name, kept in Minutes.KEPT.items()},
}
_UNKNOWN, _MINUTES = (
    tuple(name for name in _KEPT if name.startswith(prefix)) for prefix in ("unknown_", "minutes_")
)


@dataclass(frozen=True)
class ChunkFolder:
    """Finished chunks of one sorting, and a note of which it is.

    Parameters
    ----------
    folder : Path
    identity : dict
        Whatever tells sortings apart: checkpoint, recording, stretch, thresholds. Plain values.
    """

    folder: Path
    identity: dict[str, Any]

    def begin(self, *, resume: bool) -> None:
        """Make ready, with the chunks that are there or without.

        Raises
        ------
        ValueError
            If there are chunks of another sorting and they are to be gone on with, or their note is damaged.
        """
        if resume and self._note.is_file():
            try:
                found = read_json(self._note)
            except ValueError as error:
                raise ValueError(f"{error}: start anew with resume=false") from None
            wanted = plain(self.identity)
            different = sorted(
                name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)
            )
            if different:
                raise ValueError(
                    f"{self.folder} holds chunks of a sorting with another {', '.join(different)}: resume it "
                    "with the same, or start anew with resume=false"
                )
            return
        self.clear()

    def load(self, start_sample: int) -> Spikes | None:
        """Spikes of a finished chunk, of which all that it holds is looked at.

        Raises
        ------
        ValueError
            If the file is not as it was written.
        """
        if not self._path(start_sample).is_file():
            return None
        columns = self._arrays(start_sample, tuple(_COLUMNS), and_the_others=True)
        return Spikes(*(columns[name] for name in _COLUMNS))

    def save(
        self,
        start_sample: int,
        spikes: Spikes,
        blanked: np.ndarray | None = None,
        motion: FollowedMotion | None = None,
        unknown: UnknownEvents | None = None,
        minutes: Minutes | None = None,
    ) -> None:
        """Keep what a `SortResult` says of a chunk; the file is whole or absent."""
        columns = {name: getattr(spikes, name) for name in _COLUMNS}
        columns[_BLANKED] = np.zeros((0, 2), dtype=np.int64) if blanked is None else blanked
        if motion is not None:
            columns |= {name: getattr(motion, name) for name in _MOTION}
        if unknown is not None:
            columns |= {f"unknown_{name}": values for name, values in unknown.arrays().items()}
        if minutes is not None:
            columns |= {f"minutes_{name}": values for name, values in minutes.arrays().items()}
        columns = {name: np.asarray(values, dtype=_KEPT[name][0]) for name, values in columns.items()}
        if not self._note.is_file():
            write_json(self._note, self.identity)
        with write_atomically(self._path(start_sample)) as partial:
            np.savez(partial, **columns)

    def join(self, starts: Iterable[int]) -> Spikes:
        """Spikes of all chunks, as read-only memory maps of files in the folder."""
        starts = list(starts)
        columns = []
        count = sum(len(self._loaded(start)) for start in starts)
        for name, dtype in _COLUMNS.items():
            path = self.folder / f"{name}.npy"
            write_array(
                path, np.dtype(dtype), count, (getattr(self._loaded(start), name) for start in starts)
            )
            # An empty file cannot be mapped.
            columns.append(np.load(path, mmap_mode="r" if count else None))
        return Spikes(*columns)

    def blanked(self, starts: Iterable[int]) -> np.ndarray:
        """Stretches of all chunks that were blanked, int64 (K, 2)."""
        found = [np.zeros((0, 2), dtype=np.int64)]
        for start in starts:
            found.append(self._arrays(start, (_BLANKED,))[_BLANKED])
        return merged(np.concatenate(found))

    def motion(self, starts: Iterable[int]) -> FollowedMotion | None:
        """Motion in all chunks; None where nothing followed it."""
        parts = []
        for start in starts:
            if arrays := self._arrays(start, _MOTION, optional=True):
                parts.append(FollowedMotion(**arrays))
        return FollowedMotion.joined(parts)

    def unknown(self, starts: Iterable[int]) -> UnknownEvents:
        """Events in all chunks that no unit explains."""
        return UnknownEvents.joined(
            UnknownEvents.of_arrays(_without_prefix(arrays))
            for start in starts
            if (arrays := self._arrays(start, _UNKNOWN, optional=True))
        )

    def minutes(self, starts: Iterable[int]) -> Minutes | None:
        """What was counted in all chunks; None: nothing was."""
        return Minutes.joined(
            Minutes.of_arrays(_without_prefix(arrays))
            for start in starts
            if (arrays := self._arrays(start, _MINUTES, optional=True))
        )

    def clear(self) -> None:
        """Remove all, first the note: without it nobody believes the rest."""
        self._note.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _note(self) -> Path:
        return self.folder / "note.json"

    def _arrays(
        self,
        start_sample: int,
        names: tuple[str, ...],
        *,
        optional: bool = False,
        and_the_others: bool = False,
    ) -> dict[str, np.ndarray]:
        """Arrays of a chunk, of the types and shapes in which they were kept; nothing where all may lack.

        Raises
        ------
        ValueError
            If the file is not as it was written.
        """
        path = self._path(start_sample)
        try:
            with np.load(path, allow_pickle=False) as stored:
                if optional and not set(names) & set(stored.files):
                    return {}
                wanted = dict.fromkeys([*names, *stored.files]) if and_the_others else names
                arrays = {name: stored[name] for name in wanted}  # a damaged one fails here
            sizes = {"ends": 2, "axes": 2}
            for name, array in arrays.items():
                dtype, *axes = _KEPT[name]
                if array.dtype.str != dtype or array.ndim != len(axes):
                    raise ValueError(f"{name} of type {array.dtype.str} and shape {array.shape}")
                for axis, size in zip(axes, array.shape, strict=True):
                    if sizes.setdefault(axis, size) != size:
                        raise ValueError(f"{name} has {size} {axis}, others have {sizes[axis]}")
        except Exception as error:  # noqa: BLE001 (zip, zlib and NumPy have errors of many kinds)
            reason = one_line(error, 100)
            raise ValueError(f"{path} is damaged ({reason}): start anew with resume=false") from None
        return arrays

    def _loaded(self, start_sample: int) -> Spikes:
        spikes = self.load(start_sample)
        assert spikes is not None
        return spikes

    def _path(self, start_sample: int) -> Path:
        return self.folder / f"{start_sample:015d}.npz"


def sort_in_chunks(
    sorter: Sorter,
    recording: BaseRecording,
    chunks: ChunkFolder,
    *,
    start_sample: int = 0,
    stop_sample: int | None = None,
    thresholds: float | None = None,
    num_workers: int | None = None,
    progress: Callable[[Iterable], Iterable] | None = None,
    resume: bool = False,
    executor: Executor | None = None,
) -> SortResult:
    """Sort as `Sorter.sort` does, chunk by chunk; each chunk lies on disk when it is finished.

    The spikes are the same for any length of a chunk.

    Parameters
    ----------
    chunks : ChunkFolder
    resume : bool
        Whether to take the chunks that are there.
    executor : Executor, optional
        Who sorts the chunks; by default this process, one after another.
    others
        See `Sorter.sort`.

    Returns
    -------
    SortResult
        Its spikes are memory maps of files in the chunks' folder; the times are those of this call.

    Raises
    ------
    OSError
        If a chunk could not be written, for example because the disk is full; the finished ones stay.
    ValueError
        See `Sorter.sort` and `ChunkFolder.begin`.
    """
    begin = perf_counter()
    rate = float(recording.sampling_frequency)
    stop_sample = int(recording.get_num_samples()) if stop_sample is None else stop_sample
    executor = ThreadExecutor() if executor is None else executor
    length = round((executor.chunk_s or CHUNK_S) * rate)
    starts = range(start_sample, max(stop_sample, start_sample + 1), length)
    blocks = range(-(-(stop_sample - start_sample) // round(BLOCK_S * rate)))
    shown = iter(blocks if progress is None else progress(blocks))

    def advance(count: int) -> None:
        for _ in range(count):
            next(shown, None)

    result: SortResult | None = None
    chunks.begin(resume=resume)
    missing = [start for start in starts if chunks.load(start) is None]
    advance(round((len(starts) - len(missing)) * length / rate / BLOCK_S))
    parts = executor.sort(
        sorter,
        recording,
        [(start, min(start + length, stop_sample)) for start in missing],
        thresholds=thresholds,
        num_workers=num_workers,
        advance=advance,
    )
    with closing(parts):
        for start, part in parts:
            chunks.save(start, part.spikes, part.blanked, part.motion, part.unknown, part.minutes)
            seconds = part.seconds
            if result is not None:
                seconds = {name: value + result.seconds[name] for name, value in part.seconds.items()}
            result = replace(part, seconds=seconds)
    for _ in shown:  # lets a progress bar end
        pass
    if result is None:  # all was there
        result = sorter.sort(recording, start_sample=stop_sample, stop_sample=stop_sample)
    result = replace(
        result,
        spikes=chunks.join(starts),
        num_samples=stop_sample - start_sample,
        blanked=chunks.blanked(starts),
        motion=chunks.motion(starts),
        unknown=chunks.unknown(starts),
        minutes=chunks.minutes(starts),
    )
    result.seconds["total"] = perf_counter() - begin
    return result


def _without_prefix(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.split("_", 1)[1]: values for name, values in arrays.items()}
