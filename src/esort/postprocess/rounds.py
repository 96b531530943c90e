"""Parallel rounds on the conflict graph: integer scores in, accepted nodes out, shapes static throughout.

Scores are fixed-point integers: sums and differences are then exact, whatever their order, so that every
library, device and chunk gives the same result. Shapes: N samples, U units, D neighbours of a unit at the
most.
"""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace, device

from .fit import Fit
from .lowering import lower, lower_listed, subtract_at, true_places
from .sliding import maxima_around, pad_time, sliding_max
from .table import ConflictTable

Array = Any
BEYOND = -(2**31) + 1  # below every score: beyond the ends of the array, and for nodes that are not live


def local_maxima(scores: Array) -> Array:
    """Rows that are higher than the row before and not lower than the row after; (N, U) -> bool (N, U)."""
    xp = array_namespace(scores)
    padded = pad_time(xp, scores, 1, 1, BEYOND)  # (N + 2, U)
    return (scores > padded[:-2, :]) & (scores >= padded[2:, :])


def solve_rounds(
    scores: Array,
    thresholds: Array,
    *,
    exclusion_samples: int,
    max_rounds: int,
    table: ConflictTable | None = None,
    kernels: Array | None = None,
    static: bool = True,
) -> tuple[Array, Array, Array]:
    """Accept, drop, lower and find the maxima again, ``max_rounds`` times.

    Parameters
    ----------
    scores : int32 array (N, U)
    thresholds : int32 array (U,)
        Least score of a node.
    exclusion_samples : int
        Spikes of one unit are at least this far apart.
    max_rounds : int
    table : ConflictTable, optional
        The edges between units.
    kernels : int32 array ((P + 1) phases, 2 L + 1), optional
        The kernels of the table in the units of the scores, the last rows zero (`ConflictTable.quantise`).
    static : bool
        True: no shape and no branch depends on the data, for ``jax.jit``, ``torch.compile`` and export.
        False: stops as soon as nothing is left, and works on lists of nodes. The result is the same.

    Returns
    -------
    accepted : bool array (N, U)
    accepted_scores : int32 array (N, U)
        The score at which a node was accepted, 0 elsewhere.
    live : bool array (N, U)
        The nodes left undecided after the last round; none as a rule.
    """
    accepted, accepted_scores, _, live = fit_rounds(
        scores,
        thresholds,
        exclusion_samples=exclusion_samples,
        max_rounds=max_rounds,
        table=table,
        kernels=kernels,
        fit=Fit(phases=1 if table is None else table.phases),
        static=static,
    )
    return accepted, accepted_scores, live


def fit_rounds(
    scores: Array,
    thresholds: Array,
    *,
    exclusion_samples: int,
    max_rounds: int,
    table: ConflictTable | None,
    kernels: Array | None,
    fit: Fit,
    static: bool,
) -> tuple[Array, Array, Array | None, Array]:
    """Do as `solve_rounds`, accepted spikes fitted by ``fit``.

    Returns
    -------
    accepted, accepted_scores : as of `solve_rounds`
    moved : int32 array (N, U), or None
        Samples from the row of an accepted spike to the spike, 0 elsewhere; None with a stride of 1.
    live : as of `solve_rounds`
    """
    xp = array_namespace(scores)
    moved = None
    accepted = xp.zeros_like(scores, dtype=xp.bool)
    blocked = xp.zeros_like(scores, dtype=xp.bool)
    accepted_scores = xp.zeros_like(scores)
    live = local_maxima(scores) & (scores >= thresholds)
    for _ in range(max_rounds):
        if not static and not bool(xp.any(live)):
            break
        weights = xp.where(live, scores, BEYOND)
        winners = live & beats_own_unit(xp, weights, exclusion_samples - 1)
        if table is not None:
            compare = _beats_neighbours if static else _beats_neighbours_listed
            winners = winners & compare(xp, weights, winners, table)
        accepted = accepted | winners
        accepted_scores = xp.where(winners, scores, accepted_scores)
        blocked = blocked | within(xp, winners, exclusion_samples - 1)
        if table is not None and table.has_exclusive:
            blocked = blocked | _blocked_by_neighbours(xp, winners, table)
        if kernels is not None or fit.stride > 1:
            scores, off = (lower if static else lower_listed)(scores, winners, table, kernels, fit)
            moved = off if moved is None else moved + off
        live = (scores >= thresholds) & ~blocked
        live = live & local_maxima(scores) if kernels is not None else live & (weights > BEYOND)
    return accepted, accepted_scores, moved, live


