"""Writing the nodes of a graph in bulk.

onnx-ir sets each field of each node by itself, which takes most of the time that writing a model
takes. Nodes that hold nothing but names and numbers are written here, one call for each; onnx-ir
writes all others, in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from onnx_structdrop.graph.files.descriptions import Types, is_plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

__all__ = ["PlainNodes"]

_Kind = ir.AttributeType
_NUMBERS = frozenset((_Kind.INT, _Kind.INTS, _Kind.FLOAT, _Kind.FLOATS, _Kind.STRING))
_REPEATED = frozenset((_Kind.INT, _Kind.INTS))
"""Types of which equal attributes are written once; 0.0 and -0.0 are equal as well."""


class PlainNodes:
    """The nodes of a graph, for whoever writes them and what they make into `proto`, in order.

    Parameters
    ----------
    graph
        Is only read.
    proto
        Plain nodes and the descriptions of their values are added to it, once the iteration
        comes to them; it yields the other nodes.

    Attributes
    ----------
    rest : list of (int, onnx_ir.Node)
        The nodes that were yielded so far, with their positions.
    """

    def __init__(self, graph: ir.Graph, proto: onnx.GraphProto) -> None:
        self.rest: list[tuple[int, ir.Node]] = []
        self._graph = graph
        self._nodes, self._infos = proto.node, proto.value_info
        self._types = Types()
        self._attributes: dict[object, onnx.AttributeProto] = {}

    def __iter__(self) -> Iterator[ir.Node]:
        for place, node in enumerate(self._graph):
            if not self._write(node):
                self.rest.append((place, node))
                yield node

    def _write(self, node: ir.Node) -> bool:
        """Write a node and the descriptions of what it makes, or nothing; tell which."""
        inputs = ["" if value is None else value.name for value in node.inputs]
        outputs = [value.name for value in node.outputs]
        if None in inputs or not all(outputs) or node.metadata_props or node.device_configurations:
            return False
        described = [value for value in node.outputs if not value.is_graph_output()]
        attributes = node.attributes.data.values()
        if not all(map(is_plain, described)) or not all(map(_is_number, attributes)):
            return False
        self._nodes.add(
            op_type=node.op_type,
            domain=node.domain or None,
            name=node.name or None,
            overload=node.overload or None,
            doc_string=node.doc_string or None,
            input=inputs,
            output=outputs,
            attribute=map(self._attribute, attributes) if attributes else None,
        )
        for value in described:
            written = self._types.write(value)
            if written is not None:
                self._infos.add(name=value.name, type=written)
        return True

    def _attribute(self, attribute: ir.Attr) -> onnx.AttributeProto:
        if attribute.type not in _REPEATED:
            return ir.serde.serialize_attribute(attribute)
        key = attribute.name, attribute.type, attribute.value, attribute.doc_string
        written = self._attributes.get(key)
        if written is None:
            written = self._attributes[key] = ir.serde.serialize_attribute(attribute)
        return written


def _is_number(attribute: ir.Attr) -> bool:
    return attribute.type in _NUMBERS and not attribute.is_ref()
