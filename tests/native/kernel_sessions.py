"""Sessions that run the kernels."""

from __future__ import annotations

from typing import Any

import onnx
import onnxruntime
from one_node import ALL

import onnx_structdrop as sd

BODY_OPS = {"Dropout", "CumSum", "MaxPool", "Where", "Cast", "CastLike", "If", "Pad", "Expand"}
"""Operators that occur in function bodies; none of them is left where a kernel runs."""


def options_of(
    level: Any = ALL, *, threads: int = 1, severity: int = 2
) -> onnxruntime.SessionOptions:
    """Return session options that know the library."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = threads
    options.log_severity_level = severity
    sd.register(options)
    return options


def kernel_session(
    model: onnx.ModelProto | bytes,
    level: Any = ALL,
    *,
    threads: int = 1,
    severity: int = 2,
    options: onnxruntime.SessionOptions | None = None,
) -> onnxruntime.InferenceSession:
    """Return a session of a model with the library registered."""
    serialised = model if isinstance(model, bytes) else model.SerializeToString()
    options = options or options_of(level, threads=threads, severity=severity)
    return onnxruntime.InferenceSession(serialised, options, providers=["CPUExecutionProvider"])


def without_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model that nothing but the library can run."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.functions[:]
    return bare
