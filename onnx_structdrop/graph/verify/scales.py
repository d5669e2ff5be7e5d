"""How large a difference is, for every value of an array: a few huge values must not hide it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["scales"]

Array = npt.NDArray[Any]

_SPREAD = 32.0
"""How far above the typical size the scale may lie: normal numbers, say, stay well below."""

_FLOOR = 0.01
"""Share of the largest value, of at most 1, below which all is taken for rounding noise."""


def scales(values: Array) -> Array:
    """Return what the error of every value is to be measured by.

    The sums that a value comes from are about as large as what lies around it, and so is their
    rounding. The scale is therefore that of the whole array, or of a line of it along any axis,
    if that is larger: its largest size, but no more than some times its median, zeros left out.
    What is larger than that is measured by itself. A mask of -1e9 in attention, or one huge
    value, raises no scale but its own.

    Parameters
    ----------
    values
        Numbers of any shape. Infinities and NaN count for nothing.
    """
    sizes = np.abs(values).astype(np.float64)
    sizes[~np.isfinite(sizes)] = 0
    if not sizes.size:
        return sizes
    found = np.maximum(sizes, _FLOOR * min(float(sizes.max()), 1.0))
    np.maximum(found, _typical(sizes.reshape(-1), 0), out=found)
    if sizes.ndim > 1:
        for axis, length in enumerate(sizes.shape):
            if length > 1:
                np.maximum(found, _typical(sizes, axis), out=found)
    return found


def _typical(sizes: Array, axis: int) -> Array:
    """Return the scale of every line along an axis."""
    ordered = np.sort(np.where(sizes == 0, np.inf, sizes), axis)
    count = np.isfinite(ordered).sum(axis, keepdims=True)
    # Of an even number the lower one: one huge value of two is not typical.
    median = np.take_along_axis(ordered, np.maximum(count - 1, 0) // 2, axis)
    median = np.where(count == 0, 0.0, median)
    largest = sizes.max(axis, keepdims=True)
    # In this order for the sake of 1e308.
    scale: Array = np.minimum(np.minimum(largest / _SPREAD, median) * _SPREAD, largest)
    return scale
