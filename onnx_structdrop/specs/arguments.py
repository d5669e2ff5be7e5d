"""Checks of constructor arguments, and their normal form.

Every function takes the value as the user gave it, and returns it as a plain Python object, so that
specs compare and hash by meaning: NumPy scalars become ``int`` and ``float``, lists become tuples.
``owner`` opens the error message.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import TypeAlias

import numpy as np

from onnx_structdrop.errors import ArgumentError, ArgumentTypeError

__all__ = [
    "DATA_FORMATS",
    "Shape",
    "block_size",
    "channel_axis",
    "choice",
    "entries",
    "flag",
    "full_shape",
    "integer",
    "noise_shape",
    "number",
    "rank",
    "rate",
    "seed",
    "shared_axes",
    "shown",
]

Shape: TypeAlias = tuple[int | str | None, ...]
"""Shape of a tensor as a model states it: a size, the name of a symbolic size, or unknown."""

DATA_FORMATS = ("channels_first", "channels_last")

_INT64_LIMIT = 2**63
"""Where the integers end that a node's attribute can hold."""

_LONGEST = 60


def shown(value: object) -> str:
    """Return a value as an error message shows it: never long, whatever was passed."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, or deep nesting
        return f"a huge {type(value).__name__}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _real(value: object, owner: str, name: str) -> float:
    # bool is a number to Python, but rate=True is a mistake.
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        raise ArgumentTypeError(
            f"{owner}: {name} is {shown(value)} ({type(value).__name__}); a real number is needed"
        )
    try:
        return float(value)
    except OverflowError:
        raise ArgumentError(
            f"{owner}: {name} is {shown(value)}, beyond every floating-point number"
        ) from None


def number(value: object, owner: str, name: str) -> float:
    """Return a finite real number; bool is refused."""
    result = _real(value, owner, name)
    if not math.isfinite(result):
        raise ArgumentError(f"{owner}: {name} is {shown(result)}; a finite number is needed")
    return result


def rate(value: object, owner: str, name: str = "rate") -> float:
    """Return a probability in [0, 1]; NaN and bool are refused."""
    result = _real(value, owner, name)
    if not 0 <= result <= 1:
        raise ArgumentError(f"{owner}: {name} is {shown(result)}; allowed is a number from 0 to 1")
    return result


def integer(value: object, owner: str, name: str) -> int:
    """Return an integer; bool and integral floats are refused."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Integral):
        raise ArgumentTypeError(
            f"{owner}: {name} is {shown(value)} ({type(value).__name__}); an integer is needed"
        )
    return int(value)


def flag(value: object, owner: str, name: str) -> bool:
    """Return a bool."""
    if not isinstance(value, bool | np.bool_):
        raise ArgumentTypeError(f"{owner}: {name} is {shown(value)}; True or False is needed")
    return bool(value)


def choice(value: object, owner: str, name: str, allowed: Iterable[str]) -> str:
    """Return one of the allowed words."""
    allowed = tuple(allowed)
    listed = ", ".join(repr(word) for word in allowed)
    if not isinstance(value, str):
        raise ArgumentTypeError(f"{owner}: {name} is {shown(value)}; allowed is one of {listed}")
    if value not in allowed:
        raise ArgumentError(f"{owner}: {name} is {shown(value)}; allowed is one of {listed}")
    return str(value)


def seed(value: object, owner: str) -> int | None:
    """Return None, or an integer that fits a non-negative int64 attribute."""
    if value is None:
        return None
    result = integer(value, owner, "seed")
    if not 0 <= result < _INT64_LIMIT:
        raise ArgumentError(
            f"{owner}: seed is {shown(result)}; allowed is None or an integer from 0 to 2**63 - 1"
        )
    return result


