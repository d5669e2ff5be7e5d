"""Copies that make outputs which the graph reads as well."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from one_node import LEVELS, run, session

from onnx_structdrop.graph.compare import differences
from onnx_structdrop.graph.fold import fold
from onnx_structdrop.graph.insert import insert
from onnx_structdrop.graph.outputs import copy_output, take_back_copies
from onnx_structdrop.schema import METADATA_KEY
from onnx_structdrop.specs import SpatialDropout2D

# "o" is the result of a function whose caller is one itself; "y" is an output that is read.
NESTED = """
<ir_version: 9, opset_import: ["": 18, "local": 1]>
g (float16[2,4,6,6] x, float16[4,4,3,3] w) => (float16[2,4,6,6] y, float16[2,4,6,6] z) {
  y = local.outer (x, w)
  z = Conv <pads = [1, 1, 1, 1]> (y, w)
}
<domain: "local", opset_import: ["": 18]>
inner (v, w) => (o) { o = Conv <pads = [1, 1, 1, 1]> (v, w) %s }
<domain: "local", opset_import: ["": 18, "local": 1]>
outer (v, w) => (r) { s = Sigmoid (v) r = local.inner (s, w) %s }
"""


def identities(nodes):
    return [list(node.output) for node in nodes if node.op_type == "Identity"]


@pytest.mark.parametrize("inside", ["", "n = Neg (o)"])
@pytest.mark.parametrize("between", ["", "n = Neg (r)"])
@pytest.mark.parametrize("level", LEVELS[1:])
def test_results_of_functions(level, inside, between):
    model = onnx.parser.parse_model(NESTED % (inside, between))
    full = insert(model, SpatialDropout2D(0.5, seed=1), ["o"], training_mode=False)
    onnx.checker.check_model(full, full_check=True)
    assert identities(full.graph.node) == [["y"]]
    found = {f.name: len(identities(f.node)) for f in full.functions}
    assert (found["inner"], found["outer"]) == (bool(inside), bool(between))
    random = np.random.default_rng(0)
    feeds = {
        "x": random.standard_normal((2, 4, 6, 6)).astype(np.float16),
        "w": random.standard_normal((4, 4, 3, 3)).astype(np.float16),
    }
    expected, results = (run(session(m, level), feeds) for m in (model, full))
    assert [a.tobytes() for a in expected] == [a.tobytes() for a in results]
    assert differences(model, fold(full)) == []


def chain():
    text = """
    <ir_version: 10, opset_import: ["": 18]>
    g (float[2,3] x) => (float[2,3] y, float[2,3] z) { y = Relu (x) z = Neg (y) }
    """
    model = ir.from_proto(onnx.parser.parse_model(text))
    first = next(iter(model.graph)).outputs[0]
    result = copy_output(first, first, "copy")
    first.name, result.name = "front", "y"
    return model


def test_a_copy_and_back():
    model = chain()
    assert [node.op_type for node in model.graph] == ["Relu", "Identity", "Neg"]
    assert [value.name for value in model.graph.outputs] == ["y", "z"]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    take_back_copies(model)
    assert [(node.op_type, node.outputs[0].name) for node in model.graph] == [
        ("Relu", "y"),
        ("Neg", "z"),
    ]
    assert [value.name for value in model.graph.outputs] == ["y", "z"]


def test_a_copy_that_is_needed_by_now():
    """Both values are outputs: only a node can give them two names."""
    model = chain()
    model.graph.outputs.append(next(iter(model.graph)).outputs[0])
    take_back_copies(model)
    copy = next(node for node in model.graph if node.op_type == "Identity")
    assert METADATA_KEY not in copy.metadata_props
    assert [value.name for value in model.graph.outputs] == ["y", "z", "front"]


def test_a_copy_that_makes_no_output_any_more():
    model = chain()
    copied = model.graph.outputs.pop(0)
    node = ir.node("Abs", [copied], name="reader")
    node.outputs[0].name = "read"
    model.graph.append(node)
    take_back_copies(model)
    assert [value.name for value in node.inputs] == ["front"]


def test_what_no_node_makes_is_not_copied():
    model = chain()
    with pytest.raises(ValueError, match="not made by a node"):
        copy_output(model.graph.inputs[0], model.graph.inputs[0], "copy")
