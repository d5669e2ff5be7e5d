"""Sites: which values are found, of which kind, in all the ways exporters write a block."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from nets import Net

from onnx_structdrop.errors import ArgumentTypeError
from onnx_structdrop.graph.sites import KINDS, Site, find_sites

MODELS = Path(__file__).parent.parent.parent / "models"

# Sites of each stage in turn, and before the first ("stem"): how many of each kind, by initial
# (activation, linear, shortcut, join, concat).
SAMPLES = {
    "convnext_dynamo": "1a 3l 1j, 1a 3l 1j, 2a 5l 2j, 1a 3l 1j",
    "densenet_dynamo": "stem 1a, 2a 1l 2c, 3a 1l 3c, 3a 3c",
    "mobilenetv2_dynamo": "2a 1l, 4a 2l 1j, 4a 2l 1j, 6a 3l 1j, 5a 2l 1j",
    "resnet18_dynamo": "stem 1a, 2a 2l 2j, 2a 2l 1s 2j, 2a 2l 1s 2j, 2a 2l 1s 2j",
    "resnet18_torchscript": "stem 1a, 2a 2l 2j, 2a 2l 1s 2j, 2a 2l 1s 2j, 2a 2l 1s 2j",
    "resnet1d_dynamo": "stem 1a, 1a 1l 1j, 1a 1l 1s 1j, 1a 1l 1s 1j, 1a 1l 1s 1j",
    "resnet3d_dynamo": "stem 1a, 1a 1l 1j, 1a 1l 1s 1j, 1a 1l 1s 1j",
    "resnet_keras_tensorflow": "2a 1l 1j, 1a 1l 1s 1j, 2a 2l 1s 2j",
    "resnet_keras_torch": "2a 1l 1j, 1a 1l 1s 1j, 2a 2l 1s 2j",
    "unet_dynamo": "4a 2l, 4a 1l, 4a 1l, 2a",
    "unet_torchscript": "4a 2l, 4a 1l, 4a 1l, 2a",
}
_BOTTLENECKS = "stem 1a, 6a 3l 1s 3j, 8a 4l 1s 4j, 12a 6l 1s 6j, 6a 3l 1s 3j"
_MOBILENETV2 = "2a 1l, 4a 2l 1j, 6a 3l 2j, 14a 7l 5j, 9a 4l 2j"
_TIMM_RESNET18 = "stem 1a, 2a 2l 1s 2j, 2a 2l 1s 2j, 2a 2l 1s 2j, 2a 2l 1s 2j"
_TEST_RESNET = "stem 3a, 1a 1l 1j, 1a 1l 1s 1j, 2a 1l 1s 1j, 1a 1l 1s 1j"
_UNET = "4a 2l, 4a 1l, 4a 1l, 2a"
CORPUS = {
    "actnet_half_dyn20_train": "1a, 2a, 2a",
    "condnet_dyn20_eval": "3a",
    "condnet_dyn20_train": "3a",
    "fn_onnxscript_local": "1a",
    "fp16_hf_resnet50w8_keepio": _BOTTLENECKS,
    "hf_convnext_ts17": "1a 3l 1j, 1a 3l 1j, 3a 7l 3j, 1a 3l 1j",
    "hf_regnet_dyn18": "stem 1a, 2a 1l 1s 1j, 4a 2l 1s 2j, 6a 3l 1s 3j, 2a 1l 1s 1j",
    "hf_resnet18w4_dyn23": "stem 1a, 2a 2l 2j, 2a 2l 1s 2j, 2a 2l 1s 2j, 2a 2l 1s 2j",
    "hf_resnet50w8_ts13": _BOTTLENECKS,
    "hf_resnet50w8_ts17_bnkept": _BOTTLENECKS,
    "keras_conv_spatial2d_tensorflow": "1a, 1a, 1a",
    "keras_conv_spatial2d_torch": "1a, 1a, 1a",
    "keras_densenet_mini_tensorflow": "stem 1a, 2a 1l 2c, 3a 1l 3c, 3a 1l 3c, 2a 2c",
    "keras_mobilenetv2_035_tensorflow": _MOBILENETV2,
    "onnxnode_dropout_default_mask": "",
    "onnxnode_training_dropout": "",
    "onnxnode_training_dropout_mask": "",
    "q_timm_lcnet_qdq": "3l, 4l, 4l, 12l, 4l",
    "resnet1d_dyn20_dyn": "2a 1l 1j, 1a 1l 1s 1j, 2a 2l 1s 2j, 1a 1l 1s 1j",
    "resnet3d_dyn20": "2a 1l 1j, 1a 1l 1s 1j, 1a 1l 1s 1j, 1a 1l 1s 1j",
    "timm_resnet18w4_dropblock_eval_dyn20": _TIMM_RESNET18,
    "timm_resnet18w4_dropblock_train_dyn20": _TIMM_RESNET18,
    "timm_test_convnext_dyn23": "1a 3l 1j, 2a 5l 2j, 4a 9l 4j, 2a 5l 2j",
    "timm_test_efficientnet_ts17_dyn": "stem 2a, 1a 1l, 1a 1l, 2a 1l, 3a 1l",
    "timm_test_resnet_hard_swish_dyn18": _TEST_RESNET,
    "timm_test_resnet_leaky_relu_ts14": _TEST_RESNET,
    "timm_test_resnet_relu6_dyn21": _TEST_RESNET,
    "timm_test_resnet_silu_ts19": _TEST_RESNET,
    "trap_bn_train": "1l",
    "trap_hardmask_threshold": "1a",
    "trap_identity_chain": "1l",
    "trap_input_to_output": "",
    "trap_mask_used_twice": "1l",
    "trap_opset7_attr": "1a",
    "trap_ratio0_train": "1a",
    "trap_train_input": "1a 1l",
    "tv_mobilenet_v2_035_ts13_nofold_train": _MOBILENETV2,
    "tv_shufflenet_x0_5_dyn20": "stem 1a, 9a 5l, 17a 9l, 10a 5l",
    "unet2d_prelu_ts13": _UNET,
    "unet2d_up_dyn20_train": _UNET,
}


def counts(sites: list[Site]) -> str:
    rows = []
    for stage in [None, *range(1, 1 + max((site.stage or 0 for site in sites), default=0))]:
        found = [site.kind for site in sites if site.stage == stage]
        row = " ".join(f"{found.count(kind)}{kind[0]}" for kind in KINDS if kind in found)
        rows += [f"stem {row}" if stage is None else row] if found else []
    return ", ".join(rows)


def kinds(model: onnx.ModelProto) -> dict[str, str]:
    return {site.value: site.kind for site in find_sites(model)}


def read(path: Path) -> onnx.ModelProto:
    return onnx.load(path, load_external_data=False)


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_sample_models(name):
    assert counts(find_sites(read(MODELS / f"{name}.onnx"))) == SAMPLES[name]


def test_every_sample_model_is_listed():
    assert {path.stem for path in MODELS.glob("*.onnx")} == set(SAMPLES)


@pytest.mark.parametrize("name", sorted(CORPUS))
def test_corpus(corpus, name):
    assert counts(find_sites(read(corpus / "models" / f"{name}.onnx"))) == CORPUS[name]


def test_every_corpus_model_is_listed(corpus):
    assert {path.stem for path in (corpus / "models").glob("*.onnx")} == set(CORPUS)


def test_training_export_has_the_sites_of_its_eval_export(corpus):
    def places(name):
        sites = find_sites(read(corpus / name))
        return [(s.kind, s.shape, s.stage, s.stride, s.block) for s in sites]

    for name in (
        "timm_resnet18w4_dropblock_train_dyn20",
        "tv_mobilenet_v2_035_ts13_nofold_train",
        "unet2d_up_dyn20_train",
        "actnet_half_dyn20_train",
    ):
        assert places(f"models/{name}.onnx") == places(f"refs/{name}__eval.onnx")


def test_two_exporters_of_one_network_give_the_same_sites():
    first, second = (
        [
            (s.kind, s.shape[1:], s.stage, s.stride, s.block)
            for s in find_sites(read(MODELS / f"resnet18_{exporter}.onnx"))
        ]
        for exporter in ("dynamo", "torchscript")
    )
    assert first == second


def test_channels_last_axis_is_found_behind_transposes():
    sites = find_sites(read(MODELS / "resnet_keras_torch.onnx"))
    assert {site.channel_axis for site in sites} == {3}
    assert [site.shape[3] for site in sites if site.kind == "join"] == [8, 12, 16, 16]


# Activations: each takes the net and a value and returns the end of the activation.
def _hard_swish_of_keras(net, x):
    shifted = net.op("Add", x, net.const(3.0))
    clipped = net.op("Clip", shifted, net.const(0.0), net.const(6.0))
    return net.op("Div", net.op("Mul", x, clipped), net.const(6.0))


def _gelu_erf(net, x):
    erf = net.op("Erf", net.op("Div", x, net.const(1.4142135)))
    return net.op("Mul", net.op("Mul", x, net.op("Add", erf, net.const(1.0))), net.const(0.5))


def _gelu_erf_halved_first(net, x):
    half = net.op("Mul", x, net.const(0.5))
    erf = net.op("Erf", net.op("Mul", x, net.const(0.70710678)))
    return net.op("Mul", half, net.op("Add", net.const(1.0), erf))


def _gelu_tanh(net, x):
    cubed = net.op("Mul", net.op("Mul", net.op("Mul", x, x), x), net.const(0.044715))
    inner = net.op("Mul", net.op("Add", x, cubed), net.const(0.79788456))
    tanh = net.op("Add", net.op("Tanh", inner), net.const(1.0))
    return net.op("Mul", net.op("Mul", x, tanh), net.const(0.5))


def _mish(net, x):
    return net.op("Mul", x, net.op("Tanh", net.op("Softplus", x)))


def _silu(net, x):
    return net.op("Mul", x, net.op("Sigmoid", x))


def _hard_sigmoid_times_x(net, x):
    return net.op("Mul", net.op("HardSigmoid", x, alpha=1 / 6, beta=0.5), x)


def _relu6(net, x):
    return net.op("Clip", x, net.const(0.0), net.const(6.0))


def _cast_around(net, x):
    x = net.op("Cast", net.op("Identity", x), to=onnx.TensorProto.DOUBLE)
    return net.op("Relu", x)


def _leaky_by_max(net, x):
    return net.op("Max", x, net.op("Mul", x, net.const(0.1)))


def _prelu(net, x):
    return net.op("PRelu", x, net.const(np.full((8, 1, 1), 0.25)))


ACTIVATIONS = {
    name: (lambda net, x, name=name: net.op(name, x))
    for name in (
        *("Celu", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Relu", "Selu"),
        *("Sigmoid", "Softplus", "Softsign", "Tanh", "ThresholdedRelu"),
    )
} | {
    function.__name__.strip("_"): function
    for function in (
        _cast_around,
        _gelu_erf,
        _gelu_erf_halved_first,
        _gelu_tanh,
        _hard_sigmoid_times_x,
        _hard_swish_of_keras,
        _leaky_by_max,
        _mish,
        _prelu,
        _relu6,
        _silu,
    )
}


# What may stand between a convolution and its activation.
def _nothing(net, x):
    return x


def _batch_norm(net, x):
    return net.bn(x)


def _bias(net, x):
    return net.op("Add", x, net.const(np.zeros((1, 8, 1, 1))))


def _affine(net, x):
    x = net.op("Sub", x, net.const(np.zeros((1, 8, 1, 1))))
    return net.op("Add", net.op("Mul", x, net.const(np.ones((1, 8, 1, 1)))), net.const(0.0))


def _instance_norm(net, x):
    return net.op("InstanceNormalization", x, net.const(np.ones(8)), net.const(np.zeros(8)))


def _group_norm(net, x):
    ones = net.const(np.ones(2))
    y = net.op("Reshape", x, net.const([0, 2, -1], np.int64))
    y = net.op("InstanceNormalization", y, ones, ones)
    y = net.op("Reshape", y, net.op("Shape", x))
    return _affine(net, y)


def _layer_norm(net, x):
    mean = net.op("ReduceMean", x, net.const([1], np.int64), keepdims=1)
    centred = net.op("Sub", x, mean)
    square = net.op("Pow", centred, net.const(2.0))
    variance = net.op("ReduceMean", square, net.const([1], np.int64), keepdims=1)
    deviation = net.op("Sqrt", net.op("Add", variance, net.const(1e-6)))
    return _affine(net, net.op("Div", centred, deviation))


def _layer_norm_channels_last(net, x):
    y = net.op("Transpose", x, perm=[0, 2, 3, 1])
    y = net.op("LayerNormalization", y, net.const(np.ones(8)), net.const(np.zeros(8)))
    return net.op("Transpose", y, perm=[0, 3, 1, 2])


def _dropout(net, x):
    return net.op("Dropout", net.op("Identity", x), net.const(0.5))


def _drop_block(net, x):
    noise = net.op("RandomUniformLike", x)
    kept = net.op("Cast", net.op("Less", noise, net.const(0.9)), to=1)
    return net.op("Div", net.op("Mul", x, kept), net.const(0.9))


BETWEEN = {
    function.__name__.strip("_"): function
    for function in (
        _affine,
        _batch_norm,
        _bias,
        _drop_block,
        _dropout,
        _group_norm,
        _instance_norm,
        _layer_norm,
        _layer_norm_channels_last,
        _nothing,
    )
}


@pytest.mark.parametrize("between", sorted(BETWEEN))
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_block_ends_behind_its_activation(activation, between):
    net = Net()
    end = ACTIVATIONS[activation](net, BETWEEN[between](net, net.conv("x", 8)))
    last = net.conv(net.pool(end), 4)
    model = net.model(net.relu(last))
    site, _ = find_sites(model)
    assert (site.value, site.kind, site.channel_axis) == (end, "activation", 1)
    assert (site.stage, site.stride, site.block) == (1, 1, 1)


@pytest.mark.parametrize("between", sorted(BETWEEN))
def test_block_without_activation_ends_behind_its_norm(between):
    net = Net()
    conv = net.conv("x", 8)
    end = BETWEEN[between](net, conv)
    site, _ = find_sites(net.model(net.relu(net.conv(net.pool(end), 4))))
    assert site.kind == "linear"
    if between in ("dropout", "drop_block"):
        assert site.value == conv
    elif between == "layer_norm_channels_last":
        assert (site.op_type, site.channel_axis) == ("LayerNormalization", 3)
    else:
        assert site.value == end


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_activation_behind_a_join_is_the_join(activation):
    net = Net()
    x = net.cbr("x", 8)
    y = net.conv(x, 8)
    end = ACTIVATIONS[activation](net, net.op("Add", x, y))
    assert kinds(net.model(net.head(end))) == {x: "activation", y: "linear", end: "join"}


@pytest.mark.parametrize("convolution", ["Conv", "ConvTranspose"])
def test_convolutions_of_both_directions(convolution):
    net = Net()
    y = net.up("x", 8) if convolution == "ConvTranspose" else net.conv("x", 8)
    end = net.relu(y)
    assert kinds(net.model(end)) == {end: "activation"}


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_any_number_of_directions(rank):
    net = Net(("N", 2, *[16] * rank))
    end = net.relu(net.conv("x", 4, 3, 2, rank=rank))
    (site,) = find_sites(net.model(end))
    assert (site.shape, site.rank) == (("N", 4, *[8] * rank), rank + 2)
    assert (site.stride, site.channel_axis) == (2, 1)


def test_branches_of_a_join():
    net = Net()
    x = net.cbr("x", 8)
    main = net.bn(net.conv(net.cbr(x, 16, 3, 2), 16))
    short = net.bn(net.conv(net.pool(x, "AveragePool"), 16, 1))
    join = net.op("Add", short, main)  # the order of the operands does not matter
    found = kinds(net.model(net.head(net.op("Identity", join))))
    assert (found[main], found[short], found[join]) == ("linear", "shortcut", "join")


def test_shortcut_of_a_pool_and_no_convolution():
    net = Net()
    x = net.cbr("x", 8)
    main = net.bn(net.conv(net.cbr(x, 16, 3, 2), 16))
    padded = net.op("Pad", net.pool(x), net.const([0, 0, 0, 0, 0, 8, 0, 0], np.int64))
    found = kinds(net.model(net.head(net.relu(net.op("Add", main, padded)))))
    assert found[padded] == "shortcut"


def test_of_two_branches_of_equal_length_the_pointwise_one_is_the_shortcut():
    net = Net()
    x = net.cbr("x", 8)
    wide, narrow = net.bn(net.conv(x, 8)), net.bn(net.conv(x, 8, 1))
    total = net.op("Add", net.op("Add", narrow, wide), net.bn(x))
    end = net.relu(total)
    found = kinds(net.model(net.head(end)))
    assert found == {x: "activation", wide: "linear", narrow: "shortcut", end: "join"}


def test_sum_of_several_branches_is_one_join():
    net = Net()
    x = net.cbr("x", 8)
    ends = [net.conv(x, 8, 3), net.conv(x, 8, 1), net.conv(x, 8, 1)]
    total = net.op("Sum", *ends)
    found = kinds(net.model(net.head(net.relu(total))))
    assert [found[end] for end in ends] == ["linear", "shortcut", "shortcut"]
    assert list(found.values()).count("join") == 1


def test_what_is_no_join():
    net = Net()
    x = net.cbr("x", 8)
    twice = net.op("Add", x, x)
    shifted = net.op("Add", twice, net.const(np.zeros((1, 8, 64, 64))))
    context = net.op("Add", shifted, net.op("GlobalAveragePool", shifted))
    assert kinds(net.model(context)) == {x: "activation"}


def test_norm_between_join_and_activation_belongs_to_the_next_block():
    net = Net()
    x = net.conv("x", 8)
    main = net.conv(net.relu(net.bn(x)), 8)
    join = net.op("Add", main, x)
    end = net.relu(net.conv(net.relu(net.bn(join)), 8))
    found = kinds(net.model(net.head(end)))
    assert found == {x: "linear", main: "linear", join: "join", end: "activation"}


def test_squeeze_and_excitation_has_no_sites():
    net = Net()
    x = net.cbr("x", 8)
    scaled = net.squeeze_excite(x, "HardSigmoid")
    last = net.bn(net.conv(scaled, 8, 1))
    join = net.relu(net.op("Add", net.squeeze_excite(last), x))
    assert kinds(net.model(net.head(join))) == {x: "activation", last: "linear", join: "join"}


def test_activation_behind_squeeze_and_excitation_still_ends_the_block():
    net = Net()
    end = net.relu(net.squeeze_excite(net.bn(net.conv("x", 8))))
    assert kinds(net.model(net.head(end))) == {end: "activation"}


def test_squeeze_and_excitation_with_flat_layers_is_looked_through():
    net = Net()
    x = net.bn(net.conv("x", 8))
    flat = net.op("Squeeze", net.op("GlobalAveragePool", x), net.const([2, 3], np.int64))
    inner = net.relu(net.op("MatMul", flat, net.const(np.zeros((8, 2)))))
    gate = net.op("Sigmoid", net.op("MatMul", inner, net.const(np.zeros((2, 8)))))
    gate = net.op("Reshape", gate, net.const([-1, 8, 1, 1], np.int64))
    end = net.relu(net.op("Mul", x, gate))
    assert kinds(net.model(net.head(end))) == {end: "activation"}


def test_channel_attention_along_channels_has_no_sites():
    net = Net()
    x = net.cbr("x", 8)
    line = net.op("Squeeze", net.op("GlobalAveragePool", x), net.const([3], np.int64))
    line = net.op("Transpose", line, perm=[0, 2, 1])
    line = net.op("Conv", line, net.const(np.zeros((1, 1, 3))), pads=[1, 1])
    gate = net.op("Sigmoid", net.op("Transpose", line, perm=[0, 2, 1]))
    end = net.op("Mul", x, net.op("Unsqueeze", gate, net.const([3], np.int64)))
    assert kinds(net.model(net.head(end))) == {x: "activation"}


def test_spatial_attention_has_no_sites():
    net = Net()
    x = net.cbr("x", 8)
    mean = net.op("ReduceMean", x, net.const([1], np.int64))
    peak = net.op("ReduceMax", x, net.const([1], np.int64))
    net.channels[mean] = net.channels[peak] = 1
    both = net.op("Concat", mean, peak, axis=1)
    end = net.op("Mul", x, net.op("Sigmoid", net.conv(both, 1, 7)))
    assert kinds(net.model(net.head(end))) == {x: "activation"}


def test_attention_gate_of_a_decoder_has_no_sites():
    net = Net()
    skip = net.cbr("x", 8)
    up = net.up(net.cbr(net.pool(skip), 16), 8)
    both = net.op("Add", net.bn(net.conv(up, 4, 1)), net.bn(net.conv(skip, 4, 1)))
    gate = net.op("Sigmoid", net.bn(net.conv(net.relu(both), 1, 1)))
    end = net.cbr(net.op("Concat", net.op("Mul", skip, gate), up, axis=1), 8)
    found = find_sites(net.model(end))
    assert [site.kind for site in found] == ["activation", "activation", "linear", "activation"]


def test_classifiers_are_no_sites():
    net = Net()
    x = net.cbr("x", 8)
    logits = net.conv(net.op("GlobalAveragePool", x), 10, 1)
    hidden = net.op("Relu", net.conv(net.op("ReduceMean", x, net.const([2, 3], np.int64)), 16, 1))
    assert kinds(net.model(logits, hidden, net.head(x))) == {x: "activation"}


@pytest.mark.parametrize("squash", ["Sigmoid", "Tanh"])
def test_prediction_at_the_output_is_no_activation(squash):
    net = Net()
    x = net.cbr("x", 8)
    logits = net.conv(x, 1, 1)
    model = net.model(net.op(squash, logits))
    assert kinds(model) == {x: "activation", logits: "linear"}


def test_pool_between_convolution_and_activation():
    net = Net()
    end = net.relu(net.pool(net.conv("x", 8, 5)))
    (site,) = find_sites(net.model(net.head(end)))
    assert (site.value, site.kind, site.stride) == (end, "activation", 2)


def test_dense_layers_flat_and_nested():
    for flat in (True, False):
        net = Net()
        features = [net.pool(net.cbr("x", 8))]
        layers = []
        for _ in range(3):
            x = net.op("Concat", *features, axis=1) if len(features) > 1 else features[0]
            layers.append(net.conv(net.cbr(net.relu(net.bn(x)), 8, 1), 4))
            features = [*features, layers[-1]] if flat else [x, layers[-1]]
        end = net.relu(net.bn(net.op("Concat", *features, axis=1)))
        sites = find_sites(net.model(net.head(end)))
        assert [site.value for site in sites if site.kind == "concat"] == layers
        assert [site.block for site in sites if site.kind == "concat"] == [1, 2, 3]


def test_dense_layers_between_casts_and_transposes():
    # As keras writes them on torch: channels last, each operator between casts.
    net = Net()

    def cast(x):
        return net.op("Cast", x, to=1)

    features = net.op("Transpose", net.cbr("x", 8), perm=[0, 2, 3, 1])
    features = cast(features)
    layers = []
    for _ in range(2):
        bent = net.relu(cast(net.op("Mul", features, net.const(np.ones(net.channels[features])))))
        layers.append(net.conv(net.op("Transpose", bent, perm=[0, 3, 1, 2]), 4))
        layer = cast(net.op("Transpose", layers[-1], perm=[0, 2, 3, 1]))
        features = cast(net.op("Concat", cast(features), layer, axis=3))
    last = net.op("Transpose", features, perm=[0, 3, 1, 2])
    found = kinds(net.model(net.head(net.relu(net.bn(last)))))
    assert [name for name, kind in found.items() if kind == "concat"] == layers


def test_skip_concatenation_of_a_decoder_is_not_dense():
    net = Net()
    skip = net.cbr("x", 8)
    up = net.up(net.cbr(net.pool(skip), 16), 8)
    end = net.cbr(net.op("Concat", up, skip, axis=1), 8)
    found = kinds(net.model(end))
    assert (found[up], found[skip], found[end]) == ("linear", "activation", "activation")


def test_skip_from_the_input_itself_is_not_dense():
    net = Net()
    up = net.up(net.cbr(net.pool("x"), 16), 3)
    assert kinds(net.model(net.cbr(net.op("Concat", "x", up, axis=1), 8)))[up] == "linear"


def test_gate_of_an_attention_over_positions_has_no_sites():
    # Global context: one map of weights, a weighted mean of all positions, two convolutions.
    net = Net(("N", 3, 32, 32))
    x = net.cbr("x", 8)
    weights = net.op("Reshape", net.conv(x, 1, 1), net.const([0, 1, -1], np.int64))
    weights = net.op("Unsqueeze", net.op("Softmax", weights, axis=2), net.const([3], np.int64))
    values = net.op("Reshape", x, net.const([0, 8, -1], np.int64))
    values = net.op("Unsqueeze", values, net.const([1], np.int64))
    context = net.op("MatMul", values, weights)
    context = net.op("Reshape", context, net.const([0, 8, 1, 1], np.int64))
    net.channels[context] = 8
    added = net.conv(net.relu(net.conv(context, 4, 1)), 8, 1)
    end = net.cbr(net.op("Add", x, added), 8, 3, 2)
    found = find_sites(net.model(net.head(end)))
    assert [(s.value, s.stride, s.stage) for s in found] == [(x, 1, 1), (end, 2, 2)]


def test_gate_at_a_coarser_resolution_has_no_sites():
    # As in GhostNetV2: pooled, three linear convolutions, enlarged again behind the sigmoid.
    net = Net()
    x = net.cbr("x", 8)
    y = net.pool(x, "AveragePool")
    for _ in range(3):
        y = net.bn(net.conv(y, 8, 1))
    gate = net.op("Resize", net.op("Sigmoid", y), "", net.const([1.0, 1.0, 2.0, 2.0]))
    end = net.cbr(net.op("Mul", net.cbr(x, 8), gate), 8)
    kinds_found = [site.kind for site in find_sites(net.model(net.head(end)))]
    assert kinds_found == ["activation"] * 3


def test_gates_of_several_convolutions_have_no_sites():
    net = Net()
    x = net.cbr("x", 8)
    y = net.cbr(net.cbr(net.cbr(x, 4, 1), 4), 4)
    end = net.op("Mul", x, net.op("Sigmoid", net.conv(y, 1, 1)))
    assert kinds(net.model(net.head(end))) == {x: "activation"}


def test_mask_that_a_whole_network_computes_is_no_gate():
    net = Net(("N", 1, 64, 64))
    y = net.cbr(net.cbr("x", 8), 8)
    mask = net.op("Sigmoid", net.conv(y, 1, 1))
    found = kinds(net.model(net.op("Mul", "x", mask)))
    assert list(found.values()) == ["activation", "activation"]

    net = Net()
    features = x = net.cbr("x", 8)
    for _ in range(5):
        x = net.residual(x, 8)
    end = net.cbr(net.op("Mul", features, net.op("Sigmoid", net.conv(x, 8, 1))), 8)
    found = list(kinds(net.model(net.conv(end, 3))).values())
    assert (found.count("join"), found.count("activation"), found.count("linear")) == (5, 7, 6)


@pytest.mark.parametrize("parts", ["Split", "Slice"])
def test_gated_units_are_activations(parts):
    for squash in ("Tanh", None):
        net = Net()
        y = net.conv("x", 16)
        if parts == "Split":
            left, right = net.op("Split", y, outputs=2, axis=1, num_outputs=2)
        else:
            cut = [net.const([n], np.int64) for n in (0, 8, 16, 1)]
            left = net.op("Slice", y, cut[0], cut[1], cut[3])
            right = net.op("Slice", y, cut[1], cut[2], cut[3])
        left = left if squash is None else net.op(squash, left)
        end = net.op("Mul", left, net.op("Sigmoid", right))
        net.channels[end] = 8
        assert kinds(net.model(net.relu(net.conv(net.pool(end), 8))))[end] == "activation"


def test_slice_behind_a_causal_convolution_belongs_to_its_block():
    net = Net(("N", 4, 64))
    x = net.conv("x", 8, rank=1)
    cut = net.op("Slice", x, *(net.const([n], np.int64) for n in (0, -2, 2)))
    end = net.relu(cut)
    assert kinds(net.model(end)) == {end: "activation"}


def test_ghost_module_is_no_dense_layer():
    net = Net()
    x = net.cbr("x", 16)
    primary = net.bn(net.conv(x, 8, 1))
    cheap = net.bn(net.conv(primary, 8, group=8))
    join = net.op("Add", x, net.op("Concat", primary, cheap, axis=1))
    found = kinds(net.model(net.head(join)))
    assert found == {x: "activation", primary: "linear", cheap: "linear", join: "join"}


def test_pointwise_convolution_as_matrix_product():
    net = Net()
    x = net.cbr("x", 8)
    last = net.op("Transpose", x, perm=[0, 2, 3, 1])
    hidden = net.op("Add", net.op("MatMul", last, net.const(np.zeros((8, 32)))), net.const([0.0]))
    hidden = net.op("Gelu", hidden)
    scaled = net.op("MatMul", hidden, net.const(np.zeros((32, 8))))
    scaled = net.op("Mul", scaled, net.const(np.ones(8)))
    back = net.op("Transpose", scaled, perm=[0, 3, 1, 2])
    join = net.op("Add", back, x)
    sites = {site.value: site for site in find_sites(net.model(net.head(join)))}
    assert (sites[hidden].kind, sites[hidden].channel_axis) == ("activation", 3)
    assert (sites[scaled].kind, sites[scaled].channel_axis) == ("linear", 3)
    assert (sites[join].kind, sites[join].channel_axis) == ("join", 1)


@pytest.mark.parametrize("shape", [("N", 3, 64, 64), (2, 3, 64, 64)], ids=["free", "fixed"])
@pytest.mark.parametrize("domain", ["", "com.microsoft"])
@pytest.mark.parametrize("product", ["Gemm", "MatMul"])
def test_pointwise_convolution_as_a_product_of_rows(product, domain, shape):
    # As onnxruntime writes MatMul and bias on maps, and tf2onnx a Tensordot.
    net = Net(shape, opset=20)

    def dense(x, inputs, outputs):
        rows = net.op("Reshape", x, net.const([-1, inputs], np.int64))
        bias = [net.const(np.zeros(outputs))] if product == "Gemm" else []
        rows = net.op(product, rows, net.const(np.zeros((inputs, outputs))), *bias)
        return net.op("Reshape", rows, net.const([-1, 32, 32, outputs], np.int64))

    x = net.cbr("x", 64, 3, 2)
    y = net.op("Transpose", x, perm=[0, 2, 3, 1])
    hidden = net.op("Gelu", dense(y, 64, 256), domain=domain)
    scaled = net.op("Mul", dense(hidden, 256, 64), net.const(np.ones(64)))
    join = net.op("Add", net.op("Transpose", scaled, perm=[0, 3, 1, 2]), x)
    found = find_sites(net.model(net.head(join)))
    assert [(s.value, s.kind, s.channel_axis, s.stride, s.rank) for s in found] == [
        (x, "activation", 1, 2, 4),
        (hidden, "activation", 3, 2, 4),
        (scaled, "linear", 3, 2, 4),
        (join, "join", 1, 2, 4),
    ]


def test_attention_on_tokens_has_no_sites():
    net = Net()
    x = net.conv("x", 8, 4, 4)
    tokens = net.op("Reshape", x, net.const([0, 8, -1], np.int64))
    tokens = net.op("Transpose", tokens, perm=[0, 2, 1])
    hidden = net.op("Gelu", net.op("MatMul", tokens, net.const(np.zeros((8, 8)))))
    end = net.op("Add", tokens, hidden)
    assert kinds(net.model(end)) == {x: "linear"}


def test_quantised_blocks_end_before_the_quantiser():
    net = Net()
    scale, zero = net.const(0.1), net.const(0, np.uint8)

    def quantised(x):
        return net.op("DequantizeLinear", net.op("QuantizeLinear", x, scale, zero), scale, zero)

    first = net.conv(quantised("x"), 8)
    second = net.conv(quantised(net.relu(quantised(first))), 8)
    found = kinds(net.model(quantised(second)))
    assert found == {first: "linear", second: "linear"}


def test_half_precision_is_told():
    model = read(MODELS / "resnet1d_dynamo.onnx")
    assert {site.dtype for site in find_sites(model)} == {"float32"}
    net = Net()
    x = net.op("Cast", "x", to=onnx.TensorProto.FLOAT16)
    weight = net.const(np.zeros((4, 3, 3, 3)), np.float16)
    end = net.op("Relu", net.op("Conv", x, weight))
    (site,) = find_sites(net.model(net.op("Cast", end, to=onnx.TensorProto.FLOAT)))
    assert (site.value, site.dtype) == (end, "float16")


def test_integer_maps_have_no_sites():
    net = Net()
    x = net.op("Cast", "x", to=onnx.TensorProto.INT32)
    weight = net.const(np.zeros((4, 3, 3, 3)), np.int32)
    y = net.op("Cast", net.op("Conv", x, weight), to=onnx.TensorProto.FLOAT)
    assert find_sites(net.model(y)) == []


def test_weights_given_as_inputs_of_the_model():
    text = """
        <ir_version: 9, opset_import: ["" : 17]>
        net (float["N", 3, 16, 16] x, float[4, 3, 3, 3] w, float[4] s, float[4, 1, 1] b)
            => (float[] y)
        {
            c = Conv <strides = [2, 2]> (x, w)
            n = BatchNormalization (c, s, s, s, s)
            a = Add (n, b)
            y = Relu (a)
        }
    """
    (site,) = find_sites(onnx.parser.parse_model(text))
    assert (site.value, site.kind, site.stride) == ("y", "activation", 2)


SUBGRAPHS = """
    <ir_version: 9, opset_import: ["" : 17]>
    net (float["N", 4, 16, 16] x, bool choice, float[4, 4, 3, 3] w) => (float[] y) {
        c = Conv <strides = [2, 2]> (x, w)
        a = Relu (c)
        y = If (choice) <
            then_branch = yes () => (float[] t2) {
                t = Conv <strides = [2, 2]> (a, w)
                t2 = Relu (t)
            },
            else_branch = no () => (float[] e2) { e = Conv (a, w)  e2 = Tanh (e) }
        >
    }
