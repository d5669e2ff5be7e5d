"""Shapes and element types of every value, by shape inference on a private copy without weights."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from onnx_structdrop.graph.files.tensors import is_unloaded
from onnx_structdrop.graph.topology.propagation import LongVectors
from onnx_structdrop.schema import DOMAIN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onnx_structdrop.graph.topology.dataflow import Scope

__all__ = ["Dim", "Shapes"]

logger = logging.getLogger(__name__)

Dim = int | str | None
"""A size, the name of a free size, or None for an unknown one."""

# Tensors up to this size are kept for inference: they are shapes, axes and scales.
_KEPT_BYTES = 1024

_SHAPE_KEEPING = frozenset({"BiasGelu", "FastGelu", "Gelu", "QuickGelu"})

_Key = tuple[str, ...]
_Infos = dict[str, onnx.TypeProto]


class Shapes:
    """Shapes and element types, inferred where the model does not say.

    Parameters
    ----------
    model : onnx_ir.Model
        The model; it is only read, and its weights are not.
    scopes : iterable of Scope
        Its graphs.
    """

    def __init__(self, model: ir.Model, scopes: Iterable[Scope]) -> None:
        self._infos: dict[ir.Value, onnx.TypeProto] = {}
        self._dims: dict[ir.Value, tuple[Dim, ...] | None] = {}
        # By the identity of a shape, which is kept alive for that: many values may share one.
        self._sizes: dict[int, tuple[ir.Shape, tuple[Dim, ...]]] = {}
        self._symbols: set[str] = set()
        scopes = list(scopes)
        if all(self._is_settled(value) for scope in scopes for node in scope.nodes
               for value in node.outputs):  # fmt: skip
            return
        self._symbols = _symbols(model)
        inferred = _infer(model)
        tables: dict[_Key, _Infos] = {}
        if inferred is not None:
            _collect(inferred.graph, tables)
        for scope in scopes:
            table = tables.get(_key(scope), {})
            for node in scope.nodes:
                for value in node.outputs:
                    if value.name in table:
                        self._infos[value] = table[value.name]

    def dims(self, value: ir.Value | None) -> tuple[Dim, ...] | None:
        """Return the shape of a value, or None where even the rank is unknown."""
        if value is None:
            return None
        if value not in self._dims:
            self._dims[value] = self._read(value)
        return self._dims[value]

    def _read(self, value: ir.Value) -> tuple[Dim, ...] | None:
        if value in self._infos:
            tensor = self._infos[value].tensor_type
            if tensor.HasField("shape"):
                return tuple(self._dim(dim) for dim in tensor.shape.dim)
        if value.shape is not None:
            return self._given(value.shape)
        if value.const_value is not None:
            return tuple(int(size) for size in value.const_value.shape.numpy())
        return None

    def dtype(self, value: ir.Value) -> ir.DataType | None:
        """Return the element type of a value."""
        if value.dtype is None and value in self._infos:
            number = self._infos[value].tensor_type.elem_type
            return ir.DataType(number) if number else None
        return value.dtype

    def _given(self, shape: ir.Shape) -> tuple[Dim, ...]:
        known = self._sizes.get(id(shape))
        if known is None:
            sizes = tuple(dim if isinstance(dim, int) else dim.value for dim in shape)
            known = self._sizes[id(shape)] = shape, sizes
        return known[1]

    def _is_settled(self, value: ir.Value) -> bool:
        """Tell whether inference has nothing to add: it never contradicts a size that is given."""
        if not value.name:
            return True
        kind, shape = value.type, value.shape
        if not isinstance(kind, ir.TensorType) or kind.dtype == ir.DataType.UNDEFINED:
            return False
        return shape is not None and all(isinstance(size, int) for size in self._given(shape))

    def _dim(self, dim: onnx.TensorShapeProto.Dimension) -> Dim:
        if dim.HasField("dim_value"):
            return int(dim.dim_value)
        # Inference invents names for sizes it cannot tell; those say nothing.
        return dim.dim_param if dim.dim_param in self._symbols else None


def _symbols(model: ir.Model) -> set[str]:
    values = [*model.graph.inputs, *model.graph.outputs]
    values += [value for node in model.graph for value in node.outputs]
    return {
        dim.value
        for value in values
        if value.shape is not None
        for dim in value.shape
        if not isinstance(dim, int) and dim.value
    }


def _key(scope: Scope) -> _Key:
    if scope.parent is None or scope.owner is None or scope.function is not None:
        return () if scope.function is None else (scope.name,)
    return (*_key(scope.parent), _owner_name(scope.owner.outputs), scope.attribute)


def _owner_name(outputs: Iterable[ir.Value]) -> str:
    return next((value.name for value in outputs if value.name), "")


def _collect(graph: onnx.GraphProto, tables: dict[_Key, _Infos]) -> None:
    pending: list[tuple[_Key, onnx.GraphProto]] = [((), graph)]
    while pending:
        key, current = pending.pop()
        tables[key] = {
            info.name: info.type
            for infos in (current.value_info, current.output)
            for info in infos
            if info.type.HasField("tensor_type")
        }
        for node in current.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    owner = next((name for name in node.output if name), "")
                    pending.append(((*key, owner, attribute.name), attribute.g))


def _infer(model: ir.Model) -> onnx.ModelProto | None:
    try:
        skeleton = _skeleton(model)
    except Exception as error:  # noqa: BLE001 - what onnx-ir cannot write has many kinds of errors
        logger.debug("the model cannot be written for shape inference: %s", error)
        return None
    plain: onnx.ModelProto | None = None
    long = LongVectors(skeleton, skeleton)
    if long.uses or long.in_bodies:
        plain = _inferred(skeleton, data_prop=False)
        if plain is None:
            return None
        long = LongVectors(skeleton, plain)
        if long.in_bodies:
            return plain
        long.hide()
    followed = _inferred(skeleton, data_prop=True)
    return followed or plain or _inferred(skeleton, data_prop=False)


def _inferred(skeleton: onnx.ModelProto, *, data_prop: bool) -> onnx.ModelProto | None:
    try:
        return onnx.shape_inference.infer_shapes(skeleton, data_prop=data_prop)
    except Exception as error:  # noqa: BLE001 - the C++ side raises many kinds
        logger.debug("shape inference (data_prop=%s) failed: %s", data_prop, error)
        return None


def _skeleton(model: ir.Model) -> onnx.ModelProto:
    """Return the model as a proto without weights, ready for shape inference."""
    proto = onnx.ModelProto(ir_version=model.ir_version)
    for domain, version in model.opset_imports.items():
        proto.opset_import.add(domain="" if domain == "ai.onnx" else domain, version=version)
    for function in model.functions.values():
        proto.functions.append(ir.serde.serialize_function(function))
    graph, source = proto.graph, model.graph
    graph.name = source.name or "graph"
    given = set()
    for value in source.inputs:
        given.add(value.name)
        graph.input.append(ir.serde.serialize_value(value))
    for value in source.initializers.values():
        tensor = value.const_value
        small = tensor is not None and tensor.nbytes <= _KEPT_BYTES
        kept = _tensor(tensor, value.name) if small and tensor is not None else None
        if kept is not None:
            graph.initializer.append(kept)
        elif value.name not in given:
            _declare(graph, value, tensor)
    for node in source:
        _add_node(graph, node)
        for value in node.outputs:
            if value.name and value.type is not None and not value.is_graph_output():
                graph.value_info.append(ir.serde.serialize_value(value))
    for value in source.outputs:
        graph.output.append(ir.serde.serialize_value(value))
    return proto


def _add_node(graph: onnx.GraphProto, node: ir.Node) -> None:
    keeps = node.domain == DOMAIN or (
        node.domain == "com.microsoft" and node.op_type in _SHAPE_KEEPING
    )
    if keeps and node.inputs and node.inputs[0] is not None:
        # Our own nodes and fused activations keep shapes, but inference does not know that.
        graph.node.add(
            op_type="Identity", input=[node.inputs[0].name], output=[node.outputs[0].name]
        )
        return
    if node.op_type == "Constant" and not node.domain:
        attribute = node.attributes.get("value")
        if attribute is not None and attribute.type == ir.AttributeType.TENSOR:
            tensor = None if attribute.is_ref() else attribute.as_tensor()
            if tensor is not None and tensor.nbytes > _KEPT_BYTES:
                _declare(graph, node.outputs[0], tensor)
                return
    graph.node.append(ir.serde.serialize_node(node))


def _declare(graph: onnx.GraphProto, value: ir.Value, tensor: ir.TensorProtocol | None) -> None:
    """Add a value as an input of the graph: its shape and type without its numbers."""
    if tensor is not None:
        dims = [int(size) for size in tensor.shape.numpy()]
        graph.input.append(
            onnx.helper.make_tensor_value_info(value.name or "", int(tensor.dtype), dims)
        )
    elif value.type is not None:
        graph.input.append(ir.serde.serialize_value(value))


def _tensor(tensor: ir.TensorProtocol, name: str | None) -> onnx.TensorProto | None:
    dims = [int(size) for size in tensor.shape.numpy()]
    proto = onnx.TensorProto(name=name or "", data_type=int(tensor.dtype), dims=dims)
    if tensor.dtype == ir.DataType.STRING or is_unloaded(tensor):
        return None
    try:
        proto.raw_data = tensor.tobytes()
    except (OSError, ValueError) as error:
        logger.debug("tensor %r cannot be read: %s", name, error)
        return None
    return proto
