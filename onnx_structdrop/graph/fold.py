"""Removal of structured dropout: the exact inverse of insertion."""

from __future__ import annotations

from typing import TypeVar

import onnx
import onnx_ir as ir

from onnx_structdrop.errors import ModelError
from onnx_structdrop.graph.convert import as_ir, like
from onnx_structdrop.graph.inline import inline_nodes
from onnx_structdrop.graph.names import Names
from onnx_structdrop.graph.nodes import dropout_nodes, undeclare_functions
from onnx_structdrop.graph.record import Record, check_not_inlined
from onnx_structdrop.graph.scopes import scopes

__all__ = ["fold"]

Model = TypeVar("Model", onnx.ModelProto, ir.Model)


def fold(model: Model) -> Model:
    """Return a copy of a model without structured dropout, in inference form.

    What `insert` added is gone: nodes, ratios, functions, imports, the raised IR version, the
    metadata entry. The result equals the model before insertion. Nodes that were written by
    hand are removed as well; where their mask or scale is used, the inference values take its
    place (all True, and 1). Folding twice changes nothing more.

    Parameters
    ----------
    model
        An ``onnx.ModelProto`` or ``onnx_ir.Model``. It is not changed.

    Raises
    ------
    ModelError
        If the record of the insertion in the model's metadata is damaged, or a node of ours has
        no data to hand on.
    UnsupportedModelError
        If live nodes were inlined: nothing can tell them from the model's own any more.
    """
    result = as_ir(model)
    check_not_inlined(result)
    record = Record.of(result)
    ratios: list[ir.Value] = []
    keep_evaluating = False
    names = Names(result)
    for _, node in list(dropout_nodes(result)):
        ratios += [value for value in node.inputs[1:] if value is not None]
        if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
            node.attributes["training_mode"] = ir.AttrInt64("training_mode", 0)
            keep_evaluating = True
        else:
            _bypass(node, names)
    if keep_evaluating:
        inline_nodes(result)
    _remove_ratios(result, ratios, record)
    undeclare_functions(result)
    if record is not None:
        result.ir_version = record.ir_version
        Record.detach(result)
    return like(model, result)


def _bypass(node: ir.Node, names: Names) -> None:
    graph = node.graph
    data, output = node.inputs[0] if node.inputs else None, node.outputs[0]
    if graph is None or data is None:
        raise ModelError(f"node {node.name!r} ({node.domain}::{node.op_type}) has no data input")
    if not output.is_graph_output():
        output.replace_all_uses_with(data)
        graph.remove(node, safe=True)
        return
    if data.producer() is None or data.is_graph_output() or data.graph is not graph:
        # The name of an input or of another output has to stay, so an Identity carries it over.
        identity = ir.node("Identity", [data], name=names.take(f"{node.name}_identity"))
        kept = identity.outputs[0]
        graph.insert_before(node, identity)
    else:
        kept = data
    kept.type = kept.type or output.type
    kept.shape = kept.shape if kept.shape is not None else output.shape
    output.replace_all_uses_with(kept, replace_graph_outputs=True)
    name, output.name = output.name, None
    graph.remove(node, safe=True)
    kept.name = name


def _remove_ratios(model: ir.Model, ratios: list[ir.Value], record: Record | None) -> None:
    """Remove what only drove our nodes: initializers, constants, inputs that insertion added."""
    added = set(record.ratio_inputs) if record else set()
    inputs = model.graph.inputs
    for value in dict.fromkeys(ratios):
        if value.uses() or value.is_graph_output():
            continue
        producer = value.producer()
        if producer is not None and producer.op_type == "Constant" and producer.graph is not None:
            producer.graph.remove(producer, safe=True)
        elif value.is_graph_input():
            if value.name in added:
                inputs.remove(value)
        elif value.is_initializer():
            for _, graph in scopes(model):
                name = value.name or ""
                if isinstance(graph, ir.Graph) and graph.initializers.get(name) is value:
                    del graph.initializers[name]
