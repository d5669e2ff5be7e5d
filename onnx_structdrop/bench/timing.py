"""Timing in interleaved rounds."""

from __future__ import annotations

import gc
import random
import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from onnx_structdrop.bench.tensors import Array

__all__ = ["Samples", "Spread", "measure"]

_SAMPLE = 1e-3
"""Seconds that are timed at least: short calls are timed many at a time."""

_TRIES = 3
"""Times that a case is timed in a round; the shortest counts, as whatever else runs only adds."""

_PRIMING, _MOST_PRIMING = 0.01, 8
"""Seconds, and calls at most, that go before the timed ones in a round.

A case finds the caches as the one before left them. Caches shared with other machines take several
passes over a tensor until they keep it, so that cases with memory of their own would pay for it.
"""

_LONG = 0.2
"""Seconds from which a call is timed once a round: others' work averages out."""

_WARM = 0.05
"""Seconds of warming up."""

_BUDGET = 3.0
"""Seconds for one case; what is slower than this in all rounds takes part in fewer of them."""

_FEWEST = 5
"""Rounds that every case takes part in, if there are as many."""


class Spread(NamedTuple):
    """A figure over the rounds: its median, its quartiles, and the figure of the minima."""

    median: float
    lower: float
    upper: float
    of_minima: float


class Samples:
    """Seconds per call of each case in each round; NaN where a case did not take part."""

    def __init__(self, seconds: Mapping[str, Array]) -> None:
        self._seconds = dict(seconds)

    @property
    def cases(self) -> set[str]:
        """Keys of the cases."""
        return set(self._seconds)

    def rounds(self, case: str) -> int:
        """Return the number of rounds that a case took part in."""
        return int(np.isfinite(self._seconds[case]).sum())

    def seconds(self, case: str) -> Spread:
        """Return how long a call takes."""
        return self._spread([case], lambda own: own)

    def ratio(self, case: str, unit: str, *, less: str | None = None) -> Spread:
        """Return the ratio of two cases, each less what a third one takes.

        Ratios are taken within a round, so that they hold when the speed of the machine drifts;
        that of the minima is over the rounds that all took part in.
        """
        if less is None:
            return self._spread([case, unit], lambda own, other: own / other)
        return self._spread(
            [case, unit, less], lambda own, other, rest: (own - rest) / (other - rest)
        )

    def excess(self, case: str, unit: str) -> Spread:
        """Return by how many seconds one case takes longer than another."""
        return self._spread([case, unit], lambda own, other: own - other)

    def _spread(self, cases: list[str], figure: Callable[..., Array]) -> Spread:
        rows = np.stack([self._seconds[case] for case in cases])
        rows = rows[:, np.isfinite(rows).all(axis=0)]
        with np.errstate(divide="ignore", invalid="ignore"):
            lower, median, upper = np.quantile(figure(*rows), (0.25, 0.5, 0.75))
            of_minima = figure(*rows.min(axis=1))
        return Spread(float(median), float(lower), float(upper), float(of_minima))


def measure(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    seed: int = 0,
    progress: Callable[[float], None] = lambda _: None,
) -> Samples:
    """Time all cases in every round, in an order that is drawn anew.

    Cases that take long take part in fewer rounds, evenly spread.

    Parameters
    ----------
    calls
        Case to what runs it once.
    rounds
        Number of rounds.
    seed
        Seed of the orders.
    progress
        Told what fraction of the work is done, between rounds.
    """
    plans = {case: _Plan.of(_warm(run), rounds) for case, run in calls.items()}
    seconds = {case: np.full(rounds, np.nan) for case in calls}
    shuffle = random.Random(seed).shuffle
    collecting = gc.isenabled()
    gc.disable()
    try:
        for number in range(rounds):
            # A case with fewer rounds takes part in evenly spread ones.
            order = [
                case
                for case, plan in plans.items()
                if (number + 1) * plan.rounds // rounds > number * plan.rounds // rounds
            ]
            shuffle(order)
            for case in order:
                plan = plans[case]
                for _ in range(plan.priming):
                    calls[case]()
                seconds[case][number] = min(
                    _sample(calls[case], plan.repeats) for _ in range(plan.tries)
                )
            progress((number + 1) / rounds)
    finally:
        if collecting:
            gc.enable()
    return Samples(seconds)


class _Plan(NamedTuple):
    """How a case is timed: calls beforehand, calls at a time, times in a round, and rounds."""

    priming: int
    repeats: int
    tries: int
    rounds: int

    @classmethod
    def of(cls, seconds: float, rounds: int) -> _Plan:
        """Return the plan for a call that takes about so long."""
        priming = min(int(_PRIMING / seconds), _MOST_PRIMING)
        repeats = max(1, round(_SAMPLE / seconds))
        tries = 1 if seconds > _LONG else _TRIES
        affordable = int(_BUDGET / (seconds * (priming + repeats * tries)))
        return cls(priming, repeats, tries, min(rounds, max(_FEWEST, affordable)))


def _warm(run: Callable[[], object]) -> float:
    """Run something until its time settles; return how long a call takes at best."""
    shortest = _sample(run, 1)
    spent = shortest
    while spent < _WARM and shortest < _LONG:
        again = max(1, min(int(_SAMPLE / max(shortest, 1e-9)), 1000))
        seconds = _sample(run, again)
        spent += seconds * again
        shortest = min(shortest, seconds)
    return max(shortest, 1e-9)


def _sample(run: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats
