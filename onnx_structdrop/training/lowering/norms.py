"""Batch and layer normalisation: forward with saved statistics, and gradients."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx_structdrop.training.lowering.writer import Operation, Rule, Writer

__all__ = ["RULES"]


def _batch_norm(operation: Operation, writer: Writer) -> None:
    data, scale, bias, mean, variance = operation.inputs
    epsilon = operation.attributes.get("epsilon", 1e-5)
    momentum = operation.attributes.get("momentum", 0.9)
    if not operation.attributes.get("training_mode", 0):
        writer.emit(
            "BatchNormalization",
            *operation.inputs,
            output=operation.output(0),
            epsilon=epsilon,
        )
        return
    saved_mean = operation.output(3) or writer.fresh("mean")
    # With a momentum of 0 the running statistics that come out are those of the batch. The kernel
    # writes them into its inputs in place, so those are values of their own, not the parameters.
    batch_variance = writer.fresh("variance")
    zero = writer.scalar(0, data)
    own = [writer.emit("Mul", mean, zero), writer.emit("Mul", variance, zero)]
    writer.emit_all(
        "BatchNormalization",
        [data, scale, bias, *own],
        [operation.output(0), saved_mean, batch_variance],
        epsilon=epsilon,
        momentum=0.0,
        training_mode=1,
    )
    if operation.output(4):
        shifted = writer.emit("Add", batch_variance, writer.scalar(epsilon, data))
        writer.emit("Reciprocal", writer.emit("Sqrt", shifted), output=operation.output(4))
    for index, running, batch in ((1, mean, saved_mean), (2, variance, batch_variance)):
        if operation.output(index) in writer.used and operation.output(index):
            kept = writer.emit("Mul", running, writer.scalar(momentum, data))
            new = writer.emit("Mul", batch, writer.scalar(1 - momentum, data))
            writer.emit("Add", kept, new, output=operation.output(index))


def _batch_norm_grad(operation: Operation, writer: Writer) -> None:
    grad, data, scale, mean, inverse = operation.inputs[:5]
    sizes = writer.shape(operation, data)
    channels = sizes[1]
    if channels is None:
        raise operation.refuse(f"the number of channels of {data!r} is not fixed")
    rank = len(sizes)
    axes, column = [0, *range(2, rank)], [channels, *[1] * (rank - 2)]
    centred = writer.emit("Sub", data, writer.reshape(mean, column))
    bias_grad = writer.total(
        grad, axes, keep=False, output=operation.output(2) or writer.fresh("bias_grad")
    )
    product = writer.total(writer.emit("Mul", centred, grad), axes, keep=False)
    scale_grad = writer.emit(
        "Mul", product, inverse, output=operation.output(1) or writer.fresh("scale_grad")
    )
    if not operation.output(0):
        return
    number = writer.count(data, data, channels)
    slope = writer.emit("Mul", scale, inverse)
    share = writer.emit("Div", slope, number)
    offset = writer.emit("Mul", share, bias_grad)
    bend = writer.emit("Mul", writer.emit("Mul", share, inverse), scale_grad)
    # dX = slope * grad - offset - bend * (X - mean), each per channel
    direct = writer.emit("Mul", grad, writer.reshape(slope, column))
    through = writer.emit("Mul", centred, writer.reshape(bend, column))
    rest = writer.emit("Sub", direct, through)
    writer.emit("Sub", rest, writer.reshape(offset, column), output=operation.output(0))


def _layer_norm_grad(operation: Operation, writer: Writer) -> None:
    grad, data, scale, mean, inverse = operation.inputs[:5]
    rank = len(writer.shape(operation, data))
    axis = operation.attributes.get("axis", -1) % rank
    inner, outer = list(range(axis, rank)), list(range(axis))
    number = math.prod(writer.static(operation, scale))
    unit = writer.emit("Mul", writer.emit("Sub", data, mean), inverse)
    if operation.output(1):
        _summed(writer, writer.emit("Mul", grad, unit), outer, operation.output(1))
    if operation.output(2):
        _summed(writer, grad, outer, operation.output(2))
    if not operation.output(0):
        return
    scaled = writer.emit("Mul", grad, scale)
    share = writer.scalar(1 / number, data)
    level = writer.emit("Mul", writer.total(scaled, inner, keep=True), share)
    product = writer.emit("Mul", scaled, unit)
    tilt = writer.emit("Mul", writer.total(product, inner, keep=True), share)
    rest = writer.emit("Sub", writer.emit("Sub", scaled, level), writer.emit("Mul", unit, tilt))
    writer.emit("Mul", rest, inverse, output=operation.output(0))


def _summed(writer: Writer, value: str, axes: list[int], output: str) -> None:
    if axes:
        writer.total(value, axes, keep=False, output=output)
    else:
        writer.emit("Identity", value, output=output)


RULES: dict[str, Rule] = {
    "BatchNormInternal": _batch_norm,
    "BatchNormalizationGrad": _batch_norm_grad,
    "LayerNormalizationGrad": _layer_norm_grad,
}
"""How each operator is written in standard ONNX."""
