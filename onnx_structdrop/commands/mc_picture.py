"""The picture of ``structdrop mc``: which one fits what was sampled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_structdrop.errors import ArgumentError
from onnx_structdrop.mc import metrics
from onnx_structdrop.plot import (
    plot_reliability,
    plot_risk_coverage,
    plot_uncertainty_histogram,
    plot_uncertainty_map,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from onnx_structdrop.mc import Statistics

__all__ = ["finite_images", "fitting", "picture"]

_MAPS = 4
"""Images whose maps are drawn: those that are least certain."""


def fitting(one: Statistics, labels: np.ndarray | None) -> str:
    """Return the kind of picture for an output: its map, with labels its reliability."""
    if one.kind.task == "dense":
        return "map"
    return "histogram" if labels is None else "reliability"


def finite_images(one: Statistics, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the means and labels of the images whose samples are all finite.

    Those of events, which stand each for itself, are flat: nobody has to guess that they are.
    """
    finite = one.nonfinite == 0
    mean, known = one.mean[finite], labels[finite]
    return (mean, known) if one.kind.class_axis is not None else (mean.ravel(), known.ravel())


def picture(
    kind: str,
    one: Statistics,
    *,
    images: Any,
    names: Sequence[str],
    labels: np.ndarray | None,
    title: str,
) -> Figure:
    """Draw an output.

    Parameters
    ----------
    kind
        "map", "histogram", "reliability" or "risk-coverage".
    one
        Statistics of the output.
    images
        What reads some images: called with their places.
    names
        Of the images, empty where they have none.
    labels
        Class of each image or place.
    title
        Headline.

    Raises
    ------
    ArgumentError
        The picture needs labels, classes or a map that are not there.
    """
    title = _plain(title)
    measure, values = _uncertainty(one)
    if labels is not None and kind != "map" and one.nonfinite.all():
        raise ArgumentError(f"every image has samples that are not finite: no picture of {kind}")
    if kind == "map":
        return _map(one, values, measure, images, names, title)
    if kind == "histogram":
        groups = {"images": values} if labels is None else _split(values, _wrong(one, labels), one)
        return plot_uncertainty_histogram(groups, measure, title)
    if labels is None:
        raise ArgumentError(f"a picture of {kind} needs --labels")
    if kind == "risk-coverage":
        finite, wrong = one.nonfinite == 0, _wrong(one, labels)
        curve = metrics.risk_coverage(values[finite], wrong[finite])
        return plot_risk_coverage({f"by {measure}": curve}, title)
    axis = one.kind.class_axis
    mean, known = finite_images(one, labels)
    found = metrics.calibration(mean, known, class_axis=1 if axis is None else axis)
    return plot_reliability(found, title)


def _plain(text: str) -> str:
    """Return a name as Matplotlib shows it literally: no formulas, nothing that has no glyph."""
    shown = "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )
    return shown.replace("$", r"\$")


def _uncertainty(one: Statistics) -> tuple[str, np.ndarray]:
    if one.mutual_information is not None:
        return "mutual information, nats", one.mutual_information
    return "standard deviation", np.sqrt(one.variance)


def _map(
    one: Statistics,
    values: np.ndarray,
    measure: str,
    images: Any,
    names: Sequence[str],
    title: str,
) -> Figure:
    if values.ndim < 3:
        raise ArgumentError(
            f"output {one.kind.name!r} is {one.kind}, one number for each image: it has no map; "
            "draw a histogram"
        )
    order = np.argsort(-np.nan_to_num(values.reshape(len(values), -1).mean(axis=1)))
    places = order[:_MAPS].tolist()
    return plot_uncertainty_map(
        images(places),
        values[places],
        classes=None if one.top_class is None else one.top_class[places],
        titles=[_plain(names[at]) if names else f"image {at}" for at in places],
        measure=measure,
        title=title,
    )


def _wrong(one: Statistics, labels: np.ndarray) -> np.ndarray:
    if one.top_class is None or one.top_class.shape != labels.shape:
        found = "no classes" if one.top_class is None else f"classes of shape {one.top_class.shape}"
        raise ArgumentError(f"labels of shape {labels.shape} do not fit an output with {found}")
    return np.asarray(one.top_class != labels)


def _split(values: np.ndarray, wrong: np.ndarray, one: Statistics) -> dict[str, np.ndarray]:
    finite = one.nonfinite == 0
    values, wrong = values[finite], wrong[finite]
    groups = {"correct": values[~wrong], "wrong": values[wrong]}
    return {name: part for name, part in groups.items() if part.size}
