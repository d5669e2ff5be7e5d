"""How good predicted probabilities and uncertainties are, given the labels.

Probabilities have shape (n, classes), or that of a map with the classes on `class_axis`; of
events, those of one outcome each, they have the shape of the labels. `Statistics.mean` is such an
array, and so is the softmax of a network without sampling.
"""

from __future__ import annotations

import dataclasses
import importlib
import numbers
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_structdrop.errors import ArgumentError, ArgumentTypeError, DependencyError
from onnx_structdrop.mc.labelled import pairs

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "BINS",
    "Calibration",
    "RiskCoverage",
    "accuracy",
    "auroc",
    "brier",
    "calibration",
    "ece",
    "evaluate",
    "nll",
    "pairs",
    "risk_coverage",
]

BINS = 15
"""Bins of the calibration error, the number of Guo et al."""


def evaluate(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    class_axis: int = 1,
    ignore: int | None = None,
    bins: int = BINS,
) -> dict[str, float]:
    """Return ``accuracy``, ``nll``, ``brier`` and ``ece``; the arguments are those of each."""
    rows = pairs(probabilities, labels, class_axis=class_axis, ignore=ignore)
    return {
        "accuracy": accuracy(*rows),
        "nll": nll(*rows),
        "brier": brier(*rows),
        "ece": ece(*rows, bins=bins),
    }


def accuracy(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    class_axis: int = 1,
    ignore: int | None = None,
) -> float:
    """Return the share of labels that have the largest probability; see `pairs`."""
    rows, classes = pairs(probabilities, labels, class_axis=class_axis, ignore=ignore)
    return float((rows.argmax(axis=1) == classes).mean())


def nll(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    class_axis: int = 1,
    ignore: int | None = None,
) -> float:
    """Return the mean of -log p(label), in nats; infinite where a label has probability 0.

    Nothing is clipped: a prediction that rules out what happens is as bad as that. See `pairs`.
    """
    rows, classes = pairs(probabilities, labels, class_axis=class_axis, ignore=ignore)
    with np.errstate(divide="ignore"):
        return float(-np.log(rows[np.arange(len(rows)), classes]).mean())


def brier(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    class_axis: int = 1,
    ignore: int | None = None,
) -> float:
    """Return the mean of sum_c (p(c) - [c = label])^2, from 0 to 2.

    The sum over all classes is Brier's own definition ("Verification of Forecasts Expressed in
    Terms of Probability", 1950); of two classes it is twice the form with one of them. See `pairs`.
    """
    rows, classes = pairs(probabilities, labels, class_axis=class_axis, ignore=ignore)
    rows[np.arange(len(rows)), classes] -= 1
    return float(np.square(rows).sum(axis=1).mean())


def ece(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    class_axis: int = 1,
    ignore: int | None = None,
    bins: int = BINS,
) -> float:
    """Return the expected calibration error, see `calibration`."""
    return calibration(probabilities, labels, class_axis=class_axis, ignore=ignore, bins=bins).ece


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """Confidence and accuracy by bins of confidence.

    Attributes
    ----------
    edges
        Shape (bins + 1,), from 0 to 1 in equal steps; an edge belongs to the bin below it.
    count
        Predictions in each bin.
    confidence, accuracy
        Means of each bin; NaN in an empty one.
    """

    edges: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def ece(self) -> float:
        """Expected calibration error: mean of |accuracy - confidence|, bins weighted by count."""
        return float((self.count / self.count.sum() * self._gaps()).sum())

    @property
    def mce(self) -> float:
        """Maximum calibration error: the largest |accuracy - confidence| of a bin."""
        return float(self._gaps().max())

    def _gaps(self) -> np.ndarray:
        return np.where(self.count > 0, np.abs(self.accuracy - self.confidence), 0.0)


def calibration(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    class_axis: int = 1,
    ignore: int | None = None,
    bins: int = BINS,
) -> Calibration:
    """Compare the confidence in the top class with how often it is right.

    Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", 2017: bins of
    equal width; the confidence is the largest probability. The estimate of the error depends on the
    bins, and is too large on few images even of a calibrated network.

    Parameters
    ----------
    probabilities, labels, class_axis, ignore
        See `pairs`.
    bins
        Number of bins.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        As from `pairs`; or `bins` is not a whole number of 1 or more.
    """
    bins = _bins(bins)
    rows, classes = pairs(probabilities, labels, class_axis=class_axis, ignore=ignore)
    confidence = rows.max(axis=1)
    right = rows.argmax(axis=1) == classes
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        return Calibration(
            edges,
            count,
            np.bincount(place, confidence, bins) / count,
            np.bincount(place, right, bins) / count,
        )


