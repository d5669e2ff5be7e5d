"""What a model in training tells of itself, on whichever runtime it trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnx_structdrop.training.feeds import arrange, check_labels

if TYPE_CHECKING:
    import numpy as np

    from onnx_structdrop.training.artifacts import Artifacts
    from onnx_structdrop.training.manifest import Manifest

__all__ = ["Trainer"]


class Trainer:
    """Base of `TrainingSession` and `StockTrainer`, which set what it tells."""

    _artifacts: Artifacts
    _manifest: Manifest
    _native: bool
    _steps: int

    @property
    def artifacts(self) -> Artifacts:
        """The folder that training began with."""
        return self._artifacts

    @property
    def manifest(self) -> Manifest:
        """What the model takes and returns, with the schedule in use."""
        return self._manifest

    @property
    def native(self) -> bool:
        """Whether the native kernels run the dropout nodes."""
        return self._native

    @property
    def steps(self) -> int:
        """How many steps were made since training began, before it was resumed included."""
        return self._steps

    def _output_names(self) -> tuple[str, ...]:
        """Return what the models return behind the loss, without running statistics."""
        return (*self._manifest.outputs, *self._manifest.extra_outputs)

    def _feeds(self, inputs: Any, labels: Any) -> list[np.ndarray]:
        """Return a batch in the order of the model's inputs, checked."""
        feeds = arrange(self._manifest, inputs, labels)
        if self._manifest.loss == "cross_entropy":
            check_labels(feeds[-1], self._manifest.classes)
        return feeds
