"""What a placement of dropout costs to sample, from the graph and from a measurement."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_structdrop import native as kernels
from onnx_structdrop.errors import ArgumentError, ArgumentTypeError
from onnx_structdrop.graph.convert import as_ir
from onnx_structdrop.graph.files.wellformed import quoted
from onnx_structdrop.graph.insert import insert
from onnx_structdrop.graph.nodes import dropout_nodes
from onnx_structdrop.mc.engine import Engine
from onnx_structdrop.mc.inputs import Input, Inputs
from onnx_structdrop.mc.options import Options
from onnx_structdrop.mc.sessions import PartSession, as_ort_value
from onnx_structdrop.mc.split import Split, split
from onnx_structdrop.mc.work import work_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import onnx
    import onnx_ir as ir
    from rich.table import Table

    from onnx_structdrop.graph.sites import Site
    from onnx_structdrop.specs import DropoutSpec

__all__ = ["Cost", "cost", "cost_table"]

_ROUNDS = 3
_LEAST = 0.05
"""Seconds that a round takes at least, unless it is one run."""


@dataclass(frozen=True)
class Cost:
    """What sampling a batch takes, for one placement.

    A naive loop runs the whole model for every sample; a deterministic run is one run without
    dropout.
    """

    samples: int
    batch: int
    """Images per run."""
    sites: int
    """Number of places with dropout."""
    cut: tuple[str, ...]
    """Values that are kept between the parts."""
    macs_prefix: int | None
    """Multiply-adds of what runs once; None where sizes are not known."""
    macs_suffix: int | None
    """Multiply-adds of what runs for every sample."""
    prefix_seconds: float | None = None
    """Measured for the batch; None where nothing was measured, as all seconds."""
    suffix_seconds: float | None = None
    """For one sample of the batch, with as many rows in a run as is fastest."""
    whole_seconds: float | None = None
    """For one run of the model with dropout on."""
    deterministic_seconds: float | None = None
    rows: int | None = None
    """Rows per run that turned out fastest."""
    native: bool | None = None
    """Whether the kernels were there to be measured."""

    @property
    def predicted_speedup(self) -> float | None:
        """How many times faster than the naive loop, by multiply-adds."""
        ours = self._predicted()
        return None if not ours else self.samples * self._macs() / ours

    @property
    def predicted_cost(self) -> float | None:
        """How many times a deterministic run, by multiply-adds."""
        ours = self._predicted()
        return None if ours is None or not self._macs() else ours / self._macs()

    @property
    def speedup(self) -> float | None:
        """How many times faster than the naive loop, as measured."""
        ours = self.seconds
        if ours is None or self.whole_seconds is None:
            return None
        return self.samples * self.whole_seconds / ours

    @property
    def cost(self) -> float | None:
        """How many times a deterministic run, as measured."""
        ours = self.seconds
        if ours is None or self.deterministic_seconds is None:
            return None
        return ours / self.deterministic_seconds

    @property
    def seconds(self) -> float | None:
        """For all samples of the batch: the prefix once, the suffix for each."""
        if self.prefix_seconds is None or self.suffix_seconds is None:
            return None
        return self.prefix_seconds + self.samples * self.suffix_seconds

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        derived = ("predicted_speedup", "predicted_cost", "speedup", "cost", "seconds")
        fields = {**asdict(self), "cut": list(self.cut)}
        return fields | {name: getattr(self, name) for name in derived}

    def __rich__(self) -> Table:
        """Return a table for rich to print."""
        return cost_table({"": self})

    def _macs(self) -> int:
        return (self.macs_prefix or 0) + (self.macs_suffix or 0)

    def _predicted(self) -> int | None:
        if self.macs_prefix is None or self.macs_suffix is None:
            return None
        return self.macs_prefix + self.samples * self.macs_suffix


def cost(
    model: onnx.ModelProto | ir.Model,
    spec: DropoutSpec,
    sites: Iterable[Site | str] | Site | str | None = None,
    *,
    samples: int = 30,
    input_shape: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    threads: int | None = None,
    native: bool | str = "auto",
    measure: bool = True,
) -> Cost:
    """Tell what sampling costs with dropout at some sites.

    Parameters
    ----------
    model
        An ``onnx.ModelProto`` or ``onnx_ir.Model`` without dropout. It is not changed.
    spec, sites
        As `insert` takes them.
    samples
        Samples of each image.
    input_shape
        Shape of the images with the batch in front, or shapes by input name, where sizes are
        free; a free batch is 1 otherwise.
    threads, native
        As `Sampler` takes them.
    measure
        Whether to run the parts, on random numbers. Takes some seconds on a large model.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        A size is free and not given, or does not fit; otherwise as `insert`.
    ModelError
        The model cannot be split or run.
    """
    if not isinstance(measure, bool):
        raise ArgumentTypeError(f"measure must be True or False, not {measure!r}")
    options = Options.checked(
        samples=samples, seed=0, native=native, threads=threads, chunk=None, batch=None,
        quantiles=(), keep_samples=False, allow_nonfinite=False, progress=False,
    )  # fmt: skip
    plain = as_ir(model)
    whole = insert(plain, spec, sites)
    inputs = Inputs(whole)
    shapes = _shapes(inputs, input_shape)
    parts = split(whole)
    total = work_of(whole, shapes).macs
    before = 0 if parts.prefix is None else work_of(parts.prefix, shapes).macs
    found = Cost(
        samples=options.samples,
        batch=shapes[inputs.main.name][0],
        sites=_count_sites(parts),
        cut=parts.cut,
        macs_prefix=before,
        macs_suffix=None if total is None or before is None else total - before,
    )
    return _measured(found, plain, whole, parts, inputs, shapes, options) if measure else found


def cost_table(costs: Mapping[str, Cost]) -> Table:
    """Return a table of placements by name, for rich to print."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("placement")
    for title in ("sites", "once, ms", "a sample, ms", "loop / this", "by MACs",
                  "this / one run", "by MACs"):  # fmt: skip
        table.add_column(title, justify="right", no_wrap=True)
    for name, one in costs.items():
        table.add_row(
            name or "-", str(one.sites), _text(one.prefix_seconds, 1e3),
            _text(one.suffix_seconds, 1e3), _text(one.speedup, 1),
            _text(one.predicted_speedup, 1), _text(one.cost, 1),
            _text(one.predicted_cost, 1),
        )  # fmt: skip
    return table


