"""Numbers as the proofs know them: ranges, held under a few sample assignments at once.

Whatever a proof cannot know (a free size, a ratio that is an input) is replaced by a sample
number, a different one in each of `SAMPLES` assignments. An equation that holds under all of them
is taken for an identity. Every number is therefore an array of `SAMPLES` entries.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

__all__ = [
    "ANY",
    "SAMPLES",
    "Array",
    "Draw",
    "Range",
    "close",
    "exact",
    "sample_ratio",
    "sample_size",
    "span",
]

Array = np.ndarray[Any, Any]

SAMPLES = 3
"""Number of assignments; a coincidence under three of them does not happen by accident."""


class Draw(NamedTuple):
    """A continuous random number, different at every position."""

    family: str
    """"uniform", "normal" or "mixed"."""
    mean: Array
    sources: frozenset[Any]
    """What it was drawn from."""
    scale: Array | None
    """It is ``scale * source + offset`` where not None, of its only source."""
    offset: Array | None
    varies: bool = False
    """Whether its distribution differs from position to position."""

    def varied(self) -> Draw:
        """Return it with something added that differs from position to position."""
        return Draw(self.family, self.mean + np.nan, self.sources, None, None, True)


class Range(NamedTuple):
    """A number between two bounds, which are equal where it is known."""

    low: Array
    high: Array
    draw: Draw | None = None
    """Set where the number is random; the bounds then say nothing."""

    @property
    def known(self) -> bool:
        """Whether it is one number."""
        return self.draw is None and bool((self.low == self.high).all())

    def equals(self, number: float | Array, tolerance: float = 1e-5) -> bool:
        """Tell whether it is this number, in every assignment."""
        return self.known and close(self.low, number, tolerance)


def close(found: Array, wanted: float | Array, tolerance: float) -> bool:
    """Compare relative to the larger of `wanted` and 1."""
    with np.errstate(all="ignore"):
        gap = np.abs(found - wanted) <= tolerance * np.maximum(1.0, np.abs(wanted))
    return bool(np.all(gap))


def exact(number: float | Array) -> Range:
    """Return a known number."""
    array = np.broadcast_to(np.asarray(number, np.float64), (SAMPLES,))
    return Range(array, array)


def span(low: float | Array, high: float | Array) -> Range:
    """Return a number between two bounds."""
    return Range(exact(low).low, exact(high).low)


ANY = span(-np.inf, np.inf)
"""A number that nothing is known of."""


def _unit(key: Hashable, index: int) -> float:
    digest = hashlib.blake2b(repr((key, index)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2.0**64


def sample_ratio(key: Hashable) -> Array:
    """Return sample numbers between 0.1 and 0.9 for something unknown."""
    return np.array([0.1 + 0.8 * _unit(key, index) for index in range(SAMPLES)])


def sample_size(key: Hashable) -> list[int]:
    """Return sample sizes for an axis whose size is unknown."""
    return [11 + int(_unit(key, index) * 1000) for index in range(SAMPLES)]


def negative(x: Range) -> Range:
    """Return -x."""
    draw = x.draw
    if draw is not None:
        scale = None if draw.scale is None else -draw.scale
        offset = None if draw.offset is None else -draw.offset
        return Range(-x.high, -x.low, draw._replace(mean=-draw.mean, scale=scale, offset=offset))
    return Range(-x.high, -x.low)


def plus(x: Range, y: Range) -> Range:
    """Return x + y."""
    if x.draw is None and y.draw is None:
        with np.errstate(invalid="ignore"):
            return _tidy(x.low + y.low, x.high + y.high)
    if x.draw is None:
        x, y = y, x
    first, second = x.draw, y.draw
    if first is None:
        return ANY
    if second is None:
        if not y.known:
            return x._replace(draw=first.varied())
        offset = None if first.offset is None else first.offset + y.low
        return x._replace(draw=first._replace(mean=first.mean + y.low, offset=offset))
    family = "normal" if first.family == second.family == "normal" else "mixed"
    draw = Draw(family, first.mean + second.mean, first.sources | second.sources, None, None)
    return x._replace(draw=draw)


def times(x: Range, y: Range) -> Range:
    """Return x * y, where 0 times anything is 0: a dropped place stays dropped."""
    if x.draw is None and y.draw is None:
        with np.errstate(invalid="ignore"):
            corners = np.stack([x.low * y.low, x.low * y.high, x.high * y.low, x.high * y.high])
        corners = np.where(np.isnan(corners), 0.0, corners)
        return Range(corners.min(axis=0), corners.max(axis=0))
    if x.draw is None:
        x, y = y, x
    first, second = x.draw, y.draw
    if first is None:
        return ANY
    if second is not None:
        if first.sources & second.sources:
            return ANY
        draw = Draw("mixed", first.mean * second.mean, first.sources | second.sources, None, None)
        return x._replace(draw=draw)
    if not y.known:
        return ANY
    if not y.low.any():
        return exact(0.0)
    scale = None if first.scale is None else first.scale * y.low
    offset = None if first.offset is None else first.offset * y.low
    return x._replace(draw=first._replace(mean=first.mean * y.low, scale=scale, offset=offset))


def inverse(x: Range) -> Range:
    """Return 1 / x."""
    if x.draw is not None or np.isinf(x.low).any():
        return ANY
    if (x.high < 0).all():
        return negative(inverse(negative(x)))
    if (x.low < 0).any():
        return ANY
    with np.errstate(divide="ignore"):
        # A zero is the limit of small positive numbers: counts, probabilities.
        return Range(1.0 / np.abs(x.high), 1.0 / np.abs(x.low))


def mapped(function: Callable[[Array], Array], x: Range, *, monotone: bool) -> Range:
    """Apply a function to a number; to a range only if the function is increasing."""
    if x.draw is not None or not (x.known or monotone):
        return ANY
    with np.errstate(all="ignore"):
        return _tidy(function(x.low), function(x.high))


def hull(x: Range, y: Range) -> Range:
    """Return the range of a number that is one of two."""
    if x.draw is not None or y.draw is not None:
        return ANY
    return Range(np.minimum(x.low, y.low), np.maximum(x.high, y.high))


def _tidy(low: Array, high: Array) -> Range:
    """Widen what arithmetic with infinities left undefined."""
    return Range(np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high))
