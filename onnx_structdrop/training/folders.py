"""Writing a folder so that it is there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_structdrop.errors import ArgumentError, ArgumentTypeError, OutputError
from onnx_structdrop.training.manifest import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["absolute", "check_target", "new_folder"]


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

    On any exception it is removed, and what was at `target` stays. A folder that is replaced is
    set aside first and removed last: a crash in between leaves it under a hidden name beside.

    Raises
    ------
    OutputError
        `target` may not be written, or the disk does not take it.
    """
    check_target(target, overwrite=overwrite)
    work = target.with_name(f".{target.name}-{secrets.token_hex(6)}.tmp")
    aside = target.with_name(f".{target.name}-{secrets.token_hex(6)}.old")
    try:
        work.mkdir()
        yield work
        for path in (*sorted(work.iterdir()), work):
            _flush(path)
        check_target(target, overwrite=overwrite)
        if target.exists():
            target.rename(aside)
        try:
            work.rename(target)
        except OSError:
            if aside.exists():
                aside.rename(target)
            raise
        _flush(target.parent)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)


def _flush(path: Path) -> None:
    """Have a file's content, or a folder's entries, reach the disk where the system allows it."""
    with contextlib.suppress(PermissionError):  # Windows opens no folders
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
