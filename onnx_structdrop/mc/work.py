"""What running a graph takes, by shape inference: multiply-adds and memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnx_structdrop.errors import UnsupportedModelError
from onnx_structdrop.graph.convert import as_ir
from onnx_structdrop.graph.nodes import is_dropout
from onnx_structdrop.graph.proofs.sources import label
from onnx_structdrop.graph.scopes import scopes
from onnx_structdrop.graph.topology.dataflow import Dataflow
from onnx_structdrop.graph.topology.shapes import Shapes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Work", "check_batch_first", "work_of"]

_CONVOLUTIONS = frozenset({"Conv", "ConvInteger", "FusedConv", "QLinearConv"})
_PRODUCTS = frozenset({"Gemm", "FusedGemm", "FusedMatMul", "MatMul", "MatMulInteger"})


@dataclass(frozen=True)
class Work:
    """What one run of a graph takes; None where sizes are not known."""

    macs: int | None
    """Multiply-adds of convolutions and matrix products; the rest is left out."""
    bytes: int | None
    """Sum over everything that nodes put out. A run reuses memory, and needs less."""


def work_of(model: ir.Model, shapes: Mapping[str, Sequence[int]]) -> Work:
    """Return what a run with inputs of these shapes takes.

    Parameters
    ----------
    model
        Is not changed. Bodies of functions count nothing.
    shapes
        By input name.
    """
    flow, known = _inferred(model, shapes)
    macs: int | None = 0
    size: int | None = 0
    for scope in flow.scopes:
        if scope.function is not None:
            continue
        for node in scope.nodes:
            if macs is not None:
                found = _macs(node, known)
                macs = None if found is None else macs + found
            if size is not None:
                taken = _bytes(node, known)
                size = None if taken is None else size + taken
    return Work(macs, size)


def check_batch_first(model: ir.Model, shapes: Mapping[str, Sequence[int]], rows: int) -> None:
    """Refuse dropout on data whose first axis is not the batch: its masks would be of no row.

    Parameters
    ----------
    model
        Is not changed.
    shapes
        By input name.
    rows
        Size of the batch with these shapes.

    Raises
    ------
    UnsupportedModelError
        At the first such node.
    """
    flow, known = _inferred(model, shapes)
    for scope in flow.scopes:
        for node in scope.nodes:
            dims = known.dims(node.inputs[0]) if is_dropout(node) else None
            if dims and isinstance(dims[0], int) and dims[0] != rows:
                raise UnsupportedModelError(
                    f"{label(node)} drops from data of shape {tuple(dims)} for {rows} rows: the "
                    "batch has to be axis 0 there; put dropout before the axes are moved or merged"
                )


def _inferred(model: ir.Model, shapes: Mapping[str, Sequence[int]]) -> tuple[Dataflow, Shapes]:
    """Return the scopes of a copy whose inputs have shapes, and all shapes in it."""
    private = as_ir(model)
    for name, graph in scopes(private):
        if isinstance(graph, ir.Graph) and not name.startswith("function:"):
            for node in graph:
                for value in node.outputs:
                    value.shape = None
    for value in private.graph.inputs:
        if value.name in shapes:
            value.shape = ir.Shape(list(shapes[value.name or ""]))
    flow = Dataflow(private)
    return flow, Shapes(private, flow.scopes)


def _count(dims: Sequence[object] | None) -> int | None:
    if dims is None:
        return None
    sizes = [size for size in dims if isinstance(size, int)]
    return math.prod(sizes) if len(sizes) == len(dims) else None


def _bytes(node: ir.Node, shapes: Shapes) -> int | None:
    if not node.outputs or node.op_type == "Constant":
        return 0
    # Outputs without a name, and masks that nobody reads, are not made.
    wanted = [value for value in node.outputs if value.uses() or value.is_graph_output()]
    total = 0
    for value in wanted:
        count = _count(shapes.dims(value))
        if count is None:
            return None
        dtype = shapes.dtype(value)
        total += math.ceil(count * (dtype.itemsize if dtype is not None else 4))
    return total


def _macs(node: ir.Node, shapes: Shapes) -> int | None:
    if node.domain not in ("", "com.microsoft") or not node.outputs:
        return 0
    name = node.op_type
    if name in _CONVOLUTIONS:
        weight = shapes.dims(node.inputs[3 if name == "QLinearConv" else 1])
        return _times(_count(shapes.dims(node.outputs[0])), _count(weight[1:] if weight else None))
    if name == "ConvTranspose":
        weight = shapes.dims(node.inputs[1])
        return _times(_count(shapes.dims(node.inputs[0])), _count(weight[1:] if weight else None))
    if name in _PRODUCTS:
        left = shapes.dims(node.inputs[0])
        turned = node.attributes.get("transA")
        axis = 0 if turned is not None and not turned.is_ref() and turned.as_int() else -1
        return _times(_count(shapes.dims(node.outputs[0])), _count([left[axis]] if left else None))
    return 0


def _times(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one * other
