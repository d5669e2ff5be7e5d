"""Outputs that the graph reads as well: copies that make them, when nodes come and go.

A node in inference mode comes down to an Identity, and onnxruntime removes it, unless its result is
an output of the graph and read as well: then it would round float16 in between, and keep the
operators around it from being fused. So an Identity behind the node makes the output, and the
graph reads what is in front of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from onnx_structdrop.graph.files.fidelity import follow
from onnx_structdrop.graph.record import is_copy, mark_copy, unmark_copy
from onnx_structdrop.graph.scopes import scopes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onnx_structdrop.graph.names import Names

__all__ = ["copy_output", "copy_results", "take_back_copies"]


def copy_output(value: ir.Value, described: ir.Value, name: str) -> ir.Value:
    """Let a copy of `value` be the output that `value` is; return it, without a name.

    Parameters
    ----------
    value
        An output of its graph, made by a node; it stays what the graph reads.
    described
        Type and shape of the output.
    name
        Name of the node that copies.
    """
    graph, node = value.graph, value.producer()
    if not isinstance(graph, ir.Graph) or node is None:
        raise ValueError(f"value {value.name!r} is not made by a node of a graph")
    copy = ir.node("Identity", [value], name=name)
    result = copy.outputs[0]
    result.type, result.shape = described.type, described.shape
    for index, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[index] = result
    graph.insert_after(node, copy)
    mark_copy(copy)
    return result


def copy_results(model: ir.Model, values: Iterable[ir.Value], names: Names) -> None:
    """Do the same where a function is called that returns one of `values`, at any depth."""
    owners = {function.graph: function for function in model.functions.values()}
    if not owners:
        return
    calls: dict[ir.OperatorIdentifier, list[ir.Node]] = {}
    for _, graph in scopes(model):
        for node in graph:
            calls.setdefault(node.op_identifier(), []).append(node)
    pending = list(values)
    seen: set[ir.Value] = set()
    while pending:
        value = pending.pop()
        function = None if value.graph is None else owners.get(value.graph)
        if function is None:
            continue
        for index, output in enumerate(function.outputs):
            if output is not value:
                continue
            for call in calls.get(function.identifier(), ()):
                if index >= len(call.outputs):
                    continue
                result = call.outputs[index]
                if result not in seen and result.is_graph_output():
                    seen.add(result)
                    pending.append(_split(result, names) if result.uses() else result)


def _split(value: ir.Value, names: Names) -> ir.Value:
    name = value.name
    result = copy_output(value, value, names.take(f"{name}_output"))
    result.metadata_props.update(value.metadata_props)
    result.doc_string = value.doc_string
    value.name, result.name = names.take(f"{name}_dropped"), name
    if isinstance(value.graph, ir.Graph):
        follow(value.graph, name, value.name)
    return result


def take_back_copies(model: ir.Model) -> None:
    """Remove the copies again; values are outputs themselves, under the outputs' names."""
    copies = [node for _, graph in scopes(model) for node in graph if is_copy(node)]
    for copy in copies:
        value, result, graph = copy.inputs[0], copy.outputs[0], copy.graph
        if (
            value is None
            or not isinstance(graph, ir.Graph)
            or value.graph is not graph
            or value.producer() is None
            or (value.is_graph_output() and result.is_graph_output())
        ):
            unmark_copy(copy)  # Somebody has changed the graph since, and it is needed.
            continue
        if result.is_graph_output():
            value.type, value.shape = result.type, result.shape
            former, value.name, result.name = value.name, result.name, None
            follow(graph, former, value.name)
        result.replace_all_uses_with(value, replace_graph_outputs=True)
        graph.remove(copy, safe=True)
