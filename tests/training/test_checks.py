"""What sessions are set to is checked before it gets anywhere."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnx_structdrop import ArgumentError, ArgumentTypeError
from onnx_structdrop.training.checks import checked_rate, checked_threads, checked_values

PRESENT = {"w": np.zeros(2, np.float32), "ratio": np.zeros((), np.float32)}


@pytest.mark.parametrize("rate", [0, 1, 0.5, np.float32(0.5), np.float64(0.5)])
def test_learning_rates(rate):
    assert checked_rate(rate) == rate
    assert type(checked_rate(rate)) is float


@pytest.mark.parametrize("rate", [-1, math.nan, math.inf, 1e300])
def test_learning_rates_out_of_range(rate):
    with pytest.raises(ArgumentError, match="that float32 holds"):
        checked_rate(rate)


@pytest.mark.parametrize("rate", [True, None, "1", np.array(0.1)])
def test_learning_rates_that_are_none(rate):
    with pytest.raises(ArgumentTypeError, match="must be a number"):
        checked_rate(rate)


@pytest.mark.parametrize("threads", [0, True, 2.5, "2", 10**12])
def test_threads(threads):
    with pytest.raises(ArgumentError, match="threads is"):
        checked_threads(threads)
    assert checked_threads(None) is None
    assert checked_threads(3) == 3


@pytest.mark.parametrize("given", [None, [1], "w"])
def test_parameters_come_by_name(given):
    with pytest.raises(ArgumentTypeError, match="as a dict"):
        checked_values(PRESENT, given)


def test_values_that_are_no_arrays():
    with pytest.raises(ArgumentTypeError, match="parameter 'w' is no array"):
        checked_values(PRESENT, {"w": [[1], [2, 3]]})


@pytest.mark.parametrize("ratio", [1, 1.5, -0.1, math.nan])
def test_ratios_stay_ratios(ratio):
    with pytest.raises(ArgumentError, match="parameter 'ratio' is a ratio"):
        checked_values(PRESENT, {"ratio": np.array(ratio, np.float32)}, ["ratio"])
    assert checked_values(PRESENT, {"ratio": np.array(0.5, np.float32)}, ["ratio"])
