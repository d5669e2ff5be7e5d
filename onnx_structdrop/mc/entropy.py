"""Softmax, sigmoid and entropies of arrays whose classes stand on a middle axis.

Sums over classes add in an order that does not depend on how many rows there are: along a
contiguous last axis NumPy adds row by row, elsewhere the classes are added one after the other.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from onnx_structdrop.mc.outputs import OutputKind

__all__ = ["Rows", "entropies", "to_probabilities"]

_FLOOR = -800.0
"""A score so far below the highest has probability 0 in float64, and times 0 is no NaN."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """How the numbers of one image are laid out: (outer, classes, inner).

    Attributes
    ----------
    shape
        Places before the class axis, classes, places after it; without classes (outer, 1, 1).
    kept
        Axes of the output that remain without batch and classes.
    """

    shape: tuple[int, int, int]
    kept: tuple[int, ...]

    @classmethod
    def of(cls, kind: OutputKind, dims: tuple[int, ...]) -> Self:
        """Return the layout of an output whose axes after the batch are `dims`."""
        if kind.class_axis is None:
            return cls((math.prod(dims), 1, 1), dims)
        at = kind.class_axis - 1
        shape = (math.prod(dims[:at]), dims[at], math.prod(dims[at + 1 :]))
        return cls(shape, dims[:at] + dims[at + 1 :])

    @property
    def size(self) -> int:
        """Numbers of one image."""
        return math.prod(self.shape)

    @property
    def places(self) -> tuple[int, int]:
        """Places before and after the class axis."""
        return self.shape[0], self.shape[2]


def to_probabilities(values: np.ndarray, kind: OutputKind) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities of an output and the entropies of their rows.

    Parameters
    ----------
    values
        float64 of shape (..., outer, classes, inner), contiguous.
    kind
        What they are; not regression.

    Returns
    -------
    probabilities, entropies
        float64 of the shape of `values`, and of it without the axis of classes; in nats.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        if kind.values == "probabilities":
            return values, entropies(values, kind)
        if kind.events:
            return _sigmoid(values)
        return _softmax(values)


def entropies(probabilities: np.ndarray, kind: OutputKind) -> np.ndarray:
    """Return the entropies, in nats, of probabilities of shape (..., outer, classes, inner)."""
    total: np.ndarray
    found = _less_than_log(probabilities)
    if kind.events:
        other = _less_than_log(1 - probabilities)
        total = found[..., 0, :] + other[..., 0, :]
    else:
        total = _sum(found)
    # Probabilities that are rounded up beyond 1 have a negative entropy.
    np.maximum(total, 0.0, out=total)
    return total


def _less_than_log(probabilities: np.ndarray) -> np.ndarray:
    """Return -p log p, and 0 at 0 or below."""
    safe = np.where(probabilities > 0, probabilities, 1.0)
    made = np.log(safe)
    made *= probabilities
    return np.negative(made, out=made)


def _softmax(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return softmax and its entropy, log s - sum e^z z / s with s = sum e^z, max z = 0.

    Both terms are 0 or more: nothing cancels.
    """
    below = scores - scores.max(axis=-2, keepdims=True)
    np.maximum(below, _FLOOR, out=below)
    powers = np.exp(below)
    total = _sum(powers)
    below *= powers
    entropy = np.log(total) - _sum(below) / total
    powers /= total[..., None, :]
    return powers, entropy


def _sigmoid(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return 1 / (1 + e^-z) and its entropy, log(1 + e^-|z|) + |z| e^-|z| / (1 + e^-|z|)."""
    size = np.minimum(np.abs(scores), -_FLOOR)
    small = np.exp(-size)
    whole = 1 + small
    entropy = np.log1p(small) + size * small / whole
    # A NaN goes on: it is in the other branch's numbers as well.
    return np.where(scores >= 0, 1 / whole, small / whole), entropy[..., 0, :]


def _sum(values: np.ndarray) -> np.ndarray:
    """Return the sum over the axis of classes, the second from the end."""
    total: np.ndarray
    if values.shape[-1] == 1:
        total = np.add.reduce(values[..., 0], axis=-1)
        return total[..., None]
    total = values[..., 0, :].copy()
    for at in range(1, values.shape[-2]):
        total += values[..., at, :]
    return total
