"""The handwritten digits of scikit-learn, as small images to train on: data that needs no network.

E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository, 1998: 1,797 images of 8x8 pixels. They are enlarged, 16x16 being the size at which a
network with three resolutions has maps that a block fits into.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_structdrop.errors import ArgumentError, DependencyError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CLASSES", "SIZE", "Digits", "batches", "load_digits", "occlude", "outlines"]

CLASSES = 10
SIZE = 16
"""Height and width of an image, unless another is asked for."""

_WHITE = 16.0
_ORIGINAL = 8
_INK = 0.25
_CORE = 0.75


@dataclasses.dataclass(frozen=True)
class Digits:
    """Images and labels, split in two.

    Attributes
    ----------
    train_images, test_images
        float32 of shape (n, channels, size, size), 0 is background, 1 is ink.
    train_labels, test_labels
        int64 of shape (n,), 0 to 9.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load_digits(train: int = 1000, seed: int = 0, *, size: int = SIZE, channels: int = 1) -> Digits:
    """Return the digits, shuffled and split.

    Parameters
    ----------
    train
        Number of images to train on, 1 to 1,796; the others are for testing.
    seed
        Of the order in which they are split.
    size
        Height and width of the images, at least 8; enlarged linearly.
    channels
        How often each image is repeated along axis 1: colour networks take 3.

    Raises
    ------
    DependencyError
        scikit-learn is not installed.
    ArgumentError
        `train` leaves nothing to train on, or nothing to test with; or there is no such image.
    """
    if size < _ORIGINAL or channels < 1:
        raise ArgumentError(
            f"digits of {channels} channels and size {size} cannot be made; "
            f"allowed are 1 channel or more and size {_ORIGINAL} or more"
        )
    data = _sklearn().load_digits()
    zoom = importlib.import_module("scipy.ndimage").zoom  # comes with scikit-learn
    factor = size / _ORIGINAL
    large = zoom(data.images / _WHITE, (1, factor, factor), order=1)[:, None]
    images = np.repeat(large.astype(np.float32), channels, axis=1)
    labels = data.target.astype(np.int64)
    if not 0 < train < len(images):
        raise ArgumentError(f"train is {train}; allowed is 1 to {len(images) - 1}")
    order = np.random.default_rng(seed).permutation(len(images))
    first, rest = order[:train], order[train:]
    return Digits(images[first], labels[first], images[rest], labels[rest])


def occlude(images: np.ndarray, size: int = 6, seed: int = 0) -> np.ndarray:
    """Return a copy in which a square of each image, at a random place, is background.

    Parameters
    ----------
    images
        Shape (n, channels, height, width).
    size
        Height and width of the square, at most those of an image.
    seed
        Of the places.

    Raises
    ------
    ArgumentError
        The square does not fit.
    """
    height, width = images.shape[-2:]
    if not 0 < size <= min(height, width):
        raise ArgumentError(f"size is {size}; allowed is 1 to {min(height, width)}")
    rng = np.random.default_rng(seed)
    tops = rng.integers(0, height - size + 1, len(images))[:, None, None]
    lefts = rng.integers(0, width - size + 1, len(images))[:, None, None]
    rows, columns = np.arange(height)[:, None], np.arange(width)
    inside = (rows >= tops) & (rows < tops + size) & (columns >= lefts) & (columns < lefts + size)
    return np.where(inside[:, None], np.float32(0), images)


def outlines(images: np.ndarray) -> np.ndarray:
    """Return what to find at each pixel: 0 background, 1 the edge of the digit, 2 its core.

    Parameters
    ----------
    images
        Shape (n, channels, height, width), from 0 to 1.

    Returns
    -------
    numpy.ndarray
        int64 of shape (n, height, width): labels for a network that segments.
    """
    ink = images[:, 0]
    return (ink > _INK).astype(np.int64) + (ink > _CORE)


def batches(
    images: np.ndarray, labels: np.ndarray, size: int, steps: int, seed: int = 0, start: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield whole batches, epoch after epoch, each epoch in an order of its own.

    Parameters
    ----------
    images, labels
        What to draw from, of equal length.
    size
        Images in a batch, at most all of them. What does not fill a batch waits for the next epoch.
    steps
        Number of the last batch to yield.
    seed
        Of the orders.
    start
        Batches to leave out: a run that goes on after `start` steps sees what it would have seen.

    Raises
    ------
    ArgumentError
        `size` is not within 1 and the number of images.
    """
    if not 0 < size <= len(images):
        raise ArgumentError(f"the batch size is {size}; allowed is 1 to {len(images)}")
    per_epoch = len(images) // size
    order = np.empty(0, int)
    epoch = -1
    for step in range(start, steps):
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            order = np.random.default_rng((seed, epoch)).permutation(len(images))
        place = step % per_epoch * size
        chosen = order[place : place + size]
        yield images[chosen], labels[chosen]


def _sklearn() -> Any:
    try:
        return importlib.import_module("sklearn.datasets")
    except ImportError as error:
        raise DependencyError(
            f"the digits come with scikit-learn, which is not installed ({error}): "
            "pip install scikit-learn"
        ) from error
