"""Strides and channel axes: carried through operators, with known, free and no shapes."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nets import Net

from onnx_structdrop.graph.sites import Site, find_sites
from onnx_structdrop.graph.topology.layout import Axis, Layout, Role, merge, ratio, regroup

BATCH, CHANNEL, POINT, MIXED = (
    Axis(role) for role in (Role.BATCH, Role.CHANNEL, Role.POINT, Role.MIXED)
)


def spatial(stride) -> Axis:
    return Axis(Role.SPATIAL, None if stride is None else Fraction(stride))


def last(net: Net, x: str) -> Site:
    """Return the site of a convolution block behind a value."""
    return find_sites(net.model(net.relu(net.conv(x, 4))))[-1]


SHAPES = {
    "static": (2, 3, 64, 64),
    "free": ("N", 3, "H", "W"),
    "unknown sizes": (None, 3, None, None),
    "odd": (1, 3, 299, 299),
    "no rank": None,
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_cumulative_stride_of_convolutions_and_pools(shape):
    net = Net(shape)
    net.channels["x"] = 3
    x = net.cbr("x", 8, 7, 2)
    x = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2])
    x = net.cbr(x, 16, 3, 2)
    strides = [site.stride for site in find_sites(net.model(x))]
    assert strides == [2, 8]


@pytest.mark.parametrize("shape", [SHAPES["static"], SHAPES["free"]], ids=["static", "free"])
def test_every_way_up(shape):
    ways = {
        "ConvTranspose": lambda net, x: net.up(x, 8),
        "Resize by scales": lambda net, x: net.op("Resize", x, "", net.const([1, 1, 2, 2])),
        "Resize by axes": lambda net, x: net.op("Resize", x, "", net.const([2, 2]), axes=[2, 3]),
        "DepthToSpace": lambda net, x: net.op("DepthToSpace", x, blocksize=2),
        "Upsample": lambda net, x: net.op("Upsample", x, net.const([1, 1, 2, 2])),
    }
    for name, way in ways.items():
        net = Net(shape, opset=9 if name == "Upsample" else 18)
        x = way(net, net.cbr(net.pool("x"), 16))
        net.channels[x] = {"DepthToSpace": 4, "ConvTranspose": 8}.get(name, 16)
        assert last(net, x).stride == 1, name


def test_resize_to_a_size():
    net = Net((1, 3, 30, 30))
    x = net.cbr("x", 8, 3, 2)
    assert last(net, net.op("Resize", x, "", "", net.const([1, 8, 29, 29], np.int64))).stride == 1


def test_resize_to_the_size_of_another_map():
    net = Net(("N", 3, "H", "W"))
    skip = net.cbr("x", 8, 3, 2)
    deep = net.cbr(skip, 8, 3, 2)

    def sizes(value, start, stop):
        limits = (net.const([start], np.int64), net.const([stop], np.int64))
        return net.op("Slice", net.op("Shape", value), *limits)

    target = net.op("Concat", sizes(deep, 0, 2), sizes(skip, 2, 4), axis=0)
    assert last(net, net.op("Resize", deep, "", "", target)).stride == 2


def test_merging_a_map_of_unknown_stride_with_a_known_one():
    net = Net(("N", 3, "H", "W"))
    skip = net.cbr("x", 8, 3, 2)
    lost = net.op("Resize", net.cbr(skip, 8, 3, 2), "", "", net.op("Identity", "sizes"))
    net.inputs.append(onnx.helper.make_tensor_value_info("sizes", onnx.TensorProto.INT64, [4]))
    assert last(net, lost).stride is None
    assert last(net, net.op("Concat", lost, skip, axis=1)).stride == 2


def test_strides_of_each_direction_are_kept_apart():
    net = Net((1, 3, 8, 32, 32))
    weight = net.const(np.zeros((4, 3, 3, 3, 3)))
    x = net.op("Conv", "x", weight, strides=[1, 2, 2], pads=[1] * 6)
    net.channels[x] = 4
    x = net.op("MaxPool", net.relu(x), kernel_shape=[2, 1, 1], strides=[2, 1, 1])
    sites = find_sites(net.model(net.relu(net.conv(x, 4, rank=3))))
    assert [site.stride for site in sites] == [2, 2]
    assert [site.stage for site in sites] == [1, 2]  # the same largest stride, but a coarser map


def test_enlarged_maps_have_strides_below_one():
    net = Net()
    x = net.op("Resize", "x", "", net.const([1, 1, 2, 2]))
    assert last(net, x).stride == 0.5


def test_valid_padding_is_no_stride():
    net = Net((1, 3, 28, 28))
    x = net.op("Conv", "x", net.const(np.zeros((4, 3, 5, 5))))
    net.channels[x] = 4
    assert last(net, net.relu(x)).stride == 1


def test_space_to_depth_in_three_ways():
    net = Net((1, 3, 32, 32))
    slices = []
    for row in (0, 1):
        for column in (0, 1):
            starts = net.const([row, column], np.int64)
            ends, axes, steps = (net.const(v, np.int64) for v in ([32, 32], [2, 3], [2, 2]))
            slices.append(net.op("Slice", "x", starts, ends, axes, steps))
    assert last(net, net.op("Concat", *slices, axis=1)).stride == 2

    net = Net((1, 3, 32, 32))
    x = net.op("SpaceToDepth", "x", blocksize=2)
    net.channels[x] = 12
    assert last(net, x).stride == 2

    net = Net((1, 3, 32, 32))
    x = net.conv("x", 4)
    x = net.op("Reshape", x, net.const([1, 4, 16, 2, 16, 2], np.int64))
    x = net.op("Transpose", x, perm=[0, 1, 3, 5, 2, 4])
    x = net.op("Reshape", x, net.const([1, 16, 16, 16], np.int64))
    net.channels[x] = 16
    site = last(net, x)
    assert (site.stride, site.channel_axis) == (2, 1)


@pytest.mark.parametrize("batch", [2, "N"])
def test_channel_shuffle(batch):
    net = Net((batch, 3, 32, 32))
    x = net.cbr("x", 8, 3, 2)
    y = net.op("Reshape", x, net.const([0, 2, 4, 16, 16], np.int64))
    y = net.op("Transpose", y, perm=[0, 2, 1, 3, 4])
    y = net.op("Reshape", y, net.const([-1, 8, 16, 16], np.int64))
    net.channels[y] = 8
    site = last(net, y)
    assert (site.stride, site.channel_axis) == (2, 1)


def test_flattened_attention_gives_its_map_back():
    net = Net(("N", 3, 32, 32))
    x = net.cbr("x", 8, 3, 2)
    tokens = net.op("Reshape", x, net.const([0, 8, -1], np.int64))
    tokens = net.op("Softmax", tokens)
    back = net.op("Reshape", tokens, net.const([0, 8, 16, 16], np.int64))
    net.channels[back] = 8
    assert last(net, back).stride == 2


def test_lost_strides_come_back_from_sizes():
    net = Net((1, 3, 32, 32))
    x = net.cbr("x", 8, 3, 2)
    x = net.op("Einsum", x, equation="nchw->nchw")
    net.channels[x] = 8
    assert last(net, x).stride == 2


def test_operators_of_other_domains_are_taken_for_elementwise():
    net = Net(("N", 3, "H", "W"))
    x = net.op("Mystery", net.cbr("x", 8, 3, 2), domain="acme")
    net.channels[x] = 8
    model = net.model(net.relu(net.conv(x, 4)))
    model.opset_import.append(onnx.helper.make_opsetid("acme", 1))
    site = find_sites(model)[-1]
    assert (site.stride, site.kind) == (2, "activation")


def test_generated_maps_from_a_vector():
    net = Net(("N", 16))
    x = net.op("Gemm", "x", net.const(np.zeros((16, 128))))
    x = net.op("Reshape", x, net.const([-1, 8, 4, 4], np.int64))
    net.channels[x] = 8
    site = last(net, x)
    assert (site.kind, site.channel_axis, site.shape[1:]) == ("activation", 1, (4, 4, 4))


def test_names_that_inference_invents_are_no_sizes():
    net = Net(("N", 3, 64, 64))
    x = net.op("Conv", "x", net.const(np.zeros((4, 3, 3, 3))), auto_pad="SAME_UPPER")
    x = net.op("NonZero", x)
    x = net.op("Resize", "x", "", net.const([1, 1, 2, 2]))
    net.channels[x] = 3
    assert all(dim is None or dim == "N" or dim in (4, 128) for dim in last(net, x).shape)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (299, 149, 2),
        (7, 4, 2),
        (5, 3, 2),
        (28, 26, 1),
        (15, 30, Fraction(1, 2)),
        (7, 13, Fraction(1, 2)),
        ("H", 4, None),
        (4, None, None),
        (0, 4, None),
    ],
)
def test_ratio_of_sizes(before, after, expected):
    assert ratio(before, after) == expected


@given(st.integers(1, 4096), st.integers(1, 8))
def test_ratio_recovers_every_stride(size, stride):
    smallest = -(-size // stride)
    # On smaller maps rounding hides the stride: 97 to 13 may be one of 8, padded, or of 7.
    if smallest >= 2 * (stride - 1):
        assert ratio(size, smallest) == stride


def test_ratio_of_a_map_too_small_to_tell():
    assert ratio(97, 13) == 7


NCHW = Layout((BATCH, CHANNEL, spatial(2), spatial(2)))


@pytest.mark.parametrize(
    ("before", "after", "axes"),
    [
        ((2, 8, 4, 6), (2, 8, 4, 6), (BATCH, CHANNEL, spatial(2), spatial(2))),
        (("N", 8, 4, 6), (None, 8, 4, 6), (BATCH, CHANNEL, spatial(2), spatial(2))),
        ((2, 8, 4, 6), (2, 2, 4, 4, 6), (BATCH, CHANNEL, CHANNEL, spatial(2), spatial(2))),
        (("N", 8, "H", 6), ("N", 2, 4, "H", 6), (BATCH, CHANNEL, CHANNEL, spatial(2), spatial(2))),
        ((2, 8, 4, 6), (2, 8, 24), (BATCH, CHANNEL, MIXED)),
        ((2, 8, 4, 6), (2, 1, 8, 4, 6), (BATCH, POINT, CHANNEL, spatial(2), spatial(2))),
        ((2, 8, 4, 6), (16, 4, 6), (MIXED, spatial(2), spatial(2))),
        ((2, 8, 4, 6), (2, 8, 2, 2, 6), (BATCH, CHANNEL, spatial(4), MIXED, spatial(2))),
        ((2, 8, None, 6), (2, 8, None, 6), (BATCH, CHANNEL, spatial(2), spatial(2))),
        ((2, 8, None, 6), (2, None, 6), (BATCH, MIXED, spatial(2))),
    ],
)
def test_regrouping_axes(before, after, axes):
    assert regroup(NCHW, before, after).axes == axes


@given(
    st.lists(st.integers(1, 6) | st.sampled_from(["N", None]), min_size=1, max_size=6),
    st.lists(st.integers(0, 12) | st.sampled_from(["N", None]), max_size=6),
)
def test_regrouping_always_gives_the_new_rank(before, after):
    roles = [BATCH, CHANNEL, spatial(1), spatial(2), MIXED, POINT]
    layout = regroup(Layout(tuple(roles[: len(before)])), tuple(before), tuple(after))
    assert len(layout.axes) == len(after)


def test_merging_prefers_what_is_known():
    unknown = Layout((Axis(Role.OPEN), POINT, spatial(None), POINT))
    assert merge([unknown, NCHW]) == NCHW
    assert merge([Layout((CHANNEL, POINT, POINT)), NCHW]) == NCHW
    assert merge([]) is None


def test_coarseness_counts_all_directions():
    layout = Layout((BATCH, CHANNEL, spatial(2), spatial(8)))
    assert (layout.stride, layout.coarseness, layout.channel_axis) == (8, 16, 1)
    assert Layout((BATCH, CHANNEL, spatial(2), spatial(None))).stride is None


@pytest.mark.parametrize("batch", [2, "N"])
@pytest.mark.parametrize("order", ["channels_first", "channels_last"])
def test_tokens_that_become_a_map_again(batch, order):
    net = Net((batch, 3, "H", "W"))
    x = net.cbr("x", 8, 3, 2)

    def size(axis):
        number = net.op("Gather", net.op("Shape", x), net.const(axis, np.int64), axis=0)
        return net.op("Unsqueeze", number, net.const([0], np.int64))

    tokens = net.op("Reshape", x, net.const([0, 8, -1], np.int64))
    hidden = net.op("Transpose", tokens, perm=[0, 2, 1])
    # Attention: the layout of its result cannot be told.
    hidden = net.op("MatMul", net.op("Softmax", net.op("MatMul", hidden, tokens)), hidden)
    if order == "channels_last":
        target = net.op("Concat", size(0), size(2), size(3), net.const([8], np.int64), axis=0)
        back = net.op("Reshape", hidden, target)
        back = net.op("Transpose", back, perm=[0, 3, 1, 2])
    else:
        target = net.op("Concat", size(0), net.const([8], np.int64), size(2), size(3), axis=0)
        back = net.op("Reshape", net.op("Transpose", hidden, perm=[0, 2, 1]), target)
    net.channels[back] = 8
    site = last(net, back)
    assert (site.stride, site.channel_axis) == (2, 1)


@pytest.mark.parametrize("known", [True, False], ids=["sizes", "sizes at run time"])
def test_space_to_depth_of_the_input(known):
    net = Net(("N", 3, 64, 64))
    net.channels["x"] = 3
    if known:
        cut, joined = [0, 3, 16, 4, 16, 4], [0, 48, 16, 16]
        y = net.op("Reshape", "x", net.const(cut, np.int64))
    else:
        shape = net.op("Shape", "x")
        four = net.const([4], np.int64)

        def blocks(axis):
            number = net.op("Gather", shape, net.const([axis], np.int64), axis=0)
            return net.op("Div", net.op("Add", number, net.op("Mul", number, four)), four)

        first = net.op("Gather", shape, net.const([0], np.int64), axis=0)
        three = net.const([3], np.int64)
        target = net.op("Concat", first, three, blocks(2), four, blocks(3), four, axis=0)
        y = net.op("Reshape", "x", target)
    y = net.op("Transpose", y, perm=[0, 3, 5, 1, 2, 4])
    if known:
        y = net.op("Reshape", y, net.const(joined, np.int64))
    else:
        deep = net.const([48], np.int64)
        y = net.op("Reshape", y, net.op("Concat", first, deep, blocks(2), blocks(3), axis=0))
    net.channels[y] = 48
    assert last(net, y).stride == 4


def test_filter_over_many_channels_does_not_run_along_them():
    net = Net()
    x = net.op("Transpose", net.cbr("x", 8), perm=[0, 2, 3, 1])  # then taken for channels first
    net.channels[x] = 64
    site = last(net, x)
    assert site.channel_axis == 1


@pytest.mark.parametrize("op_type", ["AveragePool", "MaxPool"])
def test_pool_over_the_whole_map_leaves_a_point(op_type):
    net = Net(("N", 3, 16, 16))
    x = net.cbr("x", 8)
    pooled = net.op(op_type, x, kernel_shape=[16, 16], strides=[16, 16])
    logits = net.conv(net.relu(net.conv(pooled, 4, 1)), 8, 1)
    assert [site.value for site in find_sites(net.model(logits))] == [x]
