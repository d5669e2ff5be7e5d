"""Counting how far a framework's results are from the reference's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TOLERANCE = 1e-6
CASES = 300


@dataclass
class Comparison:
    """Running totals over the cases of one framework function."""

    name: str
    cases: int = 0
    mask_mismatches: int = 0
    max_relative_error: float = 0.0
    skipped: int = 0

    def add(self, output, mask, found) -> None:
        """Compare one framework output with the reference's output and mask; data has no zeros."""
        assert found.shape == output.shape
        kept = np.broadcast_to(mask, output.shape)
        self.cases += 1
        self.mask_mismatches += int(np.count_nonzero((found != 0) != kept))
        if kept.any():
            error = np.abs(found - output)[kept] / np.abs(output[kept])
            self.max_relative_error = max(self.max_relative_error, float(error.max()))

    def finish(self) -> None:
        """Print the totals and fail unless everything agreed."""
        print(
            f"{self.name}: {self.cases} cases, {self.mask_mismatches} mask mismatches, "
            f"max relative error {self.max_relative_error:.2g}"
            + (f", {self.skipped} skipped" if self.skipped else "")
        )
        assert self.cases >= CASES
        assert self.mask_mismatches == 0
        assert self.max_relative_error <= TOLERANCE


def random_data(rng, shape):
    """Return float32 data of either sign, away from zero, so that a zero means dropped."""
    magnitude = rng.uniform(0.5, 2.0, shape)
    return (magnitude * rng.choice([-1.0, 1.0], shape)).astype(np.float32)


def random_rate(rng):
    """Return a rate that float32 holds exactly, since that is what a node receives."""
    return float(np.float32(rng.choice([rng.uniform(0, 1), 0.1, 0.5, rng.uniform(0, 0.2)])))
