"""Inputs made up from what a model says about them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx_ir as ir

from onnx_structdrop.graph.files.wellformed import quoted
from onnx_structdrop.graph.verify.sessions import RunError, as_fed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    import numpy.typing as npt

__all__ = ["PLAIN", "Draw", "Plan", "Signature"]

_SIZES = (32, 64, 96, 128, 224, 256, 299, 384, 512)
"""Sizes for free spatial axes: those that networks are built for, upward."""

_BATCHES = (2, 1, 3)
_BATCH_NAMES = ("n", "b", "batch", "batch_size", "batchsize")
_CHANNELS = (3, 1, 4)
_RANKS = (4, 2, 3, 5, 1, 0)
"""Ranks to try where a model does not state one."""

_RANGES = (10, 2, 1)
"""Integers are drawn below this: they may be indices, and what bounds those nothing says."""

_RATES = (0.05, 0.5)
"""A scalar is a rate, a threshold or a temperature rather than data."""

_LARGE, _NEGATIVE = (1.5, 3.0), (-2.0, -0.5)
_MAGNITUDE, _HALF_MAGNITUDE = 16.0, 4.0
_MORE = 100
"""What indices are drawn below where they may be larger."""

_MOST_BYTES = 1 << 28
_WORDS = ("", "a", "onnx", "drop out", "é")
_BYTES = (ir.DataType.UINT8, ir.DataType.INT8)
_INTEGERS = (
    *_BYTES,
    ir.DataType.INT16,
    ir.DataType.INT32,
    ir.DataType.INT64,
    ir.DataType.UINT16,
    ir.DataType.UINT32,
    ir.DataType.UINT64,
)
_FLOATS = (
    ir.DataType.FLOAT,
    ir.DataType.DOUBLE,
    ir.DataType.FLOAT16,
    ir.DataType.BFLOAT16,
)
_OTHERS = (ir.DataType.BOOL, ir.DataType.STRING)

_Axis = str | tuple[str, int]
"""A free size: its name, which ties axes together, or input and place."""


@dataclass(frozen=True)
class _Input:
    name: str
    dtype: ir.DataType
    dims: tuple[int | _Axis, ...] | None
    channels: int | None
    """What the convolutions that read it want."""


class Plan(NamedTuple):
    """Shapes of all inputs, and what integers are drawn below."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    below: int


class Draw(NamedTuple):
    """What values are drawn like."""

    magnitude: float = 1.0
    """What normal numbers are multiplied with."""
    below: int | None = None
    """What indices are drawn below, None for what the plan says."""
    scalars: tuple[float, float] = _RATES
    """Range of scalars."""


PLAIN = Draw()


