"""Scopes: every graph of a model under a name of its own."""

from __future__ import annotations

import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from onnx_structdrop.errors import ModelError
from onnx_structdrop.graph.scopes import default_opset, function_scope, scopes

NESTED = """
<ir_version: 8, opset_import: ["": 18, "local": 1]>
main (bool c, float[N] x) => (float[N] y) {
  [outer] y = If (c) <
    then_branch = t () => (a) {
      [inner] a = If (c) <
        then_branch = tt () => (b) { b = Relu (x) },
        else_branch = te () => (d) { d = local.f (x) }
      >
    },
    else_branch = e () => (g) { g = Identity (x) }
  >
}
<domain: "local", opset_import: ["": 18]>
f (v) => (w) {
  z = Constant <value_float = 0.0> ()
  s = ReduceMax <keepdims = 0> (v)
  p = Less (z, s)
  [choose] w = If (p) <
    then_branch = ft () => (h) { h = Relu (v) },
    else_branch = fe () => (i) { i = Neg (v) }
  >
}
"""


def names(text):
    model = ir.from_proto(onnx.parser.parse_model(text))
    return [name for name, _ in scopes(model)]


def test_names_and_order():
    assert names(NESTED) == [
        "",
        "outer/then_branch",
        "outer/then_branch/inner/then_branch",
        "outer/then_branch/inner/else_branch",
        "outer/else_branch",
        "function:local::f",
        "function:local::f/choose/then_branch",
        "function:local::f/choose/else_branch",
    ]


def test_each_name_stands_for_its_graph():
    found = dict(scopes(ir.from_proto(onnx.parser.parse_model(NESTED))))
    ops = {name: [node.op_type for node in graph] for name, graph in found.items()}
    assert ops["outer/then_branch/inner/then_branch"] == ["Relu"]
    assert ops["outer/then_branch/inner/else_branch"] == ["f"]
    assert ops["function:local::f/choose/else_branch"] == ["Neg"]


def branch(name):
    return f"{name} = If (c) <then_branch = t{name} () => (a) {{ a = Relu (x) }}, " + (
        f"else_branch = e{name} () => (a) {{ a = Neg (x) }}>"
    )


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["", ""], ["If", "If#2"]),
        (["", "", ""], ["If", "If#2", "If#3"]),
        (["[one] ", "[one] "], ["one", "one#2"]),
        (["", "[If] "], ["If", "If#2"]),
        # A name that looks like one of ours; the parser would not take it.
        (["", "[If#2] ", ""], None),
    ],
)
def test_names_are_distinct(labels, expected):
    lines = "\n".join(label + branch(f"y{i}") for i, label in enumerate(labels))
    if expected is None:
        lines = lines.replace("[If#2]", "[placeholder]")
    outputs = ", ".join(f"float[N] y{i}" for i in range(len(labels)))
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 18]> '
        f"main (bool c, float[N] x) => ({outputs}) {{{lines}}}"
    )
    for node in model.graph.node:
        node.name = node.name.replace("placeholder", "If#2")
    found = [name for name, _ in scopes(ir.from_proto(model))]
    assert len(set(found)) == len(found) == 1 + 2 * len(labels)
    if expected is not None:
        assert found == ["", *(f"{n}/{b}_branch" for n in expected for b in ("then", "else"))]


def test_a_list_of_graphs_is_numbered():
    graphs = [
        ir.Graph([], [], nodes=[ir.node("Constant", [], {"value_int": i})], name=f"g{i}")
        for i in range(2)
    ]
    node = ir.Node("custom", "Switch", [], [ir.AttrGraphs("cases", graphs)], name="s")
    graph = ir.Graph([], node.outputs, nodes=[node], opset_imports={"": 18, "custom": 1}, name="m")
    assert [name for name, _ in scopes(ir.Model(graph, ir_version=9))] == [
        "",
        "s/cases[0]",
        "s/cases[1]",
    ]


def test_overloads_have_scopes_of_their_own():
    function = ir.Function("d", "f", "wide", graph=ir.Graph([], [], nodes=[]), attributes=[])
    assert function_scope(function) == "function:d::f:wide"


@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_default_opset(domain):
    model = ir.Model(ir.Graph([], [], nodes=[], opset_imports={domain: 19, "x": 1}), ir_version=9)
    assert default_opset(model) == 19


def test_no_default_opset():
    model = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"x": 1}), ir_version=9)
    with pytest.raises(ModelError, match=r"no version of the default operator set"):
        default_opset(model)
