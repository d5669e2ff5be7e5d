"""What a graph says of its nodes' values, read and written once per type instead of per value.

The values of a net have few different types, and onnx-ir makes each of them anew, field by field.
Here it makes each type once, for as long as one model is read or written; frozen shapes are shared
among the values that have them. Whatever says more than a tensor's type is left to onnx-ir.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Hashable

    import onnx

__all__ = ["Descriptions", "Types", "has_notes", "is_plain"]

_NOTES = "_metadata" if "_metadata" in getattr(ir.Value, "__slots__", ()) else "meta"
"""Asking a value for its ``meta`` makes one, which stays. Most have none.

Quantization annotations are in there."""


_NONE = (None, None)


class _Kind(NamedTuple):
    """Type and shape of a tensor."""

    dtype: ir.DataType
    denotation: str | None
    shape: ir.Shape | None


class Descriptions:
    """The descriptions in a graph, sorted by who reads them.

    Parameters
    ----------
    graph
        Is only read.

    Attributes
    ----------
    rest : list of onnx.ValueInfoProto
        Those that are left to onnx-ir.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        others = {tensor.name for tensor in graph.initializer}
        known: dict[bytes, _Kind | None] = {}
        self.rest: list[onnx.ValueInfoProto] = []
        self._kinds: dict[str, _Kind] = {}
        # Of several descriptions of one name, the last counts.
        for name, info in {info.name: info for info in graph.value_info}.items():
            kind = None
            if name and not (info.doc_string or info.metadata_props or name in others):
                content = info.type.SerializeToString()
                if content in known:
                    kind = known[content]
                else:
                    kind = known[content] = _read(info)
            if kind is None:
                self.rest.append(info)
            else:
                self._kinds[name] = kind

    def describe(self, graph: ir.Graph, *, share: bool) -> None:
        """Give types and shapes to what nodes make.

        Parameters
        ----------
        graph
            Just read, without these descriptions.
        share
            Whether values may have a shape together. It is frozen, but for the meanings of its
            axes.
        """
        find = self._kinds.get
        for node in graph:
            for value in node.outputs:
                kind = find(value.name or "")
                if kind is not None:
                    value.type = ir.TensorType(kind.dtype, denotation=kind.denotation)
                    shape = kind.shape
                    value.shape = shape if share or shape is None else shape.copy(frozen=True)


def _read(info: onnx.ValueInfoProto) -> _Kind | None:
    if info.type.WhichOneof("value") != "tensor_type":
        return None
    value = ir.serde.deserialize_value_info_proto(info, None)
    kind = value.type
    if type(kind) is not ir.TensorType:
        return None
    return _Kind(kind.dtype, kind.denotation, value.shape)


class Types:
    """The types of values, each written once."""

    def __init__(self) -> None:
        self._written: dict[Hashable, onnx.TypeProto] = {}
        # By the identity of a shape, which is kept alive for that.
        self._shared: dict[Hashable, tuple[ir.Shape | None, onnx.TypeProto]] = {}

    def write(self, value: ir.Value) -> onnx.TypeProto | None:
        """Return the type of a plain value, for a description of it; None if it has none."""
        kind, shape = value.type, value.shape
        if kind is None:
            return None
        # Enumerations are hashed in Python, many times slower than integers.
        shared = id(shape), int(kind.dtype), kind.denotation
        _, written = self._shared.get(shared, _NONE)
        if written is None:
            content: Hashable = None
            if shape is not None:
                content = shape.dims, *map(shape.get_denotation, range(len(shape)))
            key = content, *shared[1:]
            written = self._written.get(key)
            if written is None:
                written = self._written[key] = ir.serde.serialize_value(value).type
            self._shared[shared] = shape, written
        return written


def is_plain(value: ir.Value) -> bool:
    """Tell whether no more than its name and the type of a tensor is to be said of a value."""
    if value.doc_string or value.metadata_props or getattr(value, _NOTES):
        return False
    kind = value.type
    return value.shape is None if kind is None else type(kind) is ir.TensorType


def has_notes(value: ir.Value) -> bool:
    """Tell whether there is anything in the ``meta`` of a value."""
    return bool(getattr(value, _NOTES))
