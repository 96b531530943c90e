"""ONNX models put together from functions and loops.

Values have one name each: a function's parameters are taken from the values of their names. What a loop
carries on is ``x_start`` in front of it, ``x`` in its body, ``x_next`` at the body's end and ``x_last``
behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["call", "loop", "model_of"]

_IR_VERSION = 9  # of the file's format; of the time of the operators below
_OPERATORS = 18


def call(function: Any, outputs: Sequence[str], **sources: str) -> onnx.NodeProto:
    """Call a function of onnxscript; sources are parameters that take a value of another name."""
    proto = function.to_function_proto()
    inputs = [sources.get(name, name) for name in proto.input]
    return helper.make_node(proto.name, inputs, outputs, domain=proto.domain)


def loop(
    count: str,
    body: Sequence[onnx.NodeProto],
    *,
    iteration: str,
    carried: Sequence[str] = (),
    stacked: Sequence[str] = (),
    while_true: tuple[str, str] | None = None,
) -> onnx.NodeProto:
    """Repeat nodes.

    Parameters
    ----------
    count : str
        Value: so many times at the most.
    body : nodes
    iteration : str
        Name of the number of the repetition, from 0 on.
    carried : sequence of str
        What each repetition takes from the one before.
    stacked : sequence of str
        What all repetitions give, one behind another along a new first axis.
    while_true : (str, str), optional
        Values that say whether to begin, and at the body's end whether to go on.
    """
    start, go_on = ("", f"{iteration}_goes_on") if while_true is None else while_true
    going = f"{iteration}_going"
    nodes = list(body)
    if while_true is None:
        nodes.append(helper.make_node("Identity", [going], [go_on]))
    unknown = helper.make_empty_tensor_value_info
    graph = helper.make_graph(
        nodes,
        f"{iteration}_body",
        [
            helper.make_tensor_value_info(iteration, TensorProto.INT64, []),
            helper.make_tensor_value_info(going, TensorProto.BOOL, []),
            *map(unknown, carried),
        ],
        [
            helper.make_tensor_value_info(go_on, TensorProto.BOOL, []),
            *(unknown(f"{name}_next") for name in (*carried, *stacked)),
        ],
    )
    return helper.make_node(
        "Loop",
        [count, start, *(f"{name}_start" for name in carried)],
        [f"{name}_last" for name in (*carried, *stacked)],
        body=graph,
    )


def model_of(
    nodes: Sequence[onnx.NodeProto],
    functions: Sequence[Any],
    *,
    name: str,
    inputs: Mapping[str, tuple[type, Sequence[str | int]]],
    outputs: Mapping[str, tuple[type, Sequence[str | int]]],
    constants: Mapping[str, Any],
) -> onnx.ModelProto:
    """Put a model together.

    Parameters
    ----------
    nodes : sequence of nodes
    functions : sequence of functions of onnxscript
        All that the nodes call; those that these call come along.
    name : str
    inputs, outputs : mappings of names to types and shapes
    constants : mapping
        Arrays, and integers, which become int64.
    """
    protos: dict[str, onnx.FunctionProto] = {}
    for function in functions:
        for proto in (*function.to_model_proto().functions, function.to_function_proto()):
            protos[proto.name] = proto
    domains = {proto.domain for proto in protos.values()}

    def described(values: Mapping[str, tuple[type, Sequence[str | int]]]) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(value, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), shape)
            for value, (kind, shape) in values.items()
        ]

    weights = [
        numpy_helper.from_array(np.ascontiguousarray(value), name)
        if np.ndim(value)
        else numpy_helper.from_array(np.asarray(value), name)
        for name, value in constants.items()
    ]
    graph = helper.make_graph(nodes, name, described(inputs), described(outputs), weights)
    return helper.make_model(
        graph,
        functions=list(protos.values()),
        opset_imports=[
            helper.make_opsetid("", _OPERATORS),
            *(helper.make_opsetid(domain, 1) for domain in sorted(domains)),
        ],
        ir_version=_IR_VERSION,
        producer_name="esort",
    )
