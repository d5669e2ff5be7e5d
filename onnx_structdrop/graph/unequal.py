"""One short line on how two pieces of plain data differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["unequal"]

_LONGEST = 160
_DEEPEST = 32


def unequal(where: str, first: Any, second: Any) -> Iterator[str]:
    """Yield a line if two values differ: where, and what became of what.

    Long values are followed down to the first part that differs, and cut.
    """
    if first == second:
        return
    for _ in range(_DEEPEST):
        if _is_short(first) and _is_short(second):
            break
        part = _part(first, second)
        if part is None:
            break
        label, first, second = part
        where = f"{where}{label}"
    yield f"{where}: {_brief(first, second)} became {_brief(second, first)}"


def _is_short(value: Any) -> bool:
    # Of large containers and long texts no repr is made: it would be as large.
    if isinstance(value, (str, bytes)):
        return len(value) <= _LONGEST
    if isinstance(value, (list, tuple)):
        return (
            len(value) <= _LONGEST and all(map(_is_short, value)) and len(repr(value)) <= _LONGEST
        )
    if isinstance(value, dict):
        return _is_short(list(value.items()))
    return len(repr(value)) <= _LONGEST


def _part(first: Any, second: Any) -> tuple[str, Any, Any] | None:
    """Return the first part that differs, with a label that says which, None if there is none."""
    if isinstance(first, dict) and isinstance(second, dict):
        for key in {**first, **second}:
            if key not in first or key not in second or first[key] != second[key]:
                label = " ".join(map(str, key)) if isinstance(key, tuple) else str(key)
                return f", {label[:_LONGEST]!r}", first.get(key), second.get(key)
    lists = isinstance(first, (list, tuple)) and isinstance(second, (list, tuple))
    if lists and len(first) == len(second):
        for index, (one, other) in enumerate(zip(first, second, strict=True)):
            if one != other:
                return ("", one, other) if isinstance(first, tuple) else (f" [{index}]", one, other)
    elif lists:
        shared = min(len(first), len(second))
        start = next((i for i in range(shared) if first[i] != second[i]), shared)
        ends = [f"{len(side)} entries" for side in (first, second)]
        parts = [
            f"{end}, {_brief(side[start], None)} at {start}" if start < len(side) else end
            for end, side in zip(ends, (first, second), strict=True)
        ]
        return "", _Text(parts[0]), _Text(parts[1])
    return None


class _Text(str):
    """A text that stands for a value, and is shown without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _brief(value: Any, other: Any) -> str:
    if not isinstance(value, (str, bytes)) or isinstance(value, _Text) or _is_short(value):
        text = repr(value) if _is_short(value) else f"{type(value).__name__} of length {len(value)}"
        return text if len(text) <= 2 * _LONGEST else f"{text[: 2 * _LONGEST]}..."
    # Show what surrounds the first place that differs.
    start = 0
    if isinstance(other, type(value)):
        start = _parting(value, other)
    begin = max(start - 8, 0)
    excerpt = repr(value[begin : begin + 32])
    return f"{excerpt} at {begin} of {len(value)}"


def _parting(first: str | bytes, second: str | bytes) -> int:
    """Return the first place where two texts differ."""
    step = 4096
    for start in range(0, min(len(first), len(second)), step):
        one, other = first[start : start + step], second[start : start + step]
        if one != other:
            shared = min(len(one), len(other))
            return start + next((i for i in range(shared) if one[i] != other[i]), shared)
    return min(len(first), len(second))
