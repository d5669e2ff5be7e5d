"""The demonstration: everything once, on a ResNet that a real exporter wrote, with proofs.

Each step returns what it found and the checks that it made; printing is left to the caller.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from onnx_structdrop.errors import ModelError, OutputError
from onnx_structdrop.graph.compare import differences
from onnx_structdrop.graph.fold import fold
from onnx_structdrop.graph.insert import insert
from onnx_structdrop.graph.inspect import inspect
from onnx_structdrop.graph.io import load, save
from onnx_structdrop.graph.mode import set_training_mode
from onnx_structdrop.graph.selection import DEFAULT_KINDS
from onnx_structdrop.graph.sites import Site, find_sites
from onnx_structdrop.native import register
from onnx_structdrop.plot import (
    Capture,
    capture,
    plot_masks,
    plot_sites,
    sample_inputs,
    save_figure,
)
from onnx_structdrop.specs import DropBlock2D

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx_ir as ir

__all__ = ["MODEL_NAME", "SPEC", "STAGES", "Check", "Demo", "Rate", "model_path"]

MODEL_NAME = "resnet18_dynamo.onnx"
"""Sample model that the demonstration works on."""

SPEC = DropBlock2D(0.1, 7, seed=2018)
"""What is inserted."""

STAGES = (3, 4)
"""Stages that it is inserted in."""

_BATCH = 32
_STANDARD_ERRORS = 5.0
"""How far a realised rate may be from the expected one: chance goes further once in 10^6."""

Array = npt.NDArray[Any]


class Check(NamedTuple):
    """Something that had to hold, and whether it did."""

    passed: bool
    text: str


class Rate(NamedTuple):
    """How much one node dropped in one run."""

    node: str
    shape: tuple[int, ...]
    nominal: float
    expected: float
    realised: float
    error: float
    """Standard error of the realised rate."""

    @property
    def plausible(self) -> bool:
        """Whether chance explains the difference between realised and expected."""
        return abs(self.realised - self.expected) <= _STANDARD_ERRORS * self.error + 1e-6


def model_path(name: str = MODEL_NAME) -> Path:
    """Return where a sample model is: in the package, or beside it in a source checkout.

    Raises
    ------
    ModelError
        If it is in neither place.
    """
    # An editable install has no models folder inside the package, the checkout beside it does.
    package = Path(__file__).parent
    places = (package / "models" / name, package.parent / "models" / name)
    for place in places:
        if place.is_file():
            return place
    raise ModelError(
        f"the sample model {name!r} is missing, it should be at {str(places[0])!r}; "
        "install the package anew with pip, or run from a complete source checkout"
    )


class Demo:
    """One run of the demonstration.

    Parameters
    ----------
    folder
        Where models and pictures go; created if it does not exist.

    Attributes
    ----------
    written : list of Path
        Files in the order they were written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.source = model_path()
        self.folder = Path(folder)
        self.written: list[Path] = []
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot make the folder {str(folder)!r}: {error.strerror}"
            ) from error
        self.original = load(self.source)
        self._inputs = sample_inputs(self.original, shape=(_BATCH, 3, 224, 224), seed=1)
        self._captured: list[Capture] = []

    def find(self) -> tuple[list[Site], list[Site]]:
        """Return all sites, and those that are chosen."""
        sites = find_sites(self.original)
        chosen = [site for site in sites if site.stage in STAGES and site.kind in DEFAULT_KINDS]
        return sites, chosen

    def insert(self) -> list[Check]:
        """Insert the nodes and write the model."""
        _, chosen = self.find()
        self.dropping = insert(self.original, SPEC, chosen)
        self._save(self.dropping, "resnet18_dropblock.onnx")
        nodes = inspect(self.dropping).own
        seeds = {node.seed for node in nodes}
        return [
            Check(len(nodes) == len(chosen), f"{len(nodes)} nodes behind {len(chosen)} sites"),
            Check(len(seeds) == len(nodes), "every node has a seed of its own"),
            Check(
                _interface(self.dropping) == _interface(self.original),
                "inputs and outputs are what they were",
            ),
        ]

    def train(self) -> tuple[list[Check], list[Rate]]:
        """Run in training mode: outputs vary, and as much is dropped as the theory says."""
        run = self._session("resnet18_dropblock.onnx")
        first, second = run(), run()
        apart = float(np.abs(first - second).max())
        checks = [
            Check(apart > 0, f"two runs on one input differ, by up to {apart:.3g}"),
            Check(bool(np.isfinite([first, second]).all()), "and all of their values are finite"),
        ]
        self._captured = capture(self.dropping, self._inputs)
        rates = [_rate(seen) for seen in self._captured]
        off = [rate.node for rate in rates if not rate.plausible]
        text = f"measured rates agree with the expected ones, within {_STANDARD_ERRORS:g} sigma"
        checks.append(Check(bool(rates) and not off, text))
        zeros = all(not seen.output[~np.broadcast_to(seen.mask, seen.data.shape)].any()
                    for seen in self._captured)  # fmt: skip
        checks.append(Check(zeros, "whatever a mask drops is zero behind the node"))
        return checks, rates

    def accelerate(self) -> tuple[list[Check], list[float]]:
        """Run the same file with the native kernels.

        Returns
        -------
        checks : list of Check
        seconds : list of float
            Medians of a run: of the model without nodes, with functions, with kernels.

        Raises
        ------
        NativeLibraryError
            The kernels cannot be used here.
        """
        name = "resnet18_dropblock.onnx"
        runs = self._session(self.source), self._session(name), self._session(name, native=True)
        first, second = runs[2](), runs[2]()
        one, all_threads = (
            capture(self.dropping, self._inputs, session_options=_options(native=True, threads=n))
            for n in (1, 0)
        )
        rates = [_rate(seen) for seen in all_threads]
        same = all(np.array_equal(a.mask, b.mask) for a, b in zip(one, all_threads, strict=True))
        checks = [
            Check(not np.array_equal(first, second), "two runs on one input differ, too"),
            Check(all(rate.plausible for rate in rates), "and drop as much as the theory says"),
            Check(same, "one thread draws the masks that all threads draw"),
        ]
        return checks, _timed(runs)

    def evaluate(self) -> list[Check]:
        """Run in inference mode: bit for bit the original."""
        silent = set_training_mode(self.dropping, False)
        path = self._save(silent, "resnet18_dropblock_eval.onnx")
        mine = self._session(path.name, optimise=False)()
        theirs = self._session(self.source, optimise=False)()
        same = mine.dtype == theirs.dtype and mine.tobytes() == theirs.tobytes()
        text = f"all {mine.size} outputs equal those of the original, bit for bit"
        return [Check(same, text)]

    def fold(self) -> list[Check]:
        """Take the nodes out again: the original is back."""
        path = self._save(fold(self.dropping), "resnet18_folded.onnx")
        found = differences(self.original, load(path))
        text = "the folded file equals the original: nodes, names, weights, metadata, versions"
        if found:
            text += f" (it does not: {found[0]})"
        return [Check(not found, text)]

    def draw(self) -> list[Check]:
        """Draw the sites and one node's masks."""
        sites = self.folder / "sites.png"
        title = f"{MODEL_NAME}: DropBlock2D in stages {' and '.join(map(str, STAGES))}"
        save_figure(plot_sites(self.dropping, title=title), sites)
        masks = self.folder / "masks.png"
        seen = self._captured[0]
        figure = plot_masks(
            seen.data, seen.mask, seen.output,
            title=f"DropBlock2D({SPEC.rate:g}, 7) behind {seen.node.data}, in onnxruntime",
            nominal=SPEC.rate,
            expected=SPEC.realised_rate(seen.data.shape),
        )  # fmt: skip
        save_figure(figure, masks)
        self.written += [sites, masks]
        there = all(path.stat().st_size > 0 for path in (sites, masks))
        return [Check(there, "the sites of the model, and what one node dropped")]

    def _save(self, model: ir.Model, name: str) -> Path:
        path = self.folder / name
        save(model, path)
        self.written.append(path)
        return path

    def _session(self, name: str | Path, **settings: Any) -> Callable[[], Array]:
        return _session(self.folder / name, self._inputs, **settings)


