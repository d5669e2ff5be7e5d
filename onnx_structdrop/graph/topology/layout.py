"""What the axes of a value mean: batch, channel, or a direction of the map and its stride."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto
from fractions import Fraction
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from onnx_structdrop.graph.topology.shapes import Dim

__all__ = [
    "MIXED",
    "OPEN",
    "POINT",
    "Axis",
    "Layout",
    "Role",
    "as_map",
    "merge",
    "moved",
    "pooled",
    "ratio",
    "regroup",
    "with_channels",
]


class Role(Enum):
    """The meaning of an axis."""

    OPEN = auto()
    """Not known yet, such as every axis of a model's input before the first convolution."""
    BATCH = auto()
    CHANNEL = auto()
    SPATIAL = auto()
    POINT = auto()
    """A spatial axis that was pooled to size one, or an axis of size one that was put in."""
    MIXED = auto()
    """Several axes merged by a Reshape, or a part of one."""


@dataclass(frozen=True, slots=True)
class Axis:
    """The meaning of one axis; stride and size (of the model's input) where it is spatial."""

    role: Role
    stride: Fraction | None = None
    size: int | None = None


OPEN = Axis(Role.OPEN)
POINT = Axis(Role.POINT)
MIXED = Axis(Role.MIXED)
_UNSETTLED = (Role.OPEN, Role.MIXED, Role.CHANNEL)
_BATCH = Axis(Role.BATCH)
_CHANNEL = Axis(Role.CHANNEL)


@dataclass(frozen=True)
class Layout:
    """The meaning of every axis of a value. Most operators hand on the very layout they get.

    Attributes
    ----------
    axes : tuple of Axis
        One per axis.
    memory : tuple or None
        Layout and shape before a Reshape that mixed the axes, for the Reshape that undoes it.
    """

    axes: tuple[Axis, ...]
    memory: tuple[Layout, tuple[Dim, ...]] | None = None

    @cached_property
    def channel_axis(self) -> int | None:
        """The one channel axis, None if there is none or more than one."""
        found = [index for index, axis in enumerate(self.axes) if axis.role is Role.CHANNEL]
        return found[0] if len(found) == 1 else None

    @cached_property
    def is_map(self) -> bool:
        """Whether the value is a feature map: at least one axis is spatial."""
        return any(axis.role is Role.SPATIAL for axis in self.axes)

    @cached_property
    def is_vector(self) -> bool:
        """Whether nothing of a map is left: at most one axis besides the batch has a size."""
        sized = sum(axis.role is not Role.POINT for axis in self.axes[1:])
        return not self.is_map and sized <= 1

    @cached_property
    def is_settled(self) -> bool:
        """Whether batch and channels come first, and all else is known to be a map or a point."""
        leading = self.axes[:2] == (_BATCH, _CHANNEL) and self.memory is None
        return leading and not any(axis.role in _UNSETTLED for axis in self.axes[2:])

    @cached_property
    def strides(self) -> tuple[Fraction | None, ...]:
        """The strides of the spatial axes, in order."""
        return tuple(axis.stride for axis in self.axes if axis.role is Role.SPATIAL)

    @property
    def stride(self) -> int | float | None:
        """The largest stride, an int where it is integral; None if one is unknown."""
        known = [stride for stride in self.strides if stride is not None]
        if not known or len(known) < len(self.strides):
            return None
        largest = max(known)
        return int(largest) if largest.denominator == 1 else float(largest)

    @cached_property
    def coarseness(self) -> Fraction | None:
        """Input positions per position of the map: orders maps from fine to coarse."""
        strides = self.strides
        known = [stride for stride in strides if stride is not None]
        if not known or len(known) < len(strides):
            return None
        # Reduced once, not at each factor.
        return Fraction(
            prod(stride.numerator for stride in known), prod(stride.denominator for stride in known)
        )


