"""A call of a function replaced by the function's body, under names that are free everywhere.

onnx-ir's own inliner knows the names of enclosing graphs, but not those in subgraphs, which may
define a name that the body brings along; and it leaves no trace of where a value comes from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from onnx_structdrop.graph.names import Names

__all__ = ["expand"]


def expand(call: ir.Node, function: ir.Function, names: Names) -> list[ir.Node]:
    """Put the body of a function in the place of a call of it.

    Parameters
    ----------
    call
        A node with all inputs, outputs and attributes of the function; it is removed. What it
        makes keeps its names, types and shapes.
    function
        Computes each of its outputs by a node. It is not changed.
    names
        Names taken in the model. The names of the body follow that of the node:
        ``relu_DropBlock/mask``.

    Returns
    -------
    list of onnx_ir.Node
        The nodes that took the place, in order.
    """
    graph, body = call.graph, function.clone().graph
    if graph is None:
        raise ValueError(f"node {call.name!r} is in no graph")
    prefix = call.name or next(filter(None, (v.name for v in call.outputs)), call.op_type)
    for node in _nodes(body):
        _resolve(node, call.attributes)
        node.name = names.take(f"{prefix}/{node.name or node.op_type}")
        node.metadata_props.update(call.metadata_props)
        for value in node.outputs:
            if value.name != "":  # An output that is left out on purpose.
                value.name = names.take(f"{prefix}/{value.name or node.op_type}")
    for formal, actual in zip(body.inputs, call.inputs, strict=True):
        if actual is not None:
            formal.replace_all_uses_with(actual)
    results, nodes = list(body.outputs), list(body)
    body.outputs.clear()
    body.remove(nodes)
    graph.insert_before(call, nodes)
    for old, new in zip(call.outputs, results, strict=True):
        if old.type is not None:
            new.type, new.shape = old.type, old.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        if old.name:
            new.name, old.name = old.name, None
    graph.remove(call, safe=True)
    return nodes


def _nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    for node in graph:
        yield node
        for attribute in node.attributes.values():
            if not attribute.is_ref() and attribute.type == ir.AttributeType.GRAPH:
                yield from _nodes(attribute.as_graph())


def _resolve(node: ir.Node, given: Mapping[str, ir.Attr]) -> None:
    """Replace references to the function's attributes by what the call gives for them."""
    for name, attribute in list(node.attributes.items()):
        if not attribute.is_ref():
            continue
        actual = given[attribute.ref_attr_name or ""]
        if actual.is_ref():
            # The call stands in a function itself and hands on an attribute of that.
            node.attributes[name] = ir.RefAttr(name, actual.ref_attr_name or "", actual.type)
        else:
            node.attributes[name] = ir.Attr(name, actual.type, actual.value)
