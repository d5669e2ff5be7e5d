"""What an output holds is told from its numbers, and where they leave a doubt it is said."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import onnx_structdrop as sd
from onnx_structdrop.mc.outputs import describe

RNG = np.random.default_rng(7)


def softmax(scores, axis):
    powers = np.exp(scores - scores.max(axis, keepdims=True))
    return (powers / powers.sum(axis, keepdims=True)).astype(np.float32)


def scores(*shape):
    return (RNG.standard_normal(shape) * 4).astype(np.float32)


def fractions(*shape):
    return RNG.random(shape, np.float32)


FOUND = {
    "scores": (scores(6, 10), ("classification", "logits", 1)),
    "softmax": (softmax(scores(6, 10), 1), ("classification", "probabilities", 1)),
    "scores after pooling": (scores(6, 10, 1, 1), ("classification", "logits", 1)),
    "scores after pooling, channels last": (scores(6, 1, 1, 10), ("classification", "logits", 3)),
    "numbers from 0 to 1": (fractions(6, 10), ("regression", None, None)),
    "one number": (scores(6, 1), ("regression", None, None)),
    "one number without an axis": (scores(6), ("regression", None, None)),
    "one sigmoid": (fractions(6, 1), ("classification", "probabilities", None)),
    "one sigmoid without an axis": (fractions(6), ("classification", "probabilities", None)),
    "map, channels first": (scores(2, 5, 8, 8), ("dense", "logits", 1)),
    "map, channels last": (scores(2, 8, 8, 5), ("dense", "logits", 3)),
    "map that is not square": (scores(2, 5, 8, 9), ("dense", "logits", 1)),
    "map that is not square, channels last": (scores(2, 9, 8, 5), ("dense", "logits", 3)),
    "deep map": (scores(2, 64, 7, 7), ("dense", "logits", 1)),
    "deep map, channels last": (scores(2, 7, 7, 64), ("dense", "logits", 3)),
    "volume": (scores(2, 4, 6, 6, 6), ("dense", "logits", 1)),
    "softmax over a map": (softmax(scores(2, 5, 8, 8), 1), ("dense", "probabilities", 1)),
    "softmax over the last axis": (softmax(scores(2, 8, 8, 5), 3), ("dense", "probabilities", 3)),
    "softmax over a doubtful map": (softmax(scores(2, 6, 5, 7), 3), ("dense", "probabilities", 3)),
    "softmax over boxes": (softmax(scores(2, 30, 5), 2), ("dense", "probabilities", 2)),
    "mask": (fractions(2, 1, 8, 8), ("dense", "probabilities", None)),
    "mask, channels last": (fractions(2, 8, 8, 1), ("dense", "probabilities", None)),
    "depth": (scores(2, 1, 8, 8), ("regression", None, None)),
    "boxes": (scores(2, 5, 30), ("regression", None, None)),
    "map of which any axis may be the classes'": (
        scores(2, 64, 7, 9),
        ("regression", None, None),
    ),
    "map of fractions": (fractions(2, 3, 8, 8), ("regression", None, None)),
    "signal": (scores(2, 1, 30), ("regression", None, None)),
}


@pytest.mark.parametrize(("example", "expected"), FOUND.values(), ids=FOUND)
def test_found_from_the_numbers(example, expected):
    kind = describe("y", example)
    assert (kind.task, kind.values, kind.class_axis) == expected
    assert kind.how
    assert kind.events == (expected[1] is not None and expected[2] is None)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_probabilities_of_every_element_type(dtype):
    example = softmax(scores(40, 1000), 1).astype(dtype)
    assert describe("y", example).values == "probabilities"


def test_rows_that_are_not_finite_do_not_decide():
    example = softmax(scores(6, 10), 1)
    example[2] = np.nan
    assert describe("y", example).values == "probabilities"
    assert describe("y", np.full((3, 10), np.nan, np.float32)).values == "logits"


SAID = {
    "task": (scores(6, 4), {"task": "regression"}, ("regression", None, None)),
    "values": (fractions(6, 10), {"values": "logits"}, ("classification", "logits", 1)),
    "many labels": (
        fractions(6, 10),
        {"class_axis": None},
        ("classification", "probabilities", None),
    ),
    "many labels of scores": (
        scores(6, 10),
        {"class_axis": None},
        ("classification", "logits", None),
    ),
    "axis": (scores(2, 6, 5, 7), {"class_axis": -1}, ("dense", "logits", 3)),
    "axis and values": (
        fractions(2, 6, 5, 7),
        {"class_axis": 2, "values": "logits"},
        ("dense", "logits", 2),
    ),
    "mask without channels": (
        scores(2, 8, 8),
        {"class_axis": None},
        ("dense", "logits", None),
    ),
    "mask of scores": (
        scores(2, 1, 8, 8),
        {"task": "dense"},
        ("dense", "logits", None),
    ),
    "a binary classifier's score": (
        scores(6, 1),
        {"task": "classification"},
        ("classification", "logits", None),
    ),
    "rows that are meant as a map": (scores(2, 5, 1, 1), {"task": "dense"}, ("dense", "logits", 1)),
    "sigmoids": (
        fractions(6, 10),
        {"producer": "Sigmoid"},
        ("classification", "probabilities", None),
    ),
}


@pytest.mark.parametrize(("example", "said", "expected"), SAID.values(), ids=SAID)
def test_what_is_said_counts(example, said, expected):
    kind = describe("y", example, **said)
    assert (kind.task, kind.values, kind.class_axis) == expected


BAD = {
    "unknown task": (scores(2, 4), {"task": "detection"}, "task is 'detection'; allowed are auto"),
    "unknown values": (scores(2, 4), {"values": "odds"}, "values is 'odds'"),
    "axis of the batch": (scores(2, 4), {"class_axis": 0}, "allowed are 1 to 1"),
    "axis too far": (scores(2, 4), {"class_axis": -2}, "allowed are 1 to 1"),
    "regression with classes": (scores(2, 4), {"task": "regression", "class_axis": 1}, "neither"),
    "a map as one distribution": (
        scores(2, 4, 8, 8),
        {"task": "classification"},
        "its task is 'dense'",
    ),
    "classes that do not sum to 1": (
        fractions(2, 4),
        {"task": "classification"},
        "do not sum to 1",
    ),
    "an axis along which they do not sum to 1": (
        fractions(2, 4),
        {"class_axis": 1},
        "do not sum to 1",
    ),
    "a map that leaves a doubt": (scores(2, 64, 7, 9), {"task": "dense"}, "say values and"),
    "labels": (np.zeros((2, 4), np.int64), {}, "holds int64"),
    "no batch": (np.float32(1), {}, "needs a batch axis"),
    "no rows": (scores(0, 4), {}, "some rows"),
}


@pytest.mark.parametrize(("example", "said", "message"), BAD.values(), ids=BAD)
def test_contradictions(example, said, message):
    with pytest.raises(sd.ArgumentError, match=message) as caught:
        describe("y", example, **said)
    assert "'y'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("axis", [True, 1.0, "last", [1]])
def test_an_axis_that_is_none(axis):
    with pytest.raises(sd.ArgumentTypeError, match="class_axis is"):
        describe("y", scores(2, 4), class_axis=axis)


def test_as_text_and_as_data():
    kind = describe("y", softmax(scores(6, 10), 1))
    assert str(kind) == "classification, probabilities on axis 1"
    assert kind.to_dict() == {
        "name": "y", "task": "classification", "values": "probabilities", "class_axis": 1,
        "how": "from 0 to 1, sum to 1 on axis 1", "events": False,
    }  # fmt: skip
    assert str(describe("y", fractions(6, 1))) == "classification, probabilities of events"
    assert str(describe("y", scores(6, 1))) == "regression"
