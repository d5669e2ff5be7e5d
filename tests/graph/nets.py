"""Small networks for the tests of sites: a builder that writes nodes as exporters do."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Net:
    """Collects nodes; every method returns the name of the value it makes."""

    def __init__(self, shape=("N", 3, 64, 64), opset: int = 18, name: str = "x"):
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)]
        self.channels = {name: shape[1] if shape is not None and len(shape) > 1 else None}
        self.opset = opset
        self._numbers = itertools.count()

    def op(self, op_type: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any):
        """Add a node."""
        names = [f"{op_type.lower()}_{next(self._numbers)}" for _ in range(outputs)]
        self.nodes.append(
            helper.make_node(
                op_type, list(inputs), names, name=f"node_{names[0]}", domain=domain, **attributes
            )
        )
        known = [self.channels.get(name) for name in inputs if name]
        channels = next((count for count in known if count is not None), None)
        if op_type == "Concat":
            channels = sum(count or 0 for count in known)
        self.channels.update(dict.fromkeys(names, channels))
        return names[0] if outputs == 1 else names

    def const(self, values: Any, dtype: Any = np.float32) -> str:
        """Add a constant."""
        name = f"const_{next(self._numbers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def conv(self, x: str, out: int, kernel: int = 3, stride: int = 1, *, group: int = 1, rank=2):
        """Add a convolution that keeps the size, or divides it by the stride."""
        weight = self.const(np.zeros((out, self.channels[x] // group, *[kernel] * rank)))
        y = self.op(
            "Conv",
            x,
            weight,
            self.const(np.zeros(out)),
            kernel_shape=[kernel] * rank,
            strides=[stride] * rank,
            pads=[kernel // 2] * (2 * rank),
            group=group,
        )
        self.channels[y] = out
        return y

    def up(self, x: str, out: int) -> str:
        """Add a transposed convolution that doubles the size."""
        weight = self.const(np.zeros((self.channels[x], out, 2, 2)))
        y = self.op("ConvTranspose", x, weight, kernel_shape=[2, 2], strides=[2, 2])
        self.channels[y] = out
        return y

    def bn(self, x: str) -> str:
        """Add a batch normalisation."""
        numbers = [self.const(np.ones(self.channels[x])) for _ in range(4)]
        return self.op("BatchNormalization", x, *numbers)

    def relu(self, x: str) -> str:
        """Add a Relu."""
        return self.op("Relu", x)

    def cbr(self, x: str, out: int, kernel: int = 3, stride: int = 1, *, group: int = 1) -> str:
        """Add convolution, batch normalisation and Relu."""
        return self.relu(self.bn(self.conv(x, out, kernel, stride, group=group)))

    def pool(self, x: str, op_type: str = "MaxPool") -> str:
        """Add a pool that halves the size."""
        return self.op(op_type, x, kernel_shape=[2, 2], strides=[2, 2])

    def squeeze_excite(self, x: str, act: str = "Sigmoid") -> str:
        """Multiply by a gate computed from the global pool."""
        channels = self.channels[x]
        squeezed = self.op("GlobalAveragePool", x)
        gate = self.op(act, self.conv(self.relu(self.conv(squeezed, 4, 1)), channels, 1))
        return self.op("Mul", x, gate)

    def residual(self, x: str, out: int, stride: int = 1) -> str:
        """Add a basic residual block."""
        y = self.bn(self.conv(self.cbr(x, out, 3, stride), out))
        if stride > 1 or self.channels[x] != out:
            x = self.bn(self.conv(x, out, 1, stride))
        return self.relu(self.op("Add", y, x))

    def head(self, x: str, classes: int = 10) -> str:
        """Add a classifier."""
        flat = self.op("Flatten", self.op("GlobalAveragePool", x))
        weight = self.const(np.zeros((classes, self.channels[x])))
        return self.op("Gemm", flat, weight, transB=1)

    def model(self, *outputs: str, **arguments: Any) -> onnx.ModelProto:
        """Return the model with these outputs."""
        results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "net", self.inputs, results, self.initializers)
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", self.opset)],
            ir_version=9,
            **arguments,
        )
