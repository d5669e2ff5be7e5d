"""Gradients of pooling: back to the places of the maxima, or spread over the windows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from onnx_structdrop.training.lowering.geometry import Geometry
from onnx_structdrop.training.lowering.maps import transposed

if TYPE_CHECKING:
    from onnx_structdrop.training.lowering.writer import Operation, Rule, Writer

__all__ = ["RULES"]


def _max_pool_grad(operation: Operation, writer: Writer) -> None:
    grad, places = operation.inputs[:2]
    pool = writer.producers.get(places)
    if pool is None or pool.op_type != "MaxPool":
        raise operation.refuse(f"{places!r} is not the second output of a MaxPool node")
    if operation.attributes.get("storage_order", 0):
        raise operation.refuse("storage_order is 1; only row-major indices are lowered")
    image = pool.input[0]
    kernel = operation.attributes["kernel_shape"]
    spatial = writer.shape(operation, image)[2:]
    geometry = Geometry.of(operation, kernel, spatial)
    sizes = writer.emit("Shape", image)
    # With ceil_mode windows may end behind the map, which MaxUnpool refuses.
    apart = not operation.attributes.get("ceil_mode", 0) and all(
        stride >= size and dilation == 1
        for stride, size, dilation in zip(
            geometry.strides, geometry.kernel, geometry.dilations, strict=True
        )
    )
    if apart:
        writer.emit(
            "MaxUnpool",
            grad,
            places,
            sizes,
            output=operation.output(0),
            kernel_shape=list(kernel),
            strides=list(geometry.strides),
            pads=geometry.pads,
        )
        return
    # Windows overlap, so a place may be the maximum of several: their gradients add up.
    number = writer.reshape(writer.emit("Size", image), [1])
    zeros = writer.emit("ConstantOfShape", number)  # float32, as onnxruntime trains
    if writer.dtype(grad) != np.float32:
        zeros = writer.emit("Cast", zeros, to=writer.element_type(grad))
    flat = writer.emit(
        "ScatterElements",
        zeros,
        writer.reshape(places, [-1]),
        writer.reshape(grad, [-1]),
        axis=0,
        reduction="add",
    )
    writer.emit("Reshape", flat, sizes, output=operation.output(0))


def _average_pool_grad(operation: Operation, writer: Writer) -> None:
    grad, result = operation.input(0), operation.output(0)
    kernel = operation.attributes["kernel_shape"]
    channels, *spatial = writer.shape(operation, result)[1:]
    windows = writer.shape(operation, grad)[2:]
    if channels is None or None in spatial or None in windows:
        raise operation.refuse("the map has no fixed size, which the counts of elements need")
    geometry = Geometry.of(operation, kernel, spatial)
    dtype = writer.dtype(grad)
    if operation.attributes.get("count_include_pad", 0):
        share = writer.constant(1 / math.prod(kernel), dtype)
    else:
        share = writer.constant(1 / _counts(geometry, spatial, windows), dtype)
    spread = writer.emit("Mul", grad, share)
    single = writer.reshape(spread, [-1, 1, *(size or 0 for size in windows)])
    flat = writer.fresh("spread")
    transposed(
        writer,
        geometry,
        grad=single,
        weights=writer.constant(np.ones((1, 1, *kernel)), dtype),
        like="",
        spatial=spatial,
        windows=windows,
        output=flat,
    )
    writer.reshape(flat, [-1, channels, *(size or 0 for size in spatial)], result)


def _counts(
    geometry: Geometry, spatial: list[int | None], windows: tuple[int | None, ...]
) -> np.ndarray:
    """Return how many elements of the map lie in each window."""
    counts = np.ones((), np.float64)
    for axis, (size, number) in enumerate(zip(spatial, windows, strict=True)):
        first = np.arange(number or 0) * geometry.strides[axis] - geometry.begin[axis]
        taps = first[:, None] + np.arange(geometry.kernel[axis]) * geometry.dilations[axis]
        inside = ((taps >= 0) & (taps < (size or 0))).sum(axis=1)
        counts = counts[..., None] * inside
    return counts


RULES: dict[str, Rule] = {
    "AveragePoolGrad": _average_pool_grad,
    "MaxPoolGrad": _max_pool_grad,
}
"""How each operator is written in standard ONNX."""
