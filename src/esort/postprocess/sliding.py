"""Sums and maxima over sliding windows of time, in logarithmic time, by slices and element-wise operations.

Everything here is plain array-API code of static shape: it can be traced by ``jax.jit`` and
``torch.compile``. Time is the first axis. Shapes use the alphabet N samples, U units.
"""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace, device

Array = Any


def pad_time(xp: Any, values: Array, before: int, after: int, fill: int) -> Array:
    """Add ``before`` and ``after`` rows of ``fill`` at the ends of (N, U)."""
    pieces = []
    like = device(values)  # None while JAX traces
    if before > 0:
        pieces.append(xp.full((before, values.shape[1]), fill, dtype=values.dtype, device=like))
    pieces.append(values)
    if after > 0:
        pieces.append(xp.full((after, values.shape[1]), fill, dtype=values.dtype, device=like))
    return pieces[0] if len(pieces) == 1 else xp.concat(pieces, axis=0)  # (before + N + after, U)


def sliding_sum(values: Array, width: int) -> Array:
    """Sum over rows ``i ... i + width - 1`` as row ``i``: (N, U) -> (N - width + 1, U).

    Windows of 1, 2, 4, ... rows are made by doubling and joined as the binary digits of ``width`` say: at
    most 2 log2(width) additions a sample. The sums are exact because the values are integers.
    """
    length = values.shape[0] - width + 1
    assert length >= 1
    total = None
    power, size, covered = values, 1, 0
    while True:
        if width & size:
            piece = power[covered : covered + length, :]
            total = piece if total is None else total + piece
            covered += size
        if 2 * size > width:
            return total
        power = power[:-size, :] + power[size:, :]
        size *= 2


def sliding_max(xp: Any, values: Array, width: int) -> Array:
    """Maximum over rows ``i ... i + width - 1`` as row ``i``: (N, U) -> (N - width + 1, U).

    As for the sum, but two overlapping windows of the largest power of two suffice: log2(width) + 1 maxima
    a sample.
    """
    length = values.shape[0] - width + 1
    assert length >= 1
    power, size = values, 1
    while 2 * size <= width:
        power = xp.maximum(power[:-size, :], power[size:, :])
        size *= 2
    if size == width:
        return power
    return xp.maximum(power[:length, :], power[width - size : width - size + length, :])


def maxima_around(xp: Any, values: Array, reach: int, fill: int) -> tuple[Array, Array]:
    """Maximum over the ``reach`` rows before, and after each row; ``fill`` beyond the ends."""
    length = values.shape[0]
    if reach == 0:
        nothing = xp.full(values.shape, fill, dtype=values.dtype, device=device(values))
        return nothing, nothing
    padded = pad_time(xp, values, reach, reach, fill)  # (N + 2 reach, U)
    windows = sliding_max(xp, padded, reach)  # (N + reach + 1, U)
    return windows[:length, :], windows[reach + 1 : reach + 1 + length, :]


def smooth(values: Array, half_width: int) -> Array:
    """Triangular kernel (1, 2, ..., h, ..., 2, 1) over time: integers (N, U), zeros beyond the ends.

    The triangle is a running sum of ``h`` samples, twice; its sum is ``h ** 2``.
    """
    if half_width == 1:
        return values
    xp = array_namespace(values)
    padded = pad_time(xp, values, half_width - 1, half_width - 1, 0)  # (N + 2 h - 2, U)
    return sliding_sum(sliding_sum(padded, half_width), half_width)  # (N, U)
