"""Innermost loops in the compiler's own language: several running sums in registers, vector by vector.

Each function here makes a function for compiled code. That takes flat places in contiguous arrays, and
trusts its caller with them. Products and sums are fused where the processor can.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

__all__ = ["LANES", "columns_tile", "fir_tile", "mix_tile", "symmetric_tile"]

LANES = 8
"""Numbers in a vector."""

_FLOAT, _PLACE, _LANE = ir.FloatType(), ir.IntType(64), ir.IntType(32)
_VECTOR = ir.VectorType(_FLOAT, LANES)


def fir_tile(num_filters: int, num_vectors: int) -> Any:
    """Some rows of one channel through some filters.

    Returns
    -------
    compiled function
        ``(lines, line, taps, tap, num_taps, result, out, stride)``: rows from ``line`` on through filters
        from ``tap`` on, to ``out``, with ``stride`` from one filter's rows to the next one's.
    """

    def body(code, lines, line, taps, tap, num_taps, result, out, stride):  # type: ignore
        sums = [[code.new_sum() for _ in range(num_vectors)] for _ in range(num_filters)]
        with code.loop(code.place(0), num_taps) as term:
            start = code.add(line, term)
            values = [code.load(lines, start, LANES * vector) for vector in range(num_vectors)]
            for index, own in enumerate(sums):
                weight = code.spread(taps, code.add(tap, term, code.times(num_taps, index)))
                for value, total in zip(values, own, strict=True):
                    code.add_product(total, value, weight)
        for index, own in enumerate(sums):
            for vector, total in enumerate(own):
                code.store(total, result, code.add(out, code.times(stride, index)), LANES * vector)

    return _compiled(body)


def mix_tile(num_vectors: int) -> Any:
    """Some rows of a weighted sum of lines.

    Returns
    -------
    compiled function
        ``(lines, row, length, rows, weights, first, last, offset, result, out)``: terms from ``first`` to
        ``last``, of lines of a ``length``, at their rows from ``row`` on; ``offset`` is added.
    """

    def body(code, lines, row, length, rows, weights, first, last, offset, result, out):  # type: ignore
        sums = [code.new_sum(offset) for _ in range(num_vectors)]
        with code.loop(first, last) as term:
            start = code.add(row, code.times(code.number(rows, term), length))
            weight = code.spread(weights, term)
            for vector, total in enumerate(sums):
                code.add_product(total, code.load(lines, start, LANES * vector), weight)
        for vector, total in enumerate(sums):
            code.store(total, result, out, LANES * vector)

    return _compiled(body)


def columns_tile(num_columns: int) -> Any:
    """One vector of rows times some columns of a matrix.

    Returns
    -------
    compiled function
        ``(lines, line, weights, weight, width, num_terms, result, out)``: vectors from ``line`` on, one after
        the other, times the rows of a matrix of some ``width``, of which the columns begin at ``weight``; a
        vector for each column to ``out``.
    """

    def body(code, lines, line, weights, weight, width, num_terms, result, out):  # type: ignore
        sums = [code.new_sum() for _ in range(num_columns)]
        with code.loop(code.place(0), num_terms) as term:
            value = code.load(lines, code.add(line, code.times(term, LANES)))
            start = code.add(weight, code.times(term, width))
            for column, total in enumerate(sums):
                code.add_product(total, value, code.spread(weights, code.add(start, code.place(column))))
        for column, total in enumerate(sums):
            code.store(total, result, out, LANES * column)

    return _compiled(body)


def symmetric_tile(num_vectors: int) -> Any:
    """One row of some channels through a symmetric filter of odd length.

    Returns
    -------
    compiled function
        ``(traces, here, num_channels, taps, num_taps, result, out)``: what lies ``num_channels`` apart from
        ``here`` on.
    """

    def body(code, traces, here, num_channels, taps, num_taps, result, out):  # type: ignore
        sums = [code.new_sum() for _ in range(num_vectors)]
        half = code.half(num_taps)
        last = code.add(here, code.times(code.less_one(num_taps), num_channels))
        with code.loop(code.place(0), half) as term:
            away = code.times(term, num_channels)
            weight = code.spread(taps, term)
            for vector, total in enumerate(sums):
                pair = code.load_pair(traces, code.add(here, away), code.less(last, away), LANES * vector)
                code.add_product(total, pair, weight)
        middle, weight = code.add(here, code.times(half, num_channels)), code.spread(taps, half)
        for vector, total in enumerate(sums):
            code.add_product(total, code.load(traces, middle, LANES * vector), weight)
            code.store(total, result, out, LANES * vector)

    return _compiled(body)


class _Code:
    """Writes instructions; arrays are pairs of a pointer and the type of their numbers."""

    def __init__(self, builder: Any) -> None:
        self._builder = builder

    def place(self, value: int) -> Any:
        return ir.Constant(_PLACE, value)

    def add(self, first: Any, *others: Any) -> Any:
        for other in others:
            first = self._builder.add(first, other)
        return first

    def less(self, value: Any, other: Any) -> Any:
        return self._builder.sub(value, other)

    def less_one(self, value: Any) -> Any:
        return self._builder.sub(value, self.place(1))

    def half(self, value: Any) -> Any:
        return self._builder.lshr(value, self.place(1))

    def times(self, value: Any, factor: Any) -> Any:
        return self._builder.mul(value, self.place(factor) if isinstance(factor, int) else factor)

    def loop(self, first: Any, last: Any) -> Any:
        return _Loop(self._builder, first, last)

    def new_sum(self, start: Any = None) -> Any:
        nothing = ir.Constant(_VECTOR, [0.0] * LANES)
        return cgutils.alloca_once_value(self._builder, nothing if start is None else self._spread(start))

    def number(self, array: Any, place: Any) -> Any:
        return self._builder.load(self._builder.gep(array[0], [place]))

    def spread(self, array: Any, place: Any) -> Any:
        """One number in all lanes."""
        return self._spread(self.number(array, place))

    def load(self, array: Any, place: Any, offset: int = 0) -> Any:
        return self._as_float(self._load(array, place, offset), array[1])

    def load_pair(self, array: Any, place: Any, other: Any, offset: int) -> Any:
        """Sum of two vectors; of short integers it is exact."""
        one, two = self._load(array, place, offset), self._load(array, other, offset)
        if isinstance(array[1], types.Integer):
            return self._as_float(self._builder.add(one, two), array[1])
        return self._builder.fadd(one, two)

    def add_product(self, total: Any, value: Any, weight: Any) -> None:
        kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
        fused = cgutils.get_or_insert_function(self._builder.module, kind, f"llvm.fmuladd.v{LANES}f32")
        before = self._builder.load(total)
        self._builder.store(self._builder.call(fused, [value, weight, before]), total)

    def store(self, total: Any, array: Any, place: Any, offset: int) -> None:
        pointer = self._pointer(array[0], place, offset, _VECTOR)
        self._builder.store(self._builder.load(total), pointer).align = 4

    def _load(self, array: Any, place: Any, offset: int) -> Any:
        """Vector of floats, or of long integers."""
        if not isinstance(array[1], types.Integer):
            value = self._builder.load(self._pointer(array[0], place, offset, _VECTOR))
            value.align = 4
            return value
        assert array[1] == types.int16
        value = self._builder.load(
            self._pointer(array[0], place, offset, ir.VectorType(ir.IntType(16), LANES))
        )
        value.align = 2
        return self._builder.sext(value, ir.VectorType(ir.IntType(32), LANES))

    def _as_float(self, value: Any, kind: Any) -> Any:
        return self._builder.sitofp(value, _VECTOR) if isinstance(kind, types.Integer) else value

    def _pointer(self, pointer: Any, place: Any, offset: int, kind: Any) -> Any:
        there = self._builder.gep(pointer, [self._builder.add(place, self.place(offset))])
        return self._builder.bitcast(there, kind.as_pointer())

    def _spread(self, value: Any) -> Any:
        nothing = ir.Constant(_VECTOR, ir.Undefined)
        first = self._builder.insert_element(nothing, value, ir.Constant(_LANE, 0))
        lanes = ir.Constant(ir.VectorType(_LANE, LANES), [0] * LANES)
        return self._builder.shuffle_vector(first, nothing, lanes)


class _Loop:
    """From a first to before a last place."""

    def __init__(self, builder: Any, first: Any, last: Any) -> None:
        self._range = cgutils.for_range_slice(builder, first, last, ir.Constant(_PLACE, 1))

    def __enter__(self) -> Any:
        return self._range.__enter__()[0]

    def __exit__(self, *error: Any) -> Any:
        return self._range.__exit__(*error)


def _compiled(body: Callable) -> Any:
    """A function for compiled code out of one that writes instructions."""

    def tile(_context, *arguments):  # type: ignore
        signature = types.void(
            *(types.intp if isinstance(kind, types.Integer) else kind for kind in arguments)
        )

        def lower(context, builder, signature, values):  # type: ignore
            given = [
                (context.make_array(kind)(context, builder, value).data, kind.dtype)
                if isinstance(kind, types.Array)
                else value
                for kind, value in zip(signature.args, values, strict=True)
            ]
            body(_Code(builder), *given)
            return context.get_dummy_value()

        return signature, lower

    # The compiler wants to see the arguments one by one.
    tile.__signature__ = inspect.signature(body)  # type: ignore
    return intrinsic(tile)
