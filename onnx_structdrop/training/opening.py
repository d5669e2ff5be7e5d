"""A session in whichever onnxruntime is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_structdrop.training.runtime import training_available
from onnx_structdrop.training.session import TrainingSession
from onnx_structdrop.training.stock import StockTrainer

if TYPE_CHECKING:
    import os

    from onnx_structdrop.training.artifacts import Artifacts

__all__ = ["open_session"]


def open_session(
    artifacts: Artifacts | str | os.PathLike[str],
    *,
    native: bool | str = "auto",
    threads: int | None = None,
    learning_rate: float = 0.001,
) -> TrainingSession | StockTrainer:
    """Begin training in onnxruntime-training where it is installed, else in the plain onnxruntime.

    Parameters and errors are those of `TrainingSession` and `StockTrainer`.
    """
    kind = TrainingSession if training_available() else StockTrainer
    return kind(artifacts, native=native, threads=threads, learning_rate=learning_rate)
