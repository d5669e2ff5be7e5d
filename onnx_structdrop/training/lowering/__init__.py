"""Training graphs in standard ONNX: the gradient builder's own operators, replaced."""

from __future__ import annotations

from onnx_structdrop.training.lowering.lower import lower
from onnx_structdrop.training.lowering.registry import LOWERED

__all__ = ["LOWERED", "lower"]
