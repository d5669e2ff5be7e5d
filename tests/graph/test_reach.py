"""Which outputs a random node reaches."""

from __future__ import annotations

import onnx
import onnx.parser
import pytest

from onnx_structdrop.errors import ModelError
from onnx_structdrop.graph.inspect import inspect


def reached(body, outputs="float[2] y, float[2] z", inputs="float[2] x", functions="", more=""):
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17{more}]> g ({inputs}) => ({outputs}) {{ {body} }}'
        + functions
    )
    return [node.reaches for node in inspect(model).nodes]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("u = Bernoulli (x) y = Relu (u) z = Relu (x)", [("y",)]),
        ("u = Bernoulli (x) z = Relu (u) y = Neg (z)", [("y", "z")]),
        ("u = Bernoulli (x) y = Relu (x) z = Relu (x)", [()]),
        ("y = Bernoulli (x) s = Shape (y) z = Expand (x, s)", [("y",)]),
        ("y = Bernoulli (x) z = RandomUniformLike (y)", [("y",), ("z",)]),
    ],
)
def test_main_graph(body, expected):
    assert reached(body) == expected


def test_branches():
    body = (
        "y, z = If (c) <then_branch = t () => (a, b) { a = Bernoulli (x) b = Relu (x) },"
        "else_branch = e () => (p, q) { p = Relu (x) q = Bernoulli (x) }>"
    )
    assert reached(body, inputs="float[2] x, bool c") == [("y",), ("z",)]


def test_a_value_used_in_a_branch():
    body = (
        "u = Bernoulli (x)"
        "y = If (c) <then_branch = t () => (a) { a = Neg (u) },"
        "else_branch = e () => (p) { p = Relu (x) }> z = Relu (x)"
    )
    assert reached(body, inputs="float[2] x, bool c") == [("y",)]


def test_loops_carry_values():
    """What one value is in a run, another may be in the next."""
    body = (
        "y, z = Loop (n, c, x, x) <body = b (int64 i, bool k, float[2] p, float[2] q) =>"
        "(bool l, float[2] r, float[2] s) { l = Identity (k) r = Identity (q) s = Bernoulli (q) }>"
    )
    assert reached(body, inputs="float[2] x, bool c, int64 n") == [("y", "z")]


def test_functions_call_by_call():
    functions = (
        '<domain: "local", opset_import: ["": 17, "local": 1]> f (v) => (w) { w = local.h (v) }'
        '<domain: "local", opset_import: ["": 17]> h (v) => (w) { w = Bernoulli (v) }'
        '<domain: "local", opset_import: ["": 17]> unused (v) => (w) { w = Bernoulli (v) }'
    )
    body = "a = Relu (x) y = local.f (a) z = Relu (x)"
    assert reached(body, functions=functions, more=', "local": 1') == [("y",), ()]
    body = "a = Relu (x) y = local.f (a) z = local.h (x)"
    assert reached(body, functions=functions, more=', "local": 1') == [("y", "z"), ()]


def test_functions_that_call_themselves_are_refused():
    functions = (
        '<domain: "local", opset_import: ["": 17, "local": 1]>'
        "f (v) => (w) { u = Bernoulli (v) w = local.f (u) }"
    )
    body = "y = local.f (x) z = Relu (x)"
    with pytest.raises(ModelError, match="'local::f' calls itself"):
        reached(body, functions=functions, more=', "local": 1')
