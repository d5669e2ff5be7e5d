"""Gradient of a depthwise convolution's weights, in a few large matrix products.

Each weight is the sum, over samples and windows, of the gradient times what of the map lies under
the weight's tap. A matrix product of a channel's map with its gradient pairs every column of the
one with every column of the other. Those that a tap joins are a line of the result, and a second
product adds up the lines. This computes more than is needed, and yet is faster than a pass over
the map for each tap, since it moves less. The padding of the map is never written.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from onnx_structdrop.training.lowering.geometry import Geometry
    from onnx_structdrop.training.lowering.writer import Writer

__all__ = ["band_gradient", "has_bands"]

_PAIRS = 1 << 12
"""Pairs of an element and a window up to which one product takes the last two axes together."""

_TILE = 32
"""Windows of the last axis in one product, which grows with the square of them."""

Range = tuple[int, int]


def has_bands(geometry: Geometry, spatial: Sequence[int], windows: Sequence[int]) -> bool:
    """Tell whether the form fits: each tap of the sliced axes meets the map in some window."""
    return all(
        _meeting(geometry, axis, tap, spatial[axis], windows[axis]) is not None
        for axis in range(_sliced(geometry, spatial, windows))
        for tap in range(geometry.kernel[axis])
    )


def band_gradient(
    writer: Writer,
    geometry: Geometry,
    *,
    image: str,
    grad: str,
    spatial: Sequence[int],
    windows: Sequence[int],
    output: str,
) -> None:
    """Write the gradient of the weights of a convolution whose groups are single channels.

    Parameters
    ----------
    writer
        Where nodes go.
    geometry
        Of the convolution.
    image, grad
        Map (C, N, spatial...) and gradient of the result (C, N, windows...), channels first.
    spatial, windows
        Spatial sizes of both, for which `has_bands` holds.
    output
        Name of the result (C, 1, kernel...).
    """
    channels, last = geometry.group, geometry.rank - 1
    sliced = _sliced(geometry, spatial, windows)
    strips, lines = [], []
    for tile in _tiles(windows[last], whole=sliced < last):
        under = _under(geometry, spatial[last], tile)
        strip = _cut(writer, image, spatial, {last: under})
        factor = _cut(writer, grad, windows, {last: tile})
        areas = ([*spatial[sliced:last], under[1] - under[0]],
                 [*windows[sliced:last], tile[1] - tile[0]])  # fmt: skip
        pairs = math.prod(map(math.prod, areas))
        products = []
        for rows in _rows(geometry, spatial, windows, sliced):
            over = {axis: pair[0] for axis, pair in rows.items()}
            beneath = {axis: pair[1] for axis, pair in rows.items()}
            left = _cut(writer, strip, spatial, beneath, geometry.strides)
            left = writer.reshape(left, [channels, -1, math.prod(areas[0])])
            right = _cut(writer, factor, windows, over)
            right = writer.reshape(right, [channels, -1, math.prod(areas[1])])
            product = writer.emit("MatMul", writer.transpose(left, [0, 2, 1]), right)
            products.append(writer.reshape(product, [channels, 1, pairs]))
        strips.append(_joined(writer, products, 1))
        lines.append(_lines(geometry, spatial, windows, sliced, under, tile))
    chosen = writer.constant(np.concatenate(lines), writer.dtype(grad))
    sums = writer.emit("MatMul", _joined(writer, strips, 2), chosen)
    writer.reshape(sums, [channels, 1, *geometry.kernel], output)


def _sliced(geometry: Geometry, spatial: Sequence[int], windows: Sequence[int]) -> int:
    """Return how many axes come first whose taps have a product each."""
    together = math.prod(spatial[-2:]) * math.prod(windows[-2:]) <= _PAIRS
    return max(geometry.rank - (2 if together else 1), 0)


def _tiles(count: int, *, whole: bool) -> list[Range]:
    """Split windows into tiles of nearly equal size."""
    number = 1 if whole else -(-count // _TILE)
    bounds = [count * index // number for index in range(number + 1)]
    return list(itertools.pairwise(bounds))


def _under(geometry: Geometry, size: int, tile: Range) -> Range:
    """Return what of the map's last axis lies under a tile of windows; one element at least."""
    stride, reach = geometry.strides[-1], geometry.dilations[-1] * (geometry.kernel[-1] - 1)
    start = min(max(tile[0] * stride - geometry.begin[-1], 0), size - 1)
    stop = min((tile[1] - 1) * stride - geometry.begin[-1] + reach + 1, size)
    return start, max(stop, start + 1)


def _meeting(
    geometry: Geometry, axis: int, tap: int, size: int, count: int
) -> tuple[Range, Range] | None:
    """Return the windows in which a tap lies on the map, and where it lies; None if in none."""
    stride = geometry.strides[axis]
    offset = tap * geometry.dilations[axis] - geometry.begin[axis]
    first = max(-(offset // stride), 0)
    last = min((size - 1 - offset) // stride, count - 1)
    if first > last:
        return None
    return (first, last + 1), (first * stride + offset, last * stride + offset + 1)


def _rows(
    geometry: Geometry, spatial: Sequence[int], windows: Sequence[int], sliced: int
) -> Iterator[dict[int, tuple[Range, Range]]]:
    """Yield, for each tap of the sliced axes, where windows and map meet on each of them."""
    for taps in itertools.product(*map(range, geometry.kernel[:sliced])):
        meetings = {}
        for axis, tap in enumerate(taps):
            meeting = _meeting(geometry, axis, tap, spatial[axis], windows[axis])
            if meeting is not None:  # `has_bands`
                meetings[axis] = meeting
        yield meetings


def _cut(
    writer: Writer,
    value: str,
    sizes: Sequence[int],
    ranges: Mapping[int, Range],
    strides: Sequence[int] = (),
) -> str:
    """Write a slice of spatial axes, where it is not the whole."""
    axes = [
        axis
        for axis, (start, stop) in ranges.items()
        if (start, stop) != (0, sizes[axis]) or (strides and strides[axis] > 1)
    ]
    if not axes:
        return value
    starts, stops = zip(*(ranges[axis] for axis in axes), strict=True)
    steps = [strides[axis] if strides else 1 for axis in axes]
    places = [axis + 2 for axis in axes]
    return writer.emit("Slice", value, *map(writer.constant, (starts, stops, places, steps)))


def _joined(writer: Writer, values: Sequence[str], axis: int) -> str:
    return writer.emit("Concat", *values, axis=axis) if len(values) > 1 else values[0]


def _lines(
    geometry: Geometry,
    spatial: Sequence[int],
    windows: Sequence[int],
    sliced: int,
    under: Range,
    tile: Range,
) -> NDArray[np.bool_]:
    """Return which pairs of an element and a window each tap joins, as (pairs, taps)."""
    result = np.ones((1, 1, 1), np.bool_)
    for axis in range(sliced, geometry.rank):
        whole = axis < geometry.rank - 1
        elements = range(spatial[axis]) if whole else range(*under)
        over = range(windows[axis]) if whole else range(*tile)
        result = np.kron(result, geometry.joins(axis, elements, over))
    return result.reshape(-1, result.shape[2])
