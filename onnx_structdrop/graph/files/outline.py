"""Showing a reader an object with parts of it replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Outline"]


class Outline:
    """An object with some attributes replaced, for who only reads it.

    Parameters
    ----------
    original
        Has everything else.
    items
        What iterating gives; by default what it gives for `original`.
    **replaced
        The attributes.
    """

    def __init__(
        self, original: object, items: Iterable[object] | None = None, /, **replaced: object
    ) -> None:
        self._original = original
        self._items = original if items is None else items
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> object:
        return getattr(self._original, name)

    def __iter__(self) -> Iterator[object]:
        return iter(self._items)  # type: ignore[call-overload, no-any-return]

    def __len__(self) -> int:
        return len(self._original)  # type: ignore[arg-type]
