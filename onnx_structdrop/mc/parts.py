"""A model reduced to some of its nodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnx_structdrop.graph.nodes import undeclare_functions
from onnx_structdrop.graph.scopes import scopes
from onnx_structdrop.schema import DOMAIN

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Part", "bodies_of", "extract", "reads", "remove_unused"]


@dataclass(frozen=True)
class Part:
    """What of a model is wanted."""

    nodes: frozenset[int]
    """Places of the nodes in the main graph."""
    outputs: tuple[str, ...]
    """Names of the values to put out."""
    entries: tuple[tuple[str, ir.TypeProtocol, ir.Shape | None], ...] = ()
    """Values that become inputs: name, type, shape."""
    described: Mapping[str, tuple[ir.TypeProtocol, ir.Shape | None]] = field(default_factory=dict)
    """Types and shapes of outputs, where the model may not say."""


def bodies_of(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the subgraphs of a node."""
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def reads(node: ir.Node) -> Iterator[ir.Value]:
    """Yield what a node reads of the graph it is in, what its subgraphs capture included."""
    for value in node.inputs:
        if value is not None:
            yield value
    pending = list(bodies_of(node))
    outer = node.graph
    while pending:
        body = pending.pop()
        for inner in body:
            for value in inner.inputs:
                if value is not None and value.graph is outer:
                    yield value
            pending += bodies_of(inner)
        for value in body.outputs:
            if value.graph is outer:
                yield value


def extract(model: ir.Model, part: Part) -> ir.Model:
    """Reduce a model to a part of it.

    Parameters
    ----------
    model
        Is changed.
    part
        Complete: what its nodes read is among its entries, inputs, initializers and nodes.
    """
    graph = model.graph
    nodes = list(graph)
    values = {value.name or "": value for node in nodes for value in node.outputs if value.name}
    values |= {value.name or "": value for value in (*graph.inputs, *graph.initializers.values())}
    results = [values[name] for name in part.outputs]
    graph.outputs.clear()
    graph.outputs.extend(results)
    for value in results:
        known = part.described.get(value.name or "")
        if known is not None:
            value.type, value.shape = known
    for name, kind, shape in part.entries:
        old = values[name]
        old.name = None
        new = ir.Value(name=name, type=kind, shape=shape)
        old.replace_all_uses_with(new)
        graph.inputs.append(new)
    others = [node for place, node in enumerate(nodes) if place not in part.nodes]
    for node in others:
        _release(node)
    graph.remove(others, safe=True)
    remove_unused(model)
    return model


def _release(node: ir.Node) -> None:
    """Let the subgraphs of a node read nothing, so that it can go with what they captured."""
    for body in bodies_of(node):
        body.outputs.clear()
        for inner in body:
            _release(inner)
            for place in range(len(inner.inputs)):
                inner.replace_input_with(place, None)


def remove_unused(model: ir.Model) -> None:
    """Remove the inputs, initializers and functions that nothing reads."""
    graph = model.graph
    for value in list(graph.inputs):
        if not value.uses() and not value.is_graph_output():
            graph.inputs.remove(value)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
    pending = [graph]
    called: set[ir.OperatorIdentifier] = set()
    while pending:
        for node in _all_nodes(pending.pop()):
            identifier = node.op_identifier()
            if identifier in model.functions and identifier not in called:
                called.add(identifier)
                pending.append(model.functions[identifier].graph)
    for identifier in list(model.functions):
        if identifier not in called:
            del model.functions[identifier]
    undeclare_functions(model)
    if any(node.domain == DOMAIN for _, each in scopes(model) for node in each):
        return
    model.opset_imports.pop(DOMAIN, None)


def _all_nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    pending = [graph]
    while pending:
        for node in pending.pop():
            yield node
            pending += bodies_of(node)
