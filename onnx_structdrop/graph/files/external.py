"""External data: every reference is checked before a byte is read; weights stream to a new file.

A model file is untrusted input, and what it calls the location of its weights is a path that
somebody wrote. A reference is accepted only if it leads to a regular file inside the folder of
the model that no link of any kind leads out of, and if the bytes it names are there.
"""

from __future__ import annotations

import math
import os
import re
import stat
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from onnx_structdrop.errors import ModelError
from onnx_structdrop.graph.files.tensors import (
    ProtoTensor,
    is_unloaded,
    proto_tensors,
    tensor_slots,
)
from onnx_structdrop.graph.files.wellformed import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import BinaryIO

__all__ = [
    "INLINE_BELOW",
    "check_model_references",
    "check_references",
    "data_files",
    "external_tensors",
    "refers_to",
    "total_size",
    "write_data",
]

INLINE_BELOW = 1024
"""Tensors smaller than this many bytes stay in the model file: shapes, axes, scalars."""

_PAGE_ALIGNED_ABOVE = 1 << 20
_PAGE = 64 * 1024  # what Windows wants of the offset of a mapping
_CACHE_LINE = 64

_NUMBER = re.compile("[0-9]{1,19}", re.ASCII)


def external_tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Return the tensors of `model`, wherever they are, that have their data in files."""
    external = onnx.TensorProto.EXTERNAL
    return [tensor for tensor in proto_tensors(model) if tensor.data_location == external]


def check_references(tensors: Iterable[onnx.TensorProto], folder: str | None) -> None:
    """Check external tensors against the files in `folder`.

    Without a folder only the numbers are checked.

    Raises
    ------
    ModelError
        At the first reference that is malformed, leads out of the folder, goes over a symbolic
        or hard link, or names bytes that are not there; names tensor, location and reason.
    """
    sizes: dict[str, int] = {}
    for tensor in tensors:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        try:
            dtype = ir.DataType(tensor.data_type)
            offset, length = _number(entries, "offset"), _number(entries, "length")
            if folder is not None:
                _check(location, offset, length, dtype, tensor.dims, folder, sizes)
        except ValueError as error:
            raise _refused(tensor.name, location, error) from None


def check_model_references(model: ir.Model) -> None:
    """Check the external tensors of `model` against the folder that each of them names.

    Raises
    ------
    ModelError
        As `check_references` does, and for a tensor whose folder is unknown.
    """
    sizes: dict[str, dict[str, int]] = {}
    for tensor, _, _ in tensor_slots(model):
        if is_unloaded(tensor):
            tensor.tobytes()  # raises
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        folder = str(Path(tensor.base_dir).absolute())
        location = os.fspath(tensor.location)
        try:
            _check(
                location, tensor.offset, tensor.length, tensor.dtype, _dims(tensor), folder,
                sizes.setdefault(folder, {}),
            )  # fmt: skip
        except ValueError as error:
            raise _refused(tensor.name or "", location, error) from None


def refers_to(model: onnx.ModelProto, name: str) -> bool:
    """Tell whether a tensor of `model` has its data in the file `name` next to the model."""
    return any(
        entry.key == "location" and Path(entry.value) == Path(name)
        for tensor in external_tensors(model)
        for entry in tensor.external_data
    )


def data_files(model: ir.Model) -> set[str]:
    """Return the real paths of the files that hold external data of `model`."""
    return {
        os.path.realpath(tensor.path)
        for tensor, _, _ in tensor_slots(model)
        if isinstance(tensor, ir.ExternalTensor)
    }


def total_size(model: ir.Model) -> int:
    """Return how many bytes the tensors of `model` take up."""
    return sum(tensor.nbytes for tensor, _, _ in tensor_slots(model))


def write_data(model: ir.Model, path: str, create: Callable[[], BinaryIO]) -> None:
    """Move the weights of `model` into the external data file `path`, tensor by tensor.

    Initializers of `INLINE_BELOW` bytes and more go to the file, and whatever else was external;
    smaller ones go into the model. A file that already holds weights of the model is extended:
    its content stays where it is, so that other references to it, on disk and in memory, stay
    valid; if nothing is added, it is not touched.

    Parameters
    ----------
    model
        Is changed: its tensors refer to `path`, of which only the name is used.
    path
        Absolute path that the file will have.
    create
        Opens the file to write to; not called if there is nothing to write.
    """
    place = os.path.realpath(path)
    own = place in data_files(model)
    file: BinaryIO | None = None
    written: dict[tuple[str, int, int], int] = {}
    for tensor, put, is_initializer in list(tensor_slots(model)):
        source = None
        if isinstance(tensor, ir.ExternalTensor):
            source = (os.path.realpath(tensor.path), tensor.offset or 0, tensor.nbytes)
        elif not is_initializer or tensor.dtype == ir.DataType.STRING:
            continue
        if tensor.nbytes < INLINE_BELOW:
            if source is not None:
                put(_in_memory(tensor))
            continue
        if source is not None and source[0] == place:
            offset = source[1]
        elif source is not None and source in written:
            offset = written[source]
        else:
            if file is None:
                file = create()
                if own:
                    _copy_file(path, file)
            offset = _append(tensor, file)
            if source is not None:
                written[source] = offset
        put(_reference(tensor, path, offset))


def _append(tensor: ir.TensorProtocol, file: BinaryIO) -> int:
    alignment = _PAGE if tensor.nbytes > _PAGE_ALIGNED_ABOVE else _CACHE_LINE
    offset = -(-file.tell() // alignment) * alignment
    file.seek(offset)
    if hasattr(tensor, "tofile"):
        tensor.tofile(file)  # copies from file to file, or from memory, without a detour
    else:
        file.write(tensor.tobytes())
    if file.tell() != offset + tensor.nbytes:
        raise ModelError(
            f"tensor {quoted(tensor.name or '')} holds {file.tell() - offset} bytes, "
            f"but its type and shape make {tensor.nbytes}"
        )
    return offset


def _copy_file(path: str, file: BinaryIO) -> None:
    """Copy a whole file; an external tensor knows how to leave that to the kernel."""
    folder, name = os.path.split(path)
    size = Path(path).stat().st_size
    content = ir.ExternalTensor(
        name, 0, size, ir.DataType.UINT8, shape=ir.Shape([size]), name=name, base_dir=folder
    )
    content.tofile(file)


def _in_memory(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ProtoTensor(
        onnx.TensorProto(
            name=tensor.name,
            data_type=int(tensor.dtype),
            dims=_dims(tensor),
            raw_data=tensor.tobytes(),
            doc_string=tensor.doc_string,
            metadata_props=[
                onnx.StringStringEntryProto(key=key, value=value)
                for key, value in tensor.metadata_props.items()
            ],
        )
    )


def _reference(tensor: ir.TensorProtocol, path: str, offset: int) -> ir.ExternalTensor:
    folder, name = os.path.split(path)
    return ir.ExternalTensor(
        name,
        offset,
        tensor.nbytes,
        tensor.dtype,
        shape=ir.Shape(_dims(tensor)),
        name=tensor.name or "",
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
        base_dir=folder,
    )


def _dims(tensor: ir.TensorProtocol) -> list[int]:
    return [dim for dim in tensor.shape if isinstance(dim, int)]


def _number(entries: dict[str, str], key: str) -> int | None:
    text = entries.get(key)
    if text is None:
        return None
    if _NUMBER.fullmatch(text) is None:
        raise ValueError(f"its {key} {quoted(text)} is not a number of bytes")
    return int(text)


def _check(
    location: str,
    offset: int | None,
    length: int | None,
    dtype: ir.DataType,
    dims: Iterable[int],
    folder: str,
    sizes: dict[str, int],
) -> None:
    """Raise a ValueError that says what is wrong with a reference."""
    if dtype in (ir.DataType.STRING, ir.DataType.UNDEFINED):
        raise ValueError(f"a tensor of type {dtype.name} cannot be external")
    if location not in sizes:
        sizes[location] = _file_size(location, folder)
    needed = -(-math.prod(dims) * dtype.bitwidth // 8)
    start = offset or 0
    if start < 0 or needed < 0:
        raise ValueError("its offset or a dimension is negative")
    if length is not None and length != needed:
        raise ValueError(f"its length is {length} bytes, but its type and shape make {needed}")
    if start + needed > sizes[location]:
        raise ValueError(
            f"it ends at byte {start + needed}, but the file has {sizes[location]} bytes"
        )


def _file_size(location: str, folder: str) -> int:
    """Return the size of the file at `location` in `folder`, if it may be read at all."""
    if location.startswith("/") or "\\" in location or PureWindowsPath(location).drive:
        raise ValueError("the location must be relative to the model, with forward slashes")
    parts = [part for part in location.split("/") if part not in ("", ".")]
    if not parts:
        raise ValueError("it names no file")
    if ".." in parts:
        raise ValueError("the location must not contain '..'")
    path = folder
    try:
        for part in parts:
            path = os.path.join(path, part)  # noqa: PTH118 (pathlib would normalise)
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                raise ValueError(f"{quoted(path)} is a symbolic link")
    except FileNotFoundError:
        raise ValueError(f"the file {quoted(path)} does not exist") from None
    except OSError as error:
        raise ValueError(f"{quoted(path)}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{quoted(path)} is not a regular file")
    if status.st_nlink > 1:
        raise ValueError(f"{quoted(path)} has {status.st_nlink} hard links")
    # Junctions and the like, which lstat does not show as links.
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise ValueError(f"{quoted(path)} is outside the folder of the model")
    if not os.access(path, os.R_OK):
        raise ValueError(f"{quoted(path)} is not readable")
    return status.st_size


def _refused(tensor: str, location: str, reason: Exception) -> ModelError:
    return ModelError(
        f"tensor {quoted(tensor)} refers to external data {quoted(location)}: {reason}"
    )