"""


def test_branches_of_an_if():
    sites = find_sites(onnx.parser.parse_model(SUBGRAPHS))
    found = [(site.scope.split("/")[-1], site.value, site.stride, site.stage) for site in sites]
    assert sorted(found) == [
        ("", "a", 2, 1),
        ("else_branch", "e2", 2, 1),
        ("then_branch", "t2", 4, 2),
    ]


def test_body_of_a_loop():
    text = """
        <ir_version: 9, opset_import: ["" : 17]>
        net (float["N", 4, 16, 16] x, int64 n, bool go, float[4, 4, 3, 3] w) => (float[] y) {
            c = Conv <strides = [2, 2]> (x, w)
            r = Loop (n, go, c) <
                body = step (int64 i, bool again, float[] state) => (bool more, float[] next) {
                    more = Identity (again)
                    inner = Conv <pads = [1, 1, 1, 1]> (state, w)
                    act = Relu (inner)
                    next = Add (act, state)
                }
            >
            y = Relu (r)
        }
    """
    sites = find_sites(onnx.parser.parse_model(text))
    inside = {site.value: (site.kind, site.stride) for site in sites if site.scope}
    assert inside == {"act": ("activation", 2), "next": ("join", 2)}


FUNCTIONS = """
    <ir_version: 9, opset_import: ["" : 17, "local" : 1]>
    net (float["N", 4, 16, 16] x, float[4, 4, 3, 3] w) => (float[] y) {
        a = local.block (x, w)
        y = local.CALL (a, w)
    }
    <domain: "local", opset_import: ["" : 17]>
    block (x, w) => (r) { c = Conv <pads = [1, 1, 1, 1], STRIDE> (x, w)  r = Relu (c) }
