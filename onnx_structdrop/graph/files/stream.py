"""Writing a model file piece by piece: weights go from where they are to the file, one at a time.

A message in protobuf's format is a sequence of fields, each a tag and its content, and of a nested
message the length comes first. So the model is converted without the content of its large
weights, and that is put in on the way to the file: the bytes are those of the whole message, which
is never in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
from google.protobuf.unknown_fields import UnknownFieldSet  # type: ignore[import-untyped]

from onnx_structdrop.graph.files.tensors import ProtoTensor, is_unloaded, subgraphs_of, tensor_slots

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["UnevenError", "fits", "hollow", "pieces"]

_LARGE = 16 * 1024
"""Bytes from which a weight is written by itself."""

_LENGTH_DELIMITED = 2
_FIXED = {1: 8, 5: 4}
_GRAPH = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_INITIALIZER = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
_RAW_DATA = onnx.TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number
_TYPED_FIELDS = (
    "float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data",
    "external_data",
)  # fmt: skip


class UnevenError(ValueError):
    """A weight is longer or shorter than its type and shape say."""


def fits(model: ir.Model, limit: int) -> bool:
    """Tell whether a model can be written as it is, into one file and without a private copy.

    Parameters
    ----------
    model
        Is only read.
    limit
        Bytes that its tensors may have, all together.
    """
    size = 0
    for tensor, _, _ in tensor_slots(model):
        if isinstance(tensor, ir.ExternalTensor) or is_unloaded(tensor):
            return False
        if tensor.dtype == ir.DataType.UNDEFINED:
            return False
        size += tensor.nbytes
    roots = (model.graph, *(function.graph for function in model.functions.values()))
    return size <= limit and all(_is_in_order(root, set()) for root in roots)


def _is_in_order(graph: ir.Graph, known: set[ir.Value]) -> bool:
    """Tell whether values precede their uses, and tensors have the names of their values."""
    for name, value in graph.initializers.items():
        # Conversion to a proto renames a tensor, which may be the caller's.
        if value.const_value is None or not name == value.name == value.const_value.name:
            return False
    known.update(graph.inputs, graph.initializers.values())
    for node in graph:
        if any(value is not None and value not in known for value in node.inputs):
            return False
        if not all(_is_in_order(subgraph, known) for subgraph in subgraphs_of(node)):
            return False
        known.update(node.outputs)
    return known.issuperset(graph.outputs)


def hollow(tensor: ir.TensorProtocol | None) -> ProtoTensor | None:
    """Return a large tensor without its content, or None for one that is better left whole.

    Parameters
    ----------
    tensor
        What an initializer holds. It is not changed.
    """
    if type(tensor) is ir.Tensor:
        if not _is_large(tensor):
            return None
        header = onnx.TensorProto(name=tensor.name, doc_string=tensor.doc_string or None)
    elif isinstance(tensor, ir.TensorProtoTensor):
        if not (_is_large(tensor) and _is_raw(tensor.raw)):
            return None
        raw = tensor.raw
        header = onnx.TensorProto(name=raw.name, metadata_props=raw.metadata_props)
        if raw.HasField("doc_string"):
            header.doc_string = raw.doc_string
    else:
        return None
    header.data_type = int(tensor.dtype)
    header.dims.extend(tensor.shape.numpy())
    empty = ProtoTensor(header)
    empty.metadata_props.clear()
    empty.metadata_props.update(tensor.metadata_props)
    return empty


def _is_large(tensor: ir.TensorProtocol) -> bool:
    dtype = tensor.dtype
    if dtype in (ir.DataType.UNDEFINED, ir.DataType.STRING) or dtype.bitwidth < 8:
        return False
    return tensor.nbytes >= _LARGE


def _is_raw(proto: onnx.TensorProto) -> bool:
    """Tell whether the content is in ``raw_data``, and all else is what a header has."""
    return (
        proto.HasField("raw_data")
        and proto.HasField("name")
        and not proto.HasField("segment")
        and not proto.HasField("data_location")
        and not any(len(getattr(proto, name)) for name in _TYPED_FIELDS)
        and not len(UnknownFieldSet(proto))
    )


def pieces(
    proto: onnx.ModelProto, weights: Mapping[int, ir.TensorProtocol]
) -> tuple[int, Iterator[bytes]]:
    """Return the length of a model file, and its content piece by piece.

    Parameters
    ----------
    proto
        The model, in which some initializers lack their content. Its graph is taken out.
    weights
        Those tensors, by position among the initializers; each has the content that its type and
        shape ask for, or an `UnevenError` ends the pieces.
    """
    initializers = [
        _Initializer(tensor.SerializeToString(), weights.get(place))
        for place, tensor in enumerate(proto.graph.initializer)
    ]
    del proto.graph.initializer[:]
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    model = proto.SerializeToString()
    before, after = _place(model, _GRAPH), _place(graph, _INITIALIZER)
    size = len(graph) + sum(initializer.size for initializer in initializers)
    start = _tag(_GRAPH) + _number(size)

    def content() -> Iterator[bytes]:
        yield model[:before] + start + graph[:after]
        for initializer in initializers:
            yield from initializer.pieces()
        yield graph[after:] + model[before:]

    return len(model) + len(start) + size, content()


class _Initializer:
    """An initializer of a graph, with its tag."""

    def __init__(self, header: bytes, weight: ir.TensorProtocol | None) -> None:
        self._weight = weight
        self._length = 0 if weight is None else weight.nbytes
        split = len(header)
        inner = b""
        if weight is not None:
            split, inner = _place(header, _RAW_DATA), _tag(_RAW_DATA) + _number(self._length)
        length = len(header) + len(inner) + self._length
        self._head = _tag(_INITIALIZER) + _number(length) + header[:split] + inner
        self._tail = header[split:]
        self.size = len(self._head) + self._length + len(self._tail)

    def pieces(self) -> Iterator[bytes]:
        yield self._head
        if self._weight is not None:
            weight = self._weight
            raw = weight.raw.raw_data if isinstance(weight, ir.TensorProtoTensor) else None
            content = weight.tobytes() if raw is None else raw
            if len(content) != self._length:
                raise UnevenError(f"{len(content)} bytes instead of {self._length}")
            yield content
        yield self._tail


def _place(message: bytes, number: int) -> int:
    """Return where in a serialised message a field of this number belongs."""
    position = 0
    while position < len(message):
        tag, content = _read(message, position)
        if tag >> 3 > number:
            break
        if tag & 7 == _LENGTH_DELIMITED:
            length, content = _read(message, content)
            position = content + length
        elif tag & 7 in _FIXED:
            position = content + _FIXED[tag & 7]
        else:
            _, position = _read(message, content)
    return position


def _read(message: bytes, position: int) -> tuple[int, int]:
    """Return the number at a position, and the position behind it."""
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _tag(number: int) -> bytes:
    return _number(number << 3 | _LENGTH_DELIMITED)


def _number(value: int) -> bytes:
    written = bytearray()
    while value >= 0x80:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)
