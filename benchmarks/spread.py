"""What is told of numbers that were measured several times."""

from __future__ import annotations

import dataclasses
import statistics


@dataclasses.dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    lower: float
    median: float
    upper: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Summarise numbers, of which there is at least one."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        return cls(*statistics.quantiles(values, n=4, method="inclusive"))

    def text(self, unit: float = 1.0, places: int = 2) -> str:
        """Return the numbers for a table, each times `unit`."""
        lower, median, upper = (f"{value * unit:.{places}f}" for value in dataclasses.astuple(self))
        return f"{median} ({lower} to {upper})"
