"""Timing the operators against what else there is.

Everything is timed in one process, in interleaved rounds of random order, on memory that is bound
beforehand. Figures are ratios taken within a round: the speed of a machine drifts, ratios less.
"""

from __future__ import annotations

from onnx_structdrop.bench.goals import GOAL_BYTES, GOAL_THREADS
from onnx_structdrop.bench.report import (
    CASE_COLUMNS,
    GOAL_COLUMNS,
    case_rows,
    document,
    environment,
    goal_rows,
    processors,
)
from onnx_structdrop.bench.run import Measured, Outcome, run_benchmark
from onnx_structdrop.bench.suites import SWEEPS, Group, check_shape

__all__ = [
    "CASE_COLUMNS",
    "GOAL_BYTES",
    "GOAL_COLUMNS",
    "GOAL_THREADS",
    "SWEEPS",
    "Group",
    "Measured",
    "Outcome",
    "case_rows",
    "check_shape",
    "document",
    "environment",
    "goal_rows",
    "processors",
    "run_benchmark",
]
