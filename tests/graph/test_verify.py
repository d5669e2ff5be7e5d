"""The numeric check: it finds differences, and claims nothing that it did not see."""

from __future__ import annotations

import concurrent.futures
import io
import json
import math

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from one_node import MODELS
from onnx import TensorProto, helper, numpy_helper

import onnx_structdrop as sd
from onnx_structdrop.graph.io import load, save
from onnx_structdrop.graph.verify import sessions, verify, worker
from onnx_structdrop.graph.verify.outputs import compare
from onnx_structdrop.graph.verify.pinned import pinned

RANDOM = "r = Constant <value_float = 0.5> () t = Constant <value = bool {1}> ()"


def net(body, inputs="float[N,4] x", outputs="float[N,4] y", opset=17, more="", functions=""):
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}{more}]> g ({inputs}) => ({outputs})'
        f"{{ {body} }} {functions}"
    )


def same(model, **options):
    """Check a model against itself, which has to be equal bit for bit."""
    report = verify(model, model, tolerance=0, **options)
    assert (report.status, report.reason) == ("equal", "")
    assert report.exact
    return report


def status(report):
    return [(output.name, output.status) for output in report.outputs]


# Equal and different


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.onnx")), ids=lambda path: path.stem)
def test_sample_models_equal_themselves_and_no_other_weights(path):
    model = onnx.load(path)
    report = same(model)
    assert len(report.shapes) == 3
    largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    array = numpy_helper.to_array(largest).copy()
    array *= -1
    changed = onnx.load(path)
    for tensor in changed.graph.initializer:
        if tensor.name == largest.name:
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    report = verify(model, changed)
    assert report.status == "different"
    assert not report.exact
    assert repr(model.graph.output[0].name) in report.reason


def test_the_inverse_of_insertion():
    model = onnx.load(MODELS / "resnet18_dynamo.onnx")
    dropping = sd.insert(model, sd.DropBlock2D(0.1, 3, seed=1), ratio_input="rate")
    assert verify(model, dropping).status == "not comparable"
    assert "DropBlock" in verify(model, dropping).reason
    silent = sd.set_training_mode(dropping, False)
    assert verify(model, silent, tolerance=0).exact
    report = verify(silent, sd.fold(dropping), tolerance=0)
    assert report.exact
    assert {*report.shapes[0]} == {"input", "rate"}
    report = verify(dropping, sd.fold(dropping), tolerance=0, inference=True)
    assert report.exact
    assert report.reference == "original in inference form"


def test_rounding_is_tolerated_and_reported():
    first = net("a = Constant <value_float = 3.0> () y = Div (x, a)")
    second = net("a = Constant <value_float = 0.33333334> () y = Mul (x, a)")
    report = verify(first, second)
    assert report.status == "equal"
    assert not report.exact
    (output,) = report.outputs
    assert 0 < output.error < 1e-6
    assert output.tolerance == 1e-4
    assert "within" in report.checks[-1]
    assert verify(first, second, tolerance=0).status == "different"
    assert verify(first, second, tolerance=1e-9).status == "different"
    assert verify(first, second, tolerance=1e-5).status == "equal"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("y = Neg (x)", "scale of its values"),
        ("y = Sqrt (x)", "NaN"),
        ("z = Constant <value_float = 0.0> () a = Relu (x) y = Div (a, z)", "NaN"),
        ("s = Constant <value_ints = [4, -1]> () y = Reshape (x, s)", "shape"),
        ("k = Constant <value_floats = [1.0, 2.0]> () y = Mul (x, k)", "rewritten model"),
    ],
)
def test_differences_are_explained(body, words):
    report = verify(
        net("y = Identity (x)", outputs="float[M,K] y"), net(body, outputs="float[M,K] y")
    )
    assert report.status == "different"
    assert words in report.reason


def test_nan_equals_nan():
    model = net("y = Sqrt (x)")
    same(model)
    everywhere = net("a = Abs (x) b = Neg (a) y = Log (b)")
    report = verify(everywhere, everywhere)
    assert report.status == "not comparable"
    assert "nothing finite" in report.reason


def test_constant_outputs_are_marked():
    """That zeros equal zeros is true, and says little."""
    body = "a = Abs (x) b = Neg (a) y = Relu (b) z = Relu (x)"
    report = same(net(body, outputs="float[N,4] y, float[N,4] z"))
    assert [output.constant for output in report.outputs] == [True, False]


