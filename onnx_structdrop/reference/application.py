"""Applying a specification to data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onnx_structdrop.reference.dropblock import drop_block
from onnx_structdrop.reference.independent import noise_shape_dropout, spatial_dropout
from onnx_structdrop.reference.layout import mask_shape

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onnx_structdrop.reference.outputs import Dropped
    from onnx_structdrop.specs import DropoutSpec

__all__ = ["apply", "uniforms_shape"]

_FUNCTIONS: dict[str, Callable[..., Dropped]] = {
    "SpatialDropout": spatial_dropout,
    "NoiseShapeDropout": noise_shape_dropout,
    "DropBlock": drop_block,
}


def uniforms_shape(spec: DropoutSpec, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of the uniforms that `apply` needs for data of this shape.

    Raises
    ------
    ArgumentError
        The specification does not apply to this shape.

    Examples
    --------
    >>> from onnx_structdrop.specs import DropBlock2D
    >>> uniforms_shape(DropBlock2D(0.1, shared_axes=(1,)), (8, 64, 28, 28))
    (8, 1, 28, 28)
    """
    return mask_shape(spec.op_type, shape, spec.node_attributes(len(shape), shape))


def apply(
    spec: DropoutSpec,
    data: npt.ArrayLike,
    uniforms: npt.ArrayLike | None,
    *,
    ratio: float | None = None,
    training_mode: bool = True,
) -> Dropped:
    """Apply a specification to data.

    Parameters
    ----------
    spec
        What to drop.
    data
        Array of a rank that the specification applies to.
    uniforms
        Array of shape `uniforms_shape`; may be None outside training mode.
    ratio
        Ratio to use instead of the specification's rate, as a schedule would.
    training_mode
        Whether to drop at all.

    Raises
    ------
    ArgumentTypeError, ArgumentError
        As the operator; or the specification does not apply to the shape of data.
    """
    array = np.asarray(data)
    attributes: dict[str, Any] = spec.node_attributes(array.ndim, array.shape)
    return _FUNCTIONS[spec.op_type](
        array,
        spec.rate if ratio is None else ratio,
        uniforms,
        training_mode=training_mode,
        **attributes,
    )
