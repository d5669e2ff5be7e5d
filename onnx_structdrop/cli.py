"""``structdrop``: the entry point, and what becomes of errors.

Exit codes: 0 done, 1 an error, 2 wrong usage, 3 a check failed, and no rewritten model was written.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from typing import TYPE_CHECKING

from onnx_structdrop.commands.parser import build_parser
from onnx_structdrop.commands.usage import UsageError
from onnx_structdrop.console import error_line, print_line
from onnx_structdrop.errors import CheckFailedError, StructDropError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_ERROR, _USAGE, _CHECK_FAILED = 1, 2, 3
_UNWRITTEN = (errno.EFBIG, errno.EIO, errno.ENOSPC)
_INTERRUPTED, _BROKEN_PIPE = 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``structdrop`` and return its exit code.

    Parameters
    ----------
    argv
        Arguments without the name of the program; by default those of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(arguments)
        # A reader that has gone shows here at the latest, not when the interpreter shuts down.
        sys.stdout.flush()
    except SystemExit as stop:
        return int(stop.code or 0)
    except BrokenPipeError:
        _discard_stdout()
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        error_line("interrupted")
        return _INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last resort of a program
        if "--debug" in arguments:
            traceback.print_exc()
        return _report(error)
    return code


def _run(arguments: list[str]) -> int:
    options = build_parser().parse_args(_joined(arguments))
    if options.version:
        from onnx_structdrop import __version__

        print_line(f"structdrop {__version__}")
        return 0
    if options.verb is None:
        raise UsageError("a command is needed (see structdrop --help)")
    command = importlib.import_module(f"onnx_structdrop.commands.{options.command}")
    code: int = command.run(options)
    return code


def _joined(arguments: list[str]) -> list[str]:
    """Join ``--noise-shape -,1,1,-`` with "=": argparse takes the value for an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--noise-shape":
            joined[-1] = f"--noise-shape={argument}"
        else:
            joined.append(argument)
    return joined


def _report(error: Exception) -> int:
    """Write one line on an error and return the exit code."""
    if isinstance(error, UsageError):
        error_line(str(error))
        return _USAGE
    if isinstance(error, CheckFailedError):
        error_line(str(error))
        return _CHECK_FAILED
    if isinstance(error, StructDropError):
        error_line(str(error))
    elif isinstance(error, OSError):
        where = f"{error.filename!r}: " if error.filename is not None else ""
        if error.errno in _UNWRITTEN and not where:
            # Files are written by what names them.
            where = "cannot write to standard output: "
        error_line(f"{where}{error.strerror or error}")
    else:
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        error_line(f"{what} (this is a bug, run with --debug to see where)")
    return _ERROR


def _discard_stdout() -> None:
    """Let what is left in the buffer of stdout go nowhere when the interpreter flushes it."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
