"""Activations and sums without a gradient in 1.19.2, written with operators that have one.

Every form gives the value and the derivative of the original, at the ends of its range as well:
exponentials see no argument that overflows, and where two pieces meet both agree.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from onnx_structdrop.training.preparation.editing import attribute, refuse

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_ir as ir

    from onnx_structdrop.training.preparation.editing import Editing, Emitter

__all__ = ["rewrite_activations"]

# exp(-20) vanishes beside 1 in float32: from here on softplus and mish are the identity.
_LARGE = 20.0


def rewrite_activations(editing: Editing) -> None:
    """Rewrite what has a known form; other operators stay as they are."""
    for node in list(editing.graph):
        if node.domain in ("", "ai.onnx") and node.op_type in _FORMS:
            result = _FORMS[node.op_type](editing.emit(node), node)
            editing.replace(node, result)
            editing.note(node, f"{node.op_type} written as arithmetic", "no gradient in 1.19.2")


def _data(node: ir.Node) -> ir.Value:
    if not node.inputs or node.inputs[0] is None:
        raise refuse(node, "it has no data")
    return node.inputs[0]


def _hard_gate(emit: Emitter, data: ir.Value, alpha: float, beta: float) -> ir.Value:
    line = emit(
        "Add", emit("Mul", data, emit.constant(alpha, "alpha")), emit.constant(beta, "beta")
    )
    return emit("Clip", line, emit.constant(0.0, "zero"), emit.constant(1.0, "one"))


def _hard_sigmoid(emit: Emitter, node: ir.Node) -> ir.Value:
    alpha, beta = attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)
    return _hard_gate(emit, _data(node), float(alpha), float(beta))


def _hard_swish(emit: Emitter, node: ir.Node) -> ir.Value:
    return emit("Mul", _data(node), _hard_gate(emit, _data(node), 1 / 6, 0.5))


def _negative_part(emit: Emitter, data: ir.Value) -> ir.Value:
    return emit("Neg", emit("Relu", emit("Neg", data)))


def _exponential(emit: Emitter, data: ir.Value, alpha: float, width: float) -> ir.Value:
    """Return ``max(0, x) + alpha * (exp(min(0, x) / width) - 1)``."""
    below = _negative_part(emit, data)
    if width != 1.0:
        below = emit("Div", below, emit.constant(width, "width"))
    curve = emit("Sub", emit("Exp", below), emit.constant(1.0, "one"))
    return emit("Add", emit("Relu", data), emit("Mul", curve, emit.constant(alpha, "alpha")))


def _elu(emit: Emitter, node: ir.Node) -> ir.Value:
    return _exponential(emit, _data(node), float(attribute(node, "alpha", 1.0)), 1.0)


def _celu(emit: Emitter, node: ir.Node) -> ir.Value:
    alpha = float(attribute(node, "alpha", 1.0))
    return _exponential(emit, _data(node), alpha, alpha)


def _selu(emit: Emitter, node: ir.Node) -> ir.Value:
    alpha = float(attribute(node, "alpha", 1.6732632))
    gamma = float(attribute(node, "gamma", 1.0507010))
    curve = _exponential(emit, _data(node), alpha, 1.0)
    return emit("Mul", curve, emit.constant(gamma, "gamma"))


def _softplus(emit: Emitter, node: ir.Node) -> ir.Value:
    data, limit = _data(node), emit.constant(_LARGE, "large")
    beyond = emit("Relu", emit("Sub", data, limit))
    power = emit("Exp", emit("Min", data, limit))
    return emit("Add", emit("Log", emit("Add", power, emit.constant(1.0, "one"))), beyond)


def _mish(emit: Emitter, node: ir.Node) -> ir.Value:
    # tanh(log(1 + e)) = n / (n + 2) with n = e * (e + 2)
    data, two = _data(node), emit.constant(2.0, "two")
    power = emit("Exp", emit("Min", data, emit.constant(_LARGE, "large")))
    n = emit("Mul", power, emit("Add", power, two))
    return emit("Mul", data, emit("Div", n, emit("Add", n, two)))


def _swish(emit: Emitter, node: ir.Node) -> ir.Value:
    data, alpha = _data(node), float(attribute(node, "alpha", 1.0))
    gate = data if math.isclose(alpha, 1.0) else emit("Mul", data, emit.constant(alpha, "alpha"))
    return emit("Mul", data, emit("Sigmoid", gate))


def _softsign(emit: Emitter, node: ir.Node) -> ir.Value:
    data = _data(node)
    return emit("Div", data, emit("Add", emit("Abs", data), emit.constant(1.0, "one")))


def _cast_like(emit: Emitter, node: ir.Node) -> ir.Value:
    target = node.inputs[1]
    if target is None or target.dtype is None:
        raise refuse(node, "the type it casts to is unknown; run onnx.shape_inference first")
    return emit("Cast", _data(node), to=int(target.dtype))


def _thresholded(emit: Emitter, node: ir.Node) -> ir.Value:
    data, alpha = _data(node), float(attribute(node, "alpha", 1.0))
    above = emit("Greater", data, emit.constant(alpha, "alpha"))
    return emit("Mul", data, emit("Cast", above, to=1))


def _prelu(emit: Emitter, node: ir.Node) -> ir.Value:
    data, slope = _data(node), node.inputs[1]
    return emit("Add", emit("Relu", data), emit("Mul", _negative_part(emit, data), slope))


def _sum(emit: Emitter, node: ir.Node) -> ir.Value:
    total = _data(node)
    for value in node.inputs[1:]:
        total = emit("Add", total, value)
    return emit("Identity", total) if len(node.inputs) == 1 else total


def _mean(emit: Emitter, node: ir.Node) -> ir.Value:
    return emit("Div", _sum(emit, node), emit.constant(len(node.inputs), "count"))


def _sum_of_squares(emit: Emitter, node: ir.Node) -> ir.Value:
    data = _data(node)
    square = emit("Mul", data, data)
    keepdims = int(attribute(node, "keepdims", 1))
    if len(node.inputs) > 1:
        return emit("ReduceSum", square, node.inputs[1], keepdims=keepdims)
    axes = attribute(node, "axes", None)
    if axes is None:
        return emit("ReduceSum", square, keepdims=keepdims)
    return emit("ReduceSum", square, emit.constant(list(axes), "axes", "int64"), keepdims=keepdims)


_FORMS: dict[str, Callable[[Emitter, ir.Node], ir.Value]] = {
    "CastLike": _cast_like,
    "Celu": _celu,
    "Elu": _elu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Mean": _mean,
    "Mish": _mish,
    "PRelu": _prelu,
    "ReduceSumSquare": _sum_of_squares,
    "Selu": _selu,
    "Softplus": _softplus,
    "Softsign": _softsign,
    "Sum": _sum,
    "Swish": _swish,
    "ThresholdedRelu": _thresholded,
}
