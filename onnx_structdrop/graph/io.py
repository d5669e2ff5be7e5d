"""Reading and writing model files: nothing unchecked is read, nothing is left half written.

Weights above 1 KB that a model keeps outside its file are memory-mapped when they are used and
copied from file to file when they are saved, so a model of any size takes little memory.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]

from onnx_structdrop.errors import ArgumentError, ArgumentTypeError, ModelError, OutputError
from onnx_structdrop.graph.collector import uncollected
from onnx_structdrop.graph.convert import as_ir, from_proto, outlined, to_proto
from onnx_structdrop.graph.files.atomic import Replacement
from onnx_structdrop.graph.files.external import (
    check_model_references,
    data_files,
    refers_to,
    total_size,
    write_data,
)
from onnx_structdrop.graph.files.parsing import parse
from onnx_structdrop.graph.files.stream import UnevenError, fits, pieces
from onnx_structdrop.graph.files.tensors import proto_tensors
from onnx_structdrop.graph.files.texts import check_text
from onnx_structdrop.graph.files.wellformed import check_header, one_line, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

__all__ = ["load", "save"]

_PROTO_LIMIT = 2**31 - 1
"""Size in bytes that protobuf allows a message."""

_STRUCTURE = 16 * 2**20
"""Room kept for everything but weights when deciding whether a model fits into one file."""

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

_SYSTEM_FOLDERS = (("/", "dev"), ("/", "proc"))


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
    proto = _parse(source)
    try:
        return from_proto(proto, str(source.parent))
    except ModelError as error:
        raise type(error)(f"{_shown(source)}: {error}") from error.__cause__


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
    name = _checked_data_name(external_data, target)
    with _output_errors(target):
        _check_target(target, overwrite=overwrite)
        if name is None and isinstance(model, onnx.ModelProto) and _is_self_contained(model):
            check_header(model)
            _write(target, lambda _: _serialise(model, target))
            return
        limit = _PROTO_LIMIT - _STRUCTURE
        if name is None and isinstance(model, ir.Model) and fits(model, limit):
            _stream(model, target)
            return
        private = as_ir(model)
        check_model_references(private)
        files = data_files(private)
        _check_not_data(target, files)
        if name is None and (files or total_size(private) > limit):
            name = _default_data_name(files, target)
        if name is None:
            _write(target, lambda _: _serialise(to_proto(private), target))
            return
        place = target.with_name(name)
        own = os.path.realpath(place) in files
        _check_data_target(place, target, own=own, overwrite=overwrite)

        def create(replacement: Replacement) -> BinaryIO:
            if own and not overwrite:
                raise OutputError(f"cannot write {_shown(place)}: it exists; pass overwrite=True")
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
    if not name or not _is_encodable(name):
        raise ArgumentError(f"path must name a file, got {quoted(name)}")
    return Path(name).absolute()


def _is_encodable(name: str) -> bool:
    with suppress(UnicodeEncodeError):
        return b"\0" not in os.fsencode(name)
    return False


def _shown(path: Path) -> str:
    return quoted(str(path))


def _parse(source: Path) -> onnx.ModelProto:
    shown = _shown(source)
    try:
        status = source.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ModelError(f"{shown} is a folder, not an ONNX file")
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{shown} is not a regular file")
        if status.st_size > _PROTO_LIMIT:
            raise ModelError(
                f"{shown} has {status.st_size} bytes, but an ONNX file cannot have more than "
                f"{_PROTO_LIMIT}: larger models keep their weights in external data"
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


def _is_self_contained(model: onnx.ModelProto) -> bool:
    """Tell whether `model` can be written as it is, without a detour over onnx-ir."""
    size = 0
    for tensor in proto_tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return False
        size += tensor.ByteSize()
    return size <= _PROTO_LIMIT - _STRUCTURE


def _serialise(proto: onnx.ModelProto, target: Path) -> bytes:
    content = b""
    with suppress(EncodeError, ValueError):
        content = proto.SerializeToString()
    if not 0 < len(content) <= _PROTO_LIMIT:
        raise _too_large(target)
    return content


def _too_large(target: Path) -> OutputError:
    return OutputError(
        f"cannot write {_shown(target)}: the model is larger than the {_PROTO_LIMIT} bytes "
        "that an ONNX file can have; give external_data a file name"
    )


def _stream(model: ir.Model, target: Path) -> None:
    """Write a model without its weights being in memory twice."""
    size, content = pieces(*outlined(model))
    if size > _PROTO_LIMIT:
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
        raise OutputError(f"cannot write {_shown(target)}: {reason}{where}") from error


def _checked_data_name(name: str | None, target: Path) -> str | None:
    if name is None:
        return None
    if not isinstance(name, str):
        raise ArgumentTypeError(f"external_data must be a str or None, got {type(name).__name__}")
    if name in ("", ".", "..") or set("/\\:") & set(name) or not _is_encodable(name):
        raise ArgumentError(
            f"external_data must be a plain file name, next to the model, got {quoted(name)}"
        )
    if name == target.name:
        raise ArgumentError(f"external_data must differ from the model file, {quoted(name)}")
    return name


def _default_data_name(files: set[str], target: Path) -> str:
    """Return the name of the only data file, if it is the target's own, else a derived one."""
    if len(files) == 1:
        (file,) = map(Path, files)
        if str(file.parent) == os.path.realpath(target.parent) and _refers(target, file.name):
            return file.name
    return target.name + ".data"


