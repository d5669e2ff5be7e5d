"""The optimizers of onnxruntime-training's artifacts, on flat arrays in NumPy.

Formulas and order of operations are those of its kernels (`AdamWOptimizer`, `SGDOptimizerV2`,
`InplaceClipGradNorm` of 1.19.2), in float32. A step works through the arrays in pieces that stay
in a processor's cache, which makes it as fast as those kernels.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from onnx_structdrop.errors import UnsupportedModelError
from onnx_structdrop.training.lowering.writer import Operation

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

__all__ = ["SGD", "AdamW", "Optimizer", "read_optimizer"]

_PIECE = 1 << 15
"""Elements worked on at a time: five arrays of them fit into a second-level cache."""

_NORM_EPSILON = np.float32(1e-6)


@dataclasses.dataclass(frozen=True)
class Optimizer(abc.ABC):
    """What updates weights.

    Attributes
    ----------
    max_norm
        The gradients are scaled so that their norm, all together, is at most this; None does not.
    moments
        How many arrays of the size of the weights the optimizer keeps.
    """

    max_norm: float | None = None
    moments: ClassVar[int] = 0

    def update(
        self, weights: Array, gradients: Array, moments: tuple[Array, ...], rate: float, step: int
    ) -> None:
        """Change weights and moments in place.

        Parameters
        ----------
        weights, gradients, moments
            Flat arrays of one size. The gradients may be overwritten.
        rate
            Learning rate.
        step
            Number of this step, from 1.
        """
        if self.max_norm is not None:
            norm = np.float32(np.sqrt(np.dot(gradients, gradients)))
            factor = np.float32(self.max_norm) / (norm + _NORM_EPSILON)
            if not factor >= 1:  # also where it is NaN, as the kernel does
                gradients *= factor
        for part in _pieces(weights.size):
            self._update(
                weights[part], gradients[part], tuple(each[part] for each in moments), rate, step
            )

    @abc.abstractmethod
    def _update(
        self, weights: Array, gradients: Array, moments: tuple[Array, ...], rate: float, step: int
    ) -> None:
        """Change one piece of the weights, and of the moments, in place."""


@dataclasses.dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent without momentum."""

    def _update(
        self, weights: Array, gradients: Array, moments: tuple[Array, ...], rate: float, step: int
    ) -> None:
        weights -= np.float32(rate) * gradients


@dataclasses.dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay.

    Attributes
    ----------
    alpha, beta
        Share of the old value in the first and second moment.
    epsilon
        Added to the root of the second moment.
    weight_decay
        Share of the weights, times the learning rate, that each step takes off.
    adam_mode
        0 corrects both moments and decays first, as PyTorch does; 1 corrects the learning rate
        and decays last, as Hugging Face's transformers do.
    correct_bias
        Whether the moments' start at zero is corrected.
    """

    alpha: float = 0.9
    beta: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    adam_mode: int = 0
    correct_bias: bool = True
    moments: ClassVar[int] = 2

    def _update(
        self, weights: Array, gradients: Array, moments: tuple[Array, ...], rate: float, step: int
    ) -> None:
        one, alpha, beta = np.float32(1), np.float32(self.alpha), np.float32(self.beta)
        epsilon, decay, speed = map(np.float32, (self.epsilon, self.weight_decay, rate))
        first_share = second_share = one
        if self.correct_bias:
            first_share = one - np.float32(float(alpha) ** step)
            second_share = one - np.float32(float(beta) ** step)
        first, second = moments
        if self.adam_mode == 0 and self.weight_decay:
            weights -= weights * speed * decay
        work = gradients * (one - alpha)
        first *= alpha
        first += work
        np.multiply(gradients, one - beta, out=work)
        work *= gradients
        second *= beta
        second += work
        if self.adam_mode == 0:
            np.divide(second, second_share, out=work)
            np.sqrt(work, out=work)
            work += epsilon
            work *= first_share
            np.divide(first * speed, work, out=work)
            weights -= work
            return
        np.sqrt(second, out=work)
        work += epsilon
        corrected = speed * (np.sqrt(second_share) / first_share)
        np.divide(first * corrected, work, out=work)
        weights -= work
        if self.weight_decay:
            weights -= (speed * decay) * weights


def read_optimizer(model: onnx.ModelProto) -> Optimizer:
    """Return what an optimizer model of onnxruntime-training computes.

    Parameters
    ----------
    model
        Its ``optimizer_model.onnx``.

    Raises
    ------
    UnsupportedModelError
        A node is none of AdamWOptimizer, SGDOptimizerV2 and InplaceClipGradNorm.
    """
    max_norm: float | None = None
    chosen: Optimizer | None = None
    for node in model.graph.node:
        operation = Operation(node)
        attributes = operation.attributes
        if node.op_type == "InplaceClipGradNorm":
            if attributes.get("norm_type", "fro") != "fro":
                raise operation.refuse(f"norm_type is {attributes['norm_type']!r}, not 'fro'")
            max_norm = float(attributes.get("max_norm", 1.0))
        elif node.op_type == "AdamWOptimizer":
            mode = attributes.get("adam_mode", 0)
            if mode not in (0, 1):
                raise operation.refuse(f"adam_mode is {mode}; there are 0 and 1")
            chosen = AdamW(
                alpha=attributes.get("alpha", 0.9),
                beta=attributes.get("beta", 0.999),
                epsilon=attributes.get("epsilon", 1e-8),
                weight_decay=attributes.get("weight_decay", 0.0),
                adam_mode=mode,
                correct_bias=bool(attributes.get("correct_bias", 1)),
            )
        elif node.op_type == "SGDOptimizerV2":
            chosen = SGD()
        else:
            raise operation.refuse("no optimizer of this name is known")
    if chosen is None:
        raise UnsupportedModelError(
            "the optimizer model holds no optimizer; make the artifacts again"
        )
    return dataclasses.replace(chosen, max_norm=max_norm)


def _pieces(size: int) -> Iterator[slice]:
    for start in range(0, size, _PIECE):
        yield slice(start, start + _PIECE)
