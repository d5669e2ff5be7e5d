"""How likely a comparison of a random number with a constant comes out true."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from onnx_structdrop.graph.verify.constants import scalar

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["normal_chance", "uniform_chance"]


def uniform_chance(node: ir.Node, place: int, low: float, high: float) -> float | None:
    """Return how likely a comparison of a uniform number with a constant comes out true.

    Parameters
    ----------
    node
        The comparison, such as Less.
    place
        Which of its two inputs the random number is.
    low, high
        Bounds of the numbers.

    Returns
    -------
    float or None
        None where the other input is no known constant.
    """
    bound = scalar(node.inputs[1 - place])
    if bound is None or high <= low:
        return None
    return _true(node, place, min(max((bound - low) / (high - low), 0.0), 1.0))


def normal_chance(node: ir.Node, place: int, mean: float, deviation: float) -> float | None:
    """Do the same for a normal number."""
    bound = scalar(node.inputs[1 - place])
    if bound is None or deviation <= 0:
        return None
    return _true(node, place, 0.5 * math.erfc((mean - bound) / deviation / math.sqrt(2.0)))


def _true(node: ir.Node, place: int, below: float) -> float:
    """Return how likely a comparison is true of a number that lies below with a probability."""
    return below if node.op_type.startswith("Less") == (place == 0) else 1 - below