def _text(number: float | None, unit: float) -> str:
    return "-" if number is None else f"{number * unit:.3g}"


def _count_sites(parts: Split[ir.Model]) -> int:
    return sum(1 for _ in dropout_nodes(parts.suffix))


def _shapes(inputs: Inputs, given: Any) -> dict[str, list[int]]:
    """Return the shape of each input that has to be given."""
    known: dict[str, Any] = {}
    if given is not None:
        known = dict(given) if hasattr(given, "items") else {inputs.main.name: given}
    for name in known:
        if name not in inputs.all:
            raise ArgumentError(f"the model has no input {name!r}")
    return {name: _shape(inputs.all[name], known.get(name)) for name in inputs.required}


def _shape(known: Input, given: Any) -> list[int]:
    if given is None:
        dims = list(known.dims or ())
        if dims and not isinstance(dims[0], int):
            dims[0] = 1
        free = [size for size in dims if not isinstance(size, int)]
        if free or known.dims is None:
            raise ArgumentError(
                f"input {quoted(known.name)} has free sizes {known.shape_text()}; "
                "say them by input_shape (--input-shape)"
            )
        return [size for size in dims if isinstance(size, int)]
    sizes = list(given)
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int | np.integer):
            raise ArgumentTypeError(f"input_shape holds {size!r}; whole numbers are needed")
    fits = all(size >= 1 for size in sizes) and (
        known.dims is None
        or (
            len(sizes) == known.rank
            and all(
                not isinstance(size, int) or size == actual
                for size, actual in zip(known.dims, sizes, strict=True)
            )
        )
    )
    if not fits:
        raise ArgumentError(
            f"input_shape is {tuple(sizes)}, input {quoted(known.name)} takes {known.shape_text()}"
        )
    return [int(size) for size in sizes]


def _measured(
    found: Cost,
    plain: ir.Model,
    whole: ir.Model,
    parts: Split[ir.Model],
    inputs: Inputs,
    shapes: Mapping[str, Sequence[int]],
    options: Options,
) -> Cost:
    native = kernels.native_available() if options.native is None else options.native
    engine = Engine(parts, inputs, options, native=native)
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.random(shape).astype(inputs.all[name].dtype.numpy())
        for name, shape in shapes.items()
    }
    feeds = inputs.check(arrays)
    rows, each = engine.fastest(feeds)
    values = {name: as_ort_value(array, inputs.all[name].dtype) for name, array in arrays.items()}
    sessions = {
        name: PartSession(one, threads=options.threads, library=native, what="the model")
        for name, one in (("whole", whole), ("plain", plain))
    }
    runs: dict[str, Callable[[], object]] = {
        "prefix": lambda: engine.prefix(feeds),
        "whole": lambda: sessions["whole"].run(values),
        "plain": lambda: sessions["plain"].run(values),
    }
    seconds = _times(runs)
    return replace(
        found,
        prefix_seconds=seconds["prefix"] if parts.prefix is not None else 0.0,
        suffix_seconds=each * feeds.count,
        whole_seconds=seconds["whole"],
        deterministic_seconds=seconds["plain"],
        rows=rows,
        native=native,
    )


def _times(runs: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return seconds per run, the best of some rounds that take turns."""
    best = dict.fromkeys(runs, float("inf"))
    for run in runs.values():
        run()
    for _ in range(_ROUNDS):
        for name, run in runs.items():
            count, started = 0, time.perf_counter()
            while count == 0 or time.perf_counter() - started < _LEAST:
                run()
                count += 1
            best[name] = min(best[name], (time.perf_counter() - started) / count)
    return best
