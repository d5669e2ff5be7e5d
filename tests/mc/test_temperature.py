"""The fitted temperature is the one that the labels were drawn at."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import onnx_structdrop as sd
from onnx_structdrop.mc import metrics
from onnx_structdrop.mc.temperature import fit_temperature, softmax

pytest.importorskip("scipy", reason="needs SciPy")


def drawn(temperature, rows=20_000, classes=4, seed=0):
    """Return logits, and labels that softmax at a temperature gives them."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((rows, classes)) * 3
    steps = np.cumsum(softmax(logits, temperature)[:, :-1], axis=1)
    return logits, (rng.random((rows, 1)) > steps).sum(axis=1)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5, 8.0])
def test_the_temperature_of_the_labels(temperature):
    logits, labels = drawn(temperature)
    found = fit_temperature(logits, labels)
    # The standard error is within 3 % at each of them.
    assert found == pytest.approx(temperature, rel=0.12)
    assert metrics.ece(softmax(logits, found), labels) < 0.02


def test_no_other_temperature_is_better():
    logits, labels = drawn(2.0, 500)
    found = fit_temperature(logits, labels)
    best = metrics.nll(softmax(logits, found), labels)
    for factor in (0.5, 0.99, 1.01, 2):
        assert best < metrics.nll(softmax(logits, factor * found), labels)
    assert metrics.accuracy(softmax(logits, found), labels) == metrics.accuracy(
        softmax(logits), labels
    )
    assert fit_temperature(logits + 100, labels) == pytest.approx(found)
    assert fit_temperature(logits * 3, labels) == pytest.approx(3 * found, rel=1e-5)


def test_maps():
    logits, labels = drawn(2.0, 600)
    wide = np.moveaxis(logits.reshape(2, 15, 20, 4), -1, 1)
    found = fit_temperature(logits, labels)
    maps = labels.reshape(2, 15, 20).copy()
    assert fit_temperature(wide, maps) == pytest.approx(found)
    maps[1] = 255
    assert fit_temperature(wide, maps, ignore=255) == pytest.approx(
        fit_temperature(logits[:300], labels[:300])
    )
    np.testing.assert_allclose(softmax(wide).sum(1), 1)


def test_labels_without_a_best_temperature():
    logits, _ = drawn(1.0, 100)
    with pytest.raises(sd.ArgumentError, match=r"100\.0 % right"):
        fit_temperature(logits, logits.argmax(1))
    with pytest.raises(sd.ArgumentError, match=r" 0\.0 % right"):
        fit_temperature(logits, logits.argmin(1))


def test_bad_arguments():
    logits, labels = drawn(1.0, 10)
    with pytest.raises(sd.ArgumentError, match="logits have shape"):
        fit_temperature(logits, labels[:5])
    with pytest.raises(sd.ArgumentError, match="temperature is 0"):
        softmax(logits, 0)
    with pytest.raises(sd.ArgumentError, match="class_axis is 2"):
        softmax(logits, class_axis=2)
    logits[3, 1] = np.inf
    with pytest.raises(sd.ArgumentError, match="1 of 10 rows of logits are not finite"):
        fit_temperature(logits, labels)


def test_without_scipy(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(sd.DependencyError, match="pip install"):
        fit_temperature(*drawn(1.0, 10))


def test_probabilities_are_not_taken_for_logits():
    """A number came out, and what it scaled was nonsense."""
    rng = np.random.default_rng(0)
    probabilities = softmax(rng.normal(size=(200, 4)) * 2)
    labels = np.array([rng.choice(4, p=row) for row in probabilities])
    for given in (probabilities, probabilities.astype(np.float32)):
        with pytest.raises(sd.ArgumentError, match=r"give numpy\.log of them"):
            fit_temperature(given, labels)
    assert fit_temperature(np.log(probabilities), labels) == pytest.approx(1, abs=0.3)
