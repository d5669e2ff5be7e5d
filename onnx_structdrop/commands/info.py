"""``structdrop info``: what is installed and supported."""

from __future__ import annotations

import importlib
import platform
from importlib import metadata
from typing import TYPE_CHECKING, Any

from onnx_structdrop import __version__
from onnx_structdrop.console import print_json, print_table
from onnx_structdrop.errors import NativeLibraryError
from onnx_structdrop.native import get_library_path, library_identity, simd_level
from onnx_structdrop.schema import (
    DOMAIN,
    ELEMENT_TYPES,
    MAX_OPSET,
    MIN_FUNCTION_IR,
    MIN_OPSET,
    OPERATORS,
    VERSION,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

__all__ = ["run"]

_PACKAGES = ("onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy")


def run(options: argparse.Namespace) -> int:
    """Show versions, providers and what is supported."""
    facts: dict[str, Any] = {
        "onnx_structdrop": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "providers": _providers(),
        "native_library": _native_library(),
        "domain": DOMAIN,
        "domain_version": VERSION,
        "operators": list(OPERATORS),
        "element_types": list(ELEMENT_TYPES),
        "opsets": [MIN_OPSET, MAX_OPSET],
        "min_ir_version": MIN_FUNCTION_IR,
    }
    if options.json:
        print_json(facts)
        return 0
    packages = facts["packages"]
    rows = [
        ("onnx_structdrop", __version__),
        ("python", f"{facts['python']} on {facts['platform']}"),
        *((name, version or "not installed") for name, version in packages.items()),
        ("providers", ", ".join(facts["providers"]) or "none"),
        *_library_rows(facts["native_library"]),
        ("operators", f"{', '.join(OPERATORS)} of {DOMAIN}, version {VERSION}"),
        ("element types", ", ".join(ELEMENT_TYPES)),
        ("opsets", f"{MIN_OPSET} to {MAX_OPSET}, IR version {MIN_FUNCTION_IR} or newer"),
    ]
    print_table({"what": "left", "found": "text"}, rows)
    return 0


def _native_library() -> dict[str, Any]:
    """Return what there is to know of the library, or why it cannot be used."""
    facts: dict[str, Any] = dict.fromkeys(("path", "version", "api", "simd", "problem"))
    try:
        facts["path"] = str(get_library_path())
        facts.update(library_identity())
        facts["simd"] = simd_level()
    except NativeLibraryError as error:
        facts["problem"] = str(error)
    return facts


def _library_rows(library: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if library["problem"] is not None:
        yield "native library", f"not usable, nodes run as functions: {library['problem']}"
        return
    version, api, simd = library["version"], library["api"], library["simd"]
    yield "native library", f"version {version}, onnxruntime API {api}, SIMD level {simd}"
    yield "", library["path"]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _providers() -> list[str]:
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ImportError:
        return []
    return list(onnxruntime.get_available_providers())
