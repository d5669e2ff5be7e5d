"""Whether what was timed did its work."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from onnx_structdrop.errors import CheckFailedError

if TYPE_CHECKING:
    from onnx_structdrop.bench.tensors import Array

__all__ = ["Expected", "check_dropout", "check_equal"]

_STANDARD_ERRORS = 7.0
"""How far a dropped fraction may be from the expected one."""

_ROUNDING = {2: 2**-7, 4: 2**-20, 8: 2**-45}
"""Relative error that is allowed, by the size of an element; bfloat16 has eight bits."""


class Expected(NamedTuple):
    """Fraction that is dropped on average, in how many independent pieces."""

    rate: float
    trials: float

    @property
    def tolerance(self) -> float:
        """Largest plausible distance of a dropped fraction from the rate."""
        if math.isinf(self.trials):
            return 1e-9
        # One piece more or less is always plausible, however unlikely the formula finds it.
        chance = math.sqrt(max(self.rate * (1 - self.rate), 0) / self.trials)
        return _STANDARD_ERRORS * chance + 2 / self.trials


def check_equal(title: str, wanted: Array, found: Array) -> None:
    """Check a result that has no chance in it."""
    if not np.array_equal(wanted, found):
        raise CheckFailedError(f"{title} did not compute what it should have: nothing was timed")


def check_dropout(
    title: str, data: Array, output: Array, expected: Expected, mask: Array | None = None
) -> None:
    """Check that an output is its data, scaled where it was kept and 0 where it was dropped.

    Parameters
    ----------
    title
        What ran.
    data
        Data without zeros.
    output
        What came out.
    expected
        What had to be dropped.
    mask
        The mask that came with it, if any.

    Raises
    ------
    CheckFailedError
        It is not.
    """
    kept = output != 0
    dropped = 1 - float(kept.mean())
    if not abs(dropped - expected.rate) <= expected.tolerance:
        raise CheckFailedError(
            f"{title} dropped {dropped:.2%} instead of {expected.rate:.2%}: nothing was timed"
        )
    if mask is not None and not np.array_equal(kept, mask):
        raise CheckFailedError(f"{title} returned a mask of something else: nothing was timed")
    before, after = _wide(data[kept]), _wide(output[kept])
    if not after.size:
        return
    scale = float(after[0]) / float(before[0])
    error = float(np.abs(after - before * after.dtype.type(scale)).max())
    allowed = _ROUNDING[output.dtype.itemsize] * scale * float(np.abs(before).max())
    if not (scale > 0 and error <= allowed):
        raise CheckFailedError(f"{title} did not scale what it kept: nothing was timed")


def _wide(array: Array) -> Array:
    return array.astype(np.float32) if array.dtype.itemsize == 2 else array
