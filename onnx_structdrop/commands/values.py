"""Values of options: what the text after a flag stands for.

Like the parser, this module imports nothing heavy: kinds and placements are spelled out here, and
tests compare them with where they come from.
"""

from __future__ import annotations

import argparse
import difflib
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "KINDS",
    "PLACEMENTS",
    "axes",
    "block_size",
    "file",
    "integers",
    "kinds",
    "noise_shape",
    "numbers",
    "placement",
    "unknown",
]

KINDS = ("activation", "linear", "shortcut", "join", "concat")
"""Kinds of sites."""

PLACEMENTS = ("paper", "dropblock", "droppath", "dense", "default", "all")
"""Names of the placements."""

_AXES = {"batch": 0, "channel": 1}

Entry = TypeVar("Entry")


def _list_of(convert: Callable[[str], Entry], what: str) -> Callable[[str], list[Entry]]:
    def parse(text: str) -> list[Entry]:
        try:
            return [convert(entry.strip()) for entry in text.split(",")]
        except (ValueError, KeyError):
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}") from None

    return parse


def block_size(text: str) -> int | list[int]:
    """Return one block size, or one per axis."""
    sizes = _list_of(int, "a block size: an integer, or several with commas between")(text)
    return sizes[0] if len(sizes) == 1 else sizes


def file(text: str) -> str:
    """Return the path of a model."""
    if text == "-":
        raise argparse.ArgumentTypeError("'-': standard input is not supported; name a file")
    return text


def kinds(text: str) -> Sequence[str]:
    """Return kinds of sites."""
    found = [entry.strip() for entry in text.split(",")]
    for kind in found:
        _one_of(KINDS, kind)
    return found


def placement(text: str) -> str:
    """Return the name of a placement."""
    return _one_of(PLACEMENTS, text)


def _one_of(words: Sequence[str], text: str) -> str:
    if text not in words:
        raise argparse.ArgumentTypeError(unknown(words, text))
    return text


def unknown(words: Sequence[str], text: str) -> str:
    """Return what to say of a text that is none of the words, with the one it is close to."""
    lower = {word.lower(): word for word in words}
    close = [word for word in lower if text and word.startswith(text.lower())]
    close = close or difflib.get_close_matches(text.lower(), lower, n=1)
    hint = f"; did you mean {' or '.join(lower[word] for word in close)}?" if close else ""
    return f"{text!r} is none of {', '.join(words)}{hint}"


integers = _list_of(int, "an integer, or several with commas between")
numbers = _list_of(float, "a number, or several with commas between")
axes = _list_of(lambda entry: _AXES[entry] if entry in _AXES else int(entry), "a list of axes")
noise_shape = _list_of(
    lambda entry: None if entry.lower() in ("-", "none") else int(entry),
    'a noise shape, such as "-,1,1,-"',
)
