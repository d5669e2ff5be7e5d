"""How much DropBlock drops: the seed probability, and the expected dropped fraction.

Blocks overlap, so the fraction that a map really loses differs from the nominal rate: at rate 0.5
and block 7 a 28x28 map loses 37 %. Both functions here are exact, not estimates.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["LARGEST_RATIO", "calibrate", "clip_block", "realised_rate", "seed_probability"]

LARGEST_RATIO = float(np.nextafter(np.float32(1), np.float32(0)))
"""Largest float32 below 1. Nodes take the ratio as float32, and ratio 1 drops everything."""


def clip_block(block: Sequence[int], spatial: Sequence[int]) -> tuple[int, ...]:
    """Return the block clipped to the map, axis by axis."""
    return tuple(min(b, size) for b, size in zip(block, spatial, strict=True))


def seed_probability(rate: float, block: Sequence[int], spatial: Sequence[int]) -> float:
    """Return gamma: the probability that a position seeds a block.

    ``rate * prod(S) / (prod(b) * prod(S - b + 1))``, which is at most `rate`. `block` is clipped
    already; an empty map has no position, and gives 0.
    """
    if 0 in spatial:
        return 0.0
    valid = math.prod(size - b + 1 for b, size in zip(block, spatial, strict=True))
    return rate * (math.prod(spatial) / (math.prod(block) * valid))


def _covering_seeds(block: int, size: int, *, whole: bool) -> npt.NDArray[np.int64]:
    """Return, for every position of one axis, how many seed positions have a block over it."""
    before, after = block // 2, (block - 1) // 2
    first, last = (0, size - 1) if whole else (before, size - 1 - after)
    positions = np.arange(size)
    low = np.maximum(positions - after, first)
    high = np.minimum(positions + before, last)
    counts: npt.NDArray[np.int64] = np.maximum(high - low + 1, 0)
    return counts


def realised_rate(
    rate: float, block: Sequence[int], spatial: Sequence[int], *, whole: bool
) -> float:
    """Return the expected dropped fraction of a map.

    A position is kept when none of the ``n`` seed positions whose block covers it is a seed:
    probability ``(1 - gamma)**n``. ``n`` is a product of one count per axis, so only the distinct
    products are evaluated, weighted by how many positions share them.

    Parameters
    ----------
    rate
        Nominal rate.
    block
        Block size per spatial axis; clipped here.
    spatial
        Size of the map per spatial axis.
    whole
        Whether seeds fall on the whole map instead of where the block fits.
    """
    if 0 in spatial:
        return 0.0
    if rate > LARGEST_RATIO:
        return 1.0
    block = clip_block(block, spatial)
    counts = np.ones(1, np.int64)
    weights: npt.NDArray[np.float64] = np.ones(1)
    for b, size in zip(block, spatial, strict=True):
        axis_counts, axis_positions = np.unique(
            _covering_seeds(b, size, whole=whole), return_counts=True
        )
        counts, index = np.unique(np.outer(counts, axis_counts), return_inverse=True)
        products = np.outer(weights, axis_positions / size)
        weights = np.bincount(index.reshape(-1), products.reshape(-1)).astype(np.float64)
    kept_log = math.log1p(-seed_probability(rate, block, spatial))
    # expm1 keeps the digits of a small rate, which 1 - (1 - gamma)**n would lose.
    return float(min(max(-(weights @ np.expm1(counts * kept_log)), 0.0), 1.0))


def calibrate(target: float, realised: Callable[[float], float]) -> float | None:
    """Return the nominal rate at which `realised` equals `target`, or None if none does.

    `realised` grows with the rate, from 0 at 0. The search is a bisection down to neighbouring
    floats; it runs over the rates below 1, since rate 1 drops everything by definition.
    """
    low, high = 0.0, LARGEST_RATIO
    if realised(high) < target:
        return None
    while low < (middle := (low + high) / 2) < high:
        if realised(middle) < target:
            low = middle
        else:
            high = middle
    return min((low, high), key=lambda rate: abs(realised(rate) - target))
