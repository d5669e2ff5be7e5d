"""How a training run went: loss, the ratios that the schedule set, and accuracy over the steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_structdrop.errors import ArgumentError
from onnx_structdrop.plot.palette import FRAME, INK, KINDS, MUTED, OTHER_KIND, new_figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_curves"]

_COLOURS = (*(kind.colour for kind in KINDS.values()), OTHER_KIND.colour)
_LOSS = "#0072B2"


def plot_curves(document: Mapping[str, Any], title: str = "") -> Figure:
    """Draw loss, ratios and accuracy of a run over its steps, one below the other.

    Parameters
    ----------
    document
        What `onnx_structdrop.training.History.to_dict` returns: ``steps`` and ``loss``, one entry
        for each step; ``ratios``, a list for each name, in step with them; ``evaluations``, a list
        of entries with ``step`` and a fraction from 0 to 1 for each set of images.
    title
        Headline of the picture.

    Returns
    -------
    matplotlib.figure.Figure
        Not known to pyplot.

    Raises
    ------
    ArgumentError
        There is no step to draw.
    """
    steps = document["steps"]
    if not steps:
        raise ArgumentError("there is nothing to draw: the run has no step")
    figure = new_figure(7.0, 5.6)
    axes = figure.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": (2.2, 1.0, 2.0)})
    _draw_loss(axes[0], steps, document["loss"])
    _draw_ratios(axes[1], steps, document["ratios"])
    _draw_accuracy(axes[2], document["evaluations"])
    axes[-1].set_xlabel("step", color=INK, fontsize=9)
    axes[-1].set_xlim(steps[0], max(steps[-1], steps[0] + 1))
    for one in axes:
        one.tick_params(labelsize=8, colors=MUTED)
        one.grid(alpha=0.25, linewidth=0.5)
        for side in one.spines.values():
            side.set_color(FRAME)
    if title:
        figure.suptitle(title, fontsize=10.5, fontweight="bold", color=INK, x=0.02, ha="left")
    figure.subplots_adjust(left=0.1, right=0.78, top=0.93, bottom=0.09, hspace=0.14)
    return figure


def _draw_loss(axes: Axes, steps: Sequence[int], loss: Sequence[float]) -> None:
    values = np.asarray(loss, float)
    width = max(1, min(len(values) // 20, 25))
    axes.plot(steps, values, color=_LOSS, alpha=0.3, linewidth=0.8)
    if width > 1:
        # A step's loss jumps with its batch; the mean of the last few shows where it goes.
        sums = np.cumsum(np.concatenate(([0.0], values)))
        first = np.maximum(np.arange(1, len(values) + 1) - width, 0)
        means = (sums[1:] - sums[first]) / (np.arange(1, len(values) + 1) - first)
        axes.plot(steps, means, color=_LOSS, linewidth=1.6, label=f"mean of {width} steps")
        _legend(axes)
    axes.set_ylabel("training loss", color=INK, fontsize=9)
    axes.set_ylim(bottom=0)


def _draw_ratios(axes: Axes, steps: Sequence[int], ratios: Mapping[str, Sequence[float]]) -> None:
    # Ratios that take the same course are one line.
    courses: dict[tuple[float, ...], list[str]] = {}
    for name, course in ratios.items():
        courses.setdefault(tuple(course), []).append(name)
    for colour, (course, names) in zip(_COLOURS, courses.items(), strict=False):
        axes.plot(steps, course, color=colour, linewidth=1.4, label=", ".join(names))
    axes.set_ylabel("ratio", color=INK, fontsize=9)
    axes.set_ylim(bottom=0)
    if courses:
        _legend(axes)


def _draw_accuracy(axes: Axes, evaluations: Sequence[Mapping[str, Any]]) -> None:
    names = [name for name in (evaluations[0] if evaluations else {}) if name != "step"]
    at = [entry["step"] for entry in evaluations]
    for colour, name in zip(_COLOURS, names, strict=False):
        values = [100 * entry[name] for entry in evaluations]
        axes.plot(at, values, color=colour, marker="o", markersize=3, linewidth=1.2, label=name)
    axes.set_ylabel("accuracy, %", color=INK, fontsize=9)
    if names:
        _legend(axes)


def _legend(axes: Axes) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=7.5, frameon=False)
