"""Comparing what two runs returned."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["TOLERANCES", "Difference", "compare", "flat"]

Array = npt.NDArray[Any]

TOLERANCES = {"float64": 1e-9, "float32": 1e-4, "float16": 1e-2, "bfloat16": 8e-2}
"""Relative error, over the largest absolute value, that moved arithmetic may cause."""


class Difference(NamedTuple):
    """How far two arrays are apart."""

    exact: bool
    error: float
    """Largest absolute difference over the largest absolute value of the first."""
    reason: str
    """What else than rounding is different; empty if nothing is."""
    finite: bool
    """Whether there is a finite value to compare, or nothing at all."""
    ends: frozenset[float] = frozenset()
    """Smallest and largest finite number of the first; empty for what is not a float."""


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
        return Difference(True, 0.0, "", True)
    nan, other_nan = np.isnan(first), np.isnan(second)
    finite = np.isfinite(first)
    there = bool(finite.any()) or first.size == 0
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
    distance = float(np.abs(mine - theirs).max())
    scale = float(np.abs(mine).max())
    error = 0.0 if distance == 0 else distance / scale if scale else float("inf")
    return Difference(False, error, "", there, _ends(mine))


def _ends(values: Array) -> frozenset[float]:
    if not values.size:
        return frozenset()
    sizes = np.abs(values) if values.dtype.kind == "c" else values
    return frozenset((float(sizes.min()), float(sizes.max())))


def _apart(reason: str) -> Difference:
    return Difference(False, float("inf"), reason, True)
