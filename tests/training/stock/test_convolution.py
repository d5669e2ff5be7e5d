"""Gradients of convolutions against sums over taps in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from one_operator import close, lowered_result

from onnx_structdrop.training.lowering import bands, maps, weights
from onnx_structdrop.training.lowering.geometry import Geometry


@st.composite
def convolutions(draw, *, alone=False):
    rank = draw(st.integers(1, 3))
    group = draw(st.integers(1, 3))
    inputs = group * (1 if alone else draw(st.integers(1, 3)))
    outputs = group * (1 if alone else draw(st.integers(1, 3)))
    per_axis = st.tuples(*[st.integers(1, 3)] * rank)
    kernel, strides, dilations = draw(per_axis), draw(per_axis), draw(per_axis)
    pads = draw(st.tuples(*[st.integers(0, 2)] * (2 * rank)))
    spatial = []
    for axis in range(rank):
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        least = max(reach - pads[axis] - pads[axis + rank], 1)
        spatial.append(draw(st.integers(least, least + 5)))
    return {
        "image": (draw(st.integers(1, 3)), inputs, *spatial),
        "weights": (outputs, inputs // group, *kernel),
        "strides": strides,
        "dilations": dilations,
        "pads": pads,
        "group": group,
    }


def taps(case):
    """Yield each tap with what of the padded map lies under it, as an index."""
    kernel, rank = case["weights"][2:], len(case["strides"])
    counts = windows(case)
    for tap in itertools.product(*map(range, kernel)):
        index = [slice(None), slice(None)]
        for axis in range(rank):
            start = tap[axis] * case["dilations"][axis]
            stride = case["strides"][axis]
            index.append(slice(start, start + (counts[axis] - 1) * stride + 1, stride))
        yield (slice(None), slice(None), *tap), tuple(index)


def windows(case):
    rank = len(case["strides"])
    counts = []
    for axis, size in enumerate(case["image"][2:]):
        reach = case["dilations"][axis] * (case["weights"][2 + axis] - 1) + 1
        padded = size + case["pads"][axis] + case["pads"][axis + rank]
        counts.append((padded - reach) // case["strides"][axis] + 1)
    return tuple(counts)


def expected(case, grad, image, kernel):
    """Return the gradients of map, weights and bias in float64."""
    rank, group = len(case["strides"]), case["group"]
    before, after = case["pads"][:rank], case["pads"][rank:]
    widths = [(0, 0), (0, 0), *zip(before, after, strict=True)]
    padded = np.pad(image.astype(np.float64), widths)
    grad, kernel = grad.astype(np.float64), kernel.astype(np.float64)
    image_grad, kernel_grad = np.zeros_like(padded), np.zeros_like(kernel)
    batch, outputs, inputs = len(image), kernel.shape[0] // group, kernel.shape[1]
    rows = grad.reshape(batch, group, outputs, -1)
    for tap, index in taps(case):
        under = padded[index]
        columns = under.reshape(batch, group, inputs, -1)
        kernel_grad[tap] = np.einsum("ngop,ngip->goi", rows, columns).reshape(-1, inputs)
        back = np.einsum("ngop,goi->ngip", rows, kernel[tap].reshape(group, outputs, inputs))
        image_grad[index] += back.reshape(under.shape)
    inside = tuple(
        slice(start, start + size)
        for start, size in zip((0, 0, *before), case["image"], strict=True)
    )
    return image_grad[inside], kernel_grad, grad.sum((0, *range(2, rank + 2)))


def arrays(case, seed=0):
    random = np.random.default_rng(seed)
    shapes = {
        "dY": (case["image"][0], case["weights"][0], *windows(case)),
        "X": case["image"],
        "W": case["weights"],
    }
    return {name: random.standard_normal(s).astype(np.float32) for name, s in shapes.items()}


def attributes(case):
    return {name: case[name] for name in ("strides", "dilations", "pads", "group")}


@given(convolutions())
@settings(max_examples=60)
def test_every_shape(case):
    given_ = arrays(case)
    found = lowered_result("ConvGrad", given_, ["dX", "dW", "dB"], **attributes(case))
    for actual, wanted in zip(found, expected(case, *given_.values()), strict=True):
        close(actual, wanted)


def geometry_of(case):
    rank = len(case["strides"])
    return Geometry(
        kernel=case["weights"][2:],
        strides=case["strides"],
        dilations=case["dilations"],
        begin=case["pads"][:rank],
        end=case["pads"][rank:],
        group=case["group"],
    )


def one_group(case):
    case["group"] = 1
    case["weights"] = (case["weights"][0], case["image"][1], *case["weights"][2:])


@pytest.mark.parametrize("form", weights.FORMS)
@given(data=st.data())
@settings(max_examples=25)
def test_every_form_of_the_weight_gradient(form, data):
    case = data.draw(convolutions(alone=form == "bands"))
    if form in ("columns", "images", "convolution"):
        one_group(case)
    given_ = arrays(case)
    with pytest.MonkeyPatch.context() as patch:
        if form == "bands":  # one axis or two in a product, one tile or several
            patch.setattr(bands, "_PAIRS", data.draw(st.sampled_from([0, bands._PAIRS])))
            patch.setattr(bands, "_TILE", data.draw(st.sampled_from([1, 2, bands._TILE])))
            sizes = case["image"][2:], windows(case)
            assume(bands.has_bands(geometry_of(case), *sizes))
        patch.setattr(weights, "choose_form", lambda *_: form)
        (found,) = lowered_result("ConvGrad", given_, ["", "dW"], **attributes(case))
    close(found, expected(case, *given_.values())[1])


@pytest.mark.parametrize("form", maps.FORMS)
@given(data=st.data())
@settings(max_examples=25)
def test_every_form_of_the_map_gradient(form, data):
    case = data.draw(convolutions())
    if form == "columns":
        one_group(case)
    if form == "convolution":
        case["strides"] = (1,) * len(case["strides"])
        reach = np.multiply(case["dilations"], np.subtract(case["weights"][2:], 1)).tolist()
        case["pads"] = tuple(map(min, case["pads"], reach * 2))
        assume(min(windows(case)) > 0)
    given_ = arrays(case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maps, "choose_form", lambda *_: form)
        (found,) = lowered_result("ConvGrad", given_, ["dX"], **attributes(case))
    close(found, expected(case, *given_.values())[0])


@pytest.mark.parametrize(
    "size",
    [
        (64, 64, 3, 4),
        (64, 64, 3, 9),
        (128, 128, 3, 4),
        (130, 128, 1, 2),
        (130, 128, 1, 4),
        (3, 16, 7, 12),
        (6, 6, 3, 9),
    ],
)
@pytest.mark.parametrize("stride", [1, 2])
def test_sizes_that_choose_other_forms(size, stride):
    inputs, outputs, kernel, side = size
    case = {
        "image": (2, inputs, side, side),
        "weights": (outputs, inputs, kernel, kernel),
        "strides": (stride, stride),
        "dilations": (1, 1),
        "pads": (kernel // 2,) * 4,
        "group": 1,
    }
    given_ = arrays(case)
    found = lowered_result("ConvGrad", given_, ["dX", "dW", "dB"], **attributes(case))
    for actual, wanted in zip(found, expected(case, *given_.values()), strict=True):
        close(actual, wanted, 4e-6)


@given(convolutions())
@settings(max_examples=25)
def test_transposed(case):
    # A transposed convolution turns dY into X, so map and gradient change places.
    given_ = arrays(case)
    image_grad, kernel_grad, _ = expected(case, *given_.values())
    turned = {"dY": given_["X"], "X": given_["dY"], "W": given_["W"]}
    details = {**attributes(case), "kernel_shape": case["weights"][2:]}
    found = lowered_result("ConvTransposeGrad", turned, ["dX", "dW", "dB"], **details)
    close(found[1], kernel_grad)
    axes = (0, *range(2, given_["X"].ndim))
    close(found[2], given_["X"].sum(axes, dtype=np.float64))
    # <conv(X), G> = <X, conv_transposed(G)> ties the two together
    left = (found[0].astype(np.float64) * given_["dY"]).sum()
    right = (image_grad * given_["X"]).sum()
    assert left == pytest.approx(right, rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("stride", [1, 2])
def test_automatic_padding(mode, stride):
    size, kernel = 7, 4
    total = 0
    if mode != "VALID":
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    first = total // 2 if mode == "SAME_UPPER" else total - total // 2
    case = {
        "image": (2, 3, size),
        "weights": (2, 3, kernel),
        "strides": (stride,),
        "dilations": (1,),
        "pads": (first, total - first),
        "group": 1,
    }
    given_ = arrays(case)
    found = lowered_result("ConvGrad", given_, ["dX", "dW", "dB"], strides=[stride], auto_pad=mode)
    for actual, wanted in zip(found, expected(case, *given_.values()), strict=True):
        close(actual, wanted)
