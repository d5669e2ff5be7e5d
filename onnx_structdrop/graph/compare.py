"""Equality of models: the proof that folding undid insertion."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnx_structdrop.graph.convert import as_ir
from onnx_structdrop.graph.scopes import scopes

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

__all__ = ["differences"]

_CHUNK = 1 << 24


def differences(first: onnx.ModelProto | ir.Model, second: onnx.ModelProto | ir.Model) -> list[str]:
    """List where two models differ; an empty list means that they are equal.

    Compared are nodes with their order, names, attributes and metadata; values with their types,
    shapes, doc strings and metadata; initializers with their bytes; inputs, outputs, functions,
    model metadata, opset imports and IR version. Weights are compared in chunks.

    Parameters
    ----------
    first, second
        Models of either kind. They are not changed.

    Returns
    -------
    list of str
        One line per difference: where, and what stands in `first` and in `second`.
    """
    return list(_models(as_ir(first), as_ir(second)))


def _models(first: ir.Model, second: ir.Model) -> Iterator[str]:
    for field in (
        "ir_version",
        "producer_name",
        "producer_version",
        "domain",
        "model_version",
        "doc_string",
    ):
        one, other = getattr(first, field), getattr(second, field)
        yield from _unequal(f"model {field}", one or None, other or None)
    yield from _unequal("opset imports", dict(first.opset_imports), dict(second.opset_imports))
    yield from _unequal("metadata", dict(first.metadata_props), dict(second.metadata_props))
    graphs, counterparts = dict(scopes(first)), dict(scopes(second))
    yield from _unequal("scopes", list(graphs), list(counterparts))
    for name in graphs.keys() & counterparts.keys():
        yield from _graphs(name or "main graph", graphs[name], counterparts[name])


def _graphs(
    where: str, first: ir.Graph | ir.Function, second: ir.Graph | ir.Function
) -> Iterator[str]:
    for field in ("name", "doc_string"):
        one, other = getattr(first, field), getattr(second, field)
        yield from _unequal(f"{where} {field}", one or None, other or None)
    yield from _unequal(
        f"{where} metadata", dict(first.metadata_props), dict(second.metadata_props)
    )
    yield from _unequal(f"{where} inputs", _values(first.inputs), _values(second.inputs))
    yield from _unequal(f"{where} outputs", _values(first.outputs), _values(second.outputs))
    if isinstance(first, ir.Function) and isinstance(second, ir.Function):
        yield from _unequal(
            f"{where} opset imports", dict(first.opset_imports), dict(second.opset_imports)
        )
        yield from _unequal(
            f"{where} attributes",
            _attributes(first.attributes.values()),
            _attributes(second.attributes.values()),
        )
    elif isinstance(first, ir.Graph) and isinstance(second, ir.Graph):
        yield from _initializers(where, first, second)
    for index, (node, counterpart) in enumerate(itertools.zip_longest(first, second)):
        label = f"{where} node {index}"
        yield from _unequal(label, _node(node), _node(counterpart))


def _initializers(where: str, first: ir.Graph, second: ir.Graph) -> Iterator[str]:
    one, other = first.initializers, second.initializers
    yield from _unequal(f"{where} initializers", list(one), list(other))
    for name in one.keys() & other.keys():
        label = f"{where} initializer {name!r}"
        yield from _unequal(label, _value(one[name]), _value(other[name]))
        notes = [_notes(side[name].const_value) for side in (one, other)]
        yield from _unequal(f"{label} notes", *notes)
        if not _same_tensor(one[name].const_value, other[name].const_value):
            yield f"{label}: the contents differ"


def _notes(tensor: ir.TensorProtocol | None) -> Any:
    return None if tensor is None else (tensor.doc_string or None, dict(tensor.metadata_props))


def _same_tensor(first: ir.TensorProtocol | None, second: ir.TensorProtocol | None) -> bool:
    if first is second:
        return True
    if first is None or second is None:
        return False
    if (first.dtype, tuple(first.shape)) != (second.dtype, tuple(second.shape)):
        return False
    if isinstance(first, ir.ExternalTensor) and isinstance(second, ir.ExternalTensor):
        place = (first.path, first.offset, first.length)
        if place == (second.path, second.offset, second.length):
            return True
    if first.dtype == ir.DataType.STRING:
        return bool(np.array_equal(first.numpy(), second.numpy()))
    one = np.ascontiguousarray(first.numpy()).reshape(-1).view(np.uint8)
    other = np.ascontiguousarray(second.numpy()).reshape(-1).view(np.uint8)
    return all(
        np.array_equal(one[start : start + _CHUNK], other[start : start + _CHUNK])
        for start in range(0, max(one.size, other.size), _CHUNK)
    )


def _values(values: Any) -> list[Any]:
    return [_value(value) for value in values]


def _value(value: ir.Value) -> tuple[Any, ...]:
    shape = None if value.shape is None else tuple(str(size) for size in value.shape)
    metadata = tuple(sorted(value.metadata_props.items()))
    return value.name, str(value.type), shape, value.doc_string or None, metadata


def _node(node: ir.Node | None) -> Any:
    if node is None:
        return None
    return (
        node.name,
        (node.domain, node.op_type, node.overload),
        [None if value is None else value.name for value in node.inputs],
        _values(node.outputs),
        _attributes(node.attributes.values()),
        node.doc_string or None,
        sorted(node.metadata_props.items()),
    )


def _attributes(attributes: Any) -> dict[str, Any]:
    return {attribute.name: _attribute(attribute) for attribute in attributes}


def _attribute(attribute: ir.Attr) -> Any:
    if attribute.is_ref():
        return attribute.type, attribute.ref_attr_name
    value = attribute.value
    if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return attribute.type  # Subgraphs are scopes of their own.
    if attribute.type == ir.AttributeType.TENSOR:
        return attribute.type, value.dtype, tuple(value.shape), _content(value)
    if attribute.type == ir.AttributeType.TENSORS:
        return attribute.type, [(t.dtype, tuple(t.shape), _content(t)) for t in value]
    if attribute.type in (ir.AttributeType.FLOAT, ir.AttributeType.FLOATS):
        return attribute.type, np.asarray(value, np.float32).tobytes()  # NaN equals itself
    if isinstance(value, (list, tuple)):
        return attribute.type, tuple(value)
    return attribute.type, value if isinstance(value, (int, str, bytes)) else str(value)


def _content(tensor: ir.TensorProtocol) -> Any:
    return tensor.numpy().tolist() if tensor.dtype == ir.DataType.STRING else tensor.tobytes()


def _unequal(where: str, first: Any, second: Any) -> Iterator[str]:
    if first != second:
        yield f"{where}: {first!r} became {second!r}"
