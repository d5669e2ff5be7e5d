"""What each operator does to the layout of its data input."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import isfinite
from typing import TYPE_CHECKING

from onnx_structdrop.graph.topology.dataflow import (
    attribute_int,
    attribute_ints,
    constant,
    operators,
    whole_numbers,
)
from onnx_structdrop.graph.topology.layout import (
    OPEN,
    POINT,
    Axis,
    Layout,
    Role,
    as_map,
    merge,
    moved,
    pooled,
    ratio,
    with_channels,
)
from onnx_structdrop.graph.topology.reshape import reshape
from onnx_structdrop.schema import DOMAIN

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_ir as ir

    from onnx_structdrop.graph.topology.known import Known

__all__ = ["CONVOLUTIONS", "POOLS", "PRODUCTS", "transfer"]

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "DeformConv", "FusedConv"})
"""Operators that convolve floating-point maps."""

PRODUCTS = frozenset({"Gemm", "MatMul"})
"""Operators that multiply by a matrix."""

POOLS = frozenset({"AveragePool", "LpPool", "MaxPool"})
"""Operators that pool over a window."""

_GLOBAL_POOLS = frozenset({"GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"})
_NORMS = frozenset({"BatchNormalization", "GroupNormalization", "InstanceNormalization"})
_REDUCTIONS = operators(
    """ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
    ReduceSum ReduceSumSquare"""
)


def transfer(known: Known, node: ir.Node) -> Layout | None:
    """Return the layout of a node's outputs, None where it cannot be told."""
    standard = node.domain in ("", "com.microsoft")
    handler = _HANDLERS.get(node.op_type) if standard else None
    if handler is None:
        return _elementwise(known, node)
    source = known.layout(_input(node, 0))
    if source is None and node.op_type == "Gemm":
        handler = _vector
    if source is None and handler not in (_convolve, reshape, _vector):
        return None
    return handler(known, node, source or Layout(()))


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _elementwise(known: Known, node: ir.Node) -> Layout | None:
    """Combine the inputs: elementwise operators, and all that are not known to change axes."""
    layouts = [known.layout(value) for value in known.inputs(node)]
    merged = merge([layout for layout in layouts if layout is not None])
    if merged is None or len(layouts) != 1 or node.domain in ("", DOMAIN):
        return merged
    return _by_size(known, node, merged, unknown=Fraction(1))


def _by_size(
    known: Known, node: ir.Node, layout: Layout, unknown: Fraction | None = None
) -> Layout:
    """Scale strides by how sizes change from a node's first input to its first output."""
    before, after = known.dims(node.inputs[0]), known.dims(node.outputs[0])
    rank = len(layout.axes)
    if before is None or after is None or not len(before) == len(after) == rank:
        return Layout(tuple(moved(axis, unknown) for axis in layout.axes))
    axes = []
    for axis, old, new in zip(layout.axes, before, after, strict=True):
        change = Fraction(1) if old == new and old is not None else ratio(old, new)
        axes.append(moved(axis, unknown if change is None else change))
    return Layout(tuple(axes))


def _convolve(known: Known, node: ir.Node, source: Layout) -> Layout | None:
    if not source.axes:
        weight = known.dims(_input(node, 1))
        kernel = attribute_ints(node, "kernel_shape") or attribute_ints(node, "strides")
        rank = len(weight) if weight is not None else len(kernel) + 2 if kernel else 0
        if not rank:
            return None
        # Of an input of unknown rank, all that can be said is that strides start here.
        stride = Fraction(1) if known.input_sizes is None else None
        source = Layout((Axis(Role.OPEN, stride),) * rank)
    layout = _window(known, node, source)
    if not layout.is_map:
        return layout
    if known.input_sizes is None:
        known.input_sizes = tuple(axis.size for axis in layout.axes[2:])
    dims = known.dims(node.outputs[0])
    if None not in layout.strides or dims is None or len(dims) != len(layout.axes):
        return layout
    # Fill in strides that operators left unknown, from the sizes of this map and of the input.
    axes = list(layout.axes)
    for index, size in zip(range(2, len(axes)), known.input_sizes, strict=False):
        if axes[index].role is Role.SPATIAL and axes[index].stride is None:
            axes[index] = replace(axes[index], stride=ratio(size, dims[index]), size=size)
    return replace(layout, axes=tuple(axes))


