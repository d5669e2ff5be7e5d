"""Training in onnxruntime: gradients, preparation, artifacts, schedules and finished models.

An optional part. Making artifacts, and training with them in onnxruntime-training, needs
onnxruntime-training-cpu 1.19.2; training on the plain onnxruntime needs the artifacts only.
"""

from __future__ import annotations

from onnx_structdrop.training.gradients import register_gradients
from onnx_structdrop.training.preparation import Change, Prepared, prepare
from onnx_structdrop.training.runtime import training_available

__all__ = ["Change", "Prepared", "prepare", "register_gradients", "training_available"]
