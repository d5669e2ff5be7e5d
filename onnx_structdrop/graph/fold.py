"""Removal of structured dropout: the exact inverse of insertion."""

from __future__ import annotations

from typing import TypeVar

import onnx
import onnx_ir as ir

from onnx_structdrop.errors import ModelError
from onnx_structdrop.graph.collector import uncollected
from onnx_structdrop.graph.convert import as_ir, like
from onnx_structdrop.graph.files.fidelity import follow
from onnx_structdrop.graph.inline import inline_nodes
from onnx_structdrop.graph.names import Names
from onnx_structdrop.graph.nodes import (
    dropout_nodes,
    functions_for,
    own_calls,
    undeclare_functions,
)
from onnx_structdrop.graph.outputs import take_back_copies
from onnx_structdrop.graph.record import Record, check_not_inlined
from onnx_structdrop.graph.scopes import scopes
from onnx_structdrop.schema import GRAD_OP, MIN_FUNCTION_IR

__all__ = ["fold"]

Model = TypeVar("Model", onnx.ModelProto, ir.Model)


@uncollected()
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
        If the record of the insertion in the model's metadata is damaged, or a node of ours
        lacks what it needs: data to hand on, and where its mask is used, all that the operator
        has.
    UnsupportedModelError
        If live nodes were inlined: nothing can tell them from the model's own any more. If a
        mask is used, and the model's opset has no function body to tell its shape.
    """
    result = as_ir(model)
    check_not_inlined(result)
    record = Record.of(result)
    nodes = [node for _, node in dropout_nodes(result)]
    if record is None and not nodes:
        return like(model, result)
    take_back_copies(result)
    ratios: list[ir.Value] = []
    evaluated: list[ir.Node] = []
    names = Names(result)
    for node in nodes:
        if not node.inputs or node.inputs[0] is None or not node.outputs:
            raise ModelError(
                f"node {node.name!r} ({node.domain}::{node.op_type}) has no data "
                f"{'input' if node.outputs else 'output'}, so nothing can take its place; "
                "mend or remove it"
            )
        ratios += [value for value in node.inputs[1:] if value is not None]
        if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
            node.attributes["training_mode"] = ir.AttrInt64("training_mode", 0)
            evaluated.append(node)
        else:
            _bypass(node, node.inputs[0], names)
    if evaluated:
        _evaluate(result, evaluated)
    _remove_ratios(result, ratios, record)
    undeclare_functions(result, record)
    if record is not None:
        if record.ir_version < MIN_FUNCTION_IR == result.ir_version:
            result.ir_version = record.ir_version
        Record.detach(result)
    return like(model, result)


def _evaluate(model: ir.Model, nodes: list[ir.Node]) -> None:
    """Replace nodes in inference mode, and gradients of them, by plain operators."""
    made = {value for node in nodes for value in node.outputs}
    gradients = [
        node
        for node in own_calls(model)
        if node.op_type == GRAD_OP and not made.isdisjoint(node.inputs)
    ]
    calls = [*nodes, *gradients]
    inline_nodes(model, calls, functions_for(model, calls))


def _bypass(node: ir.Node, data: ir.Value, names: Names) -> None:
    graph, output = node.graph, node.outputs[0]
    if graph is None:
        raise ModelError(f"node {node.name!r} is in no graph")
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
    former, kept.name = kept.name, name
    if kept is data:
        follow(graph, former, name)


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
