"""The block diagram of a model: stages, blocks, and the sites where dropout can go."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from onnx_structdrop.errors import SiteError
from onnx_structdrop.graph.inspect import inspect
from onnx_structdrop.graph.sites import Site, find_sites
from onnx_structdrop.plot.arrangement import Block, Row, Stage, rows, size_text, stage_text
from onnx_structdrop.plot.palette import (
    FRAME,
    INK,
    KINDS,
    MUTED,
    OTHER_KIND,
    PAPER,
    Kind,
    new_figure,
    text_width,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    import onnx
    import onnx_ir as ir
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_sites"]

_MARGIN = 0.3
_LABELS = 0.5
_ROW_GAP = 0.2
_HEAD, _LEGEND = 0.62, 0.42
_AREA = 46.0
_SKIP = 0.21
_LONGEST_NAME = 30
_MOST_NAMES = 48


def plot_sites(
    model: onnx.ModelProto | ir.Model | Iterable[Site],
    *,
    chosen: Iterable[Site | str] | None = None,
    title: str | None = None,
    names: bool | None = None,
) -> Figure:
    """Draw a model as its stages and blocks, with the sites for dropout marked by kind.

    The height of a box follows the resolution of its maps; a line over a block is its residual
    or dense connection. Chosen sites are filled, others are hollow.

    Parameters
    ----------
    model
        A model of either kind, or sites from `find_sites`.
    chosen
        Sites to fill, or the names of their values. By default those that hold a dropout node of
        this package; where there is none, no site is marked as chosen.
    title
        Headline.
    names
        Whether to write names of values below the sites, without the ends of a path that all of
        them share. By default all names where there are not too many, else those of the chosen
        sites, else none.

    Returns
    -------
    matplotlib.figure.Figure
        Not known to pyplot.

    Raises
    ------
    SiteError
        There is no site, or `chosen` names one that does not exist.
    """
    sites, marked = _resolve(model, chosen)
    if not sites:
        raise SiteError("the model has no site for structured dropout: nothing to draw")
    return _draw(rows(sites), sites, marked, title, _labels(_named(sites, marked, names)))


def _resolve(
    model: onnx.ModelProto | ir.Model | Iterable[Site], chosen: Iterable[Site | str] | None
) -> tuple[list[Site], set[Site]]:
    import onnx
    import onnx_ir as ir

    if isinstance(model, (onnx.ModelProto, ir.Model)):
        sites = find_sites(model)
        if chosen is None:
            places = {(node.scope, node.data) for node in inspect(model).own}
            chosen = [site for site in sites if (site.scope, site.value) in places]
    else:
        sites = list(model)
    marked = set()
    for wanted in chosen or ():
        found = [site for site in sites if wanted in (site, site.value)]
        if not found:
            name = wanted.value if isinstance(wanted, Site) else wanted
            raise SiteError(f"there is no site {name!r} to mark")
        marked.update(found)
    return sites, marked


def _named(sites: list[Site], marked: set[Site], names: bool | None) -> Collection[Site]:
    if names is not None:
        return sites if names else ()
    for candidates in (sites, marked):
        if len(candidates) <= _MOST_NAMES:
            return candidates
    return ()


def _labels(named: Collection[Site]) -> dict[Site, str]:
    """Return a short label per site: a path without the ends that it shares with all others."""
    paths = {site: site.value.split("/") for site in named}
    long = [parts for parts in paths.values() if len(parts) > 1]
    # One part has to be left of the shortest path.
    room = min(map(len, long), default=1) - 1 if len(long) > 1 else 0
    start = _common(long, range(room))
    stop = _common(long, range(-1, start - room - 1, -1))
    labels = {}
    for site, parts in paths.items():
        kept = parts[start : len(parts) - stop] if len(parts) > 1 else parts
        labels[site] = _short("/".join(kept), _LONGEST_NAME)
    return labels


def _common(paths: list[list[str]], places: range) -> int:
    """Return at how many of the places, one after the other, all paths are the same."""
    for count, place in enumerate(places):
        if len({parts[place] for parts in paths}) > 1:
            return count
    return len(places)


def _short(name: str, longest: int) -> str:
    """Return a name with its middle left out if it is long; both ends tell names apart."""
    if len(name) <= longest:
        return name
    tail = longest * 2 // 3
    return f"{name[: longest - tail - 1]}…{name[-tail:]}"


def _draw(
    arranged: list[Row],
    sites: list[Site],
    marked: set[Site],
    title: str | None,
    labels: Mapping[Site, str],
) -> Figure:
    below = [_name_room(row, labels) for row in arranged]
    heights = [
        _LABELS + max(stage.height for stage in row.stages) + room + _ROW_GAP
        for row, room in zip(arranged, below, strict=True)
    ]
    widest = max(row.width for row in arranged) + 2 * _MARGIN
    width = max(widest, 6.2, text_width(title or "", 11))
    height = _HEAD + sum(heights) + _LEGEND
    figure = new_figure(width, height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(-_MARGIN, width - _MARGIN)
    axes.set_ylim(0, height)
    axes.axis("off")
    _draw_head(axes, height, title, sites, marked)
    top = height - _HEAD
    for index, row in enumerate(arranged):
        tallest = max(stage.height for stage in row.stages)
        middle = top - _LABELS - tallest / 2
        first, last = index == 0, index == len(arranged) - 1
        _draw_flow(axes, row, middle, first=first, last=last)
        for stage in row.stages:
            _draw_stage(axes, stage, middle, tallest)
            for block in stage.blocks:
                _draw_block(axes, block, middle, stage.height, marked, labels, tallest)
        top -= heights[index]
    _draw_legend(axes, sites, marked)
    return figure


def _name_room(row: Row, labels: Mapping[Site, str]) -> float:
    lengths = [
        len(labels.get(site, ""))
        for stage in row.stages
        for block in stage.blocks
        for site in block.sites
    ]
    return 0.14 + 0.05 * max(lengths, default=0)


def _draw_head(
    axes: Axes, height: float, title: str | None, sites: list[Site], marked: set[Site]
) -> None:
    count = f"{len(sites)} sites for structured dropout" if len(sites) > 1 else "1 site"
    if marked:
        count += f", {len(marked)} chosen (filled)"
    left = -_MARGIN + 0.12
    if title:
        axes.text(left, height - 0.1, title, fontsize=11, fontweight="bold", color=INK, va="top")
    axes.text(left, height - (0.36 if title else 0.14), count, fontsize=8.5, color=MUTED, va="top")


def _draw_flow(axes: Axes, row: Row, middle: float, *, first: bool, last: bool) -> None:
    """Draw the main path: one arrow through the row."""
    start = -0.2
    end = row.stages[-1].left + row.stages[-1].width + 0.2
    axes.annotate(
        "", (end, middle), (start, middle),
        arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 0.9, "mutation_scale": 8,
                    "shrinkA": 0, "shrinkB": 0},
        zorder=1,
    )  # fmt: skip
    for shown, place, text in ((first, start, "in"), (last, end - 0.02, "out")):
        if shown:
            axes.text(place, middle + 0.05, text, fontsize=7, color=MUTED, ha="center")


def _draw_stage(axes: Axes, stage: Stage, middle: float, tallest: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    half = tallest / 2
    axes.add_patch(
        FancyBboxPatch(
            (stage.left, middle - half - 0.06), stage.width, tallest + 0.12,
            boxstyle="round,pad=0,rounding_size=0.07",
            facecolor=PAPER, edgecolor="none", zorder=0,
        )
    )  # fmt: skip
    centre = stage.left + stage.width / 2
    title, detail = stage_text(stage), size_text(stage)
    if stage.scope:
        title, detail = _short(stage.scope.rpartition("/")[2], 18), f"{title} · {detail}"
    above = middle + half
    axes.text(
        centre, above + 0.26, title,
        fontsize=8.5, fontweight="bold", color=INK, ha="center", va="bottom",
    )  # fmt: skip
    axes.text(centre, above + 0.11, detail, fontsize=7, color=MUTED, ha="center", va="bottom")


def _draw_block(
    axes: Axes,
    block: Block,
    middle: float,
    height: float,
    marked: set[Site],
    labels: Mapping[Site, str],
    tallest: float,
) -> None:
    from matplotlib.patches import FancyBboxPatch

    axes.add_patch(
        FancyBboxPatch(
            (block.left, middle - height / 2), block.width, height,
            boxstyle="round,pad=0,rounding_size=0.05",
            facecolor="white", edgecolor=FRAME, linewidth=0.8, zorder=0.5,
        )
    )  # fmt: skip
    _draw_skip(axes, block, middle)
    number = next((site.block for site in block.sites if site.block is not None), None)
    if number is not None:
        axes.text(
            block.left + 0.045, middle - height / 2 + 0.035, str(number),
            fontsize=6, color=MUTED, va="bottom",
        )  # fmt: skip
    for index, site in enumerate(block.sites):
        across = block.position(index)
        up = middle + _SKIP if site.kind == "shortcut" else middle
        _draw_site(axes, site, across, up, chosen=site in marked, some=bool(marked))
        if site in labels:
            bold = site in marked
            axes.text(
                across, middle - tallest / 2 - 0.1, labels[site],
                fontsize=6, rotation=90, ha="center", va="top",
                color=INK if bold or not marked else MUTED,
                fontweight="bold" if bold else "normal",
            )  # fmt: skip


def _draw_skip(axes: Axes, block: Block, middle: float) -> None:
    """Draw the connection that goes around a block, where it has one."""
    kinds = [site.kind for site in block.sites]
    if "join" in kinds:
        end = block.position(len(kinds) - 1 - kinds[::-1].index("join"))
    elif "concat" in kinds:
        end = block.left + block.width - 0.05
    else:
        return
    start, up = block.left + 0.05, middle + _SKIP
    if end - start < 0.1:
        return
    axes.plot(
        [start, start, end, end], [middle, up, up, middle],
        color=INK, linewidth=0.9, solid_joinstyle="round", zorder=1,
    )  # fmt: skip


def _draw_site(
    axes: Axes, site: Site, across: float, up: float, *, chosen: bool, some: bool
) -> None:
    style = KINDS.get(site.kind, OTHER_KIND)
    filled = chosen or not some
    axes.scatter(
        [across], [up],
        s=_AREA * style.size * (1.5 if chosen else 1.0), marker=style.marker,
        facecolors=style.colour if filled else "white",
        edgecolors=INK if chosen else style.colour, linewidths=1.1 if chosen or not filled else 0.6,
        zorder=3,
    )  # fmt: skip


def _draw_legend(axes: Axes, sites: list[Site], marked: set[Site]) -> None:
    counts = Counter(site.kind for site in sites)
    left = -_MARGIN + 0.22
    for kind in [*KINDS, *sorted(counts.keys() - KINDS.keys())]:
        if not counts[kind]:
            continue
        style: Kind = KINDS.get(kind, OTHER_KIND)
        taken = sum(site.kind == kind for site in marked)
        count = f"{taken} of {counts[kind]}" if marked else f"{counts[kind]}"
        axes.scatter(
            [left], [0.2], s=_AREA * style.size, marker=style.marker, facecolors=style.colour,
            edgecolors=INK if marked else style.colour, linewidths=1.0 if marked else 0.6,
        )  # fmt: skip
        text = f"{kind} ({count})"
        axes.text(left + 0.11, 0.2, text, fontsize=7.5, color=INK, va="center_baseline")
        left += 0.32 + 0.066 * len(text)
