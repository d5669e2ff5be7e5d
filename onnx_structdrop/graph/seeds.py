"""Seeds of nodes: distinct, reproducible from one seed of the user's."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

__all__ = ["distinct_seeds"]

_MASK = (1 << 64) - 1
# onnxruntime seeds a generator of 31 bits and takes 0 for "the same mask in every run".
_SEED_RANGE = (1 << 31) - 2


def distinct_seeds(seed: int, taken: Collection[int] = ()) -> Iterator[int]:
    """Yield node seeds from 1 to 2**31 - 2, all different and none of `taken`.

    The sequence is SplitMix64 of `seed` (Steele, Lea and Flood, OOPSLA 2014), so that
    neighbouring user seeds give unrelated nodes.
    """
    used = set(taken)
    state = seed & _MASK
    while True:
        state = (state + 0x9E3779B97F4A7C15) & _MASK
        mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        mixed ^= mixed >> 31
        candidate = mixed % _SEED_RANGE + 1
        if candidate not in used:
            used.add(candidate)
            yield candidate
