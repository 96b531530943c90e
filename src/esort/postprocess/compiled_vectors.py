"""Innermost loops of the compiled engine in the compiler's own language: vector by vector, no rest.

A compiler that does not know how short these loops are spends more time on their ends than on their middle.
Each public function says in NumPy what it does; compiled code has the instructions instead. They take flat
places in contiguous int32 arrays, and trust their caller with them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

from .compiled_graph import LANES
from .fit import AMPLITUDE_STEPS

BLOCK_ROWS = 64
"""Rows that a mask of maxima tells of."""

_instructions: Any = intrinsic
_compiled: Any = overload
_BIT, _NUMBER, _PLACE = ir.IntType(1), ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_NUMBER, LANES)
_LEAST = -(2**31)
_BITS = AMPLITUDE_STEPS.bit_length() - 1


def copy(target, at, source, place, count):  # type: ignore
    """Copy ``count`` numbers, up to a whole vector; return the highest."""
    there = target[at : at + _whole(count)]
    there[:] = source[place : place + _whole(count)]
    return there.max()


def lower(target, at, source, place, count):  # type: ignore
    """Subtract ``count`` numbers, up to a whole vector; return the highest that is left."""
    there = target[at : at + _whole(count)]
    there -= source[place : place + _whole(count)]
    return there.max()


def lower_by_part(target, at, source, place, count, size):  # type: ignore
    """Do as `lower` with ``size`` 64ths of each number, halves upwards; products must fit 32 bits."""
    there = target[at : at + _whole(count)]
    there -= (source[place : place + _whole(count)] * size + AMPLITUDE_STEPS // 2) >> _BITS
    return there.max()


def maxima(scores, at, limit):  # type: ignore
    """Which of 64 rows reach the limit, are above the row before, not below the row after: bits of int64."""
    here, before, after = (scores[at + beside : at + beside + BLOCK_ROWS] for beside in (0, -1, 1))
    found = (here >= limit) & (here > before) & (here >= after)
    return np.packbits(found, bitorder="little").view(np.int64)[0]


def lowest_bit(mask):  # type: ignore
    """Position of the lowest bit of an int64 that is not 0."""
    return (int(mask) & -int(mask)).bit_length() - 1


def _whole(count: int) -> int:
    return -(-count // LANES) * LANES


@_instructions
def _copy(_context, target, at, source, place, count):  # type: ignore
    def change(_builder, _old, new, _size):  # type: ignore
        return new

    return _change(target, source, change)


@_instructions
def _lower(_context, target, at, source, place, count):  # type: ignore
    def change(builder, old, new, _size):  # type: ignore
        return builder.sub(old, new)

    return _change(target, source, change)


@_instructions
def _lower_by_part(_context, target, at, source, place, count, size):  # type: ignore
    def change(builder, old, new, size):  # type: ignore
        half, bits = (_all(builder, ir.Constant(_NUMBER, number)) for number in (AMPLITUDE_STEPS // 2, _BITS))
        product = builder.add(builder.mul(new, size), half)
        return builder.sub(old, builder.ashr(product, bits))

    return _change(target, source, change, types.int32)


def _change(target: Any, source: Any, change: Any, *more: Any) -> tuple[Any, Any]:
    """Signature and instructions of a pass over ``target`` and ``source``, both int32 and contiguous."""

    def write(context, builder, signature, arguments):  # type: ignore
        old, at, new, place, count, *size = arguments
        old, new = (_data(context, builder, kind, value) for kind, value in ((target, old), (source, new)))
        size = _all(builder, *size) if size else None
        highest = cgutils.alloca_once_value(builder, ir.Constant(_VECTOR, [_LEAST] * LANES))
        start, step = ir.Constant(_PLACE, 0), ir.Constant(_PLACE, LANES)
        with cgutils.for_range_slice(builder, start, count, step) as (offset, _):
            there = _vector(builder, old, builder.add(at, offset))
            beside = _vector(builder, new, builder.add(place, offset))
            changed = change(builder, _load(builder, there), _load(builder, beside), size)
            builder.store(changed, there).align = 4
            before = builder.load(highest)
            higher = builder.select(builder.icmp_signed(">", changed, before), changed, before)
            builder.store(higher, highest)
        kind = ir.FunctionType(_NUMBER, [_VECTOR])
        name = f"llvm.vector.reduce.smax.v{LANES}i32"
        reduce = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(reduce, [builder.load(highest)])

    return types.int32(target, types.int64, source, types.int64, types.int64, *more), write


@_instructions
def _maxima(_context, scores, at, limit):  # type: ignore
    def write(context, builder, signature, arguments):  # type: ignore
        data, at = _data(context, builder, signature.args[0], arguments[0]), arguments[1]
        limit = _all(builder, arguments[2])
        mask = ir.Constant(_PLACE, 0)
        for offset in range(0, BLOCK_ROWS, LANES):
            here, before, after = (
                _load(builder, _vector(builder, data, builder.add(at, ir.Constant(_PLACE, offset + beside))))
                for beside in (0, -1, 1)
            )
            found = builder.and_(
                builder.icmp_signed(">=", here, limit),
                builder.and_(builder.icmp_signed(">", here, before), builder.icmp_signed(">=", here, after)),
            )
            bits = builder.zext(builder.bitcast(found, ir.IntType(LANES)), _PLACE)
            mask = builder.or_(mask, builder.shl(bits, ir.Constant(_PLACE, offset)))
        return mask

    return types.int64(scores, types.int64, types.int32), write


@_instructions
def _lowest_bit(_context, mask):  # type: ignore
    def write(_context, builder, _signature, arguments):  # type: ignore
        return builder.cttz(arguments[0], ir.Constant(_BIT, 1))

    return types.int64(types.int64), write


@_compiled(copy)
def _(target, at, source, place, count):  # type: ignore
    return lambda target, at, source, place, count: _copy(target, at, source, place, count)


@_compiled(lower)
def _(target, at, source, place, count):  # type: ignore
    return lambda target, at, source, place, count: _lower(target, at, source, place, count)


@_compiled(lower_by_part)
def _(target, at, source, place, count, size):  # type: ignore
    return lambda target, at, source, place, count, size: _lower_by_part(
        target, at, source, place, count, size
    )


@_compiled(maxima)
def _(scores, at, limit):  # type: ignore
    return lambda scores, at, limit: _maxima(scores, at, limit)


@_compiled(lowest_bit)
def _(mask):  # type: ignore
    return lambda mask: _lowest_bit(mask)


def _data(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    assert kind.dtype == types.int32
    assert kind.layout == "C"
    return context.make_array(kind)(context, builder, array).data


def _vector(builder: Any, data: Any, place: Any) -> Any:
    return builder.bitcast(builder.gep(data, [place]), _VECTOR.as_pointer())


def _load(builder: Any, pointer: Any) -> Any:
    value = builder.load(pointer)
    value.align = 4
    return value


def _all(builder: Any, value: Any) -> Any:
    """One number in all lanes."""
    nothing = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(nothing, value, ir.Constant(_NUMBER, 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(_NUMBER, LANES), [0] * LANES))
