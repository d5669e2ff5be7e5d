"""What Monte-Carlo samples of an output say about each image.

For the classes c of one image, with p_t the probabilities of sample t of T, and
H[p] = -sum_c p(c) log p(c) in nats:

- mean: p(c) = 1/T sum_t p_t(c), the predictive distribution (Gal and Ghahramani, "Dropout as a
  Bayesian Approximation", 2016);
- predictive entropy H[p], the total uncertainty;
- expected entropy 1/T sum_t H[p_t], what the samples agree to be uncertain about: aleatoric
  (Kendall and Gal, "What Uncertainties Do We Need in Bayesian Deep Learning for Computer Vision?",
  2017; Smith and Gal, "Understanding Measures of Uncertainty for Adversarial Example Detection",
  2018);
- mutual information, their difference: what the samples disagree about, epistemic; the score of
  BALD (Houlsby et al., "Bayesian Active Learning for Classification and Preference Learning",
  2011);
- variation ratio 1 - f/T, f being how many samples put the class first that most of them put
  first (Freeman, "Elementary Applied Statistics", 1965).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from onnx_structdrop.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onnx_structdrop.mc.outputs import OutputKind

__all__ = ["FIELDS", "Statistics"]

FIELDS = (
    "mean",
    "variance",
    "predictive_entropy",
    "expected_entropy",
    "mutual_information",
    "top_class",
    "top_frequency",
    "variation_ratio",
    "nonfinite",
    "quantiles",
    "samples",
)
"""Names of the arrays of `Statistics`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """What the samples of one output say about each image.

    Of classes and events, mean, variance, quantiles and samples are those of the probabilities.
    Shapes without "places" are (images,) for classification; `places` are the axes that remain of
    the output without batch and classes. An event's place is its own number, and its two outcomes
    are the classes of the formulas above.

    Attributes
    ----------
    kind
        What the output holds.
    count
        Samples taken.
    mean
        float64 of shape (images, ...), the shape of the output.
    variance
        Like `mean`: unbiased, NaN for a single sample.
    nonfinite
        int64 of shape (images,): samples with a NaN, or an infinity that no probability comes
        from. Where there is one, the numbers of its place are NaN, and `top_class` is -1.
    predictive_entropy, expected_entropy, mutual_information
        float64 of shape (images, places), in nats, 0 or more; None for regression.
    top_class
        int64 of shape (images, places): class of the largest mean probability; of an event, 1 if
        that is above one half. None for regression.
    top_frequency
        float64 of shape (images, places): share of the samples that put `top_class` first.
    variation_ratio
        float64 of shape (images, places): share of the samples that do not put first what most do.
    levels
        Levels of the quantiles, from 0 to 1.
    quantiles
        float64 of shape (levels, images, ...), linear between samples; None unless asked for.
    samples
        Shape (count, images, ...), float32, of float64 outputs float64; None unless asked for.
    """

    kind: OutputKind
    count: int
    mean: np.ndarray
    variance: np.ndarray
    nonfinite: np.ndarray
    predictive_entropy: np.ndarray | None = None
    expected_entropy: np.ndarray | None = None
    mutual_information: np.ndarray | None = None
    top_class: np.ndarray | None = None
    top_frequency: np.ndarray | None = None
    variation_ratio: np.ndarray | None = None
    levels: tuple[float, ...] = ()
    quantiles: np.ndarray | None = None
    samples: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.mean)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays that there are, by name; without images, `levels`."""
        found = {name: getattr(self, name) for name in FIELDS}
        return {name: array for name, array in found.items() if array is not None}

    @classmethod
    def concat(cls, parts: Iterable[Self]) -> Self:
        """Return statistics of the images of all parts, in their order.

        Raises
        ------
        ArgumentError
            There is no part, or they differ in kind, samples, levels or in what they hold.
        """
        parts = list(parts)
        if not parts:
            raise ArgumentError("there are no statistics to put together")
        first = parts[0]
        for part in parts[1:]:
            for what in ("kind", "count", "levels"):
                mine, other = getattr(first, what), getattr(part, what)
                if mine != other and (what != "kind" or not _same_kind(mine, other)):
                    raise ArgumentError(
                        f"output {first.kind.name!r}: parts differ in their {what}, "
                        f"{mine} and {other}; sample all of them alike"
                    )
            shapes = [_of_images(one) for one in (first, part)]
            if shapes[0] != shapes[1]:
                raise ArgumentError(
                    f"output {first.kind.name!r}: parts hold different arrays, {shapes[0]} and "
                    f"{shapes[1]}; sample all of them alike"
                )
        joined: dict[str, Any] = {
            name: np.concatenate([part.arrays()[name] for part in parts], axis=_image_axis(name))
            for name in first.arrays()
        }
        return dataclasses.replace(first, **joined)


def _same_kind(one: OutputKind, other: OutputKind) -> bool:
    return dataclasses.replace(one, how="") == dataclasses.replace(other, how="")


def _image_axis(name: str) -> int:
    return 1 if name in ("quantiles", "samples") else 0


def _of_images(statistics: Statistics) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array for one image."""
    return {
        name: array.shape[: _image_axis(name)] + array.shape[_image_axis(name) + 1 :]
        for name, array in statistics.arrays().items()
    }
