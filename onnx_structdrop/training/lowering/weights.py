"""Gradient of a convolution's weights, in the form that is fastest for its shape.

All forms sum, over samples and windows, the gradient of the result times the map under one tap of
the kernel. They differ in what multiplies: one matrix product per tap, one per image, one per row
of taps where each channel stands alone, or a convolution whose kernel is the gradient.
See `benchmarks/stock_training.py` for whole networks.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from onnx_structdrop.training.lowering.bands import band_gradient, has_bands

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_structdrop.training.lowering.geometry import Geometry
    from onnx_structdrop.training.lowering.writer import Operation, Size, Writer

__all__ = ["FORMS", "choose_form", "weight_gradient"]

_PANEL = 16
"""Columns that a matrix product works on at once; fewer cost as much."""

_FEW = 64
"""Columns that are copied side by side sooner than multiplied one tap at a time."""

_SMALL_MAP, _NARROW, _WIDE = 16, 64, 128
"""Windows up to which copies of the map cost little, and up to and from how many channels other
forms than one product per tap gain by that."""

_LARGE_MAP = 256
"""Windows from which products per image are as fast, and round less, as their sums are shorter."""


@dataclasses.dataclass(frozen=True)
class _Product:
    """What every form reads: names of map and gradient, and sizes."""

    writer: Writer
    geometry: Geometry
    image: str
    grad: str
    sizes: Sequence[int]
    spatial: Sequence[Size]
    windows: Sequence[Size]

    @property
    def outputs(self) -> int:
        return self.sizes[0]

    @property
    def inputs(self) -> int:
        return self.sizes[1] * self.geometry.group

    def padded(self, image: str) -> str:
        """Write the map with its padding; the first two axes have none."""
        geometry = self.geometry
        if not geometry.padded:
            return image
        pads = [0, 0, *geometry.begin, 0, 0, *geometry.end]
        return self.writer.emit("Pad", image, self.writer.constant(pads))

    def taps(self, image: str) -> list[str]:
        """Write what of a padded map lies under each tap, one value per window."""
        writer, geometry = self.writer, self.geometry
        if geometry.pointwise and geometry.unit_strides:
            return [image]
        axes = writer.constant(range(2, geometry.rank + 2))
        steps = writer.constant(geometry.strides)
        extent = "" if None not in self.windows else self._extent()
        slices = []
        for tap in geometry.taps:
            starts = [at * far for at, far in zip(tap, geometry.dilations, strict=True)]
            if extent:
                ends = writer.emit("Add", extent, writer.constant(starts))
            else:
                ends = writer.constant(
                    [
                        start + ((count or 1) - 1) * stride + 1
                        for start, count, stride in zip(
                            starts, self.windows, geometry.strides, strict=True
                        )
                    ]
                )
            slices.append(writer.emit("Slice", image, writer.constant(starts), ends, axes, steps))
        return slices

    def _extent(self) -> str:
        """Write how far the windows reach along each axis, where that is known at run time."""
        writer = self.writer
        last = writer.emit("Sub", writer.emit("Shape", self.grad, start=2), writer.constant([1]))
        far = writer.emit("Mul", last, writer.constant(self.geometry.strides))
        return writer.emit("Add", far, writer.constant([1]))

    def swapped(self, value: str) -> str:
        """Write a value with samples and channels in each other's place."""
        return self.writer.transpose(value, [1, 0, *range(2, self.geometry.rank + 2)])


def weight_gradient(
    operation: Operation,
    writer: Writer,
    geometry: Geometry,
    *,
    image: str,
    grad: str,
    sizes: Sequence[int],
    output: str,
    form: str | None = None,
) -> None:
    """Write the gradient of a convolution's weights.

    Parameters
    ----------
    operation
        The node that is replaced.
    writer
        Where nodes go.
    geometry
        Of the convolution.
    image, grad
        Map (N, C, spatial...) and gradient of the result (N, M, windows...).
    sizes
        Of the weights (M, C / group, kernel...).
    output
        Name of the result.
    form
        One of `FORMS`; the fastest for the shape by default.
    """
    spatial, windows = (writer.shape(operation, name)[2:] for name in (image, grad))
    product = _Product(writer, geometry, image, grad, sizes, spatial, windows)
    FORMS[form or choose_form(geometry, sizes, spatial, windows)](product, output)


def choose_form(
    geometry: Geometry, sizes: Sequence[int], spatial: Sequence[Size], windows: Sequence[Size]
) -> str:
    """Return the form that is fastest for a shape."""
    outputs, inputs = sizes[0], sizes[1] * geometry.group
    volume = math.prod(geometry.kernel)
    if geometry.group > 1:
        alone = geometry.group == inputs == outputs and volume > 1
        fixed = None not in (*spatial, *windows)
        bands = alone and fixed and has_bands(geometry, _known(spatial), _known(windows))
        return "bands" if bands else "taps"
    positions = None if None in windows else math.prod(_known(windows))
    if volume == 1:
        # Per image means a sum over images of products as large as the weights.
        heavy = positions is not None and outputs * inputs > positions * (outputs + inputs)
        return "taps" if heavy else "images"
    small = positions is not None and positions <= _SMALL_MAP
    if inputs * volume <= _FEW or (small and min(inputs, outputs) >= _WIDE):
        return "columns"
    if small and max(inputs, outputs) <= _NARROW:  # it has the fewest nodes
        return "convolution"
    if 2 * inputs * _panels(volume) <= volume * _panels(inputs):
        return "convolution"
    return "images" if positions is not None and positions >= _LARGE_MAP else "taps"


