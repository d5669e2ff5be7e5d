"""Masks over feature maps: what a dropout node took away, channel by channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from onnx_structdrop.errors import ArgumentError
from onnx_structdrop.plot.palette import DROPPED, FRAME, INK, MUTED, new_figure, text_width
from onnx_structdrop.plot.panels import Array, Panel, arranged, panels, varies_only_over_samples

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_masks"]

_EDGE = "#6E2F00"
_SEPARATOR = "   ·   "

_CELL = 1.42
_GAP = 0.1
_LEFT, _RIGHT = 0.75, 0.12
_BARS = 0.62
"""Sizes in inches."""


def plot_masks(
    data: npt.ArrayLike,
    mask: npt.ArrayLike,
    output: npt.ArrayLike | None = None,
    *,
    channel_axis: int = 1,
    sample: int | None = None,
    maps: int = 8,
    title: str | None = None,
    nominal: float | None = None,
    expected: float | None = None,
) -> Figure:
    """Draw feature maps before and after dropout, with the dropped cells marked.

    The upper row holds maps as they come in, the lower row as they leave; dropped cells are
    filled and outlined. A strip below shows how much each channel lost.

    Parameters
    ----------
    data
        What went into the node: batch axis first, a channel axis, and any number of spatial axes.
    mask
        True where kept, broadcastable to `data`.
    output
        What came out; by default `data` where kept and 0 elsewhere.
    channel_axis
        Axis of the channels; negative counts from the end.
    sample
        Sample of the batch to draw; by default the one whose loss is nearest to the realised
        rate. Where a mask differs between samples only, as that of DropPath, samples are drawn
        instead of channels.
    maps
        Most maps to draw. At least half of them have dropped cells, if that many do.
    title
        Headline; the rates follow below it.
    nominal, expected
        Nominal rate, and expected dropped fraction, to be stated beside the realised one.

    Returns
    -------
    matplotlib.figure.Figure
        Not known to pyplot.

    Raises
    ------
    ArgumentError
        The arrays do not fit together, or there is nothing to draw.
    """
    values, kept, result = arranged(data, mask, output, channel_axis)
    if sample is None:
        lost = 1 - kept.mean(axis=tuple(range(1, kept.ndim)))
        sample = int(np.abs(lost - lost.mean()).argmin())
    if not 0 <= sample < values.shape[0]:
        raise ArgumentError(f"sample is {sample}; the batch has samples 0 to {values.shape[0] - 1}")
    if maps < 1:
        raise ArgumentError(f"maps is {maps}; at least one map is needed")
    over_samples = varies_only_over_samples(np.asarray(mask))
    shown = panels(values, kept, result, sample, maps, over_samples=over_samples)
    return _draw(shown, kept, sample, title, nominal, expected, over_samples=over_samples)


def _draw(
    panels: list[Panel],
    kept: Array,
    sample: int,
    title: str | None,
    nominal: float | None,
    expected: float | None,
    *,
    over_samples: bool,
) -> Figure:
    lines = panels[0].data.ndim == 1
    height, width = (0.6, 1.0) if lines else panels[0].data.shape
    # Few maps get more room each.
    cell_width = max(_CELL, min(4.2 / len(panels), 3 * _CELL))
    cell_height = min(max(cell_width * height / width, 0.45), 2.6)
    losses = 1 - kept.mean(axis=tuple(range(2, kept.ndim)))
    losses = losses.mean(axis=1) if over_samples else losses[sample]
    bars = _BARS if losses.size > 1 else 0.0
    top = 0.82 if title else 0.55
    sample_shown = "" if over_samples or kept.shape[0] == 1 else f"shown: sample {sample}"
    rates = _SEPARATOR.join(filter(None, [*_rates(nominal, expected, kept), sample_shown]))
    total_width = max(
        _LEFT + len(panels) * cell_width + _RIGHT,
        text_width(title or "", 10.5),
        text_width(rates, 8.5),
    )
    total_height = top + 2 * cell_height + 0.34 + (bars + 0.55 if bars else 0.1)
    figure = new_figure(total_width, total_height)

    def place(column: int, down: float, wide: float, high: float) -> Axes:
        left = _LEFT + column * cell_width
        bottom = total_height - down - high
        return figure.add_axes(
            (left / total_width, bottom / total_height, wide / total_width, high / total_height)
        )

    for column, panel in enumerate(panels):
        bounds = _bounds(panel)
        upper = place(column, top, cell_width - _GAP, cell_height)
        lower = place(column, top + cell_height + 0.12, cell_width - _GAP, cell_height)
        draw = _draw_line if lines else _draw_image
        draw(upper, panel.data, panel.kept, bounds, after=False)
        draw(lower, panel.output, panel.kept, bounds, after=True)
        upper.set_title(panel.label, fontsize=7.5, color=INK, pad=3)
        lower.set_xlabel(
            f"{1 - panel.kept.mean():.0%} dropped", fontsize=7, color=MUTED, labelpad=3
        )
        if column == 0:
            for axes, text in ((upper, "input"), (lower, "output")):
                axes.set_ylabel(text, fontsize=8.5, color=INK, labelpad=4)
    if bars:
        axes = place(0, top + 2 * cell_height + 0.5, total_width - _LEFT - _RIGHT - _GAP, bars)
        _draw_losses(axes, losses, nominal, "sample" if over_samples else "channel")
    _head(figure, total_height, title, rates)
    return figure


def _bounds(panel: Panel) -> tuple[float, float]:
    finite = [array[np.isfinite(array)] for array in (panel.data, panel.output)]
    both = np.concatenate([array.reshape(-1) for array in finite])
    if both.size == 0 or both.min() == both.max():
        centre = float(both[0]) if both.size else 0.0
        return centre, centre + 1.0
    return float(both.min()), float(both.max())


def _draw_image(
    axes: Axes, values: Array, kept: Array, bounds: tuple[float, float], *, after: bool
) -> None:
    axes.imshow(
        values, cmap="Greys", vmin=bounds[0], vmax=bounds[1], interpolation="nearest", aspect="auto"
    )
    if after:
        overlay = np.zeros((*kept.shape, 4))
        overlay[~kept] = _rgba(DROPPED)
        axes.imshow(overlay, interpolation="nearest", aspect="auto")
    _outline(axes, kept, solid=after)
    _bare(axes)


def _rgba(colour: str) -> tuple[float, float, float, float]:
    from matplotlib.colors import to_rgba

    red, green, blue, alpha = to_rgba(colour)
    return red, green, blue, alpha


def _outline(axes: Axes, kept: Array, *, solid: bool) -> None:
    """Draw the border between kept and dropped cells along the edges of the cells."""
    from matplotlib.collections import LineCollection

    dropped = np.pad(~kept, 1)
    segments = [
        ((column - 1.5, row - 0.5), (column - 0.5, row - 0.5))
        for row, column in np.argwhere(dropped[:-1] != dropped[1:])
    ]
    segments += [
        ((column - 0.5, row - 1.5), (column - 0.5, row - 0.5))
        for row, column in np.argwhere(dropped[:, :-1] != dropped[:, 1:])
    ]
    axes.add_collection(
        LineCollection(
            segments,
            colors=_EDGE if solid else DROPPED,
            linewidths=0.7 if solid else 1.1,
            capstyle="projecting",
            clip_on=False,
            zorder=3,
        )
    )


def _draw_line(
    axes: Axes, values: Array, kept: Array, bounds: tuple[float, float], *, after: bool
) -> None:
    for start, stop in _runs(~kept):
        face = DROPPED if after else "none"
        axes.axvspan(start - 0.5, stop - 0.5, facecolor=face, edgecolor=DROPPED, linewidth=0.9)
    # A gap in the line where values are dropped, so that it does not run over the fill.
    shown = np.where(kept, values, np.nan) if after else values
    axes.step(np.arange(values.size), shown, where="mid", color=INK, linewidth=0.8)
    margin = 0.06 * (bounds[1] - bounds[0])
    axes.set_ylim(bounds[0] - margin, bounds[1] + margin)
    axes.set_xlim(-0.5, values.size - 0.5)
    _bare(axes)


def _runs(flags: Array) -> Iterator[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(np.int8), [0]))))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(FRAME)
        spine.set_linewidth(0.6)


def _draw_losses(axes: Axes, losses: Array, nominal: float | None, what: str) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    axes.bar(np.arange(losses.size), losses, width=0.8, color=DROPPED, linewidth=0)
    if nominal is not None:
        axes.axhline(nominal, color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
        axes.annotate(
            "ratio", (0.004, nominal), xycoords=("axes fraction", "data"), xytext=(0, 1.5),
            textcoords="offset points", va="bottom", fontsize=6.5, color=INK,
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none",
                  "alpha": 0.8},
        )  # fmt: skip
    axes.set_xlim(-0.6, losses.size - 0.4)
    axes.set_ylim(0, min(1.0, max(float(losses.max()) * 1.15, (nominal or 0) * 1.6, 0.05)))
    axes.set_ylabel("dropped", fontsize=7.5, color=INK, labelpad=3)
    axes.set_xlabel(what, fontsize=7.5, color=INK, labelpad=2)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.yaxis.set_major_locator(MaxNLocator(2))
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    axes.tick_params(labelsize=6.5, colors=MUTED, length=2, pad=2)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(FRAME)
        spine.set_linewidth(0.6)


def _rates(nominal: float | None, expected: float | None, kept: Array) -> list[str]:
    parts = [] if nominal is None else [f"ratio {nominal:.1%}"]
    parts += [] if expected is None else [f"expected {expected:.1%}"]
    batch = f" (batch of {kept.shape[0]})" if kept.shape[0] > 1 else ""
    return [*parts, f"measured {1 - float(kept.mean()):.1%}{batch}"]


def _head(figure: Figure, height: float, title: str | None, rates: str) -> None:
    line = height - 0.09
    if title:
        figure.text(
            0.012, line / height, title, fontsize=10.5, fontweight="bold", color=INK, va="top"
        )
        line -= 0.26
    figure.text(0.012, line / height, rates, fontsize=8.5, color=MUTED, va="top")
