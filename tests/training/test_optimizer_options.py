"""Options of optimizers are checked before a model holds them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnx_structdrop import ArgumentError, ArgumentTypeError
from onnx_structdrop.training.optimizer_options import OPTIMIZERS, checked_options


def test_options_come_back():
    options = {
        "betas": [0, 0.99],
        "eps": np.float32(0.5),
        "weight_decay": 0,
        "bias_correction": False,
        "clip_grad": 1,
    }
    assert checked_options("adamw", options) == options | {"betas": (0, 0.99)}
    assert checked_options("sgd", {"clip_grad": 2}) == {"clip_grad": 2}
    assert OPTIMIZERS == ("adamw", "sgd")
    assert checked_options("sgd", None) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("betas", (1.0, 0.5)),
        ("betas", (0.9, math.nan)),
        ("eps", 0),
        ("eps", -1.0),
        ("weight_decay", -1),
        ("weight_decay", math.inf),
        ("clip_grad", 0.0),
        ("clip_grad", math.nan),
        ("momentum", 0.9),
    ],
)
def test_values_out_of_range(name, value):
    with pytest.raises(ArgumentError, match=f"optimizer_options: .*{name}"):
        checked_options("adamw", {name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("betas", "ab"),
        ("betas", 0.9),
        ("betas", (0.9,)),
        ("eps", "x"),
        ("weight_decay", None),
        ("clip_grad", True),
        ("bias_correction", "x"),
    ],
)
def test_values_of_the_wrong_type(name, value):
    with pytest.raises(ArgumentTypeError, match=f"optimizer_options: {name} must be"):
        checked_options("adamw", {name: value})


@pytest.mark.parametrize("options", [5, [1], "betas"])
def test_options_that_are_none(options):
    with pytest.raises(ArgumentTypeError, match="must be a dict"):
        checked_options("sgd", options)


def test_what_another_optimizer_has():
    with pytest.raises(ArgumentError, match="sgd has no 'betas'; it has clip_grad"):
        checked_options("sgd", {"betas": (0.9, 0.99)})
