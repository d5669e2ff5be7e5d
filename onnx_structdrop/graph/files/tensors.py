"""Tensors of a model: sharing their data safely, and every place that holds one."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir

from onnx_structdrop.errors import ModelError
from onnx_structdrop.graph.files.wellformed import one_line, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy.typing as npt

__all__ = [
    "ProtoTensor",
    "all_graphs",
    "content",
    "is_unloaded",
    "proto_tensors",
    "subgraphs_of",
    "tensor_slots",
    "unshared",
    "with_subgraphs",
]


_PACKED = frozenset(
    dtype
    for dtype in ir.DataType
    if dtype not in (ir.DataType.UNDEFINED, ir.DataType.STRING) and dtype.bitwidth < 8
)
"""Element types of which a byte holds several."""


class ProtoTensor(ir.TensorProtoTensor):
    """A tensor in a proto that may belong to the caller: shared for reading, copied to rename."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """Name of the tensor; setting it leaves the proto that was given as it is."""
        return self._proto.name

    @name.setter
    def name(self, value: str | None) -> None:
        if (value or "") == self._proto.name:
            return
        renamed = onnx.TensorProto()
        renamed.CopyFrom(self._proto)
        renamed.name = value or ""
        self._proto = renamed

    @property
    def is_annotated(self) -> bool:
        """Whether it may have metadata, or had some, or anything in its ``meta``."""
        written = self.metadata_props or self._proto.metadata_props
        return bool(written) or bool(getattr(self, "_metadata", True))

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self._proto.dims)

    @property
    def nbytes(self) -> int:
        """Number of bytes that type and shape make."""
        return -(-self.size * self.dtype.bitwidth // 8)

    def numpy(self) -> npt.NDArray[Any]:
        """Return the values; a `ModelError` if there are none, or not as many as the shape says."""
        self._require_data()
        try:
            return super().numpy()
        except (AssertionError, TypeError, ValueError) as error:
            raise ModelError(f"tensor {quoted(self.name)} is broken: {one_line(error)}") from error

    def tobytes(self) -> bytes:
        """Return the bytes, as `numpy` does the values."""
        self._require_data()
        return super().tobytes()

    def _require_data(self) -> None:
        if is_unloaded(self):
            raise ModelError(
                f"tensor {quoted(self.name)} has external data that was not loaded with the "
                "model: read the file with onnx_structdrop.load(path), or let onnx.load load it"
            )
        # onnx-ir would make up zeros, of any number: where there are none at all, and where
        # packed ones are too few.
        needed = math.prod(self._proto.dims)
        if needed > 0 and not _has_data(self._proto):
            raise ModelError(
                f"tensor {quoted(self.name)} holds no values, but its shape asks for {needed}: "
                "the weights were stripped from the model"
            )
        packed = len(self._proto.raw_data) or len(self._proto.int32_data)
        if self.dtype in _PACKED and needed * self.dtype.bitwidth > 8 * packed:
            raise ModelError(
                f"tensor {quoted(self.name)} holds {packed} bytes, too few for "
                f"{needed} values of type {self.dtype.name}"
            )


def _has_data(proto: onnx.TensorProto) -> bool:
    if proto.data_type == onnx.TensorProto.STRING:
        return bool(proto.string_data)
    return proto.HasField("raw_data") or any(map(len, (
        proto.float_data, proto.int32_data, proto.int64_data, proto.double_data,
        proto.uint64_data,
    )))  # fmt: skip


def is_unloaded(tensor: ir.TensorProtocol) -> bool:
    """Tell whether the data of `tensor` are in a file of an unknown folder."""
    return isinstance(tensor, ProtoTensor) and tensor.raw.data_location == onnx.TensorProto.EXTERNAL


def content(tensor: ir.TensorProtocol) -> npt.NDArray[Any] | None:
    """Return the values of a tensor, or None where they cannot be read, for who can do without."""
    try:
        return tensor.numpy()
    except (OSError, ValueError, TypeError, NotImplementedError):
        return None  # A missing data file, or not as many values as the shape says.


def unshared(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return another object for the same data, so that renaming it stays private."""
    if type(tensor) is ir.TensorProtoTensor:
        return ProtoTensor(tensor.raw)
    if type(tensor) is ProtoTensor and not tensor.is_annotated:
        return ProtoTensor(tensor.raw)  # As a copy, in a third of the time.
    return copy.copy(tensor)


