"""Which parts of a tensor the picture of its mask shows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from onnx_structdrop.errors import ArgumentError

__all__ = ["Array", "Panel", "arranged", "panels", "varies_only_over_samples"]

Array = npt.NDArray[Any]


class Panel(NamedTuple):
    """One map: a line for one spatial axis, an image for two; more axes are cut into slices."""

    label: str
    data: Array
    kept: Array
    output: Array


def arranged(
    data: npt.ArrayLike, mask: npt.ArrayLike, output: npt.ArrayLike | None, channel_axis: int
) -> tuple[Array, Array, Array]:
    """Return data, mask and output as (sample, channel, spatial axes)."""
    values, small = np.asarray(data), np.asarray(mask)
    if values.ndim < 2 or not -values.ndim <= channel_axis < values.ndim:
        raise ArgumentError(
            f"data of shape {values.shape} has no channel axis {channel_axis}; "
            "(batch, channel, spatial axes) is needed"
        )
    if values.size == 0:
        raise ArgumentError(f"data of shape {values.shape} is empty: nothing to draw")
    try:
        kept = np.broadcast_to(small.astype(bool), values.shape)
    except ValueError:
        raise ArgumentError(
            f"mask of shape {small.shape} does not broadcast to data of shape {values.shape}"
        ) from None
    values = values.astype(np.float32)
    result = np.where(kept, values, 0) if output is None else np.asarray(output, np.float32)
    if result.shape != values.shape:
        raise ArgumentError(f"output has shape {result.shape}, data {values.shape}")
    first = [np.moveaxis(array, channel_axis, 1) for array in (values, kept, result)]
    if values.ndim == 2:
        # No spatial axis: one map of samples by channels.
        first = [array[None, None] for array in first]
    return first[0], first[1], first[2]


def varies_only_over_samples(mask: Array) -> bool:
    """Tell whether a mask holds one decision per sample, as that of DropPath."""
    return mask.ndim > 2 and mask.shape[0] > 1 and mask.size == mask.shape[0]


def panels(
    values: Array, kept: Array, result: Array, sample: int, maps: int, *, over_samples: bool
) -> list[Panel]:
    """Choose at most `maps` maps of a sample, or one of each sample.

    Maps are evenly spread, and at least half of them have dropped cells if that many do.
    """
    if over_samples:
        pairs = [(index, 0) for index in range(values.shape[0])]
    else:
        pairs = [(sample, index) for index in range(values.shape[1])]
    candidates = [
        (pair, piece) for pair in pairs for piece in _slices(values.shape[2:], len(pairs), maps)
    ]
    lossy = [not kept[(*pair, *piece)].all() for pair, piece in candidates]
    chosen = _choose(lossy, maps)
    one = values.shape[1] == 1 and not over_samples
    return [
        Panel(
            _label(pair, piece, over_samples=over_samples, unnamed=one),
            values[(*pair, *piece)],
            kept[(*pair, *piece)],
            result[(*pair, *piece)],
        )
        for pair, piece in (candidates[index] for index in chosen)
    ]


def _slices(spatial: tuple[int, ...], maps: int, wanted: int) -> list[tuple[int, ...]]:
    """Return the leading spatial indices to cut at, so that two axes are left of each map."""
    if len(spatial) <= 2:
        return [()]
    cut = list(np.ndindex(*spatial[:-2]))
    count = min(len(cut), max(2, -(-wanted // maps)))
    return [cut[index] for index in _spread(len(cut), count)]


def _choose(lossy: list[bool], maps: int) -> list[int]:
    """Return indices in order: evenly spread, at least half with losses where there are so many."""
    losing = [index for index, lost in enumerate(lossy) if lost]
    intact = [index for index, lost in enumerate(lossy) if not lost]
    maps = min(maps, len(lossy))
    share = max(round(maps * len(losing) / len(lossy)), (maps + 1) // 2)
    taken = min(max(share, maps - len(intact)), len(losing))
    rest = maps - taken
    return sorted(
        [losing[index] for index in _spread(len(losing), taken)]
        + [intact[index] for index in _spread(len(intact), rest)]
    )


def _spread(count: int, wanted: int) -> list[int]:
    if wanted <= 1:
        return [0] if wanted else []
    return [round(index * (count - 1) / (wanted - 1)) for index in range(wanted)]


def _label(
    pair: tuple[int, int], piece: tuple[int, ...], *, over_samples: bool, unnamed: bool
) -> str:
    parts = [] if unnamed else [f"sample {pair[0]}" if over_samples else f"channel {pair[1]}"]
    parts += [f"slice {','.join(map(str, piece))}"] if piece else []
    return " · ".join(parts)
