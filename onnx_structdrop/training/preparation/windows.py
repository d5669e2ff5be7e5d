"""Sliding windows: explicit padding, averages as convolutions, transposed convolutions as products.

In 1.19.2 the gradient of Conv ignores ``auto_pad`` SAME, that of AveragePool divides by zero where
a size is free (the process dies) and ignores dilations, and ConvTranspose has no gradient kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnx_structdrop.training.preparation.editing import attribute, refuse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_structdrop.training.preparation.editing import Editing, Emitter

__all__ = ["rewrite_windows"]


def rewrite_windows(editing: Editing) -> None:
    """Rewrite Conv with automatic padding, AveragePool, GlobalMaxPool and ConvTranspose.

    Raises
    ------
    UnsupportedModelError
        If a size is needed and unknown, such as one that is max-pooled, or transposed windows
        overlap.
    """
    for node in list(editing.graph):
        if node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type == "Conv":
            _explicit_padding(editing, node)
        elif node.op_type == "MaxPool" and attribute(node, "storage_order", 0):
            _row_major(editing, node)
        elif node.op_type == "AveragePool":
            _average(editing, node)
        elif node.op_type == "GlobalMaxPool":
            _global_max(editing, node)
        elif node.op_type == "ConvTranspose":
            _transposed(editing, node)


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _spatial(editing: Editing, node: ir.Node) -> list[int | None]:
    dims = editing.dims(node.inputs[0]) or editing.dims(node.outputs[0])
    if dims is None:
        raise refuse(node, "the rank of its data is unknown; run onnx.shape_inference first")
    known = editing.dims(node.inputs[0]) or (None,) * len(dims)
    return [size if isinstance(size, int) else None for size in known[2:]]


def _kernel(editing: Editing, node: ir.Node) -> list[int]:
    kernel = attribute(node, "kernel_shape", None)
    if kernel is not None:
        return [int(size) for size in kernel]
    dims = editing.dims(node.inputs[1]) if len(node.inputs) > 1 else None
    if dims is None:
        raise refuse(node, "the size of its kernel is unknown")
    return [int(size or 0) for size in dims[2:]]


def _pads(editing: Editing, node: ir.Node) -> list[int]:
    """Return explicit padding: the begins of all axes, then the ends."""
    spatial = _spatial(editing, node)
    kernel = _kernel(editing, node)
    rank = len(kernel)
    mode = _text(attribute(node, "auto_pad", "NOTSET"))
    if mode == "VALID":
        return [0] * (2 * rank)
    if mode == "NOTSET":
        return [int(pad) for pad in attribute(node, "pads", [0] * (2 * rank))]
    strides = attribute(node, "strides", [1] * rank)
    dilations = attribute(node, "dilations", [1] * rank)
    begins, ends = [], []
    for size, width, stride, dilation in zip(spatial, kernel, strides, dilations, strict=True):
        reach = (width - 1) * dilation + 1
        if stride == 1:
            total = reach - 1
        elif size is None:
            raise refuse(node, f"auto_pad {mode} on data of unknown size; export static sizes")
        else:
            total = max((-(-size // stride) - 1) * stride + reach - size, 0)
        small, large = total // 2, total - total // 2
        begins.append(large if mode == "SAME_LOWER" else small)
        ends.append(small if mode == "SAME_LOWER" else large)
    return begins + ends


def _explicit_padding(editing: Editing, node: ir.Node) -> None:
    mode = _text(attribute(node, "auto_pad", "NOTSET"))
    if mode == "NOTSET":
        return
    node.attributes["pads"] = ir.AttrInt64s("pads", _pads(editing, node))
    del node.attributes["auto_pad"]
    editing.note(node, f"auto_pad {mode} written as pads", "its gradient ignores auto_pad")


def _row_major(editing: Editing, node: ir.Node) -> None:
    if len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
        raise refuse(node, "its gradient takes indices in row-major order, the model in the other")
    del node.attributes["storage_order"]
    editing.note(node, "storage_order removed", "nothing reads the indices but the gradient, "
                 "which takes them in the other order")  # fmt: skip


def _average(editing: Editing, node: ir.Node) -> None:
    """Write an average as a convolution of each channel with ones, over a count."""
    data = node.inputs[0]
    dims = editing.dims(data)
    if data is None or dims is None or not isinstance(dims[1], int):
        raise refuse(node, "its number of channels is unknown; run onnx.shape_inference first")
    channels, spatial, kernel = dims[1], _spatial(editing, node), _kernel(editing, node)
    rank = len(kernel)
    strides = [int(s) for s in attribute(node, "strides", [1] * rank)]
    dilations = [int(d) for d in attribute(node, "dilations", [1] * rank)]
    pads = _pads(editing, node)
    include = bool(attribute(node, "count_include_pad", 0))
    extra = [0] * rank
    if attribute(node, "ceil_mode", 0):
        if any(size is None for size in spatial):
            raise refuse(node, "ceil_mode on data of unknown size; export static sizes")
        extra = _ceil_extra([int(s or 0) for s in spatial], kernel, strides, dilations, pads)
    emit = editing.emit(node)
    window = {"strides": strides, "dilations": dilations, "kernel_shape": kernel}
    padding = [*pads[:rank], *(end + more for end, more in zip(pads[rank:], extra, strict=True))]
    uneven = any(extra) or (any(pads) and not include)
    value = 1.0 if uneven else 1.0 / float(np.prod(kernel))
    ones = np.full([channels, 1, *kernel], value)
    result = emit(
        "Conv", data, emit.constant(ones, "window"), pads=padding, group=channels, **window
    )
    if uneven:
        result = emit("Div", result, _counts(emit, data, spatial, include, pads, padding, window))
    editing.replace(node, result)
    editing.note(node, "AveragePool written as a convolution",
                 "its gradient kernel ends the process where the batch size is free")  # fmt: skip


def _ceil_extra(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
) -> list[int]:
    """Return what more has to be padded at the ends so that the last window is complete."""
    rank, extra = len(kernel), []
    for axis, (size, width, stride, dilation) in enumerate(
        zip(sizes, kernel, strides, dilations, strict=True)
    ):
        reach = (width - 1) * dilation + 1
        padded = size + pads[axis] + pads[rank + axis]
        count = -(-(padded - reach) // stride) + 1
        if (count - 1) * stride >= size + pads[axis]:
            count -= 1  # A window that starts in the padding at the end is left out.
        extra.append(max((count - 1) * stride + reach - padded, 0))
    return extra


def _counts(
    emit: Emitter,
    data: ir.Value,
    spatial: Sequence[int | None],
    include: bool,
    pads: Sequence[int],
    padding: Sequence[int],
    window: dict[str, list[int]],
) -> ir.Value:
    """Return how many elements each window averages over."""
    rank = len(spatial)
    if include:
        sizes = [
            int(size or 0) + pads[axis] + pads[rank + axis] for axis, size in enumerate(spatial)
        ]
        inside = emit.constant(np.ones([1, 1, *sizes]), "inside")
        padding = [0] * rank + [padding[rank + axis] - pads[rank + axis] for axis in range(rank)]
    elif all(size is not None for size in spatial):
        inside = emit.constant(np.ones([1, 1, *(int(s or 0) for s in spatial)]), "inside")
    else:
        shape = emit(
            "Slice",
            emit("Shape", data),
            emit.constant([2], "start", "int64"),
            emit.constant([2 + rank], "end", "int64"),
        )
        shape = emit("Concat", emit.constant([1, 1], "batch", "int64"), shape, axis=0)
        inside = emit("Expand", emit.constant(np.ones([1] * (rank + 2)), "inside"), shape)
    ones = emit.constant(np.ones([1, 1, *window["kernel_shape"]]), "window")
    return emit("Conv", inside, ones, pads=list(padding), **window)


def _global_max(editing: Editing, node: ir.Node) -> None:
    data, spatial = node.inputs[0], _spatial(editing, node)
    if any(size is None for size in spatial):
        raise refuse(node, "GlobalMaxPool has no gradient, and MaxPool needs static sizes")
    emit = editing.emit(node)
    editing.replace(node, emit("MaxPool", data, kernel_shape=[int(size or 0) for size in spatial]))
    editing.note(node, "GlobalMaxPool written as MaxPool", "no gradient in 1.19.2")


def _transposed(editing: Editing, node: ir.Node) -> None:
    """Write a transposed convolution whose windows do not overlap as a convolution.

    Each input position then makes a block of outputs of its own: a 1x1 convolution makes all of
    a block's numbers as channels, which are moved into place.
    """
    data, weight = node.inputs[0], node.inputs[1]
    dims, sizes = editing.dims(data), editing.dims(weight)
    if data is None or weight is None or dims is None or sizes is None:
        raise refuse(node, "its shapes are unknown; run onnx.shape_inference first")
    if not all(isinstance(size, int) for size in (dims[1], *sizes)):
        raise refuse(node, "its number of channels is unknown; run onnx.shape_inference first")
    kernel = [int(size or 0) for size in sizes[2:]]
    rank = len(kernel)
    plain = (
        list(attribute(node, "strides", [1] * rank)) == kernel
        and not any(attribute(node, "pads", [0] * rank))
        and not any(attribute(node, "output_padding", [0] * rank))
        and all(d == 1 for d in attribute(node, "dilations", [1] * rank))
        and "output_shape" not in node.attributes
        and _text(attribute(node, "auto_pad", "NOTSET")) in ("NOTSET", "VALID")
    )
    if not plain:
        raise refuse(
            node, "ConvTranspose has no gradient, and its windows overlap or are padded "
            "(kernel equal to stride and no padding can be rewritten); use Resize and Conv"
        )  # fmt: skip
    groups, incoming = int(attribute(node, "group", 1)), int(sizes[0] or 0)
    per_group = int(sizes[1] or 0)
    emit = editing.emit(node)
    block = int(np.prod(kernel))
    # (in, out / g, *k) as the kernel of a 1x1 convolution: (g * out / g * k, in / g, 1, ...)
    grouped = emit.reshape(weight, [groups, incoming // groups, per_group * block])
    turned = emit("Transpose", grouped, perm=[0, 2, 1])
    outgoing = groups * per_group
    pointwise = emit.reshape(turned, [outgoing * block, incoming // groups, *[1] * rank])
    mixed = emit("Conv", data, pointwise, kernel_shape=[1] * rank, group=groups)
    result = _interleave(editing, emit, node, mixed, outgoing, kernel)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        result = emit("Add", result, emit.reshape(node.inputs[2], [1, -1, *[1] * rank]))
    editing.replace(node, result)
    editing.note(node, "ConvTranspose written as a 1x1 convolution and a shuffle",
                 "no gradient kernel in 1.19.2")  # fmt: skip


def _interleave(
    editing: Editing,
    emit: Emitter,
    node: ir.Node,
    mixed: ir.Value,
    channels: int,
    kernel: Sequence[int],
) -> ir.Value:
    """Move channels (c, *k) of data (n, c * k, *s) into space: (n, c, *(s * k))."""
    rank = len(kernel)
    spatial = _spatial(editing, node)
    order = [0, 1]
    for axis in range(rank):
        order += [2 + rank + axis, 2 + axis]
    known = [size for size in spatial if size is not None]
    if len(known) >= rank - 1:  # One free size can be left to the reshape.
        sizes = [-1 if size is None else size for size in spatial]
        split = emit.reshape(mixed, [0, channels, *kernel, *sizes])
        moved = emit("Transpose", split, perm=order)
        wide = [-1 if s is None else s * k for s, k in zip(spatial, kernel, strict=True)]
        return emit.reshape(moved, [0, channels, *wide])
    shape = emit("Shape", mixed)

    def part(start: int, end: int) -> ir.Value:
        return emit(
            "Slice", shape, emit.constant([start], "start", "int64"),
            emit.constant([end], "end", "int64"),
        )  # fmt: skip

    batch, space = part(0, 1), part(2, 2 + rank)
    inner = emit.constant([channels, *kernel], "block", "int64")
    split = emit("Reshape", mixed, emit("Concat", batch, inner, space, axis=0))
    moved = emit("Transpose", split, perm=order)
    grown = emit("Mul", space, emit.constant(list(kernel), "scale", "int64"))
    count = emit.constant([channels], "channels", "int64")
    return emit("Reshape", moved, emit("Concat", batch, count, grown, axis=0))
