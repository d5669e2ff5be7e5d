"""The report of stochastic nodes: ours and foreign ones, wherever they are."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from one_node import MODELS

from onnx_structdrop.graph.fold import fold
from onnx_structdrop.graph.inline import inline
from onnx_structdrop.graph.insert import insert
from onnx_structdrop.graph.inspect import inspect
from onnx_structdrop.graph.mode import set_training_mode
from onnx_structdrop.graph.sites import find_sites
from onnx_structdrop.schema import DOMAIN
from onnx_structdrop.specs import DropBlock2D, Dropout, SpatialDropout2D


@pytest.fixture(scope="module")
def resnet():
    return onnx.load(MODELS / "resnet18_dynamo.onnx")


def parsed(body, opset=20, inputs="float[N,3,8,8] x", functions="", more=""):
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}{more}]> g ({inputs}) => (y) {{ {body} }}'
        + functions
    )


def test_own_nodes(resnet):
    sites = [site for site in find_sites(resnet) if site.kind == "join"]
    spec = DropBlock2D(0.1, 5, seed=3, shared_axes=(1,), seed_region="whole")
    report = inspect(insert(resnet, spec, sites))
    assert not report.foreign
    assert len(report.own) == len(sites) == len(report.nodes)
    assert len({node.seed for node in report.own}) == len(sites)
    for site, node in zip(sites, report.own, strict=True):
        assert node.origin == "structdrop"
        assert (node.domain, node.op_type) == (DOMAIN, "DropBlock")
        assert node.name == f"{site.value}_DropBlock"
        assert node.scope == ""
        assert node.active is True
        assert (node.data, node.output) == (site.value, f"{site.value}_dropped")
        assert (node.shape, node.dtype) == (site.shape, "float32")
        assert node.ratio == pytest.approx(0.1)
        assert node.attributes == {
            "block_size": [5, 5],
            "channel_axis": 1,
            "shared_axes": [1],
            "seed_region": 1,
            "normalize": 1,
        }


def test_own_nodes_in_inference_mode(resnet):
    model = set_training_mode(insert(resnet, SpatialDropout2D(0.1)), False)
    assert {node.active for node in inspect(model).own} == {False}


def test_a_graph_input_as_ratio_is_named(resnet):
    model = insert(resnet, SpatialDropout2D(0.1), ratio_input="rate")
    assert {node.ratio for node in inspect(model).own} == {"rate"}


def test_an_input_with_a_default_is_no_constant(resnet):
    model = insert(resnet, SpatialDropout2D(0.1))
    name = model.graph.initializer[-1].name
    model.graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, []))
    assert {node.ratio for node in inspect(model).own} == {name}


def test_nothing_is_left_after_folding(resnet):
    model = insert(resnet, Dropout(0.3))
    assert inspect(model).own
    assert not inspect(fold(model)).nodes


def test_inlined_nodes_are_foreign(resnet):
    sites = [site for site in find_sites(resnet) if site.stage == 4][:2]
    report = inspect(inline(insert(resnet, SpatialDropout2D(0.25), sites)))
    assert not report.own
    assert {node.op_type for node in report.foreign} == {"Dropout"}
    assert all(node.active for node in report.foreign)


def test_both_kinds_of_model(resnet):
    model = insert(resnet, SpatialDropout2D(0.1))
    assert inspect(ir.from_proto(model)) == inspect(model)


def test_the_model_is_left_alone(resnet):
    model = insert(resnet, SpatialDropout2D(0.1))
    before = model.SerializeToString(deterministic=True)
    inspect(model)
    assert model.SerializeToString(deterministic=True) == before


def test_constants_of_the_model_are_left_alone():
    """Reading a constant must not name it, as onnx-ir's own function does."""
    body = "t = Constant <value = bool {1}> () y = Dropout (x, rate, t)"
    model = ir.from_proto(parsed(body, inputs="float[N,3,8,8] x, float rate"))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    inspect(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("body", "opset", "active", "ratio"),
    [
        ("y = Dropout <ratio = 0.25, is_test = 1> (x)", 6, False, 0.25),
        ("y = Dropout <ratio = 0.25, is_test = 0> (x)", 6, True, 0.25),
        ("y = Dropout (x)", 6, True, 0.5),
        ("y = Dropout <ratio = 0.25> (x)", 7, False, 0.25),
        ("y = Dropout (x)", 10, False, 0.5),
        ("y = Dropout (x)", 13, False, 0.5),
        ("r = Constant <value_float = 0.25> () y = Dropout (x, r)", 13, False, 0.25),
        (
            "r = Constant <value_float = 0.25> () t = Constant <value = bool {1}> ()"
            "y = Dropout (x, r, t)",
            13,
            True,
            0.25,
        ),
        (
            "r = Constant <value_float = 0.25> () t = Constant <value = bool {0}> ()"
            "y = Dropout (x, r, t)",
            20,
            False,
            0.25,
        ),
        ('t = Constant <value = bool {1}> () y = Dropout (x, "", t)', 22, True, 0.5),
        ("y = Dropout (x, rate, training)", 22, None, "rate"),
        ("r = Neg (rate) y = Dropout (x, r, training)", 22, None, "r"),
    ],
)
def test_foreign_dropout(body, opset, active, ratio):
    model = parsed(body, opset, "float[N,3,8,8] x, float rate, bool training")
    (node,) = inspect(model).foreign
    assert (node.op_type, node.domain, node.origin) == ("Dropout", "", "foreign")
    assert node.active is active
    assert node.ratio == ratio
    assert node.data == "x"
    assert node.seed is None


