"""Colours, markers and type sizes that the pictures share.

The colours are those of Okabe and Ito ("Color Universal Design", 2008), which stay apart under
every common form of colour blindness; each kind of site has a marker of its own as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "DROPPED",
    "FRAME",
    "INK",
    "KINDS",
    "MUTED",
    "OTHER_KIND",
    "PAPER",
    "Kind",
    "headline",
    "new_figure",
    "text_width",
]

INK = "#222222"
MUTED = "#6B6B6B"
FRAME = "#9A9A9A"
PAPER = "#F4F4F1"
DROPPED = "#D55E00"
"""Dropped cells, in every picture."""


class Kind(NamedTuple):
    """How one kind of site is drawn."""

    colour: str
    marker: str
    size: float
    """Factor on the marker's area that makes the shapes look equally large."""


KINDS = {
    "activation": Kind("#0072B2", "o", 1.0),
    "linear": Kind("#009E73", "s", 0.85),
    "shortcut": Kind("#E69F00", "^", 1.05),
    "join": Kind("#D55E00", "D", 0.75),
    "concat": Kind("#CC79A7", "p", 1.2),
}
"""Style of each kind of site."""

OTHER_KIND = Kind("#56B4E9", "X", 1.0)


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches, with a canvas that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def text_width(text: str, size: float) -> float:
    """Return about how many inches a line of text takes up, with a margin, at a size in points."""
    return 0.3 + len(text) * size * 0.0087


def headline(figure: Figure, title: str) -> None:
    """Write a headline at the top left, if it is not empty."""
    if title:
        top = 1 - 0.1 / figure.get_figheight()
        figure.suptitle(
            title, fontsize=10.5, fontweight="bold", color=INK, x=0.02, y=top, ha="left", va="top"
        )
