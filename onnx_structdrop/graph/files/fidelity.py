"""What onnx-ir has no place for: taken from the proto when a model is read, written back later.

`adopt` and `restore` walk a model and its proto side by side, graph by graph and node by node.
What a graph needs for the way back travels in its ``meta``, which copies of the model inherit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnx_structdrop.errors import ModelError
from onnx_structdrop.graph.files.node_fidelity import (
    REPEATED,
    GraphPair,
    adopt_attributes,
    adopt_metadata,
    adopt_nodes,
    adopt_tensor,
    restore_metadata,
    restore_nodes,
    write_metadata_once,
)
from onnx_structdrop.graph.files.wellformed import quoted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    import onnx

__all__ = [
    "FUNCTION_DESCRIPTIONS",
    "adopt",
    "described_names",
    "follow",
    "kept_names",
    "leftovers",
    "restore",
]

_KEPT = "onnx_structdrop.kept"
FUNCTION_DESCRIPTIONS = 10
"""First IR version in which functions describe their values themselves."""


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
    adopt_metadata(proto, model)
    _adopt_graphs([GraphPair(proto.graph, model.graph)], base_dir, _qualifiers(proto))
    for function_proto, function in zip(proto.functions, model.functions.values(), strict=True):
        _adopt_function(function_proto, function, base_dir)


def restore(proto: onnx.ModelProto, model: ir.Model, nodes: Sequence[tuple[int, ir.Node]]) -> None:
    """Complete `proto`, just made from `model` by onnx-ir, with what it left out.

    Parameters
    ----------
    proto
        Is changed.
    model
        Is only read.
    nodes
        The nodes of the main graph that onnx-ir wrote, with their positions.
    """
    restore_metadata(proto, model)
    inside = restore_nodes(proto.graph.node, nodes)
    _restore_graph(proto.graph, model.graph)
    _restore_graphs(inside)
    for function_proto, function in zip(proto.functions, model.functions.values(), strict=True):
        _restore_function(function_proto, function)


def described_names(graph: ir.Graph) -> Collection[str]:
    """Return the names of the values that `graph` had a description of; all, if it was not read."""
    kept: _Kept | None = graph.meta.get(_KEPT)
    return graph.initializers if kept is None else kept.described


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
    found = {("metadata", key): b"" for key, _ in owner.meta.get(REPEATED, ())}
    for number, (key, value) in enumerate(owner.meta.get(REPEATED, ())):
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


def _adopt_graphs(pairs: list[GraphPair], base_dir: str | None, qualified: tuple[str, ...]) -> None:
    """Complete graphs, and those inside them."""
    while pairs:
        pair = pairs.pop()
        pairs += _adopt_graph(*pair, base_dir, qualified)


def _adopt_graph(
    proto: onnx.GraphProto, graph: ir.Graph, base_dir: str | None, qualified: tuple[str, ...]
) -> list[GraphPair]:
    for tensor_proto, value in zip(
        proto.initializer, graph.initializers.data.values(), strict=True
    ):
        value.const_value = adopt_tensor(value.const_value, base_dir, tensor_proto)
    adopt_metadata(proto, graph)
    inside = adopt_nodes(proto.node, graph, base_dir)

    inputs = {info.name: info for info in proto.input}
    outputs = {info.name: info for info in proto.output}
    emitted = _emitted(graph, outputs)
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
            _copied(proto.value_info[described[name]])
            for name in sorted(described.keys() - emitted, key=described.__getitem__)
            if not name.startswith(qualified)
        ),
        annotated={a.tensor_name: index for index, a in enumerate(proto.quantization_annotation)},
        quantization=tuple(
            _copied(annotation)
            for annotation in proto.quantization_annotation
            if annotation.tensor_name not in emitted.union(inputs, outputs)
        ),
        outputs={name: _copied(info) for name, info in outputs.items() if name in inputs},
    )
    return inside


def _emitted(graph: ir.Graph, outputs: Mapping[str, object]) -> set[str]:
    """Return the names of what onnx-ir writes a description for as it does for nodes' values."""
    names = {value.name or "" for node in graph for value in node.outputs}
    names.difference_update(outputs)
    names.update(graph.initializers)
    names.discard("")
    return names


def _adopt_function(proto: onnx.FunctionProto, function: ir.Function, base_dir: str | None) -> None:
    adopt_metadata(proto, function.graph)
    adopt_attributes(proto.attribute_proto, function.attributes, base_dir)
    _adopt_graphs(adopt_nodes(proto.node, function, base_dir), base_dir, ())
    described = {info.name: info for info in proto.value_info}
    for value in function.inputs:
        if value.name in described:
            _describe(value, described[value.name])
    emitted = {*proto.input, *_emitted(function.graph, {})}
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


def _restore_graphs(pairs: list[GraphPair]) -> None:
    """Complete graphs, and those inside them."""
    while pairs:
        proto, graph = pairs.pop()
        pairs += restore_nodes(proto.node, enumerate(graph))
        _restore_graph(proto, graph)


def _restore_graph(proto: onnx.GraphProto, graph: ir.Graph) -> None:
    restore_metadata(proto, graph)
    _check_data(graph)
    for tensor in proto.initializer:
        write_metadata_once(tensor)
    kept: _Kept | None = graph.meta.get(_KEPT)
    if kept is None:
        return
    inputs = {value.name for value in graph.inputs}
    interface = inputs.union(value.name for value in graph.outputs)
    known = interface | _names(graph) if kept.value_info or kept.quantization else interface
    _rewrite(
        proto.value_info,
        "name",
        kept.described,
        [info for info in kept.value_info if info.name in interface or info.name not in known],
        # In subgraphs; the main graph was written without them.
        drop=graph.initializers.keys() - kept.described.keys(),
    )
    _rewrite(
        proto.quantization_annotation,
        "tensor_name",
        kept.annotated,
        [entry for entry in kept.quantization if entry.tensor_name not in known],
    )
    for output in proto.output:
        if output.name in kept.outputs and output.name in inputs:
            output.CopyFrom(kept.outputs[output.name])


def _restore_function(proto: onnx.FunctionProto, function: ir.Function) -> None:
    restore_metadata(proto, function.graph)
    _check_data(function.graph)
    _restore_graphs(restore_nodes(proto.node, enumerate(function)))
    kept: _Kept | None = function.graph.meta.get(_KEPT)
    if kept is not None:
        known = _names(function.graph)
        extras = [info for info in kept.value_info if info.name not in known]
        _rewrite(proto.value_info, "name", kept.described, extras)


def _check_data(graph: ir.Graph) -> None:
    """Refuse initializers that onnx-ir left out."""
    for name, value in graph.initializers.items():
        if value.const_value is None:
            raise ModelError(f"initializer {quoted(name)} has no data")


def _rewrite(
    field: Any,
    key: str,
    order: Mapping[str, int],
    extras: Iterable[Any],
    drop: Iterable[str] = (),
) -> None:
    """Put a repeated field in the order it had, once per name, with the entries it lost."""
    names = [getattr(entry, key) for entry in field]
    entries = {getattr(entry, key): entry for entry in extras}
    entries.update(zip(names, field, strict=True))
    for name in drop:
        entries.pop(name, None)
    ordered = sorted(entries, key=lambda name: order.get(name, len(order)))
    if ordered == names:
        return
    rewritten = [entries[name] for name in ordered]
    del field[:]
    field.extend(rewritten)


def _qualifiers(proto: onnx.ModelProto) -> tuple[str, ...]:
    """Return the prefixes of value_info names that onnx-ir assigns to function bodies."""
    if proto.ir_version >= FUNCTION_DESCRIPTIONS:
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