def auroc(inside: npt.ArrayLike, outside: npt.ArrayLike) -> float:
    """Return how well a score tells two sets apart: the area under the ROC curve.

    It is the probability that an image of the second set has the higher score, ties counting half:
    0.5 for a score that says nothing. Out-of-distribution images against others, or wrong
    predictions against right ones, by an uncertainty.

    Parameters
    ----------
    inside, outside
        Scores of the two sets, of any shape.

    Raises
    ------
    ArgumentError
        A set is empty or has scores that are not finite.
    DependencyError
        scikit-learn is not installed.
    """
    low, high = _scores(inside, "inside"), _scores(outside, "outside")
    labels = np.repeat([0, 1], [len(low), len(high)])
    return float(_sklearn().roc_auc_score(labels, np.concatenate([low, high])))


@dataclasses.dataclass(frozen=True, eq=False)
class RiskCoverage:
    """The share of wrong predictions among those that are kept, the least uncertain first.

    Attributes
    ----------
    coverage
        Shape (n,): shares of the predictions that are kept, 1/n to 1.
    risk
        Shape (n,): of these, the share that is wrong. Equally uncertain ones are in no order:
        each counts as wrong by the share of them that is.
    """

    coverage: np.ndarray
    risk: np.ndarray

    @property
    def area(self) -> float:
        """Mean risk over the coverages, AURC; 0 is best."""
        return float(self.risk.mean())

    @property
    def excess(self) -> float:
        """What `area` has above that of an uncertainty that puts every wrong prediction last."""
        count = len(self.risk)
        wrong = round(float(self.risk[-1]) * count)
        best = np.maximum(np.arange(1, count + 1) - (count - wrong), 0) / np.arange(1, count + 1)
        return self.area - float(best.mean())

    def at(self, coverage: float) -> float:
        """Return the risk where this share of the predictions, or just more, is kept.

        Raises
        ------
        ArgumentError
            `coverage` is not above 0 and at most 1.
        """
        if not 0 < coverage <= 1:
            raise ArgumentError(f"coverage is {coverage}; allowed is above 0 and at most 1")
        # A share such as 0.3 is a little more than the product of its parts.
        place = int(np.ceil(coverage * len(self.risk) - 1e-9)) - 1
        return float(self.risk[max(place, 0)])


def risk_coverage(uncertainty: npt.ArrayLike, wrong: npt.ArrayLike) -> RiskCoverage:
    """Return what keeping the least uncertain predictions gives.

    Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks", 2017; the area is
    that of Geifman, Uziel and El-Yaniv, "Bias-Reduced Uncertainty Estimation for Deep Neural
    Classifiers", 2019.

    Parameters
    ----------
    uncertainty
        Of each prediction, any shape; higher is less certain.
    wrong
        Whether it is wrong: booleans or 0 and 1, or any loss of 0 or more; of the same shape.

    Raises
    ------
    ArgumentError
        The shapes differ, there is nothing, or something is not finite.
    """
    given = np.asarray(wrong)
    if np.shape(uncertainty) != given.shape:
        raise ArgumentError(
            f"uncertainty has shape {np.shape(uncertainty)}, wrong has {given.shape}; "
            "there is one of each for a prediction"
        )
    scores, losses = _scores(uncertainty, "uncertainty"), _scores(wrong, "wrong")
    if losses.min() < 0:
        raise ArgumentError(f"wrong holds {losses.min()}; allowed are 0, 1 and losses above 0")
    _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    shares = np.bincount(group, losses) / sizes
    kept = np.arange(1, len(scores) + 1)
    return RiskCoverage(kept / len(scores), np.cumsum(np.repeat(shares, sizes)) / kept)


def _scores(values: npt.ArrayLike, what: str) -> np.ndarray:
    scores = np.asarray(values, dtype=np.float64).reshape(-1)
    if not len(scores) or not np.isfinite(scores).all():
        raise ArgumentError(f"{what} needs numbers, all finite, at least one")
    return scores


def _sklearn() -> Any:
    try:
        return importlib.import_module("sklearn.metrics")
    except ImportError as error:
        raise DependencyError(
            f"this metric is scikit-learn's, which is not installed ({error}): "
            "pip install scikit-learn"
        ) from error


def _bins(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ArgumentTypeError(f"bins is {value!r}; allowed is a whole number of 1 or more")
    if value < 1:
        raise ArgumentError(f"bins is {value}; allowed is 1 or more")
    return int(value)
