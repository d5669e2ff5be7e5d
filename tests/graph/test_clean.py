"""Dropout of every kind goes, everything else stays."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from nets import Net
from onnx import TensorProto, helper

import onnx_structdrop as sd
from onnx_structdrop.graph.clean import clean
from onnx_structdrop.graph.compare import differences
from onnx_structdrop.graph.taint import analyse

KEEP = 0.7


def run(model, **feeds):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    generator = np.random.default_rng(0)
    for value in session.get_inputs():
        if value.name not in feeds:
            shape = [size if isinstance(size, int) else 2 for size in value.shape]
            feeds[value.name] = generator.standard_normal(shape).astype(np.float32)
    return session.run(None, {v.name: feeds[v.name] for v in session.get_inputs()})


def built(layer, *, opset=18, shape=("N", 3, 8, 8)):
    """Return a model with a layer between two convolutions."""
    net = Net(shape, opset)
    weights = np.random.default_rng(1)
    first = net.const(weights.standard_normal((4, 3, 3, 3)))
    last = net.const(weights.standard_normal((2, 4, 1, 1)))
    x = net.op("Relu", net.op("Conv", "x", first, kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
    net.channels[x] = 4
    y = layer(net, x)
    model = net.model(net.op("Conv", y, last, kernel_shape=[1, 1]))
    result = helper.make_tensor_value_info("", TensorProto.FLOAT, [shape[0], 2, *shape[2:]])
    model.graph.output[0].type.CopyFrom(result.type)
    return model


def identity(_net, x):
    return x


def operators(model):
    return sorted(node.op_type for node in model.graph.node)


def uniform(net, x):
    return net.op("RandomUniformLike", x)


def mask(net, x, keep=KEEP):
    return net.op("Cast", net.op("Less", uniform(net, x), net.const(keep)), to=1)


def per_channel(net, x):
    sizes = net.op("Shape", x, start=0, end=2)
    shape = net.op("Concat", sizes, net.const([1, 1], np.int64), axis=0)
    return net.op("ConstantOfShape", shape)


def rescaled(net, x):
    return net.op("Div", net.op("Mul", x, mask(net, x)), net.const(KEEP))


def feature(net, x):
    kept = mask(net, per_channel(net, x))
    return net.op("Mul", x, net.op("Div", kept, net.const(KEEP)))


def greater(net, x):
    kept = net.op("Cast", net.op("Greater", uniform(net, x), net.const(1 - KEEP)), to=1)
    return net.op("Mul", net.op("Mul", x, kept), net.const(1 / KEEP))


def threshold_first(net, x):
    kept = net.op("LessOrEqual", net.const(1 - KEEP), uniform(net, x))
    return net.op("Mul", net.op("Div", x, net.const(KEEP)), net.op("Cast", kept, to=1))


def bernoulli(net, x):
    shape = net.op("Shape", x)
    chance = net.op("Expand", net.const(KEEP), shape)
    return net.op("Div", net.op("Mul", net.op("Bernoulli", chance), x), net.const(KEEP))


def bernoulli_of_drops(net, x):
    drops = net.op("Bernoulli", net.op("Expand", net.const(1 - KEEP), net.op("Shape", x)))
    kept = net.op("Sub", net.const(1.0), drops)
    return net.op("Mul", x, net.op("Div", kept, net.const(KEEP)))


def where_dropped(net, x):
    dropped = net.op("Less", uniform(net, x), net.const(1 - KEEP))
    return net.op("Div", net.op("Where", dropped, net.const(0.0), x), net.const(KEEP))


def where_kept(net, x):
    kept = net.op("Not", net.op("Less", uniform(net, x), net.const(1 - KEEP)))
    scaled = net.op("Div", x, net.const(KEEP))
    return net.op("Where", kept, scaled, net.const(0.0))


def floored(net, x):
    shape = net.op("Concat", net.op("Shape", x, end=1), net.const([1, 1, 1], np.int64), axis=0)
    template = net.op("ConstantOfShape", shape)
    kept = net.op("Floor", net.op("Add", net.const(KEEP), uniform(net, template)))
    return net.op("Mul", net.op("Div", x, net.const(KEEP)), kept)


def unscaled(net, x):
    return net.op("Mul", x, mask(net, x))


def unscaled_and_damped(net, x):
    return net.op("Mul", unscaled(net, x), net.const(0.1))


def tensorflow(net, x):
    """Write tf.nn.dropout as tf2onnx does: the scale comes first, NHWC, the seed is 0."""
    scaled = net.op("Mul", x, net.const(1 / KEEP))
    scaled = net.op("Transpose", scaled, perm=[0, 2, 3, 1])
    shape = net.op("Cast", net.op("Shape", scaled), to=7)
    noise = net.op("RandomUniformLike", net.op("ConstantOfShape", shape), seed=0.0)
    kept = net.op("GreaterOrEqual", noise, net.const(1 - KEEP))
    ones = net.op("Cast", kept, to=1)
    rest = net.op("Cast", net.op("Not", kept), to=1)
    joined = net.op("Add", net.op("Mul", ones, scaled), net.op("Mul", net.const(0.0), rest))
    return net.op("Transpose", joined, perm=[0, 3, 1, 2])


def alpha(net, x, keep=KEEP):
    constant = 1.7580993408473766
    a = 1.0 / np.sqrt((constant**2 * (1 - keep) + 1) * keep)
    kept = mask(net, x, keep)
    shifted = net.op("Mul", net.op("Sub", kept, net.const(1.0)), net.const(constant * a))
    shifted = net.op("Add", shifted, net.const(constant * a * (1 - keep)))
    return net.op("Add", net.op("Mul", x, net.op("Mul", kept, net.const(a))), shifted)


def gaussian_dropout(net, x):
    noise = net.op("RandomNormalLike", x, scale=0.5)
    return net.op("Mul", x, net.op("Add", noise, net.const(1.0)))


def gaussian_noise(net, x):
    noise = net.op("Mul", net.op("RandomNormalLike", x), net.const(0.1))
    return net.op("Add", noise, x)


def drop_block(net, x, *, scale=None, even=False):
    seeds = net.op("Less", uniform(net, x), net.const(0.05))
    size = 4 if even else 3
    blocks = net.op(
        "MaxPool", net.op("Cast", seeds, to=1), kernel_shape=[size, size], strides=[1, 1],
        pads=[size // 2] * 4,
    )  # fmt: skip
    if even:
        ends = net.const([-1, -1], np.int64)
        starts, axes = net.const([0, 0], np.int64), net.const([2, 3], np.int64)
        blocks = net.op("Slice", blocks, starts, ends, axes)
    kept = net.op("Sub", net.const(1.0), blocks)
    if scale is not None:
        return net.op("Mul", net.op("Mul", x, kept), net.const(scale))
    count = net.op("Add", net.op("ReduceSum", kept, keepdims=0), net.const(1e-6))
    size = net.op("Cast", net.op("Size", kept), to=1)
    return net.op("Mul", net.op("Mul", x, kept), net.op("Div", size, count))


def drop_block_even(net, x):
    return drop_block(net, x, even=True)


def drop_block_unscaled(net, x):
    return drop_block(net, x, scale=1.0)


def valid_region(net, x):
    """Draw seeds as keras-cv does, only where a block fits, by a template of zeros and ones."""
    valid = np.zeros((1, 1, 8, 8), np.float32)
    valid[:, :, 1:-1, 1:-1] = 1
    offset = net.const(1 - valid + 0.95)
    pattern = net.op("GreaterOrEqual", net.op("Add", offset, uniform(net, x)), net.const(1.0))
    pattern = net.op("Neg", net.op("Cast", pattern, to=1))
    pooled = net.op("MaxPool", pattern, kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4)
    kept = net.op("Neg", pooled)
    return net.op("Mul", net.op("Div", x, net.op("ReduceMean", kept, keepdims=0)), kept)


def noisy_block(net, x):
    """Fill dropped blocks with noise, as timm can."""
    seeds = net.op("Cast", net.op("Less", uniform(net, x), net.const(0.05)), to=1)
    blocks = net.op("MaxPool", seeds, kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4)
    kept = net.op("Sub", net.const(1.0), blocks)
    noise = net.op("Mul", net.op("RandomNormalLike", x), blocks)
    return net.op("Add", net.op("Mul", x, kept), noise)


def two_masks(net, x):
    both = net.op("Mul", net.op("Mul", x, mask(net, x, 0.8)), mask(net, per_channel(net, x), 0.9))
    return net.op("Div", both, net.const(0.8 * 0.9))


def stateless(net, x):
    """Draw by an operator that ONNX does not know, as keras exports from TensorFlow do."""
    key, counter = net.const([1], np.int64), net.const([0, 0], np.int64)
    noise = net.op("StatelessRandomUniformV2", net.op("Shape", x), key, counter)
    kept = net.op("GreaterOrEqual", noise, net.const(1 - KEEP))
    scaled = net.op("Mul", x, net.const(1 / KEEP))
    return net.op("Where", kept, scaled, net.const(0.0))


def standard(net, x):
    return net.op("Dropout", x, net.const(0.3), net.const(True, np.bool_))


CLEANED = [
    alpha, bernoulli, bernoulli_of_drops, drop_block, drop_block_even, feature, floored,
    gaussian_dropout, gaussian_noise, greater, rescaled, standard, stateless, tensorflow,
    threshold_first, two_masks, valid_region, where_dropped, where_kept,
]  # fmt: skip
UNSCALED = [drop_block_unscaled, noisy_block, unscaled]


@pytest.mark.parametrize("layer", CLEANED + UNSCALED, ids=lambda layer: layer.__name__)
def test_layer_becomes_its_input(layer):
    model, plain = built(layer), built(identity)
    before = model.SerializeToString(deterministic=True)
    cleaned, report = clean(model, unscaled_dropout=layer in UNSCALED)
    assert model.SerializeToString(deterministic=True) == before
    assert report.residual == ()
    assert report.changed
    assert len(report.decisions) >= 1
    assert [np.array_equal(*pair) for pair in zip(run(cleaned), run(plain), strict=True)] == [True]
    wanted = operators(plain)
    if layer is tensorflow:
        wanted = sorted([*wanted, "Transpose", "Transpose"])
    assert operators(cleaned) == wanted
    assert len(cleaned.graph.initializer) == len(plain.graph.initializer)
    onnx.checker.check_model(cleaned, full_check=True)
    again, second = clean(cleaned)
    assert not second.changed
    assert differences(again, cleaned) == []


def fused_scale(net, x):
    """Divide by keep within a Gemm, as optimisers do."""
    flat = net.op("Flatten", net.op("Mul", x, mask(net, x)))
    y = net.op("Gemm", flat, net.const(np.eye(256)), alpha=1 / KEEP)
    return net.op("Reshape", y, net.op("Shape", x))


def zoneout(net, x):
    other = net.op("Tanh", x)
    return net.op("Add", x, net.op("Mul", mask(net, x), net.op("Sub", other, x)))


def impulses(net, x):
    return net.op("Add", x, net.op("Mul", net.op("Sign", x), mask(net, x, 0.05)))


@pytest.mark.parametrize(
    "layer", [*UNSCALED, fused_scale, zoneout, impulses, unscaled_and_damped],
    ids=lambda layer: layer.__name__,
)  # fmt: skip
def test_an_unscaled_mask_proves_nothing(layer):
    model = built(layer)
    cleaned, report = clean(model)
    assert differences(model, cleaned) == []
    reasons = {left.reason for left in report.residual}
    unscaled = (
        "the mask keeps values unscaled; whether inference keeps them or scales them is not in "
        "the file"
    )
    assert unscaled in reasons


def test_the_used_mask_of_a_dropout_needs_no_scale():
    model = dropouts(
        helper.make_node("Dropout", ["x", "ratio", "on"], ["d", "mask"]),
        helper.make_node("Cast", ["mask"], ["m"], to=1),
        helper.make_node("Mul", ["x", "m"], ["w"]),
        helper.make_node("Add", ["d", "w"], ["y"]),
    )
    cleaned, report = clean(model)
    assert report.residual == ()
    x = np.random.default_rng(0).standard_normal((2, 3)).astype("f")
    assert np.array_equal(run(cleaned)[0], x + x)


def test_a_factor_up_to_one_behind_an_unscaled_mask_stays():
    cleaned, report = clean(built(unscaled_and_damped), unscaled_dropout=True)
    plain = built(lambda net, x: net.op("Mul", x, net.const(0.1)))
    assert report.residual == ()
    assert np.array_equal(run(cleaned)[0], run(plain)[0])


def test_random_slope_becomes_its_mean():
    def rrelu(net, x):
        flipped = net.op("Sub", x, net.const(1.0))
        slope = net.op("RandomUniformLike", flipped, low=0.125, high=0.375)
        return net.op("PRelu", flipped, slope)

    def leaky(net, x):
        return net.op("LeakyRelu", net.op("Sub", x, net.const(1.0)), alpha=0.25)

    cleaned, report = clean(built(rrelu))
    assert report.residual == ()
    assert [decision.pattern for decision in report.decisions] == ["RReLU"]
    assert np.array_equal(run(cleaned)[0], run(built(leaky))[0])


def wrong_scale(net, x):
    return net.op("Div", net.op("Mul", x, mask(net, x, 0.9)), net.const(0.7))


def wrong_direction(net, x):
    kept = net.op("Cast", net.op("Less", uniform(net, x), net.const(0.3)), to=1)
    return net.op("Div", net.op("Mul", x, kept), net.const(0.7))


def wrong_scale_ahead(net, x):
    return net.op("Mul", net.op("Div", x, net.const(0.6)), mask(net, x))


def distant_scale(net, x):
    return net.op("Div", net.op("Relu", net.op("Mul", x, mask(net, x))), net.const(KEEP))


def distant_scale_ahead(net, x):
    return net.op("Mul", net.op("Relu", net.op("Div", x, net.const(KEEP))), mask(net, x))


def shared_scale_ahead(net, x):
    scaled = net.op("Div", x, net.const(KEEP))
    return net.op("Add", net.op("Mul", scaled, mask(net, x)), net.op("Tanh", scaled))


def gumbel(net, x):
    noise = net.op("Neg", net.op("Log", net.op("Neg", net.op("Log", uniform(net, x)))))
    return net.op("Softmax", net.op("Add", x, noise), axis=1)


def reparametrised(net, x):
    deviation = net.op("Exp", net.op("Mul", x, net.const(0.5)))
    noise = net.op("Mul", net.op("RandomNormalLike", x), deviation)
    return net.op("Add", net.op("Tanh", x), noise)


def learned_noise(net, x):
    strength = net.const(np.array([0.1, 0.2, 0.3, 0.4]).reshape(1, 4, 1, 1))
    return net.op("Add", x, net.op("Mul", net.op("RandomNormalLike", x), strength))


def latent(net, x):
    z = net.op("RandomNormalLike", x)
    return net.op("Add", net.op("Tanh", z), x)


def data_threshold(net, x):
    kept = net.op("Less", uniform(net, x), net.op("Sigmoid", x))
    return net.op("Mul", x, net.op("Cast", kept, to=1))


def data_rate(net, x):
    rate = net.op("Sigmoid", net.op("ReduceMean", x, keepdims=0))
    kept = net.op("Cast", net.op("Less", uniform(net, x), rate), to=1)
    return net.op("Div", net.op("Mul", x, kept), rate)


def data_chance(net, x):
    return net.op("Mul", x, net.op("Bernoulli", net.op("Sigmoid", x)))


def signs(net, x):
    kept = net.op("Sub", net.op("Mul", net.const(2.0), mask(net, x, 0.5)), net.const(1.0))
    return net.op("Mul", x, kept)


def mixed(net, x):
    share = net.op("RandomUniform", shape=[1])
    other = net.op("Sub", net.const(1.0), share)
    return net.op("Add", net.op("Mul", x, share), net.op("Mul", net.op("Tanh", x), other))


def cut_and_mixed(net, x):
    kept = mask(net, x, 0.5)
    other = net.op("Sub", net.const(1.0), kept)
    return net.op("Add", net.op("Mul", x, kept), net.op("Mul", net.op("Tanh", x), other))


def opposed_behind_relu(net, x):
    kept = mask(net, x, 0.5)
    other = net.op("Relu", net.op("Mul", x, net.op("Sub", net.const(1.0), kept)))
    return net.op("Add", net.op("Tanh", net.op("Mul", x, kept)), other)


def swapped(net, x):
    chosen = net.op("Less", uniform(net, x), net.const(0.1))
    return net.op("Where", chosen, net.op("Tanh", x), x)


def replaced_by_token(net, x):
    chosen = net.op("Less", uniform(net, x), net.const(0.1))
    return net.op("Where", chosen, net.const(0.3), x)


def mask_as_feature(net, x):
    kept = mask(net, x)
    return net.op("Add", net.op("Mul", x, kept), net.op("Tanh", kept))


def enlarging(net, x):
    pooled = net.op("GlobalAveragePool", x)
    return net.op("Div", net.op("Mul", pooled, mask(net, x)), net.const(KEEP))


def uniform_added(net, x):
    return net.op("Add", x, net.op("Sub", uniform(net, x), net.const(0.5)))


def scale_without_drop(net, x):
    return net.op("Mul", x, net.op("ReduceMean", mask(net, x), keepdims=0))


def drop_block_scaled(net, x):
    return drop_block(net, x, scale=1.25)


def raw_and_compared(net, x):
    noise = uniform(net, x)
    kept = net.op("Cast", net.op("Less", noise, net.const(KEEP)), to=1)
    return net.op("Add", net.op("Mul", x, kept), noise)


def bounded(net, x):
    return net.op("Min", x, uniform(net, x))


def selected(net, x):
    order = net.op("TopK", uniform(net, x), net.const([8], np.int64), axis=3, outputs=2)[1]
    return net.op("GatherElements", x, order, axis=3)


def correlated_masks(net, x):
    noise = uniform(net, x)
    masks = [net.op("Cast", net.op("Less", noise, net.const(k)), to=1) for k in (0.5, 0.8)]
    both = net.op("Mul", net.op("Mul", x, masks[0]), masks[1])
    return net.op("Div", both, net.const(0.5 * 0.8))


def shuffled_mask(net, x):
    kept = mask(net, x, 0.5)
    moved = net.op("Transpose", kept, perm=[0, 1, 3, 2])
    both = net.op("Mul", kept, moved)
    return net.op("Div", net.op("Mul", x, both), net.const(0.5))


def mask_twice(net, x):
    kept = net.op("Div", mask(net, x), net.const(KEEP))
    return net.op("Mul", net.op("Mul", x, kept), kept)


REFUSED = {
    mask_twice: "kept with probability 0.7, but scaled by 2.04082",
    wrong_scale: "kept with probability 0.9, but scaled by 1.42857",
    wrong_direction: "kept with probability 0.3, but scaled by 1.42857",
    wrong_scale_ahead: "ahead of the mask",
    distant_scale: "the mask's scale stands apart from it, at Div",
    distant_scale_ahead: "the mask's scale stands apart from it, at Div",
    shared_scale_ahead: "is used by Tanh",
    gumbel: "Log is applied to random numbers",
    reparametrised: "as where a model samples",
    learned_noise: "the deviation of the noise is no constant",
    latent: "Tanh is applied to random numbers",
    data_threshold: "Less combines random numbers with data",
    data_rate: "Less combines random numbers with data",
    data_chance: "its probability is computed from data",
    signs: "nothing that drops by it was proven",
    mixed: "of mean 0.5, not 1",
    cut_and_mixed: "one of its joins keeps what another drops",
    opposed_behind_relu: "one of its joins keeps what another drops",
    swapped: "chooses at random between different data",
    replaced_by_token: "",
    mask_as_feature: "an offset is added",
    enlarging: "more positions than the data",
    uniform_added: "rounding or sampling",
    scale_without_drop: "by the share that a mask keeps",
    drop_block_scaled: "no constant of the mask",
    raw_and_compared: "",
    bounded: "Min combines random numbers with data",
    selected: "the random numbers enter TopK",
    correlated_masks: "",
    shuffled_mask: "",
}


@pytest.mark.parametrize("allowed", [False, True], ids=["", "unscaled"])
@pytest.mark.parametrize("layer", REFUSED, ids=lambda layer: layer.__name__)
def test_what_is_no_dropout_stays(layer, allowed):
    model = built(layer)
    cleaned, report = clean(model, unscaled_dropout=allowed)
    assert report.residual != ()
    assert differences(model, cleaned) == []
    assert not report.changed
    assert report.decisions == ()
    reasons = {left.reason for left in report.residual}
    assert any(
        REFUSED[layer] in reason or ("keeps values unscaled" in reason and not allowed)
        for reason in reasons
    ), reasons
    assert all(left.op_type in operators(model) for left in report.residual)


def test_a_gate_without_randomness_is_nothing_to_clean():
    def gate(net, x):
        open_ = net.op("Greater", net.op("Sigmoid", x), net.const(0.5))
        return net.op("Mul", x, net.op("Cast", open_, to=1))

    model = built(gate)
    cleaned, report = clean(model)
    assert (report.decisions, report.residual, report.changed) == ((), (), False)
    assert differences(model, cleaned) == []


def test_one_refusal_leaves_other_dropout_to_be_cleaned():
    model = built(lambda net, x: gumbel(net, rescaled(net, x)))
    cleaned, report = clean(model)
    assert len(report.residual) == 1
    assert len(report.decisions) == 1
    assert operators(cleaned) == operators(built(gumbel))


def test_one_source_for_many_masks():
    def shared(net, x):
        noise = uniform(net, x)
        for keep in (0.7, 0.7, 0.9):
            kept = net.op("Cast", net.op("Less", noise, net.const(keep)), to=1)
            x = net.op("Tanh", net.op("Mul", x, net.op("Div", kept, net.const(keep))))
        return x

    def plain(net, x):
        for _ in range(3):
            x = net.op("Tanh", x)
        return x

    cleaned, report = clean(built(shared))
    assert report.residual == ()
    assert operators(cleaned) == operators(built(plain))
    assert np.array_equal(run(cleaned)[0], run(built(plain))[0])


def test_one_mask_on_two_tensors():
    def shared(net, x):
        kept = net.op("Div", mask(net, x), net.const(KEEP))
        return net.op("Sub", net.op("Mul", x, kept), net.op("Mul", net.op("Tanh", x), kept))

    def plain(net, x):
        return net.op("Sub", x, net.op("Tanh", x))

    cleaned, report = clean(built(shared))
    assert report.residual == ()
    assert np.array_equal(run(cleaned)[0], run(built(plain))[0])


def test_the_scale_of_one_mask_is_not_taken_for_that_of_the_next():
    def layer(net, x):
        kept = mask(net, x)
        x = net.op("Div", net.op("Mul", x, kept), net.const(KEEP))
        x = net.op("Transpose", net.op("Transpose", x, perm=[0, 2, 3, 1]), perm=[0, 3, 1, 2])
        return net.op("Mul", x, mask(net, x))

    cleaned, report = clean(built(layer), unscaled_dropout=True)
    onnx.checker.check_model(cleaned, full_check=True)
    assert report.residual == ()
    assert np.array_equal(run(cleaned)[0], run(built(identity))[0])


def test_weights_outside_the_file_need_not_be_there():
    model = built(rescaled)
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 4:
            onnx.external_data_helper.set_external_data(tensor, "weights.bin", 0, 4)
            tensor.data_location = TensorProto.EXTERNAL
            tensor.ClearField("raw_data")
    cleaned, report = clean(model)
    assert report.residual == ()
    assert operators(cleaned) == operators(built(identity))


def test_a_mask_of_other_generators_that_is_an_output_stays():
    net = Net(("N", 3, 8, 8))
    kept = mask(net, "x")
    model = net.model(net.op("Mul", "x", kept), kept)
    cleaned, report = clean(model, unscaled_dropout=True)
    assert "reaches the output" in report.residual[0].reason
    assert differences(model, cleaned) == []


@pytest.mark.parametrize("keep", [0.0, 0.5, 1.0])
def test_extreme_probabilities(keep):
    def layer(net, x):
        return net.op("Mul", x, mask(net, x, keep))

    cleaned, report = clean(built(layer), unscaled_dropout=keep < 1)
    assert report.residual == ()
    assert operators(cleaned) == operators(built(identity))


def test_rate_and_scale_that_are_inputs():
    def layer(net, x):
        net.inputs.append(helper.make_tensor_value_info("rate", TensorProto.FLOAT, []))
        kept = net.op("Cast", net.op("GreaterOrEqual", uniform(net, x), "rate"), to=1)
        scale = net.op("Sub", net.const(1.0), "rate")
        return net.op("Div", net.op("Mul", x, kept), scale)

    model = built(layer)
    cleaned, report = clean(model)
    assert report.residual == ()
    assert [value.name for value in cleaned.graph.input] == ["x", "rate"]
    rate = np.array(0.3, np.float32)
    assert np.array_equal(run(cleaned, rate=rate)[0], run(built(identity))[0])


@pytest.mark.parametrize("opset", [13, 17, 22, 24])
def test_opsets(opset):
    cleaned, report = clean(built(rescaled, opset=opset))
    assert report.residual == ()
    assert operators(cleaned) == operators(built(identity))


def dropouts(*nodes, opset=17, inputs=(), outputs=("y",), initializers=(), ir_version=8):
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3]), *inputs]
    results = [
        helper.make_tensor_value_info(name, TensorProto.BOOL if "mask" in name else 1, [2, 3])
        for name in outputs
    ]
    tensors = [
        onnx.numpy_helper.from_array(np.float32(0.3), "ratio"),
        onnx.numpy_helper.from_array(np.array(True), "on"),
        *initializers,
    ]
    used = {name for node in nodes for name in node.input}
    tensors = [tensor for tensor in tensors if tensor.name in used]
    graph = helper.make_graph(list(nodes), "g", values, results, tensors)
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)


@pytest.mark.parametrize(
    ("opset", "attributes", "acts"),
    [(1, {}, True), (1, {"is_test": 1}, False), (6, {"is_test": 0, "ratio": 0.2}, True),
     (6, {"is_test": 1}, False), (7, {"ratio": 0.2}, True), (10, {}, True), (11, {}, True),
     (12, {}, False), (22, {}, False)],
)  # fmt: skip
def test_dropout_without_a_mode_input(opset, attributes, acts):
    node = helper.make_node("Dropout", ["x"], ["d"], name="d", **attributes)
    model = dropouts(node, helper.make_node("Relu", ["d"], ["y"]), opset=opset)
    cleaned, report = clean(model)
    assert report.changed == acts
    assert operators(cleaned) == (["Relu"] if acts else ["Dropout", "Relu"])
    assert report.residual == ()


@pytest.mark.parametrize("mode", ["input", "computed", "constant node"])
def test_training_mode_from_anywhere(mode):
    inputs = [helper.make_tensor_value_info("mode", TensorProto.BOOL, [])]
    nodes = [helper.make_node("Dropout", ["x", "", "m"], ["d"])]
    if mode == "input":
        nodes[0].input[2] = "mode"
    elif mode == "computed":
        nodes.insert(0, helper.make_node("Not", ["mode"], ["m"]))
    else:
        true = onnx.numpy_helper.from_array(np.array(True))
        nodes.insert(0, helper.make_node("Constant", [], ["m"], value=true))
    model = dropouts(*nodes, helper.make_node("Relu", ["d"], ["y"]), inputs=inputs)
    cleaned, report = clean(model)
    assert report.residual == ()
    assert operators(cleaned) == ["Relu"]
    assert [value.name for value in cleaned.graph.input] == ["x", "mode"]


def test_input_to_output_keeps_both_names():
    cleaned, report = clean(dropouts(helper.make_node("Dropout", ["x", "ratio", "on"], ["y"])))
    assert report.changed
    assert operators(cleaned) == ["Identity"]
    assert [value.name for value in cleaned.graph.output] == ["y"]
    assert not cleaned.graph.initializer


def test_two_outputs_of_one_value():
    model = dropouts(
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Dropout", ["r", "ratio", "on"], ["y"]),
        helper.make_node("Dropout", ["r", "ratio", "on"], ["z"]),
        outputs=("y", "z"),
    )
    cleaned, _ = clean(model)
    onnx.checker.check_model(cleaned, full_check=True)
    first, second = run(cleaned)
    assert np.array_equal(first, second)
    assert [value.name for value in cleaned.graph.output] == ["y", "z"]


def test_a_mask_of_dropout_that_is_an_output_is_all_true():
    model = dropouts(
        helper.make_node("Dropout", ["x", "ratio", "on"], ["y", "mask"]), outputs=("y", "mask")
    )
    cleaned, report = clean(model)
    assert report.residual == ()
    output, kept = run(cleaned)
    assert kept.all()
    assert np.array_equal(output, np.random.default_rng(0).standard_normal((2, 3)).astype("f"))


def test_a_used_mask_of_dropout_is_followed():
    scale = onnx.numpy_helper.from_array(np.float32(1 / 0.7), "scale")
    zero = onnx.numpy_helper.from_array(np.float32(0), "zero")
    model = dropouts(
        helper.make_node("Dropout", ["x", "ratio", "on"], ["d", "mask"]),
        helper.make_node("Mul", ["x", "scale"], ["s"]),
        helper.make_node("Where", ["mask", "s", "zero"], ["w"]),
        helper.make_node("Add", ["d", "w"], ["y"]),
        initializers=[scale, zero],
    )
    cleaned, report = clean(model)
    assert report.residual == ()
    x = np.random.default_rng(0).standard_normal((2, 3)).astype("f")
    assert np.array_equal(run(cleaned)[0], x + x)


def test_a_used_mask_that_is_not_explained_keeps_its_dropout():
    model = dropouts(
        helper.make_node("Dropout", ["x", "ratio", "on"], ["d", "mask"], name="drop"),
        helper.make_node("Cast", ["mask"], ["m"], to=1),
        helper.make_node("Sub", ["d", "m"], ["y"]),
    )
    cleaned, report = clean(model)
    assert [left.node for left in report.residual] == ["drop"]
    assert differences(model, cleaned) == []


@pytest.mark.parametrize("layer", [rescaled, standard, drop_block, tensorflow])
def test_in_branches(layer):
    net = Net((2, 3, 8, 8))
    condition = net.op("Less", net.op("ReduceMean", "x", keepdims=0), net.const(0.0))
    branches = []
    for name in ("then_branch", "else_branch"):
        inner = Net((2, 3, 8, 8))
        inner._numbers = net._numbers
        y = layer(inner, "x") if name == "then_branch" else inner.op("Tanh", "x")
        value = helper.make_tensor_value_info(y, TensorProto.FLOAT, None)
        branches.append(helper.make_graph(inner.nodes, name, [], [value], inner.initializers))
    y = net.op("If", condition, then_branch=branches[0], else_branch=branches[1])
    model = net.model(y)
    cleaned, report = clean(model)
    assert report.residual == ()
    assert "then_branch" in report.decisions[0].scope
    for number in (-1, 1):
        x = np.full((2, 3, 8, 8), number, np.float32)
        assert np.allclose(run(cleaned, x=x)[0], x if number < 0 else np.tanh(x))


def test_mask_outside_and_join_in_a_branch():
    net = Net((2, 3, 8, 8))
    kept = net.op("Div", mask(net, "x"), net.const(KEEP))
    condition = net.op("Less", net.op("ReduceMean", "x", keepdims=0), net.const(0.0))
    branches = []
    for name in ("then_branch", "else_branch"):
        inner = Net((2, 3, 8, 8))
        inner._numbers = net._numbers
        y = inner.op("Mul", "x", kept)
        value = helper.make_tensor_value_info(y, TensorProto.FLOAT, None)
        branches.append(helper.make_graph(inner.nodes, name, [], [value]))
    model = net.model(net.op("If", condition, then_branch=branches[0], else_branch=branches[1]))
    cleaned, report = clean(model)
    assert report.residual == ()
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype("f")
    assert np.array_equal(run(cleaned, x=x)[0], x)
    assert operators(cleaned) == ["If", "Less", "ReduceMean"]


def test_random_conditions_stay():
    net = Net((2, 3, 8, 8))
    condition = net.op("Less", net.op("RandomUniform", shape=[1]), net.const(0.5))
    branches = []
    for op_type in ("Relu", "Tanh"):
        inner = Net()
        inner._numbers = net._numbers
        value = helper.make_tensor_value_info(inner.op(op_type, "x"), TensorProto.FLOAT, None)
        branches.append(helper.make_graph(inner.nodes, op_type, [], [value]))
    model = net.model(net.op("If", condition, then_branch=branches[0], else_branch=branches[1]))
    cleaned, report = clean(model)
    assert "steer If" in report.residual[0].reason
    assert differences(model, cleaned) == []


def test_in_a_loop():
    body = Net(None, name="state")
    value = rescaled(body, "state")
    on = body.op("Identity", "go")
    out = body.op("Tanh", value)
    inputs = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        helper.make_tensor_value_info("state", TensorProto.FLOAT, [2, 3]),
    ]
    outputs = [
        helper.make_tensor_value_info(on, TensorProto.BOOL, []),
        helper.make_tensor_value_info(out, TensorProto.FLOAT, [2, 3]),
    ]
    graph = helper.make_graph(body.nodes, "body", inputs, outputs, body.initializers)
    net = Net((2, 3))
    model = net.model(net.op("Loop", net.const(3, np.int64), "", "x", body=graph))
    cleaned, report = clean(model)
    assert report.residual == ()
    assert len(report.decisions) == 1
    x = np.random.default_rng(0).standard_normal((2, 3)).astype("f")
    assert np.allclose(run(cleaned, x=x)[0], np.tanh(np.tanh(np.tanh(x))), atol=1e-6)


def function(name, inputs, outputs, net, opset=18):
    nodes = list(net.nodes)
    for tensor in net.initializers:
        nodes.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, inputs, outputs, nodes, imports)


def with_functions(net, output, *functions):
    model = net.model(output, functions=list(functions))
    model.opset_import.append(helper.make_opsetid("local", 1))
    return model


def test_in_functions_called_twice():
    inner = Net(None)
    drop = function("Drop", ["x"], [rescaled(inner, "x")], inner)
    net = Net((2, 3))
    x = net.op("Tanh", net.op("Drop", net.op("Drop", "x", domain="local"), domain="local"))
    cleaned, report = clean(with_functions(net, x, drop))
    assert report.residual == ()
    data = np.random.default_rng(0).standard_normal((2, 3)).astype("f")
    assert np.array_equal(run(cleaned, x=data)[0], run(_tanh(), x=data)[0])


def _tanh():
    net = Net((2, 3))
    return net.model(net.op("Tanh", "x"))


def test_a_function_that_makes_masks_goes_with_its_domain():
    inner = Net(None)
    make = function("Mask", ["x"], [mask(inner, "x")], inner)
    net = Net((2, 3))
    x = "x"
    for _ in range(2):
        kept = net.op("Mask", x, domain="local")
        x = net.op("Tanh", net.op("Div", net.op("Mul", x, kept), net.const(KEEP)))
    cleaned, report = clean(with_functions(net, x, make))
    assert report.residual == ()
    assert operators(cleaned) == ["Tanh", "Tanh"]
    assert not cleaned.functions
    assert [entry.domain for entry in cleaned.opset_import] == [""]


def test_calls_of_one_function_draw_different_masks():
    """The square of a mask is the mask; the product of two masks is not."""
    inner = Net(None)
    make = function("Mask", ["x"], [mask(inner, "x")], inner)
    net = Net((2, 3))
    first, second = (net.op("Mask", "x", domain="local") for _ in range(2))
    both = net.op("Mul", first, second)
    x = net.op("Div", net.op("Mul", "x", both), net.const(KEEP))
    model = with_functions(net, x, make)
    cleaned, report = clean(model)
    assert report.residual != ()
    assert differences(model, cleaned) == []


def test_masks_passed_into_a_function():
    inner = Net(None)
    scaled = inner.op("Div", inner.op("Mul", "x", "m"), inner.const(KEEP))
    join = function("Join", ["x", "m"], [scaled], inner)
    net = Net((2, 3))
    x = "x"
    for _ in range(2):
        x = net.op("Tanh", net.op("Join", x, mask(net, x), domain="local"))
    cleaned, report = clean(with_functions(net, x, join))
    assert report.residual == ()
    assert operators(cleaned) == ["Join", "Join", "Tanh", "Tanh"]
    data = np.random.default_rng(0).standard_normal((2, 3)).astype("f")
    twice = run(_tanh(), x=run(_tanh(), x=data)[0])[0]
    assert np.array_equal(run(cleaned, x=data)[0], twice)


def test_a_scale_outside_the_function_of_its_mask_is_seen():
    inner = Net(None)
    drop = function("Drop", ["x"], [unscaled(inner, "x")], inner)
    net = Net((2, 3))
    x = net.op("Div", net.op("Drop", "x", domain="local"), net.const(KEEP))
    model = with_functions(net, x, drop)
    cleaned, report = clean(model)
    assert "stands apart" in report.residual[0].reason
    assert differences(model, cleaned) == []


def norm(opset, outputs, attributes=None, extra=(), used=()):
    numbers = [np.array(n, np.float32) for n in ([1, 2, 3], [0, 1, 0], [1, 1, 2], [1, 4, 9])]
    names = ("s", "b", "mean", "var")
    tensors = [onnx.numpy_helper.from_array(a, n) for a, n in zip(numbers, names, strict=True)]
    node = helper.make_node(
        "BatchNormalization", ["x", *names], list(outputs), name="bn", **(attributes or {})
    )
    results = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3, 4])]
    results += [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in used]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 4])
    graph = helper.make_graph([node, *extra], "g", [value], results, tensors)
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def expected_norm(x):
    s, b, mean, var = ([1, 2, 3], [0, 1, 0], [1, 1, 2], [1, 4, 9])
    s, b, mean, var = (np.array(n, np.float32).reshape(3, 1) for n in (s, b, mean, var))
    return (x - mean) / np.sqrt(var + 1e-5) * s + b


@pytest.mark.parametrize(
    ("opset", "outputs"), [(17, ["y"]), (14, ["y", "m", "v"]), (9, ["y", "m", "v", "sm", "sv"]),
                           (7, ["y", "m", "v", "sm", "sv"])],
)  # fmt: skip
def test_normalisation(opset, outputs):
    model = norm(opset, outputs, {"training_mode": 1} if opset >= 14 else {})
    cleaned, report = clean(model)
    assert report.residual == ()
    assert [decision.pattern for decision in report.decisions] == ["batch normalisation"]
    assert list(cleaned.graph.node[0].output) == ["y"]
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype("f")
    assert np.allclose(run(cleaned, x=x)[0], expected_norm(x), atol=1e-5)


def test_running_statistics_that_are_outputs_come_out_as_they_went_in():
    model = norm(15, ["y", "m", "v"], {"training_mode": 1}, used=("m", "v"))
    cleaned, report = clean(model)
    assert report.residual == ()
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype("f")
    y, mean, var = run(cleaned, x=x)
    assert np.allclose(y, expected_norm(x), atol=1e-5)
    assert mean.tolist() == [1, 1, 2]
    assert var.tolist() == [1, 4, 9]


def test_statistics_of_the_batch_that_are_used_stay():
    model = norm(9, ["y", "m", "v", "sm", "sv"], used=("sm",))
    cleaned, report = clean(model)
    assert [left.op_type for left in report.residual] == ["BatchNormalization"]
    assert differences(model, cleaned) == []


def test_frozen_masks_are_reported():
    kept = (np.random.default_rng(0).random((1, 4, 8, 8)) < KEEP) / KEEP
    model = built(lambda net, x: net.op("Mul", x, net.const(kept)))
    cleaned, report = clean(model)
    assert [decision.pattern for decision in report.decisions] == ["frozen mask"]
    assert report.decisions[0].action.startswith("left: frozen mask")
    assert not report.changed
    assert differences(model, cleaned) == []


def test_other_constants_are_no_frozen_masks():
    constants = (np.eye(8), np.tril(np.ones((8, 8))), np.full((8, 8), 1.5))
    for constant in constants:
        _, report = clean(built(lambda net, x, c=constant: net.op("Mul", x, net.const(c))))
        assert report.decisions == ()


def test_metadata_names_and_descriptions_stay():
    model = built(rescaled)
    model.graph.doc_string = "a graph"
    model.graph.output[0].doc_string = "an output"
    model.graph.input[0].doc_string = "an input"
    model.metadata_props.add(key="k", value="v")
    model.producer_name = "somebody"
    cleaned, _ = clean(model)
    assert cleaned.graph.input == model.graph.input
    assert cleaned.graph.output == model.graph.output
    assert cleaned.metadata_props == model.metadata_props
    assert (cleaned.graph.doc_string, cleaned.producer_name) == ("a graph", "somebody")


def test_constants_that_others_use_stay():
    def layer(net, x):
        keep = net.const(KEEP)
        kept = net.op("Cast", net.op("Less", uniform(net, x), keep), to=1)
        return net.op("Add", net.op("Div", net.op("Mul", x, kept), keep), keep)

    cleaned, report = clean(built(layer))
    assert report.residual == ()
    plain = built(lambda net, x: net.op("Add", x, net.const(KEEP)))
    assert np.array_equal(run(cleaned)[0], run(plain)[0])


@pytest.mark.parametrize(
    "spec",
    [sd.SpatialDropout2D(0.2, seed=1), sd.DropBlock2D(0.1, 3, seed=1), sd.DropPath(0.2, seed=1)],
    ids=lambda spec: type(spec).__name__,
)
def test_our_own_nodes_are_folded(spec):
    model = built(lambda net, x: net.op("Relu", net.conv(x, 4)))
    inserted = sd.insert(model, spec)
    cleaned, report = clean(inserted)
    assert differences(model, cleaned) == []
    assert report.changed
    assert report.residual == ()
    assert {decision.pattern for decision in report.decisions} == {"structured dropout"}


@pytest.mark.parametrize("source", ["dropout", "uniform"])
@pytest.mark.parametrize(
    "spec", [sd.SpatialDropout2D(0.2, seed=1), sd.Dropout(0.2, seed=1)], ids=["spatial", "full"]
)
def test_our_own_inlined_nodes_are_proven_like_others(spec, source):
    model = built(lambda net, x: net.op("Relu", net.conv(x, 4)))
    inlined = sd.inline(sd.insert(model, spec), source)
    cleaned, report = clean(inlined)
    assert report.residual == ()
    assert np.array_equal(run(cleaned)[0], run(model)[0])
    assert not cleaned.metadata_props


def test_inlined_blocks_are_proven_or_left_whole():
    model = built(lambda net, x: net.op("Relu", net.conv(x, 4)))
    inlined = sd.inline(sd.insert(model, sd.DropBlock2D(0.1, 3, seed=1)))
    cleaned, report = clean(inlined)
    for left in report.residual:
        assert "the random numbers enter" in left.reason
    if report.residual:
        assert differences(inlined, cleaned) == []
    else:
        assert np.array_equal(run(cleaned)[0], run(model)[0])


def test_both_kinds_of_model():
    model = built(rescaled)
    cleaned, report = clean(ir.from_proto(model))
    assert isinstance(cleaned, ir.Model)
    assert report == clean(model)[1]


def test_report_is_plain_data():
    _, report = clean(built(lambda net, x: gumbel(net, rescaled(net, x))))
    data = json.loads(json.dumps(report.to_dict()))
    assert data["changed"] is True
    assert data["decisions"][0]["nodes"]
    assert data["residual"][0]["op_type"] == "RandomUniformLike"


def test_deep_graphs():
    net = Net((1, 4))
    ratio, on = net.const(0.5), net.const(True, np.bool_)
    x = "x"
    for _ in range(3000):
        x = net.op("Tanh", net.op("Dropout", x, ratio, on))
    cleaned, report = clean(net.model(x))
    assert len(report.decisions) == 3000
    assert operators(cleaned) == ["Tanh"] * 3000


def parsed(text, functions="", opset=17):
    imports = f'["" : {opset}, "l" : 1, "pkg.onnx_structdrop" : 1]'
    model = onnx.parser.parse_model(
        f"<ir_version: 10, opset_import: {imports}>\n{text}\n{functions}"
    )
    onnx.checker.check_model(model)
    return model


LESS = "u=RandomUniformLike(x) k=Constant<value_float=0.8>() l=Less(u,k) m=CastLike(l,x) "


def reasons(model):
    cleaned, report = clean(model)
    assert differences(model, cleaned) == []
    return " ".join(left.reason for left in report.residual)


GATES = {
    "greater": "z=Constant<value_float=0.0>() c=Greater(t,z) g=CastLike(c,x)",
    "ceil": "g=Ceil(t)",
    "sign": "g=Sign(t)",
    "absolute": "a=Abs(t) g=Div(t,a)",
    "root": "q=Mul(t,t) a=Sqrt(q) g=Div(a,t)",
    "power": "q=Mul(t,t) h=Constant<value_float=0.5>() a=Pow(q,h) g=Div(a,t)",
    "max": "z=Constant<value_float=0.05>() c=Max(t,z) g=Div(t,c)",
    "clip": "z=Constant<value_float=1.0>() c=Clip(t,,z) g=Div(t,c)",
    "batch": "n=Shape<start=0,end=1>(x) o=Constant<value=int64[1] {5000}>() c=Greater(n,o) "
    "v=Not(c) g=CastLike(v,x)",
    "quotient": "n=Shape<start=0,end=1>(x) o=Constant<value=int64[1] {5000}>() q=Div(n,o) "
    "i=Constant<value=int64[1] {1}>() w=Add(q,i) g=Cast<to=1>(w)",
    "smallest": "n=Shape<start=0,end=1>(x) o=Constant<value=int64[1] {3}>() q=Min(n,o) "
    "w=Div(q,o) g=Cast<to=1>(w)",
}


@pytest.mark.parametrize("gate", GATES)
def test_steps_of_numbers_that_only_the_run_knows_are_not_sampled(gate):
    """The gate is 1 for numbers that look like a ratio or a size, and something else for others."""
    text = f"g (float[N,4] x, float t) => (float[N,4] y) {{ {LESS} {GATES[gate]} "
    inside = parsed(text + "mg=Mul(m,g) d=Mul(x,mg) y=Div(d,k) }")
    assert reasons(inside)
    behind = parsed(text + "d=Mul(x,m) e=Div(d,k) y=Mul(e,g) }")
    cleaned, report = clean(behind)
    if not report.residual:
        assert "Mul" in operators(cleaned)
        x = np.random.default_rng(0).standard_normal((2, 4)).astype("f")
        plain = parsed(text + "y=Mul(x,g) }")
        for number in (-2.0, 0.01, 0.5, 3.0):
            t = np.array(number, np.float32)
            assert np.array_equal(run(cleaned, x=x, t=t)[0], run(plain, x=x, t=t)[0])


@pytest.mark.parametrize("step", ["Ceil", "Sign", "Floor"])
def test_arguments_of_functions_are_not_sampled_through_steps(step):
    text = """g (float[2,4] x) => (float[2,4] y, float[2,4] z) {
        a=Constant<value_float=3.0>() b=Constant<value_float=0.4>() y=l.F(x,a) z=l.F(x,b) }"""
    body = f"""<domain: "l", opset_import: ["" : 17]> F (x, s) => (y) {{
        {LESS} q={step}(s) e=Mul(m,q) d=Div(e,k) y=Mul(x,d) }}"""
    assert reasons(parsed(text, body))


def test_a_rate_that_is_an_input_may_be_rounded_with_the_draw():
    model = parsed("""g (float[2,4] x, float t) => (float[2,4] y) {
        u=RandomUniformLike(x) s=Add(u,t) m=Floor(s) d=Mul(x,m) y=Div(d,t) }""")
    assert clean(model)[1].residual == ()


@pytest.mark.parametrize("typed", [True, False])
def test_division_of_integers_is_no_scaling(typed):
    body = """p=Constant<value=float[2,4] {0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5}>()
        b=Bernoulli<dtype=7>(p) d=Mul(x,b) two=Constant<value=int64 {2}>() e=Div(d,two)
        four=Constant<value=int64 {4}>() y=Mul(e,four)"""
    if typed:
        model = parsed(f"g (int64[2,4] x) => (int64[2,4] y) {{ {body} }}")
    else:
        model = parsed(
            "g (int64[2,4] x) => (int64[2,4] y) { y=l.F(x) }",
            f'<domain: "l", opset_import: ["" : 17]> F (x) => (y) {{ {body} }}',
        )
    assert reasons(model)
    cleaned, _ = clean(model, unscaled_dropout=True)
    nodes = cleaned.functions[0].node if cleaned.functions else cleaned.graph.node
    assert [node.op_type for node in nodes if node.op_type != "Constant"] == ["Div", "Mul"]


@pytest.mark.parametrize("sigma", ["input", "data", "table", "constant"])
def test_only_noise_of_constant_deviation_is_a_regulariser(sigma):
    given = {
        "input": "s=Identity(t)",
        "data": "s=ReduceMean<keepdims=0>(x)",
        "table": "s=Constant<value=float[1,4] {0.1,0.1,0.1,0.1}>()",
        "constant": "s=Constant<value_float=0.1>()",
    }[sigma]
    model = parsed(f"""g (float[2,4] x, float t) => (float[2,4] y) {{
        {given} z=RandomNormalLike(x) n=Mul(z,s) a=Tanh(x) y=Add(a,n) }}""")
    if sigma == "constant":
        assert clean(model)[1].residual == ()
    elif sigma == "data":
        assert reasons(model)
    else:
        assert "not a regulariser's" in reasons(model)


def test_bernoulli_whose_probability_is_an_input_stays():
    model = parsed("""g (float[2,4] x, float t) => (float[2,4] y) {
        s=Shape(x) p=Expand(t,s) b=Bernoulli(p) d=Mul(x,b) y=Div(d,t) }""")
    assert "known at run time only" in reasons(model)


@pytest.mark.parametrize(("scale", "proven"), [(1.25, True), (1.2500001, True), (1.2501, False)])
def test_a_scale_fits_but_for_rounding(scale, proven):
    model = parsed(f"""g (float[2,4] x) => (float[2,4] y) {{ {LESS}
        w=Constant<value_float={scale}>() d=Mul(x,m) y=Mul(d,w) }}""")
    assert (clean(model)[1].residual == ()) == proven


@pytest.mark.parametrize("keep", [0.01, 0.1, 0.3, 0.7, 0.9, 0.999])
def test_any_keep_probability_that_float32_rounded(keep):
    assert clean(built(lambda net, x: scaled_by(net, x, keep)))[1].residual == ()


def scaled_by(net, x, keep):
    rate = float(np.float32(1) - np.float32(keep))
    kept = net.op("Cast", net.op("GreaterOrEqual", uniform(net, x), net.const(rate)), to=1)
    return net.op("Mul", net.op("Mul", x, kept), net.const(np.float32(1) / np.float32(keep)))


def norms(text, count=1):
    numbers = "float[2] s={1,1}, float[2] b={0,0}, float[2] mu={0,0}, float[2] var={1,1}"
    weights = "float[2,3,1,1] w={1,2,3,4,5,6}"
    return parsed(f"g (float[2,2,4,4] x, float[2,3,4,4] c) => (float[N,M,4,4] y) "
                  f"<{numbers}, {weights}> {{ {text} }}")  # fmt: skip


TRAINS = "BatchNormalization<training_mode=1"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"y, p, q = {TRAINS}, momentum=0.0>(x,s,b,mu,var)", "momentum is 0"),
        (
            f"z, p, q = {TRAINS}>(x,s,b,mu,var) y, o, r = {TRAINS}>(z,s,b,mu,var)",
            "they look made up",
        ),
        (
            "h=Constant<value=int64[3] {1,2,-1}>() i=Constant<value=int64[4] {2,3,1,1}>() "
            f"v=Reshape(w,h) n, p, q = {TRAINS}>(v,s,b,mu,var) t=Reshape(n,i) y=Conv(c,t)",
            "depends on no input of the model",
        ),
        (f"y, p, q = {TRAINS}>(x,s,b,mu,var)", ""),
    ],
)
def test_normalisation_that_has_no_statistics_of_its_own_stays(text, reason):
    model = norms(text)
    cleaned, report = clean(model)
    assert bool(report.residual) == bool(reason)
    assert all(reason in left.reason for left in report.residual)
    assert bool(differences(model, cleaned)) != bool(reason)


def test_functions_of_our_domain_that_are_none_of_ours_are_analysed():
    model = parsed(
        "g (float[2,4] x) => (float[2,4] y) { y=pkg.onnx_structdrop.p_Drop(x) }",
        '<domain: "pkg.onnx_structdrop", opset_import: ["" : 17]> p_Drop (x) => (y) '
        "{ u=RandomUniformLike(x) y=Mul(x,u) }",
    )
    assert "of mean 0.5, not 1" in reasons(model)


def test_our_renamed_operators_are_not_taken_for_clean():
    inserted = sd.insert(
        built(lambda net, x: net.op("Relu", net.conv(x, 4))), sd.SpatialDropout2D(0.5, seed=1)
    )
    prefixed = onnx.compose.add_prefix(sd.set_training_mode(inserted, True), "p_")
    cleaned, report = clean(prefixed)
    assert report.residual != () or not {"Dropout", "RandomUniform"} & {
        node.op_type for function in cleaned.functions for node in function.node
    }
    assert {source.op_type for source in analyse(ir.from_proto(prefixed)).sources} != set()
