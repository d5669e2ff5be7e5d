"""Whether the texts of a proto are text.

protobuf hands out bytes where a text is not UTF-8, whatever its type annotations say, and whoever
reads them fails at some later place.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import Message  # type: ignore[import-untyped]

from onnx_structdrop.errors import ModelError
from onnx_structdrop.graph.files.wellformed import NUMBERS, quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.descriptor import Descriptor  # type: ignore[import-untyped]

__all__ = ["check_text"]


def check_text(message: Message) -> None:
    """Check that every text in `message`, at any depth, is text.

    Raises
    ------
    ModelError
        At the first one that is not; names the field.
    """
    _Check().message(message)


class _Check:
    """One walk over a message; of equal types, and equal attributes, it looks at one."""

    def __init__(self) -> None:
        self._types: set[bytes] = set()
        self._attributes: set[bytes] = set()

    def message(self, message: Message) -> None:
        # Most of a model's texts are in nodes and descriptions, and are asked for without a list
        # of fields.
        if isinstance(message, onnx.NodeProto) and _is_text(message):
            for attribute in message.attribute:
                if attribute.type in NUMBERS and not attribute.HasField("t"):
                    self._once(attribute, self._attributes)
                else:
                    self._fields(attribute)
            self._all(message.metadata_props)
            self._all(message.device_configurations)
        elif isinstance(message, onnx.ValueInfoProto) and _joins(
            [message.name, message.doc_string]
        ):
            self._once(message.type, self._types)
            self._all(message.metadata_props)
        elif isinstance(message, onnx.TensorProto):
            # Listing its fields would copy the weights.
            _check_decoded(message.name, message, "name")
            _check_decoded(message.doc_string, message, "doc_string")
            self._all(message.external_data)
            self._all(message.metadata_props)
        else:
            self._fields(message)

    def _all(self, messages: Sequence[Message]) -> None:
        if messages:
            for message in messages:
                self.message(message)

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
                self._all((value,) if isinstance(value, Message) else value)


def _is_text(node: onnx.NodeProto) -> bool:
    """Tell whether all texts of a node itself are text."""
    own = [node.name, node.op_type, node.domain, node.overload, node.doc_string]
    return _joins(own + node.input[:] + node.output[:])


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
