"""What happened in a training run, step by step."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from onnx_structdrop.errors import ArgumentError, ArgumentTypeError
from onnx_structdrop.training.feeds import as_array

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from onnx_structdrop.training.feeds import Evaluation

__all__ = ["History", "Trainable", "accuracy", "fit"]


class Trainable(Protocol):
    """What `fit` needs of a session; `TrainingSession` and `StockTrainer` have it."""

    @property
    def ratios(self) -> Mapping[str, float]:
        """The ratio that each parameter for one holds now."""

    @property
    def steps(self) -> int:
        """How many steps were made."""

    def step(self, inputs: Any, labels: Any) -> float:
        """Train on one batch and return its loss."""

    def evaluate(self, inputs: Any, labels: Any) -> Evaluation:
        """Return loss and outputs in inference form."""


@dataclasses.dataclass
class History:
    """A training run.

    Attributes
    ----------
    steps
        Number of each step.
    loss
        Training loss of each step.
    ratios
        The ratios in each step, by name.
    evaluations
        Entries with ``step``, after which it was, and a fraction from 0 to 1 for each set.
    """

    steps: list[int] = dataclasses.field(default_factory=list)
    loss: list[float] = dataclasses.field(default_factory=list)
    ratios: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    evaluations: list[dict[str, float]] = dataclasses.field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return dataclasses.asdict(self)

    def falls(self) -> bool:
        """Tell whether the loss is lower in the last fifth of the steps than in the first."""
        if not self.loss:
            return False
        count = max(1, len(self.loss) // 5)
        return bool(np.mean(self.loss[-count:]) < np.mean(self.loss[:count]))


def accuracy(session: Trainable, images: np.ndarray, labels: np.ndarray, size: int = 256) -> float:
    """Return the fraction of images whose class a session in inference form finds.

    Parameters
    ----------
    session
        A `TrainingSession` or a `StockTrainer`; its first output has the classes on axis 1.
    images, labels
        Of equal length; labels hold a class each, or one for each place of a map.
    size
        Images in a batch.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        There are no images, not as many labels, or the model does not take them.
    """
    labels = as_array(labels, "labels")
    if not len(images) or len(images) != len(labels):
        raise ArgumentError(
            f"{len(images)} images and {len(labels)} labels are given; allowed is one or more, "
            "and as many of both"
        )
    if size < 1:
        raise ArgumentError(f"size is {size}; allowed is 1 or more")
    found = 0
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        outputs = session.evaluate(images[part], labels[part]).outputs
        found += int((next(iter(outputs.values())).argmax(1) == labels[part]).sum())
    return found / labels.size


def fit(
    session: Trainable,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    sets: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    every: int = 0,
    told: Callable[[History], None] | None = None,
) -> History:
    """Train on batches and write down how it goes.

    Parameters
    ----------
    session
        A `TrainingSession` or a `StockTrainer`.
    batches
        Inputs and labels of each step.
    sets
        Images and labels by name; the accuracy on each is taken.
    every
        Steps between two evaluations; 0 for one at the end only.
    told
        Called after each step.

    Returns
    -------
    History
        With an evaluation after the last step, if there are `sets`.

    Raises
    ------
    ArgumentError
        The loss is not finite any more.
    ArgumentTypeError
        A batch is no pair of inputs and labels.
    """
    history = History()
    first = session.steps
    for batch in batches:
        inputs, labels = _pair(batch, len(history.loss))
        step = session.steps
        loss = float(session.step(inputs, labels))
        if not np.isfinite(loss):
            raise ArgumentError(
                f"the loss is {loss} in step {step}: lower the learning rate, or look for values "
                "that are not finite in the batch"
            )
        history.steps.append(step)
        history.loss.append(loss)
        for name, ratio in session.ratios.items():
            history.ratios.setdefault(name, []).append(float(ratio))
        if sets and every and (session.steps - first) % every == 0:
            history.evaluations.append(_evaluated(session, sets))
        if told is not None:
            told(history)
    if sets and (not history.evaluations or history.evaluations[-1]["step"] != session.steps):
        history.evaluations.append(_evaluated(session, sets))
    return history


def _pair(batch: Any, place: int) -> tuple[Any, Any]:
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    length = f" of {len(batch)}" if isinstance(batch, tuple | list | np.ndarray) else ""
    raise ArgumentTypeError(
        f"each batch must be a pair of inputs and labels; batch {place} is a "
        f"{type(batch).__name__}{length}"
    )


def _evaluated(
    session: Trainable, sets: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> dict[str, float]:
    found = {name: accuracy(session, *pair) for name, pair in sets.items()}
    return {"step": session.steps, **found}
