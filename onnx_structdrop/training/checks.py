"""Checks that sessions share, on whichever runtime they train."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_structdrop.errors import ArgumentError, ArgumentTypeError
from onnx_structdrop.training.schedule import Schedule
from onnx_structdrop.training.stages import check_stages

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx_structdrop.training.manifest import Manifest

__all__ = ["checked_rate", "checked_values", "ratios_at", "with_schedule"]


def checked_rate(value: Any) -> float:
    """Return a learning rate.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        It is negative, not finite, or no number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ArgumentTypeError(f"learning_rate must be a number, not {value!r}")
    if not 0 <= value < math.inf:
        raise ArgumentError(f"learning_rate is {value}; allowed is 0 or a positive number")
    return float(value)


def checked_values(
    present: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return new values of parameters as arrays.

    Raises
    ------
    ArgumentError
        A name is unknown, or a shape or element type is not that of the parameter.
    """
    values = {}
    for name, value in given.items():
        if name not in present:
            raise ArgumentError(f"the model has no parameter {name!r}")
        old, new = present[name], np.asarray(value)
        if new.shape != old.shape or new.dtype != old.dtype:
            raise ArgumentError(
                f"parameter {name!r} is {old.dtype}{list(old.shape)}, "
                f"not {new.dtype}{list(new.shape)}"
            )
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
