"""Structured dropout as the gradient builder wants it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from onnx_structdrop.errors import UnsupportedModelError
from onnx_structdrop.functions import function_proto
from onnx_structdrop.graph.nodes import check_call, dropout_nodes, own_calls
from onnx_structdrop.graph.reading import constant_array
from onnx_structdrop.graph.record import check_not_inlined
from onnx_structdrop.schema import DOMAIN, GRAD_OP, MIN_FUNCTION_IR, VERSION
from onnx_structdrop.training.preparation.editing import label, refuse

if TYPE_CHECKING:
    from onnx_structdrop.training.preparation.editing import Editing

__all__ = ["complete_nodes", "complete_standard"]


def complete_nodes(editing: Editing) -> list[ir.Value]:
    """Switch the dropout nodes on, name what their gradient reads, bring the functions up to date.

    Returns
    -------
    list of onnx_ir.Value
        The initializers that drive their ratios.

    Raises
    ------
    ModelError
        If a node is no complete call of an operator.
    UnsupportedModelError
        If nodes were inlined, or lie in a subgraph.
    """
    check_not_inlined(editing.model)
    ratios: dict[ir.Value, None] = {}
    for scope, node in dropout_nodes(editing.model):
        check_call(node)
        if scope:
            raise UnsupportedModelError(
                f"{label(node)} lies in {scope}, where onnxruntime builds no gradient; "
                "insert dropout in the main graph only"
            )
        for index, word in ((1, "mask"), (2, "scale")):
            output = node.outputs[index]
            if not output.name:
                output.name = editing.names.take(f"{node.outputs[0].name}_{word}")
        dims = editing.dims(node.inputs[0])
        if dims is not None and node.outputs[0].type is not None:
            # The runtime infers no shape through the node, and MaxPool behind it needs one.
            node.outputs[0].shape = ir.Shape(dims)
        if node.attributes["training_mode"].as_int() != 1:
            node.attributes["training_mode"] = ir.AttrInt64("training_mode", 1)
            editing.note(node, "switched on", "an identity would be trained otherwise")
        ratio = _parameter(editing, node)
        if ratio is not None:
            ratios[ratio] = None
    _declare(editing)
    return list(ratios)


def complete_standard(editing: Editing) -> None:
    """Make standard Dropout in inference mode an Identity, and name the mask of the others.

    Raises
    ------
    UnsupportedModelError
        If a mask is read in inference mode.
    """
    for node in list(editing.graph):
        if node.domain not in ("", "ai.onnx") or node.op_type != "Dropout":
            continue
        mode = node.inputs[2] if len(node.inputs) > 2 else None
        constant = None if mode is None or mode.is_graph_input() else constant_array(mode)
        off = mode is None or (constant is not None and not constant.any())
        if not off:
            node.resize_outputs(2)
            if not node.outputs[1].name:
                node.outputs[1].name = editing.names.take(f"{node.outputs[0].name}_mask")
            continue
        if len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
            raise refuse(node, "its mask is read in inference mode; onnx_structdrop.clean mends it")
        editing.replace(node, editing.emit(node)("Identity", node.inputs[0]))
        editing.note(node, "made an Identity", "it drops nothing, and its gradient needs a mask")


def _parameter(editing: Editing, node: ir.Node) -> ir.Value | None:
    """Return the initializer behind a ratio, its own where something else reads it as well."""
    ratio = node.inputs[1]
    if ratio is None or ratio.is_graph_input():
        return None
    producer = ratio.producer()
    if producer is None and ratio.const_value is not None:
        strangers = [use for use in ratio.uses() if use.node.domain != DOMAIN]
        if not strangers and not ratio.is_graph_output():
            return ratio
        own = editing.copy_of(ratio, "structdrop_ratio")
        for use in ratio.uses():
            if use.node.domain == DOMAIN:
                use.node.replace_input_with(use.idx, own)
        editing.note(ratio.name or "", "copied", "something else than dropout reads it as well")
        return own
    return None


def _declare(editing: Editing) -> None:
    model = editing.model
    calls = {node.op_type for node in own_calls(model)}
    if not calls:
        return
    for op_type in (*sorted(calls), GRAD_OP):
        proto = function_proto(op_type, editing.opset, "float32", mask_used=True)
        model.functions[DOMAIN, op_type, ""] = ir.serde.deserialize_function(proto)
    model.opset_imports.setdefault(DOMAIN, VERSION)
    model.ir_version = max(model.ir_version, MIN_FUNCTION_IR)
