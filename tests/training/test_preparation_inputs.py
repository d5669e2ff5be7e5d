"""Graphs that ONNX allows and the gradient builder cannot read become others of equal meaning."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from prepared_nets import around, data, run

from onnx_structdrop import ArgumentTypeError
from onnx_structdrop.training import prepare

SHAPE = (2, 3, 4, 4)


def test_initializers_that_are_inputs():
    model = around("Relu", SHAPE)
    info = helper.make_tensor_value_info("conv.weight", TensorProto.FLOAT, [3, 3, 1, 1])
    model.graph.input.append(info)
    prepared = prepare(model)
    assert [value.name for value in prepared.model.graph.input] == ["x"]
    assert prepared.trainable == ("conv.weight",)
    assert any(change.what == "no input any more" for change in prepared.changes)
    x = data(SHAPE)
    np.testing.assert_allclose(run(prepared.model, x=x), run(model, x=x), rtol=1e-5, atol=1e-6)


def test_nodes_of_one_name():
    model = around("Relu", SHAPE)
    for node in model.graph.node:
        node.name = "same"
    names = [node.name for node in prepare(model).model.graph.node]
    assert names[0] == "same"
    assert len(set(names)) == len(names)
    assert [node.name for node in model.graph.node] == ["same"] * 2


@pytest.mark.parametrize(
    "arguments", [{"sizes": [1]}, {"sizes": 5}, {"requires_grad": 5}, {"frozen": 5}], ids=str
)
def test_arguments_of_the_wrong_type(arguments):
    with pytest.raises(ArgumentTypeError, match=next(iter(arguments))):
        prepare(around("Relu", SHAPE), **arguments)
