"""Gradient of a convolution's map, in the form that is fastest for its shape.

All forms add, for each window, the gradient times the kernel to what lies under the window: as a
transposed convolution, as a convolution with the flipped kernel, or as one matrix product over the
batch whose results a second product adds up.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_structdrop.training.lowering.geometry import Geometry
    from onnx_structdrop.training.lowering.writer import Size, Writer

__all__ = ["FORMS", "choose_form", "map_gradient", "transposed"]

_PAIRS = 1 << 10
"""Pairs of an element of the map and a window up to which a product adds up what overlaps."""

_POINTS = 8
"""Elements of a map up to which one product over the batch beats one per image."""


@dataclasses.dataclass(frozen=True)
class _Transposition:
    """What every form reads, as `map_gradient` takes it."""

    writer: Writer
    geometry: Geometry
    grad: str
    weights: str
    like: str
    sizes: Sequence[int]
    spatial: Sequence[Size]
    windows: Sequence[Size]


def map_gradient(
    writer: Writer,
    geometry: Geometry,
    *,
    grad: str,
    weights: str,
    like: str,
    sizes: Sequence[int],
    spatial: Sequence[Size],
    windows: Sequence[Size],
    output: str,
    form: str | None = None,
) -> None:
    """Write the gradient of a convolution's map.

    Parameters
    ----------
    writer
        Where nodes go.
    geometry
        Of the convolution.
    grad, weights
        Gradient of the result (N, M, windows...), weights (M, C / group, kernel...).
    like
        The map.
    sizes
        Of the weights.
    spatial, windows
        Spatial sizes of the map and of the gradient.
    output
        Name of the result (N, C, spatial...).
    form
        One of `FORMS`; the fastest for the shape by default.
    """
    given = _Transposition(writer, geometry, grad, weights, like, sizes, spatial, windows)
    FORMS[form or choose_form(geometry, sizes, spatial, windows)](given, output)


def choose_form(
    geometry: Geometry, sizes: Sequence[int], spatial: Sequence[Size], windows: Sequence[Size]
) -> str:
    """Return the form that is fastest for a shape."""
    single = geometry.pointwise and geometry.unit_strides and not geometry.padded
    if geometry.group > 1:
        alone = geometry.group == sizes[1] * geometry.group == sizes[0]
        return "convolution" if alone and _flips(geometry) else "transposed"
    if None not in (*spatial, *windows):
        elements = math.prod(size or 0 for size in spatial)
        pairs = elements * math.prod(size or 0 for size in windows)
        if elements <= _POINTS if single else pairs <= _PAIRS:
            return "columns"
    return "convolution" if single else "transposed"


def _flips(geometry: Geometry) -> bool:
    """Tell whether a convolution can do it: no strides, and no padding beyond the kernel."""
    return geometry.unit_strides and all(
        pad <= dilation * (size - 1)
        for pad, dilation, size in zip(
            (*geometry.begin, *geometry.end),
            geometry.dilations * 2,
            geometry.kernel * 2,
            strict=True,
        )
    )


def _by_transposition(given: _Transposition, output: str) -> None:
    """Write a transposed convolution: a product per image, whose overlaps it adds up."""
    transposed(
        given.writer,
        given.geometry,
        grad=given.grad,
        weights=given.weights,
        like=given.like,
        spatial=given.spatial,
        windows=given.windows,
        output=output,
    )


def _by_convolution(given: _Transposition, output: str) -> None:
    """Convolve with the flipped kernel: where channels stand alone, or the kernel is a point."""
    geometry = given.geometry
    reach = [
        dilation * (size - 1)
        for dilation, size in zip(geometry.dilations, geometry.kernel, strict=True)
    ]
    begin = [far - pad for far, pad in zip(reach, geometry.begin, strict=True)]
    end = [far - pad for far, pad in zip(reach, geometry.end, strict=True)]
    given.writer.emit(
        "Conv",
        given.grad,
        _flipped(given.writer, geometry, given.weights, given.sizes),
        output=output,
        group=geometry.group,
        dilations=list(geometry.dilations),
        pads=[*begin, *end],
    )


def _by_columns(given: _Transposition, output: str) -> None:
    """Multiply once for the batch: where the weights outweigh the map, so that moving it is cheap.

    It gives, for each tap, what each window adds to the element under it. Which element that is,
    a constant matrix says.
    """
    writer, geometry, sizes, rank = given.writer, given.geometry, given.sizes, given.geometry.rank
    inputs, volume = sizes[1], math.prod(geometry.kernel)
    spatial, windows = ([size or 0 for size in each] for each in (given.spatial, given.windows))
    rows = writer.reshape(given.weights, [sizes[0], inputs * volume])
    columns = writer.transpose(given.grad, [1, 0, *range(2, rank + 2)])
    columns = writer.reshape(columns, [sizes[0], -1])
    added = writer.emit("Gemm", rows, columns, transA=1)
    count = math.prod(windows)
    added = writer.reshape(added, [inputs, volume, -1, count])
    added = writer.reshape(writer.transpose(added, [2, 0, 1, 3]), [-1, volume * count])
    joins = np.ones((1, 1, 1), np.bool_)
    for axis, (size, number) in enumerate(zip(spatial, windows, strict=True)):
        joins = np.kron(joins, geometry.joins(axis, range(size), range(number)))
    places = joins.transpose(2, 1, 0).reshape(volume * count, -1)
    result = writer.emit("MatMul", added, writer.constant(places, writer.dtype(given.grad)))
    writer.reshape(result, [-1, inputs, *spatial], output)


FORMS = {
    "transposed": _by_transposition,
    "convolution": _by_convolution,
    "columns": _by_columns,
}
"""Ways to write it. "convolution" needs unit strides and no padding beyond the kernel, "columns"
fixed sizes and one group."""


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
