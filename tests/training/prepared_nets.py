"""Small networks around one node, for tests of preparation."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


def around(op_type, shape, *, inputs=(), opset=17, free=("N",), outputs=1, domain="", **attributes):
    """Return a model: a 1x1 convolution, then the node, of data of this shape.

    `inputs` are further inputs of the node: arrays, or None where one is left out. The leading
    dimensions get the names in `free`, None leaves a size as it is.
    """
    rng = np.random.default_rng(0)
    channels = shape[1]
    weight = rng.standard_normal((channels, channels, *[1] * (len(shape) - 2))) * 0.7
    names, tensors = [], [numpy_helper.from_array(weight.astype(np.float32), "conv.weight")]
    for index, array in enumerate(inputs):
        names.append("" if array is None else f"node.{index}")
        if array is not None:
            tensors.append(numpy_helper.from_array(np.asarray(array), f"node.{index}"))
    dims = [*free, *shape[len(free) :]]
    dims = [size if name is None else name for name, size in zip(dims, shape, strict=True)]
    made = ["y", *[f"y{index}" for index in range(1, outputs)]]
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight"], ["z"], name="conv"),
        helper.make_node(op_type, ["z", *names], made, name="node", domain=domain, **attributes),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        tensors,
    )
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(domain, 1)] if domain else []
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(model)
    output = inferred.graph.output[0]
    if not output.type.tensor_type.HasField("shape"):
        output = helper.make_tensor_value_info("y", TensorProto.FLOAT, dims)
    model.graph.output[0].CopyFrom(output)
    return model


def run(model, **feeds):
    """Return the first output of a model in onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)[0]


def data(shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ops(model):
    return [node.op_type for node in model.graph.node]
