"""Shapes of random values, which exporters seldom write down."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnx_structdrop.graph.proofs.intervals import SAMPLES
from onnx_structdrop.graph.proofs.sizes import Dims, broadcast, rows

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_ir as ir

    from onnx_structdrop.graph.proofs.parameters import Parameters

__all__ = ["axes_of", "joined", "moved", "padded", "pooled", "reduced"]

_FAR = 1 << 40


def joined(x: Dims | None, y: Dims | None) -> Dims | None:
    """Return the shape that two shapes broadcast to, or None where it is not known."""
    return None if x is None or y is None else broadcast([x, y])


def axes_of(node: ir.Node, parameters: Parameters) -> list[int] | None:
    """Return the axes of a node, given as an attribute or as its second input."""
    attribute = node.attributes.get("axes")
    if attribute is not None:
        return list(attribute.as_ints())
    return _list(node, 1, parameters)


def moved(node: ir.Node, dims: Dims | None, parameters: Parameters) -> Dims | None:
    """Return the shape after a node that moves or selects positions."""
    rule = _MOVES.get(node.op_type)
    if dims is not None and rule is not None:
        try:
            found = rule(node, dims, parameters)
        except (IndexError, ValueError, TypeError):
            found = None  # The node does not fit its input; runtimes will refuse it.
        if found is not None:
            return found
    if node.op_type == "Reshape":
        target = _rows(node, 1, parameters)
        if target is not None and (np.stack(target) > 0).all():
            return target
    return parameters.dims(node.outputs[0])


def padded(node: ir.Node, dims: Dims | None, parameters: Parameters) -> Dims | None:
    """Return the shape after a Pad."""
    attribute = node.attributes.get("pads") or node.attributes.get("paddings")
    pads = list(attribute.as_ints()) if attribute is not None else _list(node, 1, parameters)
    if dims is None or pads is None or len(pads) != 2 * len(dims):
        return parameters.dims(node.outputs[0])
    return tuple(size + pads[axis] + pads[axis + len(dims)] for axis, size in enumerate(dims))


def pooled(node: ir.Node, dims: Dims | None, parameters: Parameters) -> Dims | None:
    """Return the shape after a pool of stride 1; other pools are left to shape inference."""
    kernel, given_pads = node.attributes.get("kernel_shape"), node.attributes.get("pads")
    steady = all(
        given is None or set(given.as_ints()) == {1}
        for given in (node.attributes.get("strides"), node.attributes.get("dilations"))
    )
    automatic = node.attributes.get("auto_pad")
    padding = "NOTSET" if automatic is None else automatic.as_string()
    if dims is None or not steady or kernel is None:
        return parameters.dims(node.outputs[0])
    if padding.startswith("SAME"):
        return dims
    sizes = list(kernel.as_ints())
    pads = [0] * (2 * len(sizes))
    if given_pads is not None and padding != "VALID":
        pads = list(given_pads.as_ints())
    lead = len(dims) - len(sizes)
    spatial = tuple(
        dims[lead + axis] + pads[axis] + pads[axis + len(sizes)] - size + 1
        for axis, size in enumerate(sizes)
    )
    return (*dims[:lead], *spatial)


def reduced(node: ir.Node, dims: Dims, axes: list[int] | None) -> Dims:
    """Return the shape after a reduction; no axes means all."""
    every = range(len(dims))
    gone = {axis % len(dims) for axis in axes} if axes else set(every)
    attribute = node.attributes.get("keepdims")
    keep = attribute is None or bool(attribute.as_int())
    return tuple(
        _one() if axis in gone else dims[axis] for axis in every if keep or axis not in gone
    )


def _one() -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.ones(SAMPLES, np.int64)


def _list(node: ir.Node, index: int, parameters: Parameters) -> list[int] | None:
    """Return a constant list of integers that is an input of a node."""
    value = node.inputs[index] if index < len(node.inputs) else None
    arrays = parameters.arrays(value)
    if arrays is None or len(arrays) != 1:
        return None
    return [int(number) for number in arrays[0].reshape(-1)]


def _rows(node: ir.Node, index: int, parameters: Parameters) -> Dims | None:
    """Return a shape that is an input of a node."""
    value = node.inputs[index] if index < len(node.inputs) else None
    return rows(parameters.arrays(value))


def _transposed(node: ir.Node, dims: Dims, _parameters: Parameters) -> Dims | None:
    attribute = node.attributes.get("perm")
    order = reversed(range(len(dims))) if attribute is None else attribute.as_ints()
    return tuple(dims[axis] for axis in order)


def _expanded(node: ir.Node, dims: Dims, parameters: Parameters) -> Dims | None:
    target = _rows(node, 1, parameters)
    return None if target is None else broadcast([dims, target])


def _unsqueezed(node: ir.Node, dims: Dims, parameters: Parameters) -> Dims | None:
    axes = axes_of(node, parameters)
    if axes is None:
        return None
    result = list(dims)
    for axis in sorted(axis % (len(dims) + len(axes)) for axis in axes):
        result.insert(axis, _one())
    return tuple(result)


def _squeezed(node: ir.Node, dims: Dims, parameters: Parameters) -> Dims | None:
    axes = axes_of(node, parameters)
    if axes is None:
        return None
    gone = {axis % len(dims) for axis in axes}
    return tuple(size for axis, size in enumerate(dims) if axis not in gone)


def _sliced(node: ir.Node, dims: Dims, parameters: Parameters) -> Dims | None:
    lists = []
    for index, name in enumerate(("starts", "ends", "axes", "steps"), start=1):
        attribute = node.attributes.get(name)
        given = list(attribute.as_ints()) if attribute is not None else None
        lists.append(given if given is not None else _list(node, index, parameters))
    starts, ends, axes, steps = lists
    if starts is None or ends is None:
        return None
    if axes is None or steps is None:
        # Absent, or not known?
        absent = [len(node.inputs) <= index or node.inputs[index] is None for index in (3, 4)]
        if (axes is None and not absent[0]) or (steps is None and not absent[1]):
            return None
    result = list(dims)
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = axes[place] if axes is not None else place
        step = steps[place] if steps is not None else 1
        if step != 1:
            return None
        size = result[axis]
        first = np.clip(np.where(start < 0, start + size, start), 0, size)
        last = np.clip(np.where(end < 0, max(end, -_FAR) + size, min(end, _FAR)), 0, size)
        result[axis] = np.maximum(last - first, 0)
    return tuple(result)


def _reshaped(node: ir.Node, dims: Dims, parameters: Parameters) -> Dims | None:
    target = _rows(node, 1, parameters)
    if target is None:
        return None
    zero = node.attributes.get("allowzero")
    copies = zero is None or not zero.as_int()
    result = [
        dims[axis] if copies and (size == 0).all() else size for axis, size in enumerate(target)
    ]
    open_axes = [axis for axis, size in enumerate(result) if (size == -1).all()]
    if len(open_axes) == 1:
        rest, whole = np.ones(SAMPLES, np.int64), np.ones(SAMPLES, np.int64)
        for axis, size in enumerate(result):
            rest = rest if axis == open_axes[0] else rest * size
        for size in dims:
            whole = whole * size
        result[open_axes[0]] = whole // rest
    return tuple(result)


_MOVES: dict[str, Callable[[ir.Node, Dims, Parameters], Dims | None]] = {
    "Expand": _expanded,
    "Identity": lambda _node, dims, _parameters: dims,
    "Reshape": _reshaped,
    "Slice": _sliced,
    "Squeeze": _squeezed,
    "Transpose": _transposed,
    "Unsqueeze": _unsqueezed,
}
