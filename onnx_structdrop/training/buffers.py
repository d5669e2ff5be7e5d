"""Parameters, gradients and moments of a model in training, each kind in one flat array."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from onnx_structdrop.errors import UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["FlatArrays"]

_ALIGNMENT = 16
"""Elements of float32 in a cache line: each parameter begins on one."""


class FlatArrays:
    """Places of named tensors in flat arrays.

    An optimizer then works on one array instead of hundreds, and onnxruntime reads parameters and
    writes gradients in place.

    Parameters
    ----------
    parameters
        Tensors by name, float32.

    Raises
    ------
    UnsupportedModelError
        One has another element type.
    """

    def __init__(self, parameters: Mapping[str, NDArray[np.float32]]) -> None:
        self._places: dict[str, tuple[int, tuple[int, ...]]] = {}
        end = 0
        for name, value in parameters.items():
            if value.dtype != np.float32:
                raise UnsupportedModelError(
                    f"parameter {name!r} is {value.dtype}; onnxruntime trains float32"
                )
            self._places[name] = (end, value.shape)
            end += -(-math.prod(value.shape) // _ALIGNMENT) * _ALIGNMENT
        self._size = end

    def new(self) -> NDArray[np.float32]:
        """Return an array of zeros that holds every tensor, aligned to a cache line."""
        raw = np.zeros(self._size + _ALIGNMENT, np.float32)
        offset = -raw.ctypes.data // raw.itemsize % _ALIGNMENT
        return raw[offset : offset + self._size]

    def views(self, flat: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Return the tensors in an array by name, not copied."""
        return {
            name: flat[start : start + math.prod(shape)].reshape(shape)
            for name, (start, shape) in self._places.items()
        }
