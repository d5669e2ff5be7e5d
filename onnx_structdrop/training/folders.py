"""Writing a folder so that it is there whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_structdrop.errors import ArgumentError, ArgumentTypeError, OutputError
from onnx_structdrop.training.manifest import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["absolute", "check_target", "new_folder"]

_CURRENT_FOLDER = -100
_EXCHANGE = 2  # of Linux' renameat2


def absolute(path: str | os.PathLike[str], what: str) -> Path:
    """Return a path that stays the same when the working directory changes.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        `path` is no path.
    """
    name = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(name, str):
        raise ArgumentTypeError(f"{what} must be a path, not {type(path).__name__}")
    if not name or "\0" in name:
        raise ArgumentError(f"{what} must name a folder, not {name!r}")
    return Path(name).absolute()


def check_target(target: Path, *, overwrite: bool) -> None:
    """Check that a folder may be written; one that is not of this package is never replaced.

    Raises
    ------
    OutputError
        It may not.
    """
    if not target.parent.is_dir():
        raise OutputError(f"cannot write {target}: there is no folder {target.parent}")
    if not os.path.lexists(target):
        return
    if target.is_symlink() or not target.is_dir():
        raise OutputError(f"cannot write {target}: it exists and is no folder")
    if not any(target.iterdir()):
        return
    if not (target / MANIFEST).is_file():
        raise OutputError(
            f"cannot write {target}: the folder holds other things than artifacts of this "
            "package; choose another one"
        )
    if not overwrite:
        raise OutputError(f"cannot write {target}: it exists; pass overwrite=True")


@contextlib.contextmanager
def new_folder(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a temporary folder beside `target` that takes its place when the block ends in order.

    On any exception it is removed, and what was at `target` stays. On Linux the two change places
    at once, so that not even a crash leaves `target` empty; elsewhere the old one is set aside
    first, and a crash in between leaves it beside under a hidden name.

    Raises
    ------
    OutputError
        `target` may not be written, or the disk does not take it.
    """
    check_target(target, overwrite=overwrite)
    work = _hidden(target)
    try:
        work.mkdir()
        yield work
        for path in (*sorted(work.iterdir()), work):
            _flush(path)
        check_target(target, overwrite=overwrite)
        if not target.exists():
            work.rename(target)
        elif not _exchanged(work, target):
            _replace(work, target)
        _flush(target.parent)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _hidden(target: Path) -> Path:
    return target.with_name(f".{target.name}-{secrets.token_hex(6)}.tmp")


def _exchanged(one: Path, other: Path) -> bool:
    """Have two folders change places at once; whether the system can do that."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    paths = (os.fsencode(one), os.fsencode(other))
    if libc.renameat2(_CURRENT_FOLDER, paths[0], _CURRENT_FOLDER, paths[1], _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False  # not on this file system
    raise OSError(code, os.strerror(code), str(other))


def _replace(work: Path, target: Path) -> None:
    aside = _hidden(target)
    target.rename(aside)
    try:
        work.rename(target)
    except OSError:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _flush(path: Path) -> None:
    """Have a file's content, or a folder's entries, reach the disk where the system allows it."""
    with contextlib.suppress(PermissionError):  # Windows opens no folders
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