"""


def test_function_called_at_one_resolution():
    text = FUNCTIONS.replace("STRIDE", "strides = [1, 1]").replace("CALL", "block")
    (site,) = find_sites(onnx.parser.parse_model(text))
    assert (site.scope, site.kind, site.value) == ("function:local::block", "activation", "r")
    assert (site.stage, site.stride, site.rank, site.channel_axis) == (1, 1, 4, 1)


def test_function_called_at_two_resolutions_has_no_stage():
    text = FUNCTIONS.replace("STRIDE", "strides = [2, 2]").replace("CALL", "block")
    (site,) = find_sites(onnx.parser.parse_model(text))
    assert (site.kind, site.stage, site.stride, site.block) == ("activation", None, None, None)


def test_function_that_nothing_calls():
    text = FUNCTIONS.replace("STRIDE", "strides = [2, 2]")
    text = text.replace("local.block (x", "Conv (x").replace("local.CALL", "Conv")
    found = {site.value for site in find_sites(onnx.parser.parse_model(text))}
    assert found == {"a", "y", "r"}


def test_inserted_nodes_are_looked_through():
    def build(inserted):
        net = Net()

        def drop(x):
            if not inserted:
                return x
            return net.op(
                "SpatialDropout", x, net.const(0.1), domain="pkg.onnx_structdrop", outputs=1, seed=1
            )

        x = drop(net.relu(net.bn(drop(net.conv("x", 8)))))
        y = drop(net.bn(net.conv(x, 8)))
        short = drop(net.conv(x, 8, 1))
        end = drop(net.relu(drop(net.op("Add", y, short))))
        layer = drop(net.conv(net.relu(net.bn(end)), 4))
        last = net.op("Concat", end, layer, axis=1)
        return net.model(net.head(net.relu(net.bn(last))))

    def places(sites):
        return [(s.op_type, s.kind, s.shape, s.stage, s.stride, s.block) for s in sites]

    plain = find_sites(build(inserted=False))
    assert {site.kind for site in plain} == {"activation", "linear", "shortcut", "join", "concat"}
    assert places(find_sites(build(inserted=True))) == places(plain)


@pytest.mark.parametrize("name", ["resnet18_dynamo", "unet_torchscript", "resnet_keras_torch"])
def test_the_argument_stays_as_it_is(name):
    proto = read(MODELS / f"{name}.onnx")
    before = copy.deepcopy(proto)
    model = ir.from_proto(copy.deepcopy(proto))
    from_proto = find_sites(proto)
    assert proto == before
    assert find_sites(model) == from_proto
    assert ir.to_proto(model) == ir.to_proto(ir.from_proto(before))


def test_what_is_no_model_is_refused():
    with pytest.raises(ArgumentTypeError):
        find_sites("model.onnx")


def test_sites_as_plain_values():
    site = find_sites(read(MODELS / "resnet18_dynamo.onnx"))[3]
    fields = json.loads(json.dumps(site.to_dict()))
    assert fields["shape"] == list(site.shape)
    assert Site(**{**fields, "shape": tuple(fields["shape"])}) == site


def test_missing_data_files_do_no_harm(tmp_path):
    proto = read(MODELS / "resnet18_dynamo.onnx")
    expected = find_sites(proto)
    onnx.save(
        proto,
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="m.data",
        size_threshold=0,
    )
    (tmp_path / "m.data").unlink()
    found = find_sites(ir.load(tmp_path / "m.onnx"))
    assert [(s.value, s.kind, s.stage) for s in found] == [
        (s.value, s.kind, s.stage) for s in expected
    ]
