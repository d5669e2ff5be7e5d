"""Exceptions: every error this package raises on purpose derives from `StructDropError`.

Messages say what is wrong, where, and what would be right, in one line.
"""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "CheckFailedError",
    "DependencyError",
    "ModelError",
    "NativeLibraryError",
    "OutputError",
    "SiteError",
    "StructDropError",
    "TrainingError",
    "UnsupportedModelError",
]


class StructDropError(Exception):
    """Base class of every error raised on purpose by this package."""


class ArgumentError(StructDropError, ValueError):
    """An argument has the right type but a value that is not allowed."""


class ArgumentTypeError(StructDropError, TypeError):
    """An argument has the wrong type."""


class SiteError(ArgumentError):
    """A requested insertion site does not exist, or nothing was selected."""


class ModelError(StructDropError):
    """A model file or graph is broken: unreadable, not ONNX, or inconsistent."""


class UnsupportedModelError(ModelError):
    """A valid model that this operation cannot handle, such as an opset below 13."""


class OutputError(StructDropError):
    """A result could not be written; nothing was left behind."""


class CheckFailedError(StructDropError):
    """A check on the result failed (outputs differ, randomness is left); nothing was written."""


class DependencyError(StructDropError):
    """An optional part needs a package that is not installed; the message says how to get it."""


class NativeLibraryError(StructDropError):
    """The native kernel library is missing or cannot be loaded."""


class TrainingError(StructDropError):
    """Training cannot go on: a step failed, or another rank was lost; the last save is intact."""
