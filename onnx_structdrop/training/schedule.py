"""How ratios change while a network trains."""

from __future__ import annotations

import dataclasses
import math
import numbers
from typing import TYPE_CHECKING, Any, Self

from onnx_structdrop.errors import ArgumentError, ArgumentTypeError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["KINDS", "Schedule"]

KINDS = ("constant", "linear", "cosine")
"""How a ratio gets from its start to its goal."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A ratio for every step and stage: ``factor(stage) * (start + (goal - start) * p(step))``.

    The goal is `target`, or the rate that a node was inserted with. The progress ``p`` goes from
    0 to 1 over `steps` steps, after `warmup` steps at 0, and stays there: in equal steps for
    "linear", which is the scheduled DropBlock of Ghiasi, Lin and Le (2018), where the probability
    of keeping falls linearly from 1; as ``(1 - cos(pi t)) / 2`` for "cosine". "constant" is at
    its goal from the first step on.

    Attributes
    ----------
    kind
        One of `KINDS`.
    steps
        Length of the rise; 0 for "constant".
    warmup
        Steps before the rise begins.
    start
        Ratio before the rise, in [0, 1).
    target
        Ratio after the rise, in [0, 1); None takes the rate of each node.
    factors
        What to multiply the ratio of a stage with; stages that are not named have factor 1. The
        paper drops group 3 at a quarter of group 4: ``{3: 0.25, 4: 1.0}``. Nodes of stages with
        different factors need ratios of their own, which `generate_artifacts` gives them.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        A field is out of range or of the wrong type.

    Examples
    --------
    >>> schedule = Schedule.linear(steps=100, factors={3: 0.25})
    >>> [schedule.ratio(step, 0.1, 4) for step in (0, 50, 100, 150)]
    [0.0, 0.05, 0.1, 0.1]
    >>> schedule.ratio(100, 0.1, 3)
    0.025
    """

    kind: str = "constant"
    steps: int = 0
    warmup: int = 0
    start: float = 0.0
    target: float | None = None
    factors: Mapping[int, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ArgumentError(f"schedule: kind is {self.kind!r}; allowed are {', '.join(KINDS)}")
        shortest = 0 if self.kind == "constant" else 1
        object.__setattr__(self, "steps", _count(self.steps, "steps", shortest))
        object.__setattr__(self, "warmup", _count(self.warmup, "warmup", 0))
        object.__setattr__(self, "start", _ratio(self.start, "start"))
        if self.target is not None:
            object.__setattr__(self, "target", _ratio(self.target, "target"))
        try:
            pairs = sorted(dict(self.factors).items())
        except (TypeError, ValueError) as error:
            raise ArgumentTypeError(
                f"schedule: factors must map stages to numbers, such as {{3: 0.25}}, "
                f"not {self.factors!r}"
            ) from error
        factors = {_count(stage, "a stage", 1): _factor(value) for stage, value in pairs}
        object.__setattr__(self, "factors", factors)

    def __hash__(self) -> int:
        return hash(tuple(map(str, self.get_config().items())))

    @classmethod
    def constant(
        cls, target: float | None = None, *, factors: Mapping[int, float] | None = None
    ) -> Self:
        """Return a schedule that stays at its goal."""
        return cls("constant", target=target, factors=factors or {})

    @classmethod
    def linear(
        cls,
        steps: int,
        *,
        target: float | None = None,
        start: float = 0.0,
        warmup: int = 0,
        factors: Mapping[int, float] | None = None,
    ) -> Self:
        """Return a schedule in equal steps, as in the DropBlock paper."""
        return cls("linear", steps, warmup, start, target, factors or {})

    @classmethod
    def cosine(
        cls,
        steps: int,
        *,
        target: float | None = None,
        start: float = 0.0,
        warmup: int = 0,
        factors: Mapping[int, float] | None = None,
    ) -> Self:
        """Return a schedule that rises slowly at both ends."""
        return cls("cosine", steps, warmup, start, target, factors or {})

    def progress(self, step: int) -> float:
        """Return how much of the rise is done before a step, from 0 to 1."""
        if self.kind == "constant":
            return 1.0
        done = min(max((step - self.warmup) / self.steps, 0.0), 1.0)
        return done if self.kind == "linear" else (1.0 - math.cos(math.pi * done)) / 2.0

    def factor(self, stage: int | None) -> float:
        """Return what the ratio of a stage is multiplied with; None is no stage."""
        return 1.0 if stage is None else self.factors.get(stage, 1.0)

    def ratio(self, step: int, base_rate: float, stage: int | None = None) -> float:
        """Return the ratio of a node.

        Parameters
        ----------
        step
            How many steps have been made before this one.
        base_rate
            Rate that the node was inserted with.
        stage
            Stage that the node is in, see `Site`.

        Raises
        ------
        ArgumentError
            If the ratio leaves [0, 1), as a factor above 1 may make it.
        """
        goal = base_rate if self.target is None else self.target
        done = self.progress(step)
        # Written so that both ends are exact.
        value = self.factor(stage) * (goal * done + self.start * (1.0 - done))
        if not 0.0 <= value < 1.0:
            raise ArgumentError(
                f"schedule: the ratio of stage {stage} at step {step} is {value:g}; it must be in "
                "[0, 1): lower the target, the rate or the factor"
            )
        return value

    def check(self, base_rate: float, stage: int | None = None) -> None:
        """Check that the ratio of a node stays in [0, 1) in every step.

        Raises
        ------
        ArgumentError
            If it does not.
        """
        for step in (0, self.warmup + self.steps):  # the ends bound what is between them
            self.ratio(step, base_rate, stage)

    def get_config(self) -> dict[str, Any]:
        """Return plain data that JSON can hold and `from_config` takes."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**fields, "factors": {str(stage): value for stage, value in self.factors.items()}}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return the schedule that `get_config` described.

        Raises
        ------
        ArgumentError, ArgumentTypeError
            `config` is none that `get_config` returns.
        """
        try:
            fields = dict(config)
            fields["factors"] = {
                int(stage): value for stage, value in dict(fields.get("factors", {})).items()
            }
            return cls(**fields)
        except (TypeError, ValueError) as error:
            if isinstance(error, ArgumentError | ArgumentTypeError):
                raise
            raise ArgumentError(f"schedule: {config!r} describes no schedule: {error}") from error


def _count(value: Any, name: str, lowest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ArgumentTypeError(f"schedule: {name} must be an integer, not {value!r}")
    if value < lowest:
        raise ArgumentError(f"schedule: {name} is {value}; allowed is {lowest} or more")
    return int(value)


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ArgumentTypeError(f"schedule: {name} must be a number, not {value!r}")
    return float(value)


def _ratio(value: Any, name: str) -> float:
    number = _number(value, name)
    if not 0.0 <= number < 1.0:
        raise ArgumentError(f"schedule: {name} is {value}; allowed is 0 or more and below 1")
    return number


def _factor(value: Any) -> float:
    number = _number(value, "a factor")
    if not 0.0 <= number < math.inf:
        raise ArgumentError(f"schedule: a factor is {value}; allowed is 0 or a positive number")
    return number
