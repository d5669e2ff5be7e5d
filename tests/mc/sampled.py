"""Samples of outputs, and statistics of them by the definitions, all samples at hand."""

from __future__ import annotations

import itertools

import numpy as np

from onnx_structdrop.mc.accumulator import Accumulator
from onnx_structdrop.mc.outputs import OutputKind

SAMPLES, IMAGES = 7, 5

KINDS = {
    "logits": (OutputKind("y", "classification", "logits", 1), (6,)),
    "many logits": (OutputKind("y", "classification", "logits", 1), (300,)),
    "probabilities": (OutputKind("y", "classification", "probabilities", 1), (6,)),
    "map of logits": (OutputKind("y", "dense", "logits", 1), (6, 3, 4)),
    "map of logits, channels last": (OutputKind("y", "dense", "logits", 3), (3, 4, 6)),
    "map of probabilities": (OutputKind("y", "dense", "probabilities", 1), (6, 3, 4)),
    "map of one place": (OutputKind("y", "dense", "logits", 1), (300, 1, 1)),
    "volume": (OutputKind("y", "dense", "logits", 1), (3, 2, 3, 4)),
    "event": (OutputKind("y", "classification", "logits", None), (1,)),
    "events": (OutputKind("y", "classification", "probabilities", None), (9,)),
    "mask": (OutputKind("y", "dense", "logits", None), (1, 3, 4)),
    "number": (OutputKind("y", "regression", None, None), ()),
    "numbers": (OutputKind("y", "regression", None, None), (4, 3)),
}


def softmax(scores, axis):
    powers = np.exp(scores - scores.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def outputs(kind, dims, seed=0, samples=SAMPLES, images=IMAGES, dtype=np.float32):
    """Return samples of a kind of output, of shape (samples, images, ...)."""
    rng = np.random.default_rng(seed)
    raw = rng.standard_normal((samples, images, *dims)) * 3
    if kind.values == "probabilities":
        raw = 1 / (1 + np.exp(-raw)) if kind.events else softmax(raw, kind.class_axis + 1)
    return raw.astype(dtype)


def accumulate(kind, block, cuts_of_samples=(), cuts_of_images=(), **options):
    """Return statistics of samples that arrive in blocks."""
    samples, images = block.shape[:2]
    accumulator = Accumulator(kind, images, samples, **options)
    for first, last in pieces(cuts_of_images, images):
        for start, stop in pieces(cuts_of_samples, samples):
            accumulator.add(block[start:stop, first:last], first)
    return accumulator.finish()


def pieces(cuts, size):
    edges = [0, *sorted(set(cuts) - {0, size}), size]
    return list(itertools.pairwise(edges))


def entropy(probabilities, axis):
    return -np.where(
        probabilities > 0, probabilities * np.log(np.maximum(probabilities, 1e-300)), 0
    ).sum(axis)


def by_definition(kind, block):
    """Return what the statistics should be, by NumPy and the formulas."""
    wide = block.astype(np.float64)
    axis = None
    if kind.values is not None:
        axis = block.ndim if kind.events else kind.class_axis + 1
        if kind.values == "logits":
            wide = 1 / (1 + np.exp(-wide)) if kind.events else softmax(wide, axis)
    found = {"mean": wide.mean(0), "variance": wide.var(0, ddof=1)}
    if axis is None:
        return found
    classes = np.stack([1 - wide, wide], axis=-1) if kind.events else wide
    mean = classes.mean(0)
    found["predictive_entropy"] = entropy(mean, axis - 1)
    found["expected_entropy"] = entropy(classes, axis).mean(0)
    found["mutual_information"] = found["predictive_entropy"] - found["expected_entropy"]
    found["top_class"] = mean.argmax(axis - 1)
    first = classes.argmax(axis)
    found["top_frequency"] = (first == found["top_class"]).mean(0)
    counts = [(first == one).mean(0) for one in range(classes.shape[axis])]
    found["variation_ratio"] = 1 - np.max(counts, axis=0)
    return found