def _rate(seen: Capture) -> Rate:
    dropped = ~np.broadcast_to(seen.mask, seen.data.shape)
    maps = dropped.mean(axis=(2, 3)).reshape(-1)
    return Rate(
        node=seen.node.name,
        shape=seen.data.shape,
        nominal=SPEC.rate,
        expected=SPEC.realised_rate(seen.data.shape),
        realised=float(maps.mean()),
        # Maps are independent of each other, cells of a map are not.
        error=float(maps.std(ddof=1) / np.sqrt(maps.size)),
    )


def _options(*, optimise: bool = True, native: bool = False, threads: int = 0) -> Any:
    """Return session options; 0 threads are as many as onnxruntime likes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    # Threads of one session that wait busily would slow the others down.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimise:
        # Optimisations may compute the same thing in another order.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if native:
        register(options)
    return options


def _session(path: Path, inputs: dict[str, Array], **settings: bool) -> Callable[[], Array]:
    """Return a function that runs a model file and returns its first output."""
    import onnxruntime

    options = _options(**settings)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run() -> Array:
        output: Array = session.run(None, inputs)[0]
        return output

    return run


def _timed(runs: Sequence[Callable[[], Array]], rounds: int = 5) -> list[float]:
    """Return the median seconds of each run.

    Rounds go through all of them, as the machine's speed varies.
    """
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for taken, run in zip(seconds, runs, strict=True):
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in seconds]


def _interface(model: ir.Model) -> list[tuple[Any, ...]]:
    values = (*model.graph.inputs, *model.graph.outputs)
    return [(value.name, value.type, value.shape) for value in values]
