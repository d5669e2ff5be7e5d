"""Reading a configuration: our own, or the one a keras layer wrote."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from onnx_structdrop.errors import ArgumentError, ArgumentTypeError
from onnx_structdrop.specs.arguments import shown

__all__ = ["KERAS_BOOKKEEPING", "constructor_arguments", "is_keras_config"]

KERAS_BOOKKEEPING = frozenset({"name", "trainable", "dtype", "batch_input_shape"})
"""Entries that keras writes for every layer and that say nothing about the dropout."""


def is_keras_config(config: Mapping[str, Any]) -> bool:
    """Tell whether a keras layer wrote this configuration.

    Every keras layer writes its name and dtype; a spec's own `get_config` writes neither.
    """
    return not KERAS_BOOKKEEPING.isdisjoint(config)


def constructor_arguments(
    config: object, owner: str, fields: Collection[str], *, keras: bool | None = None
) -> dict[str, Any]:
    """Return the constructor arguments that a configuration holds.

    Parameters
    ----------
    config
        Mapping of argument names to values.
    owner
        Class name, for messages.
    fields
        Names of the constructor arguments.
    keras
        Whether to read it as a keras configuration; None decides by `is_keras_config`.

    Raises
    ------
    ArgumentTypeError
        Not a mapping.
    ArgumentError
        An unknown or missing entry, or a ``noise_shape`` where the class has none.
    """
    if not isinstance(config, Mapping):
        raise ArgumentTypeError(
            f"{owner}: the configuration is {type(config).__name__}; a mapping is needed"
        )
    keras = is_keras_config(config) if keras is None else keras
    arguments = dict(config)
    if keras:
        for key in KERAS_BOOKKEEPING:
            arguments.pop(key, None)
        if "noise_shape" not in fields and arguments.get("noise_shape", 0) is None:
            # keras 2 spatial dropout inherits the entry from Dropout; it is always None there.
            del arguments["noise_shape"]
        if "data_format" in fields and arguments.get("data_format") is None:
            # Layers that have no such argument, like SpatialDropout1D, are channels_last.
            arguments["data_format"] = "channels_last"
    unknown = sorted(shown(key).strip("'") for key in arguments if key not in fields)
    if unknown:
        raise ArgumentError(
            f"{owner}: the configuration has unknown entries {', '.join(unknown[:5])}; "
            f"known are {', '.join(fields)}"
        )
    if "rate" not in arguments:
        raise ArgumentError(f"{owner}: the configuration has no entry 'rate'")
    return arguments
