"""What preparation did, and the model that came out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from onnx_structdrop.graph.convert import ModelT

__all__ = ["Change", "Prepared"]


@dataclass(frozen=True)
class Change:
    """One thing that preparation did to a model.

    Attributes
    ----------
    node : str
        Name of the node or initializer; "" for the model as a whole.
    what : str
        What was done.
    why : str
        What would have gone wrong otherwise.
    """

    node: str
    what: str
    why: str

    def __str__(self) -> str:
        place = f"{self.node}: " if self.node else ""
        return f"{place}{self.what} ({self.why})"


@dataclass(frozen=True)
class Prepared(Generic[ModelT]):
    """A model that onnxruntime-training 1.19.2 can train, and what its parameters are.

    Attributes
    ----------
    model : onnx.ModelProto or onnx_ir.Model
        The kind that was given. Structured dropout is on.
    changes : tuple of Change
        What was done, in order.
    trainable : tuple of str
        Initializers to train.
    frozen : tuple of str
        Initializers that are parameters, so that the session can read and write them, but that
        the optimizer leaves alone: the ratios, running statistics, what the caller froze.
    ratios : tuple of str
        Those of `frozen` that are ratios of structured dropout nodes.
    statistics : tuple of (str, str)
        With ``batch_norm="train"``: pairs of a frozen parameter that holds a running statistic,
        and the value of the graph that holds what it is after this step. Make these values
        outputs of the training model, and write them back after each step.
    """

    model: ModelT
    changes: tuple[Change, ...]
    trainable: tuple[str, ...]
    frozen: tuple[str, ...]
    ratios: tuple[str, ...]
    statistics: tuple[tuple[str, str], ...] = ()
