"""Probabilities and the labels that belong to them, as rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnx_structdrop.errors import ArgumentError, ArgumentTypeError
from onnx_structdrop.mc.outputs import is_floating, sum_tolerance

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["pairs", "rows_of"]


def pairs(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    class_axis: int = 1,
    ignore: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of probabilities and their labels, checked.

    Parameters
    ----------
    probabilities
        Shape (n, classes), (n, classes, ...) or, with `class_axis` -1, (n, ..., classes); of the
        shape of `labels` for the probabilities of events.
    labels
        Classes from 0, integers of the shape of `probabilities` without the class axis; of events
        0 or 1.
    class_axis
        Axis of the classes.
    ignore
        A label to leave out, such as 255 for the edges of segmentation data.

    Returns
    -------
    rows, labels
        float64 of shape (m, classes), a copy, and int64 of shape (m,).

    Raises
    ------
    ArgumentError
        Shapes do not match, nothing is left, a label is no class; or rows are not finite or no
        probabilities.
    """
    given = np.asarray(probabilities)
    tolerance = sum_tolerance(given.dtype) if is_floating(given) else 1e-3
    if given.shape == np.shape(labels):
        _refuse_one_hot(given, np.asarray(labels), class_axis, tolerance)
        events = given.astype(np.float64)
        given, class_axis = np.stack([1 - events, events], axis=-1), -1
    rows, classes = rows_of(
        given, labels, class_axis=class_axis, ignore=ignore, what="probabilities"
    )
    _refuse_other_than_probabilities(rows, tolerance)
    return rows, classes


def rows_of(
    values: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    class_axis: int,
    ignore: int | None,
    what: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of values of classes and their labels: `pairs` of what need not be probabilities.

    Parameters
    ----------
    what
        What the values are called in messages.
    """
    given, classes = np.asarray(values), np.asarray(labels)
    if not (np.issubdtype(classes.dtype, np.integer) or classes.dtype == bool):
        raise ArgumentError(f"labels are {classes.dtype.name}; allowed are whole numbers from 0")
    if isinstance(class_axis, bool) or not isinstance(class_axis, int | np.integer):
        raise ArgumentTypeError(f"class_axis is {class_axis!r}; a whole number is needed")
    wide = given.astype(np.float64)
    if not -wide.ndim <= class_axis < wide.ndim:
        raise ArgumentError(f"class_axis is {class_axis}, but {what} have shape {given.shape}")
    wide = np.moveaxis(wide, class_axis, -1)
    if wide.shape[:-1] != classes.shape:
        raise ArgumentError(
            f"{what} have shape {given.shape}, labels {classes.shape}; these should be the "
            f"same but for axis {class_axis}, that of the classes"
        )
    rows = wide.reshape(-1, wide.shape[-1])
    classes = classes.astype(np.int64).reshape(-1)
    if ignore is not None:
        rows, classes = rows[classes != ignore], classes[classes != ignore]
    if not len(rows):
        raise ArgumentError("there is nothing to evaluate: no labels")
    if classes.min() < 0 or classes.max() >= rows.shape[1]:
        raise ArgumentError(
            f"labels go from {classes.min()} to {classes.max()}, but there are {rows.shape[1]} "
            "classes, from 0; name one to leave out by ignore"
        )
    broken = int((~np.isfinite(rows)).any(axis=1).sum())
    if broken:
        raise ArgumentError(
            f"{broken} of {len(rows)} rows of {what} are not finite; leave them out, "
            "Statistics.nonfinite tells which"
        )
    return rows.copy(), classes


def _refuse_one_hot(
    given: np.ndarray, labels: np.ndarray, class_axis: int, tolerance: float
) -> None:
    """Refuse labels that would be scored as events, but are classes as rows of 0 and 1."""
    named = isinstance(class_axis, int | np.integer) and -given.ndim <= class_axis < given.ndim
    if (
        not named
        or given.shape[class_axis] < 2
        or not given.size
        or labels.dtype.kind not in "iubf"
    ):
        return
    whole = np.abs(given.astype(np.float64).sum(axis=class_axis) - 1) <= tolerance
    if whole.all() and (labels.sum(axis=class_axis) == 1).all():
        raise ArgumentError(
            f"labels have the shape of the probabilities, {given.shape}, and both sum to 1 along "
            f"axis {class_axis}, as classes do: give labels.argmax(axis={class_axis}); if they are "
            "events all the same, ravel both"
        )


def _refuse_other_than_probabilities(rows: np.ndarray, tolerance: float) -> None:
    low, high = rows.min(), rows.max()
    if low < -tolerance or high > 1 + tolerance:
        raise ArgumentError(
            f"probabilities go from {low:g} to {high:g}; allowed is 0 to 1: are they logits?"
        )
    off = float(np.abs(rows.sum(axis=1) - 1).max())
    if off > tolerance:
        raise ArgumentError(
            f"probabilities sum to 1 but for {off:g}; allowed is {tolerance:g}: is it another "
            "class_axis, or are they events?"
        )
