"""Comparing what two runs returned."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from onnx_structdrop.graph.verify.scales import scales

__all__ = ["TOLERANCES", "Difference", "compare", "flat"]

Array = npt.NDArray[Any]

TOLERANCES = {"float64": 1e-9, "float32": 1e-4, "float16": 1e-2, "bfloat16": 8e-2}
"""Error, over the scale of the values around, that moved arithmetic may cause."""


class Difference(NamedTuple):
    """How far two arrays are apart."""

    exact: bool
    error: float
    """Largest absolute difference of a value over its scale in the first, see `scales`."""
    reason: str
    """What else than rounding is different; empty if nothing is."""
    finite: bool
    """Whether there is a finite value to compare, or nothing at all."""
    ends: frozenset[Any] = frozenset()
    """Smallest and largest finite value of the first; empty if there is none."""


def flat(value: Any) -> list[Array]:
    """Return the arrays of an output: itself, or the elements of a sequence."""
    if isinstance(value, list | tuple):
        return [array for element in value for array in flat(element)]
    return [np.asarray(value)]


def compare(first: Array, second: Array) -> Difference:
    """Compare two arrays; a NaN equals a NaN, an infinity one of its own sign."""
    if first.dtype != second.dtype:
        return _apart(f"it is {second.dtype} instead of {first.dtype}")
    if first.shape != second.shape:
        return _apart(f"its shape is {second.shape} instead of {first.shape}")
    if first.dtype.kind not in "fc":
        equal = bool(np.array_equal(first, second))
        count = 0 if equal else int(np.sum(first != second))
        if not equal:
            return _apart(f"{count} of {first.size} values are different")
        return Difference(True, 0.0, "", first.size > 0, _ends(first))
    nan, other_nan = np.isnan(first), np.isnan(second)
    finite = np.isfinite(first)
    there = bool(finite.any())
    if first.tobytes() == second.tobytes():
        return Difference(True, 0.0, "", there, _ends(first[finite]))
    if not np.array_equal(nan, other_nan):
        return _apart(f"{int(np.sum(nan != other_nan))} of {first.size} values are NaN in one only")
    if not np.array_equal(finite, np.isfinite(second)) or not np.array_equal(
        first[~finite & ~nan], second[~finite & ~nan]
    ):
        return _apart("infinities are in other places")
    wide = np.complex128 if first.dtype.kind == "c" else np.float64
    mine, theirs = first[finite].astype(wide), second[finite].astype(wide)
    if mine.tobytes() == theirs.tobytes():
        return Difference(True, 0.0, "", there, _ends(mine))
    scale = scales(first.astype(wide))[finite]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        distance = np.abs(mine - theirs)
        errors = np.where(distance == 0, 0.0, distance / scale)
    return Difference(False, float(errors.max()), "", there, _ends(mine))


def _ends(values: Array) -> frozenset[Any]:
    if not values.size:
        return frozenset()
    sizes = np.abs(values) if values.dtype.kind == "c" else values
    if sizes.dtype.kind == "O":
        return frozenset((min(sizes.flat), max(sizes.flat)))
    return frozenset((sizes.min().item(), sizes.max().item()))


def _apart(reason: str) -> Difference:
    return Difference(False, float("inf"), reason, True)
