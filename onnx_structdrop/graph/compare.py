"""Equality of models: the proof that folding undid insertion."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnx_structdrop.errors import ModelError
from onnx_structdrop.graph.convert import as_ir
from onnx_structdrop.graph.files.fidelity import leftovers
from onnx_structdrop.graph.files.wellformed import one_line
from onnx_structdrop.graph.scopes import scopes
from onnx_structdrop.graph.unequal import unequal

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

__all__ = ["differences"]

_CHUNK = 1 << 24


def differences(first: onnx.ModelProto | ir.Model, second: onnx.ModelProto | ir.Model) -> list[str]:
    """List where two models differ; an empty list means that they are equal.

    Compared are nodes with their order, names, attributes, metadata and device configurations;
    values with their types, shapes, denotations, doc strings, metadata and quantization
    annotations, also of names that the graph does not hold; initializers with their bytes; inputs,
    outputs, functions, model metadata, opset imports and IR version. Weights are compared in
    chunks.

    Parameters
    ----------
    first, second
        Models of either kind. They are not changed.

    Returns
    -------
    list of str
        One line per difference: where, and what stands in `first` and in `second`, shortened.

    Raises
    ------
    ArgumentTypeError
        If an argument is no model.
    ModelError
        If a model is broken, or a tensor cannot be read.
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
        yield from unequal(f"model {field}", one or None, other or None)
    yield from unequal("opset imports", dict(first.opset_imports), dict(second.opset_imports))
    yield from unequal("metadata", _metadata(first), _metadata(second))
    yield from unequal(
        "device configurations",
        list(map(repr, first.device_configurations)),
        list(map(repr, second.device_configurations)),
    )
    graphs, counterparts = dict(scopes(first)), dict(scopes(second))
    yield from unequal("scopes", list(graphs), list(counterparts))
    for name in graphs:
        if name in counterparts:
            yield from _graphs(name or "main graph", graphs[name], counterparts[name])


def _graphs(
    where: str, first: ir.Graph | ir.Function, second: ir.Graph | ir.Function
) -> Iterator[str]:
    for field in ("name", "doc_string"):
        one, other = getattr(first, field), getattr(second, field)
        yield from unequal(f"{where} {field}", one or None, other or None)
    yield from unequal(f"{where} metadata", _metadata(first), _metadata(second))
    yield from unequal(f"{where} inputs", _values(first.inputs), _values(second.inputs))
    yield from unequal(f"{where} outputs", _values(first.outputs), _values(second.outputs))
    yield from unequal(f"{where} descriptions", leftovers(first), leftovers(second))
    if isinstance(first, ir.Function) and isinstance(second, ir.Function):
        yield from unequal(
            f"{where} opset imports", dict(first.opset_imports), dict(second.opset_imports)
        )
        yield from unequal(
            f"{where} attributes",
            _attributes(where, first.attributes.values()),
            _attributes(where, second.attributes.values()),
        )
    elif isinstance(first, ir.Graph) and isinstance(second, ir.Graph):
        yield from _initializers(where, first, second)
    for index, (node, counterpart) in enumerate(itertools.zip_longest(first, second)):
        label = f"{where} node {index}"
        yield from unequal(label, _node(label, node), _node(label, counterpart))


def _initializers(where: str, first: ir.Graph, second: ir.Graph) -> Iterator[str]:
    one, other = first.initializers, second.initializers
    yield from unequal(f"{where} initializers", list(one), list(other))
    for name in one:
        if name not in other:
            continue
        label = f"{where} initializer {name!r}"
        yield from unequal(label, _value(one[name]), _value(other[name]))
        notes = [_notes(side[name].const_value) for side in (one, other)]
        yield from unequal(f"{label} notes", *notes)
        if not _same_tensor(label, one[name].const_value, other[name].const_value):
            yield f"{label}: the contents differ"


def _metadata(owner: Any) -> Any:
    return dict(owner.metadata_props), leftovers(owner) if isinstance(owner, ir.Model) else None


def _notes(tensor: ir.TensorProtocol | None) -> Any:
    return None if tensor is None else (tensor.doc_string or None, dict(tensor.metadata_props))


