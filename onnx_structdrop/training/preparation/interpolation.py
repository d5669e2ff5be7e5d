"""Resizing along one axis as a matrix: output position by input position.

Formulas of the ONNX operator Resize; interpolation is separable, so that one matrix per axis
says all about nearest, linear and cubic alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

__all__ = ["COORDINATES", "MODES", "Interpolation"]

MODES = ("nearest", "linear", "cubic")
COORDINATES = (
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric",
)  # fmt: skip

_ROUNDINGS: dict[str, Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]] = {
    "round_prefer_floor": lambda x: np.ceil(x - np.float32(0.5)),
    "round_prefer_ceil": lambda x: np.floor(x + np.float32(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}


@dataclass(frozen=True)
class Interpolation:
    """The attributes of a Resize node that say how positions are weighted."""

    mode: str = "nearest"
    coordinates: str = "half_pixel"
    rounding: str = "round_prefer_floor"
    cubic: float = -0.75
    exclude_outside: bool = False

    def indices(self, size: int, result: int, scale: float) -> npt.NDArray[np.int64]:
        """Return which input position each output position of "nearest" takes."""
        positions = _ROUNDINGS[self.rounding](self._positions(size, result, scale))
        return np.clip(positions, 0, size - 1).astype(np.int64)

    def matrix(self, size: int, result: int, scale: float) -> npt.NDArray[np.float64]:
        """Return the weights, of shape (result, size).

        Parameters
        ----------
        size, result
            Sizes of input and output along the axis.
        scale
            The factor as the node gives it; result / size where it gives sizes.
        """
        weights = np.zeros((result, size))
        rows = np.arange(result)
        if self.mode == "nearest":
            weights[rows, self.indices(size, result, scale)] = 1
            return weights
        positions = self._positions(size, result, scale).astype(np.float64)
        if self.mode == "linear":
            positions = np.clip(positions, 0, size - 1)
            below = np.floor(positions).astype(np.int64)
            part = positions - below
            np.add.at(weights, (rows, below), 1 - part)
            np.add.at(weights, (rows, np.minimum(below + 1, size - 1)), part)
            return weights
        below = np.floor(positions).astype(np.int64)
        part = positions - below
        for offset in range(-1, 3):
            columns = below + offset
            taps = self._cubic(np.abs(part - offset))
            if self.exclude_outside:
                taps = np.where((columns < 0) | (columns >= size), 0, taps)
            np.add.at(weights, (rows, np.clip(columns, 0, size - 1)), taps)
        return weights / weights.sum(1, keepdims=True) if self.exclude_outside else weights

    def repeats(self, factor: int) -> bool:
        """Tell whether "nearest" with this factor repeats each position, whatever the size."""
        if self.mode != "nearest" or self.coordinates == "align_corners":
            return False
        size = 5
        repeated = np.arange(size * factor) // factor
        return np.array_equal(self.indices(size, size * factor, float(factor)), repeated)

    def taps(self, factor: int) -> npt.NDArray[np.float64] | None:
        """Return the weights of the position before, the position and the one behind, per phase.

        With a whole factor, "linear" weights every position alike, whatever the size. None where
        that is not so.
        """
        if self.mode != "linear" or self.coordinates == "align_corners":
            return None
        size, middle = 5, 2
        weights = self.matrix(size, size * factor, float(factor))
        rows = weights[middle * factor : (middle + 1) * factor]
        return rows[:, middle - 1 : middle + 2]

    def _positions(self, size: int, result: int, scale: float) -> npt.NDArray[np.float32]:
        # In float32, as onnxruntime does: at a tie the last bit decides.
        index, factor = np.arange(result, dtype=np.float32), np.float32(scale)
        half = np.float32(0.5)
        if self.coordinates == "asymmetric":
            return index / factor
        if self.coordinates == "align_corners":
            if result == 1:
                return np.zeros(1, np.float32)
            return index * np.float32(size - 1) / np.float32(result - 1)
        if self.coordinates == "pytorch_half_pixel" and result == 1:
            return np.zeros(1, np.float32)
        positions = (index + half) / factor - half
        if self.coordinates == "half_pixel_symmetric":
            positions += np.float32(size / 2 * (1 - result / (size * scale)))
        return positions

    def _cubic(self, distance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        a, x = self.cubic, distance
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        return np.where(x <= 1, near, np.where(x < 2, far, 0))
