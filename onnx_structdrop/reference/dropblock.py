"""DropBlock: contiguous blocks are dropped."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from onnx_structdrop.reference.arguments import (
    block_per_axis,
    check_data,
    check_ratio,
    check_uniforms,
    member,
)
from onnx_structdrop.reference.layout import drop_block_layout
from onnx_structdrop.reference.outputs import Dropped, Mask, Scale, identity, select
from onnx_structdrop.schema import Normalize, SeedRegion
from onnx_structdrop.specs import rates

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["drop_block"]


def _spread(seeds: Mask, axis: int, before: int, after: int) -> Mask:
    """Return True at every position from `before` ahead of a seed to `after` behind it."""
    size = seeds.shape[axis]
    counts = np.cumsum(seeds, axis=axis, dtype=np.int32)
    zero = np.zeros_like(counts.take([0], axis=axis))
    counts = np.concatenate([zero, counts], axis=axis)
    positions = np.arange(size)
    low = np.maximum(positions - after, 0)
    high = np.minimum(positions + before + 1, size)
    return np.asarray(counts.take(high, axis=axis) > counts.take(low, axis=axis))


def _blocks(
    seeds: Mask, axes: Sequence[int], block: Sequence[int], *, only_whole_blocks: bool
) -> Mask:
    """Return True where a block lies: a seed at s covers [s - b//2, s + (b-1)//2] of each axis."""
    seeds = seeds.copy()
    if only_whole_blocks:
        for axis, b in zip(axes, block, strict=True):
            along = np.moveaxis(seeds, axis, 0)
            along[: b // 2] = False
            along[along.shape[0] - (b - 1) // 2 :] = False
    for axis, b in zip(axes, block, strict=True):
        seeds = _spread(seeds, axis, b // 2, (b - 1) // 2)
    return seeds


def _kept_scale(mask: Mask, normalize: Normalize) -> Scale:
    """Return size / kept, counted in integers so that no element type can overflow."""
    if normalize is Normalize.NONE:
        return np.ones((), np.float32)
    axes = tuple(range(normalize is Normalize.SAMPLE, mask.ndim))
    kept = np.count_nonzero(mask, axis=axes, keepdims=normalize is Normalize.SAMPLE)
    size = math.prod(mask.shape[axis] for axis in axes)
    return np.asarray(size / np.maximum(kept, 1), np.float32)


def drop_block(
    data: npt.ArrayLike,
    ratio: float,
    uniforms: npt.ArrayLike | None,
    *,
    block_size: int | Sequence[int],
    channel_axis: int = 1,
    shared_axes: Sequence[int] = (),
    seed_region: int | str = SeedRegion.VALID,
    normalize: int | str = Normalize.BATCH,
    training_mode: bool = True,
) -> Dropped:
    """Compute DropBlock: drop contiguous blocks of each feature map.

    A block is clipped to the map, axis by axis: ``b = min(block, S)``. A position seeds a block
    with probability ``gamma = ratio * prod(S) / (prod(b) * prod(S - b + 1))``.

    Parameters
    ----------
    data
        Array of rank 3 or more, batch axis first; all axes but batch and channel are spatial.
    ratio
        Nominal dropped fraction, in [0, 1].
    uniforms
        Array of the shape of the mask: 1 on shared axes, and the sizes of data elsewhere. Those
        at positions where no seed may fall have no influence. Ignored, and may be None, outside
        training mode.
    block_size
        Size of a block: one integer for all spatial axes, or one for each.
    channel_axis
        Axis of the channels; negative counts from the end.
    shared_axes
        Axes with a common mask: batch, channel, both or neither.
    seed_region
        0 or ``"valid"``: seeds only where the whole block fits; 1 or ``"whole"``: anywhere.
    normalize
        1 or ``"batch"``: ``scale = size / max(kept, 1)`` over the mask; 2 or ``"sample"``: the
        same for each entry of the mask's first axis; 0 or ``"none"``: 1.
    training_mode
        Whether to drop at all.

    Returns
    -------
    Dropped
        ``output``, ``mask`` and ``scale``. Per sample, the scale has shape (N, 1, ...), where N is
        the mask's first size; otherwise ().

    Raises
    ------
    ArgumentTypeError, ArgumentError
        The type or rank of data, the ratio, the uniforms or an attribute are not allowed.

    Examples
    --------
    >>> import numpy as np
    >>> data = np.ones((1, 1, 6), np.float32)
    >>> uniforms = np.array([[[1, 1, 0, 1, 1, 1]]]) * 0.9
    >>> drop_block(data, 0.5, uniforms, block_size=3).output.tolist()
    [[[2.0, 0.0, 0.0, 0.0, 2.0, 2.0]]]
    """
    op = "DropBlock"
    array = check_data(op, data)
    layout = drop_block_layout(op, array.shape, channel_axis, shared_axes)
    sizes = [array.shape[axis] for axis in layout.spatial_axes]
    block = rates.clip_block(block_per_axis(op, block_size, len(sizes)), sizes)
    region = member(op, "seed_region", seed_region, SeedRegion)
    normalization = member(op, "normalize", normalize, Normalize)
    ratio = check_ratio(op, ratio)
    if not training_mode:
        per_sample = (layout.mask[0],) + (1,) * (array.ndim - 1)
        return identity(array, layout, per_sample if normalization is Normalize.SAMPLE else ())
    uniform = check_uniforms(op, uniforms, layout.mask)
    if ratio == 1:
        mask = np.zeros(layout.mask, np.bool_)
    elif uniform.size == 0:
        mask = np.ones(layout.mask, np.bool_)
    else:
        seeds = uniform < rates.seed_probability(ratio, block, sizes)
        mask = ~_blocks(
            seeds, layout.spatial_axes, block, only_whole_blocks=region is SeedRegion.VALID
        )
    scale = _kept_scale(mask, normalization)
    output = array.copy() if ratio == 0 else select(array, mask, scale)
    return Dropped(output, mask, scale)
