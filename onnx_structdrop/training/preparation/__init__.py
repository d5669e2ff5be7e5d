"""Preparation of exported models for training in onnxruntime."""

from onnx_structdrop.training.preparation.prepare import prepare
from onnx_structdrop.training.preparation.report import Change, Prepared

__all__ = ["Change", "Prepared", "prepare"]
