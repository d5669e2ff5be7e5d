"""Gradients of convolutions: of the map as a transposed convolution, of the weights by taps."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from onnx_structdrop.training.lowering.geometry import Geometry
from onnx_structdrop.training.lowering.weights import weight_gradient

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_structdrop.training.lowering.writer import Operation, Rule, Size, Writer

__all__ = ["RULES", "transposed"]

_SMALL_MAP = 32
"""Positions up to which one convolution over the batch beats a product per image."""

_WIDE = 128
"""Channels from which that is so."""


def _conv_grad(operation: Operation, writer: Writer) -> None:
    grad, image, weights = operation.inputs[:3]
    sizes = writer.static(operation, weights)
    spatial = writer.shape(operation, image)[2:]
    geometry = Geometry.of(operation, sizes[2:], spatial)
    if operation.output(0):
        windows = writer.shape(operation, grad)[2:]
        _image_gradient(
            operation, writer, geometry, spatial=spatial, windows=windows, weight_sizes=sizes
        )
    if operation.output(1):
        weight_gradient(
            operation,
            writer,
            geometry,
            image=image,
            grad=grad,
            sizes=sizes,
            output=operation.output(1),
        )
    if operation.output(2):
        _bias_gradient(writer, grad, geometry.rank, operation.output(2))


def _conv_transpose_grad(operation: Operation, writer: Writer) -> None:
    # The node is the gradient of a convolution, so its own gradients are a convolution and the
    # weight gradient with map and gradient in each other's place.
    grad, image, weights = operation.inputs[:3]
    if operation.attributes.get("output_shape"):
        raise operation.refuse("output_shape has no lowered form; give pads and output_padding")
    sizes = writer.static(operation, weights)
    geometry = Geometry.of(operation, sizes[2:], writer.shape(operation, grad)[2:])
    if operation.output(0):
        writer.emit(
            "Conv",
            grad,
            weights,
            output=operation.output(0),
            group=geometry.group,
            strides=list(geometry.strides),
            dilations=list(geometry.dilations),
            pads=geometry.pads,
        )
    if operation.output(1):
        weight_gradient(
            operation,
            writer,
            geometry,
            image=grad,
            grad=image,
            sizes=sizes,
            output=operation.output(1),
        )
    if operation.output(2):
        _bias_gradient(writer, grad, geometry.rank, operation.output(2))


def _bias_gradient(writer: Writer, grad: str, rank: int, output: str) -> None:
    writer.total(grad, [0, *range(2, rank + 2)], keep=False, output=output)


def _image_gradient(
    operation: Operation,
    writer: Writer,
    geometry: Geometry,
    *,
    spatial: Sequence[Size],
    windows: Sequence[Size],
    weight_sizes: Sequence[int],
) -> None:
    grad, image, weights = operation.inputs[:3]
    if _prefers_convolution(geometry, windows, weight_sizes):
        flipped = _flipped(writer, geometry, weights, weight_sizes)
        reach = [
            dilation * (size - 1)
            for dilation, size in zip(geometry.dilations, geometry.kernel, strict=True)
        ]
        begin = [far - pad for far, pad in zip(reach, geometry.begin, strict=True)]
        end = [far - pad for far, pad in zip(reach, geometry.end, strict=True)]
        writer.emit(
            "Conv",
            grad,
            flipped,
            output=operation.output(0),
            group=geometry.group,
            dilations=list(geometry.dilations),
            pads=[*begin, *end],
        )
        return
    transposed(
        writer,
        geometry,
        grad=grad,
        weights=weights,
        like=image,
        spatial=spatial,
        windows=windows,
        output=operation.output(0),
    )


def _prefers_convolution(
    geometry: Geometry, windows: Sequence[Size], weight_sizes: Sequence[int]
) -> bool:
    """Whether a convolution with the flipped kernel is faster than `ConvTranspose`.

    The latter multiplies matrices image by image. That loses to a convolution where the weights
    outweigh the map, and where a product is not needed at all (one weight per channel).
    """
    fits = geometry.unit_strides and all(
        pad <= dilation * (size - 1)
        for pad, dilation, size in zip(
            (*geometry.begin, *geometry.end),
            geometry.dilations * 2,
            geometry.kernel * 2,
            strict=True,
        )
    )
    if not fits:
        return False
    outputs, inputs = weight_sizes[0], weight_sizes[1] * geometry.group
    if geometry.group > 1:
        return geometry.group == inputs == outputs
    small = None not in windows and math.prod(size or 0 for size in windows) <= _SMALL_MAP
    return geometry.pointwise or (small and min(inputs, outputs) >= _WIDE)


def _flipped(writer: Writer, geometry: Geometry, weights: str, sizes: Sequence[int]) -> str:
    """Write the weights with input and output channels swapped and the kernel reversed."""
    group, rank = geometry.group, geometry.rank
    outputs, inputs = sizes[0] // group, sizes[1]
    volume = math.prod(geometry.kernel)
    if group == 1:
        swapped = writer.transpose(weights, [1, 0, *range(2, rank + 2)])
    else:
        split = writer.reshape(weights, [group, outputs, inputs, volume])
        swapped = writer.transpose(split, [0, 2, 1, 3])
    if volume > 1:
        flat = writer.reshape(swapped, [group * inputs, outputs, volume])
        order = writer.constant(list(range(volume))[::-1])
        swapped = writer.emit("Gather", flat, order, axis=2)
    elif group == 1:
        return swapped
    return writer.reshape(swapped, [group * inputs, outputs, *geometry.kernel])


def transposed(
    writer: Writer,
    geometry: Geometry,
    *,
    grad: str,
    weights: str,
    like: str,
    spatial: Sequence[Size],
    windows: Sequence[Size],
    output: str,
) -> None:
    """Write the transposed convolution that gives the gradient of a map.

    Parameters
    ----------
    writer
        Where nodes go.
    geometry
        Of the convolution.
    grad, weights
        Gradient of the result (N, M, windows...), weights (M, C / group, kernel...).
    like
        A value with the spatial sizes of the map; "" where `spatial` is known.
    spatial, windows
        Spatial sizes of the map and of the gradient.
    output
        Name of the gradient (N, C, spatial...).
    """
    missing: list[int] = []
    end = list(geometry.end)
    known = None not in spatial and None not in windows
    for axis, stride in enumerate(geometry.strides):
        size, count = spatial[axis], windows[axis]
        if size is None or count is None:
            missing.append(stride - 1)  # as much as there can be; what is too much is cut below
            continue
        short = size - geometry.covered(axis, count)
        end[axis] += max(-short, 0)  # windows over the end, as ceil_mode has them
        missing.append(max(short, 0))
    fixed = dataclasses.replace(geometry, end=tuple(end))
    whole = known or geometry.unit_strides
    result = writer.emit(
        "ConvTranspose",
        grad,
        weights,
        output=output if whole else None,
        group=fixed.group,
        strides=list(fixed.strides),
        dilations=list(fixed.dilations),
        pads=fixed.pads,
        output_padding=missing,
    )
    if not whole:
        axes = list(range(2, geometry.rank + 2))
        ends = writer.emit("Shape", like, start=2)
        starts = writer.constant([0] * geometry.rank)
        writer.emit("Slice", result, starts, ends, writer.constant(axes), output=output)


RULES: dict[str, Rule] = {
    "ConvGrad": _conv_grad,
    "ConvTransposeGrad": _conv_transpose_grad,
}
"""How each operator is written in standard ONNX."""
