"""Running a benchmark: groups one after the other, each case checked before it is timed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onnx_structdrop.bench.frameworks import find_frameworks
from onnx_structdrop.bench.goals import LARGE, SMALL, Goal, Reached, judge
from onnx_structdrop.bench.sessions import binds_bfloat16
from onnx_structdrop.bench.suites import (
    BLOCK_SIZE,
    RATE,
    Group,
    check_shape,
    function_group,
    smallest_group,
    standard_group,
    sweep,
)
from onnx_structdrop.bench.tensors import Tensors
from onnx_structdrop.bench.timing import Samples, measure
from onnx_structdrop.native import get_library_path, register

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Measured", "Outcome", "run_benchmark"]


@dataclass(frozen=True)
class Measured:
    """A group and its times."""

    group: Group
    samples: Samples


@dataclass(frozen=True)
class Outcome:
    """All that was measured.

    Attributes
    ----------
    suite
        "standard", "functions", or the name of a sweep.
    groups
        In the order of the run.
    reached
        Goals and what was measured of them.
    versions
        Version of each framework, None where it is not installed; empty where none was asked for.
    problems
        Why frameworks, or an element type, were left out.
    """

    suite: str
    groups: list[Measured]
    reached: list[Reached] = field(default_factory=list)
    versions: dict[str, str | None] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


def run_benchmark(
    shapes: Sequence[tuple[int, ...]],
    *,
    threads: int,
    rounds: int,
    swept: str | None = None,
    library: bool = True,
    frameworks: bool = True,
    progress: Callable[[Group, str, float], None] = lambda *_: None,
) -> Outcome:
    """Time the standard suite, a sweep, or the function forms.

    Parameters
    ----------
    shapes
        Shapes of the data.
    threads
        Number of threads of every session.
    rounds
        Number of rounds.
    swept
        A key of `suites.SWEEPS`, or None for the standard suite.
    library
        Whether to time the kernels; without, function forms are timed.
    frameworks
        Whether to time other frameworks too, where they are installed.
    progress
        Told the group, what is being done and the fraction of the work that is done.

    Raises
    ------
    ArgumentError
        A shape cannot be timed.
    NativeLibraryError
        The kernels cannot be used.
    CheckFailedError
        A case did not compute what it should have.
    """
    for shape in shapes:
        check_shape(shape)
    if library:
        _check_library()
    if swept is not None:
        groups = [group for shape in shapes for group in sweep(swept, shape, threads)]
        problems = {}
        if swept == "dtype" and not binds_bfloat16():
            problems["bfloat16"] = "this onnxruntime binds memory of NumPy's own types only"
        measured = [_measured(group, rounds, progress) for group in groups]
        return Outcome(swept, measured, problems=problems)
    outcome = Outcome("standard" if library else "functions", [])
    for shape in shapes:
        made = (standard_group if library else function_group)(shape, threads)
        if frameworks:
            found = find_frameworks(RATE, BLOCK_SIZE, threads, len(shape))
            made.cases.extend(found.cases)
            outcome.versions.update(found.versions)
            outcome.problems.update(found.problems)
        _add(outcome, made, LARGE, threads, rounds, progress)
    if library:
        _add(outcome, smallest_group(threads), SMALL, threads, rounds, progress)
    return outcome


def _add(
    outcome: Outcome,
    group: Group,
    goals: tuple[Goal, ...],
    threads: int,
    rounds: int,
    progress: Callable[[Group, str, float], None],
) -> None:
    measured = _measured(group, rounds, progress)
    outcome.groups.append(measured)
    outcome.reached.extend(judge(goals, measured.samples, group.shape, threads))


def _check_library() -> None:
    import onnxruntime

    get_library_path()
    register(onnxruntime.SessionOptions())


def _measured(
    group: Group,
    rounds: int,
    progress: Callable[[Group, str, float], None],
) -> Measured:
    tensors = Tensors(group.shape)
    calls = {}
    for number, case in enumerate(group.cases):
        progress(group, f"checking {case.label}", 0.2 * number / len(group.cases))
        call = case.make(tensors)
        call.run()
        call.check()
        calls[case.key] = call.run
    samples = measure(
        calls, rounds, progress=lambda done: progress(group, "timing", 0.2 + 0.8 * done)
    )
    return Measured(group, samples)
