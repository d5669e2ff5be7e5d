"""A small convolutional network of two stages, with dropout, and data for it."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import onnx_structdrop as sd
from onnx_structdrop.training import Schedule, generate_artifacts

CLASSES = 5
SHAPE = (1, 12, 12)
BATCH = 16


def network(*, segments=False, batch_norm=False):
    """Return conv-relu-pool-conv-relu, then a classifier, or scores of every place."""
    generator = np.random.default_rng(0)
    weights, nodes = [], []

    def weight(name, *shape, value=None):
        array = generator.standard_normal(shape) * 0.3 if value is None else np.full(shape, value)
        weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def node(op, inputs, output, **attributes):
        nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    value = "image"
    for place, (before, after) in enumerate(((1, 8), (8, 12)), 1):
        own = [weight(f"w{place}", after, before, 3, 3)]
        if not batch_norm:
            own.append(weight(f"b{place}", after))
        value = node("Conv", [value, *own], f"conv{place}", pads=[1] * 4, strides=[place, place])
        if batch_norm:
            given = [("scale", 1), ("bias", 0), ("mean", 0.1), ("var", 1)]
            rest = [weight(f"{word}{place}", after, value=fill) for word, fill in given]
            value = node("BatchNormalization", [value, *rest], f"norm{place}")
        value = node("Relu", [value], f"relu{place}")
    if segments:
        value = node("Conv", [value, weight("w3", CLASSES, 12, 1, 1), weight("b3", CLASSES)], "y")
        shape = ["N", CLASSES, 6, 6]
    else:
        value = node("GlobalAveragePool", [value], "pooled")
        value = node("Flatten", [value], "flat")
        value = node("Gemm", [value, weight("w3", 12, CLASSES), weight("b3", CLASSES)], "y")
        shape = ["N", CLASSES]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", *SHAPE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def with_dropout(model=None, spec=None, **changes):
    return sd.insert(model or network(), spec or sd.DropBlock2D(0.3, 3, seed=1), **changes)


def batches(count, *, segments=False):
    """Yield images whose brightness tells the label."""
    generator = np.random.default_rng(1)
    for _ in range(count):
        labels = generator.integers(0, CLASSES, BATCH)
        images = generator.standard_normal((BATCH, *SHAPE)) + labels[:, None, None, None]
        if segments:
            labels = np.broadcast_to(labels[:, None, None], (BATCH, 6, 6))
        yield images.astype(np.float32), labels


def artifacts_of(folder, model=None, **arguments):
    return generate_artifacts(with_dropout() if model is None else model, folder, **arguments)


RISING = Schedule.linear(20, warmup=2, factors={1: 0.25})
