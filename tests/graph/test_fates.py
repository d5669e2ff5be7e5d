"""What runtimes do to random nodes, against the installed onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from onnx_structdrop.graph.inspect import inspect

ONES = ",".join(["1.0"] * 64)
ON = "t = Constant <value = bool {1}> () r = Constant <value_float = 0.5> ()"
ELSE = "else_branch = e () => (p2) { p2 = Relu (x) }"

# Body, further inputs, further outputs, initializers, functions; Dropout is active in all of them.
CASES = {
    "in the middle": f"{ON} a = Relu (x) d = Dropout (a, r, t) y = Relu (d)",
    "mode is an input": (
        "r = Constant <value_float = 0.5> () a = Relu (x) d = Dropout (a, r, c) y = Relu (d)"
    ),
    "ratio left out": f'{ON} a = Relu (x) d = Dropout (a, "", t) y = Relu (d)',
    "seeded": f"{ON} a = Relu (x) d = Dropout <seed = 3> (a, r, t) y = Relu (d)",
    "mask unused": f"{ON} a = Relu (x) d, m = Dropout (a, r, t) y = Relu (d)",
    "mask used": (
        f"{ON} a = Relu (x) d, m = Dropout (a, r, t) n = Cast <to = 1> (m) y = Mul (n, d)"
    ),
    "mask used in a subgraph": (
        f"{ON} a = Relu (x) d, m = Dropout (a, r, t)"
        f"q = If (c) <then_branch = b () => (p) {{ n = Cast <to = 1> (m) p = Mul (d, n) }}, {ELSE}>"
        "y = Add (d, q)"
    ),
    "an output": f"{ON} a = Relu (x) y = Dropout (a, r, t)",
    "an Identity before the output": f"{ON} a = Relu (x) d = Dropout (a, r, t) y = Identity (d)",
    "data are an input": f"{ON} d = Dropout (x, r, t) y = Relu (d)",
    "data are an input's Identity": f"{ON} a = Identity (x) d = Dropout (a, r, t) y = Relu (d)",
    "data are constant": (
        f"{ON} w = Constant <value = float[64] {{{ONES}}}> () d = Dropout (w, r, t) y = Mul (x, d)"
    ),
    "two in a row": f"{ON} a = Relu (x) d = Dropout (a, r, t) e = Dropout (d, r, t) y = Relu (e)",
    "in a subgraph, data from outside": (
        f"{ON} a = Relu (x)"
        "q = If (c) <then_branch = b () => (p) { d = Dropout (a, r, t) p = Relu (d) },"
        f"{ELSE}> y = Relu (q)"
    ),
    "in a subgraph, data from inside": (
        f"{ON} q = If (c) <then_branch = b () => (p)"
        f"{{ a = Relu (x) d = Dropout (a, r, t) p = Relu (d) }}, {ELSE}> y = Relu (q)"
    ),
    "a subgraph's output": (
        f"{ON} q = If (c) <then_branch = b () => (p)"
        f"{{ a = Relu (x) p = Dropout (a, r, t) }}, {ELSE}> y = Relu (q)"
    ),
    "used in a subgraph": (
        f"{ON} a = Relu (x) d = Dropout (a, r, t)"
        f"q = If (c) <then_branch = b () => (p) {{ p = Relu (d) }}, {ELSE}> y = Add (d, q)"
    ),
}
FUNCTIONS = {
    # Body of the function, how it is called; what becomes of it hangs on that.
    "whole body": ("w = Dropout (v, r, t)", "a = Relu (x) d = local.f (a) y = Relu (d)", None),
    "inside": ("u = Relu (v) d = Dropout (u, r, t) w = Relu (d)", "y = local.f (x)", True),
}
Level = onnxruntime.GraphOptimizationLevel


def parsed(body, opset=17, more="", functions=""):
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}{more}]>'
        f"g (float[64,64] x, bool c) => (float[64,64] y) {{ {body} }} {functions}"
    )


def is_random(model, level):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 4
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    known = {value.name for value in session.get_inputs()}
    feeds = {"x": np.random.default_rng(0).random((64, 64), np.float32), "c": np.array(True)}
    feeds = {name: array for name, array in feeds.items() if name in known}
    first, second = (session.run(None, feeds)[0] for _ in range(2))
    return not np.array_equal(first, second)


@pytest.mark.parametrize("opset", [13, 17, 22, 25])
@pytest.mark.parametrize("case", CASES)
def test_deletion_is_foreseen(case, opset):
    model = parsed(CASES[case], opset)
    assert is_random(model, Level.ORT_DISABLE_ALL)
    nodes = inspect(model).nodes
    live = is_random(model, Level.ORT_ENABLE_BASIC)
    assert is_random(model, Level.ORT_ENABLE_ALL) == live
    assert live == any(not node.deleted for node in nodes)
    assert all(node.reaches == ("y",) for node in nodes)


@pytest.mark.parametrize("case", FUNCTIONS)
def test_deletion_in_a_function(case):
    body, call, expected = FUNCTIONS[case]
    functions = f'<domain: "local", opset_import: ["": 17]> f (v) => (w) {{ {ON} {body} }}'
    model = parsed(call, more=', "local": 1', functions=functions)
    (node,) = inspect(model).nodes
    assert node.deleted is expected
    assert node.reaches == ("y",)
    assert not is_random(model, Level.ORT_ENABLE_BASIC)
    assert is_random(model, Level.ORT_DISABLE_ALL)


def test_deletion_where_a_subgraph_reads_output_and_data():
    body = (
        f"{ON} a = Relu (x) d = Dropout (a, r, t)"
        "q = If (c) <then_branch = b () => (p) { p = Relu (d) },"
        "else_branch = e () => (p2) { p2 = Relu (a) }> y = Add (d, q)"
    )
    model = parsed(body)
    assert is_random(model, Level.ORT_ENABLE_BASIC)
    assert [node.deleted for node in inspect(model).nodes] == [None]


def test_the_old_form_is_deleted_too():
    model = parsed("a = Relu (x) d = Dropout <is_test = 0> (a) y = Relu (d)", 6)
    (node,) = inspect(model).nodes
    assert (node.active, node.deleted) == (True, True)
    assert not is_random(model, Level.ORT_ENABLE_BASIC)


SHAPE = "s = Constant <value = int64[2] {64, 1}> () k = ConstantOfShape (s)"


@pytest.mark.parametrize(
    ("body", "frozen"),
    [
        (f"{SHAPE} u = RandomUniformLike (k) y = Mul (x, u)", True),
        (f"{SHAPE} u = Bernoulli (k) y = Mul (x, u)", True),
        ("u = RandomUniform <shape = [64, 1]> () y = Mul (x, u)", True),
        ("s = Shape (x) k = ConstantOfShape (s) u = RandomNormalLike (k) y = Mul (x, u)", True),
        ("u = RandomUniformLike (x) y = Mul (x, u)", False),
        ("u = Bernoulli (x) y = Mul (x, u)", False),
        (f"{ON} y = Dropout (x, r, t)", False),
    ],
)
def test_frozen(body, frozen):
    (node,) = inspect(parsed(body)).nodes
    assert node.frozen is frozen


def test_shapes_that_are_open_freeze_nothing():
    model = parsed("s = Shape (x) k = ConstantOfShape (s) u = RandomNormalLike (k) y = Mul (x, u)")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    assert [node.frozen for node in inspect(model).nodes] == [False]


@pytest.mark.parametrize(
    ("body", "merged"),
    [
        ("u = RandomUniformLike (x) v = RandomUniformLike (x)", True),
        ("u = RandomUniformLike <seed = 1.0> (x) v = RandomUniformLike <seed = 1.0> (x)", True),
        ("u = RandomUniformLike <seed = 1.0> (x) v = RandomUniformLike <seed = 2.0> (x)", False),
        ("u = RandomUniformLike (x) v = RandomNormalLike (x)", False),
        ("a = Relu (x) u = RandomUniformLike (x) v = RandomUniformLike (a)", False),
        ("a = Relu (x) b = Relu (x) u = RandomUniformLike (a) v = RandomUniformLike (b)", True),
        ("u = Bernoulli (x) w = Bernoulli (x) v = Dropout (w)", True),
        (f"{SHAPE} s2 = Constant <value = int64[2] {{64, 1}}> () k2 = ConstantOfShape (s2)"
         "u = RandomUniformLike (k) v = RandomUniformLike (k2)", True),
    ],
)  # fmt: skip
def test_merged(body, merged):
    nodes = inspect(parsed(f"{body} w_ = Add (u, v) y = Mul (x, w_)")).nodes
    first, second = nodes[:2]
    assert first.twins == ((second.output,) if merged else ())
    assert second.twins == ((first.output,) if merged else ())


def test_twins_are_looked_for_in_one_graph():
    body = (
        "q = If (c) <then_branch = b () => (p) { u = RandomUniformLike (x) p = Mul (u, x) },"
        "else_branch = e () => (p2) { v = RandomUniformLike (x) p2 = Mul (v, x) }> y = Relu (q)"
    )
    assert [node.twins for node in inspect(parsed(body)).nodes] == [(), ()]


def test_a_group_of_equal_nodes_is_listed_once():
    names = [f"u{number}" for number in range(50)]
    draws = " ".join(f"{name} = RandomUniformLike (x)" for name in names)
    nodes = inspect(parsed(f"{draws} y = Sum ({', '.join(names)})")).nodes
    assert len({id(node.alike) for node in nodes}) == 1
    assert nodes[0].alike == tuple(names)
    assert nodes[3].twins == tuple(name for name in names if name != "u3")
    assert nodes[3].to_dict()["twins"] == nodes[3].twins
    assert "alike" not in nodes[3].to_dict()
