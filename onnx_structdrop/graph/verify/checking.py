"""The numeric check of two models."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from onnx_structdrop.errors import ArgumentError, ArgumentTypeError
from onnx_structdrop.graph.convert import as_ir
from onnx_structdrop.graph.io import load
from onnx_structdrop.graph.verify.comparison import Comparison
from onnx_structdrop.graph.verify.sessions import Limits, one_at_a_time
from onnx_structdrop.specs import arguments

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    from onnx_structdrop.graph.verify.report import VerifyReport

__all__ = ["verify"]

_MOST_SAMPLES = 1000


def verify(
    original: onnx.ModelProto | ir.Model | str | os.PathLike[str],
    rewritten: onnx.ModelProto | ir.Model | str | os.PathLike[str],
    *,
    samples: int = 3,
    seed: int = 0,
    tolerance: float | None = None,
    inference: bool = False,
    max_weights: int = 1 << 30,
    timeout: float = 120.0,
) -> VerifyReport:
    """Check by running them in onnxruntime whether two models compute the same.

    Inputs are made up from what the original says about them; free sizes are chosen so that it
    runs. Outputs that hang on live randomness in either model are not compared, and the report
    says so.

    Parameters
    ----------
    original, rewritten
        Models of either kind, or paths of files. They are not changed.
    samples
        How many sets of inputs. They differ in their sizes where the model leaves those open,
        and the second has larger values where the model takes them: rounding may grow with them
        there. Where there are scalars, two more sets have them at 0 and at 1. Inputs with a
        default keep it.
    seed
        Seed of the inputs.
    tolerance
        Largest difference of a value over its scale that counts as equal; 0 asks for equality
        bit for bit. The scale is the size of the value, or what is typical of the values around
        it, so that a few huge ones hide nothing. By default 1e-9 for float64, 1e-4 for float32,
        1e-2 for float16 and 8e-2 for bfloat16. Other types are always compared exactly.
    inference
        Compare with the original in inference form: dropout and batch normalisation out of
        training mode, generators held at what drops nothing: masks that are multiplied with at
        their expectation, block masks that scale themselves at "all kept". An output that hangs
        on a generator used in other ways counts as not comparable; so does one that hangs on
        any generator and differs, since the check itself may be at fault then.
    max_weights
        Models whose weights take more bytes are not run.
    timeout
        Seconds that onnxruntime may take for loading a model, and for a run.

    Returns
    -------
    VerifyReport
        Nothing is raised for a difference, nor for a model that onnxruntime cannot run.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument is out of range or of the wrong type.
    ModelError
        If a model is broken, or a file cannot be read.
    """
    samples, seed, tolerance = _checked(samples, seed, tolerance)
    limits = Limits(max_weights, timeout)
    comparison = Comparison(_model(original), _model(rewritten), tolerance, inference, limits)
    with one_at_a_time():
        return comparison.run(samples, seed)


def _model(model: onnx.ModelProto | ir.Model | str | os.PathLike[str]) -> ir.Model:
    return load(model) if isinstance(model, str | os.PathLike) else as_ir(model)


def _checked(samples: int, seed: int, tolerance: float | None) -> tuple[int, int, float | None]:
    if isinstance(samples, bool) or not isinstance(samples, int):
        raise ArgumentTypeError(f"verify: samples must be an integer, not {samples!r}")
    if not 1 <= samples <= _MOST_SAMPLES:
        raise ArgumentError(f"verify: samples is {samples}, must be from 1 to {_MOST_SAMPLES}")
    checked = arguments.seed(seed, "verify")
    if checked is None:
        raise ArgumentTypeError("verify: seed must be an integer, not None")
    if tolerance is None:
        return samples, checked, None
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float):
        raise ArgumentTypeError(f"verify: tolerance must be a number, not {tolerance!r}")
    if not 0 <= tolerance < math.inf:
        raise ArgumentError(f"verify: tolerance is {tolerance}, must be 0 or a positive number")
    return samples, checked, float(tolerance)
