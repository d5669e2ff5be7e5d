"""Other operators: activations, losses, norms, pooling, shapes, against slopes in float64."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_operator import close, lowered_result, model_of, run, slopes
from onnx import helper

import onnx_structdrop as sd
from onnx_structdrop.training.lowering import lower

ERF = np.vectorize(math.erf)


def draws(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


ACTIVATIONS = {
    # operator: (function, whether the gradient reads the function's result, attributes)
    "ReluGrad": (lambda x: np.maximum(x, 0), True, {}),
    "LeakyReluGrad": (lambda x: np.where(x > 0, x, 0.2 * x), True, {"alpha": 0.2}),
    "SigmoidGrad": (sigmoid, True, {}),
    "TanhGrad": (np.tanh, True, {}),
    "SinGrad": (np.sin, False, {}),
    "GeluGrad": (lambda x: x * (1 + ERF(x * 0.5**0.5)) / 2, False, {}),
    "FastGeluGrad": (
        lambda x: x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2,
        False,
        {},
    ),
    "QuickGeluGrad": (lambda x: x * sigmoid(1.5 * x), False, {"alpha": 1.5}),
}


@pytest.mark.parametrize("op", ACTIVATIONS)
def test_activation_gradients(op):
    function, of_result, attributes = ACTIVATIONS[op]
    value, grad = draws(3, 7), draws(3, 7, seed=1)
    known = function(value).astype(np.float32) if of_result else value
    (found,) = lowered_result(op, {"dY": grad, "V": known}, ["dX"], **attributes)
    close(found, slopes(function, value, grad), 1e-5)


@pytest.mark.parametrize("op", ["Gelu", "FastGelu", "QuickGelu"])
def test_fused_activations(op):
    function, _, attributes = ACTIVATIONS[f"{op}Grad"]
    value = draws(3, 7)
    (found,) = lowered_result(op, {"X": value}, ["Y"], **attributes)
    close(found, function(value.astype(np.float64)))


def cross_entropy(labels, reduction, ignored, weights):
    counts = labels != ignored
    safe = np.where(counts, labels, 0)
    share = counts * (1 if weights is None else weights.astype(np.float64)[safe])

    def function(scores):
        log_prob = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        picked = np.take_along_axis(log_prob, safe[:, None], 1)[:, 0]
        loss = -picked * share
        if reduction == "none":
            return loss
        return loss.sum() / (share.sum() or 1) if reduction == "mean" else loss.sum()

    return function


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("spatial", [(), (2, 3)])
@pytest.mark.parametrize("ignored", [None, 1, "all"])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy(reduction, spatial, ignored, weighted):
    scores = draws(4, 3, *spatial)
    labels = np.random.default_rng(3).integers(0, 3, (4, *spatial))
    if ignored == "all":
        labels[...] = ignored = 1
    weights = np.array([0.5, 2, 1], np.float32) if weighted else None
    function = cross_entropy(labels, reduction, ignored, weights)
    extra = {"w": weights} if weighted else {}
    attributes = {"reduction": reduction}
    if ignored is not None:
        attributes["ignore_index"] = ignored
    loss, log_prob = lowered_result(
        "SoftmaxCrossEntropyLoss",
        {"scores": scores, "labels": labels, **extra},
        ["loss", "log_prob"],
        domain="",
        **attributes,
    )
    close(loss, np.asarray(function(scores.astype(np.float64))))
    grad = draws(*np.shape(loss), seed=5) if reduction == "none" else np.array(0.7, np.float32)
    (found,) = lowered_result(
        "SoftmaxCrossEntropyLossGrad",
        {"dY": grad, "log_prob": log_prob, "labels": labels, **extra},
        ["dX"],
        **attributes,
    )
    close(found, slopes(function, scores, grad), 1e-5)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax_gradients(axis):
    value, grad = draws(3, 4, 2), draws(3, 4, 2, seed=1)

    def softmax(x):
        return np.exp(x) / np.exp(x).sum(axis, keepdims=True)

    for op, function in (
        ("SoftmaxGrad_13", softmax),
        ("LogSoftmaxGrad_13", lambda x: np.log(softmax(x))),
    ):
        known = function(value)
        (found,) = lowered_result(op, {"dY": grad, "Y": known}, ["dX"], axis=axis)
        close(found, slopes(function, value, grad), 1e-5)


@pytest.mark.parametrize("shape", [(3, 2), (3, 2, 4), (2, 3, 2, 3)])
def test_batch_norm(shape):
    value, grad, scale = draws(*shape), draws(*shape, seed=1), draws(shape[1], seed=2)
    axes, column = (0, *range(2, len(shape))), (-1, *[1] * (len(shape) - 2))
    known = {"scale": scale, "bias": draws(shape[1], seed=3)}
    running = {"mean": draws(shape[1], seed=4), "variance": draws(shape[1], seed=5) ** 2}
    given_ = {"X": value, **known, **running}
    outputs = ["Y", "rm", "rv", "sm", "si"]
    before = {name: array.copy() for name, array in given_.items()}
    results = lowered_result(
        "BatchNormInternal", given_, outputs, training_mode=1, momentum=0.8, epsilon=1e-3
    )
    assert all((given_[name] == array).all() for name, array in before.items())
    mean, variance = value.mean(axes, np.float64), value.var(axes, np.float64)

    def normalised(x, s=scale):
        centred = x - x.mean(axes, keepdims=True)
        unit = centred / np.sqrt(x.var(axes, keepdims=True) + 1e-3)
        return unit * s.reshape(column) + known["bias"].reshape(column)

    wanted = [
        normalised(value.astype(np.float64)),
        0.8 * running["mean"] + 0.2 * mean,
        0.8 * running["variance"] + 0.2 * variance,
        mean,
        1 / np.sqrt(variance + 1e-3),
    ]
    for actual, expected in zip(results, wanted, strict=True):
        close(actual, expected, 1e-5)
    found = lowered_result(
        "BatchNormalizationGrad",
        {"dY": grad, "X": value, "scale": scale, "sm": results[3], "si": results[4]},
        ["dX", "dS", "dB"],
        epsilon=1e-3,
    )
    close(found[0], slopes(normalised, value, grad), 1e-4)
    close(found[1], slopes(lambda s: normalised(value.astype(np.float64), s), scale, grad), 1e-4)
    close(found[2], grad.sum(axes, np.float64), 1e-5)


@pytest.mark.parametrize("axis", [1, 2, -1])
def test_layer_norm(axis):
    value, grad = draws(2, 3, 4), draws(2, 3, 4, seed=1)
    axes = tuple(range(axis % 3, 3))
    scale = draws(*value.shape[axis % 3 :], seed=2)

    def normalised(x, s=scale):
        centred = x - x.mean(axes, keepdims=True)
        return centred / np.sqrt(x.var(axes, keepdims=True) + 1e-5) * s

    inverse = 1 / np.sqrt(value.var(axes, keepdims=True) + 1e-5)
    found = lowered_result(
        "LayerNormalizationGrad",
        {
            "dY": grad,
            "X": value,
            "scale": scale,
            "mean": value.mean(axes, keepdims=True),
            "inverse": inverse,
        },
        ["dX", "dS", "dB"],
        axis=axis,
    )
    close(found[0], slopes(normalised, value, grad), 1e-4)
    close(found[1], slopes(lambda s: normalised(value.astype(np.float64), s), scale, grad), 1e-4)
    close(found[2], grad.sum(tuple(range(axis % 3)), np.float64), 1e-5)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 1), st.integers(0, 4))
@settings(max_examples=30)
def test_max_pool(kernel, stride, pad, extra):
    pad = min(pad, kernel - 1)
    size = kernel + extra
    image = draws(2, 3, size, size)
    details = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
    pool = helper.make_node("MaxPool", ["X"], ["Y", "I"], **details)
    count = (size + 2 * pad - kernel) // stride + 1
    grad = draws(2, 3, count, count, seed=1)
    places = np.zeros(grad.shape, np.int64)
    model = model_of(
        "MaxPoolGrad", {"dY": grad, "I": places}, ["dX"], before=[pool], domain="", **details
    )
    model.graph.input.append(helper.make_tensor_value_info("X", 1, image.shape))
    (found,) = run(model, {"dY": grad, "X": image})
    padded = np.pad(image, [(0, 0)] * 2 + [(pad, pad)] * 2, constant_values=-np.inf)
    wanted = np.zeros(padded.shape)
    for n, c, i, j in np.ndindex(grad.shape):
        corner = (slice(i * stride, i * stride + kernel), slice(j * stride, j * stride + kernel))
        best = np.unravel_index(padded[n, c][corner].argmax(), (kernel, kernel))
        wanted[n, c, i * stride + best[0], j * stride + best[1]] += grad[n, c, i, j]
    close(found, wanted[:, :, pad : pad + size, pad : pad + size])


@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 1), st.integers(0, 4), st.booleans())
@settings(max_examples=30)
def test_average_pool(kernel, stride, pad, extra, include):
    pad = min(pad, kernel - 1)
    size = kernel + extra
    count = (size + 2 * pad - kernel) // stride + 1
    grad = draws(2, 3, count, count)
    (found,) = lowered_result(
        "AveragePoolGrad",
        {"dY": grad},
        ["dX"],
        shapes={"dX": (2, 3, size, size)},
        domain="",
        kernel_shape=[kernel] * 2,
        strides=[stride] * 2,
        pads=[pad] * 4,
        count_include_pad=int(include),
    )
    inside = np.pad(np.ones((size, size)), pad)
    wanted = np.zeros((2, 3, size + 2 * pad, size + 2 * pad))
    for i, j in np.ndindex(count, count):
        window = (slice(i * stride, i * stride + kernel), slice(j * stride, j * stride + kernel))
        divisor = kernel**2 if include else inside[window].sum()
        wanted[(..., *window)] += grad[:, :, i, j, None, None] / divisor
    close(found, wanted[:, :, pad : pad + size, pad : pad + size])


def test_gathering():
    sizes, axis = (4, 3, 5), 1
    indices = np.array([[0, 2], [2, 2]])
    grad = draws(4, 2, 2, 5)
    (found,) = lowered_result(
        "GatherGrad",
        {"sizes": np.array(sizes), "indices": indices, "dY": grad},
        ["dX"],
        axis=axis,
    )
    close(found, slopes(lambda x: np.take(x, indices, axis), np.zeros(sizes), grad), 1e-5)
    grad, places = draws(2, 3), np.array([[0, 1, 1], [1, 0, 1]])
    (found,) = lowered_result(
        "GatherElementsGrad",
        {"dY": grad, "sizes": np.array([2, 3]), "indices": places},
        ["dX"],
        axis=0,
    )
    close(found, slopes(lambda x: np.take_along_axis(x, places, 0), np.zeros((2, 3)), grad), 1e-5)


def test_slicing():
    grad = draws(2, 3)
    bounds = {"starts": [-1, 0], "ends": [-100, 6], "axes": [0, 1], "steps": [-2, 2]}
    given_ = {"dY": grad, "sizes": np.array([4, 6])}
    given_.update({name: np.array(value) for name, value in bounds.items()})
    (found,) = lowered_result("SliceGrad", given_, ["dX"])
    close(found, slopes(lambda x: x[::-1][::2, ::2], np.zeros((4, 6)), grad), 1e-5)


@pytest.mark.parametrize("shapes", [((3, 1, 5), (2, 1)), ((1,), (4, 1)), ((2, 3), (2, 3))])
def test_broadcasting(shapes):
    given_ = {name: np.array(shape) for name, shape in zip("ab", shapes, strict=True)}
    found = lowered_result("BroadcastGradientArgs", given_, ["x", "y"], integers="xy")
    whole = np.broadcast_shapes(*shapes)
    for axes, shape in zip(found, shapes, strict=True):
        ones = (1,) * (len(whole) - len(shape)) + shape
        wanted = [
            a for a, size in enumerate(ones) if size != whole[a] or a < len(whole) - len(shape)
        ]
        assert sorted(axes.tolist()) == wanted


def test_joining_and_splitting():
    first, second = draws(2, 3), draws(2, 2)
    joined, lengths = lowered_result(
        "ConcatTraining", {"a": first, "b": second}, ["c", "n"], integers="n", axis=1
    )
    assert np.array_equal(joined, np.concatenate([first, second], 1))
    parts = lowered_result("SplitTraining", {"c": joined, "n": lengths}, ["a", "b"], axis=1)
    assert np.array_equal(parts[0], first)
    assert np.array_equal(parts[1], second)


@pytest.mark.parametrize("training", [False, True])
def test_dropout(training):
    grad, mask = draws(4, 5), draws(4, 5, seed=1) > 0
    given_ = {
        "dY": grad,
        "mask": mask if training else np.ones_like(mask),
        "ratio": np.array(0.2, np.float32),
        "training": np.array(training),
    }
    (found,) = lowered_result("DropoutGrad", given_, ["dX"])
    close(found, np.where(mask, grad / 0.8, 0) if training else grad)


@pytest.mark.parametrize("kind", [np.int64, np.float32])
def test_scale(kind):
    (found,) = lowered_result("Scale", {"x": draws(3), "s": np.array(4, kind)}, ["y"], scale_down=1)
    close(found, draws(3) / 4)


def test_an_operator_without_a_rule_is_named():
    model = model_of("InvertibleLayerNormalizationGrad", {"a": draws(2)}, ["b"])
    with pytest.raises(sd.UnsupportedModelError, match=r"'tested'.*InvertibleLayerNormal"):
        lower(model)
    plain = model_of("NoSuchThing", {"a": draws(2)}, ["b"], domain="")
    with pytest.raises(sd.UnsupportedModelError, match=r"'tested'.*NoSuchThing"):
        lower(plain)


def test_an_operator_inside_of_another_is_named():
    inner = helper.make_node("ReluGrad", ["a", "a"], ["b"], "deep", domain="com.microsoft")
    branch = helper.make_graph([inner], "branch", [], [helper.make_tensor_value_info("b", 1, None)])
    model = model_of("ReluGrad", {"a": draws(2), "c": draws(2)}, ["y"])
    node = helper.make_node("If", ["flag"], ["z"], "outer", then_branch=branch, else_branch=branch)
    model.graph.node.append(node)
    with pytest.raises(sd.UnsupportedModelError, match=r"'deep'.*inside of node 'outer'"):
        lower(model)


def test_the_argument_is_not_changed():
    model = model_of("ReluGrad", {"a": draws(2), "c": draws(2)}, ["y"])
    before = model.SerializeToString()
    lower(model)
    assert model.SerializeToString() == before
    assert isinstance(lower(model), onnx.ModelProto)
