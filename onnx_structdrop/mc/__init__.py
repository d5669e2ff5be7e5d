"""Monte-Carlo dropout on the plain onnxruntime: what a network does not know, from its samples."""

from __future__ import annotations

from onnx_structdrop.mc.accumulator import Accumulator
from onnx_structdrop.mc.cost import Cost, cost, cost_table
from onnx_structdrop.mc.engine import Plan
from onnx_structdrop.mc.ensemble import ensemble
from onnx_structdrop.mc.metrics import (
    Calibration,
    RiskCoverage,
    accuracy,
    auroc,
    brier,
    calibration,
    ece,
    evaluate,
    nll,
    risk_coverage,
)
from onnx_structdrop.mc.outputs import OutputKind, describe
from onnx_structdrop.mc.ray_data import sample_dataset
from onnx_structdrop.mc.result import Result
from onnx_structdrop.mc.sample import Sampler
from onnx_structdrop.mc.split import Split, split
from onnx_structdrop.mc.statistics import Statistics
from onnx_structdrop.mc.temperature import fit_temperature, softmax

__all__ = [
    "Accumulator",
    "Calibration",
    "Cost",
    "OutputKind",
    "Plan",
    "Result",
    "RiskCoverage",
    "Sampler",
    "Split",
    "Statistics",
    "accuracy",
    "auroc",
    "brier",
    "calibration",
    "cost",
    "cost_table",
    "describe",
    "ece",
    "ensemble",
    "evaluate",
    "fit_temperature",
    "nll",
    "risk_coverage",
    "sample_dataset",
    "softmax",
    "split",
]
