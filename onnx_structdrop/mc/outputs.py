"""What an output holds: scores of classes, a map of them, events, or numbers; as logits or not.

Told by the caller, or taken from the numbers of a first block. Where these leave a doubt, mean
and variance of the numbers as they are is what remains, and `OutputKind.how` says what to say.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from typing import Literal

import numpy as np

from onnx_structdrop.errors import ArgumentError, ArgumentTypeError

__all__ = ["TASKS", "VALUES", "OutputKind", "describe", "is_floating", "sum_tolerance"]

Task = Literal["classification", "regression", "dense"]
Values = Literal["logits", "probabilities"]

TASKS = ("classification", "regression", "dense")
"""One distribution over classes for each row; numbers; a distribution at each place of a map."""

VALUES = ("logits", "probabilities")
"""Scores that softmax, or the sigmoid of an event, turns into probabilities; or these."""

_AUTO = "auto"
_EVENTS = ("Sigmoid", "HardSigmoid")


@dataclasses.dataclass(frozen=True)
class OutputKind:
    """What is known of an output.

    Attributes
    ----------
    name
        Name of the output.
    task
        One of `TASKS`.
    values
        One of `VALUES`, or None for regression.
    class_axis
        Axis of the classes, 1 or more, counted with the batch axis 0. None where there is none:
        for regression, and for `events`.
    how
        Why it was taken so, for reports.
    """

    name: str
    task: Task
    values: Values | None
    class_axis: int | None
    how: str = ""

    @property
    def events(self) -> bool:
        """Whether each number stands for a yes or no of its own: sigmoids, one or many."""
        return self.values is not None and self.class_axis is None

    def to_dict(self) -> dict[str, str | int | None]:
        """Return plain data that JSON can hold."""
        return {**dataclasses.asdict(self), "events": self.events}

    def __str__(self) -> str:
        words: list[str] = [self.task]
        if self.events:
            words.append(f"{self.values} of events")
        elif self.values is not None:
            words.append(f"{self.values} on axis {self.class_axis}")
        return ", ".join(words)


def is_floating(array: np.ndarray) -> bool:
    """Tell whether an array holds floating-point numbers, bfloat16 included."""
    return bool(np.issubdtype(array.dtype, np.floating)) or array.dtype.name == "bfloat16"


def sum_tolerance(dtype: np.dtype) -> float:
    """Return how far from 1 probabilities of an element type may sum up to."""
    return {"float16": 0.01, "bfloat16": 0.05}.get(dtype.name, 1e-3)


def describe(
    name: str,
    example: np.ndarray,
    task: str = _AUTO,
    values: str = _AUTO,
    class_axis: int | str | None = _AUTO,
    *,
    producer: str | None = None,
) -> OutputKind:
    """Tell what an output holds, from what the caller says and from some of its rows.

    What is not said is found like this. Probabilities are numbers from 0 to 1 that sum to 1 along
    an axis. One channel of numbers from 0 to 1, such as a sigmoid's, holds probabilities of one
    event. Other rows of two numbers or more are logits; so are maps whose class axis can be told
    from their shape: axis 1 or the last, the shortest of all, or the one beside equal sides.
    Everything else, numbers from 0 to 1 that sum to something else among it, is regression.

    Parameters
    ----------
    name
        Name of the output, for messages.
    example
        Shape (rows, ...), floating-point; at least one row.
    task
        One of `TASKS`, or "auto".
    values
        One of `VALUES`, or "auto".
    class_axis
        Axis of the classes, counted with the batch axis 0; negative from the end. None says that
        each number stands for an event of its own: labels that do not exclude each other, or a
        binary map without an axis of channels. "auto" looks for it.
    producer
        Operator that makes the output, if known: what a Sigmoid makes are events.

    Returns
    -------
    OutputKind

    Raises
    ------
    ArgumentError
        An argument is none of the allowed values or contradicts another or the shape; the output
        has no batch axis, no rows, or holds integers, from which no uncertainty can be computed.
    ArgumentTypeError
        `class_axis` is neither a whole number, None nor "auto".
    """
    example = np.asarray(example)
    _check_words(name, task, values, class_axis)
    _check_example(name, example)
    if task == "regression":
        if values != _AUTO or class_axis not in (_AUTO, None):
            raise ArgumentError(
                f"output {name!r}: regression has neither logits nor classes; "
                "leave out values and class_axis, or say another task"
            )
        return OutputKind(name, "regression", None, None, "as said")
    found = _Finding(name, example, task, values, producer)
    if class_axis is None:
        return found.of_events("each number an event, as said")
    if isinstance(class_axis, str):
        return found.without_axis()
    return found.on_said_axis(_axis(name, int(class_axis), example.ndim))


class _Finding:
    """The search for what was not said."""

    def __init__(
        self, name: str, example: np.ndarray, task: str, values: str, producer: str | None
    ) -> None:
        self._name, self._shape = name, example.shape
        self._task, self._values, self._producer = task, values, producer
        self._axis_is_said = False
        self._tolerance = sum_tolerance(example.dtype)
        wide = example.astype(np.float64)
        # Rows that are not finite say nothing about the others.
        finite = np.isfinite(wide).reshape(len(wide), -1).all(axis=1)
        self._rows = wide[finite]
        self._is_fraction = bool(
            len(self._rows)
            and self._rows.min() >= -self._tolerance
            and self._rows.max() <= 1 + self._tolerance
        )

    def without_axis(self) -> OutputKind:
        """Return the kind, looking for the class axis as well."""
        rank = len(self._shape)
        if self._producer in _EVENTS and self._values != "logits":
            return self.of_events(f"made by {self._producer}")
        if rank == 1:
            return self._one_channel()
        channels = sorted({1, rank - 1})
        for one in channels:
            if self._sums_to_one(one):
                return self.on_axis(one, "")
        axis = self._axis_of_rows()
        if axis is None and any(self._shape[one] == 1 for one in channels):
            return self._one_channel()
        if self._doubtful():
            return self._numbers("from 0 to 1 that do not sum to 1: events or regression")
        if axis is None:
            axis = _axis_of_maps(self._shape)
        if axis is None:
            return self._numbers("on axes of which none is known to be that of classes")
        return self.on_axis(axis, "")

    def on_said_axis(self, axis: int) -> OutputKind:
        """Return the kind, the caller having said where the classes are."""
        self._axis_is_said = True
        return self.on_axis(axis, "")

    def on_axis(self, axis: int, how: str) -> OutputKind:
        """Return the kind, the class axis being known."""
        if self._shape[axis] == 1:
            return self._one_channel()
        task: Task = "dense" if self._others(axis) > 1 else "classification"
        if self._task == "classification" and task == "dense":
            raise ArgumentError(
                f"output {self._name!r} of shape {self._shape} has more than classes on axis "
                f"{axis}: its task is 'dense'"
            )
        if self._task == "dense":
            task = "dense"
        if self._values != _AUTO:
            return OutputKind(self._name, task, _values(self._values), axis, _join(how, "as said"))
        if self._sums_to_one(axis):
            reason = f"from 0 to 1, sum to 1 on axis {axis}"
            return OutputKind(self._name, task, "probabilities", axis, _join(how, reason))
        if self._doubtful():
            return self._numbers("from 0 to 1 that do not sum to 1: events or logits")
        reason = f"taken for scores on axis {axis}: not within 0 and 1"
        return OutputKind(self._name, task, "logits", axis, _join(how, reason))

    def of_events(self, how: str) -> OutputKind:
        """Return the kind of numbers that are an event each."""
        task: Task = "classification" if math.prod(self._shape[2:]) == 1 else "dense"
        if self._task != _AUTO:
            task = "dense" if self._task == "dense" else "classification"
        if self._values != _AUTO:
            values, reason = _values(self._values), "as said"
        elif self._is_fraction:
            values, reason = "probabilities", "from 0 to 1"
        else:
            values, reason = "logits", "not within 0 and 1"
        return OutputKind(self._name, task, values, None, _join(how, reason))

    def _one_channel(self) -> OutputKind:
        if self._task != _AUTO or self._values != _AUTO or self._is_fraction:
            return self.of_events("one channel")
        return self._numbers("in one channel, not within 0 and 1")

    def _doubtful(self) -> bool:
        return self._is_fraction and self._values == _AUTO

    def _numbers(self, why: str) -> OutputKind:
        """Return regression, unless something was said that it contradicts."""
        if self._task != _AUTO or self._values != _AUTO or self._axis_is_said:
            raise ArgumentError(
                f"output {self._name!r} of shape {self._shape} holds numbers {why}: say values "
                "and class_axis (None where each number is an event of its own)"
            )
        hint = "say values and class_axis for entropies"
        return OutputKind(self._name, "regression", None, None, f"numbers {why} ({hint})")

    def _axis_of_rows(self) -> int | None:
        """Return the axis of a row of scores, maybe among sizes of 1 that pooling left behind."""
        wide = [axis for axis in range(1, len(self._shape)) if self._shape[axis] > 1]
        # (n, 1, length) may as well be one channel of a signal.
        if len(wide) == 1 and (wide[0] == 1 or (wide[0] == len(self._shape) - 1 != 2)):
            return wide[0]
        return None

    def _others(self, axis: int) -> int:
        return int(math.prod(self._shape[1:]) // self._shape[axis])

    def _sums_to_one(self, axis: int) -> bool:
        if not self._is_fraction or self._shape[axis] < 2:
            return False
        return bool((np.abs(self._rows.sum(axis=axis) - 1) <= self._tolerance).all())


def _axis_of_maps(shape: tuple[int, ...]) -> int | None:
    """Return axis 1 or the last one of a map, if the shape leaves no doubt which has the classes.

    It is shorter than all others; or all others are equal, as the sides of most maps are, and
    would not be so beside the other candidate. Rows of rows, such as boxes, leave a doubt.
    """
    sizes = shape[1:]
    if len(sizes) < 3:
        return None
    ends = (0, len(sizes) - 1)
    for end in ends:
        if all(sizes[end] < size for at, size in enumerate(sizes) if at != end):
            return end + 1
    alone = [end for end in ends if len({*sizes[:end], *sizes[end + 1 :]}) == 1]
    return alone[0] + 1 if len(alone) == 1 else None


def _check_words(name: str, task: str, values: str, class_axis: object) -> None:
    for what, word, allowed in (("task", task, TASKS), ("values", values, VALUES)):
        if word != _AUTO and word not in allowed:
            raise ArgumentError(
                f"output {name!r}: {what} is {word!r}; allowed are {_AUTO}, {', '.join(allowed)}"
            )
    is_number = isinstance(class_axis, numbers.Integral) and not isinstance(class_axis, bool)
    if not (class_axis is None or is_number or class_axis == _AUTO):
        raise ArgumentTypeError(
            f"output {name!r}: class_axis is {class_axis!r}; allowed are a whole number, None "
            f"(each number an event) and {_AUTO!r}"
        )


def _check_example(name: str, example: np.ndarray) -> None:
    if not is_floating(example):
        raise ArgumentError(
            f"output {name!r} holds {example.dtype.name}, which tells nothing about uncertainty "
            "(labels that were chosen inside the model?); take the scores that they come from"
        )
    if example.ndim == 0 or example.size == 0:
        raise ArgumentError(
            f"output {name!r} has shape {example.shape}; it needs a batch axis and some rows"
        )


def _axis(name: str, axis: int, rank: int) -> int:
    made = axis + rank if axis < 0 else axis
    if not 0 < made < rank:
        raise ArgumentError(
            f"output {name!r}: class_axis is {axis}, of {rank} axes with the batch first; "
            f"allowed are 1 to {rank - 1}, or -1 to {1 - rank}"
        )
    return made


def _values(word: str) -> Values:
    return "logits" if word == "logits" else "probabilities"


def _join(*parts: str) -> str:
    return ", ".join(part for part in parts if part)