def test_ir_versions_that_the_runtime_does_not_know():
    model = net("y = Relu (x)")
    model.ir_version = onnx.IR_VERSION
    same(model)


def test_names_tell_the_batch():
    model = net("y = Relu (x)", "float[5,batch] x", "float[5,batch] y")
    assert [shapes["x"] for shapes in same(model).shapes] == [(5, 2), (5, 1), (5, 3)]


def test_comparing_arrays():
    one = np.array([1.0, np.nan, np.inf, -0.0], np.float32)
    assert compare(one, one.copy()).exact
    other = np.array([1.0, np.float32(np.nan) * -1, np.inf, -0.0], np.float32)
    assert compare(one, other).exact
    for place, value in ((1, 0.0), (2, -np.inf), (2, 5.0), (0, np.inf)):
        changed = one.copy()
        changed[place] = value
        assert compare(one, changed).reason
    zero = compare(one, np.array([1.0, np.nan, np.inf, 0.0], np.float32))
    assert (zero.exact, zero.error, zero.reason) == (False, 0.0, "")
    assert math.isinf(compare(np.zeros(2), np.ones(2)).error)
    assert compare(np.zeros(2), np.zeros(2, np.float32)).reason
    assert compare(np.arange(3), np.arange(1, 4)).reason
    assert compare(np.zeros((0, 2)), np.zeros((0, 2))) == (True, 0.0, "", False, frozenset())


def test_signed_zeros_differ_bit_for_bit():
    first, second = net("y = Mul (x, x)"), net("a = Mul (x, x) b = Relu (a) y = Identity (b)")
    assert verify(first, second, tolerance=0).exact
    zero = "z = Constant <value_float = ZERO> () a = Mul (x, x) b = Mul (a, z) y = Abs (b)"
    kept = net(zero.replace("ZERO", "0.0").replace("Abs", "Identity"))
    signed = net(zero.replace("ZERO", "-0.0").replace("Abs", "Identity"))
    assert verify(kept, signed).status == "equal"
    assert "sign of zeros" in verify(kept, signed, tolerance=0).reason


# Signatures


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (net("z = Identity (x)", outputs="float[N,4] z"), "outputs"),
        (net("y = Identity (w)", inputs="float[N,4] w"), "inputs"),
        (net("y = Identity (x)", inputs="float[N,4] x, float u"), "inputs"),
        (net("y = Identity (x)", inputs="double[N,4] x", outputs="double[N,4] y"), "type"),
        (net("y = Identity (x)", inputs="float[N,5] x", outputs="float[N,5] y"), "size 5"),
        (net("y = Identity (x)", inputs="float[2,4] x"), "size 2"),
        (net("y = Identity (x)", inputs="float[N,4,1] x", outputs="float[N,4,1] y"), "axes"),
        (net("y = Identity (x) z = Neg (x)", outputs="float[N,4] y, float[N,4] z"), "outputs"),
    ],
)
def test_signatures_have_to_agree(other, words):
    report = verify(net("y = Identity (x)"), other)
    assert report.status == "different"
    assert words in report.reason
    assert report.outputs == report.checks == ()


def test_names_of_sizes_are_no_difference():
    first = net("y = Relu (x)")
    assert verify(first, net("y = Relu (x)", "float[batch,4] x", "float[N,M] y")).exact
    assert verify(first, net("y = Relu (x)", "float[batch,4] x", "float[batch,4] y")).exact


# Inputs


@pytest.mark.parametrize(
    "dtype",
    [
        "float", "double", "float16", "bfloat16", "bool", "int8", "int16", "int32", "int64",
        "uint8", "uint16", "uint32", "uint64", "string",
    ],
)  # fmt: skip
def test_every_type(dtype):
    report = same(net("y = Identity (x)", f"{dtype}[N,4] x", f"{dtype}[N,4] y"))
    assert [shapes["x"] for shapes in report.shapes] == [(2, 4), (1, 4), (3, 4)]
    assert report.optimisation == ("basic" if "float16" in dtype else "off")


