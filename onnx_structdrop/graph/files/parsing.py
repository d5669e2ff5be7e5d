"""Reading a model file piece by piece: the file and the model are not in memory at once.

What a message in protobuf's format says does not change if it is cut between two fields and the
parts are merged one after the other. Initializers are read and merged one by one, all else at once.
Whatever is out of the ordinary is left to protobuf, as a whole; what is no model at all is named.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from onnx_structdrop.errors import ModelError
from onnx_structdrop.graph.files.wellformed import one_line, quoted

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

__all__ = ["PROTO_LIMIT", "parse", "parse_file"]

PROTO_LIMIT = 2**31 - 1
"""Size in bytes that protobuf allows a message."""

_OTHER_FORMATS = (
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself; run git lfs pull"),
    (0, b"PK\x03\x04", "a zip archive, such as a PyTorch or Keras file"),
    (0, b"\x89HDF", "an HDF5 file, such as a Keras file"),
    (0, b"\x80\x02", "a pickle"),
    (4, b"ORTM", "an ORT format file"),
    (4, b"TFL3", "a TensorFlow Lite file"),
    (0, b"{", "JSON text"),
    (0, b"<", "XML or HTML text"),
)

_LONGEST_MAGIC = max(place + len(magic) for place, magic, _ in _OTHER_FORMATS)

_SMALL = 1 << 20
"""Bytes up to which a file is read as a whole."""

_MOST_FIELDS = 200_000
"""Of a file with more, made up of next to nothing, each would cost more than protobuf does."""

_LONGEST_NUMBER = 10
_VARINT, _LENGTH_DELIMITED = 0, 2
_FIXED = {1: 8, 5: 4}
_GRAPH = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_INITIALIZER = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number


def parse_file(source: Path) -> onnx.ModelProto:
    """Read a model, or say what is wrong with its file.

    Raises
    ------
    ModelError
        If there is no such file, or it is none that can hold a model.
    """
    shown = quoted(str(source))
    try:
        status = source.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ModelError(f"{shown} is a folder, not an ONNX file")
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{shown} is not a regular file")
        if status.st_size > PROTO_LIMIT:
            raise ModelError(
                f"{shown} has {status.st_size} bytes, but an ONNX file cannot have more than "
                f"{PROTO_LIMIT}: larger models keep their weights in external data"
            )
        with source.open("rb") as file:
            start = file.read(_LONGEST_MAGIC)
            if not start:
                raise ModelError(f"{shown} is empty")
            for place, magic, what in _OTHER_FORMATS:
                if start.startswith(magic, place):
                    raise ModelError(f"{shown} is not an ONNX model: it looks like {what}")
            file.seek(0)
            return parse(file, status.st_size)
    except FileNotFoundError:
        raise ModelError(f"{shown} does not exist") from None
    except OSError as error:
        raise ModelError(f"cannot read {shown}: {error.strerror}") from None
    except DecodeError as error:
        raise ModelError(
            f"{shown} is not an ONNX model, or is truncated: {one_line(error)}"
        ) from None


def parse(file: BinaryIO, size: int) -> onnx.ModelProto:
    """Read a model.

    Parameters
    ----------
    file
        Open for reading, at its start.
    size
        Its length in bytes.

    Raises
    ------
    DecodeError
        From protobuf, if the content is no such message.
    OSError
        If it cannot be read.
    """
    if size > _SMALL:
        try:
            return _by_piece(_Fields(file, size))
        except (_OddError, DecodeError):
            file.seek(0)
    model = onnx.ModelProto()
    model.ParseFromString(file.read())
    return model


class _OddError(Exception):
    """The file is not as a serialiser writes it."""


class _Fields:
    """The fields of a message in a file, one after the other."""

    def __init__(self, file: BinaryIO, end: int) -> None:
        self._file = file
        self._end = end
        self._position = 0
        self._count = 0

    def header(self, end: int) -> tuple[int, int, bytes, int] | None:
        """Return number, wire type, the bytes read and the bytes that follow; None at `end`."""
        if self._position == end:
            return None
        self._count += 1
        if self._count > _MOST_FIELDS:
            raise _OddError
        tag, read = self._number()
        kind, length = tag & 7, 0
        if kind == _LENGTH_DELIMITED:
            length, more = self._number()
            read += more
        elif kind == _VARINT:
            read += self._number()[1]
        elif kind in _FIXED:
            length = _FIXED[kind]
        else:
            raise _OddError
        if self._position + length > end:
            raise _OddError
        return tag >> 3, kind, read, length

    def end_of(self, length: int) -> int:
        """Return where what follows ends."""
        return self._position + length

    def read(self, length: int) -> bytes:
        """Return what follows."""
        content = self._file.read(length)
        if len(content) != length:
            raise _OddError
        self._position += length
        return content

    @property
    def end(self) -> int:
        """Length of the file."""
        return self._end

    def _number(self) -> tuple[int, bytes]:
        read = b""
        value = 0
        while len(read) < _LONGEST_NUMBER:
            byte = self.read(1)
            value |= (byte[0] & 0x7F) << 7 * len(read)
            read += byte
            if byte[0] < 0x80:
                return value, read
        raise _OddError


def _by_piece(fields: _Fields) -> onnx.ModelProto:
    model = onnx.ModelProto()
    others = bytearray()
    while (header := fields.header(fields.end)) is not None:
        number, kind, read, length = header
        if number == _GRAPH and kind == _LENGTH_DELIMITED:
            model.graph.SetInParent()
            _merge_graph(model.graph, fields, fields.end_of(length))
        else:
            others += read + fields.read(length)
    model.MergeFromString(bytes(others))
    return model


def _merge_graph(graph: onnx.GraphProto, fields: _Fields, end: int) -> None:
    others = bytearray()
    while (header := fields.header(end)) is not None:
        number, kind, read, length = header
        content = fields.read(length)
        if number == _INITIALIZER and kind == _LENGTH_DELIMITED:
            graph.initializer.add().MergeFromString(content)
        else:
            others += read + content
    graph.MergeFromString(bytes(others))
