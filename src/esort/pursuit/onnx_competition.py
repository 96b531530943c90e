"""`esort.postprocess.stepwise.StepwiseSolver` in ONNX's operators: the same integers from the same scores.

Epochs do not know of each other: they are decided side by side, step by step in a loop, each step by a loop
of rounds that ends when nothing is left. Two epochs need not agree on the spikes between them: what is too
close to a spike of the epoch before is left out at the end. Events are lists of any length, so that none can
be too many.
Shapes: E epochs, R rows, W rows that a step looks at, U units, S nodes or events, K nodes of an epoch at the
most, D neighbours of a unit at the most, Q pairs of an event and a neighbour, P phases, L lag samples.
"""

from __future__ import annotations

from typing import Any

from onnxscript import opset18, script

from esort.postprocess.fit import AMPLITUDE_STEPS, MOST_AMPLITUDE, SLOPE_BITS

__all__ = ["OUTSIDE", "apart", "begin", "compete", "look", "take"]

OUTSIDE = -(2**30)
"""Score of a row that does not exist: far below all others, also when it is lowered or raised like them."""
_INSIDE = -(2**29) - 2**27

# The compiler of the functions below reads their text: what looks like Python becomes operators, and numbers
# of this module become constants.
_BELOW_ALL = -(2**62)
_SLOPES = 2**SLOPE_BITS
_STEPS, _MOST = AMPLITUDE_STEPS, MOST_AMPLITUDE
_ONE_STEP = 1.0 / AMPLITUDE_STEPS
_FLOAT64, _INT32, _INT64 = 11, 6, 7
op: Any = opset18
_graph: Any = script(default_opset=op)


@_graph
def _nodes(scores, closed, limits):  # type: ignore
    """Local maxima that reach their limits: int32 and bool (E, R, U) -> int64 (3, S), by epoch, row, unit."""
    rising = scores[:, 1:] > scores[:, :-1]  # (E, R - 1, U)
    never = op.And(closed[:, :1], op.Not(closed[:, :1]))  # (E, 1, U)
    above = op.Concat(op.Not(never), rising, axis=1)
    below = op.Concat(rising, never, axis=1)
    shut = op.Or(closed, below)
    return op.NonZero(op.And(op.And(scores >= limits, above), op.Not(shut)))


@_graph
def _places(shape, epoch, row):  # type: ignore
    """Place of unit 0 of a row in a flat array (E, R, U)."""
    return (epoch * shape[1] + row) * shape[2]


@_graph
def _winners(scores, nodes, rivals):  # type: ignore
    """Nodes that go before all their rivals, (3, S); rivals: int32 (U U,), rows up to which a pair is one."""
    shape = op.Shape(scores)
    epoch, row, unit = nodes[0], nodes[1], nodes[2]
    score = op.Gather(op.Reshape(scores, [-1]), _places(shape, epoch, row) + unit)
    # The higher goes first, of equals the earlier, then the lower unit: a strict order.
    rank = op.Cast(score, to=_INT64) * (shape[1] * shape[2]) - (row * shape[2] + unit)  # (S,)
    ones = epoch * 0 + 1
    none = op.Expand(0, shape[:1])  # (E,)
    counts = op.ScatterElements(none, epoch, ones, axis=0, reduction="add")
    most = op.ReduceMax(counts, keepdims=0)  # K
    first = op.CumSum(counts, 0, exclusive=1)  # (E,)
    slot = epoch * most + op.CumSum(ones, 0, exclusive=1) - op.Gather(first, epoch)  # (S,)
    table = op.Concat(shape[:1], op.Reshape(most, [1]), axis=0)
    empty = op.Expand(0, op.ReduceProd(table))  # (E K,)
    ranks = op.Reshape(op.ScatterElements(empty + _BELOW_ALL, slot, rank, axis=0), table)  # (E, K)
    units = op.Reshape(op.ScatterElements(empty, slot, unit, axis=0), table)
    rows = op.Cast(op.Reshape(op.ScatterElements(empty, slot, row, axis=0), table), to=_INT32)
    before = op.Unsqueeze(ranks, [1]) > op.Unsqueeze(ranks, [2])  # (E, K, K): the other goes before this one
    pair = op.Unsqueeze(units, [2]) * shape[2] + op.Unsqueeze(units, [1])
    apart = op.Abs(op.Unsqueeze(rows, [2]) - op.Unsqueeze(rows, [1]))
    room = op.Where(before, op.Gather(rivals, pair) - apart, -1)
    beaten = op.ReduceMax(room, [2], keepdims=0) >= 0  # (E, K)
    won = op.Not(op.Gather(op.Reshape(beaten, [-1]), slot))
    return op.Compress(nodes, won, axis=1)


