"""How many rows a run of the suffix takes, and which image and sample each of them is."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

__all__ = [
    "FIRST_SAMPLE_OF_IMAGE",
    "MOST_IMAGES",
    "MOST_SAMPLES",
    "Block",
    "blocks",
    "fastest",
    "measure",
]

FIRST_SAMPLE_OF_IMAGE = 1 << 20
"""Draws of an image: image ``i`` takes sample ``t`` from draw ``i * 2**20 + t``."""

MOST_SAMPLES = FIRST_SAMPLE_OF_IMAGE
MOST_IMAGES = 1 << 28

_GAIN = 0.03
"""Share of the time per row that more rows must save to be worth their memory."""

_PATIENCE = 2
"""Steps without a gain after which no more rows are tried."""

_BUDGET = 1.0
"""Seconds after which no more rows are tried."""


@dataclass(frozen=True)
class Block:
    """Rows of one run: some samples of some images."""

    image: int
    images: int
    sample: int
    samples: int

    def rows(self) -> npt.NDArray[np.int64]:
        """Return the image of each row, sample by sample."""
        images = np.arange(self.image, self.image + self.images, dtype=np.int64)
        return np.tile(images, self.samples)

    def draws(self, first_image: int) -> npt.NDArray[np.int64]:
        """Return the draw of each row; `first_image` is what image 0 is in the stream."""
        samples = np.arange(self.sample, self.sample + self.samples, dtype=np.int64)
        return (first_image + self.rows()) * FIRST_SAMPLE_OF_IMAGE + np.repeat(samples, self.images)

    def fold(self, output: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return rows of an output as (samples, images, ...)."""
        return output.reshape(self.samples, self.images, *output.shape[1:])


def blocks(images: int, samples: int, rows: int) -> Iterator[Block]:
    """Yield the runs that give every sample of every image, at most `rows` rows at a time.

    As many images as fit share a run, and the runs are about equally large.
    """
    for image, width in _parts(images, rows):
        for sample, depth in _parts(samples, max(1, rows // width)):
            yield Block(image, width, sample, depth)


def _parts(total: int, most: int) -> Iterator[tuple[int, int]]:
    number = -(-total // most)
    for index in range(number):
        start = total * index // number
        yield start, total * (index + 1) // number - start


def measure(
    run: Callable[[int], object],
    most: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[int, float]:
    """Time runs of 1, 2, 4, ... rows, as long as more of them pay.

    Parameters
    ----------
    run
        Runs the suffix on so many rows.
    most
        Rows at most.
    clock
        Seconds.

    Returns
    -------
    dict of int to float
        Seconds per row for each number of rows that was tried.
    """
    found: dict[int, float] = {}
    started, best, worse = clock(), float("inf"), 0
    rows = 1
    while True:
        run(rows)  # Memory of this size is allocated once.
        seconds: list[float] = []
        while not seconds or (len(seconds) < 3 and sum(seconds) < _BUDGET / 20):
            begun = clock()
            run(rows)
            seconds.append(clock() - begun)
        each = found[rows] = min(seconds) / rows
        worse = 0 if each < best * (1 - _GAIN) else worse + 1
        best = min(best, each)
        if worse >= _PATIENCE or rows >= most or clock() - started > _BUDGET:
            return found
        rows = min(2 * rows, most)


def fastest(found: dict[int, float]) -> int:
    """Return the least number of rows that is about as fast as the fastest."""
    limit = min(found.values()) * (1 + _GAIN)
    return min(rows for rows, each in found.items() if each <= limit)