def test_bfloat16_is_compared_as_such():
    first = net("f = Cast <to = 1> (x) g = Sin (f) y = Cast <to = 16> (g)",
                "bfloat16[4] x", "bfloat16[4] y")  # fmt: skip
    second = net("f = Cast <to = 1> (x) g = Cos (f) y = Cast <to = 16> (g)",
                 "bfloat16[4] x", "bfloat16[4] y")  # fmt: skip
    same(first)
    assert same(first).outputs[0].tolerance == 0
    assert verify(first, first).outputs[0].tolerance == 8e-2
    assert verify(first, second).status == "different"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_that_passes_through(dtype):
    model = net("z = Identity (x)", f"{dtype}[4] x", f"{dtype}[4] z")
    model.graph.output.append(model.graph.output[0])
    model.graph.output[1].name = "y"
    model.graph.node.append(
        helper.make_node("Neg" if dtype == "float16" else "Identity", ["z"], ["y"])
    )
    same(model)


@pytest.mark.parametrize("dtype", ["float8e4m3fn", "complex64"])
def test_types_that_cannot_be_made_up(dtype):
    model = net("y = Identity (x)", f"{dtype}[4] x", f"{dtype}[4] y", opset=19)
    report = verify(model, model)
    assert report.status == "not run"
    assert "'x'" in report.reason


@pytest.mark.parametrize("kind", ["sequence", "optional"])
def test_sequences_and_optionals_are_refused(kind):
    make = {
        "sequence": helper.make_sequence_type_proto,
        "optional": helper.make_optional_type_proto,
    }
    inner = make[kind](helper.make_tensor_type_proto(TensorProto.FLOAT, [2]))
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_value_info("x", inner)],
        [helper.make_value_info("y", inner)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    report = verify(model, model)
    assert report.status == "not run"
    assert kind in report.reason
    assert "'x'" in report.reason


def test_outputs_that_are_sequences_are_compared():
    body = "y = SplitToSequence <axis = 1, keepdims = 1> (OP)"
    model = net("a = Relu (x)" + body.replace("OP", "a"), outputs="seq(float[N,1]) y")
    other = net("a = Neg (x)" + body.replace("OP", "a"), outputs="seq(float[N,1]) y")
    same(model)
    assert verify(model, other).status == "different"


def test_sizes_of_one_name_are_one():
    model = net("y = Add (x, z)", "float[N,C] x, float[N,C] z", "float[N,C] y")
    report = same(model, samples=3)
    assert all(shapes["x"] == shapes["z"] for shapes in report.shapes)
    assert len({shapes["x"] for shapes in report.shapes}) == 3


def test_channels_are_those_that_convolutions_want():
    weight = np.zeros((6, 5, 3, 3), np.float32)
    conv = net("y = Conv <group = 2> (x, w)", "float[N,C,H,W] x", "float[N,K,U,V] y")
    conv.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    shapes = [entry["x"] for entry in same(conv).shapes]
    assert shapes == [(2, 10, 32, 32), (1, 10, 32, 64), (3, 10, 33, 35)]


def test_sizes_go_up_until_the_model_runs():
    model = net(
        "s = Constant <value_ints = [0, 3, 200, 200]> ()a = Slice (x, b, e) y = Reshape (a, s)",
        "float[N,3,H,W] x",
        "float[N,3,200,200] y",
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 0, 0, 0]), "b"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([99, 3, 200, 200]), "e"))
    report = same(model)
    assert min(min(entry["x"][2:]) for entry in report.shapes) == 224


def test_a_batch_that_is_baked_in():
    model = net("s = Constant <value_ints = [1, 4]> () y = Reshape (x, s)")
    assert {entry["x"] for entry in same(model).shapes} == {(1, 4)}


def test_rank_unknown():
    model = net("y = GlobalAveragePool (x)", outputs="float[N,C,1,1] y")
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert all(len(entry["x"]) == 4 for entry in same(model).shapes)


def test_empty_outputs_are_not_called_equal():
    for body in ("y = Mul (x, x)", "y = Identity (x)"):
        report = verify(net("y = Mul (x, x)", "float[0,4] x", "float[0,4] y"),
                        net(body, "float[0,4] x", "float[0,4] y"))  # fmt: skip
        assert report.status == "not comparable"
        assert "nothing to compare" in report.reason
        assert not report.exact
        assert report.ranges == {}
    both = net("y = Relu (x) z = Relu (w)", "float[N,4] x, float[0,4] w",
               "float[N,4] y, float[0,4] z")  # fmt: skip
    assert status(verify(both, both)) == [("y", "equal"), ("z", "not comparable")]


def test_indices_get_smaller_until_they_fit():
    model = net("w = Constant <value_floats = [1.0, 2.0, 3.0]> () y = Gather (w, x)",
                "int64[N,4] x")  # fmt: skip
    same(model)


