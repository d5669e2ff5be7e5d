"""What is fed is checked before anything runs."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

import onnx_structdrop as sd
from onnx_structdrop.mc.inputs import Inputs

FLOAT = TensorProto.FLOAT


def inputs(**declared):
    """Return the inputs of a model that declares these shapes; a pair gives the type as well."""
    infos = [
        helper.make_tensor_value_info(
            name, *(shape if isinstance(shape, tuple) else (FLOAT, shape))
        )
        for name, shape in declared.items()
    ]
    result = helper.make_tensor_value_info("y", FLOAT, None)
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", infos, [result])
    return Inputs(ir.from_proto(helper.make_model(graph, ir_version=9)))


def images(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


def test_one_array():
    checked = inputs(x=["N", 3, 8, 8]).check(images(5, 3, 8, 8))
    assert checked.count == 5
    assert list(checked.images) == ["x"]
    piece = checked.piece(1, 3)
    assert piece.count == 2
    assert piece.images["x"].base is not None
    assert piece.key == checked.key
    assert piece.padded(4).count == 4


def test_lists_become_arrays():
    checked = inputs(x=["N", 2]).check([[1, 2], [3, 4]])
    assert checked.images["x"].dtype == np.float32


@pytest.mark.parametrize(
    ("declared", "given", "per_image", "shared"),
    [
        ({"x": ["N", 3], "rate": []}, {"rate": 0.1}, {"x"}, {"rate"}),
        ({"x": ["N", 3], "rate": []}, {"rate": np.float32(0.1)}, {"x"}, {"rate"}),
        ({"x": ["N", 3], "factor": [1]}, {"factor": [2.0]}, {"x"}, {"factor"}),
        ({"x": [1, 3], "factor": [1]}, {"factor": [2.0]}, {"x"}, {"factor"}),
        ({"x": ["N", 3], "weight": ["N"]}, {"weight": [1.0] * 4}, {"x", "weight"}, set()),
        ({"x": ["N", 3], "table": ["K", 2]}, {"table": images(9, 2)}, {"x"}, {"table"}),
        ({"x": [2, 3], "weight": [2]}, {"weight": [1.0] * 4}, {"x", "weight"}, set()),
    ],
)
def test_what_is_per_image(declared, given, per_image, shared):
    checked = inputs(**declared).check({"x": images(4, 3), **given})
    assert set(checked.images) == per_image
    assert set(checked.shared) == shared


@pytest.mark.parametrize(
    ("declared", "given", "error", "words"),
    [
        ({"x": ["N", 3]}, images(4, 2), sd.ArgumentError, r"shape \(4, 2\), the model takes"),
        ({"x": ["N", 3]}, images(3), sd.ArgumentError, r"takes \(N, 3\)"),
        ({"x": ["N", 3, 8, 6]}, images(3, 8, 6), sd.ArgumentError,
         r"; of one image, give images\[None\]$"),
        ({"x": ["N", 3, "H", "W"]}, images(4, 8, 6, 3), sd.ArgumentError,
         r"; of channels that are last, give images.transpose\(0, 3, 1, 2\)$"),
        ({"x": ["N", 8, 6, 3]}, images(4, 3, 8, 6), sd.ArgumentError,
         r"; of channels that are first, give images.transpose\(0, 2, 3, 1\)$"),
        ({"x": ["N", 3, 8, 6]}, images(4, 3, 6, 6), sd.ArgumentError, "along axis 0$"),
        ({"x": ["N", 3]}, images(0, 3), sd.ArgumentError, "no images"),
        ({"x": ["N", 3]}, images(4, 3, dtype=np.float64), sd.ArgumentTypeError, "astype"),
        ({"x": ["N", 3]}, images(4, 3, dtype=np.uint8), sd.ArgumentTypeError, "uint8"),
        ({"x": ["N", 3]}, "images.npy", sd.ArgumentTypeError, "must be an array, not str"),
        ({"x": ["N", 3]}, None, sd.ArgumentTypeError, "must be an array"),
        ({"x": ["N", 3]}, [[1, 2, 3], [4]], sd.ArgumentTypeError, "cannot be made an array"),
        ({"x": ["N", 3]}, {"X": images(4, 3)}, sd.ArgumentError, "no input 'X'; its inputs are"),
        ({"x": ["N", 3], "r": []}, images(4, 3), sd.ArgumentError, "by name: 'x', 'r'"),
        ({"x": ["N", 3], "r": []}, {"x": images(4, 3)}, sd.ArgumentError, "'r' is missing"),
        ({"x": ["N", 3], "w": ["N"]}, {"x": images(4, 3), "w": [1.0] * 3}, sd.ArgumentError,
         "3 entries along axis 0 beside 4"),
        ({"x": ["N", 3], "w": [2]}, {"x": images(4, 3), "w": [1.0] * 3}, sd.ArgumentError,
         "3 entries along axis 0 beside 4"),
    ],
)  # fmt: skip
def test_what_does_not_fit(declared, given, error, words):
    with pytest.raises(error, match=words) as caught:
        inputs(**declared).check(given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("declared", [{"x": None}, {"x": []}, {"x": None, "rate": []}])
def test_no_batch_axis_is_known(declared):
    with pytest.raises(sd.UnsupportedModelError, match="declare the shape of the images"):
        inputs(**declared)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_numbers_that_are_not_finite(number, dtype):
    array = images(4, 3, 5, dtype=dtype)
    kind = {np.float32: FLOAT, np.float16: TensorProto.FLOAT16}.get(dtype, TensorProto.BFLOAT16)
    known = inputs(x=(kind, ["N", 3, 5]))
    known.check(array).check_finite(0)
    array[2, 1, 4] = number
    with pytest.raises(sd.ArgumentError, match=r"image 12 of input 'x' holds .* at \[1, 4\]"):
        known.check(array).check_finite(10)


def test_a_sum_that_overflows_is_no_infinity():
    known = inputs(x=(TensorProto.DOUBLE, ["N", 2]))
    known.check(np.full((3, 2), 1e308)).check_finite(0)


def test_a_shared_number_that_is_not_finite():
    known = inputs(x=["N", 3], rate=[])
    with pytest.raises(sd.ArgumentError, match=r"input 'rate' holds nan"):
        known.check({"x": images(2, 3), "rate": np.nan}).check_finite(0)
