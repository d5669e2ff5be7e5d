"""What to drop: specifications that are inserted into models and applied by the reference."""

from __future__ import annotations

from onnx_structdrop.specs.base import DropoutSpec
from onnx_structdrop.specs.dropblock import DropBlock1D, DropBlock2D, DropBlock3D
from onnx_structdrop.specs.noise import Dropout, DropPath
from onnx_structdrop.specs.registry import SPECS, spec_from_config
from onnx_structdrop.specs.spatial import SpatialDropout1D, SpatialDropout2D, SpatialDropout3D

__all__ = [
    "SPECS",
    "DropBlock1D",
    "DropBlock2D",
    "DropBlock3D",
    "DropPath",
    "Dropout",
    "DropoutSpec",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "spec_from_config",
]
