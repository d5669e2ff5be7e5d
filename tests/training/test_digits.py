"""The digits: shapes, splits, squares, and batches that a resumed run sees again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnx_structdrop as sd
from onnx_structdrop.training.digits import SIZE, batches, load_digits, occlude, outlines

IMAGES = np.arange(23 * SIZE * SIZE, dtype=np.float32).reshape(23, 1, SIZE, SIZE) + 1
LABELS = np.arange(23)


def test_split():
    pytest.importorskip("sklearn")
    digits = load_digits(train=1500, seed=3)
    assert digits.train_images.shape == (1500, 1, SIZE, SIZE)
    assert digits.train_images.dtype == np.float32
    assert len(digits.test_images) == len(digits.test_labels) == 297
    assert 0 <= digits.test_images.min() < digits.test_images.max() <= 1
    assert set(digits.train_labels) == set(range(10))
    with pytest.raises(sd.ArgumentError, match="allowed is 1 to 1796"):
        load_digits(train=1797)


def test_other_sizes_and_channels():
    pytest.importorskip("sklearn")
    digits = load_digits(train=1700, size=40, channels=3)
    assert digits.test_images.shape == (97, 3, 40, 40)
    assert (digits.test_images == digits.test_images[:, :1]).all()
    labels = outlines(digits.test_images)
    assert labels.shape == (97, 40, 40)
    assert set(np.unique(labels)) == {0, 1, 2}
    with pytest.raises(sd.ArgumentError, match="size 8 or more"):
        load_digits(size=7)


@given(st.integers(1, SIZE), st.integers(0, 99))
def test_a_square_is_dark_and_nothing_else(size, seed):
    covered = occlude(IMAGES, size, seed)
    dark = covered == 0
    assert (dark.sum((1, 2, 3)) == size * size).all()
    assert np.array_equal(covered[~dark], IMAGES[~dark])
    for image in dark[:, 0]:
        assert image.any(0).sum() == image.any(1).sum() == size


@pytest.mark.parametrize("size", [0, SIZE + 1])
def test_a_square_that_does_not_fit(size):
    with pytest.raises(sd.ArgumentError, match="allowed is 1 to 16"):
        occlude(IMAGES, size)


@given(st.integers(1, 23), st.integers(0, 60), st.integers(0, 30))
def test_batches_go_on_where_they_stopped(size, steps, start):
    whole = list(batches(IMAGES, LABELS, size, steps, seed=1))
    assert len(whole) == steps
    rest = list(batches(IMAGES, LABELS, size, steps, seed=1, start=start))
    assert len(rest) == max(0, steps - start)
    for (images, labels), (again, same) in zip(whole[start:], rest, strict=True):
        assert np.array_equal(images, again)
        assert np.array_equal(labels, same)
        assert np.array_equal(images, IMAGES[labels])
    per_epoch = 23 // size
    seen = np.concatenate([labels for _, labels in whole[:per_epoch]] or [LABELS[:0]])
    assert len(set(seen)) == len(seen), "an image comes once in an epoch"


@pytest.mark.parametrize("size", [0, 24])
def test_a_batch_size_that_cannot_be(size):
    with pytest.raises(sd.ArgumentError, match="allowed is 1 to 23"):
        next(batches(IMAGES, LABELS, size, 1))
