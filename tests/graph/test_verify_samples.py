"""What the numeric check draws and how it measures: differences that ordinary numbers hide."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import onnx_structdrop as sd
from onnx_structdrop.graph.verify import verify
from onnx_structdrop.graph.verify.feeds import Signature
from onnx_structdrop.graph.verify.outputs import compare
from onnx_structdrop.graph.verify.scales import scales
from onnx_structdrop.graph.verify.search import Search
from onnx_structdrop.graph.verify.sessions import CrashError

IMAGE = ("float[N,3,H,W] x", "float[N,3,H,W] y")
GATED = ("float[N,4] x, float s", "float[N,4] y")


def net(body, inputs="float[N,4] x", outputs="float[N,4] y"):
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g ({inputs}) => ({outputs}) {{ {body} }}'
    )


# The scale of an error


@pytest.mark.parametrize(
    ("wrong", "right", "width"),
    [
        # A mask as attention has them, along an axis; one value in a row; one in all.
        ("n = Neg (x) y = Add (n, m)", "y = Add (x, m)", 4),
        ("e = Constant <value_float = 1.01> () n = Mul (x, e) y = Add (n, m)", "y = Add (x, m)", 4),
        ("n = Neg (x) y = Concat <axis = 1> (n, h)", "y = Concat <axis = 1> (x, h)", 5),
    ],
)  # fmt: skip
def test_huge_values_hide_nothing(wrong, right, width):
    constants = (
        "m = Constant <value = float[1,4] {0, 0, 0, -1000000000}> ()"
        "h = Constant <value = float[2,1] {100000, 100000}> ()"
    )
    signature = ("float[2,4] x", f"float[2,{width}] y")
    first = net(f"{constants} {right}", *signature)
    assert verify(first, first, tolerance=0).exact
    report = verify(first, net(f"{constants} {wrong}", *signature))
    assert report.status == "different"


@pytest.mark.parametrize("huge", [1e5, -1e9, 3e38, np.inf])
def test_one_huge_value_raises_no_scale_but_its_own(huge):
    array = np.random.default_rng(1).standard_normal((6, 8)).astype(np.float32)
    array[2, 3] = huge
    wrong = array.copy()
    wrong[0, 0] += 0.1
    wrong[4, 3] += 0.1
    assert compare(array, wrong).error > 1e-3
    if np.isfinite(huge):
        close = array.copy()
        close[2, 3] = np.nextafter(array[2, 3], np.float32(0))
        assert compare(array, close).error < 1e-6


def test_reordered_sums_stay_equal():
    """Small values beside large ones carry the rounding of what they were computed from."""
    generator = np.random.default_rng(0)
    left = generator.standard_normal((64, 256)).astype(np.float32)
    right = generator.standard_normal((256, 64)).astype(np.float32)
    order = generator.permutation(256)
    one, other = left @ right, left[:, order] @ right[order]
    assert 0 < compare(one, other).error < 1e-5
    # Boxes in pixels beside probabilities, and probabilities that are mostly tiny.
    centre = generator.uniform(0, 640, (1, 4, 500)).astype(np.float32)
    boxes = np.concatenate([centre - generator.uniform(0, 99, centre.shape), one[None, :4, :1]
                            * np.full((1, 4, 500), 1e-4)], 1).astype(np.float32)  # fmt: skip
    noise = np.concatenate([np.full((1, 4, 500), 1e-4), np.zeros((1, 4, 500))], 1)
    assert compare(boxes, (boxes + noise).astype(np.float32)).error < 1e-5
    sharp = np.exp(one - one.max(1, keepdims=True))
    assert compare(sharp, sharp * np.float32(1 + 1e-6)).error < 1e-5
    gram = np.eye(50, dtype=np.float32) + np.float32(1e-8) * left[:50, :50]
    assert compare(gram, np.eye(50, dtype=np.float32)).error < 1e-4


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=24),
    st.sampled_from([(-1,), (1, -1), (-1, 1)]),
)
def test_scales_lie_between_the_value_and_the_largest(values, shape):
    array = np.array(values, np.float32).reshape(shape)
    found = scales(array)
    sizes = np.abs(array).astype(np.float64)
    assert found.shape == array.shape
    assert (found >= sizes).all()
    assert (found <= sizes.max()).all()


def test_scales_of_nothing():
    assert scales(np.zeros((0, 3))).shape == (0, 3)
    huge = np.array([[1e308, -1e308], [1e308, 1.0]])
    assert (scales(huge) >= np.abs(huge)).all()
    assert compare(huge, -huge).error > 1
    assert not scales(np.array([[np.nan, np.inf], [0, 0]])).any()


# Constants


@pytest.mark.parametrize(
    ("body", "kind", "constant"),
    [
        ("k = Constant <value_float = 1e6> () y = Less (x, k)", "bool", True),
        ("k = Constant <value_float = 0.0> () y = Less (x, k)", "bool", False),
        ("k = Constant <value_float = 1e6> () a = Div (x, k) y = Cast <to = 7> (a)", "int64", True),
        ("k = Constant <value_float = 9.0> () a = Mul (x, k) y = Cast <to = 7> (a)", "int64",
         False),
        ("k = Constant <value_float = 0.0> () a = Abs (x) b = Mul (a, k) y = Cast <to = 8> (b)",
         "string", True),
        ("y = Cast <to = 8> (x)", "string", False),
    ],
)  # fmt: skip
def test_constants_of_every_type_are_marked(body, kind, constant):
    model = net(body, outputs=f"{kind}[N,4] y")
    report = verify(model, model)
    assert report.exact
    assert report.outputs[0].constant is constant


# What is drawn


@pytest.mark.parametrize(
    ("right", "wrong", "signature"),
    [
        ("y = Identity (x)", "a = Constant <value_float = -6.0> () b = Constant <value_float = 6.0>"
         "() y = Clip (x, a, b)", ("float[N,4] x", "float[N,4] y")),
        ("y = Identity (x)", "h = Shape <start = 2, end = 3> (x) k = Constant <value_ints = [2]> ()"
         "z = Constant <value_ints = [1]> () q = Mod (h, k) c = Equal (q, z) n = Neg (x)"
         "y = Where (c, n, x)", IMAGE),
        ("y = Identity (x)", "h = Shape <start = 0, end = 1> (x) k = Constant <value_ints = [2]> ()"
         "c = Greater (h, k) n = Neg (x) y = Where (c, n, x)", IMAGE),
        ("y = Mul (x, s)", "k = Constant <value_float = 0.5> () q = Min (s, k) y = Mul (x, q)",
         GATED),
        ("y = Mul (x, s)", "q = Abs (s) y = Mul (x, q)", GATED),
        ("y = Add (x, s)", "z = Constant <value_float = 0.0> () c = Equal (s, z) n = Neg (x)"
         "a = Add (x, s) y = Where (c, n, a)", GATED),
        ("y = Add (x, s)", "z = Constant <value_float = 1.0> () c = Equal (s, z) n = Neg (x)"
         "a = Add (x, s) y = Where (c, n, a)", GATED),
        ("y = Identity (x)", "k = Constant <value = int64 {9}> () y = Min (x, k)",
         ("int64[N,S] x", "int64[N,S] y")),
    ],
    ids=["magnitude", "odd", "batch", "large", "negative", "zero", "one", "indices"],
)  # fmt: skip
def test_differences_at_unusual_inputs(right, wrong, signature):
    first = net(right, *signature)
    assert verify(first, first, tolerance=0).exact
    assert verify(first, net(wrong, *signature)).status == "different"


def test_ranges_are_those_that_were_drawn():
    model = net("a = Mul (x, s) b = Cast <to = 1> (i) c = Cast <to = 1> (t) d = Add (a, b)"
                "y = Add (d, c)", "float[N,4] x, float s, int64[N,4] i, bool[N,4] t")  # fmt: skip
    report = verify(model, model)
    assert set(report.ranges) == set("xsit")
    assert max(map(abs, report.ranges["x"])) > 5
    assert -2 <= report.ranges["s"][0] < 0
    assert 1 < report.ranges["s"][1] <= 3
    assert 10 < report.ranges["i"][1] < 100
    assert report.ranges["t"] == (0, 1)
    assert len(report.shapes) == 5
    assert report.to_dict()["ranges"].keys() == report.ranges.keys()


def test_values_that_a_model_refuses_are_not_forced_on_it():
    """A rate that onnxruntime checks, and what overflows."""
    body = "t = Constant <value = bool {0}> () y = Dropout (x, s, t)"
    model = net(body, *GATED)
    report = verify(model, model, tolerance=0)
    assert report.exact
    assert report.ranges["s"][0] >= 0
    steep = net("k = Constant <value_float = 15.0> () a = Mul (x, k) y = Exp (a)")
    report = verify(steep, steep)
    assert report.exact
    assert report.ranges["x"][1] < 6


def test_ratio_inputs_stay_rates():
    model = net("w = Constant <value = float[3,3,1,1] {1,2,3,4,5,6,7,8,9}> () c = Conv (x, w)"
                "y = Relu (c)", *IMAGE)  # fmt: skip
    dropping = sd.insert(model, sd.SpatialDropout2D(0.1), ratio_input="rate")
    silent = sd.set_training_mode(dropping, False)
    report = verify(silent, sd.fold(dropping), tolerance=0)
    assert report.exact
    low, high = report.ranges["rate"]
    assert 0.05 <= low <= high <= 0.5


# A difference that is no verdict


@pytest.mark.parametrize("gate", ["float s", "float[1] s"])
def test_a_gate_in_a_mask_is_suspicious(gate):
    """Dropping the mask must keep what else is multiplied into it."""
    mask = ("k = Constant <value_float = 0.75> () z = Constant <value_float = 0.0> ()"
            "u = RandomUniformLike (x) l = Less (u, k) m = CastLike (l, x) g = Greater (s, z)"
            "h = CastLike (g, x) a = Mul (m, h) d = Div (a, k) y = Mul (x, d)")  # fmt: skip
    signature = (f"float[N,4] x, {gate}", "float[N,4] y")
    kept = (
        "z = Constant <value_float = 0.0> () g = Greater (s, z) h = CastLike (g, x) y = Mul (x, h)"
    )
    right = verify(net(mask, *signature), net(kept, *signature), inference=True)
    assert (right.status, right.suspicious) == ("equal", False)
    wrong = verify(net(mask, *signature), net("y = Identity (x)", *signature), inference=True)
    assert (wrong.status, wrong.suspicious) == ("not comparable", True)
    assert wrong.outputs[0].suspicious
    assert wrong.to_dict()["suspicious"] is True


def test_what_was_not_compared_is_not_suspicious():
    model = net("u = RandomUniformLike (x) y = Mul (x, u)")
    assert not verify(model, model).suspicious
    blind = net("u = RandomUniformLike (x) l = Log (u) y = Add (x, l)")
    report = verify(blind, net("y = Identity (x)"), inference=True)
    assert (report.status, report.suspicious) == ("not comparable", False)


def test_defaults_are_named():
    model = net("a = Mul (x, k) y = Add (a, l)", "float[N,4] x, float k, float l")
    for name in "kl":
        model.graph.initializer.append(numpy_helper.from_array(np.array(2, np.float32), name))
    report = verify(model, model)
    assert report.defaults == ("k", "l")
    assert "inputs 'k, l' left at the default" in report.checks[-1]
    assert verify(net("y = Relu (x)"), net("y = Relu (x)")).defaults == ()


def test_a_crash_ends_only_the_try():
    """The session is gone with the process, and what comes next needs another."""
    loaded = []

    class Fragile:
        def __init__(self):
            self.gone = False
            loaded.append(self)

        def run(self, feeds):
            assert not self.gone
            if np.abs(feeds["x"]).max() > 6:
                self.gone = True
                raise CrashError("onnxruntime crashed on it")
            return [feeds["x"]]

    signature = Signature(ir.from_proto(net("y = Relu (x)", "float[N,64] x")), {})
    found = Search(Fragile, signature, 0, half=False).samples(3)
    assert len(loaded) == 2
    assert [sample.draw.magnitude for sample in found] == [1, 1, 1]
    assert [sample.feeds["x"].shape[0] for sample in found] == [2, 1, 3]
