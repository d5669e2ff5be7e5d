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

__all__ = [
    "Evaluation",
    "arrange",
    "arrange_inputs",
    "as_array",
    "check_against_output",
    "check_labels",
    "is_determined",
]


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

    Onnxruntime is handed bytes: what it would misread, or divides by, never gets there.

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
        A name, number, element type or shape is not what the model takes, an array is empty, or
        sizes that the model calls by one name differ. An array of the wrong type is refused, not
        converted.
    """
    given = [*_named(manifest, inputs), as_array(labels, f"input {manifest.labels.name!r}")]
    _check_all((*manifest.inputs, manifest.labels), given)
    return given


def arrange_inputs(manifest: Manifest, inputs: Any) -> list[np.ndarray]:
    """Return inputs in the order of the model's inputs, see `arrange`."""
    given = _named(manifest, inputs)
    _check_all(manifest.inputs, given)
    return given


def as_array(value: Any, what: str) -> np.ndarray:
    """Return what numpy makes of a value.

    Raises
    ------
    ArgumentTypeError
        It makes nothing of it, as of rows of different lengths.
    """
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # a tensor of torch raises the last
        reason = " ".join(str(error).split())
        raise ArgumentTypeError(f"{what} is no array: {reason}") from error


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


def check_against_output(manifest: Manifest, labels: np.ndarray, shape: tuple[int, ...]) -> None:
    """Check labels against the shape of the output that the loss compares them with.

    Parameters
    ----------
    manifest
        Says which loss it is.
    labels
        As `arrange` returned them.
    shape
        Of the output for this batch.

    Raises
    ------
    ArgumentError
        They have another shape, or a label is none of the classes. Onnxruntime would stretch a
        target that broadcasts, and read past its arrays for a label.
    """
    if manifest.loss == "cross_entropy":
        check_labels(labels, shape[1])
        shape = (shape[0], *shape[2:])
    if labels.shape != shape:
        raise ArgumentError(
            f"input {manifest.labels.name!r} has shape {labels.shape}; output "
            f"{manifest.loss_output!r} of this batch needs {shape}"
        )


def is_determined(manifest: Manifest) -> bool:
    """Tell whether the inputs' shapes and the manifest say what labels have to be."""
    named = {size for info in manifest.inputs for size in info.shape or () if size is not None}
    shape = manifest.labels.shape
    if shape is None or not all(isinstance(size, int) or size in named for size in shape):
        return False
    return manifest.loss != "cross_entropy" or isinstance(manifest.classes, int)


def _named(manifest: Manifest, inputs: Any) -> list[np.ndarray]:
    names = [info.name for info in manifest.inputs]
    if isinstance(inputs, Mapping):
        if set(inputs) != set(names):
            raise ArgumentError(
                f"inputs are named {', '.join(map(repr, inputs))}; the model takes "
                f"{', '.join(map(repr, names))}"
            )
        return [as_array(inputs[name], f"input {name!r}") for name in names]
    if isinstance(inputs, list | tuple):
        if len(inputs) != len(names):
            raise ArgumentError(
                f"{len(inputs)} inputs are given; the model takes {len(names)}: "
                f"{', '.join(map(repr, names))}"
            )
        return [as_array(each, f"input {name!r}") for each, name in zip(inputs, names, strict=True)]
    if len(names) != 1:
        raise ArgumentError(
            f"one array is given; the model takes {len(names)} inputs, as a list or by name: "
            f"{', '.join(map(repr, names))}"
        )
    return [as_array(inputs, f"input {names[0]!r}")]


def _check_all(infos: Sequence[TensorInfo], arrays: Sequence[np.ndarray]) -> None:
    sizes: dict[str, tuple[int, str]] = {}
    for info, array in zip(infos, arrays, strict=True):
        _check(info, array, sizes)


def _check(info: TensorInfo, array: np.ndarray, sizes: dict[str, tuple[int, str]]) -> None:
    if array.dtype.name != info.dtype:
        raise ArgumentTypeError(
            f"input {info.name!r} is {array.dtype.name}; the model takes {info.dtype}: convert "
            f"it, as by array.astype({info.dtype!r})"
        )
    if not array.dtype.isnative:  # of the same name as the dtype that is
        raise ArgumentTypeError(
            f"input {info.name!r} has the byte order of another machine ({array.dtype.str}); "
            f"convert it: array.astype({info.dtype!r})"
        )
    shape = (None,) * array.ndim if info.shape is None else info.shape
    if array.ndim != len(shape):
        raise ArgumentError(
            f"input {info.name!r} has shape {array.shape}; the model takes "
            f"{len(shape)} axes: {shape}"
        )
    if not array.size:
        raise ArgumentError(
            f"input {info.name!r} is empty, of shape {array.shape}; leave such a batch out"
        )
    for size, wanted in zip(array.shape, shape, strict=True):
        if isinstance(wanted, int) and size != wanted:
            raise ArgumentError(
                f"input {info.name!r} has shape {array.shape}; the model takes {shape}"
            )
        if isinstance(wanted, str):
            before, name = sizes.setdefault(wanted, (size, info.name))
            if before != size:
                raise ArgumentError(
                    f"input {info.name!r} has shape {array.shape}, but {wanted!r} is {before} in "
                    f"{name!r}; the sizes must agree"
                )
