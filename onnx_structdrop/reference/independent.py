"""SpatialDropout and NoiseShapeDropout: every element of the mask is dropped by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from onnx_structdrop.reference.arguments import check_data, check_ratio, check_uniforms
from onnx_structdrop.reference.layout import MaskLayout, noise_shape_layout, spatial_layout
from onnx_structdrop.reference.outputs import Array, Dropped, identity, select

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["noise_shape_dropout", "spatial_dropout"]


def _independent(
    op: str,
    data: Array,
    ratio: float,
    uniforms: npt.ArrayLike | None,
    layout: MaskLayout,
    *,
    scaled: bool,
    training_mode: bool,
) -> Dropped:
    """Drop every element of the mask by itself."""
    ratio = check_ratio(op, ratio)
    if not training_mode:
        return identity(data, layout, ())
    mask = (check_uniforms(op, uniforms, layout.mask) >= ratio) & (ratio < 1)
    if ratio == 0:
        return Dropped(data.copy(), mask, np.ones((), np.float32))
    one = np.float32(1)
    factor = one / (one - np.float32(ratio)) if scaled and ratio < 1 else one
    scale = np.asarray(factor, np.float32)
    return Dropped(select(data, mask, scale), mask, scale)


def spatial_dropout(
    data: npt.ArrayLike,
    ratio: float,
    uniforms: npt.ArrayLike | None,
    *,
    channel_axis: int = 1,
    training_mode: bool = True,
) -> Dropped:
    """Compute SpatialDropout: drop whole channels of a sample.

    Parameters
    ----------
    data
        Array of rank 2 or more, batch axis first.
    ratio
        Probability of dropping, in [0, 1].
    uniforms
        Array of the shape of the mask: batch and channel sizes, and 1 elsewhere. Ignored, and may
        be None, outside training mode.
    channel_axis
        Axis of the channels; negative counts from the end.
    training_mode
        Whether to drop at all.

    Returns
    -------
    Dropped
        ``output``, ``mask`` and ``scale``; the scale is ``1 / (1 - ratio)``, and 1 at ratio 1.

    Raises
    ------
    ArgumentTypeError, ArgumentError
        The type or rank of data, the ratio, the axis or the uniforms are not allowed.

    Examples
    --------
    >>> import numpy as np
    >>> data = np.ones((1, 2, 2), np.float32)
    >>> spatial_dropout(data, 0.5, np.array([[[0.7], [0.2]]])).output.tolist()
    [[[2.0, 2.0], [0.0, 0.0]]]
    """
    op = "SpatialDropout"
    array = check_data(op, data)
    layout = spatial_layout(op, array.shape, channel_axis)
    return _independent(
        op, array, ratio, uniforms, layout, scaled=True, training_mode=training_mode
    )


def noise_shape_dropout(
    data: npt.ArrayLike,
    ratio: float,
    uniforms: npt.ArrayLike | None,
    *,
    noise_shape: Sequence[int],
    scale_by_keep: bool = True,
    training_mode: bool = True,
) -> Dropped:
    """Compute NoiseShapeDropout: drop elements, sharing one decision along chosen axes.

    Parameters
    ----------
    data
        Array of rank 1 or more.
    ratio
        Probability of dropping, in [0, 1].
    uniforms
        Array of the shape of the mask. Ignored, and may be None, outside training mode.
    noise_shape
        One entry per axis: 1 shares a decision along it, 0 takes the data's own size.
    scale_by_keep
        Whether kept values are scaled by ``1 / (1 - ratio)``.
    training_mode
        Whether to drop at all.

    Returns
    -------
    Dropped
        ``output``, ``mask`` and ``scale``; the scale is 1 at ratio 1.

    Raises
    ------
    ArgumentTypeError, ArgumentError
        The type or rank of data, the ratio, the noise shape or the uniforms are not allowed.
    """
    op = "NoiseShapeDropout"
    array = check_data(op, data)
    layout = noise_shape_layout(op, array.shape, noise_shape)
    return _independent(
        op, array, ratio, uniforms, layout, scaled=bool(scale_by_keep), training_mode=training_mode
    )
