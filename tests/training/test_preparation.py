"""Preparation keeps what a model computes, says what it did, and refuses what cannot train."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import onnx_structdrop as sd
from onnx_structdrop import ArgumentError, ArgumentTypeError, UnsupportedModelError
from onnx_structdrop.schema import DOMAIN, GRAD_OP
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
        key: options.pop(key)
        for key in ("opset", "batch", "ir_version", "output")
        if key in options
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


def normalisations():
    ones = [tensor("scale", np.linspace(0.5, 1.5, CHANNELS)), tensor("bias", np.arange(CHANNELS))]
    statistics = [
        tensor("mean", np.linspace(-1, 1, CHANNELS)),
        tensor("var", np.linspace(0.3, 2, CHANNELS)),
    ]
    return ones, statistics


@few
@given(rank=st.integers(3, 5), epsilon=st.sampled_from([1e-5, 1e-2]), seed=seeds)
def test_normalisations(rank, epsilon, seed):
    affine, statistics = normalisations()
    shape = (2, CHANNELS, 3, 4, 2)[:rank]
    data = data_of(shape, seed)
    for op_type, weights, options in (
        ("BatchNormalization", [*affine, *statistics], {}),
        ("InstanceNormalization", affine, {}),
        ("GroupNormalization", affine, {"num_groups": 2, "opset": 21, "ir_version": 10}),
    ):
        names = [each.name for each in weights]
        model = after_layer(
            op_type,
            shape,
            *names,
            initializers=weights,
            epsilon=epsilon,
            output=["N", *shape[1:]],
            **options,
        )
        prepared = assert_same(model, data, gone=op_type, tolerance=5e-6)
        assert prepared.trainable == ("weight", "scale", "bias")
        assert prepared.frozen == tuple(names[2:])


def test_scales_joined_from_constants_are_computed():
    nodes = [
        helper.make_node("Conv", ["data", "weight"], ["scaled"], name="layer"),
        helper.make_node("Constant", [], ["ones"], value=tensor("", [1, 1])),
        helper.make_node("Constant", [], ["twos"], value=tensor("", [2, 2])),
        helper.make_node("Concat", ["ones", "twos"], ["scales"], axis=0),
        helper.make_node("Resize", ["scaled", "", "scales"], ["result"], mode="linear"),
    ]
    model = model_of(nodes, [tensor("weight", np.eye(2)[..., None, None])], (2, 2, 4, 3))
    prepared = assert_same(model, data_of((2, 2, 4, 3)), gone="Resize")
    assert any("arithmetic on constants" in change.what for change in prepared.changes)


def test_equal_parameters_do_not_train_as_one():
    """Two layers share a bias by Identity, and statistics are shared with it."""
    zeros = tensor("bias", np.zeros(CHANNELS))
    weights = [tensor(f"w{n}", data_of((CHANNELS, CHANNELS, 1, 1), n)) for n in (1, 2)]
    rest = [tensor("scale", np.ones(CHANNELS)), tensor("var", np.ones(CHANNELS))]
    nodes = [
        helper.make_node("Identity", ["bias"], ["bias2"]),
        helper.make_node("Conv", ["data", "w1", "bias"], ["one"], name="one"),
        helper.make_node("Conv", ["one", "w2", "bias2"], ["two"], name="two"),
        helper.make_node(
            "BatchNormalization", ["two", "scale", "bias", "bias", "var"], ["result"], name="norm"
        ),
    ]
    shape = (2, CHANNELS, 3, 3)
    model = model_of(nodes, [zeros, *weights, *rest], shape)
    prepared = assert_same(model, data_of(shape), gone="Identity")
    assert {"w1", "w2", "bias", "bias2", "scale"} < set(prepared.trainable)
    assert len(prepared.trainable) == 6
    assert not set(prepared.frozen) & set(prepared.trainable)


def convolution(**options):
    return after_layer("Relu", (2, CHANNELS, 6, 6), **options)


def test_versions_are_lowered_and_kept():
    new = prepare(convolution(opset=22, ir_version=11)).model
    assert (new.opset_import[0].version, new.ir_version) == (21, 10)
    assert prepare(convolution(opset=17)).model.opset_import[0].version == 17


def test_kind_is_kept_and_preparing_twice_changes_nothing():
    model = convolution()
    once = prepare(model)
    twice = prepare(once.model)
    assert isinstance(once.model, onnx.ModelProto)
    assert twice.changes == ()
    assert twice.model.SerializeToString() == once.model.SerializeToString()
    assert isinstance(prepare(ir.from_proto(model)).model, ir.Model)


def test_dropout_is_complete_and_its_ratio_frozen():
    model = sd.insert(convolution(), sd.DropBlock2D(0.3, 3, seed=1), training_mode=False)
    prepared = prepare(model)
    assert len(prepared.ratios) == 1
    assert set(prepared.ratios) <= set(prepared.frozen)
    (node,) = [node for node in prepared.model.graph.node if node.domain == DOMAIN]
    assert len(node.output) == 3
    assert all(node.output)
    assert {each.name: each.i for each in node.attribute}["training_mode"] == 1
    assert {each.name for each in prepared.model.functions} == {"DropBlock", GRAD_OP}


REFUSED = [
    ({"batch_norm": "none"}, ArgumentError, "batch_norm must be one of"),
    ({"requires_grad": ["absent"]}, ArgumentError, "requires_grad: 'absent' matches no"),
    ({"frozen": ["absent"]}, ArgumentError, "frozen: 'absent' matches no"),
    (
        {"requires_grad": ["weight"], "frozen": ["weight"]},
        ArgumentError,
        "'weight' is in requires_grad and in frozen",
    ),
    ({"requires_grad": "weight"}, ArgumentTypeError, "a list of names, not the text 'weight'"),
    ({"frozen": ["weight"]}, UnsupportedModelError, "no parameter to train.*not frozen"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), REFUSED)
def test_refused_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        prepare(convolution(), **arguments)


def branch(name, scale):
    return helper.make_graph(
        [helper.make_node(scale, ["scaled"], [name])],
        name,
        [],
        [helper.make_tensor_value_info(name, FLOAT, None)],
    )


def test_refused_graphs():
    shape = (2, CHANNELS, 6, 6)
    plain = model_of([helper.make_node("Relu", ["data"], ["result"])], [], shape)
    with pytest.raises(UnsupportedModelError, match="no parameter to train: no layer"):
        prepare(plain)

    half = convolution()
    half.graph.initializer.append(tensor("half", [1], np.float16))
    with pytest.raises(UnsupportedModelError, match=r"'half' is float16.*float32"):
        prepare(half)

    condition = numpy_helper.from_array(np.asarray(True), "condition")
    nodes = [
        helper.make_node("Conv", ["data", "weight"], ["scaled"], group=CHANNELS),
        helper.make_node(
            "If", ["condition"], ["result"], name="choice",
            then_branch=branch("yes", "Relu"), else_branch=branch("no", "Neg"),
        ),
    ]  # fmt: skip
    weight = tensor("weight", np.ones((CHANNELS, 1, 1, 1)))
    with pytest.raises(UnsupportedModelError, match=r"'choice' \(If\).*subgraphs"):
        prepare(model_of(nodes, [condition, weight], shape))

    nodes = [
        helper.make_node("Conv", ["data", "weight"], ["scaled"], group=CHANNELS),
        helper.make_node("QuantizeLinear", ["scaled", "step", "zero"], ["whole"], name="quantize"),
        helper.make_node("DequantizeLinear", ["whole", "step", "zero"], ["result"]),
    ]
    extra = [weight, tensor("step", 0.1), tensor("zero", 0, np.uint8)]
    with pytest.raises(UnsupportedModelError, match=r"'quantize' \(Quantize.*is quantized"):
        prepare(model_of(nodes, extra, shape))
