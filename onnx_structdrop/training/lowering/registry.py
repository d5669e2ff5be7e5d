"""Which operators are lowered, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_structdrop.training.lowering import (
    convolution,
    elementwise,
    losses,
    norms,
    pooling,
    shapes,
)

if TYPE_CHECKING:
    from onnx_structdrop.training.lowering.writer import Rule

__all__ = ["ACCUMULATOR", "LOWERED", "RULES"]

RULES: dict[str, Rule] = {
    **convolution.RULES,
    **elementwise.RULES,
    **losses.RULES,
    **norms.RULES,
    **pooling.RULES,
    **shapes.RULES,
}
"""By the operator's name, which the gradient builder keeps distinct from those of ONNX."""

ACCUMULATOR = "InPlaceAccumulatorV2"
"""Adds gradients of several steps up; a lowered graph gives those of one step as outputs."""

LOWERED = frozenset({*RULES, ACCUMULATOR})
"""Names of the operators that `lower` replaces."""
