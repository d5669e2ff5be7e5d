"""Our nodes in a model, and the functions that are declared for them."""

from __future__ import annotations

import onnx
import onnx.compose
import onnx.parser
import onnx_ir as ir
import pytest

import onnx_structdrop as sd
from onnx_structdrop.errors import ModelError, UnsupportedModelError
from onnx_structdrop.functions import function_proto
from onnx_structdrop.graph.nodes import (
    declare_functions,
    dropout_nodes,
    element_type,
    is_dropout,
    seed_of,
    undeclare_functions,
)
from onnx_structdrop.schema import DOMAIN, GRAD_OP, VERSION

SPATIAL = "<training_mode = 1, seed = 5, channel_axis = 1>"


def model_of(body, inputs="float[N,3,8,8] x", opset=18, functions="", more=""):
    text = (
        f'<ir_version: 8, opset_import: ["": {opset}, "{DOMAIN}": 1{more}]>'
        f"g ({inputs}, float r, bool c) => (y) {{ {body} }} {functions}"
    )
    return ir.from_proto(onnx.parser.parse_model(text))


def call(result, data, op_type="SpatialDropout", attributes=SPATIAL, inputs=", r"):
    return f'{result}, "", "" = {DOMAIN}.{op_type} {attributes} ({data}{inputs})'


def instantiated_for(model, op_type="SpatialDropout", *, mask_used=False):
    """Return the element type that the model's function was made for."""
    found = ir.to_proto(model.functions[DOMAIN, op_type, ""])
    for element in ("float16", "bfloat16", "float32", "float64", None):
        try:
            proto = function_proto(op_type, model.opset_imports[""], element, mask_used=mask_used)
        except UnsupportedModelError:
            continue
        if ir.to_proto(ir.from_proto(proto)) == found:
            return element
    pytest.fail("the function is none of ours")


def test_dropout_nodes_are_found_in_every_scope():
    model = model_of(
        call("a", "x")
        + f"y = If (c) <then_branch = t () => (p) {{ {call('p', 'a')} }},"
        + "else_branch = e () => (q) { q = local.f (a, r) }>",
        functions=f'<domain: "local", opset_import: ["": 18, "{DOMAIN}": 1]>'
        f"f (v, r) => (w) {{ {call('w', 'v')} }}",
        more=', "local": 1',
    )
    assert [scope for scope, _ in dropout_nodes(model)] == [
        "",
        "If/then_branch",
        "function:local::f",
    ]
    declare_functions(model)
    assert len(list(dropout_nodes(model))) == 3


def test_what_is_ours():
    kinds = {
        (DOMAIN, "SpatialDropout"): True,
        (DOMAIN, "NoiseShapeDropout"): True,
        (DOMAIN, "DropBlock"): True,
        (DOMAIN, GRAD_OP): False,
        (DOMAIN, "Other"): False,
        ("", "Dropout"): False,
        ("", "SpatialDropout"): False,
        ("other", "DropBlock"): False,
    }
    for (domain, op_type), ours in kinds.items():
        assert is_dropout(ir.Node(domain, op_type, [])) is ours


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (ir.DataType.FLOAT16, "float16"),
        (ir.DataType.BFLOAT16, "bfloat16"),
        (ir.DataType.FLOAT, "float32"),
        (ir.DataType.DOUBLE, "float64"),
        (ir.DataType.INT8, None),
        (ir.DataType.FLOAT8E4M3FN, None),
    ],
)
def test_element_type(dtype, name):
    assert element_type(ir.Value(name="v", type=ir.TensorType(dtype))) == name
    assert element_type(ir.Value(name="v")) is None
    assert element_type(None) is None


def test_seed_of():
    (_, node), *_ = dropout_nodes(model_of(call("y", "x")))
    assert seed_of(node) == 5
    node.attributes["seed"] = ir.AttrFloat32("seed", 5.0)
    with pytest.raises(ModelError, match=r"seed of node .* is not an integer"):
        seed_of(node)
    del node.attributes["seed"]
    with pytest.raises(ModelError, match="lacks the attribute 'seed'"):
        seed_of(node)


# --- Declaring functions -------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [13, 17, 26])
@pytest.mark.parametrize(
    ("written", "element"),
    [("float", "float32"), ("float16", "float16"), ("bfloat16", "bfloat16"), ("double", "float64")],
)
def test_one_type_gives_a_function_for_it(written, element, opset):
    model = model_of(call("y", "x"), f"{written}[N,3,8,8] x", opset)
    declare_functions(model)
    assert instantiated_for(model) == element
    assert model.functions[DOMAIN, "SpatialDropout", ""].opset_imports == {"": opset}
    assert model.opset_imports[DOMAIN] == VERSION
    declare_functions(model)
    assert instantiated_for(model) == element


@pytest.mark.parametrize(
    "body",
    [
        call("a", "x") + call("y", "z"),
        "u = Unknown (x)" + call("y", "u"),
        "u = Unknown (x)" + call("a", "x") + call("y", "u"),
    ],
    ids=["mixed", "unknown", "one unknown"],
)
def test_several_or_unknown_types_give_the_general_function(body):
    model = model_of(body, "float[N,3,8,8] x, float16[N,3,8,8] z")
    declare_functions(model)
    assert instantiated_for(model) is None


def test_an_unknown_type_keeps_the_function_that_is_there():
    """As in a file that another tool has stripped of its value_info."""
    model = model_of("u = Unknown (x)" + call("y", "u"))
    proto = function_proto("SpatialDropout", 18, "float16")
    model.functions[DOMAIN, "SpatialDropout", ""] = ir.from_proto(proto)
    declare_functions(model)
    assert instantiated_for(model) == "float16"


