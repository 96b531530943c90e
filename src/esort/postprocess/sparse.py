"""The same nodes and rounds on lists, by array-API operations, where shapes may follow the data.

Shapes: N samples, U units, A active columns (one block of samples of one unit), S nodes.
"""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace, device

from .rounds import BEYOND
from .sliding import sliding_sum

Array = Any
LEAST_BLOCK_SAMPLES = 32


def find_nodes(
    probabilities: Array, limits: Array, half_width: int, unit_scale: float
) -> tuple[Array, Array, Array]:
    """Smooth and find the local maxima where something can reach the limits.

    A kernel of sum 1 cannot exceed the largest probability under it: only blocks of samples of a unit are
    smoothed that, or a neighbour of which, hold a probability as high as the threshold.

    Returns
    -------
    sample, unit, score : integer arrays (S,)
        Sorted by unit, then by sample.
    """
    xp = array_namespace(probabilities)
    where = device(probabilities)
    num_samples, num_units = probabilities.shape
    block = max(LEAST_BLOCK_SAMPLES, half_width)
    # Half a step below a limit still rounds up to it.
    gate = xp.astype(limits // half_width**2 - 1, xp.float32) / unit_scale  # (U,)
    peaks = _block_maxima(xp, probabilities, block)  # (blocks, U)
    low = xp.full((1, num_units), -1.0, dtype=peaks.dtype, device=where)
    padded = xp.concat([low, peaks, low])
    near = xp.maximum(peaks, xp.maximum(padded[:-2, :], padded[2:, :]))
    which, unit = xp.nonzero(near >= gate)  # (A,)
    start = which * block

    lag = xp.arange(-half_width, block + half_width, dtype=start.dtype, device=where)
    sample = lag[:, None] + start[None, :]  # (block + 2 h, A)
    inside = (sample >= 0) & (sample < num_samples)
    place = xp.reshape(xp.where(inside, sample, 0) * num_units + unit[None, :], (-1,))
    values = xp.reshape(xp.take(xp.reshape(probabilities, (-1,)), place), sample.shape)
    values = xp.where(inside, xp.astype(values, xp.float32), 0.0)
    rounded = xp.astype(xp.round(values * unit_scale), xp.int32)
    scores = sliding_sum(sliding_sum(rounded, half_width), half_width)  # (block + 2, A)
    reach = half_width - 1
    inside = inside[reach : reach + block + 2, :]
    scores = xp.where(inside, scores, BEYOND)
    middle = scores[1:-1, :]  # (block, A)
    is_node = (middle > scores[:-2, :]) & (middle >= scores[2:, :]) & (middle >= xp.take(limits, unit))
    row, column = xp.nonzero(is_node & inside[1:-1, :])  # (S,)
    score = xp.take(xp.reshape(middle, (-1,)), row * middle.shape[1] + column)
    sample, unit = xp.take(start, column) + row, xp.take(unit, column)
    order = xp.argsort(unit * num_samples + sample)
    return xp.take(sample, order), xp.take(unit, order), xp.take(score, order)


def solve_nodes(
    sample: Array, unit: Array, score: Array, *, num_samples: int, exclusion_samples: int, max_rounds: int
) -> Array:
    """Rounds among the nodes of each unit, sorted by unit and sample: bool (S,), True if accepted."""
    xp = array_namespace(sample)
    where = device(sample)
    live = xp.ones_like(sample, dtype=xp.bool)
    accepted = xp.zeros_like(sample, dtype=xp.bool)
    # One axis for all units, on which different units are further apart than the exclusion.
    key = unit * (num_samples + exclusion_samples) + sample
    count = int(key.shape[0])
    if count == 0:
        return accepted
    first_apart = xp.searchsorted(key, key + exclusion_samples)
    rivals = int(xp.max(first_apart - xp.arange(count, dtype=first_apart.dtype, device=where))) - 1
    near, earlier_wins = [], []
    for step in range(1, rivals + 1):
        near.append(key[step:] - key[:-step] < exclusion_samples)
        earlier_wins.append(score[:-step] >= score[step:])

    def mark(pairs: list[tuple[Array, Array]]) -> Array:
        """From marks on the earlier and the later of each pair, the marked nodes."""
        marked = xp.zeros_like(live)
        for step, (earlier, later) in enumerate(pairs, start=1):
            gap = xp.zeros((step,), dtype=xp.bool, device=where)
            marked = marked | xp.concat([earlier, gap]) | xp.concat([gap, later])
        return marked

    for _ in range(max_rounds):
        if not bool(xp.any(live)):
            break
        beaten = []
        for step in range(1, rivals + 1):
            both = near[step - 1] & live[:-step] & live[step:]
            beaten.append((both & ~earlier_wins[step - 1], both & earlier_wins[step - 1]))
        winners = live & ~mark(beaten)
        accepted = accepted | winners
        shadow = [
            (near[step - 1] & winners[step:], near[step - 1] & winners[:-step])
            for step in range(1, rivals + 1)
        ]
        live = live & ~winners & ~mark(shadow)
    return accepted


def _block_maxima(xp: Any, values: Array, block: int) -> Array:
    """Maximum over each block of rows, the last perhaps shorter: (N, U) -> (blocks, U)."""
    num_samples, num_units = values.shape
    whole = num_samples // block
    parts = []
    if whole > 0:
        parts.append(xp.max(xp.reshape(values[: whole * block, :], (whole, block, num_units)), axis=1))
    if whole * block < num_samples:
        parts.append(xp.max(values[whole * block :, :], axis=0, keepdims=True))
    return xp.concat(parts)
