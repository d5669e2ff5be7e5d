"""NumPy reference of every operator: what the function bodies and the kernels have to compute.

Randomness comes in as an argument: `uniforms`, numbers in [0, 1), one per element of the mask.
An element is kept where ``u >= ratio``; for DropBlock a position seeds a block where
``u < gamma``. The functions favour plainness over speed.

Conventions
-----------
- ``mask`` is True where kept. Its rank is that of data, and it has size 1 on shared axes.
- ``scale`` is float32. It has shape (), or one entry per sample, broadcastable to data.
- ``output = where(mask, data * scale, 0)``: a dropped NaN or infinity becomes 0. The product is
  computed in float32 and rounded once to the type of data; for float64 data, in float64.
- The ratio is rounded to float32 first, since nodes take it as a float32 input.
- ratio 0, or ``training_mode=False``: output equals data bit for bit. ratio 1: everything is
  dropped.
"""

from __future__ import annotations

from onnx_structdrop.reference.application import apply, uniforms_shape
from onnx_structdrop.reference.dropblock import drop_block
from onnx_structdrop.reference.independent import noise_shape_dropout, spatial_dropout
from onnx_structdrop.reference.layout import mask_shape
from onnx_structdrop.reference.outputs import Dropped, structured_dropout_grad

__all__ = [
    "Dropped",
    "apply",
    "drop_block",
    "mask_shape",
    "noise_shape_dropout",
    "spatial_dropout",
    "structured_dropout_grad",
    "uniforms_shape",
]
