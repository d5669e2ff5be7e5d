"""What the command line prints: tables and JSON on stdout, messages on stderr.

rich is imported when a table is printed. Names come from model files that nobody vouches for, so
control characters in them are shown, not sent to the terminal.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from typing import IO, TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.console import RenderableType

__all__ = [
    "error_line",
    "message",
    "percent",
    "print_check",
    "print_heading",
    "print_json",
    "print_line",
    "print_table",
    "printable",
    "shape_text",
    "size_text",
    "some",
]

_PIPED_WIDTH = 100_000
"""Width without a terminal: wide enough that no name is cut or wrapped."""

_HEIGHT = 25
"""Lines of the terminal, which nothing that is printed depends on."""

_GAP = 3
"""Characters between two columns."""

_NARROWEST = {"name": 8, "text": 24}
"""Widths below which columns that give way are not made."""

_UNITS = ("B", "kB", "MB", "GB", "TB")


def printable(text: object) -> str:
    """Return text with control characters and lone surrogates written as escapes."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(text)
    )


def message(text: str) -> None:
    """Write a line to stderr."""
    _write(sys.stderr, printable(text))


def error_line(text: str) -> None:
    """Write the one line that tells what went wrong."""
    message(f"structdrop: error: {' '.join(text.split())}")


def print_line(text: str = "") -> None:
    """Write a line to stdout."""
    _write(sys.stdout, printable(text))


def _write(stream: IO[str], text: str, end: str = "\n") -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + end)


def print_json(document: Mapping[str, Any]) -> None:
    """Write one JSON document to stdout; NaN and infinities, which JSON lacks, become strings."""
    _write(sys.stdout, json.dumps(_finite(document), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def print_check(passed: bool, text: str) -> None:
    """Write a line with a check mark, or with a cross, to stdout."""
    from rich.text import Text

    fancy = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
    mark = ("✓" if fancy else "ok") if passed else ("✗" if fancy else "FAILED")
    line = Text.assemble("  ", (mark, "bold green" if passed else "bold red"), " ", printable(text))
    _render(line)


def print_heading(text: str) -> None:
    """Write a heading to stdout, after an empty line."""
    from rich.text import Text

    _render("", Text(printable(text), style="bold"))


def print_table(
    columns: Mapping[str, str],
    rows: Iterable[Sequence[object]],
    *,
    title: str | None = None,
) -> None:
    """Write a table to stdout.

    Where it is wider than the terminal, names are cut in the middle and sentences are wrapped;
    numbers, shapes and words of a fixed set are never broken.

    Parameters
    ----------
    columns
        Header of each column, and ``"left"``, ``"right"``, ``"name"`` or ``"text"``: the last two
        are left-aligned and give way.
    rows
        Cells; None is written as "-".
    title
        Line above.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    cells = [["-" if cell is None else printable(cell) for cell in row] for row in rows]
    widths = _column_widths(columns, cells, _width())
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for (header, side), width in zip(columns.items(), widths, strict=True):
        justify: Literal["left", "right"] = "right" if side == "right" else "left"
        table.add_column(header, justify=justify, overflow="fold", width=width)
    for row in cells:
        table.add_row(
            *(
                Text(_cut(cell, width) if side == "name" else cell)
                for cell, side, width in zip(row, columns.values(), widths, strict=True)
            )
        )
    above = [Text(printable(title), style="bold")] if title else []
    _render(*above)
    _render(table, width=max(_width(), sum(widths) + _GAP * len(widths)))


def _column_widths(
    columns: Mapping[str, str], cells: Sequence[Sequence[str]], width: int
) -> list[int]:
    """Return the width of each column: what it needs, less where the table would be too wide."""
    from rich.cells import cell_len

    needed = [max(map(cell_len, texts)) for texts in zip(columns, *cells, strict=True)]
    least = [
        min(need, max(cell_len(header), _NARROWEST.get(side, need)))
        for need, (header, side) in zip(needed, columns.items(), strict=True)
    ]
    excess = sum(needed) + _GAP * (len(needed) - 1) - width
    while excess > 0 and needed != least:
        # The widest column gives way first, so that short names stay whole.
        widest = max(
            (place for place in range(len(needed)) if needed[place] > least[place]),
            key=lambda place: needed[place],
        )
        needed[widest] -= 1
        excess -= 1
    return needed


def _cut(text: str, width: int) -> str:
    """Return text that is too wide with an ellipsis in the middle."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= width:
        return text
    left = (width - 3) // 2
    right = width - 3 - left
    tail = text[len(text) - right :]
    while cell_len(tail) > right:
        tail = tail[1:]
    return f"{set_cell_size(text, left)}...{tail}"


def _width() -> int:
    """Return the width to write for: what COLUMNS says, else the terminal's, else no limit."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isascii() and columns.isdigit() and int(columns) > 0:
        return int(columns)
    if not sys.stdout.isatty():
        return _PIPED_WIDTH
    return shutil.get_terminal_size().columns


def _render(*parts: RenderableType, width: int | None = None) -> None:
    """Write what rich makes of the parts to stdout."""
    from rich.console import Console

    piped = not sys.stdout.isatty()
    console = Console(
        file=sys.stdout,
        width=_width() if width is None else width,
        # Where one of the two is missing, rich reads COLUMNS by itself, and fails on some.
        height=_HEIGHT,
        # Whatever the environment says about colours: a pipe gets plain text.
        force_terminal=False if piped else None,
        color_system=None if piped else "auto",
        highlight=False,
        markup=False,
        emoji=False,
    )
    # rich ends the process itself when a pipe breaks, so it does not write itself.
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    _write(sys.stdout, captured.get(), end="")


def shape_text(shape: Sequence[int | str | None] | None) -> str:
    """Return a shape as ``batch,16,14,14``, the way options take it; "?" is an unknown size."""
    if shape is None:
        return "?"
    return ",".join("?" if size is None else str(size) for size in shape) or "scalar"


def percent(rate: float | str | None) -> str:
    """Return a rate as a percentage, the name of what drives it, or "?"."""
    if rate is None:
        return "?"
    return rate if isinstance(rate, str) else f"{rate:.1%}"


def size_text(size: int | None) -> str:
    """Return a number of bytes for people."""
    if size is None:
        return "-"
    power = 0
    while size >= 999.5 * 1000**power and power < len(_UNITS) - 1:
        power += 1
    number = f"{size / 1000**power:.1f}" if power else str(size)
    return f"{number} {_UNITS[power]}"


def some(names: Sequence[str], width: int = 32) -> str:
    """Return the first name, cut in the middle to `width`, and how many others there are."""
    if not names:
        return "-"
    first = names[0]
    if len(first) > width:
        half = (width - 3) // 2
        first = f"{first[:half]}...{first[-half:]}"
    return first if len(names) == 1 else f"{first} +{len(names) - 1}"
