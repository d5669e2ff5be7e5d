"""What onnx-ir has no place for in nodes and what they hold; the part of `fidelity` that is big.

A model has the nodes of its proto in the same order. It is the model that is walked: protobuf
makes an object for each message that is asked for, so the proto is asked where there is a need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import onnx_ir as ir

from onnx_structdrop.graph.files.tensors import ProtoTensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import onnx

__all__ = [
    "REPEATED",
    "GraphPair",
    "adopt_attributes",
    "adopt_metadata",
    "adopt_nodes",
    "adopt_tensor",
    "restore_metadata",
    "restore_nodes",
    "write_metadata_once",
]

REPEATED = "onnx_structdrop.repeated"
"""Where the ``meta`` of whatever has metadata keeps them, if a key occurs twice."""

_GRAPH, _GRAPHS = ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS
_TENSOR, _TENSORS = ir.AttributeType.TENSOR, ir.AttributeType.TENSORS
_DEEP = (_GRAPH, _GRAPHS, _TENSOR, _TENSORS)


class GraphPair(NamedTuple):
    """A graph in both forms."""

    proto: onnx.GraphProto
    graph: ir.Graph


def adopt_nodes(
    protos: Sequence[onnx.NodeProto], nodes: Iterable[ir.Node], base_dir: str | None
) -> list[GraphPair]:
    """Complete `nodes`, just made by onnx-ir from `protos`; return the subgraphs in them."""
    inside: list[GraphPair] = []
    for place, node in enumerate(nodes):
        if node.metadata_props:
            adopt_metadata(protos[place], node)
        deep = _deep_attributes(node) if node.attributes.data else ()
        if deep:
            named = {proto.name: proto for proto in protos[place].attribute}
            inside += _subgraphs(named, deep)
            for attribute in deep:
                _adopt_attribute(named[attribute.name], attribute, node.attributes, base_dir)
    return inside


def restore_nodes(
    protos: Sequence[onnx.NodeProto], nodes: Iterable[tuple[int, ir.Node]]
) -> list[GraphPair]:
    """Complete those of `protos` at the places of `nodes`, of which onnx-ir just made them.

    Returns the subgraphs in them.
    """
    inside: list[GraphPair] = []
    for place, node in nodes:
        if node.metadata_props:
            restore_metadata(protos[place], node)
        outputs = node.outputs
        if outputs and not outputs[-1].name:
            # Left out by onnx-ir, but a call of a function has to name all.
            written = protos[place].output
            written.extend([""] * (len(outputs) - len(written)))
        deep = _deep_attributes(node)
        if deep:
            named = {proto.name: proto for proto in protos[place].attribute}
            inside += _subgraphs(named, deep)
            for attribute in deep:
                proto = named[attribute.name]
                if attribute.type == _TENSOR:
                    write_metadata_once(proto.t)
                for tensor in proto.tensors:
                    write_metadata_once(tensor)
    return inside


def _deep_attributes(node: ir.Node) -> list[ir.Attr]:
    """Return the attributes that hold graphs or tensors."""
    return [
        attribute
        for attribute in node.attributes.data.values()
        if attribute.type in _DEEP and not attribute.is_ref()
    ]


def _subgraphs(
    protos: dict[str, onnx.AttributeProto], attributes: Iterable[ir.Attr]
) -> list[GraphPair]:
    found: list[GraphPair] = []
    for attribute in attributes:
        proto = protos[attribute.name]
        if attribute.type == _GRAPH:
            found.append(GraphPair(proto.g, attribute.as_graph()))
        elif attribute.type == _GRAPHS:
            found += map(GraphPair, proto.graphs, attribute.as_graphs())
    return found


def adopt_attributes(
    protos: Iterable[onnx.AttributeProto], attributes: Any, base_dir: str | None
) -> None:
    """Guard the tensors in attributes."""
    for proto in protos:
        if not proto.ref_attr_name:
            _adopt_attribute(proto, attributes[proto.name], attributes, base_dir)


def _adopt_attribute(
    proto: onnx.AttributeProto, old: ir.Attr, attributes: Any, base_dir: str | None
) -> None:
    if old.type == _TENSOR:
        tensor = adopt_tensor(old.as_tensor(), base_dir, proto.t)
        attributes.add(ir.AttrTensor(old.name, tensor, doc_string=old.doc_string))
    elif old.type == _TENSORS:
        tensors = [
            adopt_tensor(tensor, base_dir, tensor_proto)
            for tensor, tensor_proto in zip(old.as_tensors(), proto.tensors, strict=True)
        ]
        attributes.add(ir.AttrTensors(old.name, tensors, doc_string=old.doc_string))


def adopt_tensor(
    tensor: ir.TensorProtocol | None, base_dir: str | None, proto: onnx.TensorProto
) -> ir.TensorProtocol:
    """Return a tensor that can be renamed and left its proto as it is, or read from its folder."""
    if isinstance(tensor, ir.StringTensor):
        return tensor
    if isinstance(tensor, ir.ExternalTensor) and base_dir is not None:
        tensor.base_dir = base_dir
        return tensor
    return ProtoTensor(proto)


def adopt_metadata(proto: Any, owner: Any) -> None:
    """Keep metadata in which a key occurs twice: a mapping would keep the last of them."""
    entries = [(entry.key, entry.value) for entry in proto.metadata_props]
    if len(dict(entries)) < len(entries):
        owner.meta[REPEATED] = tuple(entries)


def restore_metadata(proto: Any, owner: Any) -> None:
    """Write metadata in which a key occurs twice."""
    kept: tuple[tuple[str, str], ...] = owner.meta.get(REPEATED, ())
    if not kept:
        return
    now, last = {entry.key: entry.value for entry in proto.metadata_props}, dict(kept)
    # What was changed since, by its key, is as it is now.
    entries = [(key, value) for key, value in kept if now.get(key) == last[key]]
    entries += [(key, value) for key, value in now.items() if last.get(key) != value]
    del proto.metadata_props[:]
    for key, value in entries:
        proto.metadata_props.add(key=key, value=value)


def write_metadata_once(tensor: onnx.TensorProto) -> None:
    """Remove metadata of a tensor that onnx-ir wrote a second time."""
    if len(tensor.metadata_props) > 1:
        entries = {entry.key: entry.value for entry in tensor.metadata_props}
        if len(entries) < len(tensor.metadata_props):
            del tensor.metadata_props[:]
            for key, value in entries.items():
                tensor.metadata_props.add(key=key, value=value)
