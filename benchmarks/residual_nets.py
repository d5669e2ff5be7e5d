"""ResNet-18 and ResNet-50 as inference exports have them, with random weights.

He et al., "Deep Residual Learning for Image Recognition", 2015; batch normalisation is folded
into the convolutions, as exporters do.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import onnx_structdrop as sd

__all__ = ["PLACEMENTS", "resnet", "sites_at"]

_BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


class _Net:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)

    def op(self, op_type: str, *inputs: str, **attributes) -> str:
        name = f"{op_type.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name

    def weight(self, *shape: int, scale: float) -> str:
        name = f"weight_{len(self.weights)}"
        values = self.rng.standard_normal(shape, np.float32) * np.float32(scale)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def conv(self, x: str, inputs: int, outputs: int, kernel: int, stride: int = 1) -> str:
        scale = (2 / (inputs * kernel**2)) ** 0.5
        weight = self.weight(outputs, inputs, kernel, kernel, scale=scale)
        bias = self.weight(outputs, scale=0.01)
        return self.op(
            "Conv", x, weight, bias, kernel_shape=[kernel] * 2, strides=[stride] * 2,
            pads=[kernel // 2] * 4,
        )  # fmt: skip

    def relu(self, x: str) -> str:
        return self.op("Relu", x)

    def block(self, x: str, inputs: int, width: int, stride: int, *, deep: bool) -> str:
        outputs = 4 * width if deep else width
        if deep:
            y = self.relu(self.conv(x, inputs, width, 1))
            y = self.relu(self.conv(y, width, width, 3, stride))
            y = self.conv(y, width, outputs, 1)
        else:
            y = self.relu(self.conv(x, inputs, width, 3, stride))
            y = self.conv(y, width, width, 3)
        if stride > 1 or inputs != outputs:
            x = self.conv(x, inputs, outputs, 1, stride)
        return self.relu(self.op("Add", y, x))


def resnet(depth: int, *, size: int = 224, classes: int = 1000) -> onnx.ModelProto:
    """Return a ResNet of 18 or 50 layers: input (N, 3, size, size), output (N, classes)."""
    net, deep = _Net(), depth == 50
    x = net.relu(net.conv("images", 3, 64, 7, 2))
    x = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 64
    for stage, count in enumerate(_BLOCKS[depth]):
        for index in range(count):
            width = 64 << stage
            stride = 2 if stage and not index else 1
            x = net.block(x, channels, width, stride, deep=deep)
            channels = 4 * width if deep else width
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    weight = net.weight(classes, channels, scale=channels**-0.5)
    net.nodes.append(
        helper.make_node("Gemm", [x, weight, net.weight(classes, scale=0.01)], ["logits"],
                         name="classifier", transB=1)
    )  # fmt: skip
    graph = helper.make_graph(
        net.nodes, f"resnet{depth}",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])],
        net.weights,
    )  # fmt: skip
    imports = [helper.make_opsetid("", 18)]
    return onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=imports, ir_version=9)
    )


PLACEMENTS = {"head": (), "last stage": (4,), "last two stages": (3, 4)}
"""Stages with dropout, by what they are called; the head is the last feature map."""


def sites_at(model: onnx.ModelProto, placement: str) -> list[sd.Site]:
    """Return the sites of a placement."""
    sites = [site for site in sd.find_sites(model) if site.kind in ("activation", "join")]
    return [site for site in sites if site.stage in PLACEMENTS[placement]] or sites[-1:]
