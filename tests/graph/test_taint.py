"""Which outputs random numbers reach."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from nets import Net
from onnx import TensorProto, helper

import onnx_structdrop as sd
from onnx_structdrop.graph.taint import analyse


def sources(model):
    return analyse(ir.from_proto(model)).sources


def test_each_source_with_the_outputs_it_reaches():
    net = Net((2, 3))
    first, second = (net.op("RandomUniformLike", "x") for _ in range(2))
    a = net.op("Add", "x", first)
    b = net.op("Mul", a, second)
    found = sources(net.model(a, b, net.op("Relu", "x")))
    assert [source.op_type for source in found] == ["RandomUniformLike"] * 2
    assert [source.reaches for source in found] == [(a, b), (b,)]
    assert all(source.active and source.scope == "" for source in found)


@pytest.mark.parametrize("op_type", ["Shape", "Size", "RandomNormalLike"])
def test_shapes_carry_no_randomness(op_type):
    net = Net((2, 3))
    noise = net.op("RandomUniformLike", "x")
    found = sources(net.model(net.op("Identity", net.op(op_type, noise))))
    assert found[0].reaches == ()


@pytest.mark.parametrize(
    ("opset", "inputs", "attributes", "active"),
    [
        (6, 1, {}, True),
        (6, 1, {"is_test": 1}, False),
        (7, 1, {"ratio": 0.5}, False),
        (12, 1, {}, False),
        (13, 3, {}, True),
    ],
)
def test_standard_dropout(opset, inputs, attributes, active):
    net = Net((2, 3), opset)
    given = ["x", net.const(0.3), net.const(True, np.bool_)][:inputs]
    found = sources(net.model(net.op("Dropout", *given, **attributes)))
    assert [source.active for source in found] == [active]


def test_a_mode_that_is_an_input_is_open():
    net = Net((2, 3))
    net.inputs.append(helper.make_tensor_value_info("mode", TensorProto.BOOL, []))
    assert sources(net.model(net.op("Dropout", "x", "", "mode")))[0].active is None


def test_conditions_count():
    net = Net((2, 3))
    noise = net.op("Less", net.op("RandomUniform", shape=[1]), net.const(0.5))
    branches = []
    for op_type in ("Relu", "Tanh"):
        inner = Net()
        inner._numbers = net._numbers
        value = helper.make_tensor_value_info(inner.op(op_type, "x"), TensorProto.FLOAT, None)
        branches.append(helper.make_graph(inner.nodes, op_type, [], [value]))
    y = net.op("If", noise, then_branch=branches[0], else_branch=branches[1])
    assert sources(net.model(y))[0].reaches == (y,)


def test_sources_in_branches_and_functions():
    inner = Net()
    drawn = inner.op("Bernoulli", "x")
    value = helper.make_tensor_value_info(drawn, TensorProto.FLOAT, None)
    branch = helper.make_graph(inner.nodes, "branch", [], [value])
    net = Net((2, 3))
    net._numbers = inner._numbers
    condition = net.op("Less", net.op("ReduceMean", "x", keepdims=0), net.const(0.0))
    y = net.op("If", condition, then_branch=branch, else_branch=branch)
    z = net.op("Noise", y, domain="local")
    imports = [helper.make_opsetid("", 18)]
    node = helper.make_node("RandomNormalLike", ["a"], ["b"], name="draw")
    function = helper.make_function("local", "Noise", ["a"], ["b"], [node], imports)
    model = net.model(y, z, functions=[function])
    model.opset_import.append(helper.make_opsetid("local", 1))
    found = {source.scope: source.reaches for source in sources(model)}
    assert found["function:local::Noise"] == (z,)
    assert [reaches for scope, reaches in found.items() if "branch" in scope] == [(y, z)] * 2


def test_state_of_a_loop():
    body = Net(None, name="state")
    out = body.op("Add", "state", body.op("RandomNormalLike", "state"))
    on = body.op("Identity", "go")
    inputs = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        helper.make_tensor_value_info("state", TensorProto.FLOAT, [2, 3]),
    ]
    outputs = [
        helper.make_tensor_value_info(on, TensorProto.BOOL, []),
        helper.make_tensor_value_info(out, TensorProto.FLOAT, [2, 3]),
    ]
    graph = helper.make_graph(body.nodes, "body", inputs, outputs)
    net = Net((2, 3))
    y = net.op("Loop", net.const(3, np.int64), "", "x", body=graph)
    assert sources(net.model(y))[0].reaches == (y,)


def test_operators_of_other_frameworks():
    net = Net((2, 3))
    counter = net.op("StatelessRandomGetKeyCounter", net.const([1, 2], np.int32))
    y = net.op("StatelessRandomUniformV2", net.op("Shape", "x"), counter)
    z = net.op("BitmaskDropout", "x", "", "", outputs=2, domain="com.microsoft")
    w = net.op("ATen", "x", domain="org.pytorch.aten", operator="feature_dropout")
    found = sources(net.model(y, z[0], w))
    assert [source.op_type for source in found] == [
        "StatelessRandomUniformV2",
        "BitmaskDropout",
        "ATen",
    ]


def test_our_own_nodes():
    net = Net()
    model = net.model(net.cbr("x", 4))
    training = sd.insert(model, sd.SpatialDropout2D(0.1, seed=1))
    found = sources(training)
    assert [(source.op_type, source.active) for source in found] == [("SpatialDropout", True)]
    assert [source.active for source in sources(sd.set_training_mode(training, False))] == [False]


def test_plain_data():
    net = Net((2, 3))
    report = analyse(ir.from_proto(net.model(net.op("Dropout", "x"))))
    assert report.live == ()
    assert report.to_dict()["sources"][0]["op_type"] == "Dropout"


def test_many_sources_in_a_deep_graph():
    net = Net((1, 4))
    x = "x"
    for _ in range(3000):
        x = net.op("Add", x, net.op("RandomNormalLike", "x"))
    found = sources(net.model(x))
    assert len(found) == 3000
    assert all(source.reaches == (x,) for source in found)