def _pool(known: Known, node: ir.Node, source: Layout) -> Layout | None:
    before, after = known.dims(node.inputs[0]), known.dims(node.outputs[0])
    kernel = attribute_ints(node, "kernel_shape")
    if (
        before is not None
        and after is not None
        and kernel == list(before[2:])
        and min(kernel, default=0) > 3  # smaller ones halve the last map of a small model
        and all(size == 1 for size in after[2:])
    ):
        return _global_pool(known, node, source)
    return _window(known, node, source)


def _window(known: Known, node: ir.Node, source: Layout) -> Layout:
    weight = known.dims(_input(node, 1)) if node.op_type in CONVOLUTIONS else None
    # A filter over many channels cannot run along the channels.
    mixes = weight is not None and len(weight) > 2 and isinstance(weight[1], int) and weight[1] > 1
    layout = as_map(source, channels=mixes)
    count = len(layout.axes) - 2
    strides = attribute_ints(node, "strides") or [1] * count
    attribute = node.attributes.data.get("strides")
    unknown = len(strides) != count or (attribute is not None and attribute.is_ref())
    if not unknown and all(stride == 1 for stride in strides):
        return layout
    axes = list(layout.axes)
    for index in range(2, len(axes)):
        step = None if unknown or strides[index - 2] < 1 else Fraction(strides[index - 2])
        if step is not None and node.op_type in ("ConvTranspose", "MaxUnpool"):
            step = 1 / step
        axes[index] = moved(axes[index], step)
    return Layout(tuple(axes))


def _normalise(known: Known, node: ir.Node, source: Layout) -> Layout | None:
    if source.memory is not None:
        return source
    return as_map(source)


def _global_pool(known: Known, node: ir.Node, source: Layout) -> Layout | None:
    return pooled(as_map(source), range(2, len(source.axes)))


def _reduce(known: Known, node: ir.Node, source: Layout) -> Layout | None:
    rank = len(source.axes)
    axes = _axes(node, rank)
    if axes is None and _input(node, 1) is not None:
        return None
    if axes is None and attribute_int(node, "noop_with_empty_axes", 0):
        return source
    reduced = set(range(rank) if axes is None else axes)
    if attribute_int(node, "keepdims", 1):
        return pooled(source, reduced)
    return Layout(tuple(axis for i, axis in enumerate(source.axes) if i not in reduced))


def _axes(node: ir.Node, rank: int) -> list[int] | None:
    """Return the axes a node works on, given as attribute or as second input."""
    axes = attribute_ints(node, "axes")
    if axes is None:
        axes = whole_numbers(_input(node, 1))
    return None if axes is None else [axis + rank if axis < 0 else axis for axis in axes]


def _squeeze(known: Known, node: ir.Node, source: Layout) -> Layout | None:
    axes = _axes(node, len(source.axes))
    if axes is None:
        dims = known.dims(node.inputs[0])
        if dims is None:
            return None
        axes = [index for index, dim in enumerate(dims) if dim == 1]
    return Layout(tuple(axis for i, axis in enumerate(source.axes) if i not in axes))


def _unsqueeze(known: Known, node: ir.Node, source: Layout) -> Layout | None:
    inserted = _axes(node, 0)
    if inserted is None:
        return None
    rank = len(source.axes) + len(inserted)
    places = {axis + rank if axis < 0 else axis for axis in inserted}
    given = iter(source.axes)
    return Layout(tuple(POINT if i in places else next(given, OPEN) for i in range(rank)))


def _transpose(known: Known, node: ir.Node, source: Layout) -> Layout | None:
    perm = attribute_ints(node, "perm") or list(range(len(source.axes)))[::-1]
    if sorted(perm) != list(range(len(source.axes))):
        return None
    # The axes of a mixed layout come in another order now: nothing undoes that.
    memory = source.memory if perm == sorted(perm) else None
    return Layout(tuple(source.axes[index] for index in perm), memory)


def _vector(known: Known, node: ir.Node, source: Layout) -> Layout | None:
    return Layout((Axis(Role.BATCH), Axis(Role.MIXED)))


