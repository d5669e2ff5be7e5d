"""The report of stochastic nodes: ours and foreign ones, wherever they are."""

from __future__ import annotations

import json

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
