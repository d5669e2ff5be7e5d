"""Operators that move values: joining, splitting, gathering, broadcasting, and their gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx_structdrop.training.lowering.writer import Operation, Rule, Writer

__all__ = ["RULES"]


def _concat(operation: Operation, writer: Writer) -> None:
    axis = operation.attributes["axis"]
    writer.emit("Concat", *operation.inputs, output=operation.output(0), axis=axis)
    lengths = operation.output(1)
    if not lengths or lengths not in writer.used:
        return
    sizes = [writer.shape(operation, name)[axis] for name in operation.inputs]
    if None not in sizes:
        known = tuple(size or 0 for size in sizes)
        writer.emit("Identity", writer.constant(known), output=lengths)
        return
    place = writer.constant([axis])
    parts = [
        writer.emit("Gather", writer.emit("Shape", name), place, axis=0)
        for name in operation.inputs
    ]
    writer.emit("Concat", *parts, output=lengths, axis=0)


def _split(operation: Operation, writer: Writer) -> None:
    outputs = [name or writer.fresh("part") for name in operation.outputs]
    axis = operation.attributes["axis"]
    writer.emit_all("Split", operation.inputs[:2], outputs, axis=axis)


def _slice_grad(operation: Operation, writer: Writer) -> None:
    grad, sizes, *bounds = operation.inputs
    # Slicing the numbers of the elements tells where each one came from.
    product = writer.emit("ReduceProd", sizes, keepdims=0)
    numbers = writer.emit("Range", writer.constant(0), product, writer.constant(1))
    places = writer.emit("Slice", writer.emit("Reshape", numbers, sizes), *bounds)
    zeros = _zeros(writer, writer.reshape(product, [1]), grad)
    flat = writer.emit(
        "ScatterElements",
        zeros,
        writer.reshape(places, [-1]),
        writer.reshape(grad, [-1]),
        axis=0,
    )
    writer.emit("Reshape", flat, sizes, output=operation.output(0))


def _gather_grad(operation: Operation, writer: Writer) -> None:
    sizes, indices, grad = operation.inputs[:3]
    rank = len(writer.shape(operation, grad)) - len(writer.shape(operation, indices)) + 1
    wide = len(writer.shape(operation, indices))
    axis = operation.attributes.get("axis", 0) % rank
    order = [axis, *(other for other in range(rank) if other != axis)]
    front = [*range(axis, axis + wide), *range(axis), *range(axis + wide, rank + wide - 1)]
    source, first = grad, sizes
    if axis:
        source = writer.transpose(grad, front)
        first = writer.emit("Gather", sizes, writer.constant(order), axis=0)
    places = writer.emit("Unsqueeze", indices, writer.constant([-1]))
    zeros = _zeros(writer, first, grad)
    result = writer.emit(
        "ScatterND",
        zeros,
        places,
        source,
        output=None if axis else operation.output(0),
        reduction="add",
    )
    if axis:
        back = [int(place) for place in np.argsort(order)]
        writer.transpose(result, back, operation.output(0))


def _gather_elements_grad(operation: Operation, writer: Writer) -> None:
    grad, sizes, indices = operation.inputs[:3]
    writer.emit(
        "ScatterElements",
        _zeros(writer, sizes, grad),
        indices,
        grad,
        output=operation.output(0),
        axis=operation.attributes.get("axis", 0),
        reduction="add",
    )


def _gather_nd_grad(operation: Operation, writer: Writer) -> None:
    sizes, indices, grad = operation.inputs[:3]
    if operation.attributes.get("batch_dims", 0):
        raise operation.refuse("batch_dims is not 0")
    zeros = _zeros(writer, sizes, grad)
    writer.emit("ScatterND", zeros, indices, grad, output=operation.output(0), reduction="add")


def _zeros(writer: Writer, sizes: str, like: str) -> str:
    zeros = writer.emit("ConstantOfShape", sizes)  # float32
    if writer.dtype(like) == np.float32:
        return zeros
    return writer.emit("Cast", zeros, to=writer.element_type(like))


def _broadcast_axes(operation: Operation, writer: Writer) -> None:
    ranks = []
    for name in operation.inputs:
        (rank,) = writer.static(operation, name)
        ranks.append(rank)
    widest = max(ranks)
    one = writer.constant(1)
    padded, present = [], []
    for name, rank in zip(operation.inputs, ranks, strict=True):
        ones = writer.constant([1] * (widest - rank))
        padded.append(writer.emit("Concat", ones, name, axis=0) if rank < widest else name)
        absent = [axis < widest - rank for axis in range(widest)]
        present.append(writer.constant(absent, np.bool_))
    single = [writer.emit("Equal", name, one) for name in padded]
    for index in range(2):
        output = operation.output(index)
        if not output:
            continue
        stretched = writer.emit("And", single[index], writer.emit("Not", single[1 - index]))
        summed = writer.emit("Or", stretched, present[index])
        writer.reshape(writer.emit("NonZero", summed), [-1], output)


def _reduce_sum(operation: Operation, writer: Writer) -> None:
    writer.emit(
        "ReduceSum",
        *operation.inputs[:2],
        output=operation.output(0),
        keepdims=operation.attributes.get("keepdims", 1),
        noop_with_empty_axes=operation.attributes.get("noop_with_empty_axes", 0),
    )


def _fused_matmul(operation: Operation, writer: Writer) -> None:
    attributes = operation.attributes
    if attributes.get("transBatchA", 0) or attributes.get("transBatchB", 0):
        raise operation.refuse("it transposes batches")
    sides = []
    for name, flag in zip(operation.inputs, ("transA", "transB"), strict=True):
        rank = len(writer.shape(operation, name))
        turned = attributes.get(flag, 0) and rank > 1
        order = [*range(rank - 2), rank - 1, rank - 2]
        sides.append(writer.transpose(name, order) if turned else name)
    alpha = attributes.get("alpha", 1.0)
    product = writer.emit("MatMul", *sides, output=operation.output(0) if alpha == 1 else None)
    if alpha != 1:
        factor = writer.scalar(alpha, operation.input(0))
        writer.emit("Mul", product, factor, output=operation.output(0))


def _zero_gradient(operation: Operation, writer: Writer) -> None:
    old = operation.input(0)
    sizes = writer.emit("Shape", old)
    zeros = _zeros(writer, sizes, old)
    writer.emit("Identity", zeros, output=operation.output(0))


RULES: dict[str, Rule] = {
    "BroadcastGradientArgs": _broadcast_axes,
    "ConcatTraining": _concat,
    "FusedMatMul": _fused_matmul,
    "GatherElementsGrad": _gather_elements_grad,
    "GatherGrad": _gather_grad,
    "GatherNDGrad": _gather_nd_grad,
    "ReduceSumTraining": _reduce_sum,
    "SliceGrad": _slice_grad,
    "SplitTraining": _split,
    "ZeroGradient": _zero_gradient,
}
"""How each operator is written in standard ONNX."""