def beats_own_unit(xp: Any, weights: Array, reach: int) -> Array:
    """Rows above all of their own column within ``reach`` rows; of equals the earlier."""
    if reach == 0:
        return xp.ones_like(weights, dtype=xp.bool)
    before, after = maxima_around(xp, weights, reach, BEYOND)
    return (weights > before) & (weights >= after)


def within(xp: Any, mask: Array, reach: int) -> Array:
    """Rows within ``reach`` rows of a True row, either side."""
    if reach == 0:
        return mask
    padded = pad_time(xp, xp.astype(mask, xp.int32), reach, reach, 0)  # (N + 2 reach, U)
    return sliding_max(xp, padded, 2 * reach + 1) > 0


def _beats_neighbours(xp: Any, weights: Array, _nodes: Array, table: ConflictTable) -> Array:
    before, after = maxima_around(xp, weights, table.reach_samples, BEYOND)
    units = xp.arange(weights.shape[1], dtype=table.neighbours.dtype, device=device(weights))
    wins = xp.ones_like(weights, dtype=xp.bool)
    for position in range(table.max_degree):
        others = table.neighbours[:, position]  # (U,), -1 where a unit has fewer
        exists = others >= 0
        others = xp.where(exists, others, 0)
        tie_lost = others < units
        now = xp.take(weights, others, axis=1)
        won = (weights > xp.take(before, others, axis=1)) & (weights >= xp.take(after, others, axis=1))
        won = won & xp.where(tie_lost, weights > now, weights >= now)
        wins = wins & (won | ~exists)
    return wins


def _beats_neighbours_listed(xp: Any, weights: Array, nodes: Array, table: ConflictTable) -> Array:
    num_samples, num_units = weights.shape
    before, after = maxima_around(xp, weights, table.reach_samples, BEYOND)
    sample, unit, listed = true_places(xp, nodes)  # (S,) each
    others = xp.take(table.neighbours, unit, axis=0)  # (S, D)
    exists = others >= 0
    others = xp.where(exists, others, 0)
    place = xp.reshape(sample[:, None] * num_units + others, (-1,))  # (S D,)
    own = xp.take(xp.reshape(weights, (-1,)), sample * num_units + unit)[:, None]  # (S, 1)
    maxima = [
        xp.reshape(xp.take(xp.reshape(x, (-1,)), place), others.shape) for x in (before, weights, after)
    ]
    won = (own > maxima[0]) & (own >= maxima[2])
    won = won & xp.where(others < unit[:, None], own > maxima[1], own >= maxima[1])
    keep = xp.all(won | ~exists, axis=1) & listed  # (S,)
    flat = xp.zeros((num_samples * num_units,), dtype=xp.int32, device=device(weights))
    flat = subtract_at(xp, flat, sample * num_units + unit, xp.astype(keep, xp.int32))
    return xp.reshape(flat, weights.shape) < 0


def _blocked_by_neighbours(xp: Any, winners: Array, table: ConflictTable) -> Array:
    near = within(xp, winners, table.exclusive_samples)
    blocked = xp.zeros_like(winners)
    for position in range(table.max_degree):
        others = table.neighbours[:, position]  # (U,)
        hit = xp.take(near, xp.where(others >= 0, others, 0), axis=1)  # (N, U)
        blocked = blocked | (hit & table.exclusive[:, position])
    return blocked
