"""DenseNets with live dropout as graphs of any size, made without a framework.

A layer is written as exporters write DenseNet's: BatchNormalization, Relu, Conv 1x1,
BatchNormalization, Relu, Conv 3x3, dropout, Concat. The dropout is, in turn, the decomposition of
a feature dropout (six nodes) and a Dropout in training mode.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Sequence

__all__ = ["DENSENET_264", "deep_net", "dense_net", "large_net"]

DENSENET_264 = (6, 12, 64, 48)
"""Layers of each block."""
_KEEP = 0.9
_LAYER = 13
"""Nodes of a layer with feature dropout."""
_AROUND = 10
"""Nodes of stem and head."""


class _Builder:
    def __init__(self, *, width: int, feature_only: bool) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.width, self.feature_only = width, feature_only
        self.generator = np.random.default_rng(0)
        self.drops = 0
        for name, value in (
            ("keep", np.float32(_KEEP)),
            ("rate", np.float32(1.0 - _KEEP)),
            ("train", np.bool_(True)),
        ):
            self.weights.append(numpy_helper.from_array(np.array(value), name))

    def node(self, op_type: str, inputs: Sequence[str], **attributes) -> str:
        name = f"node_{op_type}_{len(self.nodes)}"
        output = f"{op_type.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [output], name, **attributes))
        return output

    def weight(self, shape: Sequence[int], *, positive: bool = False) -> str:
        name = f"weight_{len(self.weights)}"
        values = self.generator.standard_normal(shape, np.float32) / math.sqrt(math.prod(shape[1:]))
        values = np.abs(values) + 0.5 if positive else values
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def conv(self, value: str, inputs: int, outputs: int, kernel: int) -> str:
        return self.node(
            "Conv", [value, self.weight((outputs, inputs, kernel, kernel))],
            kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4,
        )  # fmt: skip

    def norm_relu(self, value: str, channels: int) -> str:
        given = [self.weight((channels,), positive=place != 1) for place in range(4)]
        return self.node("Relu", [self.node("BatchNormalization", [value, *given])])

    def dropout(self, value: str, channels: int) -> str:
        self.drops += 1
        if not self.feature_only and self.drops % 2:
            return self.node("Dropout", [value, "rate", "train"])
        shape = f"mask_shape_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array([1, channels, 1, 1]), shape))
        zeros = self.node("ConstantOfShape", [shape])
        drawn = self.node("RandomUniformLike", [zeros])
        kept = self.node("Cast", [self.node("Less", [drawn, "keep"])], to=TensorProto.FLOAT)
        return self.node("Mul", [value, self.node("Div", [kept, "keep"])])

    def layer(self, value: str, channels: int) -> str:
        inner = self.conv(self.norm_relu(value, channels), channels, 4 * self.width, 1)
        made = self.conv(self.norm_relu(inner, 4 * self.width), 4 * self.width, self.width, 3)
        return self.node("Concat", [value, self.dropout(made, self.width)], axis=1)


def dense_net(
    layers: Sequence[int] = DENSENET_264, *, width: int = 8, size: int = 64, feature_only=True
) -> onnx.ModelProto:
    """Return a DenseNet with batch 1 and shapes for all of its values.

    Parameters
    ----------
    layers
        Number of layers of each block. The map halves in front of the first four.
    width
        Channels that a layer adds.
    size
        Length of the sides of the input.
    feature_only
        Whether every dropout is the decomposition, or every other one a Dropout.
    """
    made = _Builder(width=width, feature_only=feature_only)
    channels = 2 * width
    value = made.conv("x", 3, channels, 3)
    for number, count in enumerate(layers):
        if number:
            # A transition takes half of the channels of a block of DenseNet-264's proportions.
            fewer = 2 * width if len(layers) > len(DENSENET_264) else channels // 2
            value = made.conv(made.norm_relu(value, channels), channels, fewer, 1)
            channels = fewer
        if number < len(DENSENET_264):
            value = made.node("AveragePool", [value], kernel_shape=[2, 2], strides=[2, 2])
        for _ in range(count):
            value = made.layer(value, channels)
            channels += width
    value = made.node("GlobalAveragePool", [made.norm_relu(value, channels)])
    value = made.node("Flatten", [value])
    value = made.node("Gemm", [value, made.weight((10, channels))], transB=1)
    graph = helper.make_graph(
        made.nodes,
        "dense_net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, [1, 10])],
        made.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def deep_net(nodes: int) -> onnx.ModelProto:
    """Return a net of so many nodes, give or take half a layer, in blocks of twelve layers."""
    per_block = 12 * _LAYER + 3
    blocks, rest = divmod(nodes - _AROUND, per_block)
    last = round(rest / _LAYER)
    return dense_net([12] * blocks + [last] * (last > 0), width=4)


def large_net(folder: pathlib.Path, size: int) -> pathlib.Path:
    """Write a DenseNet whose external data have so many bytes, and return its path.

    The data are a file with holes: zeros that take no room on the disk.
    """
    model = dense_net((6, 12, 24, 16), feature_only=False)
    total = sum(4 * math.prod(tensor.dims) for tensor in _large(model))
    # All of it goes into the last convolutions, as in nets with wide heads: they get more inputs.
    last = [node for node in model.graph.node if node.op_type == "Gemm"][-1]
    rows = (size - total) // (4 * 64 * 1024)
    tables = []
    for index in range(64):
        name = f"table_{index}"
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[rows, 1024])
        model.graph.initializer.append(tensor)
        tables.append(name)
    # Each table gives one number that joins the result, so that none of them is dead.
    picked = helper.make_tensor("first", TensorProto.INT64, [1], [0])
    model.graph.initializer.append(picked)
    terms = [last.output[0]]
    output = model.graph.output[0].name
    last.output[0] = terms[0] = "scores"
    for name in tables:
        model.graph.node.append(
            helper.make_node("Gather", [name, "first"], [f"{name}_row"], axis=0)
        )
        model.graph.node.append(
            helper.make_node("ReduceSum", [f"{name}_row"], [f"{name}_sum"], keepdims=1)
        )
        terms.append(f"{name}_sum")
    model.graph.node.append(helper.make_node("Sum", terms, [output]))
    offset = 0
    path = folder / "large.onnx"
    with (folder / "large.data").open("wb") as data:
        for tensor in _large(model):
            length = 4 * math.prod(tensor.dims)
            if tensor.raw_data:
                data.seek(offset)
                data.write(tensor.raw_data)
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            del tensor.external_data[:]
            for key, text in (("location", "large.data"), ("offset", offset), ("length", length)):
                tensor.external_data.add(key=key, value=str(text))
            offset += -(-length // 4096) * 4096
        data.truncate(offset)
    path.write_bytes(model.SerializeToString())
    return path


def _large(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [tensor for tensor in model.graph.initializer if math.prod(tensor.dims) >= 256]
