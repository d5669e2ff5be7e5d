"""Options of optimizers, checked before onnxruntime writes whatever they are into a model."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from onnx_structdrop.errors import ArgumentError, ArgumentTypeError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["OPTIMIZERS", "checked_options"]


def checked_options(optimizer: str, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the options of an optimizer.

    Parameters
    ----------
    optimizer
        One of `OPTIMIZERS`.
    options
        By name; None is none.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        The optimizer has no such option, or it cannot have such a value.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise ArgumentTypeError(f"optimizer_options must be a dict, not {type(options).__name__}")
    known = _OPTIONS[optimizer]
    for name in options:
        if name not in known:
            raise ArgumentError(
                f"optimizer_options: {optimizer} has no {name!r}; it has {', '.join(known)}"
            )
    return {name: known[name](name, value) for name, value in options.items()}


def _number(name: str, value: Any) -> float:
    is_number: bool = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number:
        raise ArgumentTypeError(f"optimizer_options: {name} must be a number, not {value!r}")
    return float(value)


def _positive(name: str, value: Any) -> float:
    number = _number(name, value)
    if not 0 < number < math.inf:
        raise ArgumentError(f"optimizer_options: {name} is {value}; allowed is a positive number")
    return number


def _not_negative(name: str, value: Any) -> float:
    number = _number(name, value)
    if not 0 <= number < math.inf:
        raise ArgumentError(
            f"optimizer_options: {name} is {value}; allowed is 0 or a positive number"
        )
    return number


def _shares(name: str, value: Any) -> tuple[float, ...]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ArgumentTypeError(f"optimizer_options: {name} must be two numbers, not {value!r}")
    shares = tuple(_number(name, each) for each in value)
    if not all(0 <= share < 1 for share in shares):
        raise ArgumentError(f"optimizer_options: {name} is {value}; allowed are numbers in [0, 1)")
    return shares


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ArgumentTypeError(f"optimizer_options: {name} must be True or False, not {value!r}")
    return value


_OPTIONS: dict[str, dict[str, Callable[[str, Any], Any]]] = {
    "adamw": {
        "betas": _shares,
        "eps": _positive,
        "weight_decay": _not_negative,
        "bias_correction": _flag,
        "clip_grad": _positive,
    },
    "sgd": {"clip_grad": _positive},
}

OPTIMIZERS = tuple(_OPTIONS)
"""Names of the optimizers that onnxruntime-training has."""
