"""Checked options of a sampler."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onnx_structdrop.errors import ArgumentError, ArgumentTypeError
from onnx_structdrop.mc.chunks import MOST_SAMPLES
from onnx_structdrop.specs import arguments

__all__ = ["Options"]

_MOST_THREADS = 1024
"""Onnxruntime ends the process where the system gives no more of them."""


@dataclass(frozen=True)
class Options:
    """See `Sampler`."""

    samples: int
    seed: int
    native: bool | None
    """None for "auto"."""
    threads: int | None
    chunk: int | None
    batch: int | None
    quantiles: tuple[float, ...]
    keep_samples: bool
    allow_nonfinite: bool
    progress: bool

    @classmethod
    def checked(
        cls,
        *,
        samples: Any,
        seed: Any,
        native: Any,
        threads: Any,
        chunk: Any,
        batch: Any,
        quantiles: Any,
        **flags: Any,
    ) -> Options:
        """Return the options, or say which of them is wrong.

        Raises
        ------
        ArgumentError, ArgumentTypeError
            At the first that is.
        """
        checked_seed = arguments.seed(seed, "Sampler")
        if checked_seed is None:
            raise ArgumentTypeError("Sampler: seed must be an integer, not None")
        if native not in (True, False, "auto"):
            raise ArgumentError(f"native is {native!r}; allowed are True, False and 'auto'")
        for name, flag in flags.items():
            if not isinstance(flag, bool):
                raise ArgumentTypeError(f"{name} must be True or False, not {flag!r}")
        return cls(
            samples=_count(samples, "samples", MOST_SAMPLES),
            seed=checked_seed,
            native=None if isinstance(native, str) else bool(native),
            threads=None if threads is None else _count(threads, "threads", _MOST_THREADS),
            chunk=None if chunk is None else _count(chunk, "chunk"),
            batch=None if batch is None else _count(batch, "batch"),
            quantiles=_levels(quantiles),
            **flags,
        )


def _count(value: Any, name: str, most: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ArgumentTypeError(f"{name} is {value!r}; a whole number is needed")
    count = int(value)
    if count < 1 or (most is not None and count > most):
        limit = "1 or more" if most is None else f"1 to {most}"
        raise ArgumentError(f"{name} is {count}; allowed is {limit}")
    return count


def _levels(value: Any) -> tuple[float, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ArgumentTypeError(f"quantiles are {value!r}; a list of numbers is needed")
    return tuple(arguments.rate(level, "Sampler", "quantile") for level in value)
