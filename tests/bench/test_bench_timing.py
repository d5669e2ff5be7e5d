"""Rounds and figures; no test says how long anything takes."""

from __future__ import annotations

import gc
import itertools

import numpy as np
import pytest

from onnx_structdrop.bench import timing
from onnx_structdrop.bench.goals import LARGE, SMALL, Goal, judge
from onnx_structdrop.bench.report import verdict
from onnx_structdrop.bench.timing import Samples, measure


class Clock:
    """A clock that only what is timed moves."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.calls = []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def case(self, name, seconds):
        """Return something that takes `seconds`, or the next of them."""
        durations = itertools.repeat(seconds) if isinstance(seconds, float) else iter(seconds)

        def run():
            self.calls.append(name)
            self.now += next(durations)

        return run


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_seconds_are_those_of_one_call(clock):
    samples = measure({"a": clock.case("a", 1e-6), "b": clock.case("b", 0.03)}, 5)
    assert samples.cases == {"a", "b"}
    assert samples.seconds("a") == pytest.approx((1e-6,) * 4, rel=1e-6)
    assert samples.seconds("b") == pytest.approx((0.03,) * 4, rel=1e-6)
    assert samples.ratio("b", "a") == pytest.approx((3e4,) * 4, rel=1e-6)
    assert samples.excess("b", "a") == pytest.approx((0.03 - 1e-6,) * 4, rel=1e-6)


def test_every_round_has_every_case_in_an_order_of_its_own(clock):
    cases = {name: clock.case(name, 0.011) for name in "abcdef"}
    measure(cases, 8)
    rounds = [name for name, _ in itertools.groupby(clock.calls)][-48:]
    orders = {tuple(rounds[i : i + 6]) for i in range(0, 48, 6)}
    assert all(sorted(order) == list("abcdef") for order in orders)
    assert len(orders) > 4


def test_short_calls_are_timed_many_at_a_time_after_others_that_are_not_timed(clock):
    measure({"short": clock.case("short", 1e-6), "long": clock.case("long", 0.02)}, 1)
    last = {name: len(list(group)) for name, group in itertools.groupby(clock.calls[-5000:])}
    assert last["short"] == timing._MOST_PRIMING + timing._TRIES * 1000
    assert last["long"] == timing._TRIES


def test_slow_cases_take_part_in_fewer_rounds_evenly_spread(clock):
    samples = measure({"fast": clock.case("fast", 0.01), "slow": clock.case("slow", 0.5)}, 40)
    assert samples.rounds("fast") == 40
    assert samples.rounds("slow") == 6
    taken = np.flatnonzero(np.isfinite(samples._seconds["slow"]))
    assert np.diff(taken).max() <= 7
    slower = measure({"slowest": clock.case("slowest", 9.0)}, 40)
    assert slower.rounds("slowest") == timing._FEWEST
    assert measure({"slowest": clock.case("slowest", 9.0)}, 2).rounds("slowest") == 2


def test_the_shortest_try_of_a_round_counts(clock):
    # One call to warm up, which is long enough to be all of it.
    samples = measure({"a": clock.case("a", [0.1, 0.3, 0.1, 0.2])}, 1)
    assert samples.seconds("a").median == pytest.approx(0.1)


def test_progress_and_the_collector(clock):
    done = []
    assert gc.isenabled()
    measure({"a": clock.case("a", 0.1)}, 4, progress=done.append)
    assert done == [0.25, 0.5, 0.75, 1]
    assert gc.isenabled()


def test_an_interruption_leaves_the_collector_on(clock):
    def interrupted():
        if len(clock.calls) > 3:
            raise KeyboardInterrupt
        clock.case("a", 0.1)()

    with pytest.raises(KeyboardInterrupt):
        measure({"a": interrupted}, 40)
    assert gc.isenabled()


def test_figures_are_taken_within_rounds():
    nan = float("nan")
    samples = Samples(
        {
            "a": np.array([2.0, 4.0, 12.0, 8.0]),
            "unit": np.array([1.0, 2.0, 3.0, 0.5]),
            "rest": np.array([0.5, 1.0, 1.0, nan]),
            "seldom": np.array([nan, 4.0, nan, 1.0]),
        }
    )
    ratio = samples.ratio("a", "unit")
    assert ratio.median == 3.0
    assert (ratio.lower, ratio.upper) == (2.0, 7.0)
    assert ratio.of_minima == 4.0
    assert samples.rounds("seldom") == 2
    # Minima are over the rounds that both took part in.
    assert samples.ratio("seldom", "unit").of_minima == 2.0
    assert samples.ratio("unit", "seldom").median == 0.5
    assert samples.excess("a", "unit").median == 4.75
    less = samples.ratio("a", "unit", less="rest")
    assert (less.median, less.of_minima) == (3.0, 3.0)


def test_goals_are_judged_by_the_median_where_they_apply():
    large, small = (32, 64, 56, 56), (1, 1, 4, 4)
    samples = Samples(
        {
            "a": np.array([1.0, 1.0, 1.2, 1.2]),
            "b": np.array([1.0, 1.0, 1.0, 1.0]),
        }
    )
    goals = (
        Goal("below", "a", "b", 1.15),
        Goal("above", "a", "b", 1.15, at_least=True),
        Goal("clear", "a", "b", 1.3),
        Goal("apart", "a", "b", 1.0, difference=True),
        Goal("unknown", "a", "nothing", 1.0),
    )
    reached = judge(goals, samples, large, 2)
    assert [entry.met for entry in reached] == [True, False, True, False]
    assert [verdict(entry) for entry in reached] == [
        "met, within the spread",
        "missed, within the spread",
        "met",
        "missed, within the spread",
    ]
    assert [entry.goal.asked for entry in reached] == ["<= 1.15", ">= 1.15", "<= 1.30", "<= 1 µs"]
    assert reached[3].figure.median == pytest.approx(0.1e6)
    elsewhere = judge(goals, samples, small, 2)
    assert [entry.met for entry in elsewhere] == [None, None, None, False]
    assert {verdict(entry) for entry in elsewhere} == {"not judged", "missed, within the spread"}
    assert {entry.met for entry in judge(goals, samples, large, 1)} == {None}


def test_goals_are_those_that_were_set():
    limits = {goal.title: (goal.limit, goal.at_least) for goal in (*LARGE, *SMALL)}
    assert limits["SpatialDropout / Mul"] == (1.10, False)
    assert limits["torchvision / DropBlock"] == (60, True)
    assert limits["DropBlock on 64 B, over Mul"] == (3, False)
    assert len(limits) == 14
