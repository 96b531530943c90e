"""From masks of static shape to lists of spikes."""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace, device

from .checks import index_dtype, widest_integer
from .lowering import true_places
from .spikes import Spikes, sort_spikes

Array = Any


def empty_spikes(like: Array) -> Spikes:
    """No spikes, of the library and device of ``like``."""
    xp = array_namespace(like)
    integer = widest_integer(xp, like)
    where = device(like)
    return Spikes(
        sample_index=xp.zeros((0,), dtype=integer, device=where),
        unit_index=xp.zeros((0,), dtype=integer, device=where),
        probability=xp.zeros((0,), dtype=xp.float32, device=where),
    )


def collect_spikes(
    accepted: Array,
    heights: Array,
    step: float,
    *,
    first_sample: int,
    start: int,
    stop: int,
    stride: int = 1,
    moved: Array | None = None,
) -> Spikes:
    """List the True places of rows ``start`` to ``stop`` of (N, U), with ``heights`` times ``step``.

    A row is ``stride`` samples; ``moved``, integers (N, U), says how many samples a spike lies after its row.

    Raises
    ------
    ValueError
        A sample index that does not fit: JAX without 64-bit integers, beyond 2 ** 31.
    """
    xp = array_namespace(accepted)
    integer = index_dtype(xp, accepted, first_sample + stride * stop)
    accepted, heights = accepted[start:stop, :], heights[start:stop, :]
    row, unit, listed = true_places(xp, accepted)  # row-major: by sample, then by unit
    place = row * accepted.shape[1] + unit
    height = xp.take(xp.reshape(heights, (-1,)), place)
    count = int(xp.sum(xp.astype(listed, integer)))
    sample = stride * xp.astype(row, integer) + (first_sample + stride * start)
    if moved is not None:
        off = xp.take(xp.reshape(moved[start:stop, :], (-1,)), place)
        sample = sample + xp.astype(off, integer)
    spikes = Spikes(
        sample_index=sample[:count],
        unit_index=xp.astype(unit, integer)[:count],
        probability=(xp.astype(height, xp.float32) * step)[:count],
    )
    return spikes if moved is None else sort_spikes(spikes)  # spikes of two rows may fall on one sample


def list_spikes(
    sample: Array,
    unit: Array,
    heights: Array,
    accepted: Array,
    step: float,
    *,
    first_sample: int,
    start: int,
    stop: int,
) -> Spikes:
    """Keep the accepted nodes of rows ``start`` to ``stop``, sorted by sample, then unit."""
    xp = array_namespace(sample)
    integer = index_dtype(xp, sample, first_sample + stop)
    (kept,) = xp.nonzero(accepted & (sample >= start) & (sample < stop))
    sample, unit, heights = (xp.take(column, kept) for column in (sample, unit, heights))
    width = int(xp.max(unit)) + 1 if unit.shape[0] else 1
    order = xp.argsort(sample * width + unit)
    return Spikes(
        sample_index=xp.astype(xp.take(sample, order), integer) + first_sample,
        unit_index=xp.astype(xp.take(unit, order), integer),
        probability=xp.astype(xp.take(heights, order), xp.float32) * step,
    )
