"""Whether the texts of a proto are text.

protobuf hands out bytes where a text is not UTF-8, whatever its type annotations say, and whoever
reads them fails at some later place.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import onnx
from google.protobuf.message import Message  # type: ignore[import-untyped]

from onnx_structdrop.errors import ModelError
from onnx_structdrop.graph.files.wellformed import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from google.protobuf.descriptor import Descriptor  # type: ignore[import-untyped]

__all__ = ["check_text"]

_NUMBERS = frozenset(
    map(
        onnx.AttributeProto.AttributeType.Value,
        ("INT", "INTS", "FLOAT", "FLOATS", "STRING", "STRINGS"),
    )
)
"""Types of attributes that hold neither tensors nor graphs nor types."""


def check_text(message: Message) -> None:
    """Check that every text in `message`, at any depth, is text.

    Raises
    ------
    ModelError
        At the first one that is not; names the field.
    """
    _Check().all([message])


class _Check:
    """One walk over a message; of equal types, and equal attributes, it looks at one.

    Most of a model's texts are in nodes, descriptions and tensors, which are asked for them
    without a list of their fields; that of a tensor would copy the weights.
    """

    def __init__(self) -> None:
        self._types: set[bytes] = set()
        self._attributes: set[bytes] = set()
        self._checks: dict[type[Message], Callable[[Any], None]] = {
            onnx.NodeProto: self._node,
            onnx.ValueInfoProto: self._info,
            onnx.TensorProto: self._tensor,
        }

    def all(self, messages: Sequence[Message]) -> None:
        """Check messages of one kind."""
        if messages:
            check = self._checks.get(type(messages[0]), self._fields)
            for message in messages:
                check(message)

    def _node(self, node: onnx.NodeProto) -> None:
        own = [node.name, node.op_type, node.domain, node.overload, node.doc_string]
        if not _joins(own + node.input[:] + node.output[:]):
            self._fields(node)
        for attribute in node.attribute:
            if attribute.type in _NUMBERS and not attribute.HasField("t"):
                self._once(attribute, self._attributes)
            else:
                self._fields(attribute)
        self.all(node.metadata_props)
        self.all(node.device_configurations)

    def _info(self, info: onnx.ValueInfoProto) -> None:
        if not _joins([info.name, info.doc_string]):
            self._fields(info)
        self._once(info.type, self._types)
        self.all(info.metadata_props)

    def _tensor(self, tensor: onnx.TensorProto) -> None:
        _check_decoded(tensor.name, tensor, "name")
        _check_decoded(tensor.doc_string, tensor, "doc_string")
        self.all(tensor.external_data)
        self.all(tensor.metadata_props)

    def _once(self, message: Message, known: set[bytes]) -> None:
        content = message.SerializeToString()
        if content not in known:
            self._fields(message)
            known.add(content)

    def _fields(self, message: Message) -> None:
        texts = _texts(message.DESCRIPTOR)
        for field, value in message.ListFields():
            is_text = texts.get(field.number)
            if is_text is None:
                continue
            if is_text:
                for text in (value,) if isinstance(value, str | bytes) else value:
                    _check_decoded(text, message, field.name)
            else:
                self.all((value,) if isinstance(value, Message) else value)


def _joins(texts: list[str]) -> bool:
    try:
        "".join(texts)
    except TypeError:
        return False
    return True


@cache
def _texts(kind: Descriptor) -> dict[int, bool]:
    """Return the fields that hold text (True) or messages (False); others hold neither."""
    return {
        field.number: field.type == field.TYPE_STRING
        for field in kind.fields
        if field.type in (field.TYPE_STRING, field.TYPE_MESSAGE)
    }


def _check_decoded(text: str | bytes, message: Message, field: str) -> None:
    if isinstance(text, bytes):
        raise ModelError(
            f"{message.DESCRIPTOR.name}.{field} is not UTF-8: {quoted(text.decode('latin-1'))}"
        )