def test_inputs_with_a_default_keep_it():
    model = net("y = Mul (x, k)", "float[N,4] x, float k")
    model.graph.initializer.append(numpy_helper.from_array(np.array(2, np.float32), "k"))
    report = same(model)
    assert [set(entry) for entry in report.shapes] == [{"x"}] * 3
    assert report.defaults == ("k",)
    assert "input 'k' left at the default" in report.checks[-1]
    other = net("y = Mul (x, k)", "float[N,4] x, float k")
    other.graph.initializer.append(numpy_helper.from_array(np.array(3, np.float32), "k"))
    assert verify(model, other).status == "different"


def test_models_without_inputs():
    model = net("y = Constant <value_floats = [1.0, 2.0]> ()", "", "float[2] y")
    assert same(model).shapes == ({}, {}, {})


def test_hostile_sizes_are_not_allocated():
    model = net("y = Relu (x)", "float[1000000,1000000] x", "float[1000000,1000000] y")
    report = verify(model, model)
    assert report.status == "not run"
    assert "GB" in report.reason


def test_seeds_and_samples():
    """A difference at one place in a hundred is seen with enough samples."""
    model = net("y = Relu (x)")
    assert len(same(model, samples=5, seed=9).shapes) == 5
    assert same(model, seed=9).seed == 9
    first, second = (verify(model, net("y = LeakyRelu (x)"), seed=seed) for seed in (1, 2))
    assert first.outputs[0].error != second.outputs[0].error
    assert first == verify(model, net("y = LeakyRelu (x)"), seed=1)


# Randomness


@pytest.mark.parametrize(
    "body",
    [
        f"{RANDOM} a = Relu (x) y = Dropout (a, r, t)",
        f"{RANDOM} a = Relu (x) b = Dropout (a, r, t) y = Relu (b)",
        "u = RandomUniformLike (x) y = Mul (u, x)",
        "p = Sigmoid (x) u = Bernoulli (p) y = Mul (u, x)",
    ],
)
def test_random_outputs_are_not_compared(body):
    report = verify(net(body), net(body))
    assert report.status == "not comparable"
    assert not report.exact
    assert "random" in report.reason
    assert any(name in report.reason for name in ("Dropout", "RandomUniformLike", "Bernoulli"))
    (output,) = report.outputs
    assert math.isnan(output.error)


def test_outputs_that_randomness_does_not_reach_are_compared():
    body = f"{RANDOM} y = Relu (x) a = Neg (x) z = Dropout (a, r, t)"
    model = net(body, outputs="float[N,4] y, float[N,4] z")
    report = verify(model, model)
    assert report.status == "not comparable"
    assert status(report) == [("y", "equal"), ("z", "not comparable")]
    assert "1 output equals" in report.checks[-1]
    wrong = net(body.replace("Relu", "Elu"), outputs="float[N,4] y, float[N,4] z")
    report = verify(model, wrong)
    assert report.status == "different"
    assert "'y'" in report.reason


def test_randomness_that_was_put_in_is_not_equal():
    random = net(f"{RANDOM} y = Dropout (x, r, t)")
    assert verify(net("y = Identity (x)"), random).status == "not comparable"


@pytest.mark.parametrize("flag", ["c", "n"])
def test_inputs_that_switch_dropout_are_held(flag):
    """The model is compared as it is in inference, whatever the sense of its switch."""
    switch = {"c": "t = Identity (c)", "n": "t = Not (c)"}[flag]
    body = f"r = Constant <value_float = 0.5> () {switch} y = Dropout (x, r, t)"
    model = net(body, "float[N,4] x, bool c")
    report = same(model)
    assert report.held == {"c": flag == "n"}
    clean = net("y = Identity (x)", "float[N,4] x, bool c")
    assert verify(model, clean, tolerance=0).exact


def test_a_switch_that_comes_from_nowhere():
    """A malformed node is onnxruntime's to refuse."""
    model = net("r = Constant <value_float = 0.5> () t = Not (c) y = Dropout (x, r, t)",
                "float[N,4] x, bool c")  # fmt: skip
    del model.graph.node[1].input[:]
    assert verify(model, model).status == "not run"
    model.graph.node[2].domain = "com.microsoft"
    model.graph.node[2].op_type = "BiasDropout"
    del model.graph.node[2].input[:]
    assert verify(model, model).status == "not run"


def test_dropout_without_a_rate_is_not_random():
    zero = RANDOM.replace("0.5", "0.0")
    same(net(f"{zero} a = Relu (x) y = Dropout (a, r, t)"))


