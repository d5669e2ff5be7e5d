"""Free names: out of the way of every value and node, in every scope."""

from __future__ import annotations

import onnx.parser
import onnx_ir as ir

from onnx_structdrop.functions import function_proto
from onnx_structdrop.graph.names import Names
from onnx_structdrop.schema import DOMAIN

TEXT = """
<ir_version: 8, opset_import: ["": 18, "local": 1]>
main (bool c, float[N] x) => (float[N] y) <float[1] weight = {1.0}> {
  [branching] y = If (c) <
    then_branch = t () => (inner) <float[1] inside = {2.0}> { [adding] inner = Add (x, inside) },
    else_branch = e () => (other) { other = local.f (x) }
  >
}
<domain: "local", opset_import: ["": 18]>
f (formal) => (result) { [negate] result = Neg (formal) }
"""


def names():
    return Names(ir.from_proto(onnx.parser.parse_model(TEXT)))


def test_every_name_is_taken():
    taken = names()
    for name in (
        *("c", "x", "y", "weight", "branching", "inner", "inside", "adding", "other"),
        *("formal", "result", "negate"),
    ):
        assert name in taken
    assert "free" not in taken


def test_a_free_name_is_given_as_it_is():
    taken = names()
    assert taken.take("free") == "free"
    assert "free" in taken


def test_a_taken_name_gets_the_first_free_number():
    taken = names()
    assert taken.take("x") == "x_1"
    assert taken.take("x") == "x_2"
    assert taken.take("x_1") == "x_1_1"
    assert taken.take("formal") == "formal_1"


def test_the_bodies_of_our_functions_take_no_names():
    model = ir.from_proto(onnx.parser.parse_model(TEXT))
    proto = function_proto("SpatialDropout", 18, "float32")
    model.functions[DOMAIN, "SpatialDropout", ""] = ir.from_proto(proto)
    taken = Names(model)
    for name in ("data", "ratio", "rate", "dims", "n0"):
        assert name not in taken
