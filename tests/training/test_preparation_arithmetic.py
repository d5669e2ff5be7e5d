"""What is known when a model is prepared is computed, so that shapes do not hang on it."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import onnx_structdrop as sd
from onnx_structdrop.training import prepare


def resizing_net():
    """Return a net whose Resize takes scales that are joined from two constants."""

    def constant(name, values):
        tensor = numpy_helper.from_array(np.asarray(values, np.float32))
        return helper.make_node("Constant", [], [name], value=tensor)

    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        constant("ones", [1, 1]),
        constant("twos", [2, 2]),
        helper.make_node("Concat", ["ones", "twos"], ["scales"], axis=0),
        helper.make_node("Resize", ["c", "", "scales"], ["r"], mode="linear"),
        helper.make_node("Conv", ["r", "v"], ["y"], pads=[1] * 4),
    ]
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal((2, 2, 3, 3)).astype(np.float32), name)
        for name in ("w", "v")
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, 5, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2, 10, 8])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_joined_scales_are_computed():
    model = resizing_net()
    prepared = prepare(model)
    kinds = {node.op_type for node in prepared.model.graph.node}
    assert not kinds & {"Resize", "Concat"}
    assert any("arithmetic on constants" in change.what for change in prepared.changes)
    feeds = {"x": np.random.default_rng(1).standard_normal((3, 2, 5, 4)).astype(np.float32)}
    (wanted,) = ReferenceEvaluator(model).run(None, feeds)
    (found,) = ReferenceEvaluator(prepared.model).run(None, feeds)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    onnx.checker.check_model(prepared.model, full_check=True)


def test_parameters_are_no_constants():
    model = resizing_net()
    prepared = prepare(model)
    assert set(prepared.trainable) == {"w", "v"}
    assert [tensor.name for tensor in model.graph.initializer] == ["w", "v"]
    assert sd.differences(model, resizing_net()) == []
