"""Uncertainty: how well confidence fits, whom a measure tells apart, what leaving out gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnx_structdrop.errors import ArgumentError
from onnx_structdrop.plot.palette import FRAME, INK, KINDS, MUTED, OTHER_KIND, headline, new_figure

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from onnx_structdrop.mc.metrics import Calibration, RiskCoverage

__all__ = [
    "plot_reliability",
    "plot_risk_coverage",
    "plot_uncertainty_histogram",
]

_COLOURS = (*(kind.colour for kind in KINDS.values()), OTHER_KIND.colour)
_FITS = "#0072B2"
_GAP = "#D55E00"
_MOST_GROUPS = len(_COLOURS)
_MOST_POINTS = 2000


def plot_reliability(found: Calibration, title: str = "") -> Figure:
    """Draw accuracy against confidence, bin by bin, over how many predictions each bin has.

    Parameters
    ----------
    found
        What `onnx_structdrop.mc.calibration` returns.
    title
        Headline of the picture.

    Returns
    -------
    matplotlib.figure.Figure
        Not known to pyplot.
    """
    figure = new_figure(4.6, 5.2)
    axes, counts = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (4, 1)})
    left, width = found.edges[:-1], np.diff(found.edges)
    full = found.count > 0
    middle = np.where(full, found.confidence, left + width / 2)
    accuracy = np.where(full, found.accuracy, 0.0)
    axes.plot((0, 1), (0, 1), color=MUTED, linewidth=0.9, linestyle=(0, (4, 2)), zorder=3)
    axes.bar(
        left[full], accuracy[full], width[full], align="edge", color=_FITS, alpha=0.75,
        edgecolor="white", linewidth=0.6, label="accuracy",
    )  # fmt: skip
    axes.vlines(
        middle[full], accuracy[full], middle[full], color=_GAP, linewidth=2.2, zorder=4,
        label="gap to confidence",
    )  # fmt: skip
    axes.set_ylim(0, 1)
    axes.set_xlim(0, 1)
    axes.set_ylabel("accuracy", color=INK, fontsize=9)
    axes.legend(loc="upper left", fontsize=8, frameon=False, labelcolor=INK)
    axes.text(
        0.97, 0.05, f"ECE {100 * found.ece:.1f} %\nMCE {100 * found.mce:.1f} %",
        transform=axes.transAxes, ha="right", va="bottom", fontsize=8.5, color=INK,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2},
    )  # fmt: skip
    share = 100 * found.count / found.count.sum()
    counts.bar(left, share, width, align="edge", color=MUTED, edgecolor="white", linewidth=0.6)
    counts.set_ylabel("images, %", color=INK, fontsize=9)
    counts.set_xlabel("confidence in the top class", color=INK, fontsize=9)
    for one in (axes, counts):
        _plain(one)
    headline(figure, title)
    figure.subplots_adjust(
        left=0.14, right=0.96, top=0.93 if title else 0.97, bottom=0.09, hspace=0.1
    )
    return figure


def plot_uncertainty_histogram(
    groups: Mapping[str, npt.ArrayLike],
    measure: str = "uncertainty",
    title: str = "",
    bins: int = 30,
) -> Figure:
    """Draw how an uncertainty is distributed over groups of predictions.

    Parameters
    ----------
    groups
        Uncertainties by the name of their group, such as "correct" and "wrong", or "in
        distribution" and "out of distribution"; one to six, of any shapes. What is not finite is
        left out, and counted in the legend.
    measure
        What the axis says, such as "mutual information, nats".
    title
        Headline of the picture.
    bins
        Number of bars.

    Returns
    -------
    matplotlib.figure.Figure
        Not known to pyplot.

    Raises
    ------
    ArgumentError
        There are no groups or more than six, a group has no finite number, or `bins` is below 1.
    """
    if bins < 1:
        raise ArgumentError(f"bins is {bins}; allowed is 1 or more")
    if not 0 < len(groups) <= _MOST_GROUPS:
        raise ArgumentError(
            f"there are {len(groups)} groups to draw; allowed is 1 to {_MOST_GROUPS}"
        )
    finite: dict[str, np.ndarray] = {}
    labels = []
    for name, given in groups.items():
        values = np.asarray(given, np.float64).reshape(-1)
        finite[name] = values[np.isfinite(values)]
        if not finite[name].size:
            raise ArgumentError(f"the group {name!r} has no finite number to draw")
        missing = values.size - finite[name].size
        labels.append(
            f"{name} ({finite[name].size:,})" + (f", {missing:,} not finite" if missing else "")
        )
    low = min(0.0, *(float(one.min()) for one in finite.values()))
    high = max(float(one.max()) for one in finite.values())
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    figure = new_figure(6.0, 3.4)
    axes = figure.subplots()
    for colour, label, values in zip(_COLOURS, labels, finite.values(), strict=False):
        share = 100 * np.histogram(values, edges)[0] / values.size
        axes.stairs(share, edges, fill=True, color=colour, alpha=0.22)
        axes.stairs(share, edges, color=colour, linewidth=1.4, label=label)
        axes.axvline(float(np.median(values)), color=colour, linewidth=1, linestyle=(0, (3, 2)))
    axes.set_xlabel(f"{measure} (dashed: median)", color=INK, fontsize=9)
    axes.set_ylabel("share of the group, %", color=INK, fontsize=9)
    axes.set_xlim(edges[0], edges[-1])
    # Medians must not cross out what the legend says.
    axes.legend(
        loc="upper right", fontsize=8, labelcolor=INK,
        facecolor="white", edgecolor="none", framealpha=0.9,
    )  # fmt: skip
    _plain(axes)
    headline(figure, title)
    figure.subplots_adjust(left=0.1, right=0.97, top=0.9 if title else 0.96, bottom=0.15)
    return figure


def plot_risk_coverage(curves: Mapping[str, RiskCoverage], title: str = "") -> Figure:
    """Draw the share of wrong predictions among those that are kept, the least uncertain first.

    Parameters
    ----------
    curves
        What `onnx_structdrop.mc.risk_coverage` returns, by name; one to six.
    title
        Headline of the picture.

    Returns
    -------
    matplotlib.figure.Figure
        Not known to pyplot.

    Raises
    ------
    ArgumentError
        There are no curves, or more than six.
    """
    if not 0 < len(curves) <= _MOST_GROUPS:
        raise ArgumentError(
            f"there are {len(curves)} curves to draw; allowed is 1 to {_MOST_GROUPS}"
        )
    figure = new_figure(6.6, 3.6)
    axes = figure.subplots()
    for colour, (name, curve) in zip(_COLOURS, curves.items(), strict=False):
        # Of a million predictions, more points than the picture has pixels say nothing.
        some = np.linspace(0, len(curve.risk) - 1, min(len(curve.risk), _MOST_POINTS)).astype(int)
        axes.plot(
            100 * curve.coverage[some], 100 * curve.risk[some], color=colour, linewidth=1.5,
            label=f"{name}\nAURC {100 * curve.area:.2f} %",
        )  # fmt: skip
    axes.set_xlabel("coverage: least uncertain predictions that are kept, %", color=INK, fontsize=9)
    axes.set_ylabel("risk: of these, wrong, %", color=INK, fontsize=9)
    axes.set_xlim(0, 100)
    highest = max(100 * float(curve.risk.max()) for curve in curves.values())
    axes.set_ylim(0, 1.08 * highest if highest else 1)
    axes.legend(
        loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8, frameon=False, labelcolor=INK
    )
    _plain(axes)
    headline(figure, title)
    figure.subplots_adjust(left=0.1, right=0.74, top=0.9 if title else 0.96, bottom=0.14)
    return figure


def _plain(axes: Axes) -> None:
    axes.tick_params(labelsize=8, colors=MUTED)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_color(FRAME)
