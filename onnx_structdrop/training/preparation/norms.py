"""Normalisation that trains the way it was meant to.

What onnxruntime-training 1.19.2 does by itself: it turns every BatchNormalization, the inference
form included, into one that normalises by the batch, and never says so; LayerNormalization needs
a bias and all three outputs; GroupNormalization and InstanceNormalization have no gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnx_structdrop.training.preparation.editing import attribute, label, refuse
from onnx_structdrop.training.preparation.parameters import source

if TYPE_CHECKING:
    from onnx_structdrop.training.preparation.editing import Editing, Emitter

__all__ = ["freeze_batch_norms", "rewrite_norms", "train_batch_norms"]

_LEAST_OPSET = 14
"""From here on BatchNormalization has an attribute for training."""


def _batch_norms(editing: Editing) -> list[ir.Node]:
    return [
        node
        for node in editing.graph
        if node.domain in ("", "ai.onnx") and node.op_type == "BatchNormalization"
    ]


def freeze_batch_norms(editing: Editing) -> list[ir.Value]:
    """Write batch normalisation as arithmetic on its running statistics, which stay as they are.

    ``y = (x - mean) * (scale / sqrt(var + epsilon)) + bias``, where scale and bias train.

    Returns
    -------
    list of onnx_ir.Value
        The initializers that hold statistics.

    Raises
    ------
    UnsupportedModelError
        If statistics are not constant, or the model reads what training mode updates.
    """
    found: dict[ir.Value, None] = {}
    for node in _batch_norms(editing):
        for output in node.outputs[1:]:
            if output.is_graph_output() or output.uses():
                raise refuse(node, "the model reads its updated statistics; use batch_norm='train'")
        data, scale, bias, mean, var = _five(node)
        found.update(dict.fromkeys(_statistics(node)))
        rank = editing.rank(data) or editing.rank(node.outputs[0])
        if rank is None:
            raise refuse(node, "the rank of its data is unknown; run onnx.shape_inference first")
        emit = editing.emit(node)
        shape = [-1] + [1] * (rank - 2)
        epsilon = emit.constant(attribute(node, "epsilon", 1e-5), "epsilon")
        deviation = emit("Sqrt", emit("Add", var, epsilon))
        centred = emit("Add", data, emit.reshape(emit("Neg", mean), shape))
        factor = emit.reshape(emit("Div", scale, deviation), shape)
        editing.replace(node, emit("Add", emit("Mul", centred, factor), emit.reshape(bias, shape)))
        editing.note(
            node, "written as arithmetic on its running statistics",
            "1.19.2 would normalise by the batch instead",
        )  # fmt: skip
    return list(found)


def train_batch_norms(editing: Editing) -> tuple[list[ir.Value], list[tuple[str, str]]]:
    """Let batch normalisation use the batch, and name what the running statistics become.

    Returns
    -------
    list of onnx_ir.Value
        The initializers that hold statistics.
    list of (str, str)
        Each of them with the value that holds what it is after a step.

    Raises
    ------
    UnsupportedModelError
        If statistics are not constant, or two nodes share them.
    """
    pairs: dict[str, str] = {}
    found: dict[ir.Value, ir.Node] = {}
    for node in _batch_norms(editing):
        for place, value in zip((3, 4), _statistics(node), strict=True):
            if value in found:
                raise refuse(
                    node,
                    f"it shares the running statistics {value.name!r} with {label(found[value])}; "
                    "use batch_norm='frozen'",
                )
            found[value] = node
            if node.inputs[place] is not value:
                node.replace_input_with(place, value)
        node.resize_outputs(3)
        for place, word in ((1, "mean"), (2, "var")):
            output = node.outputs[place]
            statistic = node.inputs[place + 2]
            if statistic is None or statistic.name is None:
                raise refuse(node, "its running statistics have no name")
            if not output.name:
                output.name = editing.names.take(f"{statistic.name}_updated_{word}")
            output.type, output.shape = ir.TensorType(ir.DataType.FLOAT), statistic.shape
            pairs[statistic.name] = output.name
        if attribute(node, "training_mode", 0) != 1:
            node.attributes["training_mode"] = ir.AttrInt64("training_mode", 1)
            editing.note(node, "normalises by the batch and updates its running statistics",
                         "batch_norm='train'")  # fmt: skip
    return list(found), list(pairs.items())


def _five(node: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value, ir.Value, ir.Value]:
    values = [value for value in node.inputs if value is not None]
    if len(values) != 5:
        raise refuse(node, f"it has {len(values)} inputs, five are needed")
    data, scale, bias, mean, var = values
    return data, scale, bias, mean, var


def _statistics(node: ir.Node) -> list[ir.Value]:
    found = []
    for value in _five(node)[3:]:
        origin = source(value)
        if origin is None or origin.const_value is None:
            raise refuse(node, f"its running statistic {value.name!r} is no initializer")
        found.append(origin)
    return found


def rewrite_norms(editing: Editing) -> None:
    """Write the other normalisations so that they have a gradient.

    Raises
    ------
    UnsupportedModelError
        If a rank is needed and unknown.
    """
    for node in list(editing.graph):
        if node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type == "LayerNormalization":
            _complete_layer_norm(editing, node)
        elif node.op_type == "InstanceNormalization":
            _instance_norm(editing, node)
        elif node.op_type == "GroupNormalization":
            _group_norm(editing, node)


def _complete_layer_norm(editing: Editing, node: ir.Node) -> None:
    done = []
    if len(node.inputs) < 3 or node.inputs[2] is None:
        scale = node.inputs[1]
        dims = editing.dims(scale)
        if dims is None or not all(isinstance(size, int) for size in dims):
            raise refuse(node, "it has no bias, and the shape of its scale is unknown")
        node.resize_inputs(3)
        zeros = editing.initializer(np.zeros([int(size or 0) for size in dims]), "no_bias")
        node.replace_input_with(2, zeros)
        done.append("a bias of zeros")
    named = [bool(output.name) for output in node.outputs]
    if len(named) < 3 or not all(named):
        node.resize_outputs(3)
        for output, word in zip(node.outputs[1:], ("mean", "inverse_deviation"), strict=True):
            if not output.name:
                output.name = editing.names.take(f"{node.outputs[0].name}_{word}")
        done.append("names for its mean and deviation")
    if done:
        editing.note(node, f"given {' and '.join(done)}", "the gradient reads them")


def _normalised(emit: Emitter, data: ir.Value, axes: list[int], epsilon: float) -> ir.Value:
    centred = emit("Sub", data, emit.reduce("ReduceMean", data, axes))
    variance = emit.reduce("ReduceMean", emit("Mul", centred, centred), axes)
    deviation = emit("Sqrt", emit("Add", variance, emit.constant(epsilon, "epsilon")))
    return emit("Div", centred, deviation)


def _instance_norm(editing: Editing, node: ir.Node) -> None:
    data, scale, bias = (value for value in node.inputs if value is not None)
    rank = _rank(editing, node)
    emit = editing.emit(node)
    shape = [-1] + [1] * (rank - 2)
    epsilon = float(attribute(node, "epsilon", 1e-5))
    normal = _normalised(emit, data, list(range(2, rank)), epsilon)
    scaled = emit("Mul", normal, emit.reshape(scale, shape))
    editing.replace(node, emit("Add", scaled, emit.reshape(bias, shape)))
    editing.note(node, "written as arithmetic", "InstanceNormalization has no gradient in 1.19.2")


def _group_norm(editing: Editing, node: ir.Node) -> None:
    data, scale, bias = (value for value in node.inputs if value is not None)
    rank = _rank(editing, node)
    groups = int(attribute(node, "num_groups", 1))
    dims = editing.dims(data) or ()
    spatial = dims[2:]
    if not all(isinstance(size, int) for size in dims[1:]):
        raise refuse(node, "the sizes of its data are unknown; export it with static sizes")
    emit = editing.emit(node)
    epsilon = float(attribute(node, "epsilon", 1e-5))
    channels = int(dims[1] or 0)
    grouped = emit.reshape(data, [0, groups, -1])
    normal = _normalised(emit, grouped, [2], epsilon)
    if editing.opset < 21:  # one scale per group
        scaled = emit("Mul", normal, emit.reshape(scale, [groups, 1]))
        shifted = emit("Add", scaled, emit.reshape(bias, [groups, 1]))
        result = emit.reshape(shifted, [0, channels, *(int(size or 0) for size in spatial)])
    else:
        shape = [-1] + [1] * (rank - 2)
        back = emit.reshape(normal, [0, channels, *(int(size or 0) for size in spatial)])
        result = emit("Add", emit("Mul", back, emit.reshape(scale, shape)),
                      emit.reshape(bias, shape))  # fmt: skip
    editing.replace(node, result)
    editing.note(node, "written as arithmetic", "GroupNormalization has no gradient in 1.19.2")


def _rank(editing: Editing, node: ir.Node) -> int:
    rank = editing.rank(node.inputs[0]) or editing.rank(node.outputs[0])
    if rank is None:
        raise refuse(node, "the rank of its data is unknown; run onnx.shape_inference first")
    return rank


def batch_norm_opset(editing: Editing) -> int:
    """Return the least opset at which batch normalisation can train."""
    return _LEAST_OPSET if _batch_norms(editing) else 0