@_graph
def _fitted(scores, winners, energies, shifts, phases, stride, least, most):  # type: ignore
    """Add score, phase, amplitude in 64ths and samples off the row, as `esort.postprocess.fit`: (7, S)."""
    shape = op.Shape(scores)
    epoch, row, unit = winners[0], winners[1], winners[2]
    flat = op.Reshape(scores, [-1])
    here = _places(shape, epoch, row) + unit
    score = op.Cast(op.Gather(flat, here), to=_INT64)
    inner = op.And(row > 0, row < shape[1] - 1)
    before = op.Cast(op.Gather(flat, op.Where(inner, here - shape[2], here)), to=_INT64)
    after = op.Cast(op.Gather(flat, op.Where(inner, here + shape[2], here)), to=_INT64)
    known = op.And(inner, op.And(before > _INSIDE, after > _INSIDE))
    rise = op.Where(known, score - before, 1)
    fall = op.Where(known, score - after, 1)
    # Halved together until both are below 2 ** 20.
    largest = op.Max(rise, fall)
    by = op.Where(largest >= _SLOPES * 128, 256, 1)
    by = op.Where(largest / by >= _SLOPES * 8, by * 16, by)
    by = op.Where(largest / by >= _SLOPES * 2, by * 4, by)
    by = op.Where(largest / by >= _SLOPES, by * 2, by)
    rise = rise / by
    fall = fall / by
    whole = rise + fall
    phase = op.Min(phases * rise / whole, phases - 1)
    moved = (stride * op.Abs(rise - fall) + whole - 1) / (2 * whole)
    moved = op.Where(rise < fall, -moved, moved)
    energy = op.Gather(energies, unit)
    part = op.Min(score / op.Gather(shifts, unit), _MOST * energy)
    size = (_STEPS * part + energy / 2) / energy + _STEPS / 2
    size = op.Min(op.Max(size, least), most)
    fit = op.Concat(
        op.Unsqueeze(score, [0]),
        op.Unsqueeze(phase, [0]),
        op.Unsqueeze(size, [0]),
        op.Unsqueeze(moved, [0]),
        axis=0,
    )
    return op.Concat(winners, fit, axis=0)


@_graph
def _around(shape, events, reach):  # type: ignore
    """Places of unit 0 in the rows around events, (S, 2 reach + 1); behind the array for those outside."""
    near = op.Unsqueeze(events[1], [1]) + op.Range(-reach, reach + 1, 1)
    inside = op.And(near >= 0, near < shape[1])
    return op.Where(inside, _places(shape, op.Unsqueeze(events[0], [1]), near), op.ReduceProd(shape))


@_graph
def _lowered(scores, events, reach, phases, lowered, edges, kernels):  # type: ignore
    """Take events from the scores of the units that they overlap: int32 (E, R, U).

    lowered, edges: int64 (U, D), -1 where a unit has fewer; kernels: int32 (edges P, 2 L + 1).
    """
    shape = op.Shape(scores)
    unit = events[2]
    exists = op.NonZero(op.Gather(lowered, unit) >= 0)  # (2, Q)
    event = exists[0]
    cell = op.Gather(unit, event) * op.Shape(lowered)[1] + exists[1]
    other = op.Gather(op.Reshape(lowered, [-1]), cell)  # (Q,)
    line = op.Gather(op.Reshape(edges, [-1]), cell) * phases + op.Gather(events[4], event)
    size = op.Cast(op.Unsqueeze(op.Gather(events[5], event), [1]), to=_FLOAT64)
    # Exact: a product has 30 bits. To the nearest step, halves upwards.
    product = op.Cast(op.Gather(kernels, line), to=_FLOAT64) * (size * _ONE_STEP)
    amount = op.Cast(op.Floor(product + 0.5), to=_INT32)  # (Q, 2 L + 1)
    place = op.Gather(_around(shape, events, reach), event) + op.Unsqueeze(other, [1])
    beyond = op.Concat(op.Reshape(scores, [-1]), op.Expand(op.CastLike(0, scores), shape[2:]), axis=0)
    left = op.ScatterElements(
        beyond, op.Reshape(place, [-1]), op.Reshape(-amount, [-1]), axis=0, reduction="add"
    )
    return op.Reshape(left[: op.ReduceProd(shape)], shape)


