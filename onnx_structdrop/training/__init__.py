"""Training in onnxruntime: gradients, preparation, artifacts, schedules and finished models.

An optional part. Making artifacts, and training with them in onnxruntime-training, needs
onnxruntime-training-cpu 1.19.2; training on the plain onnxruntime needs the artifacts only.
"""

from __future__ import annotations

from onnx_structdrop.training.artifacts import Artifacts, generate_artifacts
from onnx_structdrop.training.feeds import Evaluation
from onnx_structdrop.training.finish import finish
from onnx_structdrop.training.gradients import register_gradients
from onnx_structdrop.training.history import History, accuracy, fit
from onnx_structdrop.training.lowering import lower
from onnx_structdrop.training.manifest import Manifest
from onnx_structdrop.training.opening import open_session
from onnx_structdrop.training.parallel import LocalSGD
from onnx_structdrop.training.preparation import Change, Prepared, prepare
from onnx_structdrop.training.runtime import training_available
from onnx_structdrop.training.schedule import Schedule
from onnx_structdrop.training.session import TrainingSession
from onnx_structdrop.training.stock import StockTrainer

__all__ = [
    "Artifacts",
    "Change",
    "Evaluation",
    "History",
    "LocalSGD",
    "Manifest",
    "Prepared",
    "Schedule",
    "StockTrainer",
    "TrainingSession",
    "accuracy",
    "finish",
    "fit",
    "generate_artifacts",
    "lower",
    "open_session",
    "prepare",
    "register_gradients",
    "training_available",
]
