"""What a Reshape does to the layout of a map: it merges axes, splits them, or puts them back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_structdrop.graph.topology.dataflow import attribute_int, is_op, operators, whole_numbers
from onnx_structdrop.graph.topology.layout import MIXED, Axis, Layout, Role, regroup

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnx_structdrop.graph.topology.known import Known
    from onnx_structdrop.graph.topology.shapes import Dim

__all__ = ["reshape"]

# What may stand between one entry of a shape and the Shape that it comes from.
_ONE_NUMBER = operators("Cast Identity Reshape Squeeze Unsqueeze")
_SCALING = frozenset({"Div", "Mul"})


def reshape(known: Known, node: ir.Node, source: Layout) -> Layout | None:
    """Return the layout of a Reshape's output, None where it cannot be told."""
    before, after = known.dims(node.inputs[0]), known.dims(node.outputs[0])
    if after is None:
        target = whole_numbers(_target_of(node))
        after = None if target is None else _target(before, target)
    if after is None or before is None or not len(before) == len(source.axes) > 0:
        return _like_origin(known, node, None if after is None else len(after))
    layout = regroup(source, before, after)
    if not layout.is_map and None in after:
        return _like_origin(known, node, len(after)) or layout
    return layout


def _target(before: tuple[Dim, ...] | None, target: list[int]) -> tuple[Dim, ...]:
    """Return the shape that a constant Reshape target makes, as far as it can be told."""
    sizes: list[Dim] = []
    for index, number in enumerate(target):
        if number == 0 and before is not None and index < len(before):
            sizes.append(before[index])
        else:
            sizes.append(number if number > 0 else None)
    return tuple(sizes)


def _target_of(node: ir.Node) -> ir.Value | None:
    return node.inputs[1] if len(node.inputs) > 1 else None


def _like_origin(known: Known, node: ir.Node, rank: int | None) -> Layout | None:
    """Return the layout of the map whose shape a shape input was computed from."""
    named = _from_sizes(known, node)
    if named is not None:
        return named
    for origin in known.origins(_target_of(node)):
        layout = known.layout(origin)
        if layout is not None and layout.is_map and rank in (None, len(layout.axes)):
            return layout
    return None


def _from_sizes(known: Known, node: ir.Node) -> Layout | None:
    """Return the layout that a target names which is put together from the sizes of a map.

    Tokens are made a map again, channels first or last, by ``reshape(B, H, W, C)``.
    """
    target = _target_of(node)
    concat = None if target is None else target.producer()
    if concat is None or not is_op(concat, "Concat"):
        return None
    sizes = [_size_of(value) for value in concat.inputs]
    for size in sizes:
        layout = None if size is None else known.layout(size[0])
        if size is None or layout is None or not layout.is_map:
            continue
        count = len(layout.axes)
        places = [s[1] % count if s is not None and s[0] is size[0] else None for s in sizes]
        if any(
            places.count(index) != 1
            for index, axis in enumerate(layout.axes)
            if axis.role is Role.SPATIAL
        ):
            continue
        axes = [MIXED if place is None else layout.axes[place] for place in places]
        if axes[0].role is not Role.SPATIAL:
            axes[0] = Axis(Role.BATCH)
        rest = [index for index, axis in enumerate(axes) if axis is MIXED]
        if len(rest) == 1 and not any(axis.role is Role.CHANNEL for axis in axes):
            axes[rest[0]] = Axis(Role.CHANNEL)
        return Layout(tuple(axes))
    return None


def _size_of(value: ir.Value | None) -> tuple[ir.Value, int] | None:
    """Return the value and the axis whose size an entry of a shape is."""
    axis: int | None = None
    for _ in range(8):
        node = None if value is None else value.producer()
        if node is None or not node.inputs:
            return None
        if is_op(node, "Shape"):
            first = attribute_int(node, "start", 0)
            if axis is None and attribute_int(node, "end", 0) != first + 1:
                return None
            source = node.inputs[0]
            return None if source is None else (source, (axis or 0) + first)
        if is_op(node, "Gather") and axis is None:
            axis = _whole(node, 1)
            if axis is None:
                return None
        elif is_op(node, "Slice") and axis is None:
            axis, end = _whole(node, 1), _whole(node, 2)
            if axis is None or end != axis + 1:
                return None
        elif not (is_op(node, _ONE_NUMBER) or (is_op(node, _SCALING) and _whole(node, 1) == 1)):
            return None
        value = node.inputs[0]
    return None


def _whole(node: ir.Node, index: int) -> int | None:
    """Return an input that is one constant whole number, None if it is something else."""
    numbers = whole_numbers(node.inputs[index]) if index < len(node.inputs) else None
    return numbers[0] if numbers is not None and len(numbers) == 1 else None