def test_randomness_that_nobody_knows_of_is_noticed(monkeypatch):
    """Two runs of each model are compared, whatever its nodes are called."""
    monkeypatch.setattr(
        "onnx_structdrop.graph.verify.live.inspect",
        lambda model: sd.InspectReport(()),
    )
    random = net("u = RandomUniformLike (x) y = Mul (u, x)")
    report = verify(random, random)
    assert report.status == "not comparable"
    assert "two runs" in report.reason
    report = verify(net("y = Identity (x)"), random)
    assert report.status == "different"
    assert "two runs" in report.reason


# The inference form


def cleaned(body, expected, opset=17, inputs="float[N,4] x", tolerance=None, **options):
    report = verify(
        net(body, inputs, opset=opset, **options),
        net(expected, inputs, opset=opset),
        inference=True,
        tolerance=tolerance,
    )
    assert report.reference == "original in inference form"
    return report


HALF = "h = Constant <value_float = 0.5> ()"
KEEP = "k = Constant <value_float = 0.75> ()"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (f"{RANDOM} a = Relu (x) y = Dropout (a, r, t)", "y = Relu (x)"),
        (f"{RANDOM} a = Relu (x) b, m = Dropout (a, r, t) y = Neg (b)", "a = Relu (x) y = Neg (a)"),
        # Masks that are multiplied with count with their expectation.
        (f"{KEEP} u = RandomUniformLike (x) m = Less (u, k) c = Cast <to = 1> (m)"
         "d = Div (c, k) y = Mul (x, d)", "y = Identity (x)"),
        (f"{HALF} u = RandomUniformLike (x) m = Greater (u, h) c = Cast <to = 1> (m)"
         "a = Mul (c, x) y = Div (a, h)", "y = Identity (x)"),
        (f"{KEEP} u = RandomUniformLike (x) m = Less (u, k) n = Not (m) o = Not (n)"
         "c = Cast <to = 1> (o) d = Div (c, k) y = Mul (x, d)", "y = Identity (x)"),
        (f"{KEEP} u = RandomUniformLike (x) a = Add (u, k) f = Floor (a)"
         "d = Div (f, k) y = Mul (x, d)", "y = Identity (x)"),
        (f"{RANDOM} b, m = Dropout (x, r, t) c = Cast <to = 1> (m) d = Div (c, r) y = Mul (x, d)",
         "y = Identity (x)"),
        (f"{KEEP} z = Constant <value_float = 0.0> () u = RandomUniformLike (x) m = Less (u, k)"
         "s = Div (x, k) y = Where (m, s, z)", "y = Identity (x)"),
        ("u = RandomUniformLike <low = 0.5, high = 1.5> (x) y = Mul (x, u)", "y = Identity (x)"),
        ("u = RandomNormalLike (x) y = Add (x, u)", "y = Identity (x)"),
        ("u = RandomNormalLike <mean = 1.0, scale = 0.5> (x) y = Mul (x, u)", "y = Identity (x)"),
    ],
)  # fmt: skip
def test_inference_form(body, expected):
    report = cleaned(body, expected)
    assert (report.status, report.reason) == ("equal", "")
    assert any("two runs and two sessions" in check for check in report.checks)


def test_the_inference_form_needs_no_kernel_for_generators():
    body = (f"{KEEP} u = RandomUniformLike (x) m = Less (u, k) c = Cast <to = 1> (m)"
            "d = Div (c, k) y = Mul (x, d)")  # fmt: skip
    assert cleaned(body, "y = Identity (x)", opset=22).status == "equal"


def test_old_forms():
    body = "a = Relu (x) y = Dropout <ratio = 0.5, is_test = 0> (a)"
    assert cleaned(body, "y = Relu (x)", opset=6).status == "equal"
    assert cleaned("a = Relu (x) y = Dropout (a)", "y = Relu (x)", opset=7).status == "equal"


def test_a_wrong_inference_form_of_dropout_is_found():
    report = cleaned(f"{RANDOM} a = Relu (x) y = Dropout (a, r, t)", "y = Elu (x)")
    assert report.status == "different"


BLOCKS = (
    "g = Constant <value_float = 0.02> () u = RandomUniformLike (x) s = Less (u, g)"
    "f = Cast <to = 1> (s) p = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (f)"
    "o = Constant <value_float = 1.0> () k = Sub (o, p) m = Mul (x, k)"
)