@pytest.mark.parametrize(
    ("body", "used"),
    [
        (call("y", "x"), False),
        (call("y", "x").replace('""', "m", 1), False),
        (call("y", "x").replace('""', "m", 1) + "n = Not (m)", True),
        (call("d", "x").replace('"", ""', '"", s', 1) + "y = Mul (d, s)", True),
        (call("a", "x") + call("y", "x").replace('""', "m", 1) + "n = Not (m)", True),
    ],
    ids=["unnamed", "named", "mask", "scale", "one of two"],
)
def test_masks_in_inference_mode_are_for_those_who_use_them(body, used):
    model = model_of(body)
    for _ in range(2):
        declare_functions(model)
        assert instantiated_for(model, mask_used=used) == "float32"


def test_a_mask_that_is_a_graph_output_is_used():
    model = model_of(call("d", "x").replace('""', "y", 1))
    declare_functions(model)
    assert instantiated_for(model, mask_used=True) == "float32"


@pytest.mark.parametrize("opset", [13, 14])
def test_mixed_types_at_an_old_opset(opset):
    model = model_of(call("a", "x") + call("y", "z"), "float[N,3,8,8] x, float16[N,3,8,8] z", opset)
    with pytest.raises(UnsupportedModelError, match=r"needs ai\.onnx opset 15"):
        declare_functions(model)


@pytest.mark.parametrize("opset", [12, 27])
def test_no_body_for_the_opset(opset):
    with pytest.raises(UnsupportedModelError, match=f"opset {opset}"):
        declare_functions(model_of(call("y", "x"), opset=opset))


@pytest.mark.parametrize("missing", ["training_mode", "seed", "channel_axis"])
def test_a_missing_attribute_is_named(missing):
    model = model_of(call("y", "x"))
    (_, node), *_ = dropout_nodes(model)
    del node.attributes[missing]
    with pytest.raises(ModelError, match=rf"SpatialDropout.*lacks the attribute '{missing}'"):
        declare_functions(model)


@pytest.mark.parametrize("inputs", ["", ', ""', ", r, r"])
def test_a_wrong_number_of_inputs(inputs):
    model = model_of(call("y", "x", inputs=inputs))
    with pytest.raises(ModelError, match="needs 2 inputs"):
        declare_functions(model)


def test_functions_around_ours_import_the_domain():
    model = model_of(
        "y = local.f (x, r)",
        functions='<domain: "local", opset_import: ["": 18]> f (v, r) => (w) { '
        + call("w", "v")
        + " }",
        more=', "local": 1',
    )
    model.opset_imports.pop(DOMAIN)
    declare_functions(model)
    assert model.functions["local", "f", ""].opset_imports[DOMAIN] == VERSION
    assert model.opset_imports[DOMAIN] == VERSION


def test_the_gradient_is_declared_where_it_is_called():
    model = model_of(f"y = {DOMAIN}.{GRAD_OP} (x, c, r)")
    declare_functions(model)
    assert instantiated_for(model, GRAD_OP) == "float32"


def test_a_gradient_that_nothing_calls_yet_stays():
    model = model_of(call("y", "x"))
    model.functions[DOMAIN, GRAD_OP, ""] = ir.from_proto(function_proto(GRAD_OP, 18, "float32"))
    declare_functions(model)
    assert set(model.functions) == {(DOMAIN, GRAD_OP, ""), (DOMAIN, "SpatialDropout", "")}


def test_nothing_of_ours_declares_nothing():
    model = model_of("y = Relu (x)")
    model.opset_imports.pop(DOMAIN)
    declare_functions(model)
    assert not model.functions
    assert DOMAIN not in model.opset_imports


# --- Taking them away ----------------------------------------------------------------------------


def test_undeclare_takes_away_what_nothing_calls():
    model = model_of(
        "y = local.f (x)",
        functions=f'<domain: "local", opset_import: ["": 18, "{DOMAIN}": 1]> '
        "f (v) => (w) { w = Neg (v) }",
        more=', "local": 1, "other": 4',
    )
    for op_type in ("SpatialDropout", GRAD_OP):
        proto = function_proto(op_type, 18, "float32")
        model.functions[DOMAIN, op_type, ""] = ir.from_proto(proto)
    undeclare_functions(model)
    assert set(model.functions) == {("local", "f", "")}
    assert model.functions["local", "f", ""].opset_imports == {"": 18}
    assert model.opset_imports == {"": 18, "local": 1, "other": 4}


def test_undeclare_keeps_what_is_called():
    model = model_of(call("y", "x"))
    declare_functions(model)
    undeclare_functions(model)
    assert set(model.functions) == {(DOMAIN, "SpatialDropout", "")}
    assert model.opset_imports[DOMAIN] == VERSION


def test_operators_that_another_tool_renamed_are_not_overlooked():
    """onnx.compose puts its prefix before the names of functions, too."""
    body = call("y", "x")
    model = model_of(body, functions="")
    declare_functions(model)
    prefixed = onnx.compose.add_prefix(ir.to_proto(model), "p_")
    for treat in (sd.fold, sd.inline, lambda m: sd.set_training_mode(m, False)):
        with pytest.raises(
            ModelError, match=r"p_SpatialDropout, which is no operator of .* rename"
        ):
            treat(prefixed)
    assert {node.op_type for node in sd.inspect(prefixed).nodes} == {"Dropout"}
    assert sd.clean(prefixed)[1].residual  # analysed as anybody's function
