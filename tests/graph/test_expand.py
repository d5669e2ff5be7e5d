"""A function's body in the place of a call of it."""

from __future__ import annotations

import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from onnx_structdrop.graph.expand import expand
from onnx_structdrop.graph.names import Names

TEXT = """
<ir_version: 10, opset_import: ["": 18, "local": 1]>
g (bool c, float[2,3] x) => (float[2,3] y, float[2,3] z) {
  y = local.body <mode = 1, axes = [1]> (c, x)
  n = Neg (x)
  z = Relu (n)
}
<domain: "local", opset_import: ["": 18]>
body <mode, axes> (flag, data) => (result) {
  one = Constant <value_int : int = @mode> ()
  two = Constant <value_ints : ints = @axes> ()
  result = If (flag) <
    then_branch = t () => (p) { n = Neg (data) k = Constant <value_int : int = @mode> ()
      f = CastLike (k, data) p = Add (n, f) },
    else_branch = e () => (q) { q = ReduceSum <keepdims = 1> (data, two) }
  >
}
"""


@pytest.fixture
def model():
    return ir.from_proto(onnx.parser.parse_model(TEXT))


def call_in(graph):
    return next(node for node in graph if node.domain)


def names_in(graph):
    for node in graph:
        yield node.name
        yield from (value.name for value in node.outputs)
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield from names_in(attribute.as_graph())


def expanded(model):
    call = call_in(model.graph)
    return expand(call, model.functions[call.op_identifier()], Names(model))


def test_the_body_stands_where_the_call_stood(model):
    nodes = expanded(model)
    assert [node.op_type for node in nodes] == ["Constant", "Constant", "If"]
    assert [node.op_type for node in model.graph] == ["Constant", "Constant", "If", "Neg", "Relu"]
    assert [value.name for value in model.graph.outputs] == ["y", "z"]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_attributes_are_those_of_the_call(model):
    first, second, branching = expanded(model)
    assert first.attributes["value_int"].as_int() == 1
    assert not first.attributes["value_int"].is_ref()
    assert second.attributes["value_ints"].as_ints() == (1,)
    inner = branching.attributes["then_branch"].as_graph()
    (constant,) = (node for node in inner if node.op_type == "Constant")
    assert constant.attributes["value_int"].as_int() == 1


def test_attributes_that_the_call_passes_on():
    text = (
        TEXT.replace("y = local.body <mode = 1, axes = [1]> (c, x)", "y = Neg (x)")
        + """
    <domain: "local", opset_import: ["": 18, "local": 1]>
    around <m> (flag, data) => (result) {
      result = local.body <mode : int = @m, axes = [0]> (flag, data)
    }
    """
    )
    model = ir.from_proto(onnx.parser.parse_model(text))
    function = model.functions["local", "around", ""]
    expand(call_in(function), model.functions["local", "body", ""], Names(model))
    first = next(iter(function))
    assert first.attributes["value_int"].is_ref()
    assert first.attributes["value_int"].ref_attr_name == "m"


@pytest.mark.parametrize("name", ["call", None])
def test_names_follow_the_call(model, name):
    call_in(model.graph).name = name
    nodes = expanded(model)
    prefix = "call/" if name else "y/"
    found = [found for node in nodes for found in names_in([node])]
    assert all(found == "y" or found.startswith(prefix) for found in found)
    assert {f"{prefix}one", f"{prefix}n", f"{prefix}q"} <= set(found)


def test_names_avoid_all_others(model):
    call_in(model.graph).name = "call"
    (neg,) = (node for node in model.graph if node.op_type == "Neg")
    neg.outputs[0].name = "call/n"
    expanded(model)
    found = [*names_in(model.graph), *(value.name for value in model.graph.inputs)]
    found = [name for name in found if name]
    assert len(set(found)) == len(found)
    assert "call/n_1" in found


def test_what_the_call_makes_is_described_as_before(model):
    call = call_in(model.graph)
    call.metadata_props["scope"] = "layer1"
    call.outputs[0].shape = ir.Shape([2, "C"])
    nodes = expanded(model)
    output = model.graph.outputs[0]
    assert output.producer() is nodes[-1]
    assert (output.name, output.shape, output.dtype) == ("y", [2, "C"], ir.DataType.FLOAT)
    assert {node.metadata_props["scope"] for node in nodes} == {"layer1"}


def test_the_function_is_left_alone(model):
    before = ir.to_proto(model.functions["local", "body", ""])
    expanded(model)
    assert ir.to_proto(model.functions["local", "body", ""]) == before


def test_a_call_in_no_graph(model):
    call = call_in(model.graph)
    call.outputs[0].replace_all_uses_with(model.graph.inputs[1], replace_graph_outputs=True)
    model.graph.remove(call)
    with pytest.raises(ValueError, match="in no graph"):
        expand(call, model.functions["local", "body", ""], Names(model))
