"""Writing figures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_structdrop.errors import ArgumentError, OutputError
from onnx_structdrop.graph.files.atomic import Replacement

if TYPE_CHECKING:
    import os

    from matplotlib.figure import Figure

__all__ = ["FIGURE_FORMATS", "check_figure_path", "save_figure"]

FIGURE_FORMATS = ("png", "svg", "pdf")
"""Formats of pictures, by the ending of the file name."""


def check_figure_path(path: str | os.PathLike[str]) -> str:
    """Return the format that the ending of a file name asks for.

    Raises
    ------
    ArgumentError
        It is none of `FIGURE_FORMATS`.
    """
    ending = Path(path).suffix[1:].lower()
    if ending not in FIGURE_FORMATS:
        raise ArgumentError(
            f"cannot tell the format of the picture {str(path)!r}; "
            f"its name should end in {', '.join('.' + known for known in FIGURE_FORMATS)}"
        )
    return ending


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure; on any error, what was there before is left as it was.

    Parameters
    ----------
    figure
        What `plot_masks` or `plot_sites` returned.
    path
        File to write, with an ending of `FIGURE_FORMATS`.

    Raises
    ------
    ArgumentError
        The ending is unknown.
    OutputError
        The file cannot be written.
    """
    from matplotlib import rc_context

    ending = check_figure_path(path)
    target = Path(path).absolute()
    content = io.BytesIO()
    # Without a date, the same figure gives the same bytes.
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[ending]
    with rc_context({"svg.hashsalt": "onnx_structdrop", "svg.fonttype": "none"}):
        figure.savefig(content, format=ending, metadata=metadata)
    try:
        with Replacement() as replacement:
            replacement.create(target).write(content.getvalue())
            replacement.commit()
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
