"""What onnxruntime-training 1.19.2 has gradients and kernels for, and the check against it.

`GRADIENTS` was made by experiment (``benchmarks/gradients.py`` repeats it): each operator in a
graph of its own, at opsets 13 to 21, with static sizes, free batch and free sizes; the artifacts
built, a step run on a CPU, the gradient of every float input compared with finite differences.
Operators that passed at every opset are listed; what passed under a condition only has it in
`_CONDITIONS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from onnx_structdrop.errors import UnsupportedModelError
from onnx_structdrop.graph.nodes import is_dropout
from onnx_structdrop.graph.topology.dataflow import operators
from onnx_structdrop.training.preparation.editing import attribute, refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from onnx_structdrop.training.preparation.editing import Editing

__all__ = ["GRADIENTS", "check_gradients", "check_graph"]

GRADIENTS = operators(
    """Abs Add BatchNormalization Cast Clip Concat Conv Cos Div Dropout Erf Exp Expand Flatten
    Gather GatherElements GatherND Gelu Gemm GlobalAveragePool Identity LayerNormalization
    LeakyRelu Log LogSoftmax MatMul Max MaxPool Min Mul Neg Pad Pow Reciprocal ReduceL2
    ReduceLogSumExp ReduceMean ReduceSum Relu Reshape ScatterElements ScatterND Sigmoid Sin Slice
    Softmax Split Sqrt Squeeze Sub Tanh Tile Transpose Trilu Unsqueeze Where"""
)
"""Operators of ai.onnx through which gradients flow."""

_CONTRIBUTED = frozenset({"BiasGelu", "FastGelu", "Gelu", "QuickGelu"})
"""The same of com.microsoft."""

_STOPS = operators(
    """And ArgMax ArgMin Equal Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual NonZero Not Or
    Shape Size Xor"""
)
"""Their results do not change with small changes of the data: gradients end here in any case."""

_RANDOM = operators(
    """Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform
    RandomUniformLike"""
)

_QUANTIZED = operators(
    """ConvInteger DequantizeLinear DynamicQuantizeLinear MatMulInteger QLinearAdd QLinearConv
    QLinearMatMul QuantizeLinear"""
)

_FLOATS = (None, ir.DataType.FLOAT, ir.DataType.DOUBLE)
_AXES_ARE_INPUTS_SINCE = 18


def check_graph(model: ir.Model) -> None:
    """Raise at what cannot be in a graph that trains, wherever it is.

    Raises
    ------
    UnsupportedModelError
        At random operators, which the eval model could not switch off, and at quantized ones.
    """
    for node in model.graph:
        if node.op_type in _QUANTIZED:
            raise refuse(node, "the model is quantized; train the float model, then quantize it")
        if node.domain in ("", "ai.onnx") and node.op_type in _RANDOM:
            raise refuse(
                node, "its randomness would stay in evaluation; remove it with "
                "onnx_structdrop.clean(model), then insert structured dropout"
            )  # fmt: skip


def check_gradients(editing: Editing, trainable: Collection[str]) -> None:
    """Raise unless gradients flow from every float output of the graph to the parameters.

    Raises
    ------
    UnsupportedModelError
        At the first node that stops them, or if no parameter reaches an output.
    """
    graph = editing.graph
    moving = {graph.initializers[name] for name in trainable}
    needed = _needed(graph)
    reached: set[str] = set()
    for node in graph:
        inputs = [value for value in _all_inputs(node) if value in moving]
        if not inputs or not any(value in needed for value in node.outputs):
            continue
        if node.domain in ("", "ai.onnx") and node.op_type in _STOPS:
            continue
        if node.op_type == "Split" and not all(value in needed for value in node.outputs):
            raise refuse(
                node, "the gradient of Split fails where one of its outputs leads nowhere; "
                "use Slice instead"
            )  # fmt: skip
        _check(editing, node, set(inputs))
        moving.update(node.outputs)
        reached.update(value.name or "" for value in inputs if value.is_initializer())
    outputs = [value for value in graph.outputs if value in moving]
    if not outputs:
        raise UnsupportedModelError(
            "no output of the model depends on a parameter that trains; name others in "
            "requires_grad"
        )
    for name in trainable:
        if name not in reached:
            raise UnsupportedModelError(
                f"parameter {name!r} does not act on any output, so it has no gradient; "
                "put it among the frozen ones"
            )


def _needed(graph: ir.Graph) -> set[ir.Value]:
    """Return the values that the float outputs are computed from."""
    needed = {value for value in graph.outputs if value.dtype in _FLOATS}
    for node in reversed(graph):
        if any(value in needed for value in node.outputs):
            needed.update(_all_inputs(node))
    return needed


def _all_inputs(node: ir.Node) -> Iterator[ir.Value]:
    """Yield what a node reads, what its subgraphs read included."""
    yield from (value for value in node.inputs if value is not None)
    for found in node.attributes.values():
        if not found.is_ref() and found.type == ir.AttributeType.GRAPH:
            body = found.as_graph()
            yield from body.initializers.values()
            for inner in body:
                yield from _all_inputs(inner)


def _check(editing: Editing, node: ir.Node, moving: set[ir.Value]) -> None:
    if is_dropout(node) and node.inputs[1] in moving:
        raise refuse(node, "its ratio has no gradient; take it out of requires_grad")
    if is_dropout(node) or (node.domain == "com.microsoft" and node.op_type in _CONTRIBUTED):
        return
    if node.op_type in ("If", "Loop", "Scan"):
        raise refuse(node, "onnxruntime builds no gradient through subgraphs")
    if node.domain not in ("", "ai.onnx") or node.op_type not in GRADIENTS:
        raise refuse(
            node, f"{node.op_type} has no gradient in onnxruntime-training 1.19.2, and no form "
            "with one is known; freeze the parameters before it, or replace it"
        )  # fmt: skip
    condition = _CONDITIONS.get(node.op_type)
    why = condition(editing, node, moving) if condition else None
    if why:
        raise refuse(node, why)


def _cast(editing: Editing, node: ir.Node, moving: set[ir.Value]) -> str | None:
    if int(attribute(node, "to", 1)) in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
        return None
    return "it casts to a type without gradients; only float32 and float64 have them"


def _matmul(editing: Editing, node: ir.Node, moving: set[ir.Value]) -> str | None:
    if any(editing.rank(value) == 1 for value in node.inputs):
        return "the gradient of MatMul with a vector fails; make it a matrix with one row or column"
    return None


def _max_pool(editing: Editing, node: ir.Node, moving: set[ir.Value]) -> str | None:
    dims = editing.dims(node.inputs[0])
    if dims is None or not all(isinstance(size, int) for size in dims[2:]):
        shapes = [value.shape for value in editing.graph.inputs if value.shape is not None]
        free = [dim.value for shape in shapes for dim in shape[2:] if not isinstance(dim, int)]
        given = ", ".join(f'"{name}": 64' for name in free if name) or "..."
        return (
            "1.19.2 makes its gradient zero where height or width is free; give sizes to "
            f"prepare, such as sizes={{{given}}}, or export static ones"
        )
    return None


def _pad(editing: Editing, node: ir.Node, moving: set[ir.Value]) -> str | None:
    mode = attribute(node, "mode", "constant")
    if (mode.decode() if isinstance(mode, bytes) else mode) != "constant":
        return "Pad has a gradient in constant mode only"
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        return "Pad has no gradient with axes; give pads for all axes"
    return None


def _power(editing: Editing, node: ir.Node, moving: set[ir.Value]) -> str | None:
    return "Pow has no gradient for its exponent" if node.inputs[1] in moving else None


def _norm(editing: Editing, node: ir.Node, moving: set[ir.Value]) -> str | None:
    if editing.opset < _AXES_ARE_INPUTS_SINCE and not attribute(node, "keepdims", 1):
        return f"{node.op_type} without keepdims has a gradient from opset 18 on only"
    return None


def _where(editing: Editing, node: ir.Node, moving: set[ir.Value]) -> str | None:
    shapes = {editing.dims(value) for value in (node.inputs[0], *moving)}
    if len(shapes) > 1 or None in shapes:
        return "the gradient of Where is wrong where shapes are broadcast; Expand its inputs first"
    return None


_CONDITIONS: dict[str, Callable[[Editing, ir.Node, set[ir.Value]], str | None]] = {
    "Cast": _cast,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "Pad": _pad,
    "Pow": _power,
    "ReduceL2": _norm,
    "ReduceLogSumExp": _norm,
    "Where": _where,
}
