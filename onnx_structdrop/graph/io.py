"""Reading and writing model files: nothing unchecked is read, nothing is left half written.

Weights above 1 KB that a model keeps outside its file are memory-mapped when they are used and
copied from file to file when they are saved, so a model of any size takes little memory.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
from google.protobuf.message import EncodeError  # type: ignore[import-untyped]

from onnx_structdrop.errors import ArgumentError, ArgumentTypeError, ModelError, OutputError
from onnx_structdrop.graph.collector import uncollected
from onnx_structdrop.graph.convert import as_ir, from_proto, outlined, to_proto
from onnx_structdrop.graph.files.atomic import Replacement
from onnx_structdrop.graph.files.external import (
    check_model_references,
    data_files,
    total_size,
    write_data,
)
from onnx_structdrop.graph.files.parsing import PROTO_LIMIT, parse_file
from onnx_structdrop.graph.files.stream import UnevenError, fits, pieces
from onnx_structdrop.graph.files.targets import (
    check_data_target,
    check_not_data,
    check_target,
    checked_data_name,
    default_data_name,
    is_encodable,
    shown,
)
from onnx_structdrop.graph.files.tensors import proto_tensors
from onnx_structdrop.graph.files.wellformed import check_header, one_line, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

__all__ = ["load", "save"]

_STRUCTURE = 16 * 2**20
"""Room kept for everything but weights when deciding whether a model fits into one file."""


@uncollected()
def load(path: str | os.PathLike[str]) -> ir.Model:
    """Read a model from a file that need not be trusted.

    External data are checked, whatever in the model refers to them, and memory-mapped when they
    are first used: a model of any size loads in little memory. Do not change or truncate data
    files while the model is in use.

    Parameters
    ----------
    path
        An ONNX file in the binary format.

    Returns
    -------
    onnx_ir.Model
        Its nodes are in topological order.

    Raises
    ------
    ModelError
        If there is no such file, it cannot be read, or it is not a complete, consistent ONNX
        model; if external data are missing, too short, or outside the folder of the model, also
        by way of symbolic or hard links.
    UnsupportedModelError
        If the model holds what cannot be kept, such as training information or sparse tensors.

    Examples
    --------
    >>> model = load("resnet18.onnx")  # doctest: +SKIP
    >>> save(model, "copy.onnx")  # doctest: +SKIP
    """
    source = _absolute(path)
    proto = parse_file(source)
    try:
        return from_proto(proto, str(source.parent), share=False)
    except ModelError as error:
        raise type(error)(f"{shown(source)}: {error}") from error.__cause__


@uncollected()
def save(
    model: onnx.ModelProto | ir.Model,
    path: str | os.PathLike[str],
    *,
    external_data: str | None = None,
    overwrite: bool = True,
) -> None:
    """Write a model to a file; on any error, whatever was there before is left as it was.

    A target that is a symbolic link is replaced, not written through. A file that holds weights of
    the model is never replaced by the model file. A replaced file passes on its mode. When the
    data file of a model is replaced as well, both are renamed in immediate succession; only a
    crash of the machine in between can separate them.

    Parameters
    ----------
    model
        Left as it is; tensors that are mapped from files stay valid, also when the model is
        saved over the files it came from: a data file that the model uses is only ever extended,
        and not touched if it holds all the weights already.
    path
        The file to write, in a folder that exists.
    external_data
        Name of a file next to `path` for the weights. By default the weights are in the model
        file if they were and it stays below 2 GB; otherwise in the data file that a model saved
        in place has already, or else in `path` + ".data".
    overwrite
        Whether existing files may be replaced. A data file is replaced only if the model file
        that is being replaced refers to it.

    Raises
    ------
    ArgumentError
        If `external_data` is not the plain name of another file.
    OutputError
        If a file cannot be written, or may not be replaced, such as one that holds weights of
        the model.
    ModelError
        If the model is broken, or its external data cannot be read.
    """
    target = _absolute(path)
    name = checked_data_name(external_data, target)
    with _output_errors(target):
        check_target(target, overwrite=overwrite)
        if name is None and isinstance(model, onnx.ModelProto) and _is_self_contained(model):
            check_header(model)
            _write(target, lambda _: _serialise(model, target))
            return
        limit = PROTO_LIMIT - _STRUCTURE
        if name is None and isinstance(model, ir.Model) and fits(model, limit):
            _stream(model, target)
            return
        private = as_ir(model)
        check_model_references(private)
        files = data_files(private)
        check_not_data(target, files)
        if name is None and (files or total_size(private) > limit):
            name = default_data_name(files, target)
        if name is None:
            _write(target, lambda _: _serialise(to_proto(private), target))
            return
        place = target.with_name(name)
        own = os.path.realpath(place) in files
        check_data_target(place, target, own=own, overwrite=overwrite)

        def create(replacement: Replacement) -> BinaryIO:
            if own and not overwrite:
                raise OutputError(f"cannot write {shown(place)}: it exists; pass overwrite=True")
            return replacement.create(place)

        def content(replacement: Replacement) -> bytes:
            write_data(private, str(place), lambda: create(replacement))
            return _serialise(to_proto(private), target)

        _write(target, content)


def _absolute(path: str | os.PathLike[str]) -> Path:
    """Return an absolute path: what a relative one means must not change while it is used."""
    name = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(name, str):
        raise ArgumentTypeError(
            f"path must be a str or an os.PathLike of str, got {type(path).__name__}"
        )
    if not name or not is_encodable(name):
        raise ArgumentError(f"path must name a file, got {quoted(name)}")
    return Path(name).absolute()


def _is_self_contained(model: onnx.ModelProto) -> bool:
    """Tell whether `model` can be written as it is, without a detour over onnx-ir."""
    size = 0
    for tensor in proto_tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return False
        size += tensor.ByteSize()
    return size <= PROTO_LIMIT - _STRUCTURE


def _serialise(proto: onnx.ModelProto, target: Path) -> bytes:
    content = b""
    with suppress(EncodeError, ValueError):
        content = proto.SerializeToString()
    if not 0 < len(content) <= PROTO_LIMIT:
        raise _too_large(target)
    return content


def _too_large(target: Path) -> OutputError:
    return OutputError(
        f"cannot write {shown(target)}: the model is larger than the {PROTO_LIMIT} bytes "
        "that an ONNX file can have; give external_data a file name"
    )


def _stream(model: ir.Model, target: Path) -> None:
    """Write a model without its weights being in memory twice."""
    size, content = pieces(*outlined(model))
    if size > PROTO_LIMIT:
        raise _too_large(target)
    with Replacement() as replacement:
        file = replacement.create(target)
        try:
            file.writelines(content)
        except UnevenError:
            # Such a weight is broken, but is what was given: the model is written all the same.
            file.seek(0)
            file.truncate()
            file.write(_serialise(to_proto(model), target))
        replacement.commit()


def _write(target: Path, content: Callable[[Replacement], bytes]) -> None:
    with Replacement() as replacement:
        data = content(replacement)
        replacement.create(target).write(data)
        replacement.commit()


@contextmanager
def _output_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = f" ({quoted(str(error.filename))})" if error.filename else ""
        reason = error.strerror or one_line(error)
        raise OutputError(f"cannot write {shown(target)}: {reason}{where}") from error