def blocks(more, expected):
    signature = {"inputs": "float[N,2,9,9] x", "outputs": "float[N,2,9,9] y"}
    first, second = net(f"{BLOCKS} {more}", **signature), net(expected, **signature)
    return verify(first, second, inference=True)


def test_block_masks_that_scale_themselves():
    scale = "t = ReduceSum <keepdims = 0> (k) n = Size (k) c = Cast <to = 1> (n) d = Div (c, t)"
    assert blocks(f"{scale} y = Mul (m, d)", "y = Identity (x)").exact
    report = blocks(f"{scale} y = Mul (m, d)", "q = Constant <value_float = 1.1> () y = Mul (x, q)")
    assert report.status == "not comparable"


@pytest.mark.parametrize("expected", ["y = Identity (x)", "e = CONST () y = Div (x, e)"])
def test_a_scale_from_elsewhere_proves_nothing(expected):
    """Keeping everything, but for a scale, is just the mistake that a check has to find."""
    keep = "Constant <value_float = 0.84>"
    report = blocks(f"e = {keep} () y = Div (m, e)", expected.replace("CONST", keep))
    assert report.status == "not comparable"
    assert "RandomUniformLike" in report.reason


@pytest.mark.parametrize(
    "body",
    [
        # The scale sits on the mask, beside it, behind the join, before it.
        f"{KEEP} u = RandomUniformLike (x) m = Less (u, k) c = Cast <to = 1> (m) d = Div (c, k)"
        "y = Mul (x, d)",
        f"{KEEP} u = RandomUniformLike (x) m = Less (u, k) c = Cast <to = 1> (m) a = Mul (x, c)"
        "y = Div (a, k)",
        f"{KEEP} u = RandomUniformLike (x) m = Less (u, k) c = Cast <to = 1> (m) a = Div (x, k)"
        "y = Mul (a, c)",
        f"{KEEP} z = Constant <value_float = 0.0> () u = RandomUniformLike (x) m = Less (u, k)"
        "s = Div (x, k) y = Where (m, s, z)",
        f"{KEEP} u = RandomUniformLike (x) a = Add (u, k) f = Floor (a) b = Div (x, k)"
        "y = Mul (f, b)",
        f"{KEEP} s = Shape (x) e = Expand (k, s) u = Bernoulli (e) b = Div (x, k) y = Mul (u, b)",
        "r = Constant <value_float = 0.25> () t = Constant <value = bool {1}> ()"
        f"{KEEP} o, m = Dropout (x, r, t) c = Cast <to = 1> (m) b = Div (x, k) y = Mul (c, b)",
    ],
)
def test_a_scale_that_is_left_behind_is_never_equal(body):
    """Dropping nothing but the mask leaves x / keep."""
    right = cleaned(body, "y = Identity (x)")
    assert (right.status, right.reason) == ("equal", "")
    wrong = cleaned(body, f"{KEEP} y = Div (x, k)")
    assert wrong.status == "not comparable"
    assert "give something else" in wrong.reason


@pytest.mark.parametrize(
    "body",
    [
        "u = RandomUniformLike (x) m = Less (u, x) c = Cast <to = 1> (m) y = Mul (x, c)",
        f"{HALF} u = RandomUniformLike (x) m = Less (u, h) n = And (m, m) c = Cast <to = 1> (n)"
        "y = Mul (x, c)",
        "u = RandomUniformLike (x) l = Log (u) y = Add (x, l)",
        "u = RandomNormalLike (x) l = Exp (u) y = Add (x, l)",
        "p = Softmax (x) u = Multinomial (p) c = Cast <to = 1> (u) y = Mul (x, c)",
        f"{HALF} u = RandomUniformLike (x) m = Less (u, h) c = Cast <to = 1> (m)"
        "d = Mul (c, c) y = Mul (x, d)",
    ],
)
def test_generators_used_in_other_ways_are_not_judged(body):
    for expected in ("y = Identity (x)", f"{HALF} y = Mul (x, h)"):
        assert cleaned(body, expected).status == "not comparable"