def as_map(layout: Layout, *, channels: bool = False) -> Layout:
    """Return the layout as an operator sees it that wants batch, channel, then the map.

    With `channels`, it is known that the second axis holds channels, and so no other does.
    """
    if layout.is_settled:
        return layout
    axes = list(layout.axes)
    for index, axis in enumerate(axes[2:], start=2):
        if axis.role in (Role.OPEN, Role.MIXED):
            axes[index] = replace(axis, role=Role.SPATIAL)
        elif channels and axis.role is Role.CHANNEL:
            axes[index] = Axis(Role.SPATIAL)
    if len(axes) > 1:
        # A convolution along channels (an ECA gate) must not make a second channel axis.
        along = any(axis.role is Role.CHANNEL for axis in axes[2:])
        axes[0] = _BATCH
        axes[1] = MIXED if along else _CHANNEL
    return Layout(tuple(axes))


def merge(layouts: Sequence[Layout]) -> Layout | None:
    """Return the layout of the elementwise combination of values, broadcast from the right."""
    if all(layout is layouts[0] for layout in layouts):
        return layouts[0] if layouts else None
    rank = max(len(layout.axes) for layout in layouts)
    columns: list[list[Axis]] = [[] for _ in range(rank)]
    for layout in layouts:
        for column, axis in zip(reversed(columns), reversed(layout.axes), strict=False):
            column.append(axis)
    memory = next((layout.memory for layout in layouts if layout.memory is not None), None)
    return Layout(tuple(_best(column) for column in columns), memory)


_RANKING = (Role.SPATIAL, Role.CHANNEL, Role.BATCH, Role.MIXED, Role.OPEN, Role.POINT)


def _best(axes: list[Axis]) -> Axis:
    best = axes[0]
    for axis in axes[1:]:
        if axis.role is best.role:
            if best.stride is None and axis.stride is not None:
                best = axis
        elif _RANKING.index(axis.role) < _RANKING.index(best.role):
            best = axis
    return best


def moved(axis: Axis, change: Fraction | None) -> Axis:
    """Return an axis after a change of resolution (None: by an unknown factor)."""
    if change == 1 or axis.role in (Role.BATCH, Role.CHANNEL):
        return axis
    if axis.role is Role.POINT:
        # What was one point is a map again, at a resolution that nothing here tells.
        return Axis(Role.SPATIAL) if change is not None and change < 1 else axis
    stride = None if axis.stride is None or change is None else axis.stride * change
    return Axis(axis.role, stride, axis.size)


def pooled(layout: Layout, axes: Iterable[int]) -> Layout:
    """Return the layout after a reduction along axes that are kept with size one."""
    reduced = set(axes)
    # A channel axis of size one is a channel axis still: what reduces it is spatial attention.
    return Layout(
        tuple(
            POINT if index in reduced and axis.role is not Role.CHANNEL else axis
            for index, axis in enumerate(layout.axes)
        )
    )


