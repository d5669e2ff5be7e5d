"""Parameters, gradients and moments of a model in training, each kind in one flat array."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_structdrop.errors import ModelError, UnsupportedModelError
from onnx_structdrop.training.stock_files import entry

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["FlatArrays", "TrainingArrays"]

_PARAMETER, _MOMENT = "parameter/", "moment/"
_ALIGNMENT = 16
"""Elements of float32 in a cache line: each parameter begins on one."""


class FlatArrays:
    """Places of named tensors in flat arrays.

    An optimizer then works on one array instead of hundreds, and onnxruntime reads parameters and
    writes gradients in place.

    Parameters
    ----------
    parameters
        Tensors by name, float32.

    Raises
    ------
    UnsupportedModelError
        One has another element type.
    """

    def __init__(self, parameters: Mapping[str, NDArray[np.float32]]) -> None:
        self._places: dict[str, tuple[int, tuple[int, ...]]] = {}
        end = 0
        for name, value in parameters.items():
            if value.dtype != np.float32:
                raise UnsupportedModelError(
                    f"parameter {name!r} is {value.dtype}; onnxruntime trains float32"
                )
            self._places[name] = (end, value.shape)
            end += -(-math.prod(value.shape) // _ALIGNMENT) * _ALIGNMENT
        self._size = end

    def new(self) -> NDArray[np.float32]:
        """Return an array of zeros that holds every tensor, aligned to a cache line."""
        raw = np.zeros(self._size + _ALIGNMENT, np.float32)
        offset = -raw.ctypes.data // raw.itemsize % _ALIGNMENT
        return raw[offset : offset + self._size]

    def views(self, flat: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Return the tensors in an array by name, not copied."""
        return {
            name: flat[start : start + math.prod(shape)].reshape(shape)
            for name, (start, shape) in self._places.items()
        }


class TrainingArrays:
    """All that changes in training: parameters, gradients, and the optimizer's moments.

    Parameters
    ----------
    state
        What `state` returned; or parameters alone, as `beginning` names them.
    trainable, frozen
        Names of parameters.
    moments
        How many arrays of the size of the parameters the optimizer keeps.

    Attributes
    ----------
    parameters
        All parameters by name; trainable ones lie in `weights`.
    gradients
        Gradients of the trainable ones by name; they lie in `flat_gradients`.
    weights, flat_gradients, moments
        Flat arrays.

    Raises
    ------
    ModelError
        A parameter is missing.
    UnsupportedModelError
        A trainable one is not float32.
    """

    def __init__(
        self,
        state: Mapping[str, NDArray[np.generic]],
        *,
        trainable: Iterable[str],
        frozen: Iterable[str],
        moments: int,
    ) -> None:
        values = {name: entry(state, _PARAMETER, name) for name in trainable}
        self._flat = FlatArrays(values)
        self.weights, self.flat_gradients = self._flat.new(), self._flat.new()
        self.moments = tuple(self._flat.new() for _ in range(moments))
        self.gradients = self._flat.views(self.flat_gradients)
        self.parameters: dict[str, NDArray[np.generic]] = dict(self._flat.views(self.weights))
        for name, value in values.items():
            self.parameters[name][...] = value
        for name in frozen:
            self.parameters[name] = np.array(entry(state, _PARAMETER, name), order="C")
        if any(name.startswith(_MOMENT) for name in state):
            for prefix, views in self._moment_views():
                for name, view in views.items():
                    view[...] = entry(state, prefix, name)

    def bind(self, session: Any, data: set[str], where: Path) -> Any:
        """Return a binding in which a session reads parameters and writes gradients in place.

        Parameters
        ----------
        session
            Of the lowered training model.
        data
            Names of the inputs that each step gives.
        where
            The model's file, for messages.

        Raises
        ------
        ModelError
            The model takes something else, or lacks a gradient.
        """
        binding = session.io_binding()
        taken = {value.name for value in session.get_inputs()}
        made = {value.name for value in session.get_outputs()}
        unknown = taken - data - set(self.parameters)
        missing = {name for name in self.gradients if f"{name}_grad" not in made}
        if unknown or missing:
            raise ModelError(
                f"{where} does not fit its manifest (unknown inputs: {sorted(unknown)}, "
                f"parameters without gradient: {sorted(missing)}); make the artifacts again"
            )
        for name, value in self.parameters.items():
            if name in taken:
                binding.bind_input(name, "cpu", 0, value.dtype, value.shape, value.ctypes.data)
        for name, view in self.gradients.items():
            place = view.ctypes.data
            binding.bind_output(f"{name}_grad", "cpu", 0, view.dtype, view.shape, place)
        return binding

    @staticmethod
    def beginning(parameters: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        """Return the state before the first step."""
        return {f"{_PARAMETER}{name}": value for name, value in parameters.items()}

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return parameters and moments, not copied."""
        result = self.beginning(self.parameters)
        for prefix, views in self._moment_views():
            result.update((prefix + name, view) for name, view in views.items())
        return result

    def _moment_views(self) -> list[tuple[str, dict[str, NDArray[np.float32]]]]:
        return [
            (f"{_MOMENT}{index}/", self._flat.views(moment))
            for index, moment in enumerate(self.moments)
        ]