def _same_tensor(
    where: str, first: ir.TensorProtocol | None, second: ir.TensorProtocol | None
) -> bool:
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
    one, other = _array(where, first), _array(where, second)
    if first.dtype == ir.DataType.STRING:
        return bool(np.array_equal(one, other))
    one = np.ascontiguousarray(one).reshape(-1).view(np.uint8)
    other = np.ascontiguousarray(other).reshape(-1).view(np.uint8)
    return all(
        np.array_equal(one[start : start + _CHUNK], other[start : start + _CHUNK])
        for start in range(0, max(one.size, other.size), _CHUNK)
    )


def _array(where: str, tensor: ir.TensorProtocol) -> np.ndarray[Any, Any]:
    try:
        return tensor.numpy()
    except (ValueError, TypeError, OSError) as error:
        # Bytes that are too few for the shape; a data file that is gone.
        raise ModelError(f"{where}: the tensor cannot be read: {one_line(error)}") from error


def _values(values: Any) -> list[Any]:
    return [_value(value) for value in values]


def _value(value: ir.Value) -> tuple[Any, ...]:
    metadata = tuple(sorted(value.metadata_props.items()))
    # Where onnx-ir keeps the quantization annotation of a value.
    scales = tuple(sorted(value.meta.get("quant_parameter_tensor_names", {}).items()))
    description = (str(value.type), _denotations(value.type), _shape(value.shape))
    return value.name, *description, value.doc_string or None, metadata, scales


def _shape(shape: ir.Shape | None) -> Any:
    if shape is None:
        return None
    # A free size may be called "3", or "None": neither is the same as the number or nothing.
    sizes = tuple(size if isinstance(size, int) else (size.value,) for size in shape)
    names = tuple(shape.get_denotation(axis) or None for axis in range(len(shape)))
    return (sizes, names) if any(names) else sizes


def _denotations(kind: ir.TypeProtocol | None) -> tuple[str, ...]:
    found = []
    while kind is not None and not isinstance(kind, ir.DataType):
        found.append(kind.denotation or "")
        kind = getattr(kind, "elem_type", None)
    return tuple(found) if any(found) else ()


def _node(where: str, node: ir.Node | None) -> Any:
    if node is None:
        return None
    devices = [
        ir.serde.serialize_node_device_configuration(entry).SerializeToString(deterministic=True)
        for entry in node.device_configurations
    ]
    return (
        node.name,
        (node.domain, node.op_type, node.overload),
        [None if value is None else value.name for value in node.inputs],
        _values(node.outputs),
        _attributes(where, node.attributes.values()),
        node.doc_string or None,
        sorted(node.metadata_props.items()),
        leftovers(node),
        devices,
    )


def _attributes(where: str, attributes: Any) -> dict[str, Any]:
    return {
        attribute.name: (_attribute(where, attribute), attribute.doc_string or None)
        for attribute in attributes
    }


def _attribute(where: str, attribute: ir.Attr) -> Any:
    if attribute.is_ref():
        return attribute.type, attribute.ref_attr_name
    value = attribute.value
    if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return attribute.type  # Subgraphs are scopes of their own.
    if attribute.type == ir.AttributeType.TENSOR:
        return attribute.type, _constant(where, value)
    if attribute.type == ir.AttributeType.TENSORS:
        return attribute.type, [_constant(where, tensor) for tensor in value]
    if attribute.type in (ir.AttributeType.FLOAT, ir.AttributeType.FLOATS):
        return attribute.type, np.asarray(value, np.float32).tobytes()  # NaN equals itself
    if attribute.type in (ir.AttributeType.TYPE_PROTO, ir.AttributeType.TYPE_PROTOS):
        kinds = value if isinstance(value, (list, tuple)) else [value]
        return attribute.type, [
            (str(kind.type), _denotations(kind.type), _shape(kind.shape)) for kind in kinds
        ]
    if isinstance(value, (list, tuple)):
        return attribute.type, tuple(value)
    return attribute.type, value if isinstance(value, (int, str, bytes)) else str(value)


def _constant(where: str, tensor: ir.TensorProtocol) -> Any:
    array = _array(where, tensor)
    content = array.tolist() if tensor.dtype == ir.DataType.STRING else array.tobytes()
    return tensor.name or None, tensor.dtype, tuple(tensor.shape), content, _notes(tensor)
