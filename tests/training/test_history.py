"""Training runs are written down as they were."""

from __future__ import annotations

import math

import numpy as np
import pytest

import onnx_structdrop as sd
from onnx_structdrop.training.feeds import Evaluation
from onnx_structdrop.training.history import History, accuracy, fit


class Counting:
    """A session whose loss falls by one in each step, and that always finds class 1."""

    def __init__(self, losses, steps=0):
        self.losses = iter(losses)
        self.count = 0
        self.steps = steps

    @property
    def ratios(self):
        return {"stage 3": 0.1 * (self.count - 1), "stage 4": 0.4}

    def step(self, inputs, labels):
        self.count += 1
        self.steps += 1
        return next(self.losses)

    def evaluate(self, inputs, labels):
        scores = np.zeros((len(inputs), 3), np.float32)
        scores[:, 1] = 1
        return Evaluation(0.0, {"scores": scores})


BATCH = (np.zeros((2, 4), np.float32), np.zeros(2, int))
SETS = {"clean": (np.zeros((8, 4), np.float32), np.array([1, 1, 1, 0, 2, 1, 1, 1]))}


def test_steps_losses_ratios_and_evaluations():
    told = []
    history = fit(
        Counting([5.0, 4.0, 3.0], 10), [BATCH] * 3, sets=SETS, every=2,
        told=lambda history: told.append(len(history.steps)),
    )  # fmt: skip
    assert history.steps == [10, 11, 12]
    assert history.loss == [5, 4, 3]
    assert history.ratios["stage 3"] == pytest.approx([0, 0.1, 0.2])
    assert history.ratios["stage 4"] == [0.4] * 3
    assert history.evaluations == [{"step": 12, "clean": 0.75}, {"step": 13, "clean": 0.75}]
    assert told == [1, 2, 3]
    assert history.falls()
    assert History(**history.to_dict()) == history


def test_one_evaluation_at_the_end():
    assert len(fit(Counting([1.0] * 4), [BATCH] * 4, sets=SETS).evaluations) == 1
    assert len(fit(Counting([1.0] * 4), [BATCH] * 4, sets=SETS, every=4).evaluations) == 1
    assert fit(Counting([1.0] * 4), [BATCH] * 4).evaluations == []


def test_a_loss_that_does_not_fall():
    assert not fit(Counting([1.0, 2.0]), [BATCH] * 2).falls()


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite(loss):
    with pytest.raises(sd.ArgumentError, match="in step 1"):
        fit(Counting([1.0, loss]), [BATCH] * 2)


def test_no_steps():
    assert not fit(Counting([]), []).falls()


@pytest.mark.parametrize(
    ("images", "labels", "size", "message"),
    [
        (BATCH[0][:0], BATCH[1][:0], 256, "0 images and 0 labels"),
        (BATCH[0], BATCH[1][:1], 256, "2 images and 1 labels"),
        (*BATCH, 0, "size is 0"),
    ],
)
def test_accuracy_of_nothing(images, labels, size, message):
    with pytest.raises(sd.ArgumentError, match=message):
        accuracy(Counting([]), images, labels, size)


def test_labels_in_a_list():
    assert accuracy(Counting([]), BATCH[0], [1, 2]) == 0.5


def test_accuracy_of_maps():
    class Maps:
        def evaluate(self, inputs, labels):
            scores = np.stack([inputs[:, 0], 1 - inputs[:, 0]], axis=1)
            return Evaluation(0.0, {"map": scores})

    images = np.array([[[[0.0, 1.0], [0.0, 0.0]]]], np.float32)
    assert accuracy(Maps(), images, np.array([[[1, 0], [1, 0]]])) == 0.75


@pytest.mark.parametrize(
    "batch",
    [BATCH[0], (*BATCH, BATCH[1]), BATCH[:1], {"inputs": BATCH[0], "labels": BATCH[1]}, None],
)
def test_batches_are_pairs(batch):
    with pytest.raises(sd.ArgumentTypeError, match="pair of inputs and labels; batch 1 is a"):
        fit(Counting([1.0] * 4), [BATCH, batch])
