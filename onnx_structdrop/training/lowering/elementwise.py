"""Gradients of activations, and the fused activations that come with them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx_structdrop.training.lowering.writer import Operation, Rule, Writer

__all__ = ["RULES"]


def _mask(writer: Writer, value: str, like: str) -> str:
    """Write 1 where a value is above zero, else 0.

    Multiplying with it is three times as fast in onnxruntime as `Where`. It differs where a
    gradient is infinite or NaN, and then training is lost in either form.
    """
    above = writer.emit("Greater", value, writer.scalar(0, value))
    return writer.emit("Cast", above, to=writer.element_type(like))


def _relu_grad(operation: Operation, writer: Writer) -> None:
    grad, value = operation.inputs
    writer.emit("Mul", grad, _mask(writer, value, grad), output=operation.output(0))


def _leaky_relu_grad(operation: Operation, writer: Writer) -> None:
    grad, value = operation.inputs
    alpha = operation.attributes.get("alpha", 0.01)
    above = writer.emit("Greater", value, writer.scalar(0, value))
    slope = writer.emit("Where", above, writer.scalar(1, grad), writer.scalar(alpha, grad))
    writer.emit("Mul", grad, slope, output=operation.output(0))


def _sigmoid_grad(operation: Operation, writer: Writer) -> None:
    grad, value = operation.inputs
    rest = writer.emit("Sub", writer.scalar(1, grad), value)
    slope = writer.emit("Mul", value, rest)
    writer.emit("Mul", grad, slope, output=operation.output(0))


def _tanh_grad(operation: Operation, writer: Writer) -> None:
    grad, value = operation.inputs
    slope = writer.emit("Sub", writer.scalar(1, grad), writer.emit("Mul", value, value))
    writer.emit("Mul", grad, slope, output=operation.output(0))


def _sin_grad(operation: Operation, writer: Writer) -> None:
    grad, value = operation.inputs
    writer.emit("Mul", grad, writer.emit("Cos", value), output=operation.output(0))


def _normal_cdf(writer: Writer, value: str) -> str:
    scaled = writer.emit("Mul", value, writer.scalar(math.sqrt(0.5), value))
    shifted = writer.emit("Add", writer.emit("Erf", scaled), writer.scalar(1, value))
    return writer.emit("Mul", shifted, writer.scalar(0.5, value))


def _gelu(operation: Operation, writer: Writer) -> None:
    value = _biased(operation, writer, 0, 1)
    writer.emit("Mul", value, _normal_cdf(writer, value), output=operation.output(0))


def _gelu_grad(operation: Operation, writer: Writer) -> None:
    grad, value = operation.input(0), _biased(operation, writer, 1, 2)
    squared = writer.emit("Mul", value, value)
    density = writer.emit(
        "Mul",
        writer.emit("Exp", writer.emit("Mul", squared, writer.scalar(-0.5, value))),
        writer.scalar(math.sqrt(0.5 / math.pi), value),
    )
    slope = writer.emit("Add", _normal_cdf(writer, value), writer.emit("Mul", value, density))
    writer.emit("Mul", grad, slope, output=operation.output(0))


_ROOT, _CUBIC = math.sqrt(2 / math.pi), 0.044715


def _fast_gelu_tanh(writer: Writer, value: str) -> tuple[str, str]:
    """Write tanh(sqrt(2 / pi) (x + 0.044715 x^3)), and the square of x."""
    squared = writer.emit("Mul", value, value)
    factor = writer.emit(
        "Add",
        writer.emit("Mul", squared, writer.scalar(_ROOT * _CUBIC, value)),
        writer.scalar(_ROOT, value),
    )
    return writer.emit("Tanh", writer.emit("Mul", value, factor)), squared


def _fast_gelu(operation: Operation, writer: Writer) -> None:
    value = _biased(operation, writer, 0, 1)
    tanh, _ = _fast_gelu_tanh(writer, value)
    half = writer.emit("Mul", value, writer.scalar(0.5, value))
    above = writer.emit("Add", tanh, writer.scalar(1, value))
    writer.emit("Mul", half, above, output=operation.output(0))


def _fast_gelu_grad(operation: Operation, writer: Writer) -> None:
    grad, value = operation.input(0), _biased(operation, writer, 1, 2)
    tanh, squared = _fast_gelu_tanh(writer, value)
    inner = writer.emit(
        "Add",
        writer.emit("Mul", squared, writer.scalar(3 * _ROOT * _CUBIC, value)),
        writer.scalar(_ROOT, value),
    )
    bend = writer.emit("Sub", writer.scalar(1, value), writer.emit("Mul", tanh, tanh))
    bend = writer.emit("Mul", bend, writer.emit("Mul", value, inner))
    slope = writer.emit("Add", writer.emit("Add", tanh, writer.scalar(1, value)), bend)
    slope = writer.emit("Mul", slope, writer.scalar(0.5, value))
    writer.emit("Mul", grad, slope, output=operation.output(0))


def _quick_gelu_sigmoid(operation: Operation, writer: Writer, value: str) -> str:
    alpha = operation.attributes.get("alpha", 1.702)
    scaled = value if alpha == 1 else writer.emit("Mul", value, writer.scalar(alpha, value))
    return writer.emit("Sigmoid", scaled)


def _quick_gelu(operation: Operation, writer: Writer) -> None:
    value = operation.input(0)
    gate = _quick_gelu_sigmoid(operation, writer, value)
    writer.emit("Mul", value, gate, output=operation.output(0))


def _quick_gelu_grad(operation: Operation, writer: Writer) -> None:
    grad, value = operation.inputs
    gate = _quick_gelu_sigmoid(operation, writer, value)
    bend = writer.emit("Mul", value, writer.emit("Sub", writer.scalar(1, value), gate))
    alpha = operation.attributes.get("alpha", 1.702)
    if alpha != 1:
        bend = writer.emit("Mul", bend, writer.scalar(alpha, value))
    slope = writer.emit("Mul", gate, writer.emit("Add", bend, writer.scalar(1, value)))
    writer.emit("Mul", grad, slope, output=operation.output(0))


def _biased(operation: Operation, writer: Writer, value: int, bias: int) -> str:
    name = operation.input(value)
    return writer.emit("Add", name, operation.input(bias)) if operation.input(bias) else name


def _dropout_grad(operation: Operation, writer: Writer) -> None:
    grad, mask = operation.input(0), operation.input(1)
    ratio, training = operation.input(2), operation.input(3)
    if not training:  # its default is off: nothing was dropped
        writer.emit("Identity", grad, output=operation.output(0))
        return
    one = writer.scalar(1, grad)
    rate = (
        writer.emit("Cast", ratio, to=writer.element_type(grad))
        if ratio
        else writer.scalar(0.5, grad)
    )
    scale = writer.emit("Reciprocal", writer.emit("Sub", one, rate))
    scale = writer.emit("Where", training, scale, one)
    kept = writer.emit("Mul", grad, writer.emit("Cast", mask, to=writer.element_type(grad)))
    writer.emit("Mul", kept, scale, output=operation.output(0))


def _scale(operation: Operation, writer: Writer) -> None:
    value, factor = operation.inputs
    factor = writer.emit("Cast", factor, to=writer.element_type(value))  # often an integer
    op = "Div" if operation.attributes.get("scale_down", 0) else "Mul"
    writer.emit(op, value, factor, output=operation.output(0))


RULES: dict[str, Rule] = {
    "BiasFastGeluGrad_dX": _fast_gelu_grad,
    "BiasGelu": _gelu,
    "BiasGeluGrad_dX": _gelu_grad,
    "DropoutGrad": _dropout_grad,
    "FastGelu": _fast_gelu,
    "FastGeluGrad": _fast_gelu_grad,
    "Gelu": _gelu,
    "GeluGrad": _gelu_grad,
    "LeakyReluGrad": _leaky_relu_grad,
    "QuickGelu": _quick_gelu,
    "QuickGeluGrad": _quick_gelu_grad,
    "ReluGrad": _relu_grad,
    "Scale": _scale,
    "SigmoidGrad": _sigmoid_grad,
    "SinGrad": _sin_grad,
    "TanhGrad": _tanh_grad,
}
"""How each operator is written in standard ONNX."""