def normalising(attributes, outputs):
    model = net(f"{outputs} = BatchNormalization {attributes} (x, s, b, m, v)")
    for name in "sbmv":
        array = np.array([1, 2, 3, 4], np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def test_batch_normalisation_is_put_into_inference():
    training = normalising("<training_mode = 1>", "y, a, c")
    inference = normalising("", "y")
    assert verify(training, inference, inference=True).exact
    assert verify(training, training, inference=True).status == "different"
    assert verify(training, inference).status == "different"


def test_residual_randomness_is_not_passed_over():
    body = f"{RANDOM} y = Dropout (x, r, t)"
    report = cleaned(body, body)
    assert report.status == "not comparable"
    assert "Dropout" in report.reason


def test_subgraphs_and_functions_are_pinned():
    body = (
        f"{RANDOM} y = If (c) <then_branch = b () => (p) {{ p = Dropout (x, r, t) }},"
        "else_branch = e () => (q) { q = local.f (x) }>"
    )
    functions = f'<domain: "local", opset_import: ["": 17]> f (v) => (w) {{ {RANDOM}' \
        "w = Dropout (v, r, t) }"  # fmt: skip
    model = net(body, "float[N,4] x, bool c", more=', "local": 1', functions=functions)
    report = verify(model, net("y = Identity (x)", "float[N,4] x, bool c"), inference=True)
    assert report.exact


# What cannot be run


def test_custom_domains_are_not_run():
    model = net("y = other.Thing (x)", more=', "other": 1')
    report = verify(model, model)
    assert report.status == "not run"
    assert "the original: onnxruntime does not load it" in report.reason
    assert report.outputs == ()


def test_a_result_that_does_not_load_is_different():
    report = verify(net("y = Relu (x)"), net("y = other.Thing (x)", more=', "other": 1'))
    assert report.status == "different"
    assert "the rewritten model: onnxruntime does not load it" in report.reason


def test_an_original_that_does_not_load_proves_nothing():
    """Only that the result is deterministic can be said then."""
    report = verify(net("y = StatelessRandomUniformX (x)"), net("y = Relu (x)"), inference=True)
    assert report.status == "not comparable"
    assert "the original" in report.reason
    assert any("two runs and two sessions" in check for check in report.checks)
    random = net("u = RandomUniformLike (x) y = Mul (u, x)")
    assert verify(net("y = other.T (x)", more=', "other": 1'), random).status == "not comparable"


def test_weights_beyond_the_limit_are_not_loaded():
    path = MODELS / "resnet18_dynamo.onnx"
    report = verify(path, path, max_weights=1000)
    assert report.status == "not run"
    assert "GB" in report.reason


def test_loops_that_do_not_end_are_stopped():
    model = net(
        "n = Constant <value = int64 {1000000000000}> () c = Constant <value = bool {1}> ()"
        "y = Loop (n, c, x) <body = b (int64 i, bool g, float[4] p) => (bool h, float[4] q)"
        "{ h = Identity (g) q = Sin (p) }>",
        "float[4] x",
        "float[4] y",
    )
    report = verify(model, model, timeout=0.3)
    assert report.status == "not run"
    assert "0.3 s" in report.reason


# Kinds of models


def test_external_weights_stay_where_they_are(tmp_path):
    original = onnx.load(MODELS / "resnet18_dynamo.onnx")
    save(original, tmp_path / "a.onnx", external_data="weights.bin")
    content = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    model = load(tmp_path / "a.onnx")
    assert same(model).exact
    assert verify(original, tmp_path / "a.onnx", tolerance=0).exact
    assert verify(str(tmp_path / "a.onnx"), model, tolerance=0).exact
    tensors = [value.const_value for value in model.graph.initializers.values()]
    assert any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == content


def test_models_are_left_alone():
    proto = onnx.load(MODELS / "resnet18_dynamo.onnx")
    model = sd.insert(proto, sd.SpatialDropout2D(0.1))
    before = model.SerializeToString(deterministic=True)
    verify(model, proto, inference=True)
    assert model.SerializeToString(deterministic=True) == before
    private = ir.from_proto(model)
    verify(private, proto, inference=True)
    assert ir.to_proto(private).SerializeToString(deterministic=True) == ir.to_proto(
        ir.from_proto(model)
    ).SerializeToString(deterministic=True)


def test_report_is_plain_data():
    model = net(f"{RANDOM} y = Dropout (x, r, t)")
    plain = json.loads(json.dumps(verify(model, model).to_dict()))
    assert plain["status"] == "not comparable"
    assert plain["exact"] is False
    assert plain["outputs"][0]["name"] == "y"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"samples": 0}, sd.ArgumentError),
        ({"samples": True}, sd.ArgumentTypeError),
        ({"samples": 10**9}, sd.ArgumentError),
        ({"seed": -1}, sd.ArgumentError),
        ({"seed": None}, sd.ArgumentTypeError),
        ({"tolerance": -1.0}, sd.ArgumentError),
        ({"tolerance": math.nan}, sd.ArgumentError),
        ({"tolerance": "x"}, sd.ArgumentTypeError),
    ],
)
def test_arguments(options, error):
    model = net("y = Relu (x)")
    with pytest.raises(error, match="verify"):
        verify(model, model, **options)