def entries(value: object, owner: str, name: str, needed: str) -> tuple[object, ...]:
    """Return the entries of a list-like argument; a string is no list of integers."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise ArgumentTypeError(f"{owner}: {name} is {shown(value)}; {needed}")
    return tuple(value)


def block_size(value: object, owner: str, spatial_rank: int) -> tuple[int, ...]:
    """Return one block size per spatial axis, from one integer for all or one for each."""
    needed = f"an integer, or {spatial_rank} of them, one per spatial axis, is needed"
    if isinstance(value, Real):
        sizes: tuple[object, ...] = (value,) * spatial_rank
    else:
        sizes = entries(value, owner, "block_size", needed)
    if len(sizes) != spatial_rank:
        raise ArgumentError(
            f"{owner}: block_size {shown(value)} has {len(sizes)} entries; "
            f"{spatial_rank} are needed, one per spatial axis"
        )
    result = tuple(integer(size, owner, "block_size") for size in sizes)
    for size in result:
        if not 1 <= size < _INT64_LIMIT:
            raise ArgumentError(
                f"{owner}: block_size is {shown(size)}; allowed is an integer from 1 to 2**63 - 1"
            )
    return result


def shared_axes(value: object, owner: str, rank: int, channel_axis: int) -> tuple[int, ...]:
    """Return the sorted axes along which the mask is shared: batch, channel, both or neither."""
    allowed = f"allowed are the batch axis 0 and the channel axis {channel_axis}"
    result = []
    for entry in entries(value, owner, "shared_axes", f"a tuple of axes is needed; {allowed}"):
        axis = integer(entry, owner, "shared_axes entry")
        if not -rank <= axis < rank:
            raise ArgumentError(
                f"{owner}: shared axis {shown(axis)} is outside data of rank {rank}; {allowed}"
            )
        result.append(axis % rank)
        if result[-1] not in (0, channel_axis):
            raise ArgumentError(
                f"{owner}: shared axis {shown(axis)} is a spatial axis, along which a block has "
                f"its extent; {allowed}"
            )
    if len(set(result)) != len(result):
        raise ArgumentError(f"{owner}: shared_axes {shown(value)} names an axis twice")
    return tuple(sorted(result))


def noise_shape(value: object, owner: str) -> tuple[int | None, ...] | None:
    """Return a keras noise shape: None, or a tuple of positive integers and None."""
    if value is None:
        return None
    needed = "None or a tuple of positive integers and None is needed"
    result: list[int | None] = []
    for entry in entries(value, owner, "noise_shape", needed):
        if entry is None:
            result.append(None)
            continue
        size = integer(entry, owner, "noise_shape entry")
        if not 1 <= size < _INT64_LIMIT:
            raise ArgumentError(
                f"{owner}: noise_shape entry is {shown(size)}; allowed is 1 (shared along the "
                "axis), None (the input's own size) or that size"
            )
        result.append(size)
    return tuple(result)


def rank(value: object, owner: str, needed: int | None) -> int:
    """Return the rank of data; ``needed`` is the one allowed rank, or None for any from 1 up."""
    result = integer(value, owner, "rank")
    if needed is not None and result != needed:
        raise ArgumentError(f"{owner}: data has rank {shown(result)}; rank {needed} is needed")
    if result < 1:
        raise ArgumentError(f"{owner}: data has rank {shown(result)}; rank 1 or more is needed")
    return result


def full_shape(value: object, owner: str) -> Shape:
    """Return the shape of data as a model states it, entries checked."""
    result: list[int | str | None] = []
    for entry in entries(value, owner, "shape", "a tuple of sizes, names and None is needed"):
        if entry is None or isinstance(entry, str):
            result.append(entry)
            continue
        size = integer(entry, owner, "shape entry")
        if size < 0:
            raise ArgumentError(f"{owner}: shape entry is {shown(size)}; a size >= 0 is needed")
        result.append(size)
    return tuple(result)


def channel_axis(data_format: str, rank: int) -> int:
    """Return the channel axis of data of this rank."""
    return 1 if data_format == "channels_first" else rank - 1
