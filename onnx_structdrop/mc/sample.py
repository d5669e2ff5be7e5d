"""Monte-Carlo dropout: the deterministic part of a model once, the rest for every sample."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnx_structdrop import native as kernels
from onnx_structdrop.errors import ArgumentError, ArgumentTypeError, ModelError
from onnx_structdrop.graph.convert import as_ir
from onnx_structdrop.graph.files.wellformed import quoted
from onnx_structdrop.graph.io import load
from onnx_structdrop.mc.accumulator import Accumulator
from onnx_structdrop.mc.chunks import (
    MOST_IMAGES,
    Block,
    blocks,
    fastest,
    measure,
)
from onnx_structdrop.mc.inputs import Feeds, Inputs
from onnx_structdrop.mc.options import Options
from onnx_structdrop.mc.outputs import describe
from onnx_structdrop.mc.result import Result
from onnx_structdrop.mc.sessions import PartSession, as_array, as_ort_value
from onnx_structdrop.mc.split import split
from onnx_structdrop.mc.stacking import examine
from onnx_structdrop.mc.suffix import DRAWS, ROWS, in_rows, prepare, sampling
from onnx_structdrop.mc.work import work_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt
    import onnx

    from onnx_structdrop.mc.outputs import OutputKind

    Array = npt.NDArray[Any]

__all__ = ["Plan", "Sampler"]

_IMAGE_BYTES = 16 << 20
"""Of images that the prefix takes at once, unless `batch` says otherwise."""

_MOST_BATCH = 128

_ROW_BYTES = 1 << 30
"""Of what the nodes of the suffix put out in one run, in all."""

_MOST_ROWS = 4096
_UNKNOWN_ROWS = 32
"""Rows at most where the memory for one is not known."""


@dataclass(frozen=True)
class Plan:
    """How the suffix is run for images of one size."""

    stacked: bool
    """Whether images and samples share runs; otherwise a whole batch takes one sample per run."""
    reason: str
    """Why."""
    rows: int
    """Rows per run at most."""
    per_image: frozenset[str]
    """Inputs of the suffix that rows are picked from."""
    measured: Mapping[int, float]
    """Seconds per row by rows per run, where they were measured."""


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
        self._prepared = prepare(parts.suffix, seed=self._options.seed)
        wanted = self._options.native
        self.native = kernels.native_available() if wanted is None else wanted
        """Whether masks come from the kernels, and are reproducible."""
        self._prefix = (
            None
            if parts.prefix is None
            else PartSession(
                parts.prefix,
                threads=threads,
                library=False,
                what="the deterministic part of the model",
            )
        )
        if self.inputs.batch is not None and batch not in (None, self.inputs.batch):
            raise ArgumentError(
                f"batch is {batch}, but the model's batch is fixed at {self.inputs.batch}; "
                "leave batch out"
            )
        self._plans: dict[Any, Plan] = {}
        self._sessions: dict[tuple[bool, frozenset[str]], PartSession] = {}
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
        return tuple(self._plans.values())

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
        ArgumentError, ArgumentTypeError, ModelError
            As `__call__`; what was yielded before holds. Also if there are no batches.
        """
        at = first_image
        with self._bar(None) as advance:
            for batch in batches:
                feeds = self.inputs.check(batch)
                yield self._result(feeds, at, advance)
                at += feeds.count
        if at == first_image:
            raise ArgumentError("there are no images: the stream is empty")

    def _result(self, feeds: Feeds, first_image: int, advance: Callable[[int], None]) -> Result:
        self._check_numbers(first_image, feeds.count)
        sums: dict[str, Accumulator] = {}
        width = self._width(feeds)
        for start in range(0, feeds.count, width):
            piece = feeds.piece(start, min(start + width, feeds.count))
            if not self._options.allow_nonfinite:
                piece.check_finite(first_image + start)
            for block, found in self._samples_of(piece, first_image + start):
                for name, rows in found.items():
                    if name not in sums:
                        sums[name] = Accumulator(
                            self._kind(name, rows), feeds.count, self.samples,
                            quantiles=self._options.quantiles,
                            keep_samples=self._options.keep_samples,
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

    def _width(self, feeds: Feeds) -> int:
        """Return how many images the prefix takes at once."""
        fixed = self.inputs.batch
        if fixed is not None:
            return fixed
        if self._options.batch is not None:
            return self._options.batch
        each = sum(array[:1].nbytes for array in feeds.images.values())
        return max(1, min(_MOST_BATCH, _IMAGE_BYTES // max(1, each)))

    def _samples_of(
        self, piece: Feeds, first_image: int
    ) -> Iterator[tuple[Block, dict[str, Array]]]:
        """Yield the outputs of all samples, for some samples of some images at a time."""
        count = piece.count
        values = self._before(piece)
        plan = self._plan(piece, values)
        session = self._session(plan)
        if plan.stacked:
            for block in blocks(count, self.samples, plan.rows):
                yield block, self._run(session, values, block.rows(), block.draws(first_image))
            return
        fed = self.inputs.batch or count
        for sample in range(self.samples):
            block = Block(0, fed, sample, 1)
            found = self._run(session, values, block.rows(), block.draws(first_image))
            short = {name: array[:count] for name, array in found.items()}
            yield Block(0, count, sample, 1), short

    def _before(self, piece: Feeds) -> dict[str, Any]:
        """Return what the suffix starts from: cut values, and inputs that it reads itself."""
        full = piece.padded(self.inputs.batch or piece.count)
        values = {
            name: as_ort_value(array, self.inputs.all[name].dtype)
            for name, array in (*full.images.items(), *full.shared.items())
        }
        if self._prefix is not None:
            values |= self._prefix.run(values)
        return values

    def _run(
        self,
        session: PartSession,
        values: Mapping[str, Any],
        rows: npt.NDArray[np.int64],
        draws: npt.NDArray[np.int64],
    ) -> dict[str, Array]:
        numbers = {
            ROWS: as_ort_value(rows, ir.DataType.INT64),
            DRAWS: as_ort_value(draws, ir.DataType.INT64),
        }
        found = {
            name: as_array(value) for name, value in session.run({**values, **numbers}).items()
        }
        for name, array in found.items():
            if array.shape[:1] != (len(rows),):
                raise ModelError(
                    f"output {quoted(name)} has shape {array.shape} for {len(rows)} images: axis 0 "
                    "is to be the batch; name the outputs to sum up with outputs=[...]"
                )
        return found

    def _kind(self, name: str, rows: Array) -> OutputKind:
        if name not in self.kinds:
            said = {key: _of(value, name) for key, value in self._said.items()}
            self.kinds[name] = describe(name, rows, producer=self._producers.get(name), **said)
        return self.kinds[name]

    def _plan(self, piece: Feeds, values: dict[str, Any]) -> Plan:
        if piece.key not in self._plans:
            self._plans[piece.key] = self._made_plan(piece, values)
        return self._plans[piece.key]

    def _made_plan(self, piece: Feeds, values: dict[str, Any]) -> Plan:
        stacking = examine(
            self._prepared, self._before, piece, batch=self.inputs.batch,
            threads=self._options.threads, library=self.native,
        )  # fmt: skip
        chunk = self._options.chunk
        if stacking.per_image is None:
            if chunk is not None:
                raise ArgumentError(
                    f"chunk is {chunk}, but the model takes whole batches only: {stacking.reason}; "
                    "leave chunk out"
                )
            rows = self.inputs.batch or piece.count
            return Plan(False, stacking.reason, rows, frozenset(), {})
        if chunk is not None:
            return Plan(True, stacking.reason, chunk, stacking.per_image, {})
        most = min(
            piece.count * self.samples, self._affordable(values, stacking.per_image), _MOST_ROWS
        )
        session = self._session(Plan(True, "", 1, stacking.per_image, {}))

        def run(rows: int) -> None:
            numbers = np.arange(rows, dtype=np.int64)
            self._run(session, values, numbers % piece.count, numbers)

        measured = measure(run, most)
        return Plan(True, stacking.reason, fastest(measured), stacking.per_image, measured)

    def _affordable(self, values: Mapping[str, Any], per_image: frozenset[str]) -> int:
        model = in_rows(self._prepared, per_image)
        shapes = {
            value.name or "": [1] if value.name == ROWS else list(values[value.name or ""].shape())
            for value in model.graph.inputs
        }
        each = work_of(model, shapes).bytes
        return _UNKNOWN_ROWS if each is None else max(1, _ROW_BYTES // max(1, each))

    def _session(self, plan: Plan) -> PartSession:
        key = (plan.stacked, plan.per_image)
        if key not in self._sessions:
            model = in_rows(self._prepared, plan.per_image) if plan.stacked else self._prepared
            self._sessions[key] = PartSession(
                sampling(model, native=self.native), threads=self._options.threads,
                library=self.native, what="the stochastic part of the model",
            )  # fmt: skip
        return self._sessions[key]

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
    if isinstance(wanted, str) or not all(isinstance(name, str) for name in wanted) or not wanted:
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


def _of(said: Any, name: str) -> Any:
    """Return what was said of an output: by name, or of all of them."""
    if isinstance(said, dict):
        return said.get(name, "auto")
    return said
