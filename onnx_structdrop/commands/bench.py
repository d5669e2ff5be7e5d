"""``structdrop bench``: how long the operators take against what else there is."""

from __future__ import annotations

import math
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from onnx_structdrop import bench
from onnx_structdrop.commands.usage import UsageError
from onnx_structdrop.console import (
    message,
    print_json,
    print_line,
    print_table,
    shape_text,
    size_text,
)
from onnx_structdrop.errors import ArgumentError, NativeLibraryError
from onnx_structdrop.plot import check_figure_path, plot_ratios, plot_sweep, save_figure

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from matplotlib.figure import Figure

__all__ = ["run"]

_DEFAULT_SHAPE = (32, 64, 56, 56)
_FEWEST_ROUNDS = 2
_MOST_BYTES = 1 << 32
_BUSY = 0.5


def run(options: argparse.Namespace) -> int:
    """Measure, and print what was measured."""
    shapes, threads = _settings(options)
    surroundings = bench.environment()
    _warn(threads, surroundings)
    try:
        with _progress() as progress:
            outcome = bench.run_benchmark(
                shapes,
                threads=threads,
                rounds=options.rounds,
                swept=options.sweep,
                library=options.library,
                frameworks=options.frameworks,
                progress=progress,
            )
    except NativeLibraryError as error:
        raise NativeLibraryError(
            f"there are no native kernels to time: {error}; "
            "--without-library times the function forms alone"
        ) from error
    for name, problem in outcome.problems.items():
        message(f"left out {name}: {problem}")
    document = bench.document(
        outcome, threads=threads, rounds=options.rounds, surroundings=surroundings
    )
    if options.plot is not None:
        save_figure(_picture(document), options.plot)
        message(f"wrote {options.plot}")
    if options.json:
        print_json(document)
    else:
        _print(outcome, threads)
    return 0


def _settings(options: argparse.Namespace) -> tuple[list[tuple[int, ...]], int]:
    """Return the shapes and the number of threads, or raise what is wrong with the options."""
    if options.rounds < _FEWEST_ROUNDS:
        raise UsageError(f"--rounds is {options.rounds}; a spread needs {_FEWEST_ROUNDS} or more")
    processors = bench.processors()
    threads = min(bench.GOAL_THREADS, processors) if options.threads is None else options.threads
    if options.threads is None and options.sweep == "threads":
        threads = processors
    if not 1 <= threads <= 1024:
        raise UsageError(f"--threads is {threads}; allowed is 1 to 1024")
    if options.sweep == "size" and options.shape:
        raise UsageError("--sweep size goes through shapes of its own; leave out --shape")
    if options.sweep is not None and not options.library:
        raise UsageError("--sweep is about the kernels; leave out --without-library")
    if options.sweep is not None and len(options.shape) > 1:
        raise UsageError("--sweep takes one --shape")
    shapes = [tuple(shape) for shape in options.shape] or [_DEFAULT_SHAPE]
    try:
        for shape in shapes:
            bench.check_shape(shape)
        if options.plot is not None:
            check_figure_path(options.plot)
    except ArgumentError as error:
        raise UsageError(str(error)) from error
    for shape in shapes:
        size = 4 * math.prod(shape)
        if size > _MOST_BYTES:
            raise UsageError(
                f"--shape {shape_text(shape)} is {size_text(size)} of float32; "
                f"allowed is {size_text(_MOST_BYTES)}"
            )
    return shapes, threads


def _warn(threads: int, surroundings: dict[str, Any]) -> None:
    processors, load = surroundings["processors"], surroundings["load"]
    if threads > processors:
        message(f"{threads} threads share {processors} processors: times mean little")
    if load is not None and load > _BUSY * processors:
        message(f"the machine is busy (load {load:g}): look at the quartiles, or run again later")


@contextmanager
def _progress() -> Iterator[Callable[[bench.Group, str, float], None]]:
    """Show a bar on stderr while something runs; nothing where stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f}%"))
    # A bar that redraws itself has a thread, which would be timed too.
    with Progress(
        *columns, console=Console(stderr=True), auto_refresh=False, transient=True
    ) as shown:
        task = shown.add_task("", total=1.0)

        def advance(group: bench.Group, doing: str, done: float) -> None:
            text = f"{shape_text(group.shape)}: {doing}"
            shown.update(task, description=text, completed=done, refresh=True)

        yield advance


def _print(outcome: bench.Outcome, threads: int) -> None:
    for number, measured in enumerate(outcome.groups):
        if number:
            print_line()
        shape = measured.group.shape
        words = "1 thread" if threads == 1 else f"{threads} threads"
        print_table(
            {**bench.CASE_COLUMNS, "": "name"},
            bench.case_rows(measured),
            title=f"{shape_text(shape)}, float32 {size_text(4 * math.prod(shape))}, {words}",
        )
    if outcome.reached:
        print_line()
        print_table(bench.GOAL_COLUMNS, bench.goal_rows(outcome), title="Goals")
        judged = [reached.met for reached in outcome.reached if reached.met is not None]
        if len(judged) < len(outcome.reached):
            print_line(
                f"Goals hold for {bench.GOAL_THREADS} threads, and those for large tensors from "
                f"{size_text(bench.GOAL_BYTES)} of float32 on."
            )
        print_line(f"{sum(judged)} of {len(judged)} goals met by the median.")


def _picture(document: dict[str, Any]) -> Figure:
    if document["suite"] in bench.SWEEPS:
        return plot_sweep(document)
    return plot_ratios(document)
