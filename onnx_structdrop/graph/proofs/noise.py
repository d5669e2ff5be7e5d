"""Random values as the proofs see them: what they are in each of two worlds.

Comparing random numbers with a threshold gives an *event* at every position. A value that
hangs on one event is followed through two worlds: one in which the event happens everywhere, one
in which it happens nowhere. In one of them nothing is dropped, in the other everything; which is
which the joins with data tell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from onnx_structdrop.errors import StructDropError
from onnx_structdrop.graph.proofs.intervals import Array, Range, exact, times

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    import onnx_ir as ir

__all__ = [
    "MALFORMED",
    "ROUNDING",
    "Affine",
    "Event",
    "Noise",
    "NotProvenError",
    "Sense",
    "align",
    "lift",
    "merge_place",
]


ROUNDING = 4 * 2.0**-23
"""Relative tolerance for numbers that were computed in float32: four units in the last place."""

MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What a node raises whose inputs or attributes are not those of its operator."""


class NotProvenError(StructDropError):
    """A proof ends here; the message says why. It never leaves the proofs."""


class Event(NamedTuple):
    """What happens or not at every position, independently."""

    key: Hashable
    """What it is: a generator and a threshold, or a Dropout."""
    calls: tuple[int, ...] = ()
    """The function calls it came through; every call draws anew."""


Sense = frozenset[tuple[Event, bool]]
"""Which events happen in the first world; in the second, none of this holds."""


@dataclass(frozen=True)
class Noise:
    """A value that depends on random numbers, constants and shapes, and on no data."""

    first: Range
    """What it is where `sense` holds everywhere."""
    second: Range
    """What it is where `sense` holds nowhere."""
    sense: Sense = frozenset()
    """Empty where the value is random without an event, as Gaussian noise is."""
    chance: Array | None = None
    """Probability of `first` at a position, where `local` and known."""
    local: bool = True
    """Whether each position hangs on the event at one position of the source alone."""
    reduced: bool = False
    """Whether it summarises a mask, and drops nothing by itself."""
    damped: bool = False
    """Whether a summary of a mask weakens it, as no layer does."""
    normalised: bool = False
    """Whether a mask is divided by a summary of itself."""
    place: int = 0
    """Tells apart values whose positions were moved."""
    dims: tuple[Array, ...] | None = None
    """Shape, where known."""
    sources: frozenset[Any] = frozenset()
    """The nodes that drew."""
    coarse: float = ROUNDING
    """Relative tolerance that the element types on the way ask for."""
    obscure: str = ""
    """Where not empty, why nothing is known of it any more; data must not meet it."""

    def explained(self) -> Noise:
        """Return it, if something is known of it.

        Raises
        ------
        NotProvenError
            If nothing is.
        """
        if self.obscure:
            raise NotProvenError(self.obscure)
        return self

    def swapped(self) -> Noise:
        """Return the same with the worlds exchanged."""
        return replace(
            self,
            first=self.second,
            second=self.first,
            sense=frozenset((event, not happens) for event, happens in self.sense),
            chance=None if self.chance is None else 1.0 - self.chance,
        )


@dataclass(frozen=True)
class Affine:
    """A value ``factor * anchor + offset``, where the anchor is a value without this noise."""

    anchor: ir.Value
    factor: Noise
    offset: Noise
    joins: tuple[ir.Node, ...]
    """The nodes since data and noise met."""
    carried: tuple[ir.Node, ...] = ()
    """Those of them that only move or convert what they get."""
    proven: Any = None
    """The proof that this value is its anchor when nothing is dropped, where there is one."""
    retreat: Any = None
    """A proof about an earlier value on the way, if what followed may stand without it."""

    @property
    def sources(self) -> frozenset[Any]:
        """The nodes that drew."""
        return self.factor.sources | self.offset.sources

    @property
    def events(self) -> Sense:
        """The events in it, as in its first world."""
        return self.factor.sense | self.offset.sense


