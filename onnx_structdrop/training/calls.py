"""Calls of onnxruntime-training: options, and errors of ours in place of its own."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from onnx_structdrop.errors import ModelError, StructDropError
from onnx_structdrop.native import register
from onnx_structdrop.training.checks import checked_threads
from onnx_structdrop.training.runtime import training_api

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np

__all__ = ["as_tuple", "load_state", "runtime_errors", "session_options", "write_errors"]


def load_state(path: Path) -> Any:
    """Return the state in a checkpoint file."""
    with runtime_errors(path):
        return training_api().CheckpointState.load_checkpoint(str(path))


def session_options(threads: int | None, *, native: bool) -> Any:
    """Return options for so many threads, None for onnxruntime's choice, and for the kernels."""
    from onnxruntime import SessionOptions

    options = SessionOptions()
    # The gradient builder leaves initializers that nothing reads; each gives a warning.
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = checked_threads(threads)
    if native:
        register(options)
    return options


@contextlib.contextmanager
def runtime_errors(where: Path, kind: type[StructDropError] = ModelError) -> Iterator[None]:
    """Turn what onnxruntime raises, which has no class in common, into an error of ours."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())
        raise kind(f"{where}: onnxruntime: {reason}") from error


@contextlib.contextmanager
def write_errors() -> Iterator[None]:
    """Turn what onnxruntime raises when it cannot write into an `OSError`."""
    try:
        yield
    except Exception as error:
        raise OSError(None, " ".join(str(error).split())) from error


def as_tuple(results: Any) -> tuple[np.ndarray, ...]:
    """Return what a module returned; of a single output it returns the array alone."""
    return results if isinstance(results, tuple) else (results,)