def all_graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """Yield every graph of `model`: the main one, function bodies, and all subgraphs."""
    for root in (model.graph, *(function.graph for function in model.functions.values())):
        yield from with_subgraphs(root)


def with_subgraphs(root: ir.Graph) -> list[ir.Graph]:
    """Return a graph and its subgraphs, at any depth, each in front of those inside it."""
    # Graph.subgraphs does the same, in several times the time.
    found: dict[ir.Graph, None] = {root: None}
    pending = [iter(root)]
    while pending:
        for node in pending[-1]:
            subgraphs = subgraphs_of(node)
            if subgraphs:
                found.update(dict.fromkeys(subgraphs))
                pending += [iter(subgraph) for subgraph in reversed(subgraphs)]
                break
        else:
            pending.pop()
    return list(found)


def subgraphs_of(node: ir.Node) -> Sequence[ir.Graph]:
    """Return the graphs in the attributes of a node."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.data.values():
        kind = attribute.type
        if kind == ir.AttributeType.GRAPH and not attribute.is_ref():
            found.append(attribute.as_graph())
        elif kind == ir.AttributeType.GRAPHS and not attribute.is_ref():
            found += attribute.as_graphs()
    return found


def proto_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor in `model`, wherever a proto can hold one."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)
        yield from _attribute_tensors(function.attribute_proto)
    for training in model.training_info:
        yield from _graph_tensors(training.initialization)
        yield from _graph_tensors(training.algorithm)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        if node.attribute:
            yield from _attribute_tensors(node.attribute)


def _attribute_tensors(attributes: Iterable[onnx.AttributeProto]) -> Iterator[onnx.TensorProto]:
    for attribute in attributes:
        # Whatever the declared type: a field that is set can be read by somebody.
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("g"):
            yield from _graph_tensors(attribute.g)
        for graph in attribute.graphs:
            yield from _graph_tensors(graph)
        if attribute.HasField("sparse_tensor"):
            yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
        for sparse in attribute.sparse_tensors:
            yield from (sparse.values, sparse.indices)


def tensor_slots(
    model: ir.Model,
) -> Iterator[tuple[ir.TensorProtocol, Callable[[ir.TensorProtocol], None], bool]]:
    """Yield every tensor, how to put another in its place, and whether it is an initializer."""
    for graph in all_graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value, partial(setattr, value, "const_value"), True
        for node in graph:
            if node.attributes.data:
                yield from _attribute_slots(node.attributes)
    for function in model.functions.values():
        yield from _attribute_slots(function.attributes)


def _attribute_slots(
    attributes: Any,
) -> Iterator[tuple[ir.TensorProtocol, Callable[[ir.TensorProtocol], None], bool]]:
    for attribute in list(attributes.data.values()):
        if attribute.is_ref() or attribute.value is None:
            continue
        if attribute.type == ir.AttributeType.TENSOR:
            yield attribute.value, partial(_put, attributes, attribute.name, None), False
        elif attribute.type == ir.AttributeType.TENSORS:
            for index, tensor in enumerate(attribute.value):
                yield tensor, partial(_put, attributes, attribute.name, index), False


def _put(attributes: Any, name: str, index: int | None, tensor: ir.TensorProtocol) -> None:
    old = attributes[name]
    if index is None:
        attributes.add(ir.AttrTensor(name, tensor, doc_string=old.doc_string))
        return
    tensors = list(old.value)
    tensors[index] = tensor
    attributes.add(ir.AttrTensors(name, tensors, doc_string=old.doc_string))
