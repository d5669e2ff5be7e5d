"""What onnx-ir has no place for: taken from the proto when a model is read, written back later.

`adopt` and `restore` walk a model and its proto side by side, graph by graph and node by node.
What a graph needs for the way back travels in its ``meta``, which copies of the model inherit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir

from onnx_structdrop.graph.files.tensors import ProtoTensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["adopt", "follow", "kept_names", "leftovers", "restore"]

_KEPT = "onnx_structdrop.kept"
_REPEATED = "onnx_structdrop.repeated"
_FUNCTION_VALUE_INFO_IR = 10


@dataclass(frozen=True)
class _Kept:
    """What onnx-ir has no place for; travels in the ``meta`` of a graph."""

    described: Mapping[str, int]
    """Position of each name in the value_info of the graph."""
    value_info: tuple[onnx.ValueInfoProto, ...]
    annotated: Mapping[str, int]
    quantization: tuple[onnx.TensorAnnotation, ...]
    outputs: Mapping[str, onnx.ValueInfoProto]
    """Outputs that are also inputs, as the graph describes them."""


def adopt(proto: onnx.ModelProto, model: ir.Model, base_dir: str | None) -> None:
    """Complete `model`, just made from `proto` by onnx-ir, with what it left out.

    Tensors in the proto are guarded against renaming, external ones get their folder.
    """
    qualified = _qualifiers(proto)
    _adopt_metadata(proto, model)
    for graph_proto, graph in _graph_pairs(proto.graph, model.graph):
        _adopt_graph(graph_proto, graph, base_dir, qualified)
    for function_proto, function in zip(proto.functions, model.functions.values(), strict=True):
        _adopt_function(function_proto, function, base_dir)


def restore(proto: onnx.ModelProto, model: ir.Model) -> None:
    """Complete `proto`, just made from `model` by onnx-ir, with what it left out."""
    _restore_metadata(proto, model)
    for graph_proto, graph in _graph_pairs(proto.graph, model.graph):
        _restore_graph(graph_proto, graph)
    for function_proto, function in zip(proto.functions, model.functions.values(), strict=True):
        _restore_function(function_proto, function)


def kept_names(graph: ir.Graph) -> set[str]:
    """Return the names that `graph` describes, which no new value of another meaning may take."""
    kept: _Kept | None = graph.meta.get(_KEPT)
    if kept is None:
        return set()
    return {*kept.described, *kept.annotated}


def leftovers(owner: Any) -> dict[tuple[str, str], bytes]:
    """Return what onnx-ir has no place for, of a model, graph, function or node, to compare it.

    Keys are the field and the name in it, values the serialised entries.
    """
    found = {("metadata", key): b"" for key, _ in owner.meta.get(_REPEATED, ())}
    for number, (key, value) in enumerate(owner.meta.get(_REPEATED, ())):
        found["metadata", key] += f"{number}={value};".encode()
    graph = owner.graph if isinstance(owner, ir.Function) else owner
    kept: _Kept | None = graph.meta.get(_KEPT)
    if kept is not None and isinstance(graph, ir.Graph):
        interface = {value.name for value in (*graph.inputs, *graph.outputs)}
        hidden = _names(graph) - interface
        inputs = {value.name for value in graph.inputs}
        entries = [("value_info", info.name, info) for info in kept.value_info]
        entries += [("output", name, kept.outputs[name]) for name in kept.outputs.keys() & inputs]
        entries += [("quantization", entry.tensor_name, entry) for entry in kept.quantization]
        for field, name, entry in entries:
            if name not in hidden:
                found[field, name] = entry.SerializeToString(deterministic=True)
    return found


def follow(graph: ir.Graph, old: str | None, new: str | None) -> None:
    """Let the description of a value that was renamed from `old` to `new` keep its place."""
    kept: _Kept | None = graph.meta.get(_KEPT)
    if kept is None or not old or not new:
        return
    # Copies of the model share what was kept.
    graph.meta[_KEPT] = replace(
        kept,
        described=_renamed(kept.described, old, new),
        annotated=_renamed(kept.annotated, old, new),
    )


def _renamed(places: Mapping[str, int], old: str, new: str) -> Mapping[str, int]:
    return {**places, new: places[old]} if old in places else places


# The two models of a pair have the same nodes in the same order, just converted.


def _graph_pairs(
    proto: onnx.GraphProto, graph: ir.Graph
) -> Iterator[tuple[onnx.GraphProto, ir.Graph]]:
    yield proto, graph
    yield from _subgraph_pairs(proto.node, graph)


def _subgraph_pairs(
    protos: Iterable[onnx.NodeProto], nodes: Iterable[ir.Node]
) -> Iterator[tuple[onnx.GraphProto, ir.Graph]]:
    for node_proto, node in zip(protos, nodes, strict=True):
        for attribute in node_proto.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graph_pairs(attribute.g, node.attributes[attribute.name].as_graph())
            elif attribute.type == onnx.AttributeProto.GRAPHS:
                graphs = node.attributes[attribute.name].as_graphs()
                for graph_proto, graph in zip(attribute.graphs, graphs, strict=True):
                    yield from _graph_pairs(graph_proto, graph)


def _adopt_graph(
    proto: onnx.GraphProto, graph: ir.Graph, base_dir: str | None, qualified: tuple[str, ...]
) -> None:
    for tensor_proto in proto.initializer:
        value = graph.initializers[tensor_proto.name]
        value.const_value = _adopt_tensor(tensor_proto, value.const_value, base_dir)
    _adopt_metadata(proto, graph)
    _adopt_nodes(proto.node, graph, base_dir)

    inputs = {info.name: info for info in proto.input}
    outputs = {info.name: info for info in proto.output}
    emitted = set(graph.initializers)
    emitted.update(name for node in proto.node for name in node.output if name not in outputs)
    emitted.discard("")
    # onnx-ir reads up to three descriptions of a value into one: undo what it merged or replaced.
    described = {info.name: index for index, info in enumerate(proto.value_info)}
    for value in graph.outputs:
        if value.name in inputs:
            _describe(value, inputs[value.name])
        elif value.name in described:
            _describe(value, outputs[value.name])
    graph.meta[_KEPT] = _Kept(
        described=described,
        value_info=tuple(
            _copied(info)
            for info in proto.value_info
            if info.name not in emitted and not info.name.startswith(qualified)
        ),
        annotated={a.tensor_name: index for index, a in enumerate(proto.quantization_annotation)},
        quantization=tuple(
            _copied(annotation)
            for annotation in proto.quantization_annotation
            if annotation.tensor_name not in emitted.union(inputs, outputs)
        ),
        outputs={name: _copied(info) for name, info in outputs.items() if name in inputs},
    )


def _adopt_function(proto: onnx.FunctionProto, function: ir.Function, base_dir: str | None) -> None:
    _adopt_metadata(proto, function.graph)
    _adopt_nodes(proto.node, function, base_dir)
    _adopt_attributes(proto.attribute_proto, function.attributes, base_dir)
    for graph_proto, graph in _subgraph_pairs(proto.node, function):
        _adopt_graph(graph_proto, graph, base_dir, ())
    described = {info.name: info for info in proto.value_info}
    for value in function.inputs:
        if value.name in described:
            _describe(value, described[value.name])
    emitted = {*proto.input, *(name for node in proto.node for name in node.output if name)}
    function.graph.meta[_KEPT] = _Kept(
        described={name: index for index, name in enumerate(described)},
        value_info=tuple(_copied(i) for i in proto.value_info if i.name not in emitted),
        annotated={},
        quantization=(),
        outputs={},
    )


def _describe(value: ir.Value, info: onnx.ValueInfoProto) -> None:
    value.metadata_props.clear()
    ir.serde.deserialize_value_info_proto(info, value)


def _adopt_nodes(
    protos: Iterable[onnx.NodeProto], nodes: Iterable[ir.Node], base_dir: str | None
) -> None:
    for node_proto, node in zip(protos, nodes, strict=True):
        _adopt_metadata(node_proto, node)
        _adopt_attributes(node_proto.attribute, node.attributes, base_dir)


def _adopt_metadata(proto: Any, owner: Any) -> None:
    """Keep metadata in which a key occurs twice: a mapping would keep the last of them."""
    entries = [(entry.key, entry.value) for entry in proto.metadata_props]
    if len(dict(entries)) < len(entries):
        owner.meta[_REPEATED] = tuple(entries)


def _adopt_attributes(
    protos: Iterable[onnx.AttributeProto], attributes: Any, base_dir: str | None
) -> None:
    for proto in protos:
        if proto.ref_attr_name:
            continue
        old = attributes[proto.name]
        if proto.type == onnx.AttributeProto.TENSOR:
            tensor = _adopt_tensor(proto.t, old.as_tensor(), base_dir)
            attributes.add(ir.AttrTensor(proto.name, tensor, doc_string=old.doc_string))
        elif proto.type == onnx.AttributeProto.TENSORS:
            tensors = [
                _adopt_tensor(tensor_proto, tensor, base_dir)
                for tensor_proto, tensor in zip(proto.tensors, old.as_tensors(), strict=True)
            ]
            attributes.add(ir.AttrTensors(proto.name, tensors, doc_string=old.doc_string))


def _adopt_tensor(
    proto: onnx.TensorProto, tensor: ir.TensorProtocol | None, base_dir: str | None
) -> ir.TensorProtocol:
    if isinstance(tensor, ir.ExternalTensor) and base_dir is not None:
        tensor.base_dir = base_dir
        return tensor
    return tensor if isinstance(tensor, ir.StringTensor) else ProtoTensor(proto)


def _restore_graph(proto: onnx.GraphProto, graph: ir.Graph) -> None:
    _restore_metadata(proto, graph)
    _restore_nodes(proto.node, graph)
    for tensor in proto.initializer:
        _write_metadata_once(tensor)
    kept: _Kept | None = graph.meta.get(_KEPT)
    if kept is None:
        return
    interface = {value.name for value in (*graph.inputs, *graph.outputs)}
    known = interface | _names(graph)
    _rewrite(
        proto.value_info,
        "name",
        kept.described,
        [info for info in kept.value_info if info.name in interface or info.name not in known],
        # The entry that onnx-ir adds for an initializer says nothing that the tensor does not.
        drop=graph.initializers.keys() - kept.described.keys(),
    )
    _rewrite(
        proto.quantization_annotation,
        "tensor_name",
        kept.annotated,
        [entry for entry in kept.quantization if entry.tensor_name not in known],
    )
    inputs = {value.name for value in graph.inputs}
    for output in proto.output:
        if output.name in kept.outputs and output.name in inputs:
            output.CopyFrom(kept.outputs[output.name])


def _restore_function(proto: onnx.FunctionProto, function: ir.Function) -> None:
    _restore_metadata(proto, function.graph)
    _restore_nodes(proto.node, function)
    for graph_proto, graph in _subgraph_pairs(proto.node, function):
        _restore_graph(graph_proto, graph)
    kept: _Kept | None = function.graph.meta.get(_KEPT)
    if kept is not None:
        known = _names(function.graph)
        extras = [info for info in kept.value_info if info.name not in known]
        _rewrite(proto.value_info, "name", kept.described, extras)


def _restore_nodes(protos: Iterable[onnx.NodeProto], nodes: Iterable[ir.Node]) -> None:
    for proto, node in zip(protos, nodes, strict=True):
        _restore_metadata(proto, node)
        proto.output.extend([""] * (len(node.outputs) - len(proto.output)))
        for attribute in proto.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _write_metadata_once(attribute.t)
            for tensor in attribute.tensors:
                _write_metadata_once(tensor)


def _restore_metadata(proto: Any, owner: Any) -> None:
    kept: tuple[tuple[str, str], ...] = owner.meta.get(_REPEATED, ())
    if not kept:
        return
    now, last = {entry.key: entry.value for entry in proto.metadata_props}, dict(kept)
    # What was changed since, by its key, is as it is now.
    entries = [(key, value) for key, value in kept if now.get(key) == last[key]]
    entries += [(key, value) for key, value in now.items() if last.get(key) != value]
    del proto.metadata_props[:]
    for key, value in entries:
        proto.metadata_props.add(key=key, value=value)


def _write_metadata_once(tensor: onnx.TensorProto) -> None:
    if len(tensor.metadata_props) > 1:
        entries = {entry.key: entry.value for entry in tensor.metadata_props}
        if len(entries) < len(tensor.metadata_props):
            del tensor.metadata_props[:]
            for key, value in entries.items():
                tensor.metadata_props.add(key=key, value=value)


def _rewrite(
    field: Any,
    key: str,
    order: Mapping[str, int],
    extras: Iterable[Any],
    drop: Iterable[str] = (),
) -> None:
    """Put a repeated field in the order it had, once per name, with the entries it lost."""
    entries = {getattr(entry, key): entry for entry in (*extras, *field)}
    for name in drop:
        entries.pop(name, None)
    ordered = sorted(entries, key=lambda name: order.get(name, len(order)))
    if len(ordered) == len(field) and all(
        getattr(entry, key) == name for entry, name in zip(field, ordered, strict=True)
    ):
        return
    copies = [_copied(entries[name]) for name in ordered]
    del field[:]
    field.extend(copies)


def _qualifiers(proto: onnx.ModelProto) -> tuple[str, ...]:
    """Return the prefixes of value_info names that onnx-ir assigns to function bodies."""
    if proto.ir_version >= _FUNCTION_VALUE_INFO_IR:
        return ()
    return tuple(f"{function.domain}::{function.name}/" for function in proto.functions)


def _names(graph: ir.Graph) -> set[str]:
    """Return the names of all values; outputs that are left out have none."""
    outputs = (value for node in graph for value in node.outputs)
    values = (*graph.inputs, *graph.initializers.values(), *outputs)
    return {value.name for value in values if value.name}


def _copied(message: Any) -> Any:
    duplicate = type(message)()
    duplicate.CopyFrom(message)
    return duplicate
