"""What ``structdrop bench`` measured: ratios as bars, sweeps as curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnx_structdrop.errors import ArgumentError
from onnx_structdrop.plot.palette import FRAME, INK, KINDS, MUTED, OTHER_KIND, new_figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_ratios", "plot_sweep"]

_STYLES = (*KINDS.values(), OTHER_KIND)
_DOT = "#0072B2"
_GOAL = "#D55E00"
_AXES = {
    "size": "bytes of data, float32",
    "rate": "rate",
    "block": "block size",
    "threads": "threads",
    "dtype": "element type",
}
_ROW, _AROUND, _HEAD = 0.21, 0.78, 0.3
"""Heights of a row, around the rows of a group, and of the headline, in inches."""

_SMALL = 1_000_000
_LOGARITHMIC = ("size", "rate")


def plot_ratios(document: Mapping[str, Any]) -> Figure:
    """Draw how long each case takes as a multiple of onnxruntime's Mul.

    Dots are medians, lines go from quartile to quartile over the rounds, ticks are goals. On small
    tensors the difference is drawn, in microseconds per call.

    Parameters
    ----------
    document
        What ``structdrop bench --json`` prints, of the standard suite or of the function forms.

    Returns
    -------
    matplotlib.figure.Figure
        Not known to pyplot.

    Raises
    ------
    ArgumentError
        The document is that of a sweep.
    """
    if document["suite"] in _AXES:
        raise ArgumentError(f"the sweep of {document['suite']} is drawn by plot_sweep")
    groups = document["groups"]
    heights = [_ROW * len(_compared(group)) + _AROUND for group in groups]
    total = sum(heights) + _HEAD
    figure = new_figure(8.6, total)
    down = _HEAD
    for group, height in zip(groups, heights, strict=True):
        bottom = total - down - height + 0.42
        axes = figure.add_axes((0.34, bottom / total, 0.63, (height - _AROUND) / total))
        _draw_ratios(axes, group, _limits(document, group))
        down += height
    count = document["settings"]["threads"]
    figure.text(
        0.012,
        1 - 0.09 / total,
        f"Time against onnxruntime's Mul, {count} thread{'s' if count > 1 else ''}",
        fontsize=10.5,
        fontweight="bold",
        color=INK,
        va="top",
    )
    return figure


def _compared(group: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [case for case in group["cases"] if case["key"] != case["unit"] and not case["is_part"]]


def _limits(document: Mapping[str, Any], group: Mapping[str, Any]) -> dict[str, float]:
    """Return the bound of each case that has one against the unit."""
    kind = _figure_of(group)
    return {
        goal["case"]: goal["limit"]
        for goal in document["goals"]
        if goal["shape"] == group["shape"]
        and goal["kind"] == kind
        and goal["met"] is not None
        and any(case["unit"] == goal["other"] for case in group["cases"])
    }


def _figure_of(group: Mapping[str, Any]) -> str:
    """Return what says more: on small tensors the difference, on large ones the ratio."""
    return "overhead" if group["bytes"] < _SMALL else "ratio"


def _draw_ratios(axes: Axes, group: Mapping[str, Any], limits: Mapping[str, float]) -> None:
    cases = _compared(group)
    kind = _figure_of(group)
    spreads = [case[kind] for case in cases]
    for row, (case, spread) in enumerate(zip(cases, spreads, strict=True)):
        axes.plot(
            (spread["lower"], spread["upper"]), (row, row), color=_DOT, linewidth=2, alpha=0.5
        )
        axes.plot(spread["median"], row, "o", color=_DOT, markersize=4.5)
        axes.annotate(
            f"{spread['median']:.3g}",
            (spread["upper"], row),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
            color=INK,
        )
        if case["key"] in limits:
            at = limits[case["key"]]
            axes.plot((at, at), (row - 0.38, row + 0.38), color=_GOAL, linewidth=1.8)
    highest = max([spread["upper"] for spread in spreads] + list(limits.values()))
    neutral = 1.0 if kind == "ratio" else 0.0
    axes.axvline(neutral, color=MUTED, linewidth=0.8, linestyle=(0, (4, 2)), zorder=0)
    if kind == "ratio":
        lowest = min(spread["lower"] for spread in spreads)
        axes.set_xscale("log")
        axes.set_xlim(max(min(lowest, 1) * 0.8, 1e-3), max(highest, 1) * 1.6)
    else:
        axes.set_xlim(right=highest * 1.15)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_ylim(len(cases) - 0.4, -0.6)
    axes.set_yticks(range(len(cases)), [_label(case) for case in cases])
    shape = "\N{MULTIPLICATION SIGN}".join(map(str, group["shape"]))
    unit = "multiple of Mul's time" if kind == "ratio" else "µs per call over Mul"
    note = ", line: quartiles" + (", tick: goal" if limits else "")
    axes.set_title(f"{shape} · {unit}{note}", fontsize=8.5, color=MUTED, loc="left", pad=4)
    _plain(axes)


def _label(case: Mapping[str, Any]) -> str:
    own = case["element"]
    return str(case["title"]) if own == "float32" else f"{case['title']}, {own}"


def plot_sweep(document: Mapping[str, Any]) -> Figure:
    """Draw a sweep: a curve for each case, with a band between the quartiles.

    Parameters
    ----------
    document
        What ``structdrop bench --sweep NAME --json`` prints.

    Returns
    -------
    matplotlib.figure.Figure
        Not known to pyplot.

    Raises
    ------
    ArgumentError
        The document is not that of a sweep.
    """
    name = document["suite"]
    if name not in _AXES:
        raise ArgumentError(f"the {name} suite is no sweep; plot_ratios draws it")
    curves = _curves(document)
    panels = {
        "size": ("overhead", "ratio"),
        "threads": ("ratio", "speed"),
    }.get(name, ("ratio",))
    figure = new_figure(0.6 + 5.0 * len(panels), 4.4)
    for number, panel in enumerate(panels):
        width = 1 / len(panels)
        left = 0.12 if len(panels) == 1 else number * width + 0.075
        axes = figure.add_axes((left, 0.12, 0.84 if len(panels) == 1 else width - 0.1, 0.72))
        _draw_panel(axes, name, panel, curves)
        if number == len(panels) - 1:
            # The last panel has every curve that the others have; above it, none is hidden.
            figure.legend(
                *axes.get_legend_handles_labels(),
                loc="upper left",
                bbox_to_anchor=(0.0, 0.935),
                ncols=6,
                fontsize=7,
                frameon=False,
                labelcolor=INK,
                columnspacing=1.2,
                handlelength=1.6,
            )
    figure.text(
        0.012, 0.98, _headline(document), fontsize=10.5, fontweight="bold", color=INK, va="top"
    )
    return figure


def _headline(document: Mapping[str, Any]) -> str:
    name, settings = document["suite"], document["settings"]
    count = settings["threads"]
    words = [] if name == "threads" else [f"{count} thread{'s' if count > 1 else ''}"]
    if name != "size":
        words.append("\N{MULTIPLICATION SIGN}".join(map(str, document["groups"][0]["shape"])))
    return f"Cost against {_AXES[name].partition(',')[0]} · {', '.join(words)}"


def _curves(document: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    curves: dict[str, list[Mapping[str, Any]]] = {}
    for group in document["groups"]:
        for case in group["cases"]:
            if case["parameter"] is not None:
                curves.setdefault(case["title"], []).append(case)
    return curves


def _draw_panel(
    axes: Axes, name: str, panel: str, curves: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    for number, (title, cases) in enumerate(curves.items()):
        is_unit = cases[0]["key"] == cases[0]["unit"]
        if is_unit and panel != "speed":
            continue
        if panel == "overhead":
            cases = [case for case in cases if case["parameter"] <= _SMALL]
        if not cases:
            continue
        style = _STYLES[number % len(_STYLES)]
        colour = MUTED if is_unit else style.colour
        ticks = [case["parameter"] for case in cases]
        places = ticks if name in _LOGARITHMIC else [str(tick) for tick in ticks]
        middle, low, high = zip(*(_figures(case, cases[0], panel) for case in cases), strict=True)
        axes.plot(
            places,
            middle,
            # There is nothing between two element types.
            linestyle="none" if name == "dtype" else "-",
            color=colour,
            marker=style.marker,
            markersize=4,
            linewidth=1.2,
            label=title,
        )
        if name == "dtype":
            axes.vlines(places, low, high, color=colour, alpha=0.5)
        else:
            axes.fill_between(places, low, high, color=colour, alpha=0.18, linewidth=0)
    if panel == "overhead":
        axes.axhline(0, color=MUTED, linewidth=0.8, linestyle=(0, (4, 2)), zorder=0)
        axes.set_yscale("symlog", linthresh=1)
        axes.set_ylabel("µs per call over Mul", fontsize=8, color=INK)
    elif panel == "ratio":
        axes.axhline(1, color=MUTED, linewidth=0.8, linestyle=(0, (4, 2)), zorder=0)
        if name in ("size", "block"):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
        else:
            axes.set_ylim(bottom=0)
        axes.set_ylabel("multiple of Mul's time", fontsize=8, color=INK)
    else:
        axes.set_ylim(bottom=0)
        axes.set_ylabel("speed against one thread", fontsize=8, color=INK)
    if name == "size":
        axes.set_xscale("log", base=2)
    elif name in _LOGARITHMIC:
        axes.set_xscale("log")
    axes.set_xlabel(_AXES[name], fontsize=8, color=INK)
    _plain(axes)


def _figures(
    case: Mapping[str, Any], first: Mapping[str, Any], panel: str
) -> tuple[float, float, float]:
    """Return what is drawn of a case: the median and the quartiles."""
    if panel == "speed":
        speed = first["seconds"]["median"] / case["seconds"]["median"]
        return speed, speed, speed
    spread = case[panel]
    return spread["median"], spread["lower"], spread["upper"]


def _plain(axes: Axes) -> None:
    axes.tick_params(labelsize=7, colors=INK, length=2)
    axes.grid(visible=True, which="major", axis="both", color=FRAME, alpha=0.2, linewidth=0.5)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(FRAME)
        spine.set_linewidth(0.6)
