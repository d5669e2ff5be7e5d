"""Preparation keeps what a model computes, says what it did, and refuses what cannot train."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnx_structdrop import UnsupportedModelError
from onnx_structdrop.training import prepare
from onnx_structdrop.training.preparation.interpolation import COORDINATES

FLOAT = TensorProto.FLOAT
CHANNELS = 4


def tensor(name, array, dtype=np.float32):
    return numpy_helper.from_array(np.asarray(array, dtype), name)


def model_of(nodes, initializers, shape, *, opset=17, batch="N", output=None, ir_version=8):
    """Return a model from data to result, with shapes inferred as exporters leave them."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("data", FLOAT, [batch, *shape[1:]])],
        [helper.make_tensor_value_info("result", FLOAT, output)],
        initializers,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version
    )
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def after_layer(op_type, shape, *rest, initializers=(), **options):
    """Return a scale, which is the parameter, and behind it a node of one operator."""
    settings_of_model = {
        key: options.pop(key) for key in ("opset", "batch", "ir_version") if key in options
    }
    nodes = [
        helper.make_node("Conv", ["data", "weight"], ["scaled"], name="layer", group=shape[1]),
        helper.make_node(op_type, ["scaled", *rest], ["result"], name="examined", **options),
    ]
    kernel = np.linspace(0.5, 1.5, shape[1]).reshape(-1, 1, *[1] * (len(shape) - 2))
    return model_of(nodes, [tensor("weight", kernel), *initializers], shape, **settings_of_model)


def run(model, data):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"data": data})[0]


def data_of(shape, seed=0, spread=1.0):
    return (spread * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def kinds(model):
    return {node.op_type for node in model.graph.node}


def assert_same(model, data, *, gone, tolerance=2e-6, **arguments):
    """Prepare, and compare the results, relative to the largest."""
    before = model.SerializeToString()
    prepared = prepare(model, **arguments)
    assert model.SerializeToString() == before
    onnx.checker.check_model(prepared.model, full_check=True)
    assert gone not in kinds(prepared.model)
    expected, found = run(model, data), run(prepared.model, data)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())
    return prepared


seeds = st.integers(0, 2**16)
few = settings(max_examples=8)

ACTIVATIONS = [
    ("HardSwish", 17, {}),
    ("HardSigmoid", 17, {"alpha": 0.3, "beta": 0.4}),
    ("Elu", 17, {"alpha": 0.7}),
    ("Celu", 17, {"alpha": 1.5}),
    ("Selu", 17, {}),
    ("Softplus", 17, {}),
    ("Softsign", 17, {}),
    ("Mish", 18, {}),
    ("ThresholdedRelu", 17, {"alpha": 0.4}),
]


@pytest.mark.parametrize(("op_type", "opset", "attributes"), ACTIVATIONS)
@few
@given(seed=seeds, spread=st.sampled_from([0.1, 3.0, 60.0]))
def test_activations(op_type, opset, attributes, seed, spread):
    shape = (2, CHANNELS, 3, 3)
    model = after_layer(op_type, shape, opset=opset, **attributes)
    assert_same(model, data_of(shape, seed, spread), gone=op_type)


@few
@given(seed=seeds)
def test_activations_with_several_inputs(seed):
    shape = (2, CHANNELS, 3, 3)
    data = data_of(shape, seed)
    slope = tensor("slope", np.linspace(-0.5, 0.5, CHANNELS).reshape(-1, 1, 1))
    prepared = assert_same(
        after_layer("PRelu", shape, "slope", initializers=[slope]), data, gone="PRelu"
    )
    assert prepared.trainable == ("weight", "slope")
    for op_type in ("Sum", "Mean"):
        assert_same(after_layer(op_type, shape, "data", "scaled"), data, gone=op_type)
    assert_same(after_layer("ReduceSumSquare", shape, axes=[1, 3]), data, gone="ReduceSumSquare")


@few
@given(
    kernel=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    groups=st.sampled_from([1, 2]),
    bias=st.booleans(),
    batch=st.sampled_from(["N", 2]),
    seed=seeds,
)
def test_transposed_convolution(kernel, groups, bias, batch, seed):
    sizes = [4, 3, 2][: len(kernel)]
    shape = (2, CHANNELS, *sizes)
    weights = [tensor("kernel", data_of((CHANNELS, 3, *kernel), seed))]
    if bias:
        weights.append(tensor("offset", np.arange(3 * groups)))
    model = after_layer(
        "ConvTranspose", shape, *(each.name for each in weights), initializers=weights,
        batch=batch, strides=kernel, group=groups,
    )  # fmt: skip
    prepared = assert_same(model, data_of(shape, seed), gone="ConvTranspose")
    assert prepared.trainable == ("weight", *(each.name for each in weights))


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@few
@given(
    sizes=st.lists(st.integers(2, 6), min_size=2, max_size=2),
    factors=st.lists(st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0]), min_size=2, max_size=2),
    by_size=st.booleans(),
    rounding=st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]),
    exclude=st.booleans(),
    seed=seeds,
)
def test_resize(mode, coordinates, sizes, factors, by_size, rounding, exclude, seed):
    shape = (2, 2, *sizes)
    results = [2, 2, *(int(size * factor) for size, factor in zip(sizes, factors, strict=True))]
    if by_size:
        rest, given_values = ["", "", "sizes"], tensor("sizes", results, np.int64)
    else:
        rest, given_values = ["", "scales"], tensor("scales", [1, 1, *factors])
    options = {"exclude_outside": int(exclude)} if mode == "cubic" else {}
    if mode == "nearest":
        options["nearest_mode"] = rounding
    model = after_layer(
        "Resize", shape, *rest, initializers=[given_values], opset=19, batch=2, mode=mode,
        coordinate_transformation_mode=coordinates, **options,
    )  # fmt: skip
    assert_same(model, data_of(shape, seed), gone="Resize", tolerance=5e-6)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric", "pytorch_half_pixel"])
def test_resize_of_free_sizes_by_whole_factors(mode, coordinates):
    nodes = [
        helper.make_node("Conv", ["data", "weight"], ["scaled"], name="layer"),
        helper.make_node(
            "Resize", ["scaled", "", "scales"], ["result"], name="up", mode=mode,
            coordinate_transformation_mode=coordinates, nearest_mode="floor",
        ),
    ]  # fmt: skip
    initializers = [tensor("weight", np.eye(2)[..., None, None]), tensor("scales", [1, 1, 2, 3])]
    model = model_of(nodes, initializers, (2, 2, "H", "W"), output=["N", 2, "h", "w"])
    if mode == "nearest" and coordinates != "asymmetric":
        with pytest.raises(UnsupportedModelError, match=r"'up' \(Resize\).*size of axis 2"):
            prepare(model)
        return
    assert_same(model, data_of((2, 2, 5, 4)), gone="Resize")
