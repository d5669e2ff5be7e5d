"""Access to onnxruntime-training, which shares its module name with onnxruntime."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from onnx_structdrop.errors import DependencyError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["INSTALL", "gradient_registry", "quiet", "training_api", "training_available"]

_ERROR_STREAM = 2

INSTALL = "pip install --force-reinstall --no-deps onnxruntime-training-cpu==1.19.2"
"""What turns an environment with onnxruntime into one that trains."""


def training_available() -> bool:
    """Tell whether the installed onnxruntime can build gradients and train."""
    try:
        _module("onnxruntime.training.api")
    except DependencyError:
        return False
    return True


def training_api(name: str = "api") -> Any:
    """Return a module of onnxruntime-training: "api", "artifacts" or "onnxblock".

    Raises
    ------
    DependencyError
        onnxruntime-training is not installed.
    """
    return _module(f"onnxruntime.training.{name}")


def gradient_registry() -> Any:
    """Return the extension module that gradients are registered with.

    Raises
    ------
    DependencyError
        onnxruntime-training is not installed.
    """
    module = _module("onnxruntime.capi._pybind_state")
    if not hasattr(module, "register_gradient_definition"):
        raise DependencyError(_missing("the installed onnxruntime is the one for inference"))
    return module


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DependencyError(_missing(str(error))) from error


def _missing(why: str) -> str:
    return (
        "this needs onnxruntime-training 1.19.2, which takes the place of onnxruntime in an "
        f"environment of its own, with torch beside it: {INSTALL} ({why}). Artifacts that were "
        "made elsewhere train here as well: StockTrainer(folder), or structdrop train --from FOLDER"
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the gradient builder's notes on graph optimisations off the terminal.

    It writes hundreds of lines to the error stream, whatever severity onnxruntime is set to. What
    else is written there meanwhile, by any thread, is lost.
    """
    sys.stderr.flush()
    kept = os.dup(_ERROR_STREAM)
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), _ERROR_STREAM)
        yield
    finally:
        os.dup2(kept, _ERROR_STREAM)
        os.close(kept)
