"""Every rewrite computes what the original does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from prepared_nets import around, data, ops, run

from onnx_structdrop.errors import UnsupportedModelError
from onnx_structdrop.training import prepare
from onnx_structdrop.training.preparation.support import GRADIENTS

few = settings(max_examples=25, deadline=None)
vector = np.float32([0.5, -1.0, 2.0, 1.5])
positive = np.float32([0.5, 1.0, 2.0, 1.5])


def check(model, shape, *, gone, tolerance=1e-6):
    """Check that preparation removes an operator and keeps the values."""
    prepared = prepare(model)
    assert gone not in ops(prepared.model)
    assert set(ops(prepared.model)) <= GRADIENTS | {"Shape", "Greater"}
    x = data(shape)
    expected, actual = run(model, x=x), run(prepared.model, x=x)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())
    assert [out.name for out in prepared.model.graph.output] == ["y"]
    return prepared


ACTIVATIONS = [
    ("HardSwish", 14, {}, ()),
    ("HardSigmoid", 13, {}, ()),
    ("HardSigmoid", 13, {"alpha": 0.3, "beta": 0.4}, ()),
    ("Mish", 18, {}, ()),
    ("Elu", 13, {"alpha": 0.7}, ()),
    ("Celu", 13, {"alpha": 0.7}, ()),
    ("Selu", 13, {}, ()),
    ("Softplus", 13, {}, ()),
    ("Softsign", 13, {}, ()),
    ("ThresholdedRelu", 13, {"alpha": 0.3}, ()),
    ("PRelu", 13, {}, (positive[:, None, None],)),
    ("PRelu", 13, {}, (np.float32([0.25]),)),
    ("Sum", 13, {}, (vector[:, None, None], vector[:, None, None])),
    ("Mean", 13, {}, (data((2, 4, 5, 5), 3),)),
    ("CastLike", 15, {}, (np.float32(1),)),
]


@pytest.mark.parametrize(("op_type", "since", "attributes", "inputs"), ACTIVATIONS)
def test_activation(op_type, since, attributes, inputs):
    for opset in sorted({since, 20}):
        model = around(op_type, (2, 4, 5, 5), inputs=inputs, opset=opset, **attributes)
        check(model, (2, 4, 5, 5), gone=op_type, tolerance=3e-7)


@pytest.mark.parametrize("op_type", ["Mish", "Softplus", "Elu", "Selu"])
def test_activation_of_large_numbers(op_type):
    model = around(op_type, (1, 1, 1, 9), opset=18)
    prepared = prepare(model).model
    x = np.float32([-1e4, -100, -30, -1e-4, 0, 1e-4, 30, 100, 1e4]).reshape(1, 1, 1, 9)
    np.testing.assert_allclose(run(prepared, x=x), run(model, x=x), rtol=1e-6, atol=1e-6)


@few
@given(st.data())
def test_average_pool(draw):
    rank = draw.draw(st.integers(1, 3))
    kernel = [draw.draw(st.integers(1, 3)) for _ in range(rank)]
    pads = [draw.draw(st.integers(0, k - 1)) for k in kernel * 2]
    strides = [draw.draw(st.integers(1, 3)) for _ in range(rank)]
    sizes = [draw.draw(st.integers(3, 8)) for _ in range(rank)]
    include = draw.draw(st.booleans())
    ceil = draw.draw(st.booleans())
    # onnxruntime counts padding in incomplete windows differently from version to version.
    assume(not (ceil and include))
    # So they do with windows that lie in the padding altogether, which ONNX leaves out.
    for axis, size in enumerate(sizes):
        padded = size + pads[axis] + pads[rank + axis]
        windows = -(-(padded - kernel[axis]) // strides[axis]) + 1
        assume(not ceil or (windows - 1) * strides[axis] < size + pads[axis])
    shape = (2, 3, *sizes)
    model = around(
        "AveragePool", shape, opset=19 if ceil else 17, kernel_shape=kernel, strides=strides,
        pads=pads, count_include_pad=int(include), ceil_mode=int(ceil),
    )  # fmt: skip
    check(model, shape, gone="AveragePool")


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("op_type", ["AveragePool", "Conv"])
def test_automatic_padding(mode, op_type):
    shape = (2, 4, 7, 6)
    if op_type == "Conv":
        weight = data((3, 4, 3, 2), 2)
        model = around("Conv", shape, inputs=(weight,), auto_pad=mode, strides=[2, 2])
        prepared = prepare(model)
        conv = prepared.model.graph.node[1]
        assert "auto_pad" not in [attribute.name for attribute in conv.attribute]
        x = data(shape)
        np.testing.assert_allclose(run(prepared.model, x=x), run(model, x=x), atol=1e-6)
    else:
        model = around("AveragePool", shape, auto_pad=mode, strides=[2, 2], kernel_shape=[3, 2])
        check(model, shape, gone="AveragePool")


def test_average_pool_of_free_size():
    model = around(
        "AveragePool", (2, 4, 8, 6), free=("N", None, "H", "W"), kernel_shape=[3, 3], pads=[1] * 4
    )
    check(model, (2, 4, 8, 6), gone="AveragePool")


@few
@given(st.data())
def test_transposed_convolution_without_overlap(draw):
    rank = draw.draw(st.integers(1, 3))
    kernel = [draw.draw(st.integers(1, 3)) for _ in range(rank)]
    group = draw.draw(st.sampled_from([1, 2]))
    sizes = [draw.draw(st.integers(1, 4)) for _ in range(rank)]
    free = draw.draw(st.booleans())
    weight = data((4, 3, *kernel), 2)
    bias = [data((3 * group,), 3)] if draw.draw(st.booleans()) else []
    shape = (2, 4, *sizes)
    names = ("N", None, *[f"S{axis}" for axis in range(rank)]) if free else ("N",)
    model = around(
        "ConvTranspose", shape, inputs=(weight, *bias), strides=kernel, group=group, free=names
    )
    prepared = check(model, shape, gone="ConvTranspose")
    assert "node.0" in prepared.trainable


def test_overlapping_transposed_convolution_is_refused():
    model = around("ConvTranspose", (2, 4, 5, 5), inputs=(data((4, 3, 3, 3)),), strides=[2, 2])
    with pytest.raises(UnsupportedModelError, match=r"'node' \(ConvTranspose\).*overlap"):
        prepare(model)


RESIZES = [
    (mode, coordinates, rounding)
    for mode in ("nearest", "linear", "cubic")
    for coordinates in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
    for rounding in (("round_prefer_floor", "floor", "ceil", "round_prefer_ceil")
                     if mode == "nearest" else ("round_prefer_floor",))
]  # fmt: skip


@pytest.mark.parametrize(("mode", "coordinates", "rounding"), RESIZES)
@pytest.mark.parametrize("by", ["scales", "sizes"])
@pytest.mark.parametrize("target", [(8, 10), (7, 9), (2, 3), (12, 5)])
def test_resize(mode, coordinates, rounding, by, target):
    shape = (2, 3, 4, 5)
    if by == "scales":
        inputs = (None, np.float32([1, 1, target[0] / 4, target[1] / 5]))
    else:
        inputs = (None, None, np.int64([2, 3, *target]))
    free = ("N",) if by == "scales" else ()
    model = around(
        "Resize", shape, inputs=inputs, free=free, mode=mode, nearest_mode=rounding,
        coordinate_transformation_mode=coordinates,
    )  # fmt: skip
    check(model, shape, gone="Resize")


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("coordinates", ["half_pixel", "pytorch_half_pixel", "asymmetric"])
def test_resize_of_free_size(mode, factor, coordinates):
    for shape in ((2, 3, 4, 5), (1, 2, 1, 3)):
        model = around(
            "Resize", shape, inputs=(None, np.float32([1, 1, factor, factor])),
            free=("N", None, "H", "W"), mode=mode, coordinate_transformation_mode=coordinates,
            nearest_mode="floor" if coordinates == "asymmetric" else "round_prefer_floor",
        )  # fmt: skip
        check(model, shape, gone="Resize")


@pytest.mark.parametrize(
    ("shape", "scales"),
    [((2, 3, 5), [1, 1, 2]), ((2, 3, 2, 3, 4), [1, 1, 2, 2, 2])],
)
def test_linear_resize_of_other_ranks(shape, scales):
    model = around("Resize", shape, inputs=(None, np.float32(scales)), mode="linear")
    check(model, shape, gone="Resize")


def test_resize_without_a_form_is_refused():
    inputs = (None, np.float32([1, 1, 2, 2]))
    model = around(
        "Resize", (2, 3, 4, 5), inputs=inputs, free=("N", None, "H", "W"), mode="linear",
        coordinate_transformation_mode="align_corners",
    )  # fmt: skip
    with pytest.raises(UnsupportedModelError, match="axis 2 is not known"):
        prepare(model)
    assert "Resize" not in ops(prepare(model, sizes={"H": 4, "W": 5}).model)


@pytest.mark.parametrize(
    ("op_type", "attributes"),
    [
        ("DepthToSpace", {"blocksize": 2}),
        ("DepthToSpace", {"blocksize": 2, "mode": "CRD"}),
        ("SpaceToDepth", {"blocksize": 2}),
    ],
)
def test_shuffles(op_type, attributes):
    check(around(op_type, (2, 8, 4, 6), **attributes), (2, 8, 4, 6), gone=op_type)


def test_global_max_pool():
    check(around("GlobalMaxPool", (2, 4, 5, 3)), (2, 4, 5, 3), gone="GlobalMaxPool")


@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 4, 5, 6), (2, 4, 3, 3, 3)])
@pytest.mark.parametrize("opset", [13, 17, 20])
def test_frozen_batch_norm(shape, opset):
    model = around(
        "BatchNormalization", shape, inputs=(vector, vector[::-1].copy(), vector, positive),
        opset=opset, epsilon=1e-3,
    )  # fmt: skip
    prepared = check(model, shape, gone="BatchNormalization")
    assert prepared.trainable == ("conv.weight", "node.0", "node.1")
    assert prepared.frozen == ("node.2", "node.3")


def test_instance_and_group_norm():
    shape = (3, 4, 5, 6)
    check(around("InstanceNormalization", shape, inputs=(vector, vector)), shape,
          gone="InstanceNormalization", tolerance=3e-6)  # fmt: skip
    check(around("GroupNormalization", shape, inputs=(vector, vector), num_groups=2, opset=21),
          shape, gone="GroupNormalization", tolerance=3e-6)  # fmt: skip


def test_layer_norm_gets_what_its_gradient_reads():
    model = around("LayerNormalization", (3, 4, 5, 4), inputs=(vector,))
    prepared = prepare(model)
    norm = prepared.model.graph.node[-1]
    assert all(norm.input)
    assert len(norm.output) == 3
    x = data((3, 4, 5, 4))
    np.testing.assert_array_equal(run(prepared.model, x=x), run(model, x=x))
