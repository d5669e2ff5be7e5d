"""Writing one or two files so that either all of them change or none does.

Content goes to temporary files in the target's folder, is flushed to disk, and takes its name
by a rename. Where a second file takes the place of an old one, the old one is set aside and put
back if a later rename fails.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from typing import TYPE_CHECKING, BinaryIO, Self

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

__all__ = ["Replacement"]


class Replacement:
    """Files that will appear together at the end of a ``with`` block, if it is left in order.

    The order of `create` is the order of appearance: data before the file that refers to them.
    On any exception, the temporary files are removed and the old files are back.

    Raises
    ------
    OSError
        From `create` and `commit`; what was done until then is undone.
    """

    def __init__(self) -> None:
        self._staged: list[tuple[Path, Path]] = []
        self._open: list[BinaryIO] = []
        self._set_aside: list[tuple[Path, Path]] = []
        self._appeared: list[Path] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._open:
            with contextlib.suppress(OSError):
                file.close()
        for temporary, _ in self._staged:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def create(self, path: Path) -> BinaryIO:
        """Open a new file that `commit` will move to the absolute `path`.

        It has the mode and owner of the file it replaces, or the mode that the umask gives.
        """
        if path.exists() and not path.is_file() and not path.is_dir():
            raise OSError(errno.EINVAL, "is not a regular file")
        temporary = _free_name(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(temporary, flags, 0o666)
        self._staged.append((temporary, path))
        file = os.fdopen(descriptor, "wb")
        self._open.append(file)
        with contextlib.suppress(FileNotFoundError):
            _take_over(descriptor, path.stat())
        return file

    def commit(self) -> None:
        """Flush every file to disk and move it to its place."""
        for file in self._open:
            file.flush()
            os.fsync(file.fileno())
            file.close()
        try:
            while self._staged:
                temporary, path = self._staged[0]
                # Only the last rename is final at once; before it, keep a way back.
                if len(self._staged) > 1 and os.path.lexists(path):
                    aside = _free_name(path)
                    path.rename(aside)
                    self._set_aside.append((aside, path))
                temporary.replace(path)
                self._appeared.append(path)
                del self._staged[0]
        except BaseException:
            self._undo()
            raise
        for aside, _ in self._set_aside:
            with contextlib.suppress(OSError):
                aside.unlink()
        for folder in {path.parent for path in self._appeared}:
            _flush_folder(folder)

    def _undo(self) -> None:
        for path in self._appeared:
            with contextlib.suppress(OSError):
                path.unlink()
        for aside, path in self._set_aside:
            with contextlib.suppress(OSError):
                aside.replace(path)


def _free_name(path: Path) -> Path:
    return path.with_name(f".structdrop-{secrets.token_hex(8)}.tmp")


def _take_over(descriptor: int, old: os.stat_result) -> None:
    """Give a file the mode and, where that is allowed, the owner of the one it replaces."""
    if hasattr(os, "fchown"):
        new = os.fstat(descriptor)
        if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
            with contextlib.suppress(OSError):
                os.fchown(descriptor, old.st_uid, old.st_gid)
    if hasattr(os, "fchmod"):
        os.fchmod(descriptor, stat.S_IMODE(old.st_mode) & 0o777)


def _flush_folder(folder: Path) -> None:
    """Make the renames durable where a folder can be opened (not on Windows)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
