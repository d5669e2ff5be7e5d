"""What a step is given: arranged as the model takes it, or refused with the reason."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from manifests import MANIFEST

from onnx_structdrop import ArgumentError, ArgumentTypeError
from onnx_structdrop.training.feeds import (
    arrange,
    arrange_inputs,
    check_against_output,
    check_labels,
    is_determined,
)
from onnx_structdrop.training.manifest import TensorInfo

LEFT = np.zeros((4, 3, 8), np.float32)
RIGHT = np.zeros((4, 2), np.float32)
LABELS = np.zeros(4, np.int64)
TWO = dataclasses.replace(
    MANIFEST,
    inputs=(
        TensorInfo("left", "float32", ("N", 3, None)),
        TensorInfo("right", "float32", ("N", "width")),
    ),
    labels=TensorInfo("labels", "int64", ("N",)),
)
ONE = dataclasses.replace(TWO, inputs=TWO.inputs[:1])


@pytest.mark.parametrize(
    "inputs", [[LEFT, RIGHT], (LEFT, RIGHT), {"right": RIGHT, "left": LEFT}], ids=type
)
def test_every_way_to_give_inputs(inputs):
    left, right, labels = arrange(TWO, inputs, LABELS)
    assert left is LEFT
    assert right is RIGHT
    assert labels is LABELS
    assert [id(each) for each in arrange_inputs(TWO, inputs)] == [id(LEFT), id(RIGHT)]


def test_one_input_needs_no_list():
    for inputs in (LEFT, [LEFT], {"left": LEFT}):
        assert arrange(ONE, inputs, LABELS)[0] is LEFT
    assert arrange(ONE, LEFT, [0, 1, 2, 3])[1].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (LEFT, "one array is given; the model takes 2 inputs, as a list or by name: 'left', 'rig"),
        ([LEFT], "1 inputs are given; the model takes 2"),
        ({"left": LEFT}, "inputs are named 'left'; the model takes 'left', 'right'"),
        ([LEFT, RIGHT[0]], r"'right' has shape \(2,\); the model takes 2 axes"),
        ([LEFT[:, :2], RIGHT], r"'left' has shape \(4, 2, 8\)"),
        ([LEFT, RIGHT[:3]], r"'N' is 4 in 'left'; the sizes must agree"),
    ],
)
def test_wrong_inputs(inputs, message):
    with pytest.raises(ArgumentError, match=message):
        arrange(TWO, inputs, LABELS)


def test_the_batch_of_the_labels_agrees():
    with pytest.raises(ArgumentError, match="'labels' has shape"):
        arrange(ONE, LEFT, LABELS[:2])


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.uint8])
def test_nothing_is_converted(dtype):
    with pytest.raises(ArgumentTypeError, match=f"is {np.dtype(dtype).name}; the model takes"):
        arrange(ONE, LEFT.astype(dtype), LABELS)


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (LEFT.astype(">f4"), LABELS, "'left' has the byte order of another machine"),
        (LEFT, LABELS.astype(">i8"), "'labels' has the byte order of another machine"),
        ([[[1], [2, 3]]], LABELS, "input 'left' is no array"),
        (LEFT, [[1], [2, 3]], "input 'labels' is no array"),
    ],
)
def test_bytes_that_would_be_misread(inputs, labels, message):
    with pytest.raises(ArgumentTypeError, match=message):
        arrange(ONE, inputs, labels)


def test_empty_batches():
    """Onnxruntime divides by their size, which ends the process, or makes NaN of statistics."""
    with pytest.raises(ArgumentError, match="'left' is empty"):
        arrange(ONE, LEFT[:0], LABELS[:0])
    free = dataclasses.replace(ONE, inputs=(TensorInfo("left", "float32", None),))
    with pytest.raises(ArgumentError, match="'left' is empty"):
        arrange_inputs(free, LEFT[:0])


@pytest.mark.parametrize(
    ("changes", "determined"),
    [
        ({}, True),
        ({"classes": None}, False),
        ({"classes": "classes"}, False),
        ({"classes": None, "loss": "mse"}, True),
        ({"labels": TensorInfo("labels", "int64", ("M",))}, False),
        ({"labels": TensorInfo("labels", "int64", (None,))}, False),
        ({"labels": TensorInfo("labels", "int64", None)}, False),
        ({"labels": TensorInfo("labels", "int64", (4,))}, True),
    ],
    ids=str,
)
def test_what_the_manifest_says_of_labels(changes, determined):
    assert is_determined(dataclasses.replace(ONE, **changes)) is determined


def test_labels_against_an_output():
    check_against_output(ONE, LABELS, (4, 3))
    with pytest.raises(ArgumentError, match="classes 0 to 2"):
        check_against_output(ONE, LABELS + 3, (4, 3))
    with pytest.raises(ArgumentError, match=r"\(4,\); output 'y' of this batch needs \(2,\)"):
        check_against_output(ONE, LABELS, (2, 3))
    squares = dataclasses.replace(ONE, loss="mse")
    with pytest.raises(ArgumentError, match=r"needs \(4, 3\)"):
        check_against_output(squares, np.zeros((4, 1), np.float32), (4, 3))


def test_an_input_of_unknown_rank_takes_any_shape():
    free = dataclasses.replace(ONE, inputs=(TensorInfo("left", "float32", None),))
    for shape in ((), (4,), (1, 2, 3, 4)):
        array = np.zeros(shape, np.float32)
        assert arrange_inputs(free, array) == [array]


@pytest.mark.parametrize("labels", [[-1, 0], [0, 3]])
def test_labels_are_classes(labels):
    with pytest.raises(ArgumentError, match="the model has classes 0 to 2"):
        check_labels(np.array(labels), 3)
    check_labels(np.array(labels), "classes")  # as many as there are at run time
    check_labels(np.array([0, 2]), 3)
    check_labels(np.array([], np.int64), 3)