class Signature:
    """The inputs that a model has to be given.

    Parameters
    ----------
    model
        Inputs with a default, an initializer of the same name, keep it.
    held
        Bool inputs to hold at a value.
    rates
        Scalar inputs that take a rate and nothing else.

    Attributes
    ----------
    defaults : list of str
        Inputs that keep their default.

    Raises
    ------
    RunError
        If an input is of a type that cannot be made up.
    """

    def __init__(
        self, model: ir.Model, held: Mapping[str, bool], rates: Collection[str] = ()
    ) -> None:
        self._held, self._rates = held, rates
        names = [value.name or "" for value in model.graph.inputs]
        self.defaults = [name for name in names if name in model.graph.initializers]
        self._inputs = [
            _read(value)
            for value in model.graph.inputs
            if (value.name or "") not in model.graph.initializers
        ]

    def extend(self, other: Signature) -> None:
        """Take over the inputs that only another model has."""
        names = {entry.name for entry in self._inputs}
        self._inputs += [entry for entry in other._inputs if entry.name not in names]
        self.defaults += [name for name in other.defaults if name not in self.defaults]

    def plans(self, sample: int) -> Iterator[Plan]:
        """Yield what to try for a sample, in order, each once.

        Samples differ in the batch, in whether the last spatial axes are as long as the others,
        and in whether sizes are odd.
        """
        seen: set[Plan] = set()
        unranked = any(entry.dims is None for entry in self._inputs)
        batches = dict.fromkeys((_BATCHES[sample % len(_BATCHES)], 1, *_BATCHES))
        for rank in _RANKS if unranked else (0,):
            for channels in _CHANNELS:
                for below in _RANGES if self._has_indices() else (_RANGES[0],):
                    for batch in batches:
                        for place, size in enumerate(_SIZES):
                            longer = _SIZES[min(place + 1, len(_SIZES) - 1)]
                            spatial = (
                                ((size, size),),
                                ((size, longer), (size, size)),
                                ((size | 1, (size | 1) + 2), (size, size)),
                            )[sample % 3]
                            for height, width in spatial:
                                sizes = (batch, channels, height, width)
                                plan = Plan(self._shapes(rank, sizes), below)
                                if plan not in seen:
                                    seen.add(plan)
                                    yield plan

    def draws(self, sample: int, half: bool) -> Iterator[Draw]:
        """Yield what to draw for a sample instead of plain values, the most daring first.

        The second of three samples has larger numbers, indices and scalars, the third negative
        scalars.
        """
        seen = {PLAIN}
        if sample % 3 == 2 and self._has_scalars():
            yield PLAIN._replace(scalars=_NEGATIVE)
        if sample % 3 != 1:
            return
        magnitude = _HALF_MAGNITUDE if half else _MAGNITUDE
        magnitude = magnitude if self._has_numbers() else 1.0
        more = _MORE if any(_is_table_of_indices(entry) for entry in self._inputs) else None
        scalars = _LARGE if self._has_scalars() else _RATES
        for draw in (
            Draw(magnitude, more, scalars),
            Draw(magnitude, more),
            Draw(magnitude, None, scalars),
            Draw(magnitude),
            Draw(1.0, more, scalars),
            Draw(1.0, more),
            Draw(1.0, None, scalars),
        ):
            if draw not in seen:
                seen.add(draw)
                yield draw

    def probes(self) -> Iterator[Draw]:
        """Yield draws with scalars at the ends of what a rate or a gate may be."""
        if self._has_scalars():
            for number in (0.0, 1.0):
                yield PLAIN._replace(scalars=(number, number))

    def feeds(
        self, plan: Plan, generator: np.random.Generator, draw: Draw = PLAIN
    ) -> dict[str, npt.NDArray[Any]]:
        """Return an array for every input.

        Raises
        ------
        RunError
            If they would be too large.
        """
        shapes = dict(plan.shapes)
        size = sum(math.prod(shape) for shape in shapes.values()) * 8
        if size > _MOST_BYTES:
            raise RunError(f"its inputs would take {size / 1e9:.2g} GB")
        return {
            entry.name: self._array(entry, shapes[entry.name], plan.below, generator, draw)
            for entry in self._inputs
        }

    def _has_indices(self) -> bool:
        return any(entry.dtype in _INTEGERS and entry.dtype not in _BYTES for entry in self._inputs)

    def _has_scalars(self) -> bool:
        return any(_is_scalar(entry) and entry.name not in self._rates for entry in self._inputs)

    def _has_numbers(self) -> bool:
        return any(entry.dtype in _FLOATS and not _is_scalar(entry) for entry in self._inputs)

    def _shapes(self, rank: int, sizes: Sequence[int]) -> tuple[tuple[str, tuple[int, ...]], ...]:
        known: dict[_Axis, int] = {}
        shapes = []
        for entry in self._inputs:
            dims = entry.dims
            if dims is None:
                dims = tuple((entry.name, axis) for axis in range(rank))
            shape = tuple(
                dim
                if isinstance(dim, int)
                else known.setdefault(dim, _size(entry, axis, len(dims), sizes))
                for axis, dim in enumerate(dims)
            )
            shapes.append((entry.name, shape))
        return tuple(shapes)

    def _array(
        self,
        entry: _Input,
        shape: tuple[int, ...],
        below: int,
        generator: np.random.Generator,
        draw: Draw,
    ) -> npt.NDArray[Any]:
        if entry.name in self._held:
            return np.full(shape, self._held[entry.name])
        if entry.dtype == ir.DataType.BOOL:
            return generator.random(shape) < 0.5 if shape else np.asarray(generator.random() < 0.5)
        if entry.dtype == ir.DataType.STRING:
            places = generator.integers(0, len(_WORDS), shape)
            return np.array(_WORDS, dtype=object)[places].reshape(shape)
        if entry.dtype in _BYTES:
            ends = np.iinfo(entry.dtype.numpy())
            drawn = generator.integers(ends.min, ends.max, shape, endpoint=True)
            return np.asarray(drawn, entry.dtype.numpy())
        if entry.dtype in _INTEGERS:
            if draw.below is not None and _is_table_of_indices(entry):
                below = draw.below
            return np.asarray(generator.integers(0, below, shape), entry.dtype.numpy())
        if not shape or _is_scalar(entry):
            limits = _RATES if entry.name in self._rates else draw.scalars
            return as_fed(np.asarray(generator.uniform(*limits, shape)), entry.dtype)
        return as_fed(generator.standard_normal(shape) * draw.magnitude, entry.dtype)


def _is_scalar(entry: _Input) -> bool:
    return entry.dtype in _FLOATS and entry.dims in ((), (1,))


def _is_table_of_indices(entry: _Input) -> bool:
    """Tell whether an input may hold larger indices; a list may hold sizes, which multiply."""
    is_list = entry.dims is not None and len(entry.dims) < 2
    return entry.dtype in _INTEGERS and entry.dtype not in _BYTES and not is_list


def _read(value: ir.Value) -> _Input:
    name = value.name or ""
    if value.type is not None and not isinstance(value.type, ir.TensorType):
        kind = type(value.type).__name__.removesuffix("Type").lower()
        raise RunError(f"its input {quoted(name)} is a {kind}; only tensors can be made up")
    dtype = value.dtype
    if dtype is None or dtype not in (*_INTEGERS, *_FLOATS, *_OTHERS):
        shown = "of no stated type" if dtype is None else dtype.name.lower()
        raise RunError(f"its input {quoted(name)} is {shown}, of which no values can be made up")
    dims: list[int | _Axis] | None = None
    if value.shape is not None:
        dims = []
        for axis, dim in enumerate(value.shape):
            if isinstance(dim, int):
                if dim < 0:
                    raise RunError(f"its input {quoted(name)} has a size of {dim}")
                dims.append(dim)
            else:
                dims.append(dim.value or (name, axis))
    return _Input(name, dtype, None if dims is None else tuple(dims), _channels(value))


def _channels(value: ir.Value) -> int | None:
    for node, place in value.uses():
        if node.op_type == "Conv" and place == 0 and len(node.inputs) > 1:
            weight = node.inputs[1]
            shape = None if weight is None else weight.shape
            if shape is not None and len(shape) > 1 and isinstance(shape[1], int):
                group = node.attributes.get("group")
                is_int = group is not None and group.type == ir.AttributeType.INT
                return shape[1] * (group.value if group is not None and is_int else 1)
    return None


def _size(entry: _Input, axis: int, rank: int, sizes: Sequence[int]) -> int:
    batch, channels, size, last = sizes
    dim = None if entry.dims is None else entry.dims[axis]
    if axis == 0 or (isinstance(dim, str) and dim.lower() in _BATCH_NAMES):
        return batch
    if axis == 1 and rank > 2:
        return channels if entry.channels is None else entry.channels
    return last if axis == rank - 1 else size
