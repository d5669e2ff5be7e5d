"""What the native kernels are meant to reach, and whether they do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnx_structdrop.bench.cases import UNIT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from onnx_structdrop.bench.timing import Samples, Spread

__all__ = ["GOAL_BYTES", "GOAL_THREADS", "LARGE", "SMALL", "Goal", "Reached", "judge"]

GOAL_BYTES = 25_000_000
"""Size of a float32 tensor from which the goals for large tensors hold."""

GOAL_THREADS = 2
"""Number of threads that the goals are for."""


@dataclass(frozen=True)
class Goal:
    """A bound on how long one case takes against another.

    Attributes
    ----------
    case, other
        Keys of the cases: their ratio is bounded, or their difference.
    limit
        The bound: a ratio, or microseconds for a difference.
    at_least
        Whether it is a lower bound.
    less
        Key of a case whose time is taken off both.
    difference
        Whether the difference is bounded.
    title
        What the figure is.
    """

    title: str
    case: str
    other: str
    limit: float
    at_least: bool = False
    less: str | None = None
    difference: bool = False

    @property
    def asked(self) -> str:
        """The bound in words."""
        sign = ">=" if self.at_least else "<="
        return f"{sign} {self.limit:g} µs" if self.difference else f"{sign} {self.limit:.2f}"

    def figure(self, samples: Samples) -> Spread:
        """Return the figure that is bounded."""
        if not self.difference:
            return samples.ratio(self.case, self.other, less=self.less)
        spread = samples.excess(self.case, self.other)
        return spread._replace(**{name: 1e6 * value for name, value in spread._asdict().items()})

    def is_met(self, figure: Spread) -> bool:
        """Tell whether a median keeps to the bound."""
        return figure.median >= self.limit if self.at_least else figure.median <= self.limit


LARGE = (
    Goal("SpatialDropout / Mul", "spatial_dropout", UNIT, 1.10),
    Goal("DropBlock / Mul", "drop_block", UNIT, 1.30),
    Goal("DropBlock + mask / Mul", "drop_block_mask", UNIT, 1.60),
    Goal("StructuredDropoutGrad / Mul", "gradient", UNIT, 1.15),
    Goal("DropBlock float16 / Mul float32", "drop_block_float16", UNIT, 0.5),
    Goal("onnxruntime Dropout / DropBlock", "dropout", "drop_block", 12, at_least=True),
    Goal("function / DropBlock", "drop_block_function", "drop_block", 12, at_least=True),
    Goal("torchvision / DropBlock", "torchvision", "drop_block", 60, at_least=True),
    Goal("DropBlock, block 15 / block 3", "drop_block_15", "drop_block_3", 1.1),
    Goal("DropBlock, 1 thread / all threads", "drop_block_alone", "drop_block", 1.8, at_least=True),
    Goal("SpatialDropout, in place / apart", "chain_inside", "chain_outside", 0.75, less="chain_0"),
)
"""Goals on tensors of at least `GOAL_BYTES`."""

SMALL = tuple(
    Goal(f"{title} on 64 B, over Mul", key, UNIT, 3, difference=True)
    for key, title in (
        ("spatial_dropout", "SpatialDropout"),
        ("drop_block", "DropBlock"),
        ("drop_block_mask", "DropBlock + mask"),
    )
)
"""Goals on the smallest tensors."""


@dataclass(frozen=True)
class Reached:
    """A goal and what was measured; `met` is None where the goal is for something else."""

    goal: Goal
    shape: tuple[int, ...]
    figure: Spread
    met: bool | None


def judge(
    goals: Iterable[Goal], samples: Samples, shape: Sequence[int], threads: int
) -> list[Reached]:
    """Return what was reached of the goals whose cases were timed."""
    reached = []
    for goal in goals:
        if not {goal.case, goal.other, goal.less or goal.case} <= samples.cases:
            continue
        figure = goal.figure(samples)
        large_enough = goal.difference or 4 * math.prod(shape) >= GOAL_BYTES
        applies = threads == GOAL_THREADS and large_enough
        reached.append(
            Reached(goal, tuple(shape), figure, goal.is_met(figure) if applies else None)
        )
    return reached
