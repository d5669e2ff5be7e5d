"""Temperature scaling: softmax of logits divided by one number, fitted on labelled images.

Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", 2017. It costs nothing
at inference and changes no prediction: what to try before Monte-Carlo dropout.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_structdrop.errors import ArgumentError, DependencyError
from onnx_structdrop.mc.labelled import rows_of
from onnx_structdrop.mc.outputs import sum_tolerance

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["TEMPERATURES", "fit_temperature", "softmax"]

TEMPERATURES = (0.01, 100.0)
"""Where the temperature is looked for."""


def softmax(
    logits: npt.ArrayLike, temperature: float = 1.0, *, class_axis: int = 1
) -> npt.NDArray[np.float64]:
    """Return the probabilities exp(z / T) / sum exp(z / T) of logits z.

    Parameters
    ----------
    logits
        Of any shape with classes on `class_axis`.
    temperature
        T, above 0; above 1 it makes the network less sure.

    Raises
    ------
    ArgumentError
        The temperature is not above 0, or there is no such axis.
    """
    if not 0 < temperature < float("inf"):
        raise ArgumentError(f"the temperature is {temperature}; allowed is a number above 0")
    scores = np.asarray(logits, np.float64)
    if not -scores.ndim <= class_axis < scores.ndim:
        raise ArgumentError(f"class_axis is {class_axis}, but logits have shape {scores.shape}")
    below = (scores - scores.max(axis=class_axis, keepdims=True)) / temperature
    powers: npt.NDArray[np.float64] = np.exp(below)
    powers /= powers.sum(axis=class_axis, keepdims=True)
    return powers


def fit_temperature(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    class_axis: int = 1,
    ignore: int | None = None,
) -> float:
    """Return the temperature at which labelled logits have the least negative log-likelihood.

    Fit it on images that the network was not trained on. The likelihood has one maximum, being
    concave in 1/T.

    Parameters
    ----------
    logits
        Shape (n, classes), or of a map with the classes on `class_axis`.
    labels
        Classes from 0, integers of the shape of `logits` without the class axis.
    class_axis
        Axis of the classes.
    ignore
        A label to leave out.

    Raises
    ------
    ArgumentError
        Shapes do not match, logits are not finite or are probabilities, or the best temperature is
        not within `TEMPERATURES`: so it is where every row is right, and the surer the better, or
        where logits say nothing about labels.
    DependencyError
        SciPy is not installed.
    """
    rows, classes = rows_of(logits, labels, class_axis=class_axis, ignore=ignore, what="logits")
    if (rows >= 0).all() and (np.abs(rows.sum(axis=1) - 1) <= sum_tolerance(rows.dtype)).all():
        raise ArgumentError(
            "logits are from 0 to 1 and sum to 1: these are probabilities, give numpy.log of them"
        )
    below = rows - rows.max(axis=1, keepdims=True)
    label = below[np.arange(len(below)), classes]

    def loss(log_temperature: float) -> float:
        inverse = np.exp(-log_temperature)
        return float((np.log(np.exp(below * inverse).sum(axis=1)) - label * inverse).mean())

    low, high = np.log(TEMPERATURES)
    found = _scipy().minimize_scalar(
        loss, bounds=(low, high), method="bounded", options={"xatol": 1e-8}
    )
    margin = 1e-3 * (high - low)
    if not low + margin < found.x < high - margin:
        right = float((rows.argmax(axis=1) == classes).mean())
        raise ArgumentError(
            f"no temperature from {TEMPERATURES[0]:g} to {TEMPERATURES[1]:g} is best: of "
            f"{len(rows)} labels the logits get {100 * right:.1f} % right; fit it on more or other "
            "rows, some of them wrong"
        )
    return float(np.exp(found.x))


def _scipy() -> Any:
    try:
        return importlib.import_module("scipy.optimize")
    except ImportError as error:
        raise DependencyError(
            f"temperatures are fitted by SciPy, which is not installed ({error}): pip install scipy"
        ) from error
