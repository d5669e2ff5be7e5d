"""The memory that everything timed on one shape shares."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from onnx_structdrop.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["DTYPES", "Array", "Tensors"]

Array = npt.NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "bool": np.dtype(np.bool_),
}
"""NumPy's name for every element type."""

_ALIGNMENT = 4096
_PERIOD = 1 << 20


class Tensors:
    """Data of one shape, and room for results.

    All cases read the same data and write to the same output, so that none of them finds its
    memory in another state of the caches, or of the page table, than the others do.

    Parameters
    ----------
    shape
        Shape of the data.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        self._data: dict[str, Array] = {}
        self._output: dict[str, Array] = {}

    def data(self, element: str) -> Array:
        """Return data without zeros, so that a zero in an output is a dropped cell."""
        if element not in self._data:
            generator = np.random.default_rng(0)
            size = math.prod(self.shape)
            # The values do not matter to the time; drawing 10^8 of them would take a while.
            period = generator.uniform(0.5, 4.0, min(size, _PERIOD)).astype(np.float32)
            period *= generator.choice(np.array([-1, 1], np.float32), period.size)
            array = self.empty(element)
            flat = array.reshape(-1)
            for start in range(0, size, _PERIOD):
                part = flat[start : start + _PERIOD]
                part[:] = period[: part.size]
            self._data[element] = array
        return self._data[element]

    def output(self, element: str, shape: Sequence[int] | None = None) -> Array:
        """Return room for a result; the same memory for all results of a type and shape."""
        shape = self.shape if shape is None else tuple(shape)
        key = f"{element}{shape}"
        if key not in self._output:
            self._output[key] = self.empty(element, shape)
        return self._output[key]

    def empty(self, element: str, shape: Sequence[int] | None = None) -> Array:
        """Return memory of its own that starts at a page.

        Raises
        ------
        ArgumentError
            There is not enough memory.
        """
        shape = self.shape if shape is None else tuple(shape)
        dtype = DTYPES[element]
        size = math.prod(shape) * dtype.itemsize
        try:
            raw = np.zeros(size + _ALIGNMENT, np.uint8)
        except (MemoryError, ValueError) as error:
            raise ArgumentError(
                f"there is no memory for a tensor of {size / 1e9:.1f} GB; take a smaller shape"
            ) from error
        start = -raw.ctypes.data % _ALIGNMENT
        return raw[start : start + size].view(dtype).reshape(shape)
