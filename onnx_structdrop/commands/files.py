"""Model files of a command: the checks before anything is read, and writing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_structdrop.commands.usage import UsageError
from onnx_structdrop.console import message
from onnx_structdrop.errors import OutputError
from onnx_structdrop.graph.files.external import data_files
from onnx_structdrop.graph.io import load, save

if TYPE_CHECKING:
    import argparse

    import onnx_ir as ir

__all__ = ["check_output", "model_size", "output_path", "same_file", "write"]


def output_path(options: argparse.Namespace) -> str:
    """Return the file to write.

    Raises
    ------
    UsageError
        There is none, it is standard output, or it is the input and nobody said that this is
        meant.
    """
    output: str | None = options.output
    if output is None:
        if not options.in_place:
            raise UsageError("-o OUT is needed, or --in-place to write over MODEL")
        return str(options.model)
    if output == "-":
        raise UsageError("-o -: standard output is not supported; name a file")
    same = same_file(output, options.model)
    if same and not options.in_place:
        raise UsageError(f"{output!r} is the input itself; --in-place writes over it")
    if options.in_place and not same:
        raise UsageError(f"--in-place writes over MODEL, but -o names another file, {output!r}")
    return output


def same_file(first: str, second: str) -> bool:
    """Tell whether two paths lead to one file, whatever links and dots are in them."""
    try:
        return Path(first).samefile(second)
    except (OSError, ValueError):
        return os.path.realpath(first) == os.path.realpath(second)


def check_output(path: str, model: ir.Model) -> None:
    """Refuse to write over the weights of the input.

    Raises
    ------
    OutputError
        If `path` is one of its data files.
    """
    for file in data_files(model):
        if same_file(path, file):
            raise OutputError(f"cannot write {path!r}: it holds weights of the input")


def write(model: ir.Model, path: str) -> int:
    """Write a model, tell so, and return its size on disk."""
    save(model, path)
    written = load(path) if data_files(model) else model
    size = Path(path).stat().st_size + sum(map(_size, data_files(written)))
    message(f"wrote {path}")
    return size


def model_size(path: str, model: ir.Model) -> int:
    """Return the size on disk of a model that was loaded from `path`, with its data files."""
    return _size(path) + sum(map(_size, data_files(model)))


def _size(path: str) -> int:
    return Path(path).stat().st_size
