"""What a model in training tells of itself, on whichever runtime it trains."""

from __future__ import annotations

import abc
import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_structdrop.errors import ArgumentError, ModelError
from onnx_structdrop.graph.io import save
from onnx_structdrop.training.feeds import (
    arrange,
    check_against_output,
    check_labels,
    is_determined,
)
from onnx_structdrop.training.folders import absolute

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import onnx

    from onnx_structdrop.training.artifacts import Artifacts
    from onnx_structdrop.training.feeds import Evaluation
    from onnx_structdrop.training.manifest import Manifest

__all__ = ["Trainer"]


class Trainer(abc.ABC):
    """Base of `TrainingSession` and `StockTrainer`, which set what it tells."""

    _artifacts: Artifacts
    _manifest: Manifest
    _native: bool
    _steps: int

    @functools.cached_property
    def _shapes(self) -> dict[tuple[tuple[int, ...], ...], tuple[int, ...]]:
        return {}

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
        manifest = self._manifest
        feeds = arrange(manifest, inputs, labels)
        if manifest.loss == "cross_entropy":
            check_labels(feeds[-1], manifest.classes)
        if not is_determined(manifest):
            check_against_output(manifest, feeds[-1], self._shape_of_output(feeds))
        return feeds

    def _shape_of_output(self, feeds: Sequence[np.ndarray]) -> tuple[int, ...]:
        """Return the shape of what the loss reads, by running the evaluation model.

        Once for each new size of a batch, where the manifest does not tell it.
        """
        key = tuple(array.shape for array in feeds)
        if key not in self._shapes:
            harmless = [*feeds[:-1], np.zeros_like(feeds[-1])]  # class 0 is one of every model's
            try:
                output = self._evaluated(harmless).outputs[self._manifest.loss_output]
            except ModelError as error:
                raise ArgumentError(
                    "the model takes no batch of inputs and labels of shapes "
                    f"{', '.join(map(str, key))}: {error}"
                ) from error
            self._shapes[key] = output.shape
        return self._shapes[key]

    def evaluate(self, inputs: Any, labels: Any) -> Evaluation:
        """Run the evaluation model, without dropout, on a batch.

        Parameters and errors are those of `step`.
        """
        return self._evaluated(self._feeds(inputs, labels))

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write `inference_model`, whole or not at all.

        `finish` makes a model without dropout nodes of it.

        Raises
        ------
        ArgumentError, ArgumentTypeError
            `path` is no path.
        ModelError
            The artifacts are gone.
        OutputError
            The file cannot be written.
        """
        save(self.inference_model(), absolute(path, "path"))

    @abc.abstractmethod
    def inference_model(self) -> onnx.ModelProto:
        """Return the network with its parameters inside; it still holds the dropout nodes.

        Raises
        ------
        ModelError
            The artifacts are gone.
        """

    @abc.abstractmethod
    def _evaluated(self, feeds: Sequence[np.ndarray]) -> Evaluation:
        """Run the evaluation model on what `arrange` returned."""
