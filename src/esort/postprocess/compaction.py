"""From masks of static shape to lists of spikes."""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace, device

from .checks import widest_integer
from .rounds import true_places
from .spikes import Spikes

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
    accepted: Array, heights: Array, step: float, *, first_sample: int, start: int, stop: int
) -> Spikes:
    """List the True places of rows ``start`` to ``stop`` of (N, U), with ``heights`` times ``step``.

    Raises
    ------
    ValueError
        A sample index that does not fit: JAX without 64-bit integers, beyond 2 ** 31.
    """
    xp = array_namespace(accepted)
    integer = widest_integer(xp, accepted)
    if first_sample + stop > xp.iinfo(integer).max:
        raise ValueError(
            f"sample indices must be below {xp.iinfo(integer).max} in a library without 64-bit integers, "
            f"got up to {first_sample + stop}; for JAX set jax_enable_x64"
        )
    accepted, heights = accepted[start:stop, :], heights[start:stop, :]
    sample, unit, listed = true_places(xp, accepted)  # row-major: by sample, then by unit
    place = sample * accepted.shape[1] + unit
    height = xp.take(xp.reshape(heights, (-1,)), place)
    count = int(xp.sum(xp.astype(listed, integer)))
    return Spikes(
        sample_index=(xp.astype(sample, integer) + (first_sample + start))[:count],
        unit_index=xp.astype(unit, integer)[:count],
        probability=(xp.astype(height, xp.float32) * step)[:count],
    )