def _check_target(target: Path, *, overwrite: bool) -> None:
    if not target.parent.is_dir():
        raise OutputError(
            f"cannot write {_shown(target)}: there is no folder {_shown(target.parent)}"
        )
    if target.is_dir():
        raise OutputError(f"cannot write {_shown(target)}: it is a folder")
    if target.exists() and not target.is_file():
        raise OutputError(f"cannot write {_shown(target)}: it is not a regular file")
    if target.parent.resolve().parts[:2] in _SYSTEM_FOLDERS:
        # /dev/stdout is a link to a regular file where output is redirected into one.
        raise OutputError(f"cannot write {_shown(target)}: models are written to regular files")
    if os.path.lexists(target) and not overwrite:
        raise OutputError(f"cannot write {_shown(target)}: it exists; pass overwrite=True")
    if target.exists() and not os.access(target, os.W_OK):
        raise OutputError(f"cannot write {_shown(target)}: it is read-only")


def _check_not_data(target: Path, files: set[str]) -> None:
    """Refuse to replace a file that the model's weights are in, be it the model file itself.

    They could be moved first, but whatever else refers to them would lose them.
    """
    if target.is_symlink() or not target.exists():
        return  # A link is replaced, not what it leads to.
    if any(os.path.exists(file) and os.path.samefile(target, file) for file in files):  # noqa: PTH110, PTH121
        raise OutputError(
            f"cannot write {_shown(target)}: the weights of the model are in this very file; "
            "give the model another path"
        )


def _check_data_target(place: Path, target: Path, *, own: bool, overwrite: bool) -> None:
    """Refuse to replace a data file that something else may depend on."""
    if not os.path.lexists(place):
        return
    if target.exists() and place.samefile(target):
        raise OutputError(
            f"cannot write {_shown(place)}: it is the model file itself, under another name; "
            "give external_data another one"
        )
    if place.is_symlink() or not place.is_file():
        raise OutputError(f"cannot write {_shown(place)}: it is not a regular file")
    if own:
        return
    if not overwrite:
        raise OutputError(f"cannot write {_shown(place)}: it exists; pass overwrite=True")
    if not _refers(target, place.name):
        raise OutputError(
            f"cannot write {_shown(place)}: it exists and does not belong to {_shown(target)}; "
            "give external_data another name, or remove it"
        )


def _refers(target: Path, name: str) -> bool:
    """Tell whether the model file that is being replaced has its weights in `name`."""
    with suppress(ModelError):
        proto = _parse(target)
        check_text(proto)
        return refers_to(proto, name)
    return False
