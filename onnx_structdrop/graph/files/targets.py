"""Where a model may be written: no file is replaced that something else may depend on."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from onnx_structdrop.errors import ArgumentError, ArgumentTypeError, ModelError, OutputError
from onnx_structdrop.graph.files.external import refers_to
from onnx_structdrop.graph.files.parsing import parse_file
from onnx_structdrop.graph.files.texts import check_text
from onnx_structdrop.graph.files.wellformed import quoted

__all__ = [
    "check_data_target",
    "check_not_data",
    "check_target",
    "checked_data_name",
    "default_data_name",
    "is_encodable",
    "shown",
]

_SYSTEM_FOLDERS = (("/", "dev"), ("/", "proc"))


def shown(path: Path) -> str:
    """Return a path as messages show it."""
    return quoted(str(path))


def is_encodable(name: str) -> bool:
    """Tell whether the system can have a file of this name."""
    with suppress(UnicodeEncodeError):
        return b"\0" not in os.fsencode(name)
    return False


def checked_data_name(name: str | None, target: Path) -> str | None:
    """Return the name that was asked for the data file of a model, if it can be one.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If it cannot.
    """
    if name is None:
        return None
    if not isinstance(name, str):
        raise ArgumentTypeError(f"external_data must be a str or None, got {type(name).__name__}")
    if name in ("", ".", "..") or set("/\\:") & set(name) or not is_encodable(name):
        raise ArgumentError(
            f"external_data must be a plain file name, next to the model, got {quoted(name)}"
        )
    if name == target.name:
        raise ArgumentError(f"external_data must differ from the model file, {quoted(name)}")
    return name


def default_data_name(files: set[str], target: Path) -> str:
    """Return the name of the only data file, if it is the target's own, else a derived one."""
    if len(files) == 1:
        (file,) = map(Path, files)
        if str(file.parent) == os.path.realpath(target.parent) and _refers(target, file.name):
            return file.name
    return target.name + ".data"


def check_target(target: Path, *, overwrite: bool) -> None:
    """Check that a model can be written to a path.

    Raises
    ------
    OutputError
        If there is no folder for it, or what is there may not be replaced.
    """
    if not target.parent.is_dir():
        raise OutputError(
            f"cannot write {shown(target)}: there is no folder {shown(target.parent)}"
        )
    if target.is_dir():
        raise OutputError(f"cannot write {shown(target)}: it is a folder")
    if target.exists() and not target.is_file():
        raise OutputError(f"cannot write {shown(target)}: it is not a regular file")
    if target.parent.resolve().parts[:2] in _SYSTEM_FOLDERS:
        # /dev/stdout is a link to a regular file where output is redirected into one.
        raise OutputError(f"cannot write {shown(target)}: models are written to regular files")
    if os.path.lexists(target) and not overwrite:
        raise OutputError(f"cannot write {shown(target)}: it exists; pass overwrite=True")
    if target.exists() and not os.access(target, os.W_OK):
        raise OutputError(f"cannot write {shown(target)}: it is read-only")


def check_not_data(target: Path, files: set[str]) -> None:
    """Refuse to replace a file that the model's weights are in, be it the model file itself.

    They could be moved first, but whatever else refers to them would lose them.
    """
    if target.is_symlink() or not target.exists():
        return  # A link is replaced, not what it leads to.
    if any(os.path.exists(file) and os.path.samefile(target, file) for file in files):  # noqa: PTH110, PTH121
        raise OutputError(
            f"cannot write {shown(target)}: the weights of the model are in this very file; "
            "give the model another path"
        )


def check_data_target(place: Path, target: Path, *, own: bool, overwrite: bool) -> None:
    """Refuse to replace a data file that something else may depend on."""
    if not os.path.lexists(place):
        return
    if target.exists() and place.samefile(target):
        raise OutputError(
            f"cannot write {shown(place)}: it is the model file itself, under another name; "
            "give external_data another one"
        )
    if place.is_symlink() or not place.is_file():
        raise OutputError(f"cannot write {shown(place)}: it is not a regular file")
    if own:
        return
    if not overwrite:
        raise OutputError(f"cannot write {shown(place)}: it exists; pass overwrite=True")
    if not _refers(target, place.name):
        raise OutputError(
            f"cannot write {shown(place)}: it exists and does not belong to {shown(target)}; "
            "give external_data another name, or remove it"
        )


def _refers(target: Path, name: str) -> bool:
    """Tell whether the model file that is being replaced has its weights in `name`."""
    with suppress(ModelError):
        proto = parse_file(target)
        check_text(proto)
        return refers_to(proto, name)
    return False
