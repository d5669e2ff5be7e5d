"""Resize, which has no gradient kernel in 1.19.2, as repetition, selection or matrix products."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnx_structdrop.graph.reading import constant_array
from onnx_structdrop.training.preparation.editing import attribute, refuse
from onnx_structdrop.training.preparation.interpolation import (
    COORDINATES,
    MODES,
    Interpolation,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from onnx_structdrop.training.preparation.editing import Editing, Emitter

__all__ = ["rewrite_resampling"]


def rewrite_resampling(editing: Editing) -> None:
    """Rewrite Resize, DepthToSpace and SpaceToDepth.

    Raises
    ------
    UnsupportedModelError
        If sizes are needed and unknown, or there is no equal form.
    """
    for node in list(editing.graph):
        if node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type == "Resize":
            _resize(editing, node)
        elif node.op_type in ("DepthToSpace", "SpaceToDepth"):
            _shuffle(editing, node)


def _resize(editing: Editing, node: ir.Node) -> None:
    data = node.inputs[0]
    dims = editing.dims(data)
    if data is None or dims is None:
        raise refuse(node, "the rank of its data is unknown; run onnx.shape_inference first")
    how = _interpolation(node)
    result, scales = _target(editing, node, len(dims))
    changed = []
    for axis, (size, new, scale) in enumerate(zip(dims, result, scales, strict=True)):
        same = scale == 1 or (scale is None and size is not None and size == new)
        if not same:
            changed.append(axis)
    emit = editing.emit(node)
    factors = [
        _factor(dims[axis], result[axis], scales[axis]) if axis in changed else 1
        for axis in range(len(dims))
    ]
    if all(factors) and all(how.repeats(factors[axis] or 1) for axis in changed):
        made = _repeat(editing, emit, data, [int(f or 1) for f in factors], dims)
        what = "repetition"
    else:
        made, what = data, "selection" if how.mode == "nearest" else "matrix products"
        for axis in changed:
            size, new = dims[axis], result[axis]
            factor = factors[axis]
            if factor and not isinstance(size, int) and (taps := how.taps(factor)) is not None:
                made, what = _shifts(emit, made, axis, len(dims), taps), "weighted shifts"
                continue
            if not isinstance(size, int) or new is None:
                raise refuse(
                    node, f"the size of axis {axis} is not known, and {how.mode} resizing has "
                    "no form for free sizes; export the model with static sizes"
                )  # fmt: skip
            asked = scales[axis]
            scale = new / size if asked is None else asked
            if how.mode == "nearest":
                chosen = emit.constant(how.indices(size, new, scale), "positions", "int64")
                made = emit("Gather", made, chosen, axis=axis)
            else:
                made = _product(emit, made, axis, len(dims), how.matrix(size, new, scale))
    editing.replace(node, made if made is not data else emit("Identity", data))
    editing.note(node, f"{how.mode} Resize written as {what}", "no gradient kernel in 1.19.2")


def _interpolation(node: ir.Node) -> Interpolation:
    def text(name: str, default: str) -> str:
        value = attribute(node, name, default)
        return value.decode() if isinstance(value, bytes) else str(value)

    mode = text("mode", "nearest")
    coordinates = text("coordinate_transformation_mode", "half_pixel")
    for name, value, known in (
        ("mode", mode, MODES),
        ("coordinate_transformation_mode", coordinates, COORDINATES),
    ):
        if value not in known:
            raise refuse(node, f"{name} {value!r} of Resize cannot be rewritten")
    if attribute(node, "antialias", 0):
        raise refuse(node, "Resize with antialias cannot be rewritten")
    if text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise refuse(node, "Resize that keeps the aspect ratio cannot be rewritten")
    return Interpolation(
        mode,
        coordinates,
        text("nearest_mode", "round_prefer_floor"),
        float(attribute(node, "cubic_coeff_a", -0.75)),
        bool(attribute(node, "exclude_outside", 0)),
    )


def _target(
    editing: Editing, node: ir.Node, rank: int
) -> tuple[list[int | None], list[float | None]]:
    """Return sizes and scales of the result per axis; None where they are not known."""
    axes = [axis % rank for axis in attribute(node, "axes", range(rank))]
    known = editing.dims(node.outputs[0]) or (None,) * rank
    sizes: list[int | None] = [size if isinstance(size, int) else None for size in known]
    scales: list[float | None] = [None] * rank
    for axis in range(rank):
        if axis not in axes:
            scales[axis] = 1.0
    dims = editing.dims(node.inputs[0]) or ()
    given_scales, given_sizes = _constant(node, 2), _constant(node, 3)
    if given_scales is not None and given_scales.size:
        for axis, scale in zip(axes, given_scales.tolist(), strict=True):
            scales[axis] = float(scale)
            size = dims[axis]
            if isinstance(size, int):
                sizes[axis] = int(np.floor(np.float32(size) * np.float32(scale)))
    elif given_sizes is not None and given_sizes.size:
        for axis, size in zip(axes, given_sizes.tolist(), strict=True):
            sizes[axis] = int(size)
            if dims[axis] == size or (axis == 0 and not isinstance(dims[axis], int)):
                scales[axis] = 1.0
    else:
        # Computed at run time: the batch stays, and what is known of the rest must do.
        for axis in (0, 1):
            if axis in axes and (sizes[axis] is None or sizes[axis] == dims[axis]):
                scales[axis] = 1.0
    return sizes, scales


def _constant(
    node: ir.Node, place: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None:
    value = node.inputs[place] if place < len(node.inputs) else None
    return None if value is None else constant_array(value)


def _factor(size: int | str | None, result: int | None, scale: float | None) -> int | None:
    """Return by what whole number an axis grows, or None."""
    if scale is None:
        if not isinstance(size, int) or result is None or result % size:
            return None
        return result // size
    return int(scale) if scale >= 1 and scale == int(scale) else None


def _repeat(
    editing: Editing,
    emit: Emitter,
    data: ir.Value,
    factors: Sequence[int],
    dims: Sequence[int | str | None],
) -> ir.Value:
    """Repeat every position: a new axis behind each that grows, expanded and merged."""
    grown = [axis for axis, factor in enumerate(factors) if factor != 1]
    places, shape = [], []
    for factor in factors:
        shape.append(1)
        if factor != 1:
            places.append(len(shape))
            shape.append(factor)
    if not grown:
        return data
    open_ = emit("Unsqueeze", data, emit.constant(places, "places", "int64"))
    spread = emit("Expand", open_, emit.constant(shape, "repeats", "int64"))
    free = [axis for axis, size in enumerate(dims) if not isinstance(size, int)]
    if len([axis for axis in free if axis in grown]) <= 1 and len(free) <= 2:
        target = _static_target(factors, dims)
        if target is not None:
            return emit.reshape(spread, target)
    sizes = emit("Mul", emit("Shape", data), emit.constant(list(factors), "factors", "int64"))
    return emit("Reshape", spread, sizes)


def _static_target(factors: Sequence[int], dims: Sequence[int | str | None]) -> list[int] | None:
    """Return the shape to merge to if a constant can say it: 0 copies the batch, one -1."""
    target, free = [], 0
    for axis, (factor, size) in enumerate(zip(factors, dims, strict=True)):
        if isinstance(size, int):
            target.append(size * factor)
        elif axis == 0 and factor == 1:
            target.append(0)
        else:
            free += 1
            target.append(-1)
    return target if free <= 1 else None


def _shifts(
    emit: Emitter,
    data: ir.Value,
    axis: int,
    rank: int,
    taps: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> ir.Value:
    """Interpolate along one axis of free size: each phase mixes a position and its neighbours."""

    def cut(start: int, end: int) -> ir.Value:
        bounds = [emit.constant([b], word, "int64") for b, word in ((start, "from"), (end, "to"))]
        return emit("Slice", data, *bounds, emit.constant([axis], "axis", "int64"))

    end = np.iinfo(np.int64).max
    before = emit("Concat", cut(0, 1), cut(0, -1), axis=axis)
    after = emit("Concat", cut(1, end), cut(-1, end), axis=axis)
    place = emit.constant([axis + 1], "phase_axis", "int64")
    phases = []
    for row in taps:
        terms = [
            emit("Mul", value, emit.constant(weight, "weight"))
            for value, weight in zip((before, data, after), row.tolist(), strict=True)
            if weight
        ]
        total = terms[0]
        for term in terms[1:]:
            total = emit("Add", total, term)
        phases.append(emit("Unsqueeze", total, place))
    stacked = emit("Concat", *phases, axis=axis + 1)
    factors = [len(phases) if other == axis else 1 for other in range(rank)]
    sizes = emit("Mul", emit("Shape", data), emit.constant(factors, "factors", "int64"))
    return emit("Reshape", stacked, sizes)


def _product(
    emit: Emitter,
    data: ir.Value,
    axis: int,
    rank: int,
    matrix: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> ir.Value:
    """Multiply along one axis."""
    if axis == rank - 1:
        return emit("MatMul", data, emit.constant(matrix.T, "weights"))
    if axis == rank - 2:
        return emit("MatMul", emit.constant(matrix, "weights"), data)
    order = list(range(rank))
    order[axis], order[-1] = order[-1], order[axis]
    turned = emit("Transpose", data, perm=order)
    return emit("Transpose", _product(emit, turned, rank - 1, rank, matrix), perm=order)


def _shuffle(editing: Editing, node: ir.Node) -> None:
    data = node.inputs[0]
    dims = editing.dims(data)
    block = int(attribute(node, "blocksize", 1))
    if data is None or dims is None or not all(isinstance(size, int) for size in dims[1:]):
        raise refuse(node, f"{node.op_type} on data of unknown size; export static sizes")
    channels, height, width = (int(size or 0) for size in dims[1:])
    emit = editing.emit(node)
    if node.op_type == "SpaceToDepth":
        split = [0, channels, height // block, block, width // block, block]
        order, target = [0, 3, 5, 1, 2, 4], [0, -1, height // block, width // block]
    else:
        inner = channels // block**2
        mode = attribute(node, "mode", "DCR")
        columns_first = (mode.decode() if isinstance(mode, bytes) else mode) == "CRD"
        if columns_first:
            split, order = [0, inner, block, block, height, width], [0, 1, 4, 2, 5, 3]
        else:
            split, order = [0, block, block, inner, height, width], [0, 3, 4, 1, 5, 2]
        target = [0, inner, height * block, width * block]
    moved = emit("Transpose", emit.reshape(data, split), perm=order)
    editing.replace(node, emit.reshape(moved, target))
    editing.note(node, f"{node.op_type} written as a transposition", "no gradient in 1.19.2")
