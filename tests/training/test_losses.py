"""Losses find their names free, and their output dependent on what trains."""

from __future__ import annotations

import pytest
from onnx import TensorProto, helper
from prepared_nets import around

from onnx_structdrop import ArgumentError, UnsupportedModelError
from onnx_structdrop.training.losses import LOSSES, add_loss, check_reached


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["structdrop_loss", "structdrop_loss_one", "structdrop_loss_7"])
def test_names_that_losses_take(loss, name):
    model = around("Relu", (2, 3, 4, 4))
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = name
    with pytest.raises(ArgumentError, match=f"the model has a value '{name}'"):
        add_loss(model, loss, "y")


def test_parameters_of_other_outputs():
    model = around("Relu", (2, 3, 4, 4))
    check_reached(model, "y", ["conv.weight"])
    model.graph.node.append(helper.make_node("Relu", ["x"], ["z9"]))
    model.graph.output.append(helper.make_tensor_value_info("z9", TensorProto.FLOAT, [2, 3, 4, 4]))
    with pytest.raises(UnsupportedModelError, match=r"'z9'.* not depend on parameter 'conv\.weig"):
        check_reached(model, "z9", ["conv.weight"])
    check_reached(model, "z9", [])
