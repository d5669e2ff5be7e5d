"""Monte-Carlo dropout on the plain onnxruntime: what a network does not know, from its samples."""

from __future__ import annotations

from onnx_structdrop.mc.accumulator import Accumulator
from onnx_structdrop.mc.engine import Plan
from onnx_structdrop.mc.outputs import OutputKind, describe
from onnx_structdrop.mc.result import Result
from onnx_structdrop.mc.sample import Sampler
from onnx_structdrop.mc.split import Split, split
from onnx_structdrop.mc.statistics import Statistics

__all__ = [
    "Accumulator",
    "OutputKind",
    "Plan",
    "Result",
    "Sampler",
    "Split",
    "Statistics",
    "describe",
    "split",
]
