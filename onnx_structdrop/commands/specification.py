"""The specification that the command line describes."""

from __future__ import annotations

import dataclasses
import json
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from onnx_structdrop.commands.usage import UsageError
from onnx_structdrop.errors import ArgumentError, ArgumentTypeError
from onnx_structdrop.specs import SPECS, spec_from_config

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from onnx_structdrop.specs import DropoutSpec

__all__ = ["specification"]

_OPTIONS = (
    "block_size",
    "shared_axes",
    "seed_region",
    "normalize",
    "noise_shape",
    "scale_by_keep",
)
"""Options that belong to some specifications; named as their arguments."""

_LARGEST = 1 << 20
"""Bytes of the largest configuration file that is read."""


def specification(options: argparse.Namespace) -> DropoutSpec:
    """Return the specification that ``--spec`` with its options, or ``--config``, describes.

    Raises
    ------
    UsageError
        Options are missing or do not belong together, or a value is not allowed.
    ArgumentError
        The configuration file cannot be used.
    """
    config = getattr(options, "config", None)
    if config is not None:
        return _from_file(config, options)
    if options.spec is None:
        raise UsageError(f"--spec is needed: {_names()}")
    rate = options.rate
    if rate is None:
        if getattr(options, "ratio_input", None) is None:
            raise UsageError("--rate is needed")
        rate = 0.0  # the input drives the ratio
    given = _given(options)
    fields = _fields(options.spec)
    for option in given:
        if option not in fields:
            owners = ", ".join(name for name in SPECS if option in _fields(name))
            raise UsageError(
                f"{_flag(option)} does not apply to {options.spec}; it belongs to {owners}"
            )
    try:
        return _class(options.spec)(rate=rate, seed=options.seed, **given)
    except (ArgumentError, ArgumentTypeError) as error:
        raise UsageError(str(error)) from error


def _class(name: str) -> Callable[..., DropoutSpec]:
    return SPECS[name]


def _from_file(path: str, options: argparse.Namespace) -> DropoutSpec:
    given = [_flag(option) for option in _given(options)]
    given += ["--rate"] if options.rate is not None else []
    if given:
        raise UsageError(f"--config holds the whole specification; leave out {', '.join(given)}")
    text = _text(path)
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise ArgumentError(f"{path!r} is not a JSON file: {error}") from error
    except RecursionError:
        raise ArgumentError(f"{path!r}: the JSON is nested too deeply for a config") from None
    try:
        if isinstance(entries, dict) and "class_name" in entries:
            spec = spec_from_config(entries)
            if options.spec not in (None, type(spec).__name__):
                raise ArgumentError(f"it describes {type(spec).__name__}, not {options.spec}")
        elif options.spec is None:
            raise UsageError(
                f"{path!r} does not say what it configures: --spec is needed, {_names()}"
            )
        else:
            spec = SPECS[options.spec].from_config(entries)
    except (ArgumentError, ArgumentTypeError) as error:
        raise ArgumentError(f"{path!r}: {error}") from error
    if options.seed is not None:
        return _class(type(spec).__name__)(**{**spec.get_config(), "seed": options.seed})
    return spec


def _names() -> str:
    *names, last = SPECS
    return f"one of {', '.join(names)} or {last}"


def _text(path: str) -> str:
    """Return what a file holds; reading a pipe or a device could take for ever."""
    status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode):
        raise ArgumentError(f"{path!r} is not a regular file")
    if status.st_size > _LARGEST:
        raise ArgumentError(
            f"{path!r} holds {status.st_size} bytes; a config has {_LARGEST} at most"
        )
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ArgumentError(f"{path!r} is not a JSON file: {error}") from error


def _given(options: argparse.Namespace) -> dict[str, Any]:
    values = {option: getattr(options, option) for option in _OPTIONS}
    return {option: value for option, value in values.items() if value is not None}


def _fields(name: str) -> set[str]:
    return {field.name for field in dataclasses.fields(cast("Any", SPECS[name]))}


def _flag(option: str) -> str:
    return "--no-scale-by-keep" if option == "scale_by_keep" else f"--{option.replace('_', '-')}"
