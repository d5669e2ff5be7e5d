"""What a sampler is fed: checks that say what is wrong before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from onnx_structdrop.errors import ArgumentError, ArgumentTypeError, UnsupportedModelError
from onnx_structdrop.graph.files.wellformed import quoted

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

__all__ = ["Feeds", "Input", "Inputs"]

Dim = int | str | None


@dataclass(frozen=True)
class Input:
    """One input of a model."""

    name: str
    dtype: ir.DataType
    dims: tuple[Dim, ...] | None
    """Sizes; the names of free ones, None where the model says nothing."""

    @property
    def rank(self) -> int:
        """Number of axes; 0 where it is not known."""
        return len(self.dims or ())

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether an array of this shape can be given, of any number of images."""
        if self.dims is None:
            return True
        return len(shape) == self.rank and all(
            not isinstance(size, int) or size == actual
            for size, actual in zip(self.dims[1:], shape[1:], strict=True)
        )

    def shape_text(self) -> str:
        """Return the declared shape for a message."""
        if self.dims is None:
            return "any"
        return f"({', '.join('?' if size is None else str(size) for size in self.dims)})"


@dataclass(frozen=True)
class Feeds:
    """Checked inputs."""

    count: int
    """Number of images."""
    images: dict[str, Array]
    """Arrays with an entry for each image along axis 0."""
    shared: dict[str, Array] = field(default_factory=dict)
    """Arrays that all images have in common, such as a ratio."""

    @property
    def key(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """What two feeds have in common that can share a plan."""
        sizes = [(name, array.shape[1:]) for name, array in self.images.items()]
        return tuple(
            sorted([*sizes, *((name, array.shape) for name, array in self.shared.items())])
        )

    def piece(self, first: int, last: int) -> Feeds:
        """Return the images from `first` to before `last`, sharing memory."""
        images = {name: array[first:last] for name, array in self.images.items()}
        return Feeds(last - first, images, self.shared)

    def padded(self, count: int) -> Feeds:
        """Return at least `count` images: the last one is repeated."""
        if self.count >= count:
            return self
        images = {
            name: np.concatenate([array, np.repeat(array[-1:], count - self.count, axis=0)])
            for name, array in self.images.items()
        }
        return Feeds(count, images, self.shared)

    def check_finite(self, first: int) -> None:
        """Refuse NaN and infinities; `first` is the number of the first image.

        Raises
        ------
        ArgumentError
            At the first number that is not finite.
        """
        for name, array in (*self.images.items(), *self.shared.items()):
            if not _is_floating(array.dtype):
                continue
            with np.errstate(over="ignore", invalid="ignore"):
                if np.isfinite(array.sum(dtype=np.float64)):
                    continue
            finite = np.isfinite(array)
            if finite.all():
                continue  # Only the sum overflowed.
            place = tuple(int(index) for index in np.argwhere(~finite)[0])
            value = array[place]
            if name in self.images:
                where = f"image {first + place[0]} of input {quoted(name)}"
                place = place[1:]
            else:
                where = f"input {quoted(name)}"
            raise ArgumentError(
                f"{where} holds {value} at {list(place)}; leave such images out, or pass "
                "allow_nonfinite=True"
            )


class Inputs:
    """The inputs of a model, and which of them are images.

    Parameters
    ----------
    model
        Is only read. The batch is axis 0 of the input with the most axes.

    Raises
    ------
    UnsupportedModelError
        No input has a batch axis that is known.
    """

    def __init__(self, model: ir.Model) -> None:
        initialized = set(model.graph.initializers)
        self.all = {
            value.name or "": Input(
                value.name or "", value.dtype or ir.DataType.UNDEFINED, _dims(value)
            )
            for value in model.graph.inputs
        }
        self.required = [name for name in self.all if name not in initialized]
        candidates = [self.all[name] for name in self.required if self.all[name].rank]
        if not candidates:
            known = ", ".join(
                f"{quoted(one.name)} of shape {one.shape_text()}" for one in self.all.values()
            )
            raise UnsupportedModelError(
                f"no input of the model has a batch axis that is known (inputs: {known or 'none'}"
                "); declare the shape of the images, such as (N, 3, 224, 224)"
            )
        self.main = max(candidates, key=lambda one: one.rank)
        """The input whose axis 0 is the batch for certain."""
        axis = (self.main.dims or (None,))[0]
        self.batch = axis if isinstance(axis, int) else None
        """Size of the batch where it is fixed."""

    def check(self, given: Any) -> Feeds:
        """Return what was given as checked arrays.

        Parameters
        ----------
        given
            An array, where there is one input, or arrays by input name.

        Raises
        ------
        ArgumentError, ArgumentTypeError
            Names, types, ranks or shapes do not fit the model, or there are no images.
        """
        arrays = self._by_name(given)
        checked = {name: self._checked(self.all[name], value) for name, value in arrays.items()}
        main = checked[self.main.name]
        count = len(main)
        if count == 0:
            raise ArgumentError(f"input {quoted(self.main.name)} holds no images")
        images, shared = {}, {}
        for name, array in checked.items():
            if self._is_per_image(self.all[name], array, count):
                images[name] = array
            else:
                shared[name] = array
        return Feeds(count, images, shared)

    def _by_name(self, given: Any) -> dict[str, Any]:
        if not isinstance(given, Mapping):
            if len(self.required) > 1:
                raise ArgumentError(
                    f"the model has {len(self.required)} inputs, give arrays by name: "
                    f"{', '.join(map(quoted, self.required))}"
                )
            return {self.main.name: given}
        for name in given:
            if name not in self.all:
                raise ArgumentError(
                    f"the model has no input {name!r}; its inputs are "
                    f"{', '.join(map(quoted, self.all))}"
                )
        missing = [name for name in self.required if name not in given]
        if missing:
            raise ArgumentError(f"input {quoted(missing[0])} is missing")
        return dict(given)

    def _checked(self, known: Input, value: Any) -> Array:
        try:
            wanted = known.dtype.numpy()
        except (TypeError, ValueError, KeyError) as error:
            raise UnsupportedModelError(
                f"input {quoted(known.name)} is of type {known.dtype.name}, which no array holds"
            ) from error
        if not isinstance(value, np.ndarray):
            if isinstance(value, str | bytes | dict | set) or value is None:
                raise ArgumentTypeError(
                    f"input {quoted(known.name)} must be an array, not {type(value).__name__}"
                )
            try:
                value = np.asarray(value, dtype=wanted)
            except (TypeError, ValueError) as error:
                raise ArgumentTypeError(
                    f"input {quoted(known.name)} cannot be made an array of {wanted}: {error}"
                ) from error
        if value.dtype != wanted:
            raise ArgumentTypeError(
                f"input {quoted(known.name)} is of type {value.dtype}, the model takes {wanted}; "
                f"convert it: images.astype({str(wanted)!r})"
            )
        array: Array = value
        if known.dims is None:
            return array
        if not known.fits(value.shape):
            raise ArgumentError(
                f"input {quoted(known.name)} has shape {value.shape}, the model takes "
                f"{known.shape_text()}, with any number of images along axis 0"
                f"{_mended(known, value.shape)}"
            )
        return array

    def _is_per_image(self, known: Input, array: Array, count: int) -> bool:
        if known is self.main:
            return True
        if known.rank == 0:
            return False
        axis, main = (known.dims or (None,))[0], (self.main.dims or (None,))[0]
        if len(array) == count and (axis == main or not isinstance(axis, int)):
            return True
        if axis == len(array) or (not isinstance(axis, int) and axis != main):
            return False
        raise ArgumentError(
            f"input {quoted(known.name)} has {len(array)} entries along axis 0 beside {count} "
            f"images of {quoted(self.main.name)}; the model takes {known.shape_text()}"
        )


def _mended(known: Input, shape: tuple[int, ...]) -> str:
    """Return how to bring an array into shape that is often given, for a message."""
    if known.fits((1, *shape)):
        return "; of one image, give images[None]"
    if len(shape) > 2:
        for order, axes in (("last", (0, len(shape) - 1, *range(1, len(shape) - 1))),
                            ("first", (0, *range(2, len(shape)), 1))):  # fmt: skip
            if known.fits(tuple(shape[axis] for axis in axes)):
                return f"; of channels that are {order}, give images.transpose{axes}"
    return ""


def _dims(value: ir.Value) -> tuple[Dim, ...] | None:
    if value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else size.value for size in value.shape)


def _is_floating(dtype: np.dtype[Any]) -> bool:
    return bool(np.issubdtype(dtype, np.floating)) or dtype == ml_dtypes.bfloat16
