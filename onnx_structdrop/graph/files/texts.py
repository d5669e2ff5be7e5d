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
from onnx_structdrop.graph.files.wellformed import quoted

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor  # type: ignore[import-untyped]

__all__ = ["check_text"]


def check_text(message: Message) -> None:
    """Check that every text in `message`, at any depth, is text.

    Raises
    ------
    ModelError
        At the first one that is not; names the field.
    """
    if isinstance(message, onnx.TensorProto):
        # Listing its fields would copy the weights.
        _check_decoded(message.name, message, "name")
        _check_decoded(message.doc_string, message, "doc_string")
        for entry in (*message.external_data, *message.metadata_props):
            check_text(entry)
        return
    if isinstance(message, onnx.ValueInfoProto) and _is_plain_text(message):
        return
    if isinstance(message, onnx.NodeProto) and _reads_as_text(message):
        for part in (*message.attribute, *message.metadata_props, *message.device_configurations):
            check_text(part)
        return
    texts = _texts(message.DESCRIPTOR)
    for field, value in message.ListFields():
        is_text = texts.get(field.number)
        if is_text is None:
            continue
        if is_text:
            for text in (value,) if isinstance(value, str | bytes) else value:
                _check_decoded(text, message, field.name)
        else:
            for each in (value,) if isinstance(value, Message) else value:
                check_text(each)


# Most of a model's texts are in nodes and descriptions, and are asked for without a list of
# fields: joining what is not text fails.


def _is_plain_text(info: onnx.ValueInfoProto) -> bool:
    """Tell whether a description of a tensor, without metadata, has nothing but text for text."""
    kind = info.type
    if info.metadata_props or kind.WhichOneof("value") != "tensor_type":
        return False
    texts = [info.name, info.doc_string, kind.denotation]
    for dim in kind.tensor_type.shape.dim:
        texts += (dim.dim_param, dim.denotation)
    try:
        "".join(texts)
    except TypeError:
        return False
    return True


def _reads_as_text(node: onnx.NodeProto) -> bool:
    """Tell whether all texts of a node itself are text."""
    own = (node.name, node.op_type, node.domain, node.overload, node.doc_string)
    try:
        "".join((*own, *node.input, *node.output))
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
