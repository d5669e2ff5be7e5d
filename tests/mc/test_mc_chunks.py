"""Rows of runs: every sample of every image once, in order, and as many at a time as pay."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnx_structdrop.mc.chunks import FIRST_SAMPLE_OF_IMAGE, blocks, fastest, measure


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 200), st.integers(0, 1000))
def test_every_sample_of_every_image_once(images, samples, rows, first):
    seen, order = set(), {}
    runs = list(blocks(images, samples, rows))
    for block in runs:
        assert len(block.rows()) <= rows
        pairs = list(zip(block.rows().tolist(), block.draws(first).tolist(), strict=True))
        folded = block.fold(np.array(pairs))
        assert folded.shape == (block.samples, block.images, 2)
        for step, one in enumerate(folded):
            for image, draw in one.tolist():
                sample = draw - (first + image) * FIRST_SAMPLE_OF_IMAGE
                assert sample == block.sample + step
                assert sample == order.get(image, -1) + 1
                order[image] = sample
                seen.add((image, sample))
    assert len(seen) == images * samples
    sizes = [len(block.rows()) for block in runs]
    assert len(runs) <= 4 * -(-images * samples // rows) + 1
    assert min(sizes) * 4 >= max(sizes) or max(sizes) < 8


class Machine:
    """A clock that runs by what is run on it."""

    def __init__(self, cost):
        self.cost, self.now, self.runs = cost, 0.0, []

    def run(self, rows):
        self.runs.append(rows)
        self.now += self.cost(rows)

    def clock(self):
        return self.now


def test_more_rows_as_long_as_they_pay():
    """A run takes 1 ms and 1 ms more per row; beyond 32 rows it leaves the caches."""
    machine = Machine(lambda rows: 1e-3 + 1e-3 * rows * (1 if rows <= 32 else 3))
    found = measure(machine.run, 1000, clock=machine.clock)
    assert fastest(found) == 32
    assert max(found) <= 256


def test_no_more_rows_than_there_are():
    machine = Machine(lambda rows: 1e-4)
    found = measure(machine.run, 12, clock=machine.clock)
    assert sorted(found) == [1, 2, 4, 8, 12]
    assert fastest(found) == 12


def test_as_few_rows_as_are_about_as_fast():
    machine = Machine(lambda rows: 1e-3 * rows)
    assert fastest(measure(machine.run, 1000, clock=machine.clock)) == 1


def test_a_disturbance_does_not_decide():
    """The first looks at four rows are late; a further one finds them the fastest."""
    machine = Machine(lambda rows: 0)

    def cost(rows):
        late = rows == 4 and machine.runs.count(4) <= 3
        return (0.013 if late else 0.01) * rows * (1 if rows == 4 else 1.2)

    machine.cost = cost
    assert fastest(measure(machine.run, 8, clock=machine.clock)) == 4


def test_slow_runs_are_few():
    machine = Machine(lambda rows: 2.0 * rows)
    measure(machine.run, 1000, clock=machine.clock)
    assert machine.runs == [1, 1]