def ratio(before: Dim, after: Dim) -> Fraction | None:
    """Return by how much an axis shrank, as a whole number or the inverse of one.

    Sizes are rounded by operators: 299 to 149 is a stride of 2, 7 to 13 an enlargement by 2.
    """
    if not (isinstance(before, int) and isinstance(after, int)) or before <= 0 or after <= 0:
        return None
    if before >= after:
        return Fraction((2 * before + after) // (2 * after))
    return Fraction(1, (2 * after + before) // (2 * before))


def regroup(layout: Layout, before: tuple[Dim, ...], after: tuple[Dim, ...]) -> Layout:
    """Return the layout after a Reshape from one shape to another.

    Axes are matched in runs of equal product. A channel axis may be split and put together again
    (channel shuffle, group norm), a spatial axis be split off its finer part (space to depth) or
    joined by one (depth to space).
    """
    if layout.memory is not None and _fits(layout.memory[1], after):
        return layout.memory[0]
    rows = layout.is_map and layout.axes[-1].role is Role.CHANNEL
    if rows and len(before) > len(after) == 2 and before[-1] == after[1] is not None:
        # Every position of a channels-last map in a row of its own, for a matrix product.
        return Layout((MIXED, _CHANNEL), (layout, before))
    axes: list[Axis] = []
    start = position = 0
    while start < len(before) and position < len(after):
        stop, end = _run(before, after, start, position)
        if end == position and stop == start:
            break
        axes += _group(layout.axes[start:stop], before[start:stop], after[position:end])
        start, position = stop, end
    tail: list[Axis] = []
    # Where a free size stops the matching, equal sizes at the end still tell their axes.
    while len(before) - len(tail) > start and len(after) - len(tail) > position:
        index = -1 - len(tail)
        if before[index] != after[index] or not isinstance(after[index], int):
            break
        tail.insert(0, layout.axes[index])
    rest = len(after) - position - len(tail)
    if rest == len(before) - len(tail) - start and (
        rest == 1 or _free(before[start:][:rest], after[position:][:rest])
    ):
        axes += layout.axes[start : start + rest]
    else:
        axes += [POINT if size == 1 else MIXED for size in after[position : position + rest]]
    axes += tail
    memory = layout.memory
    if layout.is_map and sum(axis.role is Role.SPATIAL for axis in axes) < len(layout.strides):
        memory = (layout, before)
    return Layout(tuple(axes), memory)


def with_channels(layout: Layout, size: Dim) -> Layout | None:
    """Return the layout of rows of channels after a matrix product, None if it is another one."""
    if layout.memory is None or layout.axes != (MIXED, _CHANNEL):
        return None
    before, dims = layout.memory
    return Layout(layout.axes, (before, (*dims[:-1], size)))


def _fits(remembered: tuple[Dim, ...], after: tuple[Dim, ...]) -> bool:
    if len(remembered) != len(after):
        return False
    return all(
        old == new or not (isinstance(old, int) and isinstance(new, int))
        for old, new in zip(remembered, after, strict=True)
    )


def _run(
    before: tuple[Dim, ...], after: tuple[Dim, ...], start: int, position: int
) -> tuple[int, int]:
    """Return where the next run of matching axes stops, on both sides."""
    old, new = before[start], after[position]
    if old == new and old is not None:
        return start + 1, position + 1
    if start == position == 0 and not (isinstance(old, int) and isinstance(new, int)):
        return 1, 1  # the batch
    if new == 1:
        return start, position + 1
    if old == 1:
        return start + 1, position
    if not isinstance(new, int) and position and len(after) - position > len(before) - start:
        # A size cut into blocks of known size, by a division at run time.
        block = after[position + 1]
        if isinstance(block, int) and block > 1 and not (isinstance(old, int) and old % block):
            return start + 1, position + 2
    if not (isinstance(old, int) and isinstance(new, int)):
        return start, position
    stop, end = start + 1, position + 1
    while old != new:
        if old < new:
            size = before[stop] if stop < len(before) else None
            if not isinstance(size, int):
                return start, position
            old, stop = old * size, stop + 1
        else:
            size = after[end] if end < len(after) else None
            if not isinstance(size, int):
                return start, position
            new, end = new * size, end + 1
    return stop, end


def _group(axes: tuple[Axis, ...], before: tuple[Dim, ...], after: tuple[Dim, ...]) -> list[Axis]:
    if len(axes) == len(after) == 1:
        return [axes[0]]
    if not axes:
        return [POINT] * len(after)
    roles = {axis.role for axis in axes}
    spatial = [axis for axis in axes if axis.role is Role.SPATIAL]
    # An axis of the model's input that is cut is one of a map, too.
    cut = len(axes) == 1 and axes[0].role is Role.OPEN and len(after) > 1
    leading = len(spatial) == 1 and axes[0] is spatial[0] and Role.BATCH not in roles
    if (leading or cut) and after:
        # The first axis of the run is the coarse position, what follows it the position inside.
        change = _exact(before[0], after[0])
        inside = [size for size in after[1:] if isinstance(size, int)]
        if change is None and len(axes) == 1 and len(inside) == len(after) - 1:
            change = Fraction(prod(inside))
        stride = None if axes[0].stride is None or change is None else axes[0].stride * change
        return [replace(axes[0], stride=stride), *([MIXED] * (len(after) - 1))]
    if not spatial and Role.CHANNEL in roles and Role.BATCH not in roles:
        return [_CHANNEL] * len(after)
    return [MIXED] * len(after)


def _free(before: tuple[Dim, ...], after: tuple[Dim, ...]) -> bool:
    """Tell whether sizes that no number is known of stand in for each other one by one."""
    return not any(isinstance(size, int) for size in (*before, *after))


def _exact(before: Dim, after: Dim) -> Fraction | None:
    if not (isinstance(before, int) and isinstance(after, int)) or before <= 0 or after <= 0:
        return None
    return Fraction(before, after)