def _resize(known: Known, node: ir.Node, source: Layout) -> Layout | None:
    scales = _scales(node)
    if scales:
        rank = len(source.axes)
        chosen = attribute_ints(node, "axes") or list(range(rank))
        changes = {
            axis % rank: _shrinking(scale) for axis, scale in zip(chosen, scales, strict=False)
        }
        one = Fraction(1)
        return Layout(tuple(moved(a, changes.get(i, one)) for i, a in enumerate(source.axes)))
    axes = _by_size(known, node, source).axes
    if any(axis.stride is None for axis in axes if axis.role is Role.SPATIAL):
        axes = _other_map(known, node, axes)
    return Layout(axes)


def _scales(node: ir.Node) -> list[float] | None:
    attribute = node.attributes.get("scales")
    if attribute is not None and not attribute.is_ref():
        try:
            return [float(scale) for scale in attribute.as_floats()]
        except TypeError:
            return None
    return constant(_input(node, 1 if len(node.inputs) == 2 else 2))


def _shrinking(scale: float) -> Fraction | None:
    if not isfinite(scale) or scale <= 0:
        return None
    exact = Fraction(scale).limit_denominator(64)
    return 1 / exact if exact else None


def _other_map(known: Known, node: ir.Node, axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
    """Take the strides of another map, to whose size a decoder resized this one."""
    for shape in node.inputs[1:]:
        for origin in known.origins(shape):
            layout = known.layout(origin)
            if origin is node.inputs[0] or layout is None or len(layout.axes) != len(axes):
                continue
            return tuple(
                replace(mine, stride=other.stride)
                if mine.role is Role.SPATIAL and mine.stride is None
                else mine
                for mine, other in zip(axes, layout.axes, strict=True)
            )
    return axes


def _blocks(known: Known, node: ir.Node, source: Layout) -> Layout | None:
    size = Fraction(max(attribute_int(node, "blocksize", 1), 1))
    change = 1 / size if node.op_type == "DepthToSpace" else size
    axes = as_map(source).axes
    return Layout((*axes[:2], *(moved(axis, change) for axis in axes[2:])))


def _slice(known: Known, node: ir.Node, source: Layout) -> Layout | None:
    steps = whole_numbers(_input(node, 4))
    if steps is None:
        return source
    numbers = whole_numbers(_input(node, 3)) or list(range(len(steps)))
    rank = len(source.axes)
    axes = list(source.axes)
    for index, step in zip(numbers, steps, strict=False):
        if -rank <= index < rank and abs(step) > 1:
            axes[index] = moved(axes[index], Fraction(abs(step)))
    return Layout(tuple(axes), source.memory)


def _gather(known: Known, node: ir.Node, source: Layout) -> Layout | None:
    indices = known.dims(_input(node, 1))
    if indices is None or len(indices) > 1 or not source.axes:
        return None
    axis = attribute_int(node, "axis", 0) % len(source.axes)
    return source if indices else Layout(source.axes[:axis] + source.axes[axis + 1 :])


def _matmul(known: Known, node: ir.Node, source: Layout) -> Layout | None:
    if len(known.inputs(node)) != 1:
        return None
    if len(source.axes) > 2:
        return Layout(source.axes)
    if source.memory is not None and not attribute_int(node, "transA", 0):
        dims = known.dims(node.outputs[0]) or (None,)
        rows = with_channels(source, dims[-1])
        if rows is not None:
            return rows
    return _vector(known, node, source)


def _unknown(known: Known, node: ir.Node, source: Layout) -> Layout | None:
    return None


_HANDLERS: dict[str, Callable[[Known, ir.Node, Layout], Layout | None]] = {
    **dict.fromkeys(CONVOLUTIONS | {"QLinearConv"}, _convolve),
    **dict.fromkeys(POOLS | {"MaxUnpool"}, _pool),
    **dict.fromkeys(_GLOBAL_POOLS, _global_pool),
    **dict.fromkeys(_NORMS, _normalise),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    **dict.fromkeys(("Expand", "GridSample", "Tile"), _by_size),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), _blocks),
    **dict.fromkeys(("Einsum", "RoiAlign"), _unknown),
    **dict.fromkeys(("Gemm", "MatMul"), _matmul),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    "Flatten": _vector,
    "Gather": _gather,
    "Reshape": reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