@_graph
def _barred(closed, events, exclusion):  # type: ignore
    """Close the surroundings of events to their own unit: bool (E, R, U)."""
    shape = op.Shape(closed)
    place = op.Reshape(_around(shape, events, exclusion - 1) + op.Unsqueeze(events[2], [1]), [-1])
    flat = op.Reshape(closed, [-1])
    beyond = op.Concat(flat, flat[: shape[2]], axis=0)
    shut = op.ScatterElements(beyond, place, place >= 0, axis=0)
    return op.Reshape(shut[: op.ReduceProd(shape)], shape)


@_graph
def begin(scores, first, held):  # type: ignore
    """What the first step begins with: scores and what is closed, (E, first + held, U); no spikes, (5, 0)."""
    shape = op.Shape(scores)
    edge = op.Concat(shape[:1], op.Reshape(first, [1]), shape[2:], axis=0)
    left = op.Concat(op.Expand(op.CastLike(OUTSIDE, scores), edge), scores[:, :held], axis=1)
    spikes = op.Cast(op.ConstantOfShape(op.Constant(value_ints=[5, 0])), to=_INT64)
    return left, left > left, spikes


@_graph
def look(left, closed, limits, first, looked_at):  # type: ignore
    """What the first round of a step begins with."""
    window = left[:, :looked_at]
    never = closed[:, :1]
    # Its first row is only there to be beside the second.
    shut = op.Concat(op.Or(never, op.Not(never)), closed[:, 1:looked_at], axis=1)
    # A step that begins behind the recording does not look back at what was left out.
    shut = op.Or(shut, left[:, first : first + 1, :1] < _INSIDE)
    nodes = _nodes(window, shut, limits)
    found = op.Cast(op.ConstantOfShape(op.Constant(value_ints=[7, 0])), to=_INT64)
    return op.Size(nodes) > 0, window, shut, nodes, found


@_graph
def compete(  # type: ignore
    window, shut, nodes, found, limits, energies, shifts, least, most, stride, phases, reach, lowered, edges,
    kernels, rivals, exclusion,
):  # fmt: skip
    """Accept, lower, and find the maxima again; the first of the results: whether any is left."""
    winners = _winners(window, nodes, rivals)
    events = _fitted(window, winners, energies, shifts, phases, stride, least, most)
    window = _lowered(window, events, reach, phases, lowered, edges, kernels)
    shut = _barred(shut, events, exclusion)
    nodes = _nodes(window, shut, limits)
    return op.Size(nodes) > 0, window, shut, nodes, op.Concat(found, events, axis=1)


@_graph
def take(  # type: ignore
    number, left, closed, spikes, found, scores, stride, phases, reach, lowered, edges, kernels, exclusion,
    first, step, held, warm_up,
):  # fmt: skip
    """Take the spikes of a step out for good, and go on to the next."""
    # Those behind the step were only thought of, for the sake of those before them.
    taken = op.Compress(found, found[1] < first + step, axis=1)
    left = _lowered(left, taken, reach, phases, lowered, edges, kernels)
    closed = _barred(closed, taken, exclusion)
    row = number * step - warm_up - first + taken[1]
    sample = op.Unsqueeze(row * stride + taken[6], [0])
    new = op.Concat(taken[:1], sample, taken[2:4], op.Unsqueeze(row, [0]), axis=0)
    kept = op.Where(number * step < warm_up, 0, op.Size(row))
    # What has been taken from the rows of the next step stays taken; the rows behind them are untouched.
    come = number * step + held
    fresh = scores[:, come : come + step]
    left = op.Concat(left[:, step:], fresh, axis=1)
    closed = op.Concat(closed[:, step:], fresh > fresh, axis=1)
    return left, closed, op.Concat(spikes, new[:, :kept], axis=1)


@_graph
def apart(spikes, exclusion, epoch, first):  # type: ignore
    """Leave out those too close to a spike of the epoch before, of so many rows: (5, S) -> (5, S)."""
    row = spikes[4]
    early = row < exclusion
    late = op.Compress(spikes, row > epoch - exclusion - first, axis=1)
    begun = op.Unsqueeze(op.Compress(spikes, early, axis=1), [2])
    same = op.And(begun[2] == late[2], begun[0] == late[0] + 1)
    close = op.And(same, op.Abs(begun[4] + epoch - late[4]) < exclusion)
    told = op.ReduceSum(op.Cast(close, to=_INT32), [1], keepdims=0) == 0
    place = op.Compress(op.Range(0, op.Size(row), 1), early, axis=0)
    return op.Compress(spikes, op.ScatterElements(row == row, place, told, axis=0), axis=1)
