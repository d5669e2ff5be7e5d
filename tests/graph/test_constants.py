"""Constants: what is known without running a model, and what must not count as known."""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from onnx_structdrop.graph.constants import Constants


def learned(text, shape="float[2,3,8,8]", opset=18):
    """Return the constant values of a graph of x by name."""
    model = ir.from_proto(
        onnx.parser.parse_model(
            f'<ir_version: 8, opset_import: ["": {opset}, "custom": 1]>'
            f"g ({shape} x) => (y) <float[2] w = {{3.0, 4.0}}> {{ {text} y = Identity (x) }}"
        )
    )
    constants = Constants()
    found = {}
    for node in model.graph:
        known = constants.learn(node)
        contents = [constants.value(value) for value in node.outputs]
        assert known == all(content is not None for content in contents)
        if known:
            found.update(zip([value.name for value in node.outputs], contents, strict=True))
    return found


def test_shapes_and_arithmetic():
    found = learned(
        """
        dims = Shape (x)
        two = Constant <value_int = 2> ()
        twice = Mul (dims, two)
        count = ReduceProd <keepdims = 0> (twice)
        wide = Cast <to = 11> (count)
        """
    )
    assert found["dims"].tolist() == [2, 3, 8, 8]
    assert found["twice"].tolist() == [4, 6, 16, 16]
    assert found["count"] == 4 * 6 * 16 * 16
    assert found["wide"].dtype == np.float64


def test_the_rank_is_known_where_sizes_are_free():
    found = learned("dims = Shape (x) rank = Shape (dims)", "float[N,3,H,W]")
    assert "dims" not in found
    assert found["rank"].tolist() == [4]


def test_nothing_is_known_without_a_shape():
    model = ir.from_proto(
        onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["": 18]> g (float x) => (y)'
            "{ a = Relu (x) dims = Shape (a) rank = Shape (dims) y = Identity (x) }"
        )
    )
    constants = Constants()
    assert not any(constants.learn(node) for node in model.graph)


@pytest.mark.parametrize(
    "text",
    [
        "y0 = Relu (x)",
        "y0 = Relu (w)",
        "one = Constant <value_floats = [1.0, 1.0]> () y0 = Add (one, w)",
        "y0 = custom.Op ()",
        "y0 = Shape <start = 1> (x)",
    ],
    ids=["input", "initializer", "mixed", "custom", "part of a shape"],
)
def test_not_constant(text):
    assert "y0" not in learned(text)


@pytest.mark.parametrize(
    "node",
    [
        "y0, mask = Dropout <seed = 1> (ones, half, on)",
        "y0 = RandomUniformLike <seed = 1.0> (ones)",
    ],
)
def test_random_nodes_are_never_constant(node):
    """That is what freezes dropout in other tools: a random node with constant inputs."""
    found = learned(
        f"""
        ones = Constant <value_floats = [1.0, 1.0]> ()
        half = Constant <value_float = 0.5> ()
        on = Cast <to = 9> (half)
        {node}
        after = Relu (y0)
        """
    )
    assert {"ones", "half", "on"} <= found.keys()
    assert not {"y0", "mask", "after"} & found.keys()


def test_large_results_are_not_kept():
    found = learned("dims = Shape (x) zeros = ConstantOfShape (dims)", "float[64,64,2,2]")
    assert found.keys() == {"dims"}
    found = learned("dims = Shape (x) zeros = ConstantOfShape (dims)", "float[4,4,2,2]")
    assert found["zeros"].shape == (4, 4, 2, 2)


def test_empty_results_are_known():
    found = learned("dims = Shape (x) zeros = ConstantOfShape (dims)", "float[4,0,2,2]")
    assert found["zeros"].shape == (4, 0, 2, 2)


def test_learn_as():
    constants = Constants()
    value = ir.Value(name="v")
    assert constants.value(value) is None
    assert constants.value(None) is None
    constants.learn_as(value, np.array(3))
    assert constants.value(value) == 3
