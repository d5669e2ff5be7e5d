"""What a training step is given, checked before it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_structdrop.errors import ArgumentError, ArgumentTypeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_structdrop.training.manifest import Manifest, TensorInfo

__all__ = ["Evaluation", "arrange", "arrange_inputs", "check_labels"]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a model makes of a batch, with dropout off.

    Attributes
    ----------
    loss
        Averaged over the batch.
    outputs
        Outputs of the model by name.
    """

    loss: float
    outputs: dict[str, np.ndarray]


def arrange(manifest: Manifest, inputs: Any, labels: Any) -> list[np.ndarray]:
    """Return inputs and labels in the order of the model's inputs.

    Parameters
    ----------
    manifest
        Says what the model takes.
    inputs
        An array; a list of arrays where the model has several inputs; or arrays by name.
    labels
        An array.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        A name, number, element type or shape is not what the model takes, or sizes that the model
        calls by one name differ. An array of the wrong type is refused, not converted.
    """
    given = [*_named(manifest, inputs), np.asarray(labels)]
    _check_all((*manifest.inputs, manifest.labels), given)
    return given


def arrange_inputs(manifest: Manifest, inputs: Any) -> list[np.ndarray]:
    """Return inputs in the order of the model's inputs, see `arrange`."""
    given = _named(manifest, inputs)
    _check_all(manifest.inputs, given)
    return given


def check_labels(labels: np.ndarray, classes: int | str | None) -> None:
    """Check that labels of the cross entropy name classes; onnxruntime reads past its arrays else.

    Raises
    ------
    ArgumentError
        A label is negative, or not below the number of classes.
    """
    if isinstance(classes, int) and labels.size:
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise ArgumentError(
                f"labels go from {low} to {high}; the model has classes 0 to {classes - 1}"
            )


def _named(manifest: Manifest, inputs: Any) -> list[np.ndarray]:
    names = [info.name for info in manifest.inputs]
    if isinstance(inputs, Mapping):
        if set(inputs) != set(names):
            raise ArgumentError(
                f"inputs are named {', '.join(map(repr, inputs))}; the model takes "
                f"{', '.join(map(repr, names))}"
            )
        return [np.asarray(inputs[name]) for name in names]
    if isinstance(inputs, list | tuple):
        if len(inputs) != len(names):
            raise ArgumentError(
                f"{len(inputs)} inputs are given; the model takes {len(names)}: "
                f"{', '.join(map(repr, names))}"
            )
        return [np.asarray(each) for each in inputs]
    if len(names) != 1:
        raise ArgumentError(
            f"one array is given; the model takes {len(names)} inputs, as a list or by name: "
            f"{', '.join(map(repr, names))}"
        )
    return [np.asarray(inputs)]


def _check_all(infos: Sequence[TensorInfo], arrays: Sequence[np.ndarray]) -> None:
    sizes: dict[str, tuple[int, str]] = {}
    for info, array in zip(infos, arrays, strict=True):
        _check(info, array, sizes)


def _check(info: TensorInfo, array: np.ndarray, sizes: dict[str, tuple[int, str]]) -> None:
    if array.dtype.name != info.dtype:
        raise ArgumentTypeError(
            f"input {info.name!r} is {array.dtype.name}; the model takes {info.dtype}"
        )
    if info.shape is None:
        return
    if array.ndim != len(info.shape):
        raise ArgumentError(
            f"input {info.name!r} has shape {array.shape}; the model takes "
            f"{len(info.shape)} axes: {info.shape}"
        )
    for size, wanted in zip(array.shape, info.shape, strict=True):
        if isinstance(wanted, int) and size != wanted:
            raise ArgumentError(
                f"input {info.name!r} has shape {array.shape}; the model takes {info.shape}"
            )
        if isinstance(wanted, str):
            before, name = sizes.setdefault(wanted, (size, info.name))
            if before != size:
                raise ArgumentError(
                    f"input {info.name!r} has shape {array.shape}, but {wanted!r} is {before} in "
                    f"{name!r}; the sizes must agree"
                )
