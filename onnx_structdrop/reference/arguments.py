"""Checks of the reference's arguments."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, TypeVar

import ml_dtypes
import numpy as np
import numpy.typing as npt

from onnx_structdrop.errors import ArgumentError, ArgumentTypeError
from onnx_structdrop.schema import ELEMENT_TYPES
from onnx_structdrop.specs import arguments

__all__ = ["block_per_axis", "check_data", "check_ratio", "check_uniforms", "member"]

_Enum = TypeVar("_Enum", bound=IntEnum)

_FLOAT_TYPES = {
    np.dtype(getattr(ml_dtypes if name == "bfloat16" else np, name)) for name in ELEMENT_TYPES
}


def check_data(op: str, data: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return data as an array of one of the element types."""
    array = np.asarray(data)
    if array.dtype not in _FLOAT_TYPES:
        raise ArgumentTypeError(
            f"{op}: data has type {array.dtype}; allowed is one of {', '.join(ELEMENT_TYPES)}"
        )
    return array


def block_per_axis(op: str, block_size: object, spatial_rank: int) -> tuple[int, ...]:
    """Return one block size per spatial axis; a list of one serves all, as on a node."""
    if isinstance(block_size, list | tuple | np.ndarray) and len(block_size) == 1:
        block_size = block_size[0]
    return arguments.block_size(block_size, op, spatial_rank)


def member(op: str, name: str, value: object, enum: type[_Enum]) -> _Enum:
    """Return the member that an attribute's number or a specification's word stands for."""
    if isinstance(value, str):
        words = {entry.name.lower(): entry for entry in enum}
        return words[arguments.choice(value, op, name, words)]
    number = arguments.integer(value, op, name)
    if number not in set(enum):
        allowed = ", ".join(f"{int(entry)} ({entry.name.lower()})" for entry in enum)
        raise ArgumentError(f"{op}: {name} is {number}; allowed is one of {allowed}")
    return enum(number)


def check_ratio(op: str, ratio: object) -> float:
    """Return the ratio as the float32 that a node receives; a one-element array will do."""
    if isinstance(ratio, np.ndarray) and ratio.size == 1:
        ratio = ratio.item()
    return float(np.float32(arguments.rate(ratio, op, "ratio")))


def check_uniforms(
    op: str, uniforms: npt.ArrayLike | None, shape: tuple[int, ...]
) -> npt.NDArray[np.float64]:
    """Return the uniforms as an array of the mask's shape, wide enough to compare exactly."""
    if uniforms is None:
        raise ArgumentTypeError(f"{op}: uniforms of shape {shape} are needed in training mode")
    array = np.asarray(uniforms)
    if not np.issubdtype(array.dtype, np.floating):
        raise ArgumentTypeError(f"{op}: uniforms have type {array.dtype}; a float type is needed")
    if array.shape != shape:
        raise ArgumentError(
            f"{op}: uniforms have shape {array.shape}; shape {shape}, that of the mask, is needed"
        )
    # Written so that NaN fails; 1 is let through, where float32 rounds numbers just below it.
    if not ((array >= 0) & (array <= 1)).all():
        raise ArgumentError(f"{op}: uniforms hold values outside [0, 1), or NaN")
    return array.astype(np.float64)
