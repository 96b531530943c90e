"""Accepted spikes lower the scores around them: by dense operations of static shape, or on lists.

Shapes: N rows, U units, S accepted spikes, D neighbours of a unit at the most, P pairs, L lag samples.
"""

from __future__ import annotations

from typing import Any

from array_api_compat import (
    array_namespace,
    device,
    is_cupy_array,
    is_jax_array,
    is_numpy_array,
    is_torch_array,
)

from .fit import AMPLITUDE_STEPS, Fit, slopes
from .sliding import pad_time
from .table import ConflictTable

Array = Any
EVENTS_AT_ONCE = 256  # bounds the memory of the lowering


def lower(
    scores: Array, winners: Array, table: ConflictTable | None, kernels: Array | None, fit: Fit
) -> tuple[Array, Array | None]:
    """Lower all scores (N, U) by the spikes at ``winners``; return them, and the samples these lie off.

    Static shape: one masked subtraction for each phase, neighbour and lag; meant for small graphs.
    """
    xp = array_namespace(scores)
    rise, fall = _slopes_everywhere(xp, scores, winners) if fit.phases * fit.stride > 1 else (None, None)
    moved = xp.where(winners, fit.samples(xp, rise, fall), 0) if fit.stride > 1 else None
    if table is None or kernels is None:
        return scores, moved
    phase = None if fit.phases == 1 else fit.phase(xp, rise, fall)
    size: Any = 1 if fit.energies is None else fit.amplitude(xp, scores, fit.energies, fit.shifts)
    num_samples, reach = scores.shape[0], table.lag_samples
    lowered = scores
    for which in range(fit.phases):
        mask = winners if phase is None else winners & (phase == which)
        fired = xp.astype(mask, xp.int32) * size
        padded = pad_time(xp, fired, reach, reach, 0)  # (N + 2 L, U)
        for position in range(table.max_degree):
            others = table.neighbours[:, position]
            fired = xp.take(padded, xp.where(others >= 0, others, 0), axis=1)  # (N + 2 L, U)
            rows = table.kernel_in[:, position] * fit.phases + which
            kernel = xp.take(kernels, rows, axis=0)  # (U, 2 L + 1)
            for lag in range(-reach, reach + 1):  # the spike was `lag` samples ago
                amount = fired[reach - lag : reach - lag + num_samples, :] * kernel[:, reach + lag]
                lowered = lowered - _whole(amount, fit)
    return lowered, moved


def lower_listed(
    scores: Array, winners: Array, table: ConflictTable | None, kernels: Array | None, fit: Fit
) -> tuple[Array, Array | None]:
    """Do as `lower` on the list of the spikes."""
    xp = array_namespace(scores)
    num_samples, num_units = scores.shape
    sample, unit, listed = true_places(xp, winners)  # (S,) each
    flat = xp.reshape(scores, (-1,))  # (N U,)
    place = sample * num_units + unit
    score = xp.take(flat, place)
    phase = moved = None
    if fit.phases * fit.stride > 1:
        known = listed & (sample > 0) & (sample < num_samples - 1)
        beside = [xp.where(known, place + step, 0) for step in (-num_units, num_units)]
        rise, fall = slopes(xp, score, xp.take(flat, beside[0]), xp.take(flat, beside[1]), known)
        phase = fit.phase(xp, rise, fall)
        if fit.stride > 1:
            off = xp.where(listed, fit.samples(xp, rise, fall), 0)
            moved = xp.reshape(subtract_at(xp, xp.zeros_like(flat), place, -off), scores.shape)
    if table is None or kernels is None:
        return scores, moved
    size = None
    if fit.energies is not None:
        size = fit.amplitude(xp, score, xp.take(fit.energies, unit), xp.take(fit.shifts, unit))  # (S,)
    reach = table.lag_samples
    lags = xp.arange(-reach, reach + 1, dtype=sample.dtype, device=device(scores))  # (2 L + 1,)
    if is_numpy_array(flat) or is_cupy_array(flat):
        flat = xp.asarray(flat, copy=True)  # their subtraction works in place
    for start in range(0, int(sample.shape[0]), EVENTS_AT_ONCE):
        events = slice(start, min(start + EVENTS_AT_ONCE, int(sample.shape[0])))
        others = xp.take(table.neighbours, unit[events], axis=0)  # (S, D)
        rows = xp.take(table.kernel_out, unit[events], axis=0) * fit.phases  # (S, D); zeros for absent ones
        if phase is not None:
            rows = rows + xp.astype(phase[events], rows.dtype)[:, None]
        amount = xp.take(kernels, xp.reshape(rows, (-1,)), axis=0)  # (S D, 2 L + 1)
        when = sample[events][:, None, None] + lags[None, None, :]  # (S, 1, 2 L + 1)
        inside = (when >= 0) & (when < num_samples) & (others >= 0)[:, :, None]  # (S, D, 2 L + 1)
        inside = inside & listed[events][:, None, None]
        amount = xp.reshape(amount, inside.shape)
        if size is not None:
            amount = _whole(amount * size[events][:, None, None], fit)
        amount = xp.where(inside, amount, 0)
        where = xp.where(inside, when * num_units + others[:, :, None], 0)
        flat = subtract_at(xp, flat, xp.reshape(where, (-1,)), xp.reshape(amount, (-1,)))
    return xp.reshape(flat, scores.shape), moved


def true_places(xp: Any, mask: Array) -> tuple[Array, Array, Array]:
    """Sample and unit of the True places of (N, U) in row-major order, and which entries are such places.

    JAX compiles every operation for every shape: there the lists are filled up to a power of two.
    """
    if not is_jax_array(mask):
        sample, unit = xp.nonzero(mask)
        return sample, unit, xp.ones_like(sample, dtype=xp.bool)
    count = int(xp.sum(mask))
    size = 1 << max(6, (count - 1).bit_length())
    sample, unit = xp.nonzero(mask, size=size, fill_value=0)
    return sample, unit, xp.arange(size, device=device(mask)) < count


def subtract_at(xp: Any, values: Array, place: Array, amount: Array) -> Array:
    """``values[place] -= amount`` with repeated places, which the array API standard does not have."""
    if is_jax_array(values):
        return values.at[place].add(-amount)
    if is_torch_array(values):
        return values.index_add(0, place, -amount)
    if is_numpy_array(values) or is_cupy_array(values):
        xp.subtract.at(values, place, amount)
        return values
    # By the standard alone: sort by place, running sum, its difference between the ends of each place.
    order = xp.argsort(place)
    running = xp.concat(
        [xp.zeros((1,), dtype=xp.int64), xp.cumulative_sum(xp.take(amount, order), dtype=xp.int64)]
    )
    every = xp.arange(values.shape[0], dtype=place.dtype)
    ends = [xp.searchsorted(xp.take(place, order), every, side=side) for side in ("left", "right")]
    return values - xp.astype(xp.take(running, ends[1]) - xp.take(running, ends[0]), values.dtype)


def _whole(amount: Array, fit: Fit) -> Array:
    """From 64ths to the nearest whole step of the fixed point, halves upwards."""
    if fit.energies is None:
        return amount
    return (amount + AMPLITUDE_STEPS // 2) // AMPLITUDE_STEPS


def _slopes_everywhere(xp: Any, scores: Array, winners: Array) -> tuple[Array, Array]:
    num_samples = scores.shape[0]
    padded = pad_time(xp, scores, 1, 1, 0)  # (N + 2, U)
    row = xp.arange(num_samples, device=device(scores))[:, None]
    known = winners & (row > 0) & (row < num_samples - 1)
    return slopes(xp, scores, padded[:-2, :], padded[2:, :], known)
