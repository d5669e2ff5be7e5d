"""Structured dropout in ONNX: spatial dropout, DropBlock, noise shapes and DropPath.

Specifications say what to drop, graph functions put it into exported models and take it out
again, and `reference` defines it in NumPy.

Examples
--------
>>> import onnx_structdrop as sd
>>> sd.DropBlock2D(0.1, 7).node_attributes(4)["block_size"]
(7, 7)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx_structdrop import mc, reference, training
    from onnx_structdrop.errors import (
        ArgumentError,
        ArgumentTypeError,
        CheckFailedError,
        DependencyError,
        ModelError,
        NativeLibraryError,
        OutputError,
        SiteError,
        StructDropError,
        TrainingError,
        UnsupportedModelError,
    )
    from onnx_structdrop.graph.clean import CleanReport, clean
    from onnx_structdrop.graph.compare import differences
    from onnx_structdrop.graph.fold import fold
    from onnx_structdrop.graph.inline import inline
    from onnx_structdrop.graph.insert import insert
    from onnx_structdrop.graph.inspect import InspectReport, StochasticNode, inspect
    from onnx_structdrop.graph.io import load, save
    from onnx_structdrop.graph.mode import reseed, set_training_mode
    from onnx_structdrop.graph.placement import placement
    from onnx_structdrop.graph.sites import Site, find_sites
    from onnx_structdrop.graph.verify import VerifyReport, verify
    from onnx_structdrop.native import get_library_path, native_available, register
    from onnx_structdrop.specs import (
        DropBlock1D,
        DropBlock2D,
        DropBlock3D,
        Dropout,
        DropPath,
        SpatialDropout1D,
        SpatialDropout2D,
        SpatialDropout3D,
    )

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "CheckFailedError",
    "CleanReport",
    "DependencyError",
    "DropBlock1D",
    "DropBlock2D",
    "DropBlock3D",
    "DropPath",
    "Dropout",
    "InspectReport",
    "ModelError",
    "NativeLibraryError",
    "OutputError",
    "Site",
    "SiteError",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "StochasticNode",
    "StructDropError",
    "TrainingError",
    "UnsupportedModelError",
    "VerifyReport",
    "__version__",
    "clean",
    "differences",
    "find_sites",
    "fold",
    "get_library_path",
    "inline",
    "insert",
    "inspect",
    "load",
    "mc",
    "native_available",
    "placement",
    "reference",
    "register",
    "reseed",
    "save",
    "set_training_mode",
    "training",
    "verify",
]

# Imported on first use: the command line has to start faster than onnx loads.
_EXPORTS = {
    ".errors": (
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
        "TrainingError",
        "UnsupportedModelError",
    ),
    ".graph.clean": (
        "CleanReport",
        "clean",
    ),
    ".graph.compare": ("differences",),
    ".graph.fold": ("fold",),
    ".graph.inline": ("inline",),
    ".graph.insert": ("insert",),
    ".graph.inspect": (
        "InspectReport",
        "StochasticNode",
        "inspect",
    ),
    ".graph.io": (
        "load",
        "save",
    ),
    ".graph.mode": (
        "reseed",
        "set_training_mode",
    ),
    ".graph.placement": ("placement",),
    ".graph.sites": (
        "Site",
        "find_sites",
    ),
    ".graph.verify": (
        "VerifyReport",
        "verify",
    ),
    ".native": (
        "get_library_path",
        "native_available",
        "register",
    ),
    ".specs": (
        "DropBlock1D",
        "DropBlock2D",
        "DropBlock3D",
        "Dropout",
        "DropPath",
        "SpatialDropout1D",
        "SpatialDropout2D",
        "SpatialDropout3D",
    ),
}

_MODULES = ("mc", "plot", "reference", "training")

_PLACES = {name: place for place, names in _EXPORTS.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name, or a public submodule, on first use."""
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(__name__ + _PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES})
