"""Finding inputs that a model runs on."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_structdrop.graph.verify.feeds import PLAIN, Draw, Plan, Signature
from onnx_structdrop.graph.verify.outputs import flat
from onnx_structdrop.graph.verify.sessions import CrashError, LimitError, RunError, Runner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy.typing as npt

__all__ = ["Sample", "Search"]

_MOST_TRIES = 100
"""Shapes to try before giving up: each may run a good part of a network."""


@dataclass(frozen=True)
class Sample:
    """Inputs, and what they were drawn like."""

    feeds: dict[str, npt.NDArray[Any]] = field(repr=False)
    plan: Plan
    draw: Draw
    results: list[Any] = field(repr=False)
    """What the model that they were found with returned."""


class Search:
    """Looks for inputs that a model runs on, unlike each other where that can be.

    Every sample is first looked for with plain values, which gives the sizes. What is drawn in
    other ways then, larger or negative, takes its place where the model runs on that too and
    nothing overflows.

    Parameters
    ----------
    load
        Makes a session of the model.
    signature
        Its inputs.
    seed
        Seed of the values.
    half
        Whether the model computes with 16-bit numbers, which overflow early.

    Attributes
    ----------
    runner : Runner
        A session of the model.
    """

    def __init__(
        self, load: Callable[[], Runner], signature: Signature, seed: int, half: bool
    ) -> None:
        self._load, self._signature, self._half = load, signature, half
        self._generator = np.random.default_rng(seed)
        self._finite: list[bool] | None = None
        self.runner = load()

    def samples(self, count: int) -> list[Sample]:
        """Return as many samples, and more to have scalars at 0 and at 1.

        Raises
        ------
        RunError
            If the model runs on nothing that was tried.
        """
        found: list[Sample] = []
        for number in range(count):
            plain = self._plain(number, found[-1].plan if found else None)
            if self._finite is None:
                self._finite = _finite(plain.results)
            drawn = self._drawn(plain.plan, self._signature.draws(number, self._half))
            found.append(plain if drawn is None else drawn)
        smallest = min(
            (sample.plan for sample in found),
            key=lambda plan: sum(math.prod(shape) for _, shape in plan.shapes),
        )
        for draw in self._signature.probes():
            drawn = self._drawn(smallest, [draw])
            found += [] if drawn is None else [drawn]
        return found

    def _plain(self, number: int, last: Plan | None) -> Sample:
        plans = itertools.islice(self._signature.plans(number), _MOST_TRIES)
        failure: RunError | None = None
        for plan in itertools.chain(plans, [] if last is None else [last]):
            try:
                return self._sample(plan, PLAIN)
            except LimitError:
                raise
            except RunError as error:
                failure = failure or error
        raise failure or RunError("it has no inputs that could be made up")

    def _drawn(self, plan: Plan, draws: Iterable[Draw]) -> Sample | None:
        for draw in draws:
            try:
                sample = self._sample(plan, draw)
            except LimitError:
                raise
            except RunError:
                continue
            # Infinities say nothing of what is computed, and rounding decides which are.
            if all(
                now or not before
                for before, now in zip(self._finite or [], _finite(sample.results), strict=True)
            ):
                return sample
        return None

    def _sample(self, plan: Plan, draw: Draw) -> Sample:
        feeds = self._signature.feeds(plan, self._generator, draw)
        try:
            return Sample(feeds, plan, draw, self.runner.run(feeds))
        except CrashError:
            self.runner = self._load()
            raise


def _finite(results: Iterable[Any]) -> list[bool]:
    return [
        all(bool(np.isfinite(array).all()) for array in flat(result) if array.dtype.kind in "fc")
        for result in results
    ]
