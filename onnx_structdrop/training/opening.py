"""A session in whichever onnxruntime is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_structdrop.training.session import TrainingSession

if TYPE_CHECKING:
    import os

    from onnx_structdrop.training.artifacts import Artifacts

__all__ = ["open_session"]


def open_session(
    artifacts: Artifacts | str | os.PathLike[str],
    *,
    threads: int | None = None,
    learning_rate: float | None = None,
) -> TrainingSession:
    return TrainingSession(artifacts, threads=threads, learning_rate=learning_rate)
