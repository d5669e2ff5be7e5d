"""Metrics agree with scikit-learn, with numbers by hand, and keep their properties."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sampled import softmax

import onnx_structdrop as sd
from onnx_structdrop.mc import metrics


def predictions(rows=200, classes=5, seed=0, sharpness=2.0):
    rng = np.random.default_rng(seed)
    probabilities = softmax(rng.standard_normal((rows, classes)) * sharpness, 1)
    drawn = rng.random((rows, 1)) > np.cumsum(probabilities[:, :-1], axis=1)
    return probabilities, drawn.sum(axis=1)


def test_beside_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    rows, labels = predictions()
    assert metrics.nll(rows, labels) == pytest.approx(sklearn.log_loss(labels, rows))
    assert metrics.brier(rows, labels) == pytest.approx(
        sklearn.brier_score_loss(labels, rows, scale_by_half=False)
    )
    assert metrics.accuracy(rows, labels) == sklearn.accuracy_score(labels, rows.argmax(1))
    events, happened = rows[:, 0], (labels == 0).astype(int)
    assert metrics.nll(events, happened) == pytest.approx(sklearn.log_loss(happened, events))
    assert metrics.brier(events, happened) == pytest.approx(
        2 * sklearn.brier_score_loss(happened, events)
    )


def test_beside_scikit_learns_calibration_curve():
    curves = pytest.importorskip("sklearn.calibration", reason="needs scikit-learn")
    rows, labels = predictions(1000)
    found = metrics.calibration(rows, labels, bins=10)
    right = rows.argmax(1) == labels
    accuracy, confidence = curves.calibration_curve(right, rows.max(1), n_bins=10)
    full = found.count > 0
    np.testing.assert_allclose(found.accuracy[full], accuracy)
    np.testing.assert_allclose(found.confidence[full], confidence)


def test_calibration_by_hand():
    rows = np.array([[0.95, 0.05], [0.85, 0.15], [0.9, 0.1], [0.4, 0.6]])
    labels = np.array([0, 1, 0, 1])
    found = metrics.calibration(rows, labels, bins=10)
    # The edge 0.9 belongs to the bin below it.
    np.testing.assert_array_equal(found.count, [0, 0, 0, 0, 0, 1, 0, 0, 2, 1])
    assert found.confidence[8] == pytest.approx(0.875)
    assert found.accuracy[8] == 0.5
    assert found.ece == pytest.approx((0.05 + 2 * 0.375 + 0.4) / 4)
    assert found.mce == pytest.approx(0.4)
    assert metrics.ece(rows, labels, bins=1) == pytest.approx(abs(0.75 - 0.825))


def test_labels_that_are_drawn_from_the_prediction_are_calibrated():
    rows, labels = predictions(100_000)
    # Of 15 bins, each within 5 standard errors of at most 1 / (2 sqrt(count)).
    found = metrics.calibration(rows, labels)
    assert found.ece < 5 * (np.sqrt(found.count) / 2).sum() / found.count.sum()
    assert metrics.ece(predictions(100_000, sharpness=4.0)[0], labels) > 0.1


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 60), bins=st.integers(1, 30))
def test_bounds(seed, rows, bins):
    probabilities, labels = predictions(rows, seed=seed)
    found = metrics.evaluate(probabilities, labels, bins=bins)
    assert 0 <= found["ece"] <= 1
    assert 0 <= found["brier"] <= 2
    assert 0 <= found["accuracy"] <= 1
    assert found["nll"] >= 0
    order = np.random.default_rng(seed).permutation(rows)
    turned = metrics.evaluate(probabilities[order], labels[order], bins=bins)
    assert turned == pytest.approx(found)


def test_perfect_and_hopeless():
    sure = np.eye(3)
    labels = np.array([0, 1, 2])
    assert metrics.evaluate(sure, labels) == {"accuracy": 1, "nll": 0, "brier": 0, "ece": 0}
    found = metrics.evaluate(sure, np.array([1, 2, 0]))
    assert found == {"accuracy": 0, "nll": np.inf, "brier": 2, "ece": 1}


def test_maps():
    rows, labels = predictions(2 * 3 * 4)
    first = np.moveaxis(rows.reshape(2, 3, 4, 5), -1, 1)
    wide = labels.reshape(2, 3, 4)
    expected = metrics.evaluate(rows, labels)
    assert metrics.evaluate(first, wide) == pytest.approx(expected)
    assert metrics.evaluate(rows.reshape(2, 3, 4, 5), wide, class_axis=-1) == expected
    edged = wide.copy()
    edged[0] = 255
    left = metrics.evaluate(rows[12:], labels[12:])
    assert metrics.evaluate(first, edged, ignore=255) == pytest.approx(left)


def test_the_arguments_stay_as_they_are():
    rows, labels = predictions()
    before = rows.copy()
    metrics.evaluate(rows, labels)
    np.testing.assert_array_equal(rows, before)


def test_half_precision_probabilities():
    rows, labels = predictions(50, 300)
    assert metrics.nll(rows.astype(np.float16), labels) == pytest.approx(
        metrics.nll(rows, labels), rel=1e-2
    )


GOOD = predictions(4)
BAD = {
    "logits": (GOOD[0] * 9, GOOD[1], "are they logits"),
    "events of many labels": (GOOD[0] * 0.9, GOOD[1], "are they events"),
    "not finite": (np.where(GOOD[0] == GOOD[0][1, 1], np.nan, GOOD[0]), GOOD[1], "1 of 4 rows"),
    "a class too many": (GOOD[0], np.array([0, 1, 2, 5]), "labels go from 0 to 5"),
    "a label below 0": (GOOD[0], np.array([0, 1, 2, -1]), "name one to leave out"),
    "labels of another number": (GOOD[0], GOOD[1][:3], "should be the same"),
    "labels one-hot": (GOOD[0], np.eye(5)[GOOD[1]], "give labels.argmax"),
    "nothing": (GOOD[0][:0], GOOD[1][:0], "nothing to evaluate"),
}


@pytest.mark.parametrize(("rows", "labels", "message"), BAD.values(), ids=BAD)
def test_bad_arguments(rows, labels, message):
    with pytest.raises(sd.ArgumentError, match=message):
        metrics.evaluate(rows, labels)


def test_bad_bins():
    with pytest.raises(sd.ArgumentError, match="bins is 0"):
        metrics.ece(*GOOD, bins=0)
    with pytest.raises(sd.ArgumentTypeError, match=r"bins is 1\.5"):
        metrics.ece(*GOOD, bins=1.5)


def test_auroc():
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    assert metrics.auroc([1, 2], [3, 4]) == 1
    assert metrics.auroc([3, 4], [1, 2]) == 0
    assert metrics.auroc([1, 1], [1, 1]) == 0.5
    rng = np.random.default_rng(0)
    low, high = rng.integers(0, 9, 40), rng.integers(3, 12, 50)
    pairs = np.sign(high[:, None] - low) / 2 + 0.5
    assert metrics.auroc(low, high) == pytest.approx(pairs.mean())
    for one, other in (([], [1]), ([1], [np.nan])):
        with pytest.raises(sd.ArgumentError, match="all finite"):
            metrics.auroc(one, other)


def test_auroc_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(sd.DependencyError, match="pip install"):
        metrics.auroc([1], [2])


def test_risk_and_coverage_by_hand():
    found = metrics.risk_coverage([0.4, 0.1, 0.3, 0.2], [1, 0, 1, 0])
    np.testing.assert_array_equal(found.coverage, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(found.risk, [0, 0, 1 / 3, 0.5])
    assert found.area == pytest.approx((1 / 3 + 0.5) / 4)
    assert found.excess == pytest.approx(0)
    assert found.at(0.5) == 0
    assert found.at(0.51) == pytest.approx(1 / 3)
    assert metrics.risk_coverage(np.arange(10), np.arange(10) > 2).at(0.3) == 0


@given(
    uncertainty=arrays(float, 12, elements=st.sampled_from([0.0, 0.25, 0.5, 1.0])),
    wrong=arrays(bool, 12),
    seed=st.integers(0, 100),
)
def test_the_order_of_equals_does_not_matter(uncertainty, wrong, seed):
    order = np.random.default_rng(seed).permutation(12)
    one = metrics.risk_coverage(uncertainty, wrong)
    other = metrics.risk_coverage(uncertainty[order], wrong[order])
    np.testing.assert_allclose(one.risk, other.risk)
    assert one.risk[-1] == pytest.approx(wrong.mean())
    assert one.excess >= -1e-12
    worst = metrics.risk_coverage(~wrong * 1.0, wrong)
    assert one.area <= worst.area + 1e-12
    flat = metrics.risk_coverage(np.zeros(12), wrong)
    np.testing.assert_allclose(flat.risk, wrong.mean())


@pytest.mark.parametrize(
    ("uncertainty", "wrong", "message"),
    [
        ([1.0, 2.0], [1], "shape"),
        ([], [], "at least one"),
        ([np.inf], [1], "all finite"),
        ([1.0], [-1], "losses above 0"),
    ],
)
def test_bad_risks(uncertainty, wrong, message):
    with pytest.raises(sd.ArgumentError, match=message):
        metrics.risk_coverage(uncertainty, wrong)
    with pytest.raises(sd.ArgumentError, match="coverage is 0"):
        metrics.risk_coverage([1.0], [1]).at(0)


@pytest.mark.parametrize(
    ("axis", "error"),
    [(2, sd.ArgumentError), (-3, sd.ArgumentError), (None, sd.ArgumentTypeError)],
)
def test_a_class_axis_that_is_not_there(axis, error):
    """It is not taken for the last one."""
    with pytest.raises(error, match="class_axis is"):
        metrics.evaluate(np.full((3, 2), 0.5), [0, 1, 0], class_axis=axis)


def test_one_hot_labels_are_not_taken_for_events():
    """They were, and nine of ten right "no" made an accuracy of 90 % of any model."""
    rng = np.random.default_rng(0)
    probabilities = softmax(rng.normal(size=(6, 10)), 1)
    labels = np.eye(10, dtype=int)[rng.integers(0, 10, 6)]
    with pytest.raises(sd.ArgumentError, match=r"give labels\.argmax\(axis=1\)"):
        metrics.evaluate(probabilities, labels)
    maps = np.moveaxis(softmax(rng.normal(size=(2, 3, 4, 5)), -1), -1, 1)
    labels = np.moveaxis(np.eye(5, dtype=int)[rng.integers(0, 5, (2, 3, 4))], -1, 1)
    with pytest.raises(sd.ArgumentError, match="events all the same"):
        metrics.accuracy(maps, labels)
    # Events that do not exclude each other, and the same numbers without an axis of classes.
    metrics.evaluate(rng.random((6, 10)), np.eye(10, dtype=int)[:6])
    metrics.evaluate(rng.random((6, 10)), np.eye(10, dtype=int)[:6], class_axis=None)
    metrics.evaluate(maps.ravel(), labels.ravel())
