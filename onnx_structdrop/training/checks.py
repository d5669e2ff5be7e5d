"""Checks that sessions share, on whichever runtime they train."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_structdrop.errors import ArgumentError, ArgumentTypeError
from onnx_structdrop.training.feeds import as_array
from onnx_structdrop.training.schedule import Schedule
from onnx_structdrop.training.stages import check_stages

if TYPE_CHECKING:
    from collections.abc import Collection

    from onnx_structdrop.training.manifest import Manifest

__all__ = ["checked_rate", "checked_threads", "checked_values", "ratios_at", "with_schedule"]

_LARGEST = float(np.finfo(np.float32).max)
_MOST_THREADS = 1 << 31  # of an int in C


def checked_rate(value: Any) -> float:
    """Return a learning rate.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        It is negative, beyond what float32 holds, or no number.
    """
    is_number: bool = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number:
        raise ArgumentTypeError(f"learning_rate must be a number, not {value!r}")
    if not 0 <= value <= _LARGEST:
        raise ArgumentError(
            f"learning_rate is {value}; allowed is 0 or a positive number that float32 holds"
        )
    return float(value)


def checked_threads(value: Any) -> int | None:
    """Return a number of threads, None for onnxruntime's choice.

    Raises
    ------
    ArgumentError
        It is no integer from 1 to what onnxruntime takes.
    """
    if value is not None and (
        isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < _MOST_THREADS
    ):
        raise ArgumentError(f"threads is {value!r}; allowed is 1 or more, and None")
    return value


def checked_values(
    present: Mapping[str, np.ndarray],
    given: Mapping[str, np.ndarray],
    ratios: Collection[str] = (),
) -> dict[str, np.ndarray]:
    """Return new values of parameters as arrays.

    Parameters
    ----------
    present
        What they have the names, shapes and element types of.
    given
        The new values.
    ratios
        Names of those that are ratios of dropout nodes.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        A name is unknown, a shape or element type is not that of the parameter, or a ratio is out
        of range.
    """
    if not isinstance(given, Mapping):
        raise ArgumentTypeError(
            f"parameters must be arrays by name, as a dict, not {type(given).__name__}"
        )
    values = {}
    for name, value in given.items():
        if name not in present:
            raise ArgumentError(f"the model has no parameter {name!r}")
        old, new = present[name], as_array(value, f"parameter {name!r}")
        if new.shape != old.shape or new.dtype != old.dtype:
            raise ArgumentError(
                f"parameter {name!r} is {old.dtype}{list(old.shape)}, "
                f"not {new.dtype}{list(new.shape)}"
            )
        if name in ratios and not 0 <= float(new.reshape(())) < 1:
            raise ArgumentError(f"parameter {name!r} is a ratio, {new}; allowed is [0, 1)")
        values[name] = new
    return values


def with_schedule(manifest: Manifest, schedule: Schedule | None) -> Manifest:
    """Return a manifest with another schedule, if there is one.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        It is no schedule, or does not fit the model.
    """
    if schedule is None:
        return manifest
    if not isinstance(schedule, Schedule):
        raise ArgumentTypeError(f"schedule must be a Schedule, not {type(schedule).__name__}")
    check_stages(schedule, manifest.ratios)
    return dataclasses.replace(manifest, schedule=schedule)


def ratios_at(manifest: Manifest, step: int) -> dict[str, float]:
    """Return what the schedule sets the ratios to for a step; empty without a schedule.

    Raises
    ------
    ArgumentError
        The schedule leaves [0, 1).
    """
    schedule = manifest.schedule
    if schedule is None:
        return {}
    return {each.name: schedule.ratio(step, each.rate, each.stages[0]) for each in manifest.ratios}
