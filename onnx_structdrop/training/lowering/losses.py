"""Cross entropy and softmax: the loss, its logarithm of probabilities, and their gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx_structdrop.training.lowering.writer import Operation, Rule, Writer

__all__ = ["RULES"]


class _Labels:
    """Labels, which of them count, and the weight of each sample.

    Parameters
    ----------
    operation
        The loss or its gradient.
    writer
        Where nodes go.
    first
        Index of the labels among the inputs; weights and the ignored label follow.
    like
        A value with the element type of the loss.
    """

    def __init__(self, operation: Operation, writer: Writer, first: int, like: str) -> None:
        self.writer, self.like = writer, like
        self.labels = operation.input(first)
        weights = operation.input(first + 1)
        ignored = operation.input(first + 2)
        if not ignored and "ignore_index" in operation.attributes:
            ignored = writer.constant(
                operation.attributes["ignore_index"], writer.dtype(self.labels)
            )
        self.counts = ""
        self.weights = ""
        self.safe = self.labels
        if ignored:
            same = writer.emit("Equal", self.labels, ignored)
            zero = writer.constant(0, writer.dtype(self.labels))
            self.safe = writer.emit("Where", same, zero, self.labels)
            kept = writer.emit("Not", same)
            self.counts = writer.emit("Cast", kept, to=writer.element_type(like))
        if weights:
            self.weights = writer.emit("Gather", weights, self.safe, axis=0)
            if self.counts:
                self.weights = writer.emit("Mul", self.weights, self.counts)
        elif self.counts:
            self.weights = self.counts

    def divisor(self) -> str:
        """Write what the mean divides by: the weights that count, and 1 where none does."""
        if not self.weights:
            return self.writer.count(self.labels, self.like)
        total = self.writer.emit("ReduceSum", self.weights, keepdims=0)
        none = self.writer.emit("Equal", total, self.writer.scalar(0, self.like))
        return self.writer.emit("Where", none, self.writer.scalar(1, self.like), total)


def _cross_entropy(operation: Operation, writer: Writer) -> None:
    scores = operation.input(0)
    reduction = operation.attributes.get("reduction", "mean")
    labels = _Labels(operation, writer, 1, scores)
    log_prob = operation.output(1) or writer.fresh("log_prob")
    writer.emit("LogSoftmax", scores, axis=1, output=log_prob)
    column = writer.emit("Unsqueeze", labels.safe, writer.constant([1]))
    picked = writer.emit("GatherElements", log_prob, column, axis=1)
    loss = writer.emit("Neg", writer.emit("Squeeze", picked, writer.constant([1])))
    if labels.weights:
        loss = writer.emit("Mul", loss, labels.weights)
    if reduction == "none":
        writer.emit("Identity", loss, output=operation.output(0))
    elif reduction == "sum":
        writer.emit("ReduceSum", loss, keepdims=0, output=operation.output(0))
    else:
        total = writer.emit("ReduceSum", loss, keepdims=0)
        writer.emit("Div", total, labels.divisor(), output=operation.output(0))


def _cross_entropy_grad(operation: Operation, writer: Writer) -> None:
    grad, log_prob = operation.input(0), operation.input(1)
    reduction = operation.attributes.get("reduction", "mean")
    labels = _Labels(operation, writer, 2, log_prob)
    factor = grad
    if reduction == "mean":
        factor = writer.emit("Div", grad, labels.divisor())
    if labels.weights:
        factor = writer.emit("Mul", labels.weights, factor)
    if labels.weights or reduction == "none":
        factor = writer.emit("Unsqueeze", factor, writer.constant([1]))
    chosen = _one_hot(operation, writer, labels.labels, log_prob)
    offset = writer.emit("Sub", writer.emit("Exp", log_prob), chosen)
    result = writer.emit("Mul", offset, factor, output=operation.output(0))
    if operation.input(5):  # the internal form adds another gradient of the scores
        writer.nodes[-1].output[0] = writer.fresh("scores_grad")
        result = writer.nodes[-1].output[0]
        writer.emit("Add", result, operation.input(5), output=operation.output(0))


def _one_hot(operation: Operation, writer: Writer, labels: str, log_prob: str) -> str:
    sizes = writer.shape(operation, log_prob)
    classes = sizes[1]
    if classes is None:
        raise operation.refuse(f"the number of classes of {log_prob!r} is not fixed")
    numbers = np.arange(classes).reshape(classes, *[1] * (len(sizes) - 2))
    column = writer.emit("Unsqueeze", labels, writer.constant([1]))
    same = writer.emit("Equal", column, writer.constant(numbers, writer.dtype(labels)))
    return writer.emit("Cast", same, to=writer.element_type(log_prob))


def _softmax_grad(operation: Operation, writer: Writer) -> None:
    grad, value = operation.inputs
    axis = operation.attributes.get("axis", -1)
    product = writer.emit("Mul", grad, value)
    total = writer.total(product, [axis], keep=True)
    centred = writer.emit("Sub", grad, total)
    writer.emit("Mul", value, centred, output=operation.output(0))


def _log_softmax_grad(operation: Operation, writer: Writer) -> None:
    grad, value = operation.inputs
    total = writer.total(grad, [operation.attributes.get("axis", -1)], keep=True)
    share = writer.emit("Mul", writer.emit("Exp", value), total)
    writer.emit("Sub", grad, share, output=operation.output(0))


RULES: dict[str, Rule] = {
    "LogSoftmaxGrad_13": _log_softmax_grad,
    "SoftmaxCrossEntropyLoss": _cross_entropy,
    "SoftmaxCrossEntropyLossGrad": _cross_entropy_grad,
    "SoftmaxCrossEntropyLossInternal": _cross_entropy,
    "SoftmaxCrossEntropyLossInternalGrad": _cross_entropy_grad,
    "SoftmaxGrad_13": _softmax_grad,
}
"""How each operator is written in standard ONNX."""