def lift(number: Range, dims: tuple[Array, ...] | None = ()) -> Noise:
    """Return a known number in the clothes of a random one."""
    return Noise(number, number, dims=dims, chance=None)


def merge_place(x: Noise, y: Noise) -> tuple[bool, int]:
    """Return whether a combination is local, and the place of its positions."""
    if not x.sense or not y.sense:
        owner = x if x.sense else y
        return x.local and y.local, owner.place
    return x.local and y.local and x.place == y.place, x.place


def align(x: Noise, y: Noise) -> tuple[Noise, Noise] | None:
    """Return the two with equal worlds, or None if they hang on different events."""
    if not x.sense or not y.sense or x.sense == y.sense:
        return x, y
    flipped = y.swapped()
    return (x, flipped) if x.sense == flipped.sense else None


def combine(
    x: Noise,
    y: Noise,
    operation: Callable[[Range, Range], Range],
    dims: tuple[Array, ...] | None,
) -> Noise:
    """Apply an operation in both worlds.

    Raises
    ------
    NotProvenError
        If the two hang on different events and the operation is not one where a zero wins.
    """
    pair = align(x, y)
    if pair is None:
        if operation is not times:
            raise NotProvenError("it mixes independent random masks")
        return _both(x, y, dims)
    x, y = pair
    local, place = merge_place(x, y)
    owner = x if x.sense else y
    first, second = operation(x.first, y.first), operation(x.second, y.second)
    if owner.sense and local and first.known and second.equals(first.low, 0.0):
        # It hangs on no event any more.
        owner = replace(owner, sense=frozenset(), chance=None)
    return Noise(
        first,
        second,
        owner.sense,
        chance=owner.chance if local else None,
        local=local,
        reduced=bool(owner.sense) and all(one.reduced for one in (x, y) if one.sense),
        damped=x.damped or y.damped or (operation is times and (_damps(x) or _damps(y))),
        normalised=(x.normalised or y.normalised)
        or (operation is times and bool(y.sense and x.sense) and (_inverts(x) or _inverts(y))),
        place=place,
        dims=dims,
        sources=x.sources | y.sources,
        coarse=max(x.coarse, y.coarse),
    )


def _damps(noise: Noise) -> bool:
    """Tell whether a factor is a share of a mask, not the inverse of one."""
    if not noise.sense or not noise.reduced:
        return False
    highest = max(noise.first.high.max(), noise.second.high.max())
    return bool(0.0 < highest <= 1.0 + 1e-6)


def _inverts(noise: Noise) -> bool:
    """Tell whether a factor is the inverse of the share that a mask keeps."""
    highest = max(noise.first.high.max(), noise.second.high.max())
    return bool(noise.reduced and highest > 1.0 + 1e-6)


def _both(x: Noise, y: Noise, dims: tuple[Array, ...] | None) -> Noise:
    """Multiply masks of different events: what either drops is dropped."""
    masks = []
    for mask in (x, y):
        oriented = mask if mask.second.equals(0.0, 0.0) else mask.swapped()
        if not oriented.second.equals(0.0, 0.0):
            raise NotProvenError("it mixes independent random masks")
        masks.append(oriented)
    x, y = masks
    if {event for event, _ in x.sense} & {event for event, _ in y.sense}:
        raise NotProvenError("it mixes random masks that share an event")
    if x.sources & y.sources:
        raise NotProvenError("it mixes masks of the same random numbers")
    chance = None if x.chance is None or y.chance is None else x.chance * y.chance
    return Noise(
        times(x.first, y.first),
        exact(0.0),
        x.sense | y.sense,
        chance=chance,
        local=x.local and y.local,
        reduced=x.reduced and y.reduced,
        damped=x.damped or y.damped or _damps(x) or _damps(y),
        normalised=x.normalised or y.normalised,
        place=max(x.place, y.place),
        dims=dims,
        sources=x.sources | y.sources,
        coarse=max(x.coarse, y.coarse),
    )