def test_what_is_no_model():
    with pytest.raises(sd.ArgumentTypeError):
        verify(1, net("y = Relu (x)"))
    with pytest.raises(sd.ModelError, match="does not exist"):
        verify("nothing.onnx", net("y = Relu (x)"))


# The process that onnxruntime runs in


def test_a_crash_is_no_crash_of_ours(monkeypatch, tmp_path):
    """Onnxruntime ends its process on some malformed models."""
    script = tmp_path / "crash.py"
    script.write_text("import os, sys; sys.stdin.buffer.readline(); os.abort()")
    sessions._PROCESS.end()
    monkeypatch.setattr("onnx_structdrop.graph.verify.worker.__file__", str(script))
    model = net("y = Relu (x)")
    report = verify(model, model)
    assert report.status == "not run"
    assert "crashed" in report.reason
    monkeypatch.undo()
    same(model)


def test_a_process_that_is_gone_is_started_again():
    model = net("y = Relu (x)")
    same(model)
    sessions._PROCESS._process.kill()
    sessions._PROCESS._process.wait()
    same(model)


def test_the_process_is_kept():
    model = net("y = Relu (x)")
    same(model)
    process = sessions._PROCESS._process
    same(model)
    assert sessions._PROCESS._process is process


def test_threads_wait_for_each_other():
    models = [net("y = Relu (x)"), net("y = Neg (x)"), net("y = Exp (x)")]
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        reports = list(pool.map(lambda model: verify(model, model, tolerance=0), models * 3))
    assert all(report.exact for report in reports)


def test_what_onnxruntime_prints_is_not_taken_for_an_answer(capfd):
    model = net("y = other.Thing (x)", more=', "other": 1')
    assert verify(model, model).status == "not run"
    same(net("y = Relu (x)"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float16).reshape(2, 3),
        np.zeros((0, 3), np.int8),
        np.array(True),
        np.array([["a", "é\n"], ["", "\0"]], dtype=object),
        np.array([np.nan, -0.0]),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([1 + 2j], np.complex64),
    ],
)
def test_messages_arrive_as_they_were_sent(array):
    stream = io.BytesIO()
    worker.write(stream, {"a": array, "list": [array, 1], "b": b"\0x", "t": "é", "d": {"k": array}})
    stream.seek(0)
    found = worker.read(stream)
    assert (found["b"], found["t"], found["list"][1]) == (b"\0x", "é", 1)
    for copy in (found["a"], found["list"][0], found["d"]["k"]):
        assert (copy.dtype, copy.shape) == (array.dtype, array.shape)
        assert np.array_equal(copy, array, equal_nan=array.dtype.kind == "f")
    with pytest.raises(EOFError):
        worker.read(stream)


@pytest.mark.parametrize(
    "path", sorted((MODELS / "train").glob("*_train.onnx")), ids=lambda p: p.stem
)
@pytest.mark.parametrize("spec", [sd.DropBlock2D(0.1, 3, seed=1), sd.SpatialDropout2D(0.1, seed=1)])
def test_our_nodes_among_masks_of_others(path, spec):
    # Data that went through a node of ours are data, whatever mask it put on them.
    inserted = sd.insert(load(path), spec)
    folded, (cleaned, _) = sd.fold(inserted), sd.clean(inserted)
    assert verify(pinned(inserted).model, pinned(folded).model, tolerance=0).exact
    report = verify(inserted, cleaned, inference=True)
    assert report.status == "equal", report.reason


@pytest.mark.parametrize("source", ["dropout", "uniform"])
def test_numbers_that_pick_from_others_are_not_held(source):
    # Coins that add up to where a mask begins have no expectation that drops nothing.
    model = load(MODELS / "resnet18_dynamo.onnx")
    sites = [site for site in sd.find_sites(model) if site.stage == 4][:1]
    inlined = sd.inline(sd.insert(model, sd.SpatialDropout2D(0.2, seed=1), sites), source)
    report = verify(inlined, model, inference=True)
    assert report.status == "not comparable"
    assert not report.suspicious
    assert "no number to hold" in report.reason
