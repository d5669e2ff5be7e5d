"""Writing the nodes and initializers of a graph in bulk.

onnx-ir sets each field by itself, which takes most of the time that writing a model takes. Nodes
that hold nothing but names and numbers, and tensors of protos, are written here, one call for
each; onnx-ir writes all others, in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import onnx_ir as ir

from onnx_structdrop.graph.files.descriptions import Types, has_notes, is_plain
from onnx_structdrop.graph.files.outline import Outline
from onnx_structdrop.graph.files.tensors import ProtoTensor

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    import onnx

__all__ = ["PlainInitializers", "PlainNodes"]

_Kind = ir.AttributeType
_NUMBERS = (_Kind.INT, _Kind.INTS, _Kind.FLOAT, _Kind.FLOATS, _Kind.STRING)
_CHECKED = (ir.DataType.FLOAT6E2M3, ir.DataType.FLOAT6E3M2)
"""Element types whose content onnx-ir looks at when it writes them."""
_REPEATED = (_Kind.INT, _Kind.INTS)
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
        if None in inputs or node.metadata_props or node.device_configurations:
            return False
        if not node.op_type:
            return False
        described = [v for v in node.outputs if v.name and not v.is_graph_output()]
        for value in described:
            if not is_plain(value):
                return False
        attributes = node.attributes.data.values()
        for attribute in attributes:
            if attribute.type not in _NUMBERS or attribute.is_ref():
                return False
        self._nodes.add(
            op_type=node.op_type,
            domain=node.domain or None,
            name=node.name or None,
            overload=node.overload or None,
            doc_string=node.doc_string or None,
            input=inputs,
            # All of them, those without a name too: a call of a function has to name all.
            output=[value.name or "" for value in node.outputs],
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
        key = attribute.name, int(attribute.type), attribute.value, attribute.doc_string
        try:
            written = self._attributes.get(key)
        except TypeError:  # An attribute of somebody's own class, with a list.
            return ir.serde.serialize_attribute(attribute)
        if written is None:
            written = self._attributes[key] = ir.serde.serialize_attribute(attribute)
        return written


class PlainInitializers:
    """The initializers of a graph, for whoever writes them into `proto`, in order.

    The description that onnx-ir adds to each says nothing that the tensor does not: it is to be
    written only where the graph had one.

    Parameters
    ----------
    graph
        Is only read.
    proto
        Plain initializers are added to it, once the iteration over the values comes to them; it
        yields the other ones.
    described
        Names of those that are described.
    replaced
        Tensors to write instead of those that the graph has, by name.
    """

    def __init__(
        self,
        graph: ir.Graph,
        proto: onnx.GraphProto,
        described: Collection[str],
        replaced: Mapping[str, ir.TensorProtocol],
    ) -> None:
        self._values: Mapping[str, ir.Value] = graph.initializers
        self._tensors = proto.initializer
        self._described = described
        self._replaced = replaced

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __len__(self) -> int:
        return len(self._values)

    def values(self) -> Iterator[Any]:
        """Yield what is left to write."""
        for name, value in self._values.items():
            tensor = self._replaced.get(name, value.const_value)
            if name in self._described:
                yield Outline(value, const_value=tensor)
            elif _is_plain_tensor(tensor, name) and not has_notes(value):
                self._tensors.add().CopyFrom(tensor.raw)
            else:
                yield _Undescribed(name, tensor, value.meta)


@dataclass(slots=True)
class _Undescribed:
    """An initializer of which onnx-ir writes the tensor and no description."""

    name: str
    const_value: ir.TensorProtocol | None
    meta: Any

    shape = type = doc_string = None
    metadata_props = ()


def _is_plain_tensor(tensor: ir.TensorProtocol | None, name: str) -> TypeGuard[ProtoTensor]:
    if not isinstance(tensor, ProtoTensor) or tensor.metadata_props:
        return False
    return tensor.raw.name == name and tensor.raw.data_type not in _CHECKED