def _known(sizes: Sequence[Size]) -> list[int]:
    """Return sizes, all of which are known."""
    return [size for size in sizes if size is not None]


def _panels(columns: int) -> int:
    return -(-columns // _PANEL) * _PANEL


def _by_taps(product: _Product, output: str) -> None:
    """One product per tap over all samples: (M, N P) times (N P, C)."""
    writer, geometry, sizes = product.writer, product.geometry, product.sizes
    group = geometry.group
    outputs, inputs = sizes[0] // group, sizes[1]
    image = product.padded(product.swapped(product.image))
    rows = writer.reshape(product.swapped(product.grad), _grouped(group, outputs))
    parts = []
    for piece in product.taps(image):
        columns = writer.reshape(piece, _grouped(group, inputs))
        if group == 1:
            parts.append(writer.emit("Gemm", rows, columns, transB=1))
        else:
            parts.append(writer.emit("MatMul", rows, writer.transpose(columns, [0, 2, 1])))
    _joined(writer, parts, [sizes[0], inputs], sizes, output)


def _grouped(group: int, channels: int) -> list[int]:
    return [channels, -1] if group == 1 else [group, channels, -1]


def _joined(
    writer: Writer, parts: Sequence[str], each: Sequence[int], sizes: Sequence[int], output: str
) -> None:
    """Write the weights from one matrix (M, C / group) per tap."""
    if len(parts) == 1:
        writer.reshape(parts[0], sizes, output)
        return
    stacked = writer.reshape(writer.emit("Concat", *parts, axis=0), [len(parts), *each])
    writer.reshape(writer.transpose(stacked, [1, 2, 0]), sizes, output)


def _by_columns(product: _Product, output: str) -> None:
    """One product for all taps, copied side by side: for small maps and few channels."""
    writer, sizes = product.writer, product.sizes
    outputs, inputs = sizes[0], sizes[1]
    image = product.padded(product.swapped(product.image))
    rows = writer.reshape(product.swapped(product.grad), [outputs, -1])
    pieces = [writer.reshape(piece, [inputs, 1, -1]) for piece in product.taps(image)]
    columns = writer.emit("Concat", *pieces, axis=1) if len(pieces) > 1 else pieces[0]
    columns = writer.emit("Flatten", columns, axis=2)
    writer.reshape(writer.emit("Gemm", rows, columns, transB=1), sizes, output)


def _by_images(product: _Product, output: str) -> None:
    """One product per tap and image, summed over images: where maps are large."""
    writer, sizes = product.writer, product.sizes
    rows = writer.reshape(product.grad, [0, product.outputs, -1])
    parts = []
    for piece in product.taps(product.padded(product.image)):
        columns = writer.reshape(piece, [0, product.inputs, -1])
        products = writer.emit("MatMul", rows, writer.transpose(columns, [0, 2, 1]))
        parts.append(writer.total(products, [0], keep=False))
    _joined(writer, parts, [sizes[0], sizes[1]], sizes, output)


def _by_bands(product: _Product, output: str) -> None:
    """Products of whole rows, see `band_gradient`: where each channel has weights of its own."""
    band_gradient(
        product.writer,
        product.geometry,
        image=product.swapped(product.image),
        grad=product.swapped(product.grad),
        spatial=_known(product.spatial),
        windows=_known(product.windows),
        output=output,
    )


def _by_convolution(product: _Product, output: str) -> None:
    """Convolve over the samples, the gradient as kernel: for few input channels."""
    writer, geometry = product.writer, product.geometry
    result = writer.emit(
        "Conv",
        product.swapped(product.image),
        product.swapped(product.grad),
        strides=list(geometry.dilations),
        dilations=list(geometry.strides),
        pads=geometry.pads,
    )
    if not geometry.unit_strides:  # the last windows may end before the map does
        axes = writer.constant(range(2, geometry.rank + 2))
        starts = writer.constant([0] * geometry.rank)
        result = writer.emit("Slice", result, starts, writer.constant(geometry.kernel), axes)
    writer.transpose(result, [1, 0, *range(2, geometry.rank + 2)], output)


FORMS = {
    "taps": _by_taps,
    "columns": _by_columns,
    "images": _by_images,
    "bands": _by_bands,
    "convolution": _by_convolution,
}
"""Ways to write it. "images", "columns" and "convolution" need one group, "bands" fixed sizes and
as many groups as channels, see `has_bands`."""
