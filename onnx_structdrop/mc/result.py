"""What sampling a network gives: statistics of each output, as arrays, as a file, as a table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from onnx_structdrop.errors import ArgumentError, OutputError
from onnx_structdrop.graph.files.atomic import Replacement
from onnx_structdrop.mc.statistics import Statistics

if TYPE_CHECKING:
    import os

    from onnx_structdrop.mc.outputs import OutputKind

__all__ = ["Result"]

_MEASURES = (
    "predictive_entropy",
    "expected_entropy",
    "mutual_information",
    "top_frequency",
    "variation_ratio",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Result(Mapping[str, Statistics]):
    """Statistics of each sampled output by name, for images that follow each other.

    Attributes
    ----------
    statistics
        For each output; all of the same images and number of samples.
    first_image
        Number of the first image in the stream.
    seed
        What the masks were drawn from; None if that is not known.

    Raises
    ------
    ArgumentError
        There is no output, or their numbers of images or samples differ.
    """

    statistics: Mapping[str, Statistics]
    first_image: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        sizes = {(len(one), one.count) for one in self.statistics.values()}
        if len(sizes) != 1:
            found = ", ".join(
                f"{name}: {len(one)} images, {one.count} samples"
                for name, one in self.statistics.items()
            )
            raise ArgumentError(f"a result needs outputs of the same images and samples: {found}")

    def __getitem__(self, name: str) -> Statistics:
        if name not in self.statistics:
            raise KeyError(f"no output {name!r}; there are {', '.join(self.statistics)}")
        return self.statistics[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.statistics)

    def __len__(self) -> int:
        return len(self.statistics)

    @property
    def kinds(self) -> dict[str, OutputKind]:
        """What each output was taken for, and why."""
        return {name: one.kind for name, one in self.statistics.items()}

    @property
    def images(self) -> int:
        """Number of images."""
        return len(next(iter(self.statistics.values())))

    @property
    def samples(self) -> int:
        """Number of samples of each image."""
        return next(iter(self.statistics.values())).count

    @property
    def only(self) -> Statistics:
        """The statistics of the output, where there is one.

        Raises
        ------
        ArgumentError
            There are several.
        """
        if len(self.statistics) > 1:
            raise ArgumentError(f"there are several outputs, take one: {', '.join(self)}")
        return next(iter(self.statistics.values()))

    @classmethod
    def concat(cls, parts: Iterable[Self]) -> Self:
        """Return one result of parts that follow each other in the stream.

        Raises
        ------
        ArgumentError
            There is no part, they do not follow each other, or they were sampled differently.
        """
        parts = list(parts)
        if not parts:
            raise ArgumentError("there are no results to put together")
        first = parts[0]
        at = first.first_image
        for part in parts:
            if part.first_image != at:
                raise ArgumentError(
                    f"a part begins with image {part.first_image}, but image {at} is next"
                )
            if part.seed != first.seed or list(part) != list(first):
                raise ArgumentError(
                    f"parts were sampled differently: seeds {first.seed} and {part.seed}, outputs "
                    f"{', '.join(first)} and {', '.join(part)}"
                )
            at += part.images
        joined = {name: Statistics.concat([part[name] for part in parts]) for name in first}
        return cls(joined, first.first_image, first.seed)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return every array, named ``output/field``; ``output/levels`` where quantiles are."""
        found: dict[str, np.ndarray] = {}
        for name, one in self.statistics.items():
            found |= {f"{name}/{field}": array for field, array in one.arrays().items()}
            if one.levels:
                found[f"{name}/levels"] = np.array(one.levels)
        return found

    def summary(self) -> dict[str, Any]:
        """Return plain data for JSON: what was sampled, and means over images and places.

        A mean leaves out what is not finite; None if nothing else is there.
        """
        outputs = {}
        for name, one in self.statistics.items():
            found: dict[str, Any] = {
                "kind": one.kind.to_dict(),
                "shape": list(one.mean.shape),
                "images_with_nonfinite": int((one.nonfinite > 0).sum()),
                "standard_deviation": _mean(np.sqrt(one.variance)),
            }
            for field in _MEASURES:
                array = getattr(one, field)
                if array is not None:
                    found[field] = _mean(array)
            outputs[name] = found
        return {
            "images": self.images,
            "first_image": self.first_image,
            "samples": self.samples,
            "seed": self.seed,
            "outputs": outputs,
        }

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return a row for each image: what a table of an output shows.

        Parameters
        ----------
        name
            Of the output.

        Returns
        -------
        list of dict
            ``image``, its number in the stream; ``nonfinite``, samples that are not finite; for
            one distribution per image ``class`` and ``probability`` of the top class; the measures
            of uncertainty, means over the places of a map; for regression ``mean`` and
            ``standard_deviation``, the numbers of one image being averaged.
        """
        one = self[name]
        rows: list[dict[str, Any]] = [
            {"image": self.first_image + at, "nonfinite": int(one.nonfinite[at])}
            for at in range(len(one))
        ]
        columns: dict[str, np.ndarray] = {}
        if one.top_class is None:
            columns["mean"] = _each(one.mean)
            columns["standard_deviation"] = _each(np.sqrt(one.variance))
        elif one.top_class.size == len(one):
            columns["class"] = one.top_class.reshape(-1)
            mean = one.mean.reshape(len(one), -1)
            if one.kind.events:
                columns["probability"] = np.maximum(mean, 1 - mean)[:, 0]
            else:
                columns["probability"] = mean.max(axis=1)
        for field in _MEASURES:
            array = getattr(one, field)
            if array is not None:
                columns[field] = _each(array)
        for title, column in columns.items():
            for row, number in zip(rows, column.tolist(), strict=True):
                row[title] = number
        return rows

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the arrays as ``.npz``, with the summary as JSON text named ``summary``.

        Raises
        ------
        OutputError
            The file could not be written; what was there before is left as it was.
        """
        target = Path(path).absolute()
        arrays: dict[str, Any] = self.arrays() | {"summary": np.array(json.dumps(self.summary()))}
        try:
            with Replacement() as files:
                np.savez(files.create(target), **arrays)
                files.commit()
        except OSError as error:
            raise OutputError(f"cannot write {str(path)!r}: {error.strerror or error}") from error


def _mean(array: np.ndarray) -> float | None:
    finite = array[np.isfinite(array)]
    return float(finite.mean()) if finite.size else None


def _each(array: np.ndarray) -> np.ndarray:
    """Return the mean over everything but images."""
    means: np.ndarray = array.reshape(len(array), -1).mean(axis=1)
    return means
