"""Runs of the two parts of a model that is sampled."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnx_structdrop.errors import ArgumentError, ModelError
from onnx_structdrop.graph.files.wellformed import quoted
from onnx_structdrop.mc.chunks import Block, blocks, fastest, measure, steady_clock
from onnx_structdrop.mc.sessions import PartSession, as_array, as_ort_value
from onnx_structdrop.mc.stacking import examine, two_images
from onnx_structdrop.mc.suffix import DRAWS, ROWS, in_rows, prepare, sampling, still
from onnx_structdrop.mc.work import check_batch_first, work_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

    from onnx_structdrop.mc.inputs import Feeds, Inputs
    from onnx_structdrop.mc.options import Options
    from onnx_structdrop.mc.split import Split

    Array = npt.NDArray[Any]

__all__ = ["Engine", "Plan"]

_IMAGE_BYTES = 16 << 20
"""Of images that the prefix takes at once, unless `batch` says otherwise."""

_MOST_BATCH = 128

_ROW_BYTES = 1 << 30
"""Of what the nodes of the suffix put out in one run, in all."""

_MOST_ROWS = 4096
_ODD = 97
"""Rows to infer shapes with, a size that no other axis is likely to have."""

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


class Engine:
    """The sessions of a split model, and how they are run.

    Parameters
    ----------
    parts
        The model.
    inputs
        Of the whole model.
    options
        As the sampler was told.
    native
        Whether the suffix has the kernels.
    """

    def __init__(
        self, parts: Split[ir.Model], inputs: Inputs, options: Options, *, native: bool
    ) -> None:
        self._inputs = inputs
        self._options = options
        self._native = native
        self._prepared = prepare(parts.suffix, seed=options.seed)
        self._prefix = None
        if parts.prefix is not None:
            self._prefix = PartSession(
                parts.prefix, threads=options.threads, library=False,
                what="the deterministic part of the model",
            )  # fmt: skip
        self._plans: dict[Any, Plan] = {}
        self._sessions: dict[tuple[bool, frozenset[str]], PartSession] = {}

    @property
    def plans(self) -> tuple[Plan, ...]:
        """How the suffix is run, for each size of images so far."""
        return tuple(self._plans.values())

    def prefix(self, piece: Feeds) -> dict[str, Any]:
        """Return what the suffix starts from: cut values, and inputs that it reads itself."""
        full = piece.padded(self._inputs.batch or piece.count)
        values = {
            name: as_ort_value(array, self._inputs.all[name].dtype)
            for name, array in (*full.images.items(), *full.shared.items())
        }
        if self._prefix is not None:
            values |= self._prefix.run(values)
        return values

    def width(self, feeds: Feeds) -> int:
        """Return how many images the prefix takes at once."""
        fixed = self._inputs.batch
        if fixed is not None:
            return fixed
        if self._options.batch is not None:
            return self._options.batch
        each = sum(array[:1].nbytes for array in feeds.images.values())
        return max(1, min(_MOST_BATCH, _IMAGE_BYTES // max(1, each)))

    def fastest(self, piece: Feeds) -> tuple[int, float]:
        """Return how many rows a run takes at most, and the seconds for one of them."""
        values = self.prefix(piece)
        plan = self._plan(piece, values)
        session = self._session(plan)
        numbers = np.arange(plan.rows, dtype=np.int64)

        def run(_: int) -> None:
            self._run(session, values, numbers % piece.count, numbers)

        return plan.rows, measure(run, 1, clock=time.perf_counter)[1] / plan.rows

    def samples_of(
        self, piece: Feeds, first_image: int
    ) -> Iterator[tuple[Block, dict[str, Array]]]:
        """Yield the outputs of all samples, for some samples of some images at a time."""
        count = piece.count
        values = self.prefix(piece)
        plan = self._plan(piece, values)
        session = self._session(plan)
        if plan.stacked:
            for block in blocks(count, self._options.samples, plan.rows):
                yield block, self._run(session, values, block.rows(), block.draws(first_image))
            return
        fed = self._inputs.batch or count
        for sample in range(self._options.samples):
            block = Block(0, fed, sample, 1)
            found = self._run(session, values, block.rows(), block.draws(first_image))
            short = {name: array[:count] for name, array in found.items()}
            yield Block(0, count, sample, 1), short

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
        _check_outputs_first(found, len(rows))
        return found

    def _plan(self, piece: Feeds, values: dict[str, Any]) -> Plan:
        if piece.key not in self._plans:
            self._plans[piece.key] = self._made_plan(piece, values)
        return self._plans[piece.key]

    def _made_plan(self, piece: Feeds, values: dict[str, Any]) -> Plan:
        stacking = examine(
            self._prepared, self.prefix, piece, batch=self._inputs.batch,
            threads=self._options.threads, library=self._native,
        )  # fmt: skip
        self._check_batch_first(values, stacking.per_image)
        chunk = self._options.chunk
        if stacking.per_image is None:
            if chunk is not None:
                raise ArgumentError(
                    f"chunk is {chunk}, but the model takes whole batches only: {stacking.reason}; "
                    "leave chunk out"
                )
            self._check_outputs(piece)
            rows = self._inputs.batch or piece.count
            return Plan(False, stacking.reason, rows, frozenset(), {})
        if chunk is not None:
            return Plan(True, stacking.reason, chunk, stacking.per_image, {})
        most = min(
            piece.count * self._options.samples,
            self._affordable(values, stacking.per_image),
            _MOST_ROWS,
        )
        session = self._session(Plan(True, "", 1, stacking.per_image, {}))

        def run(rows: int) -> None:
            numbers = np.arange(rows, dtype=np.int64)
            self._run(session, values, numbers % piece.count, numbers)

        measured = measure(run, most, clock=steady_clock())
        return Plan(True, stacking.reason, fastest(measured), stacking.per_image, measured)

    def _check_outputs(self, piece: Feeds) -> None:
        """Refuse a model whose axis 0 is as long as the batch by chance: try another batch."""
        if self._inputs.batch is not None:
            return
        count = 3 if piece.count == 2 else 2
        session = PartSession(
            still(self._prepared, native=self._native), threads=self._options.threads,
            library=self._native, what="the stochastic part of the model", quick=True,
        )  # fmt: skip
        try:
            values = self.prefix(two_images(piece, count))
            found = session.run(values)
        except ModelError:
            return  # Its batch is fixed, although its inputs do not say so.
        check_batch_first(self._prepared, _shapes(self._prepared, values, 0), count)
        _check_outputs_first({name: as_array(value) for name, value in found.items()}, count)

    def _check_batch_first(
        self, values: Mapping[str, Any], per_image: frozenset[str] | None
    ) -> None:
        if per_image is None:
            shapes = _shapes(self._prepared, values, 0)
            images = values[self._inputs.main.name].shape()[0]
            check_batch_first(self._prepared, shapes, images)
            return
        model = in_rows(self._prepared, per_image)
        check_batch_first(model, _shapes(model, values, _ODD), _ODD)

    def _affordable(self, values: Mapping[str, Any], per_image: frozenset[str]) -> int:
        model = in_rows(self._prepared, per_image)
        each = work_of(model, _shapes(model, values, 1)).bytes
        return _UNKNOWN_ROWS if each is None else max(1, _ROW_BYTES // max(1, each))

    def _session(self, plan: Plan) -> PartSession:
        key = (plan.stacked, plan.per_image)
        if key not in self._sessions:
            model = in_rows(self._prepared, plan.per_image) if plan.stacked else self._prepared
            self._sessions[key] = PartSession(
                sampling(model, native=self._native), threads=self._options.threads,
                library=self._native, what="the stochastic part of the model",
            )  # fmt: skip
        return self._sessions[key]


def _check_outputs_first(found: Mapping[str, Array], count: int) -> None:
    for name, array in found.items():
        if array.shape[:1] != (count,):
            raise ModelError(
                f"output {quoted(name)} has shape {array.shape} for {count} images: axis 0 is to "
                "be the batch; name the outputs to sum up with outputs=[...]"
            )


def _shapes(model: ir.Model, values: Mapping[str, Any], rows: int) -> dict[str, list[int]]:
    """Return the shape of each input of a suffix."""
    return {
        value.name or "": [rows] if value.name == ROWS else list(values[value.name or ""].shape())
        for value in model.graph.inputs
        if value.name == ROWS or value.name in values  # others have defaults
    }
