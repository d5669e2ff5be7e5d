"""Is a proto a model that can be worked on: complete, consistent, and nothing onnx-ir would drop.

onnx-ir reads protos leniently: it skips what it cannot hold (training information, sparse
initializers, opaque types), keeps the last of two entries with one name, and only logs a value
that nothing produces. Each of these would silently change the model, so they are refused here,
before the conversion. Nothing here reads a weight.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import onnx

from onnx_structdrop.errors import ModelError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

__all__ = ["check_header", "check_structure", "one_line", "quoted"]

_SHOWN_CHARACTERS = 100
_DEVICES_SINCE = 11
_INCOMPLETE = "not an ONNX model, or truncated"
_TENSOR_TYPES = frozenset(onnx.TensorProto.DataType.values())
_ATTRIBUTE_TYPES = frozenset(onnx.AttributeProto.AttributeType.values()) - {
    onnx.AttributeProto.UNDEFINED
}
_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
# What onnxruntime says before the reason, which would be cut off by the length of a line.
_PREAMBLE = re.compile(
    r"^.*Non-zero status code returned while running (\w+) node\. Name:'(.*?)' Status Message: "
    r"(?:\S+\.(?:h|cc):\d+ \w+ )?"
)
_SPARSE = (onnx.AttributeProto.SPARSE_TENSOR, onnx.AttributeProto.SPARSE_TENSORS)


def quoted(text: str) -> str:
    """Return `text` in quotes, on one line and not longer than a line, for use in a message."""
    if len(text) > _SHOWN_CHARACTERS:
        text = text[:_SHOWN_CHARACTERS] + "..."
    return repr(text)


def one_line(error: BaseException) -> str:
    """Return the message of the error that started it all, on one line of bounded length."""
    while True:
        # onnx-ir describes what it was called with, and can fail in that: what it was about to
        # report is the context then.
        lost = isinstance(error, TypeError) and "<lambda>() " in str(error)
        before = error.__cause__ or (error.__context__ if lost else None)
        if before is None:
            break
        error = before
    text = _PREAMBLE.sub(_named, " ".join(str(error).split()))
    return quoted(text or type(error).__name__)[1:-1]


def _named(found: re.Match[str]) -> str:
    name = f"{found[1]} node '{found[2]}': "
    return "" if found.string.startswith(name, found.end()) else name  # our kernels say it


def check_header(model: onnx.ModelProto) -> None:
    """Check that `model` has what every ONNX model has.

    protobuf accepts many byte strings that are not ONNX; this is what tells them apart.

    Raises
    ------
    ModelError
        If the IR version, the graph, its outputs or the opset imports are missing.
    UnsupportedModelError
        If the IR version is newer than the installed `onnx`, whose parser would drop new fields.
    """
    if model.ir_version < 1:
        raise ModelError(f"{_INCOMPLETE}: no IR version")
    if not model.HasField("graph"):
        raise ModelError(f"{_INCOMPLETE}: no graph")
    if not model.opset_import:
        raise ModelError(f"{_INCOMPLETE}: no opset import")
    if not model.graph.output:
        raise ModelError(f"{_INCOMPLETE}: no graph output")
    if model.ir_version > onnx.IR_VERSION:
        raise UnsupportedModelError(
            f"IR version {model.ir_version} is newer than {onnx.IR_VERSION}, "
            f"the newest that onnx {onnx.__version__} knows"
        )


def check_structure(model: onnx.ModelProto) -> bool:
    """Check that nothing in `model` is broken or would be lost in onnx-ir.

    Returns
    -------
    bool
        True if every node follows the nodes whose values it reads.

    Raises
    ------
    ModelError
        If a name is defined twice, or read and never defined, or a field has no valid value.
    UnsupportedModelError
        If the model holds training information, sparse tensors, map or opaque types, or a
        subgraph that returns a value of the enclosing graph.
    """
    if model.training_info:
        raise UnsupportedModelError("training_info is not supported: it would be lost")
    if model.ir_version < _DEVICES_SINCE and _mentions_devices(model):
        raise ModelError(f"device configurations need IR version {_DEVICES_SINCE} or newer")
    _check_imports("the model", model.opset_import)
    _check_unique("function", (f"{f.domain}::{f.name}:{f.overload}" for f in model.functions))
    in_order = _check_graph(model.graph, [])
    for function in model.functions:
        in_order &= _check_function(function)
    return in_order


def _mentions_devices(model: onnx.ModelProto) -> bool:
    nodes = (*model.graph.node, *(node for function in model.functions for node in function.node))
    return bool(model.configuration) or any(node.device_configurations for node in nodes)


def _check_imports(where: str, imports: Iterable[onnx.OperatorSetIdProto]) -> None:
    versions: dict[str, int] = {}
    for entry in imports:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        if not domain and entry.version < 1:
            raise ModelError(
                f"{where} imports ai.onnx in version {entry.version}; versions begin at 1"
            )
        if versions.setdefault(domain, entry.version) != entry.version:
            raise ModelError(
                f"{where} imports domain {quoted(domain)} in versions {versions[domain]} "
                f"and {entry.version}"
            )


def _check_function(function: onnx.FunctionProto) -> bool:
    where = f"function {quoted(f'{function.domain}::{function.name}')}"
    _check_imports(where, function.opset_import)
    _check_unique(f"{where}: input", function.input)
    _check_attributes(where, function.attribute_proto)
    for info in function.value_info:
        _check_type(info.name, info.type)
    names = set(function.input)
    in_order = _check_nodes(function.node, names, [])
    for name in function.output:
        if name not in names:
            raise ModelError(f"{where}: output {quoted(name)} is not produced by any node")
    return in_order


def _check_graph(graph: onnx.GraphProto, outer: list[set[str]]) -> bool:
    where = f"graph {quoted(graph.name)}"
    if graph.sparse_initializer:
        raise UnsupportedModelError(f"{where}: sparse initializers are not supported")
    _check_unique(f"{where}: input", (info.name for info in graph.input))
    _check_unique(f"{where}: output", (info.name for info in graph.output))
    _check_unique(f"{where}: initializer", (tensor.name for tensor in graph.initializer))
    for info in (*graph.input, *graph.output, *graph.value_info):
        _check_type(info.name, info.type)
    for tensor in graph.initializer:
        _check_tensor(tensor)
    names = {info.name for info in graph.input} | {tensor.name for tensor in graph.initializer}
    if "" in names:
        raise ModelError(f"{where}: an input or initializer has no name")
    in_order = _check_nodes(graph.node, names, outer)
    for info in graph.output:
        if info.name in names:
            continue
        if any(info.name in scope for scope in outer):
            raise UnsupportedModelError(
                f"{where}: output {quoted(info.name)} belongs to the enclosing graph; "
                "runtimes need an Identity in between"
            )
        raise ModelError(f"{where}: output {quoted(info.name)} is not produced by any node")
    return in_order


def _check_nodes(nodes: Sequence[onnx.NodeProto], names: set[str], outer: list[set[str]]) -> bool:
    """Check `nodes` and add what they produce to `names`; tell whether they are in order."""
    nodes = list(nodes)
    outputs = [node.output[:] for node in nodes]
    produced = _produced(nodes, outputs, names)
    everything = names | produced
    known = {"", *names}
    in_order = True
    for node, results in zip(nodes, outputs, strict=True):
        for name in () if known.issuperset(node.input[:]) else node.input:
            if name in known:
                continue
            if name in produced:
                in_order = False
            elif not any(name in scope for scope in outer):
                raise ModelError(f"{_describe(node)} reads {quoted(name)}, which nothing produces")
        devices = node.device_configurations
        if devices and not all(entry.configuration_id for entry in devices):
            raise ModelError(f"{_describe(node)}: a device configuration has no name")
        if node.attribute:
            _check_attributes(node, node.attribute)
            # A subgraph may read what an outer node produces later; the sort puts that right.
            for subgraph in _subgraphs(node):
                in_order &= _check_graph(subgraph, [*outer, everything])
                in_order &= not _reads(subgraph, produced - known)
        known.update(results)
    names |= produced
    return in_order


def _produced(
    nodes: Sequence[onnx.NodeProto], outputs: Sequence[Sequence[str]], names: Collection[str]
) -> set[str]:
    """Return the names of all outputs; neither they nor `names` may have them already."""
    produced: set[str] = set()
    for node, results in zip(nodes, outputs, strict=True):
        for name in results:
            if not name:
                continue
            if name in produced or name in names:
                raise ModelError(f"{_describe(node)}: {quoted(name)} is defined a second time")
            produced.add(name)
    return produced


def _subgraphs(node: onnx.NodeProto) -> Iterable[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def _reads(graph: onnx.GraphProto, names: set[str]) -> bool:
    """Tell whether a node of `graph`, at any depth, reads one of `names`."""
    return bool(names) and any(
        not names.isdisjoint(node.input) or any(_reads(sub, names) for sub in _subgraphs(node))
        for node in graph.node
    )


def _check_attributes(
    owner: str | onnx.NodeProto, attributes: Iterable[onnx.AttributeProto]
) -> None:
    seen: set[str] = set()
    for attribute in attributes:
        name, kind = attribute.name, attribute.type
        if name in seen:
            raise ModelError(f"{_describe(owner)}: attribute {quoted(name)} is given twice")
        seen.add(name)
        if attribute.ref_attr_name:
            if kind in _GRAPHS:
                raise UnsupportedModelError(
                    f"{_describe(owner)}: attribute {quoted(name)} stands for a graph that calls "
                    "of the function give, which is not supported; inline the function "
                    "(onnx.inliner)"
                )
            continue
        if kind not in _ATTRIBUTE_TYPES:
            raise ModelError(f"{_describe(owner)}: attribute {quoted(name)} has no valid type")
        if kind in _SPARSE:
            raise UnsupportedModelError(
                f"{_describe(owner)}: attribute {quoted(name)} holds a sparse tensor, "
                "which is not supported"
            )
        if kind == onnx.AttributeProto.TENSOR:
            _check_tensor(attribute.t)
        for tensor in attribute.tensors:
            _check_tensor(tensor)
        if attribute.HasField("tp"):
            _check_type(name, attribute.tp)
        for tp in attribute.type_protos:
            _check_type(name, tp)


def _check_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type not in _TENSOR_TYPES or tensor.data_type == onnx.TensorProto.UNDEFINED:
        raise ModelError(
            f"tensor {quoted(tensor.name)} has unknown element type {tensor.data_type}"
        )
    dims = tensor.dims[:]
    if dims and min(dims) < 0:
        raise ModelError(f"tensor {quoted(tensor.name)} has a negative dimension")


def _check_type(name: str, proto: onnx.TypeProto) -> None:
    kind = proto.WhichOneof("value")
    if kind in ("sequence_type", "optional_type"):
        _check_type(name, getattr(proto, kind).elem_type)
    elif kind in ("tensor_type", "sparse_tensor_type"):
        tensor = getattr(proto, kind)
        if tensor.elem_type not in _TENSOR_TYPES:
            raise ModelError(f"value {quoted(name)} has unknown element type {tensor.elem_type}")
        if tensor.HasField("shape") and not tensor.HasField("elem_type"):
            raise ModelError(f"value {quoted(name)} has a shape but no element type")
    elif kind is not None:
        raise UnsupportedModelError(f"value {quoted(name)}: {kind} is not supported")


def _check_unique(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ModelError(f"{what} {quoted(name)} is given twice")
        seen.add(name)


def _describe(owner: str | onnx.NodeProto) -> str:
    if isinstance(owner, str):
        return owner
    return f"node {quoted(owner.name)} ({quoted(owner.op_type)[1:-1]})"
