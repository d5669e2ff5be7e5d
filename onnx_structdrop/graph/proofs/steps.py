"""Step functions of numbers that only the run knows: samples of those say nothing about them.

A few sample numbers tell whether two formulas agree, as long as the formulas are smooth. What a
comparison or a rounding gives for the samples may differ from what it gives for the number that
is fed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnx_structdrop.graph.proofs.noise import NotProvenError
from onnx_structdrop.graph.proofs.sources import DEFAULT_DOMAINS
from onnx_structdrop.graph.topology.dataflow import operators

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onnx_structdrop.graph.proofs.noise import Noise

__all__ = ["STEPS", "check_step", "decided"]

Array = np.ndarray[Any, Any]

_COMPARING = operators("Equal Greater GreaterOrEqual Less LessOrEqual")
_ROUNDING = operators("Ceil Floor Round")
_EXTREME = operators("Clip Max Min ReduceMax ReduceMin")
_CASTS = operators("Cast CastLike")

STEPS = _COMPARING | _ROUNDING | _EXTREME | _CASTS | operators("Abs Div Mod Pow Relu Sign Sqrt")
"""Operators that may treat two numbers differently that are close, or of another sign.

The root of a square is an absolute value.
"""

_OF_SIZES = operators(
    """Cast Concat Gather Identity Mul ReduceProd Reshape Shape Size Slice Squeeze Unsqueeze"""
)
"""Operators that make positive integers of positive integers."""


def decided(
    node: ir.Node,
    inputs: Sequence[Sequence[Array] | None],
    outputs: Sequence[Array],
    constant: Callable[[ir.Value], bool],
) -> bool:
    """Tell whether what a node gives for samples holds for every number they stand for.

    Parameters
    ----------
    node
        A node that was evaluated under each assignment.
    inputs, outputs
        What goes in and comes out, an array per assignment.
    constant
        Tells whether a value is the same in every assignment.
    """
    if node.op_type not in STEPS or not any(_varies(arrays) for arrays in inputs):
        return True
    given = inputs[0]
    if given is None:
        return False
    if node.op_type in _CASTS or node.op_type in _ROUNDING:
        # A cast between floats, or rounding of whole numbers, gives what it got.
        return outputs[0].dtype.kind in "iuf" and all(
            np.allclose(result, given[index % len(given)], rtol=1e-6, atol=0)
            for index, result in enumerate(outputs)
        )
    if node.op_type == "Div" and outputs[0].dtype.kind in "iu":
        divisors = inputs[1] or ()
        return all(
            not np.any(given[index % len(given)] % divisors[index % len(divisors)])
            for index in range(len(outputs))
        )
    if node.op_type == "Div":
        return True
    if node.op_type in ("ReduceMax", "ReduceMin", "Mod", "Clip"):
        return False
    # Sizes are 1 or more: what compares them with a number below 1 is decided.
    return all(
        _sizes(value, constant)
        if _varies(arrays)
        else all(bool((array < 1).all()) for array in arrays or ())
        for value, arrays in zip(node.inputs, inputs, strict=False)
        if value is not None
    ) and (len(inputs) == 1 or any(not _varies(arrays) for arrays in inputs))


def check_step(node: ir.Node, inputs: Sequence[Noise]) -> None:
    """Refuse a step function of masks and a number that only the run knows.

    Where random numbers themselves are compared or rounded, or a mask is counted, the number
    is a probability or a size.

    Raises
    ------
    NotProvenError
        If it is one.
    """
    attribute = node.attributes.get("to")
    target = node.outputs[0].dtype if attribute is None else ir.DataType(attribute.as_int())
    if node.op_type in _CASTS and (target is None or target.is_floating_point()):
        return
    # Integer division is refused by itself.
    if node.op_type == "Div" or any(one.first.draw is not None or one.reduced for one in inputs):
        return
    for one in inputs:
        for bound in (*one.first[:2], *one.second[:2]):
            if not (bound == bound[0]).all():
                raise NotProvenError(f"{node.op_type} depends on a number that only the run knows")


def _varies(arrays: Sequence[Array] | None) -> bool:
    return arrays is not None and any(not np.array_equal(array, arrays[0]) for array in arrays[1:])


def _sizes(value: ir.Value, constant: Callable[[ir.Value], bool]) -> bool:
    """Tell whether a value holds sizes, products of them, and what stands beside them."""
    pending, seen = [value], {value}
    while pending:
        current = pending.pop()
        if constant(current):
            continue
        node = current.producer()
        if node is None or node.domain not in DEFAULT_DOMAINS or node.op_type not in _OF_SIZES:
            return False
        if node.op_type == "Mul" and any(given is None or constant(given) for given in node.inputs):
            return False
        if node.op_type in ("Shape", "Size"):
            continue
        for given in node.inputs:
            if given is not None and given not in seen:
                seen.add(given)
                pending.append(given)
    return True
