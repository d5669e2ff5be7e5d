"""The outputs that the operators have in common, and their gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from onnx_structdrop.errors import ArgumentError, ArgumentTypeError
from onnx_structdrop.reference.arguments import check_data
from onnx_structdrop.schema import GRAD_OP

if TYPE_CHECKING:
    from onnx_structdrop.reference.layout import MaskLayout

__all__ = ["Array", "Dropped", "Mask", "Scale", "identity", "select", "structured_dropout_grad"]

Array: TypeAlias = npt.NDArray[Any]
Mask: TypeAlias = npt.NDArray[np.bool_]
Scale: TypeAlias = npt.NDArray[np.float32]


class Dropped(NamedTuple):
    """The three outputs of a dropout operator."""

    output: Array
    mask: Mask
    scale: Scale


def select(data: Array, mask: Mask, scale: Scale) -> Array:
    """Return ``where(mask, data * scale, 0)`` in the type of data, rounded once."""
    wide = np.float64 if data.dtype == np.float64 else np.float32
    with np.errstate(over="ignore", invalid="ignore"):
        product = data.astype(wide) * scale.astype(wide)
        return np.where(mask, product, wide(0)).astype(data.dtype)


def identity(data: Array, layout: MaskLayout, scale_shape: tuple[int, ...]) -> Dropped:
    """Return what an operator outputs in inference mode."""
    return Dropped(data.copy(), np.ones(layout.mask, np.bool_), np.ones(scale_shape, np.float32))


def structured_dropout_grad(
    output_grad: npt.ArrayLike, mask: npt.ArrayLike, scale: npt.ArrayLike
) -> Array:
    """Compute StructuredDropoutGrad: ``where(mask, output_grad * scale, 0)``.

    Parameters
    ----------
    output_grad
        Gradient of the output, of its shape.
    mask, scale
        What the forward operator returned.

    Raises
    ------
    ArgumentTypeError, ArgumentError
        A type is not allowed, or a shape cannot be broadcast to that of the gradient.
    """
    grad = check_data(GRAD_OP, output_grad)
    kept, factor = np.asarray(mask), np.asarray(scale)
    for name, array, needed in (("mask", kept, np.bool_), ("scale", factor, np.float32)):
        if array.dtype != needed:
            raise ArgumentTypeError(
                f"{GRAD_OP}: {name} has type {array.dtype}; {np.dtype(needed)} is needed"
            )
        if array.ndim not in ((grad.ndim,) if name == "mask" else (0, grad.ndim)) or any(
            size not in (1, own) for size, own in zip(array.shape, grad.shape, strict=False)
        ):
            raise ArgumentError(
                f"{GRAD_OP}: {name} has shape {array.shape}, which does not broadcast to the "
                f"shape {grad.shape} of output_grad"
            )
    return select(grad, kept, factor)
