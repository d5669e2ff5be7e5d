"""Random numbers that look like dropout and are not, and the other way round."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import parser

from onnx_structdrop.errors import ModelError, UnsupportedModelError
from onnx_structdrop.graph.clean import clean
from onnx_structdrop.graph.compare import differences
from onnx_structdrop.graph.verify import verify

TABLE = ", ".join(str(number / 10) for number in range(36))
SAMPLES = "float[N,4,6,6]"


def written(body, *, given="", results=f"{SAMPLES} y", opset=18, stored="", functions=""):
    """Return the model of a text; it has an input x."""
    domains = ', "loc": 1' if functions else ""
    inputs = f"{SAMPLES} x{given}"
    return parser.parse_model(
        f'<ir_version: 9, opset_import: ["": {opset}{domains}]>\n'
        f"net ({inputs}) => ({results}) {f'<{stored}>' if stored else ''} {{ {body} }}\n{functions}"
    )


def outputs(model, x):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {"x": x})


def number(name, value):
    return f"{name} = Constant <value_float = {value}> () "


def mask(keep, like="x", name="m"):
    return (
        f"u{name} = RandomUniformLike ({like}) {number('k' + name, keep)}"
        f"b{name} = Less (u{name}, k{name}) {name} = Cast <to = 1> (b{name}) "
    )


ACTIVE = f"{number('r', 0.3)} t = Constant <value = bool {{1}}> () "
ONES = "s = Shape (x) o = ConstantOfShape <value = float[1] {1.0}> (s) "
NOISY = f"e = RandomNormalLike (x) {number('h', 0.5)} n = Mul (e, h) z = Add (x, n) "

REFUSED = {
    "a threshold on noisy data": (
        f"{NOISY} {number('c', 0.0)} b = Greater (z, c) y = Cast <to = 1> (b)",
        "draws a sample",
    ),
    "the largest of noisy data": (
        f"{NOISY} {number('c', 2.0)} l = Div (z, c) p = Softmax <axis = 1> (l) "
        "v, i = TopK (p, a) y = Cast <to = 1> (i)",
        "draws a sample",
    ),
    "noisy data rounded": (f"{NOISY} y = Floor (z)", "draws a sample"),
    "noisy data cut": (f"{NOISY} q = Cast <to = 6> (z) y = Cast <to = 1> (q)", "draws a sample"),
    "a random walk": (
        "c = Constant <value = bool {1}> () y = Loop (a, c, x) <body = walk (int64 i, bool g, "
        f"{SAMPLES} v) => (bool g2, {SAMPLES} w) {{ g2 = Identity (g) "
        f"e = RandomNormalLike (v) {number('h', 0.1)} n = Mul (e, h) w = Add (v, n) }}>",
        "each round of a loop",
    ),
    "noise of a deviation that was learned": (
        f"e = RandomNormalLike (x) {number('h', 0.2871834)} n = Mul (e, h) y = Add (x, n)",
        "may be learned",
    ),
    "a mask that keeps nothing": (f"{mask(0.0)} y = Mul (x, m)", "keeps nothing"),
    "signs drawn by a Dropout of ones": (
        f"{ACTIVE} {ONES} {number('f', 0.5)} d = Dropout (o, f, t) {number('i', 1.0)} "
        "g = Sub (d, i) y = Mul (x, g)",
        "nothing that drops by it was proven",
    ),
    "a Dropout of ones that is an output": (
        f"{ACTIVE} {ONES} y = Dropout (o, r, t)",
        "it reaches the output 'y'",
    ),
    "a Dropout of ones without its scale": (
        f"{ACTIVE} {ONES} d = Dropout (o, r, t) {number('k', 0.7)} m = Mul (d, k) y = Mul (x, m)",
        "keeps values unscaled",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_noise_with_a_purpose_stays(case):
    body, reason = REFUSED[case]
    stored = "int64[1] a = {2}" if "(p, a)" in body else "int64 a = {3}" if "Loop" in body else ""
    model = written(body, stored=stored)
    cleaned, report = clean(model)
    assert [reason in left.reason for left in report.residual] == [True]
    assert differences(model, cleaned) == []


def test_noise_ahead_of_layers_and_a_decision_goes():
    body = f"{NOISY} a = Relu (z) y = ArgMax <axis = 1, keepdims = 0> (a)"
    cleaned, report = clean(written(body, results="int64[N,6,6] y"))
    assert not report.residual
    assert [node.op_type for node in cleaned.graph.node] == ["Relu", "ArgMax"]


@pytest.mark.parametrize("deviation", [0.1, 0.25, 8 / 255, 0.003, 1 / 3, 0.1**0.5])
def test_deviations_that_are_set(deviation):
    body = f"e = RandomNormalLike (x) {number('h', deviation)} n = Mul (e, h) y = Add (x, n)"
    assert not clean(written(body))[1].residual


CLEANED = {
    "a Dropout of ones is a mask": f"{ACTIVE} {ONES} d = Dropout (o, r, t) y = Mul (x, d)",
    "a Dropout of ones as indicator": (
        f"{ACTIVE} {ONES} d = Dropout (o, r, t) {number('c', 0.0)} g = Greater (d, c) "
        f"m = Cast <to = 1> (g) l = Mul (x, m) {number('k', 0.7)} y = Div (l, k)"
    ),
}


@pytest.mark.parametrize("case", CLEANED)
def test_a_dropout_of_constants_is_a_generator(case):
    model = written(CLEANED[case])
    cleaned, report = clean(model)
    assert not report.residual
    x = np.random.default_rng(0).standard_normal((2, 4, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(outputs(cleaned, x)[0], x, rtol=1e-6)
    # It is no fault if the check cannot tell, but it must not take it for one.
    assert verify(model, cleaned, inference=True).status != "different"


def test_weights_that_are_alike_are_weights():
    ones = ", ".join(["1"] * 36)
    body = f"{ACTIVE} v = Dropout (w, r, t) q = Transpose (v) y = MatMul (x, q)"
    cleaned, report = clean(written(body, stored=f"float[6,6] w = {{{ones}}}"))
    assert not report.residual
    assert [node.op_type for node in cleaned.graph.node] == ["Transpose", "MatMul"]


@pytest.mark.parametrize("order", ["scaled", "masked"])
@pytest.mark.parametrize("user", ["y = MatMul (x, v)", "y = Gather (v, j)"])
def test_masks_on_weights(order, user):
    draw = "u = RandomUniform <shape = [6, 1]> () " + number("k", 0.5)
    parts = {
        "scaled": "c = Div (m, k) v = Mul (w, c)",
        "masked": "c = Mul (w, m) v = Div (c, k)",
    }
    body = f"{draw} b = Less (u, k) m = Cast <to = 1> (b) {parts[order]} {user}"
    given = ", int64[N] j" if "Gather" in user else ""
    results = "float[N,6] y" if "Gather" in user else f"{SAMPLES} y"
    model = written(body, given=given, results=results, stored=f"float[6,6] w = {{{TABLE}}}")
    cleaned, report = clean(model)
    assert not report.residual
    assert [list(node.input) for node in cleaned.graph.node] in ([["x", "w"]], [["w", "j"]])


UNUSED = {
    "one node": "u = RandomUniformLike (x) y = Relu (x)",
    "a mask": f"{mask(0.5)} d = Mul (x, m) y = Relu (x)",
    "its shape": "u = RandomNormalLike (x) s = Shape (u) r = Reshape (x, s) y = Relu (r)",
}


@pytest.mark.parametrize("case", UNUSED)
def test_random_numbers_that_reach_nothing_go(case):
    cleaned, report = clean(written(UNUSED[case]))
    assert not report.residual
    assert [decision.pattern for decision in report.decisions] == ["unused"]
    assert not any("Random" in node.op_type for node in cleaned.graph.node)
    onnx.checker.check_model(cleaned, full_check=True)


PROBABILITIES = "q = Constant <value = float[1,4,1,1] {0.5, 0.8, 0.9, 0.25}> () "
REASONS = {
    "two thresholds": (
        f"u = RandomUniformLike (x) {number('k', 0.7)} {number('l', 0.2)} b = Less (u, k) "
        f"c = Greater (u, l) d = And (b, c) m = Cast <to = 1> (d) y = Mul (x, m)",
        "masks of the same random numbers",
    ),
    "exclusive or": (
        f"{mask(0.5)} {mask(0.5, name='n')} d = Xor (bm, bn) c = Cast <to = 1> (d) y = Mul (x, c)",
        "the random numbers enter Xor",
    ),
    "probabilities that differ": (
        f"{PROBABILITIES} s = Shape (x) e = Expand (q, s) m = Bernoulli (e) y = Mul (x, m)",
        "not one number that the file holds",
    ),
    "probabilities from data": (
        "p = Sigmoid (x) m = Bernoulli (p) y = Mul (x, m)",
        "computed from data",
    ),
    "thresholds that differ": (
        f"u = RandomUniformLike (x) {PROBABILITIES} b = Less (u, q) m = Cast <to = 1> (b) "
        "d = Mul (x, m) y = Div (d, q)",
        "at Div 'y'",
    ),
    "nothing left": (
        f"{mask(0.5)} {number('c', 0.0)} z = Mul (m, c) y = Mul (x, z)",
        "what is left is not the data",
    ),
    "a square": (
        f"u = RandomUniformLike (x) w = Mul (u, u) {number('k', 0.25)} b = Less (w, k) "
        "m = Cast <to = 1> (b) y = Mul (x, m)",
        "nothing is known of the numbers",
    ),
    "a mixture": (
        f"u = RandomUniform <shape = [1]> () {number('i', 1.0)} v = Sub (i, u) c = Mul (x, u) "
        "d = Mul (x, v) y = Add (c, d)",
        "a mixture of random numbers",
    ),
}


@pytest.mark.parametrize("case", REASONS)
def test_reasons_are_true(case):
    body, reason = REASONS[case]
    report = clean(written(body))[1]
    assert report.residual
    for left in report.residual:
        assert reason in left.reason


def test_numbers_that_a_function_is_given_are_called_unknown():
    functions = (
        '<domain: "loc", opset_import: ["": 18]>\n'
        "drop <p: float = 0.7> (v) => (w) { u = RandomUniformLike (v) "
        "k = Constant <value_float: float = @p> () b = Less (u, k) m = Cast <to = 1> (b) "
        f"c = Mul (v, m) {number('s', 0.7)} w = Div (c, s) }}"
    )
    report = clean(written("y = loc.drop (x)", functions=functions))[1]
    assert report.residual
    for left in report.residual:
        assert "with a probability that only the run knows" in left.reason


def test_running_statistics_that_are_used_are_compared():
    stored = ", ".join(f"float[4] {name} = {{1, 2, 3, 4}}" for name in ("s", "b", "e", "v"))
    body = "y, f, w = BatchNormalization <training_mode = 1> (x, s, b, e, v)"
    model = written(body, results=f"{SAMPLES} y, float[4] f, float[4] w", stored=stored)
    cleaned, report = clean(model)
    assert not report.residual
    assert verify(model, cleaned, inference=True).status == "equal"


def test_operator_sets_of_the_future_are_refused():
    with pytest.raises(UnsupportedModelError, match=r"opset 999 of ai\.onnx is newer"):
        clean(written("y = Relu (x)", opset=999))


@pytest.mark.parametrize("version", [0, -3])
def test_operator_sets_begin_at_one(version):
    model = written("y = Relu (x)")
    model.opset_import[0].version = version
    with pytest.raises(ModelError, match="versions begin at 1"):
        clean(model)


def test_broken_references_are_named_without_a_folder():
    model = written("y = MatMul (x, w)", stored=f"float[6,6] w = {{{TABLE}}}")
    weight = model.graph.initializer[0]
    weight.ClearField("float_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "w.bin"), ("offset", "abc")):
        weight.external_data.add(key=key, value=value)
    with pytest.raises(ModelError, match=r"'w' refers to .* its offset 'abc' is not a number"):
        clean(model)


def test_masks_that_functions_hand_on_are_checked():
    functions = (
        '<domain: "loc", opset_import: ["": 18]>\n'
        f"mask (v) => (m) {{ u = RandomUniformLike (v) {number('k', 0.5)} b = Less (u, k) "
        "m = Cast <to = 1> (b) }"
    )
    body = f"m = loc.mask (x) d = Mul (x, m) {number('k', 0.5)} y = Div (d, k)"
    model = written(body, functions=functions)
    cleaned, report = clean(model)
    assert not report.residual
    assert verify(model, cleaned, inference=True).status == "equal"
    wrong = written(f"{number('c', 2.0)} y = Mul (x, c)")
    assert verify(model, wrong, inference=True).suspicious


@pytest.mark.parametrize(("bound", "keep"), [(0.0, 0.5), (0.5, 0.3085375387), (-1.0, 0.84134474)])
def test_thresholds_on_normal_numbers_are_checked(bound, keep):
    body = (
        f"u = RandomNormalLike (x) {number('c', bound)} b = Greater (u, c) m = Cast <to = 1> (b) "
        f"d = Mul (x, m) {number('k', keep)} y = Div (d, k)"
    )
    model = written(body)
    cleaned, report = clean(model)
    assert not report.residual
    assert verify(model, cleaned, inference=True).status == "equal"
    assert verify(model, written("y = Neg (x)"), inference=True).status != "equal"
