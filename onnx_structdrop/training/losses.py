"""Losses, written into the model with standard operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_structdrop.errors import ArgumentError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = ["LOSSES", "add_loss", "check_reached"]

LOSS_OUTPUT = "structdrop_loss"


def add_loss(proto: onnx.ModelProto, loss: str, output: str) -> tuple[str, str]:
    """Add a loss, averaged over everything, and the input that it compares an output with.

    Onnxruntime's own blocks take the last axis for the classes; in images they are on axis 1.
    Labels of the cross entropy have the other axes, those of the other losses all of them.

    Returns
    -------
    tuple of str
        Names of the loss, which is no output of the graph yet, and of the input.

    Raises
    ------
    ArgumentError
        The model has a value of one of these names.
    UnsupportedModelError
        The rank of the output is unknown, or too low for the loss, or it is not float32.
    """
    (value,) = (each for each in proto.graph.output if each.name == output)
    tensor = value.type.tensor_type
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise UnsupportedModelError(
            f"output {output!r} is {kind}; onnxruntime-training has losses for float32"
        )
    if not tensor.HasField("shape"):
        raise UnsupportedModelError(
            f"the rank of output {output!r} is unknown; run onnx.shape_inference first"
        )
    name = "labels" if loss == "cross_entropy" else "target"
    _check_free(proto, name)
    labels = onnx.ValueInfoProto()
    labels.CopyFrom(value)
    labels.name = name
    if loss == "cross_entropy":
        if len(tensor.shape.dim) < 2:
            raise UnsupportedModelError(
                f"output {output!r} has rank {len(tensor.shape.dim)}; cross_entropy needs "
                "classes on axis 1"
            )
        labels.type.tensor_type.elem_type = onnx.TensorProto.INT64
        del labels.type.tensor_type.shape.dim[1]
    proto.graph.input.append(labels)
    _BUILDERS[loss](proto.graph, output, name)
    return LOSS_OUTPUT, name


def check_reached(proto: onnx.ModelProto, output: str, trainable: Collection[str]) -> None:
    """Check that every parameter to train has something to do with the output of the loss.

    Raises
    ------
    UnsupportedModelError
        One has not: the model has another output that it is for, and no gradient.
    """
    reached = {output}
    for node in reversed(proto.graph.node):
        if reached.intersection(node.output):
            reached.update(node.input)
    idle = [name for name in trainable if name not in reached]
    if idle:
        more = f" and {len(idle) - 1} others" if idle[1:] else ""
        raise UnsupportedModelError(
            f"output {output!r}, which the loss reads, does not depend on parameter {idle[0]!r}"
            f"{more}: freeze what belongs to other outputs, by frozen or requires_grad"
        )


def _check_free(proto: onnx.ModelProto, name: str) -> None:
    taken = {value.name for value in (*proto.graph.input, *proto.graph.initializer)}
    taken.update(output for node in proto.graph.node for output in node.output)
    for wanted in taken:
        if wanted in (name, LOSS_OUTPUT) or wanted.startswith(f"{LOSS_OUTPUT}_"):
            raise ArgumentError(
                f"the model has a value {wanted!r}, a name that the loss takes; rename it"
            )


def _add(
    graph: onnx.GraphProto, op: str, inputs: list[str], result: str = "", **attributes: Any
) -> str:
    result = result or f"{LOSS_OUTPUT}_{len(graph.node)}"
    graph.node.append(helper.make_node(op, inputs, [result], name=result, **attributes))
    return result


def _mean(graph: onnx.GraphProto, value: str) -> None:
    _add(graph, "ReduceMean", [value], LOSS_OUTPUT, keepdims=0)


def _cross_entropy(graph: onnx.GraphProto, scores: str, labels: str) -> None:
    node = helper.make_node(
        "SoftmaxCrossEntropyLoss",
        [scores, labels],
        [LOSS_OUTPUT, f"{LOSS_OUTPUT}_log_prob"],  # which the gradient reads
        name=LOSS_OUTPUT,
        reduction="mean",
    )
    graph.node.append(node)


def _mse(graph: onnx.GraphProto, output: str, target: str) -> None:
    difference = _add(graph, "Sub", [output, target])
    _mean(graph, _add(graph, "Mul", [difference, difference]))


def _l1(graph: onnx.GraphProto, output: str, target: str) -> None:
    _mean(graph, _add(graph, "Abs", [_add(graph, "Sub", [output, target])]))


def _bce(graph: onnx.GraphProto, logits: str, target: str) -> None:
    """Add relu(x) - x * target + log(1 + exp(-abs(x))), which does not overflow."""
    one = f"{LOSS_OUTPUT}_one"
    graph.initializer.append(numpy_helper.from_array(np.asarray(1, np.float32), one))
    decay = _add(graph, "Exp", [_add(graph, "Neg", [_add(graph, "Abs", [logits])])])
    tail = _add(graph, "Log", [_add(graph, "Add", [decay, one])])
    linear = _add(
        graph, "Sub", [_add(graph, "Relu", [logits]), _add(graph, "Mul", [logits, target])]
    )
    _mean(graph, _add(graph, "Add", [linear, tail]))


_BUILDERS: dict[str, Callable[[onnx.GraphProto, str, str], None]] = {
    "cross_entropy": _cross_entropy,
    "mse": _mse,
    "bce": _bce,
    "l1": _l1,
}

LOSSES = tuple(_BUILDERS)
"""Names of the losses."""