def test_foreign_seed():
    (node,) = inspect(parsed("y = Dropout <seed = 7> (x)", 13)).nodes
    assert node.seed == 7
    (node,) = inspect(parsed("y = RandomUniformLike <seed = 1.5, low = -1.0> (x)")).nodes
    assert node.seed == 1.5
    assert node.attributes == {"low": -1.0}


@pytest.mark.parametrize(
    "body",
    [
        "y = RandomNormal <shape = [2, 2]> ()",
        "y = RandomNormalLike (x)",
        "y = RandomUniform <shape = [2, 2]> ()",
        "y = RandomUniformLike (x)",
        "y = Bernoulli (x)",
        "y = Multinomial (x)",
    ],
)
def test_generators(body):
    (node,) = inspect(parsed(body)).nodes
    assert node.active is True
    assert node.op_type in body
    assert node.ratio is None
    assert node.data == ("x" if "(x)" in body else None)


def test_deterministic_nodes_are_none():
    assert not inspect(parsed("a = Relu (x) y = Mul (a, a)")).nodes
    assert not inspect(parsed("y = other.Dropout (x)", more=', "other": 1')).nodes


def test_subgraphs_and_functions():
    model = parsed(
        "y = If (c) <then_branch = t () => (p) { p = Bernoulli (x) },"
        "else_branch = e () => (q) { q = local.f (x) }>",
        inputs="float[N,3,8,8] x, bool c",
        functions='<domain: "local", opset_import: ["": 20]>'
        "f <ratio> (v) => (w) { w = Dropout (v) }",
        more=', "local": 1',
    )
    assert [(node.scope, node.op_type) for node in inspect(model).nodes] == [
        ("If/then_branch", "Bernoulli"),
        ("function:local::f", "Dropout"),
    ]


def test_bodies_of_our_functions_are_not_reported(resnet):
    report = inspect(insert(resnet, DropBlock2D(0.1)))
    assert not any(node.op_type == "Dropout" for node in report.nodes)


def test_referred_attributes_are_unknown():
    """Inside a function, an attribute may be the caller's."""
    call = (
        f'w, "", "" = {DOMAIN}.SpatialDropout '
        "<training_mode: int = @mode, seed: int = @seed, channel_axis = 1> (v, r)"
    )
    model = parsed(
        "y = local.f <mode = 1, seed = 2> (x, rate)",
        inputs="float[N,3,8,8] x, float rate",
        functions=f'<domain: "local", opset_import: ["": 20, "{DOMAIN}": 1]>'
        f"f <mode, seed> (v, r) => (w) {{ {call} }}",
        more=f', "local": 1, "{DOMAIN}": 1',
    )
    (node,) = inspect(model).own
    assert node.active is None
    assert node.seed is None
    assert node.attributes == {"channel_axis": 1}
    assert node.shape is None


def test_json(resnet):
    model = insert(resnet, DropBlock2D(0.1, seed=1), ratio_input="rate")
    report = inspect(model)
    plain = json.loads(json.dumps(report.to_dict()))
    assert len(plain["nodes"]) == len(report.nodes)
    assert plain["nodes"][0] == json.loads(json.dumps(report.nodes[0].to_dict()))
    assert plain["nodes"][0]["ratio"] == "rate"


# Malformed nodes


