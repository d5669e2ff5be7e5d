"""Models of one operator, lowered and run in onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from onnx_structdrop.training.lowering import lower


def model_of(
    op,
    inputs,
    outputs,
    *,
    shapes=None,
    integers=(),
    before=(),
    domain="com.microsoft",
    **attributes,
):
    """Return a model of one node as the gradient builder writes it.

    Inputs map names to arrays, "" to None; `shapes` and `integers` describe outputs.
    """
    node = helper.make_node(op, list(inputs), outputs, "tested", domain=domain, **attributes)
    infos = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
        )
        for name, value in inputs.items()
        if name and not any(name in other.output for other in before)
    ]
    graph = helper.make_graph(
        [*before, node],
        "one",
        infos,
        [
            helper.make_tensor_value_info(
                name, 7 if name in integers else 1, (shapes or {}).get(name)
            )
            for name in outputs
            if name
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def run(model, inputs, names=None):
    """Run the lowered form of a model, which has to be valid standard ONNX."""
    lowered = lower(model)
    for node in lowered.graph.node:
        assert not node.domain
        assert onnx.defs.has(node.op_type, 17)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(lowered.SerializeToString(), options)
    taken = {value.name for value in session.get_inputs()}
    return session.run(names, {name: value for name, value in inputs.items() if name in taken})


def lowered_result(op, inputs, outputs, **details):
    """Return what the lowered form of one node makes of arrays."""
    return run(model_of(op, inputs, outputs, **details), inputs)


def slopes(function, value, grad, step=1e-5):
    """Return the gradient of ``sum(grad * function(value))`` by central differences in float64."""
    value = value.astype(np.float64)
    result = np.empty_like(value)
    for place in np.ndindex(value.shape):
        up, down = value.copy(), value.copy()
        up[place] += step
        down[place] -= step
        result[place] = (grad * (function(up) - function(down))).sum() / (2 * step)
    return result


def close(actual, expected, tolerance=2e-6):
    """Assert equality up to a share of the largest element."""
    assert actual.shape == expected.shape
    largest = max(float(np.abs(expected).max(initial=0)), 1e-6)
    assert np.abs(actual - expected).max(initial=0) <= tolerance * largest
