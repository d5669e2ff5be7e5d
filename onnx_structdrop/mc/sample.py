"""Monte-Carlo dropout: the deterministic part of a model once, the rest for every sample."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_structdrop import native as kernels
from onnx_structdrop.errors import ArgumentError, ArgumentTypeError
from onnx_structdrop.graph.convert import as_ir
from onnx_structdrop.graph.files.wellformed import quoted
from onnx_structdrop.graph.io import load
from onnx_structdrop.mc.accumulator import Accumulator
from onnx_structdrop.mc.chunks import MOST_IMAGES
from onnx_structdrop.mc.engine import Engine, Plan
from onnx_structdrop.mc.inputs import Feeds, Inputs
from onnx_structdrop.mc.options import Options
from onnx_structdrop.mc.outputs import describe
from onnx_structdrop.mc.result import Result
from onnx_structdrop.mc.split import split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt
    import onnx
    import onnx_ir as ir

    from onnx_structdrop.mc.outputs import OutputKind

    Array = npt.NDArray[Any]

__all__ = ["Sampler"]


class Sampler:
    """Samples a model whose dropout is on, and sums the samples up.

    What random numbers do not reach runs once per image, the rest once per sample. Images and
    samples share the runs of the latter where its rows do not depend on each other, which is
    tried. With the native kernels, image ``i`` of a stream takes the masks of its sample ``t``
    from draw ``i * 2**20 + t``: they depend on `seed`, ``i`` and ``t`` alone, whatever the batch,
    the chunk and the process. Numbers around them may differ in the last bit, as onnxruntime
    multiplies matrices of different sizes in different orders. Without kernels the
    masks come from generators of the session: independent for each row, not reproducible.

    Masks are never shared along the batch, and DropBlock is normalised per sample, whatever the
    model says. Standard Dropout in training mode, which onnxruntime would delete, is sampled too.

    Parameters
    ----------
    model
        An ``onnx.ModelProto``, ``onnx_ir.Model`` or path; see `insert`, or `set_training_mode`.
    samples
        Samples of each image, 1 to 2**20.
    seed
        Replaces the seeds in the model, 0 or more.
    native
        Whether to use the native kernels; "auto" does where they are there.
    threads
        Threads of each run; None leaves it to onnxruntime.
    chunk
        Rows per run of the suffix; None measures which number is fastest.
    batch
        Images per run of the prefix; None takes as many as 16 MiB hold, 128 at most.
    outputs
        Names of the outputs to sum up; None takes all that random numbers reach.
    task, values, class_axis
        What the outputs hold, see `describe`; for several outputs also by name.
    quantiles
        Levels from 0 to 1; they need all samples of a batch in memory.
    keep_samples
        Whether results hold the samples themselves.
    allow_nonfinite
        Whether images may hold NaN and infinities.
    progress
        Whether to show a bar on stderr.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        An argument is not what is said above.
    ModelError, UnsupportedModelError
        The model is not random, cannot be split or run, or has no batch axis that is known.
    NativeLibraryError
        The kernels are asked for and missing.

    Examples
    --------
    >>> sampler = Sampler("classifier.onnx", samples=30)  # doctest: +SKIP
    >>> sampler(images)["logits"].mutual_information  # doctest: +SKIP
    """

    def __init__(
        self,
        model: onnx.ModelProto | ir.Model | str | os.PathLike[str],
        samples: int = 30,
        *,
        seed: int = 0,
        native: bool | str = "auto",
        threads: int | None = None,
        chunk: int | None = None,
        batch: int | None = None,
        outputs: Sequence[str] | None = None,
        task: str | Mapping[str, str] = "auto",
        values: str | Mapping[str, str] = "auto",
        class_axis: int | str | Mapping[str, int | str | None] | None = "auto",
        quantiles: Sequence[float] = (),
        keep_samples: bool = False,
        allow_nonfinite: bool = False,
        progress: bool = False,
    ) -> None:
        self._options = Options.checked(
            samples=samples, seed=seed, native=native, threads=threads, chunk=chunk, batch=batch,
            quantiles=quantiles, keep_samples=keep_samples, allow_nonfinite=allow_nonfinite,
            progress=progress,
        )  # fmt: skip
        self._said = {"task": task, "values": values, "class_axis": class_axis}
        whole = as_ir(load(model) if isinstance(model, str | os.PathLike) else model)
        self.inputs = Inputs(whole)
        parts = split(whole)
        self.outputs = _chosen(whole, parts.stochastic, outputs)
        for what, said in self._said.items():
            _check_names(whole, what, said)
        if self.outputs != parts.stochastic:
            _keep_outputs(whole, self.outputs)
            parts = split(whole)
        self.cut = parts.cut
        """Names of the values that the suffix starts from."""
        self._producers = {
            value.name: producer.op_type
            for value in parts.suffix.graph.outputs
            if (producer := value.producer()) is not None
        }
        wanted = self._options.native
        self.native = kernels.native_available() if wanted is None else wanted
        """Whether masks come from the kernels, and are reproducible."""
        if self.inputs.batch is not None and batch not in (None, self.inputs.batch):
            raise ArgumentError(
                f"batch is {batch}, but the model's batch is fixed at {self.inputs.batch}; "
                "leave batch out"
            )
        self._engine = Engine(parts, self.inputs, self._options, native=self.native)
        self.kinds: dict[str, OutputKind] = {}
        """What each output was taken for, once something was sampled."""

    @property
    def samples(self) -> int:
        """Samples of each image."""
        return self._options.samples

    @property
    def seed(self) -> int:
        """What the masks are drawn from."""
        return self._options.seed

    @property
    def plans(self) -> tuple[Plan, ...]:
        """How the suffix is run, for each size of images so far."""
        return self._engine.plans

    def __call__(self, images: Any, *, first_image: int = 0) -> Result:
        """Return the statistics of some images.

        Parameters
        ----------
        images
            An array with images along axis 0, or arrays by input name where there are several
            inputs; scalars such as a ratio are for all images.
        first_image
            Number of the first image in a stream, which its masks are drawn from.

        Raises
        ------
        ArgumentError, ArgumentTypeError
            The images do not fit the model, are not finite, or there are none.
        ModelError
            onnxruntime fails.
        """
        feeds = self.inputs.check(images)
        with self._bar(feeds.count) as advance:
            return self._result(feeds, first_image, advance)

    def stream(self, batches: Iterable[Any], *, first_image: int = 0) -> Iterator[Result]:
        """Yield the statistics of one batch after the other; nothing else stays in memory.

        Parameters
        ----------
        batches
            Each as `__call__` takes it, of any number of images.
        first_image
            Number of the first image of all.

        Raises
        ------
        ArgumentError, ArgumentTypeError
            As `__call__`; what was yielded before holds. Also if there are no batches.
        """
        if not isinstance(batches, Iterable):
            raise ArgumentTypeError(f"batches must be iterable, not {type(batches).__name__}")
        at = first_image
        with self._bar(None) as advance:
            for batch in batches:
                feeds = self.inputs.check(batch)
                yield self._result(feeds, at, advance)
                at += feeds.count
        if at == first_image:
            raise ArgumentError("there are no images: the stream is empty")

    def __getstate__(self) -> Any:
        raise ArgumentTypeError(
            "a Sampler holds sessions of onnxruntime, which cannot be copied or sent to another "
            "process; make one there, from the path of the model"
        )

    def _result(self, feeds: Feeds, first_image: int, advance: Callable[[int], None]) -> Result:
        self._check_numbers(first_image, feeds.count)
        sums: dict[str, Accumulator] = {}
        width = self._engine.width(feeds)
        for start in range(0, feeds.count, width):
            piece = feeds.piece(start, min(start + width, feeds.count))
            if not self._options.allow_nonfinite:
                piece.check_finite(first_image + start)
            for block, found in self._engine.samples_of(piece, first_image + start):
                for name, rows in found.items():
                    if name not in sums:
                        sums[name] = Accumulator(
                            self._kind(name, rows), feeds.count, self.samples,
                            quantiles=self._options.quantiles,
                            keep_samples=self._options.keep_samples,
                            number=first_image,
                        )  # fmt: skip
                    sums[name].add(block.fold(rows), start + block.image)
            advance(piece.count)
        return Result({name: sums[name].finish() for name in self.outputs}, first_image, self.seed)

    def _check_numbers(self, first_image: int, count: int) -> None:
        if isinstance(first_image, bool) or not isinstance(first_image, int | np.integer):
            raise ArgumentTypeError(f"first_image is {first_image!r}; a whole number is needed")
        if not 0 <= first_image <= MOST_IMAGES - count:
            raise ArgumentError(
                f"images {first_image} to {first_image + count - 1} are beyond the range that has "
                "draws, 0 to 2**28 - 1"
            )

    def _kind(self, name: str, rows: Array) -> OutputKind:
        if name not in self.kinds:
            said = {key: _of(value, name) for key, value in self._said.items()}
            self.kinds[name] = describe(name, rows, producer=self._producers.get(name), **said)
        return self.kinds[name]

    @contextmanager
    def _bar(self, total: int | None) -> Iterator[Callable[[int], None]]:
        """Show progress in a ``with`` block; gives what is to be called with images done."""
        if not self._options.progress:
            yield lambda _: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), Remaining())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task("images", total=total)
            yield lambda done: progress.advance(task, done)


def _chosen(
    model: ir.Model, stochastic: tuple[str, ...], wanted: Sequence[str] | None
) -> tuple[str, ...]:
    if wanted is None:
        return stochastic
    if (
        isinstance(wanted, str)
        or not isinstance(wanted, Collection)
        or not all(isinstance(name, str) for name in wanted)
        or not wanted
    ):
        raise ArgumentTypeError("outputs must be a list of names of outputs")
    known = [value.name or "" for value in model.graph.outputs]
    for name in wanted:
        if name not in known:
            raise ArgumentError(
                f"the model has no output {name!r}; its outputs are {', '.join(map(quoted, known))}"
            )
        if name not in stochastic:
            raise ArgumentError(f"output {name!r} does not depend on any random node")
    return tuple(name for name in stochastic if name in wanted)


def _keep_outputs(model: ir.Model, names: Sequence[str]) -> None:
    kept = [value for value in model.graph.outputs if value.name in names]
    model.graph.outputs.clear()
    model.graph.outputs.extend(kept)


def _check_names(model: ir.Model, what: str, said: Any) -> None:
    known = [value.name or "" for value in model.graph.outputs]
    for name in said if isinstance(said, Mapping) else ():
        if name not in known:
            raise ArgumentError(
                f"{what} is given for {name!r}, but the model's outputs are "
                f"{', '.join(map(quoted, known))}"
            )


def _of(said: Any, name: str) -> Any:
    """Return what was said of an output: by name, or of all of them."""
    if isinstance(said, Mapping):
        return said.get(name, "auto")
    return said
