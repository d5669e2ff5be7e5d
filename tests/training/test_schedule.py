"""Schedules: their ends, their course, their limits, and the way through JSON."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_structdrop import ArgumentError, ArgumentTypeError
from onnx_structdrop.training import Schedule

rates = st.floats(0, 0.99)
schedules = st.builds(
    Schedule,
    kind=st.sampled_from(["linear", "cosine"]),
    steps=st.integers(1, 1000),
    warmup=st.integers(0, 100),
    start=rates,
    target=st.none() | rates,
    factors=st.dictionaries(st.integers(1, 9), st.floats(0, 1), max_size=4),
)


@given(schedules, rates, st.none() | st.integers(1, 9))
def test_ends_are_exact(schedule, rate, stage):
    factor = schedule.factor(stage)
    goal = rate if schedule.target is None else schedule.target
    last = schedule.warmup + schedule.steps
    for step in {0, schedule.warmup}:
        assert schedule.ratio(step, rate, stage) == factor * schedule.start
    for step in (last, last + 1, 10 * last):
        assert schedule.ratio(step, rate, stage) == factor * goal


@given(schedules, rates, st.integers(0, 1200))
def test_ratio_goes_one_way_and_stays_between_its_ends(schedule, rate, step):
    goal = rate if schedule.target is None else schedule.target
    now, then = (schedule.ratio(each, rate) for each in (step, step + 1))
    low, high = sorted((schedule.start, goal))
    assert low - 1e-12 <= now <= high + 1e-12
    assert (then - now) * (goal - schedule.start) >= -1e-12


@given(schedules)
def test_survives_json(schedule):
    again = Schedule.from_config(json.loads(json.dumps(schedule.get_config())))
    assert again == schedule
    assert hash(again) == hash(schedule)


def test_linear_is_that_of_the_paper():
    schedule = Schedule.linear(100, target=0.1, factors={3: 0.25, 4: 1.0})
    assert [schedule.ratio(step, 0.5, 4) for step in (0, 25, 50, 100)] == [0, 0.025, 0.05, 0.1]
    assert schedule.ratio(100, 0.5, 3) == 0.025
    assert schedule.ratio(100, 0.5, None) == schedule.ratio(100, 0.5, 2) == 0.1


def test_cosine_rises_slowly_at_both_ends():
    schedule = Schedule.cosine(100)
    assert schedule.ratio(50, 0.2) == pytest.approx(0.1)
    assert schedule.ratio(25, 0.2) == pytest.approx(0.1 * (1 - math.cos(math.pi / 4)))
    assert schedule.ratio(10, 0.2) < Schedule.linear(100).ratio(10, 0.2)
    assert schedule.ratio(90, 0.2) > Schedule.linear(100).ratio(90, 0.2)


def test_constant_and_warmup():
    assert Schedule.constant().ratio(0, 0.3) == Schedule().ratio(7, 0.3) == 0.3
    assert Schedule.constant(0.2, factors={1: 0.5}).ratio(0, 0.9, 1) == 0.1
    late = Schedule.linear(10, warmup=5)
    assert [late.ratio(step, 0.5) for step in (0, 5, 10, 15)] == [0, 0, 0.25, 0.5]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"kind": "step"}, ArgumentError, "linear"),
        ({"kind": "linear"}, ArgumentError, "steps is 0"),
        ({"kind": "linear", "steps": 1.5}, ArgumentTypeError, "steps"),
        ({"kind": "linear", "steps": True}, ArgumentTypeError, "steps"),
        ({"warmup": -1}, ArgumentError, "warmup"),
        ({"start": 1.0}, ArgumentError, "below 1"),
        ({"start": "0"}, ArgumentTypeError, "start"),
        ({"target": 1}, ArgumentError, "target"),
        ({"target": math.nan}, ArgumentError, "target"),
        ({"factors": {0: 1}}, ArgumentError, "stage"),
        ({"factors": {"3": 1}}, ArgumentTypeError, "stage"),
        ({"factors": {3: -1}}, ArgumentError, "factor"),
        ({"factors": {3: math.inf}}, ArgumentError, "factor"),
        ({"factors": 3}, ArgumentTypeError, "map stages"),
    ],
)
def test_what_is_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        Schedule(**arguments)


def test_ratio_that_reaches_one_is_refused():
    schedule = Schedule.linear(10, factors={4: 2.0})
    schedule.check(0.49, 4)
    with pytest.raises(ArgumentError, match="stage 4 at step 10"):
        schedule.check(0.5, 4)
    with pytest.raises(ArgumentError, match="lower the target"):
        schedule.ratio(10, 0.5, 4)
    schedule.check(0.5, 3)


@pytest.mark.parametrize(
    "config", [{"kind": "linear"}, {"speed": 1}, {"factors": {"a": 1}}, {"factors": 5}, [1]]
)
def test_configurations_that_are_none(config):
    with pytest.raises(ArgumentError):
        Schedule.from_config(config)
