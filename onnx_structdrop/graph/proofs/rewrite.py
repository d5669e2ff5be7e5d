"""Putting proofs into effect: values become others, and what nothing uses any more goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from onnx_structdrop.errors import ModelError
from onnx_structdrop.graph.scopes import scopes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onnx_structdrop.graph.names import Names

__all__ = ["Rewriter", "discard"]


class Rewriter:
    """Edits a model in place.

    Parameters
    ----------
    names
        The model's names.

    Attributes
    ----------
    removed
        Nodes that are gone.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self._became: dict[ir.Value, ir.Value] = {}
        self.removed: set[ir.Node] = set()

    def current(self, value: ir.Value) -> ir.Value:
        """Return what a value has become."""
        while value in self._became:
            value = self._became[value]
        return value

    def become(
        self, value: ir.Value, other: ir.Value, carried: Iterable[ir.Node] = ()
    ) -> list[ir.Node]:
        """Replace a value by another, which first goes through copies of some nodes.

        Names, types and shapes of graph outputs stay.

        Returns
        -------
        list of onnx_ir.Node
            The nodes that went, because nothing uses them any more.
        """
        node, other = value.producer(), self.current(other)
        if node is None or node.graph is None:
            raise ModelError(f"value {value.name!r} is produced by no node")
        for step in carried:
            other = self._copy(step, other, node)
        if value.is_graph_output():
            other = self._into_output(value, other, node)
        else:
            value.replace_all_uses_with(other)
        self._became[value] = other
        return self.sweep([node])

    def leaky(self, value: ir.Value, data: ir.Value, slope: float) -> list[ir.Node]:
        """Make a value the LeakyRelu of another; return the nodes that went."""
        node, data = value.producer(), self.current(data)
        if node is None or node.graph is None:
            raise ModelError(f"value {value.name!r} is produced by no node")
        result = ir.Value(name=value.name, type=value.type, shape=value.shape)
        result.doc_string = value.doc_string
        result.metadata_props.update(value.metadata_props)
        name = node.name or self._names.take("LeakyRelu")
        new = ir.node("LeakyRelu", [data], {"alpha": slope}, name=name, outputs=[result])
        node.graph.insert_before(node, new)
        value.replace_all_uses_with(result, replace_graph_outputs=True)
        value.name = None
        self._became[value] = result
        return self.sweep([node])

    def drop_input(self, model: ir.Model, function: ir.Function, formal: ir.Value) -> None:
        """Take an input that nothing uses any more from a function and from all its calls."""
        index = list(function.inputs).index(formal)
        function.inputs.remove(formal)
        makers = []
        for _, graph in scopes(model):
            for node in graph:
                if node.op_identifier() != function.identifier() or len(node.inputs) <= index:
                    continue
                given = node.inputs[index]
                rest = [*node.inputs[:index], *node.inputs[index + 1 :]]
                for place, value in enumerate(rest):
                    node.replace_input_with(place, value)
                node.resize_inputs(len(rest))
                if given is not None and given.producer() is not None:
                    makers.append(given.producer())
        self.sweep([node for node in makers if node is not None])

    def sweep(self, candidates: list[ir.Node]) -> list[ir.Node]:
        """Remove those of some nodes that nothing uses, and what only they used."""
        gone: list[ir.Node] = []
        pending = list(candidates)
        while pending:
            node = pending.pop()
            if node.graph is None or any(
                value.uses() or value.is_graph_output() for value in node.outputs
            ):
                continue
            inputs = [value for value in node.inputs if value is not None]
            for attribute in node.attributes.values():
                if not attribute.is_ref() and attribute.type == ir.AttributeType.GRAPH:
                    inputs += discard(attribute.as_graph())
            node.graph.remove(node, safe=True)
            gone.append(node)
            for value in dict.fromkeys(inputs):
                producer = value.producer()
                if producer is not None:
                    pending.append(producer)
                else:
                    _drop_initializer(value)
        self.removed.update(gone)
        return gone

    def _copy(self, step: ir.Node, data: ir.Value, before: ir.Node) -> ir.Value:
        result = ir.Value(
            name=self._names.take(f"{data.name}_{step.op_type.lower()}"),
            type=step.outputs[0].type,
            shape=step.outputs[0].shape,
        )
        inputs = [data, *(None if v is None else self.current(v) for v in step.inputs[1:])]
        name = self._names.take(f"{step.name or step.op_type}_moved")
        copy = ir.node(step.op_type, inputs, step.attributes, name=name, outputs=[result])
        if before.graph is not None:
            before.graph.insert_before(before, copy)
        return result

    def _into_output(self, value: ir.Value, other: ir.Value, node: ir.Node) -> ir.Value:
        """Give a value the place and the description of a graph output."""
        graph = node.graph
        if graph is None:
            raise ModelError(f"value {value.name!r} is produced by no node")
        producer = other.producer()
        if producer is None or other.is_graph_output() or producer.graph is not graph:
            # The name of an input or of another output has to stay: an Identity carries it over.
            name = self._names.take(f"{node.name or value.name}_identity")
            identity = ir.node("Identity", [other], name=name)
            graph.insert_before(node, identity)
            other = identity.outputs[0]
        elif other.doc_string and not value.doc_string:
            value.doc_string = other.doc_string
        other.type = value.type if value.type is not None else other.type
        other.shape = value.shape if value.shape is not None else other.shape
        other.doc_string = value.doc_string
        other.metadata_props.update(value.metadata_props)
        value.replace_all_uses_with(other, replace_graph_outputs=True)
        name, value.name = value.name, None  # type: ignore[assignment]
        other.name = name
        return other


def discard(graph: ir.Graph) -> list[ir.Value]:
    """Empty a graph, so that it no longer uses values around it; return those."""
    inner = list(graph)
    used = [value for node in inner for value in node.inputs if value is not None]
    used += list(graph.outputs)
    graph.outputs.clear()
    for node in inner:
        for attribute in node.attributes.values():
            if not attribute.is_ref() and attribute.type == ir.AttributeType.GRAPH:
                used += discard(attribute.as_graph())
    graph.remove(inner, safe=True)
    own = set(graph.inputs) | set(graph.initializers.values())
    own |= {value for node in inner for value in node.outputs}
    return [value for value in used if value not in own]


def _drop_initializer(value: ir.Value) -> None:
    if value.uses() or value.is_graph_input() or value.is_graph_output():
        return
    graph, name = value.graph, value.name or ""
    if isinstance(graph, ir.Graph) and graph.initializers.get(name) is value:
        del graph.initializers[name]
