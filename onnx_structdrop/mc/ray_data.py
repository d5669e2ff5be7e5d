"""Sampling a Ray dataset by several workers, on one machine or on many.

Masks depend on the seed and on the number that each image has, so it does not matter which worker
takes an image, in what company, or how often: results are those of one process.
"""

from __future__ import annotations

import importlib
import itertools
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from onnx_structdrop.errors import (
    ArgumentError,
    ArgumentTypeError,
    DependencyError,
    NativeLibraryError,
    UnsupportedModelError,
)
from onnx_structdrop.graph.convert import as_ir, to_proto
from onnx_structdrop.mc.sample import Sampler
from onnx_structdrop.native import native_available

if TYPE_CHECKING:
    import onnx_ir as ir

    Batch = dict[str, np.ndarray]

__all__ = ["sample_dataset"]

_MOST_BYTES = 1 << 30
"""Of a model that is sent to the workers; a larger one has to lie where all of them find it."""

_PER_LEVEL = ("quantiles", "samples")
"""Fields that have images along axis 1."""


def sample_dataset(
    dataset: Any,
    model: onnx.ModelProto | ir.Model | str | os.PathLike[str],
    samples: int = 30,
    *,
    image: str = "image",
    number: str = "number",
    workers: int = 2,
    batch_size: int = 32,
    threads: int = 1,
    **options: Any,
) -> Any:
    """Return a dataset with the statistics of every image beside its own columns.

    Parameters
    ----------
    dataset
        A ``ray.data.Dataset``. Its rows may come in any order.
    model
        As `Sampler` takes it. A path has to lead to the same file on every machine.
    samples
        Samples of each image.
    image
        Column of the images; further inputs of the model are columns of their own names.
    number
        Column with the number of each image, 0 to 2**28 - 1 and no two the same: it decides the
        masks, as the place in the stream does for `Sampler`.
    workers
        Actors that sample. One that dies is started again, and what it had not handed over is
        sampled again, with the same result.
    batch_size
        Rows that an actor is given at once.
    threads
        Processors for each actor.
    options
        Further arguments of `Sampler`.

    Returns
    -------
    ray.data.Dataset
        Lazy, as Ray's datasets are. New columns are ``output/field``, with fields as of
        `Statistics`.

    Raises
    ------
    DependencyError
        Ray is not installed: the extra ``[ray]``.
    ArgumentError, ArgumentTypeError
        An argument is not what is said above, or one that a dataset cannot have.
    NativeLibraryError
        There are no native kernels, without which results would depend on the worker.
    ModelError, UnsupportedModelError
        As of `Sampler`, at once and not when the dataset is read.

    Examples
    --------
    >>> numbered = ray.data.read_numpy("images.npy")  # doctest: +SKIP
    >>> sample_dataset(numbered, "model.onnx", 30).write_parquet("scores")  # doctest: +SKIP
    """
    data = _ray_data()
    if not isinstance(dataset, data.Dataset):
        raise ArgumentTypeError(f"dataset must be a ray.data.Dataset, not {type(dataset).__name__}")
    for name, count in (("workers", workers), ("batch_size", batch_size), ("threads", threads)):
        if isinstance(count, bool) or not isinstance(count, int):
            raise ArgumentTypeError(f"{name} must be a whole number, not {count!r}")
        if count < 1:
            raise ArgumentError(f"{name} is {count}; allowed is 1 or more")
    if options.get("native", "auto") is False or not native_available():
        raise NativeLibraryError(
            "a dataset is sampled with the native kernels only: without them, results would depend "
            "on which worker takes an image"
        )
    content = _content(model)
    options = {**options, "samples": samples, "threads": threads, "native": True, "progress": False}
    sampler = Sampler(_model(content), **options)  # what it refuses, it refuses here
    known = set(dataset.columns() or ())
    for column in (image, number):
        if known and column not in known:
            raise ArgumentError(
                f"the dataset has no column {column!r}; its columns are {', '.join(sorted(known))}"
            )
    further = [name for name in sampler.inputs.required if name != sampler.inputs.main.name]
    missing = [name for name in further if known and name not in known]
    if missing:
        raise ArgumentError(f"the model has an input {missing[0]!r}, the dataset no such column")
    return dataset.map_batches(
        _Worker,
        fn_constructor_args=(content, options, image, number, tuple(further)),
        batch_size=batch_size,
        batch_format="numpy",
        compute=data.ActorPoolStrategy(size=workers),
        num_cpus=threads,
    )


class _Worker:
    """An actor with a sampler of its own."""

    def __init__(
        self,
        content: bytes | str,
        options: dict[str, Any],
        image: str,
        number: str,
        further: tuple[str, ...],
    ) -> None:
        self._sampler = Sampler(_model(content), **options)
        self._image, self._number, self._further = image, number, further

    def __call__(self, batch: Batch) -> Batch:
        numbers = np.asarray(batch[self._number])
        if not np.issubdtype(numbers.dtype, np.integer):
            raise ArgumentTypeError(
                f"column {self._number!r} holds {numbers.dtype}; whole numbers are needed"
            )
        columns: dict[str, list[np.ndarray]] = {}
        for first, last in _consecutive(numbers):
            feeds = {self._sampler.inputs.main.name: batch[self._image][first:last]}
            feeds |= {name: batch[name][first:last] for name in self._further}
            result = self._sampler(feeds, first_image=int(numbers[first]))
            for output, statistics in result.items():
                for field, array in statistics.arrays().items():
                    by_image = np.moveaxis(array, 1, 0) if field in _PER_LEVEL else array
                    columns.setdefault(f"{output}/{field}", []).append(by_image)
        return {**batch, **{name: np.concatenate(parts) for name, parts in columns.items()}}


def _consecutive(numbers: np.ndarray) -> list[tuple[int, int]]:
    """Return the ranges of places whose numbers follow each other."""
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    edges = [0, *breaks.tolist(), len(numbers)]
    return list(itertools.pairwise(edges))


def _content(model: onnx.ModelProto | ir.Model | str | os.PathLike[str]) -> bytes | str:
    """Return what is sent to the workers: a path, or the model itself."""
    if isinstance(model, str | os.PathLike):
        return os.path.abspath(model)  # noqa: PTH100 - links are left for each machine to follow
    proto = to_proto(as_ir(model))
    size = proto.ByteSize()
    if size > _MOST_BYTES:
        raise UnsupportedModelError(
            f"the model has {size} bytes; save it where all workers find it, and give the path"
        )
    serialised: bytes = proto.SerializeToString()
    return serialised


def _model(content: bytes | str) -> onnx.ModelProto | str:
    return content if isinstance(content, str) else onnx.ModelProto.FromString(content)


def _ray_data() -> Any:
    try:
        return importlib.import_module("ray.data")
    except ImportError as error:
        raise DependencyError(
            f"sampling a dataset needs Ray: pip install 'onnx_structdrop[ray]' ({error})"
        ) from error
