"""Statistics taken sample by sample: mean, variance and entropies without keeping the samples.

Mean and variance follow Welford ("Note on a Method for Calculating Corrected Sums of Squares and
Products", 1962). Every number is made by operations whose order depends on the image and the
sample alone: how samples arrive in blocks changes no bit.
"""

from __future__ import annotations

import math
import numbers
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_structdrop.errors import ArgumentError, ArgumentTypeError
from onnx_structdrop.mc.entropy import Rows, entropies, to_probabilities
from onnx_structdrop.mc.outputs import is_floating, sum_tolerance
from onnx_structdrop.mc.statistics import Statistics

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnx_structdrop.mc.outputs import OutputKind

    _Place = tuple[slice, slice, slice, slice]

__all__ = ["Accumulator"]

_PIECE = 1 << 16
"""Numbers to work on at a time: float64 of them, and what is made of them, stay in the caches."""


class Accumulator:
    """Takes blocks of samples of one output and makes `Statistics` of them.

    Parameters
    ----------
    kind
        What the output holds.
    images
        Number of images.
    samples
        Number of samples of each image, at least 1.
    quantiles
        Levels from 0 to 1. They need all samples in memory.
    keep_samples
        Whether `Statistics.samples` is wanted.
    number
        Of the first image in a stream, for messages.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        A number is out of range, or none.
    """

    def __init__(
        self,
        kind: OutputKind,
        images: int,
        samples: int,
        *,
        quantiles: Sequence[float] = (),
        keep_samples: bool = False,
        number: int = 0,
    ) -> None:
        self._number = number
        self._kind = kind
        self._images = _count(images, "images")
        self._samples = _count(samples, "samples")
        self._levels = _levels(quantiles)
        self._keep = bool(keep_samples)
        self._seen = np.zeros(self._images, np.int64)
        self._nonfinite = np.zeros(self._images, np.int64)
        self._dims: tuple[int, ...] | None = None

    def add(self, block: np.ndarray, first_image: int = 0) -> None:
        """Take samples; those of an image come in ascending order.

        Parameters
        ----------
        block
            Shape (samples in the block, images in the block, ...), floating-point. It is not kept.
        first_image
            Number of the block's first image.

        Raises
        ------
        ArgumentError
            The block does not fit: its images, its shape, or more samples than were announced.
            Or it holds other than what the output was taken for: numbers that are no
            probabilities.
        """
        block = np.asarray(block)
        images = self._check(block, first_image)
        if self._dims is None:
            self._allocate(block)
        rows = block.reshape(*block.shape[:2], *self._rows.shape)
        broken = np.zeros(block.shape[:2], bool)
        # Images, places and samples are cut as the caches like it; it changes no number.
        for outer, inner in self._tiles():
            tile = rows[:, :, outer, :, inner]
            each = max(1, math.prod(tile.shape[2:]))
            some = max(1, _PIECE // each)
            for image in range(0, images, some):
                inside = slice(image, min(image + some, images))
                here = slice(first_image + inside.start, first_image + inside.stop)
                step = max(1, _PIECE // (each * (inside.stop - inside.start)))
                for sample in range(0, len(block), step):
                    now = slice(sample, sample + step)
                    number = int(self._seen[here.start]) + sample
                    place = (here, outer, slice(None), inner)
                    broken[now, inside] |= self._take(tile[now, inside], place, number)
        seen = slice(first_image, first_image + images)
        self._nonfinite[seen] += broken.sum(axis=0)
        self._seen[seen] += len(block)

    def _tiles(self) -> Iterator[tuple[slice, slice]]:
        """Yield ranges of places, before and after the class axis, that cover a map."""
        outer, classes, inner = self._rows.shape
        if inner > 1:
            width = max(1, _PIECE // (outer * classes))
            for start in range(0, inner, width):
                yield slice(None), slice(start, start + width)
            return
        width = max(1, _PIECE // classes)
        for start in range(0, outer, width):
            yield slice(start, start + width), slice(None)

    def finish(self) -> Statistics:
        """Return the statistics.

        Raises
        ------
        ArgumentError
            Samples are missing.
        """
        short = np.flatnonzero(self._seen != self._samples)
        if len(short) or self._dims is None:
            where = int(short[0]) if len(short) else 0
            raise ArgumentError(
                f"output {self._kind.name!r}: image {where} has {self._seen[where]} samples of "
                f"{self._samples}"
            )
        shape = (self._images, *self._dims)
        with np.errstate(invalid="ignore", divide="ignore"):
            fields: dict[str, Any] = {
                "mean": self._mean.reshape(shape),
                "variance": (self._squares / (np.float64(self._samples) - 1)).reshape(shape),
                "nonfinite": self._nonfinite,
            }
            if self._kind.values is not None:
                fields |= self._of_classes()
        if self._kept is not None:
            whole = self._kept.reshape((self._samples, *shape))
            if self._levels:
                levels = np.array(self._levels)
                fields |= {
                    "levels": self._levels,
                    "quantiles": _quantiles(whole, levels),
                }
            if self._keep:
                fields["samples"] = whole
        return Statistics(self._kind, self._samples, **fields)

    def _check(self, block: np.ndarray, first_image: int) -> int:
        name = self._kind.name
        if block.ndim < 2 or not is_floating(block):
            raise ArgumentError(
                f"output {name!r}: a block has shape {block.shape} and type {block.dtype}; it "
                "should hold floating-point numbers of shape (samples, images, ...)"
            )
        samples, images = block.shape[:2]
        if first_image < 0 or first_image + images > self._images:
            raise ArgumentError(
                f"output {name!r}: a block has images {first_image} to {first_image + images - 1}, "
                f"but there are {self._images}"
            )
        if self._dims not in (None, block.shape[2:]):
            raise ArgumentError(
                f"output {name!r}: a block has rows of shape {block.shape[2:]} after rows of shape "
                f"{self._dims}; images of one run must give outputs of one shape"
            )
        after = self._seen[first_image : first_image + images] + samples
        if len(after) and after.max() > self._samples:
            raise ArgumentError(
                f"output {name!r}: image {first_image + int(after.argmax())} got {after.max()} "
                f"samples, but {self._samples} were announced"
            )
        return int(images)

    def _allocate(self, block: np.ndarray) -> None:
        axis = self._kind.class_axis
        if axis is not None and not block.shape[1 + axis : 2 + axis] > (0,):
            raise ArgumentError(
                f"output {self._kind.name!r}: rows of shape {block.shape[2:]} have no classes on "
                f"axis {axis}, counted with the batch"
            )
        self._dims = block.shape[2:]
        self._rows = Rows.of(self._kind, self._dims)
        self._tolerance = sum_tolerance(block.dtype)
        shape = (self._images, *self._rows.shape)
        self._mean = np.zeros(shape)
        self._squares = np.zeros(shape)
        self._kept: np.ndarray | None = None
        if self._keep or self._levels:
            element = np.float64 if block.dtype == np.float64 else np.float32
            try:
                self._kept = np.zeros((self._samples, *shape), element)
            except (MemoryError, ValueError) as error:
                raise ArgumentError(
                    f"output {self._kind.name!r}: no memory for {self._samples} samples of "
                    f"{self._images} images, which quantiles and keep_samples need; give fewer "
                    "images at a time"
                ) from error
        if self._kind.values is not None:
            self._entropy = np.zeros((self._images, *self._rows.places))
            classes = 2 if self._kind.events else self._rows.shape[1]
            outer, inner = self._rows.places
            narrow = np.uint16 if self._samples < 1 << 16 else np.uint32
            self._votes = np.zeros((self._images, outer, classes, inner), narrow)

    def _take(self, piece: np.ndarray, place: _Place, before: int) -> np.ndarray:
        """Take some samples of some places and images, and tell which of them are not finite.

        `before` is how many samples there were before these.
        """
        wide = np.ascontiguousarray(piece, np.float64)
        broken: np.ndarray
        if self._kind.values is None:
            values, broken = wide, np.logical_not(np.isfinite(wide).all(axis=(2, 3, 4)))
        else:
            self._refuse_other_than_probabilities(wide, place[0].start)
            values, entropy = to_probabilities(wide, self._kind)
            broken = np.isnan(entropy).any(axis=(2, 3))
            here, outer, _, inner = place
            total = self._entropy[here, outer, inner]
            for one in entropy:
                total += one
            self._vote(wide, self._votes[place])
        summed = values
        if broken.any():
            # An infinity would be in the mean or not, by what comes behind it.
            lost = ~np.isfinite(values) if self._kind.values is None else np.isnan(entropy)
            if self._kind.values is not None:
                lost = lost[..., None, :]
            summed = np.where(lost, np.nan, values)
        mean, squares = self._mean[place], self._squares[place]
        with np.errstate(invalid="ignore", over="ignore"):
            for number, (one, kept) in enumerate(zip(summed, values, strict=True), before + 1):
                off = one - mean
                mean += off / number
                squares += off * (one - mean)
                if self._kept is not None:
                    self._kept[(number - 1, *place)] = kept
        return broken

    def _vote(self, wide: np.ndarray, votes: np.ndarray) -> None:
        if self._kind.events:
            middle = 0.0 if self._kind.values == "logits" else 0.5
            yes = (wide > middle).sum(axis=0, dtype=votes.dtype)[:, :, 0]
            votes[:, :, 1] += yes
            votes[:, :, 0] += votes.dtype.type(len(wide)) - yes
            return
        images, outers, inners = np.ogrid[: votes.shape[0], : votes.shape[1], : votes.shape[3]]
        for winner in wide.argmax(axis=3):
            votes[images, outers, winner, inners] += 1

    def _refuse_other_than_probabilities(self, wide: np.ndarray, first_image: int) -> None:
        if self._kind.values != "probabilities":
            return
        slack = self._tolerance
        wrong = (wide < -slack) | (wide > 1 + slack)
        why = "outside of 0 to 1"
        if not wrong.any() and not self._kind.events:
            wrong = np.abs(wide.sum(axis=3, keepdims=True) - 1) > slack
            why = f"that do not sum to 1 on axis {self._kind.class_axis}"
        if wrong.any():
            image = self._number + first_image + int(np.argwhere(wrong)[0, 1])
            raise ArgumentError(
                f"output {self._kind.name!r} was taken for probabilities "
                f"({self._kind.how or 'as said'}), but image {image} has values {why}: say "
                "values='logits', task='regression' or another class_axis"
            )

    def _of_classes(self) -> dict[str, np.ndarray]:
        """Return the fields that classes and events have; places of NaN stay NaN."""
        places = (self._images, *self._rows.kept)
        expected = self._entropy / self._samples
        predictive = entropies(self._mean, self._kind)
        broken = np.isnan(predictive)
        # Of equal samples, rounding leaves a difference below 0; of one sample, there is none.
        mutual = np.maximum(predictive - expected, 0.0)
        if self._samples == 1:
            mutual[~broken] = 0.0
        if self._kind.events:
            top = (self._mean[:, :, 0] > 0.5).astype(np.int64)
        else:
            top = self._mean.argmax(axis=2)
        picked = np.take_along_axis(self._votes, top[:, :, None], axis=2)[:, :, 0]
        frequency = picked / self._samples
        ratio = 1 - self._votes.max(axis=2) / self._samples
        frequency[broken] = np.nan
        ratio[broken] = np.nan
        top[broken] = -1
        return {
            "predictive_entropy": predictive.reshape(places),
            "expected_entropy": expected.reshape(places),
            "mutual_information": mutual.reshape(places),
            "top_class": top.reshape(places),
            "top_frequency": frequency.reshape(places),
            "variation_ratio": ratio.reshape(places),
        }


def _quantiles(samples: np.ndarray, levels: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(np.quantile(samples.astype(np.float64), levels, axis=0))


def _count(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ArgumentTypeError(f"{what} is {value!r}; allowed is a whole number of 1 or more")
    if value < 1:
        raise ArgumentError(f"{what} is {value}; allowed is 1 or more")
    return int(value)


def _levels(quantiles: Sequence[float]) -> tuple[float, ...]:
    if not all(isinstance(one, numbers.Real) for one in quantiles):
        raise ArgumentTypeError(f"quantiles are {quantiles!r}; allowed are numbers from 0 to 1")
    levels = tuple(float(one) for one in quantiles)
    for level in levels:
        if not 0 <= level <= 1:
            raise ArgumentError(f"a quantile is {level}; allowed is 0 to 1")
    return levels