def dropout_net(*inputs, outputs=("d",), opset=17, domain="", op_type="Dropout", **attributes):
    helper = onnx.helper
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["a"]),
            helper.make_node(
                op_type, ["a", *inputs], list(outputs), name="bad", domain=domain, **attributes
            ),
            helper.make_node("Relu", ["a"], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2])],
        [
            onnx.numpy_helper.from_array(np.array("x", dtype=object), "text"),
            onnx.numpy_helper.from_array(np.array(0.25, np.float32), "quarter"),
            onnx.numpy_helper.from_array(np.array(1 + 1j, np.complex64), "complex"),
            onnx.TensorProto(name="short", data_type=1, dims=[1], raw_data=b"\0"),
        ],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def own(**attributes):
    return dropout_net(
        "quarter", op_type="SpatialDropout", domain=DOMAIN, outputs=("d", "", ""), **attributes
    )


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (own(training_mode="x", seed=1), ["training_mode", "STRING"]),
        (own(training_mode=1, seed="x"), ["seed", "STRING"]),
        (dropout_net(outputs=()), ["no output"]),
        (dropout_net(opset=10, ratio="x"), ["ratio", "STRING"]),
        (dropout_net(opset=6, is_test="x"), ["is_test", "STRING"]),
        (dropout_net("text"), ["'text'", "no number"]),
        (dropout_net("complex"), ["'complex'", "no number"]),
        (dropout_net("short"), ["'short'", "cannot be read"]),
        (dropout_net("quarter", "text"), ["'text'", "bool"]),
        (dropout_net("quarter", "quarter"), ["'quarter'", "0.25", "bool"]),
        (dropout_net(op_type="RandomUniformLike", outputs=(), seed="x"), ["no output"]),
    ],
)
def test_malformed_nodes_are_described(model, words):
    (node,) = inspect(model).nodes
    assert node.name == "bad"
    for word in words:
        assert any(word in problem for problem in node.problems)
    assert json.loads(json.dumps(node.to_dict()))["problems"] == list(node.problems)


def test_an_identity_of_nothing():
    model = dropout_net("quarter")
    model.graph.node[0].op_type = "Identity"
    del model.graph.node[0].input[:]
    (node,) = inspect(model).nodes
    assert node.deleted is False


def test_what_cannot_be_read_is_unknown():
    (node,) = inspect(own(training_mode="x", seed="x")).nodes
    assert (node.active, node.seed, node.ratio) == (None, None, 0.25)
    (node,) = inspect(dropout_net("quarter", "text")).nodes
    assert node.active is None
    (node,) = inspect(dropout_net(opset=6, is_test="x")).nodes
    assert node.active is None


def test_well_formed_nodes_have_no_problems(resnet):
    model = inline(insert(resnet, DropBlock2D(0.1, seed=1)))
    assert not any(node.problems for node in inspect(model).nodes)


@pytest.mark.parametrize(
    ("op_type", "found"),
    [
        ("StatelessRandomUniformV2", True),
        ("StatelessTruncatedNormalV2", True),
        ("RandomStandardNormal", True),
        ("StatelessRandomGetKeyCounter", False),
        ("StatelessIf", False),
    ],
)
def test_leftovers_of_tensorflow(op_type, found):
    nodes = inspect(dropout_net(op_type=op_type)).nodes
    assert [node.op_type for node in nodes] == [op_type] * found
    assert all(node.active and node.origin == "foreign" for node in nodes)


def test_a_function_is_not_random_by_its_name():
    model = parsed(
        "y = StatelessRandomUniform (x)",
        functions='<domain: "", opset_import: ["": 20]>'
        "StatelessRandomUniform (v) => (w) { w = Neg (v) }",
    )
    assert not inspect(model).nodes


def test_what_onnxruntime_fuses_dropout_into():
    model = parsed(
        'y = com.microsoft.BiasDropout (x, b, "", r, t)',
        inputs="float[N,3,8,8] x, float[8] b, float r, bool t",
        more=', "com.microsoft": 1',
    )
    (node,) = inspect(model).foreign
    assert (node.active, node.ratio) == (None, "r")


def test_opset_of_a_function_counts():
    """A Dropout is read by the opset of the function that it is in."""
    model = parsed(
        "y = local.f (x)",
        opset=17,
        functions='<domain: "local", opset_import: ["": 6]> f (v) => (w) { w = Dropout (v) }',
        more=', "local": 1',
    )
    (node,) = inspect(model).nodes
    assert node.active is True
