"""How many rows a run of the suffix takes, and which image and sample each of them is."""

from __future__ import annotations

import os
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
    "steady_clock",
]

FIRST_SAMPLE_OF_IMAGE = 1 << 20
"""Draws of an image: image ``i`` takes sample ``t`` from draw ``i * 2**20 + t``."""

MOST_SAMPLES = FIRST_SAMPLE_OF_IMAGE
MOST_IMAGES = 1 << 28

_GAIN = 0.03
"""Share of the time per row that more rows must save to be worth their memory."""

_PATIENCE = 3
"""Steps without a gain after which no more rows are tried."""

_BUDGET = 1.0
"""Seconds after which no more rows are tried; as many again are for further looks."""

_BUSY = 1.5
"""Load per processor from which on runs have to wait."""

_LOOKS = 3
_CLOSE = 1.5
"""Times the fastest, up to which a number of rows is looked at again."""


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


def steady_clock() -> Callable[[], float]:
    """Return the clock to measure with: time that passes, or on a busy machine CPU time.

    Where more is to be done than there are processors, runs wait for as long as others please.
    """
    try:
        busy = os.getloadavg()[0] > _BUSY * (os.cpu_count() or 1)
    except (AttributeError, OSError):  # Windows has no such number.
        busy = False
    return time.process_time if busy else time.perf_counter


def measure(
    run: Callable[[int], object],
    most: int,
    *,
    clock: Callable[[], float],
) -> dict[int, float]:
    """Time runs of 1, 2, 4, ... rows, as long as more of them pay.

    Parameters
    ----------
    run
        Runs the suffix on so many rows.
    most
        Rows at most.
    clock
        Gives seconds.

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
        found[rows] = _timed(run, rows, clock)
        worse = 0 if found[rows] < best * (1 - _GAIN) else worse + 1
        best = min(best, found[rows])
        if worse >= _PATIENCE or rows >= most or clock() - started > _BUDGET:
            break
        rows = min(2 * rows, most)
    # Whatever else runs on the machine disturbs some of them: the good ones go again, in turn.
    for _ in range(_LOOKS):
        limit = _CLOSE * min(found.values())
        for rows in sorted(rows for rows, each in found.items() if each <= limit):
            if clock() - started > 2 * _BUDGET:
                return found
            found[rows] = min(found[rows], _timed(run, rows, clock))
    return found


def _timed(run: Callable[[int], object], rows: int, clock: Callable[[], float]) -> float:
    """Return seconds per row: the best of up to three runs."""
    seconds: list[float] = []
    while not seconds or (len(seconds) < 3 and sum(seconds) < _BUDGET / 20):
        begun = clock()
        run(rows)
        seconds.append(clock() - begun)
    return min(seconds) / rows


def fastest(found: dict[int, float]) -> int:
    """Return the least number of rows that is about as fast as the fastest."""
    limit = min(found.values()) * (1 + _GAIN)
    return min(rows for rows, each in found.items() if each <= limit)
