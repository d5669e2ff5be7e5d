"""What was measured, as a document and as rows of tables."""

from __future__ import annotations

import math
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_structdrop import __version__
from onnx_structdrop.bench.suites import BLOCK_SIZE, RATE
from onnx_structdrop.errors import NativeLibraryError
from onnx_structdrop.native import simd_level

if TYPE_CHECKING:
    from onnx_structdrop.bench.cases import Case
    from onnx_structdrop.bench.goals import Reached
    from onnx_structdrop.bench.run import Measured, Outcome
    from onnx_structdrop.bench.timing import Spread

__all__ = [
    "CASE_COLUMNS",
    "FORMAT",
    "GOAL_COLUMNS",
    "case_rows",
    "document",
    "environment",
    "goal_rows",
    "processors",
    "verdict",
]

FORMAT = 1
"""Version of the document."""

_MICRO = 1e6


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def environment() -> dict[str, Any]:
    """Return what the times depend on: machine, versions, and how busy the machine is."""
    try:
        simd: str | None = simd_level()
    except NativeLibraryError:
        simd = None
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "processors": processors(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "onnxruntime": metadata.version("onnxruntime"),
        "numpy": metadata.version("numpy"),
        "onnx_structdrop": __version__,
        "simd": simd,
    }


def _processor() -> str:
    """Return the name of the processor, or else of its architecture."""
    # platform.processor() knows it elsewhere; on Linux it returns the architecture or nothing.
    table = Path("/proc/cpuinfo")
    if table.is_file():
        for line in table.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def document(
    outcome: Outcome, *, threads: int, rounds: int, surroundings: dict[str, Any]
) -> dict[str, Any]:
    """Return everything that was measured, ready for JSON.

    Times are seconds per call, overheads microseconds per call, and ratios those to the case that
    ``unit`` names. Each is given by its median and quartiles over the rounds, and as the figure of
    the minima.
    """
    return {
        "format": FORMAT,
        "suite": outcome.suite,
        "settings": {
            "threads": threads, "rounds": rounds, "rate": RATE, "block_size": BLOCK_SIZE
        },
        "environment": surroundings,
        "frameworks": outcome.versions,
        "left_out": outcome.problems,
        "groups": [
            {
                "shape": list(measured.group.shape),
                "bytes": 4 * math.prod(measured.group.shape),
                "cases": [_case(measured, case) for case in measured.group.cases],
            }
            for measured in outcome.groups
        ],
        "goals": [_goal(reached) for reached in outcome.reached],
    }  # fmt: skip


def _case(measured: Measured, case: Case) -> dict[str, Any]:
    samples = measured.samples
    return {
        "key": case.key,
        "title": case.title,
        "element": case.element,
        "threads": case.threads,
        "parameter": case.parameter,
        "is_part": case.is_part,
        "rounds": samples.rounds(case.key),
        "seconds": samples.seconds(case.key)._asdict(),
        "unit": case.unit,
        "ratio": samples.ratio(case.key, case.unit)._asdict(),
        "overhead": {
            name: _MICRO * value
            for name, value in samples.excess(case.key, case.unit)._asdict().items()
        },
    }


def _goal(reached: Reached) -> dict[str, Any]:
    goal = reached.goal
    return {
        "title": goal.title,
        "shape": list(reached.shape),
        "case": goal.case,
        "other": goal.other,
        "less": goal.less,
        "kind": "overhead" if goal.difference else "ratio",
        "limit": goal.limit,
        "at_least": goal.at_least,
        "measured": reached.figure._asdict(),
        "met": reached.met,
    }


CASE_COLUMNS = {
    "": "left",
    "time": "right",
    "x Mul": "right",
    "quartiles": "right",
    "of minima": "right",
    "over Mul": "right",
    "rounds": "right",
}
GOAL_COLUMNS = {
    "goal": "left",
    "measured": "right",
    "quartiles": "right",
    "of minima": "right",
    "asked": "right",
    "": "left",
}
"""Columns of the tables: header and side."""


def case_rows(measured: Measured) -> list[tuple[object, ...]]:
    """Return a row of `CASE_COLUMNS` for each case of a group."""
    samples = measured.samples
    rows: list[tuple[object, ...]] = []
    for case in measured.group.cases:
        ratio = samples.ratio(case.key, case.unit)
        extra = samples.excess(case.key, case.unit).median
        name = case.title if case.parameter is not None else case.label
        rows.append(
            (
                name if case.parameter is None else f"{name} @ {case.parameter}",
                _time(samples.seconds(case.key).median),
                _number(ratio.median),
                f"{_number(ratio.lower)} - {_number(ratio.upper)}",
                _number(ratio.of_minima),
                None if case.key == case.unit else _time(extra, sign="+"),
                samples.rounds(case.key),
            )
        )
    return rows


def goal_rows(outcome: Outcome) -> list[tuple[object, ...]]:
    """Return a row of `GOAL_COLUMNS` for each goal."""
    return [
        (
            f"{reached.goal.title} ({_shape(reached)})",
            _number(reached.figure.median),
            f"{_number(reached.figure.lower)} - {_number(reached.figure.upper)}",
            _number(reached.figure.of_minima),
            reached.goal.asked,
            verdict(reached),
        )
        for reached in outcome.reached
    ]


def verdict(reached: Reached) -> str:
    """Return what became of a goal, in words.

    The median decides. On a busy machine the quartiles may lie on both sides of the bound; then
    the word says so.
    """
    if reached.met is None:
        return "not judged"
    goal, figure = reached.goal, reached.figure
    clear = goal.is_met(_at(figure, figure.lower)) == goal.is_met(_at(figure, figure.upper))
    return ("met" if reached.met else "missed") + ("" if clear else ", within the spread")


def _at(figure: Spread, value: float) -> Spread:
    return figure._replace(median=value)


def _shape(reached: Reached) -> str:
    return ",".join(map(str, reached.shape))


def _time(seconds: float, *, sign: str = "") -> str:
    if abs(seconds) < 1e-3:
        return f"{seconds * 1e6:{sign}.2f} µs"
    return f"{seconds * 1e3:{sign},.2f} ms"


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"
