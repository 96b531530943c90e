"""What comes out of the post-processing: spikes, as three arrays of equal length."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace

Array = Any  # an array of any library that array-api-compat knows


@dataclass(frozen=True, eq=False)
class Spikes:
    """Detected spikes, sorted by sample, then by unit.

    The three arrays are of the library, and on the device, of the array that the spikes were found in.

    Attributes
    ----------
    sample_index : int64 array (S,)
        Sample of the peak. (JAX without ``jax_enable_x64`` has no int64: int32 there.)
    unit_index : int64 array (S,)
        Column of the unit.
    probability : float32 array (S,)
        Height of the smoothed probability at the peak; for energy scores, the score when it was accepted.
    """

    sample_index: Array
    unit_index: Array
    probability: Array

    def __len__(self) -> int:
        return int(self.sample_index.shape[0])


def join_chunks(chunks: Iterable[Spikes]) -> Spikes:
    """Join the spikes of successive chunks whose cores do not overlap.

    Parameters
    ----------
    chunks : iterable of Spikes
        In the order of time, each with sample indices of the whole recording.

    Returns
    -------
    Spikes
        All of them, sorted by sample, then by unit.

    Raises
    ------
    ValueError
        No chunk at all (the library of the arrays would be unknown), or a chunk that starts before the
        last spike of the one before it. (At the same sample it may: with several samples per row, the
        spikes of two rows can share one.)
    """
    parts = list(chunks)
    if not parts:
        raise ValueError("join_chunks expects at least one chunk, got none")
    filled = [part for part in parts if len(part) > 0]
    shared = False
    for position in range(1, len(filled)):
        last = int(filled[position - 1].sample_index[-1])
        first = int(filled[position].sample_index[0])
        shared = shared or first == last
        if first < last:
            raise ValueError(
                f"chunks must follow each other in time, got a chunk whose first spike is at sample {first} "
                f"after one whose last is at sample {last}"
            )
    if not filled:
        return parts[0]
    xp = array_namespace(filled[0].sample_index)
    joined = Spikes(
        sample_index=xp.concat([part.sample_index for part in filled]),
        unit_index=xp.concat([part.unit_index for part in filled]),
        probability=xp.concat([part.probability for part in filled]),
    )
    return sort_spikes(joined) if shared else joined


def sort_spikes(spikes: Spikes) -> Spikes:
    """Sort by sample, then by unit; what is equal stays in its order."""
    xp = array_namespace(spikes.sample_index)
    order = xp.argsort(spikes.unit_index, stable=True)
    order = xp.take(order, xp.argsort(xp.take(spikes.sample_index, order), stable=True))
    return Spikes(
        sample_index=xp.take(spikes.sample_index, order),
        unit_index=xp.take(spikes.unit_index, order),
        probability=xp.take(spikes.probability, order),
    )
