"""The NumPy reference: what it drops, how it scales, and what it refuses."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_structdrop.errors import ArgumentError, ArgumentTypeError
from onnx_structdrop.reference import (
    apply,
    drop_block,
    mask_shape,
    noise_shape_dropout,
    spatial_dropout,
    structured_dropout_grad,
    uniforms_shape,
)
from onnx_structdrop.schema import DROPOUT_OPS
from onnx_structdrop.specs import (
    DropBlock1D,
    DropBlock2D,
    DropBlock3D,
    Dropout,
    DropPath,
    SpatialDropout2D,
)

PROPERTY = settings(max_examples=100, deadline=None)
TYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
NORMALIZE = {"none": 0, "batch": 1, "sample": 2}

ratios = st.one_of(st.sampled_from([0.0, 1.0, 0.1, 0.5]), st.floats(0, 1, width=32))


def random_data(rng, shape, dtype=np.float32):
    return rng.normal(size=shape).astype(dtype)


@st.composite
def drop_block_cases(draw, ratio=ratios):
    """Return data, ratio, uniforms and attributes of a small DropBlock."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    spatial_rank = draw(st.integers(1, 3))
    sizes = draw(st.tuples(*[st.integers(1, [9, 6, 4][spatial_rank - 1])] * spatial_rank))
    channel_axis = draw(st.integers(1, spatial_rank + 1))
    shape = [draw(st.integers(1, 3)), *sizes]
    shape.insert(channel_axis, draw(st.integers(1, 3)))
    shared = draw(st.lists(st.sampled_from([0, channel_axis]), unique=True))
    uniforms = rng.random([1 if axis in shared else size for axis, size in enumerate(shape)])
    attributes = {
        "block_size": draw(st.tuples(*[st.integers(1, 7)] * spatial_rank)),
        "channel_axis": draw(st.sampled_from([channel_axis, channel_axis - len(shape)])),
        "shared_axes": shared,
        "seed_region": draw(st.sampled_from(["valid", "whole"])),
        "normalize": draw(st.sampled_from(list(NORMALIZE))),
    }
    return random_data(rng, shape), draw(ratio), uniforms, attributes


def naive_drop_block_mask(shape, ratio, uniforms, attributes):
    """Return the mask, position by position and straight from the definition."""
    channel_axis = attributes["channel_axis"] % len(shape)
    axes = [axis for axis in range(1, len(shape)) if axis != channel_axis]
    sizes = [shape[axis] for axis in axes]
    block = [min(b, size) for b, size in zip(attributes["block_size"], sizes, strict=True)]
    valid = math.prod(size - b + 1 for b, size in zip(block, sizes, strict=True))
    gamma = Fraction(ratio) * math.prod(sizes) / (math.prod(block) * valid)
    mask = np.full(uniforms.shape, ratio < 1)
    for position in np.ndindex(*uniforms.shape):
        if not Fraction(uniforms[position]) < gamma:
            continue
        spans = [
            (position[axis] - b // 2, position[axis] + (b - 1) // 2)
            for axis, b in zip(axes, block, strict=True)
        ]
        fits = all(low >= 0 and high < n for (low, high), n in zip(spans, sizes, strict=True))
        if attributes["seed_region"] == "valid" and not fits:
            continue
        place = list(position)
        for axis, (low, high) in zip(axes, spans, strict=True):
            place[axis] = slice(max(low, 0), high + 1)
        mask[tuple(place)] = False
    return mask


# --- DropBlock -----------------------------------------------------------------------------------


@PROPERTY
@given(drop_block_cases())
def test_drop_block_by_definition(case):
    data, ratio, uniforms, attributes = case
    output, mask, scale = drop_block(data, ratio, uniforms, **attributes)
    expected = naive_drop_block_mask(data.shape, ratio, uniforms, attributes)
    np.testing.assert_array_equal(mask, expected)
    if attributes["normalize"] == "none":
        expected_scale = np.float32(1)
    elif attributes["normalize"] == "batch":
        expected_scale = np.float32(mask.size / max(int(mask.sum()), 1))
    else:
        rows = [np.float32(row.size / max(int(row.sum()), 1)) for row in mask]
        expected_scale = np.array(rows).reshape(-1, *[1] * (data.ndim - 1))
    assert scale.dtype == np.float32
    assert isinstance(scale, np.ndarray)
    np.testing.assert_array_equal(scale, expected_scale, strict=True)
    np.testing.assert_array_equal(
        output, np.where(mask, data * expected_scale, np.float32(0)), strict=True
    )


@PROPERTY
@given(drop_block_cases())
def test_dropped_positions_are_a_union_of_whole_blocks(case):
    data, ratio, uniforms, attributes = case
    attributes["seed_region"] = "valid"
    mask = drop_block(data, ratio, uniforms, **attributes).mask
    channel_axis = attributes["channel_axis"] % data.ndim
    axes = [axis for axis in range(1, data.ndim) if axis != channel_axis]
    for row in np.ndindex(*(mask.shape[axis] for axis in (0, channel_axis))):
        kept = mask.transpose(0, channel_axis, *axes)[row]
        block = [min(b, size) for b, size in zip(attributes["block_size"], kept.shape, strict=True)]
        corners = [range(size - b + 1) for b, size in zip(block, kept.shape, strict=True)]
        covered = np.zeros_like(kept)
        for corner in itertools.product(*corners):
            place = tuple(slice(c, c + b) for c, b in zip(corner, block, strict=True))
            if not kept[place].any():
                covered[place] = True
        np.testing.assert_array_equal(covered, ~kept)


def test_one_seed_drops_one_block():
    uniforms = np.full((1, 1, 7, 8), 0.99)
    uniforms[0, 0, 3, 4] = 0
    mask = drop_block(np.ones((1, 1, 7, 8)), 0.1, uniforms, block_size=(3, 4)).mask
    assert (~mask).nonzero()[2].tolist() == [2] * 4 + [3] * 4 + [4] * 4
    assert (~mask).nonzero()[3].tolist() == [2, 3, 4, 5] * 3


def test_seeds_where_the_block_does_not_fit():
    uniforms = np.full((1, 1, 6), 0.99)
    uniforms[..., [0, 5]] = 0
    data = np.ones((1, 1, 6))
    assert drop_block(data, 0.1, uniforms, block_size=4).mask.all()
    mask = drop_block(data, 0.1, uniforms, block_size=4, seed_region=1).mask
    assert mask.ravel().tolist() == [False, False, True, False, False, False]


@PROPERTY
@given(drop_block_cases())
def test_block_is_clipped_to_the_map(case):
    data, ratio, uniforms, attributes = case
    channel_axis = attributes["channel_axis"] % data.ndim
    spatial = [data.shape[axis] for axis in range(1, data.ndim) if axis != channel_axis]
    results = [
        drop_block(data, ratio, uniforms, **attributes | {"block_size": block})
        for block in (spatial, [size + 5 for size in spatial], max(spatial))
    ]
    for result in results[1:]:
        np.testing.assert_array_equal(result.output, results[0].output)
        np.testing.assert_array_equal(result.mask, results[0].mask)


@PROPERTY
@given(drop_block_cases())
def test_words_and_numbers_mean_the_same(case):
    data, ratio, uniforms, attributes = case
    numbers = attributes | {
        "seed_region": int(attributes["seed_region"] == "whole"),
        "normalize": NORMALIZE[attributes["normalize"]],
    }
    expected = drop_block(data, ratio, uniforms, **attributes)
    for found, value in zip(drop_block(data, ratio, uniforms, **numbers), expected, strict=True):
        np.testing.assert_array_equal(found, value)


@PROPERTY
@given(drop_block_cases(ratio=st.floats(0, 0.875, width=32)))
def test_rescaling_preserves_the_sum_of_the_mask(case):
    data, ratio, uniforms, attributes = case
    _, mask, scale = drop_block(data, ratio, uniforms, **attributes)
    if attributes["normalize"] == "batch" and mask.any():
        assert (mask * scale).sum() == pytest.approx(mask.size, rel=1e-6)
    if attributes["normalize"] == "sample":
        for row in mask * scale:
            assert row.sum() == pytest.approx(row.size if row.any() else 0, rel=1e-6)


@PROPERTY
@given(drop_block_cases())
def test_samples_do_not_depend_on_their_neighbours(case):
    data, ratio, uniforms, attributes = case
    attributes |= {
        "normalize": "sample",
        "shared_axes": [a for a in attributes["shared_axes"] if a],
    }
    uniforms = np.resize(uniforms, (data.shape[0], *uniforms.shape[1:]))
    together = drop_block(data, ratio, uniforms, **attributes)
    for sample in range(data.shape[0]):
        one = slice(sample, sample + 1)
        alone = drop_block(data[one], ratio, uniforms[one], **attributes)
        for found, value in zip(alone, together, strict=True):
            np.testing.assert_array_equal(found, value[one])


def test_count_does_not_overflow_in_float16():
    shape = (2, 4, 128, 128)
    data = np.ones(shape, np.float16)
    uniforms = np.random.default_rng(0).random(shape)
    output, mask, scale = drop_block(data, 0.1, uniforms, block_size=5)
    assert mask.sum() > 65504
    assert scale == np.float32(mask.size / mask.sum())
    assert output[mask].min() == output.max() == np.float16(scale)


def test_float32_uniforms_compare_exactly():
    # A uniform that float32 cannot tell from gamma, and that is below it.
    gammas = ((np.float32(n / 64), float(np.float32(n / 64)) * 9 / (3 * 7)) for n in range(1, 64))
    ratio, gamma = next((r, g) for r, g in gammas if float(np.float32(g)) < g)
    uniforms = np.full((1, 1, 9), gamma, np.float32)
    assert not drop_block(np.ones((1, 1, 9)), ratio, uniforms, block_size=3).mask.any()


# --- SpatialDropout and NoiseShapeDropout --------------------------------------------------------


@PROPERTY
@given(st.data())
def test_spatial_dropout_by_definition(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    shape = data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=5))
    axis = data.draw(st.integers(1, len(shape) - 1))
    ratio = data.draw(ratios)
    uniforms = rng.random((shape[0], shape[axis]))
    compact = uniforms.reshape([n if a in (0, axis) else 1 for a, n in enumerate(shape)])
    x = random_data(rng, shape)
    output, mask, scale = spatial_dropout(x, ratio, compact, channel_axis=axis)
    assert scale == pytest.approx(1 / (1 - ratio) if ratio < 1 else 1, rel=1e-6)
    for n, c in np.ndindex(*uniforms.shape):
        kept = uniforms[n, c] >= ratio and ratio < 1
        assert mask.take(n, 0).take(c, axis - 1).item() == kept
        feature_map = output[n].take(c, axis - 1)
        expected = x[n].take(c, axis - 1) * scale if kept else 0
        np.testing.assert_array_equal(feature_map, expected)
    by_end = spatial_dropout(x, ratio, compact, channel_axis=axis - len(shape))
    np.testing.assert_array_equal(by_end.output, output)


@PROPERTY
@given(st.data())
def test_noise_shape_dropout_by_definition(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=5)))
    noise_shape = data.draw(st.tuples(*[st.integers(0, 1)] * len(shape)))
    ratio = data.draw(ratios)
    scaled = data.draw(st.booleans())
    uniforms = rng.random([1 if e else n for e, n in zip(noise_shape, shape, strict=True)])
    x = random_data(rng, shape)
    output, mask, scale = noise_shape_dropout(
        x, ratio, uniforms, noise_shape=noise_shape, scale_by_keep=scaled
    )
    np.testing.assert_array_equal(mask, (uniforms >= ratio) & (ratio < 1), strict=True)
    assert scale.shape == ()
    assert scale.dtype == np.float32
    assert scale == pytest.approx(1 / (1 - ratio) if scaled and ratio < 1 else 1, rel=1e-6)
    np.testing.assert_array_equal(output, np.where(mask, x * scale, np.float32(0)), strict=True)


# --- what all operators share --------------------------------------------------------------------


SPECS = [
    SpatialDropout2D(0.4),
    SpatialDropout2D(0.4, data_format="channels_last"),
    Dropout(0.4, (None, 1, 5, 4)),
    Dropout(0.4),
    DropPath(0.4),
    DropPath(0.4, scale_by_keep=False),
    DropBlock2D(0.4, 2),
    DropBlock2D(0.4, 3, shared_axes=(1,), seed_region="whole", normalize="sample"),
    DropBlock2D(0.4, (2, 9), shared_axes=(0,), data_format="channels_last", normalize="none"),
    DropBlock2D(0.4, 2, shared_axes=(0, 1), normalize="sample"),
]
SHAPE = (6, 3, 5, 4)
each_spec = pytest.mark.parametrize("spec", SPECS, ids=str)
each_type = pytest.mark.parametrize("dtype", TYPES, ids=lambda t: np.dtype(t).name)


def prepared(spec, dtype=np.float32, shape=SHAPE, seed=0):
    rng = np.random.default_rng(seed)
    return random_data(rng, shape, dtype), rng.random(uniforms_shape(spec, shape))


def bits(array):
    return np.ascontiguousarray(array).view(np.uint8)


def special_values(spec, dtype):
    """Return data with every value that arithmetic could change."""
    data, uniforms = prepared(spec, dtype)
    data.flat[:6] = [np.nan, -np.nan, np.inf, -np.inf, -0.0, ml_dtypes.finfo(dtype).tiny / 4]
    unsigned = np.dtype(f"u{data.itemsize}")
    payload = np.array([np.nan], dtype).view(unsigned) | unsigned.type(3)
    data.view(unsigned).flat[7] = payload[0]
    return data, uniforms


@each_spec
@each_type
def test_output_has_the_type_and_shape_of_data(spec, dtype):
    data, uniforms = prepared(spec, dtype)
    before = data.copy()
    output, mask, scale = apply(spec, data, uniforms)
    assert output.dtype == data.dtype
    assert output.shape == data.shape
    assert mask.dtype == np.bool_
    assert mask.shape == uniforms.shape
    assert scale.dtype == np.float32
    assert 0 < mask.sum() < mask.size
    np.testing.assert_array_equal(bits(data), bits(before))


@each_spec
@each_type
def test_product_is_rounded_once(spec, dtype):
    data, uniforms = prepared(spec, dtype)
    output, mask, scale = apply(spec, data, uniforms)
    product = data.astype(np.float64) * scale.astype(np.float64)
    if dtype != np.float64:
        product = product.astype(np.float32)
    np.testing.assert_array_equal(output, np.where(mask, product, 0).astype(dtype))


@each_spec
@each_type
@pytest.mark.parametrize("how", ["ratio", "mode"])
def test_identity_bit_for_bit(spec, dtype, how):
    data, uniforms = special_values(spec, dtype)
    if how == "ratio":
        output, mask, scale = apply(spec, data, uniforms, ratio=0.0)
    else:
        output, mask, scale = apply(spec, data, None, training_mode=False)
    assert output is not data
    np.testing.assert_array_equal(bits(output), bits(data))
    assert mask.shape == uniforms.shape
    assert mask.all()
    np.testing.assert_array_equal(scale, np.ones_like(scale))
    assert scale.shape == apply(spec, data, uniforms).scale.shape


@each_spec
@each_type
def test_ratio_one_drops_everything(spec, dtype):
    data, uniforms = special_values(spec, dtype)
    for some in (uniforms, np.ones_like(uniforms)):
        output, mask, scale = apply(spec, data, some, ratio=1.0)
        assert not mask.any()
        assert np.isfinite(scale).all()
        np.testing.assert_array_equal(output, np.zeros(SHAPE, dtype), strict=True)


@each_spec
@each_type
def test_dropped_nan_and_infinity_become_zero(spec, dtype):
    data, uniforms = prepared(spec, dtype)
    mask = np.broadcast_to(apply(spec, data, uniforms).mask, SHAPE)
    for value in (np.nan, np.inf, -np.inf):
        output = apply(spec, np.full(SHAPE, value, dtype), uniforms).output
        assert (output[~mask] == 0).all()
        np.testing.assert_array_equal(output[mask].astype(np.float64), np.full(mask.sum(), value))


@each_spec
@each_type
def test_gradient_is_the_forward_of_the_gradient(spec, dtype):
    data, uniforms = prepared(spec, dtype)
    output, mask, scale = apply(spec, data, uniforms)
    np.testing.assert_array_equal(structured_dropout_grad(data, mask, scale), output, strict=True)
    _, mask, scale = apply(spec, data, None, training_mode=False)
    np.testing.assert_array_equal(structured_dropout_grad(data, mask, scale), data, strict=True)


@each_spec
@pytest.mark.parametrize("empty", range(4))
def test_empty_data(spec, empty):
    if isinstance(spec, Dropout) and spec.noise_shape:
        spec = Dropout(0.4, (None, 1, None, None))
    shape = tuple(0 if axis == empty else size for axis, size in enumerate(SHAPE))
    uniforms = np.random.default_rng(0).random(uniforms_shape(spec, shape))
    for ratio in (0.0, 0.5, 1.0):
        output, mask, scale = apply(spec, np.ones(shape, np.float16), uniforms, ratio=ratio)
        assert output.shape == shape
        assert output.dtype == np.float16
        assert mask.shape == uniforms.shape
        assert np.isfinite(scale).all()
    apply(spec, np.ones(shape, np.float16), None, training_mode=False)


def test_channels_last_is_a_transposition():
    rng = np.random.default_rng(0)
    data = random_data(rng, (2, 3, 5, 6))
    for arguments in ({}, {"shared_axes": (1,)}, {"normalize": "sample", "seed_region": "whole"}):
        first = DropBlock2D(0.3, (2, 3), **arguments)
        if "shared_axes" in arguments:
            arguments["shared_axes"] = (3,)
        last = DropBlock2D(0.3, (2, 3), data_format="channels_last", **arguments)
        uniforms = rng.random(uniforms_shape(first, data.shape))
        expected = apply(first, data, uniforms).output
        found = apply(last, data.transpose(0, 2, 3, 1), uniforms.transpose(0, 2, 3, 1)).output
        np.testing.assert_array_equal(found.transpose(0, 3, 1, 2), expected)


def test_one_dimensional_blocks_are_flat_two_dimensional_ones():
    rng = np.random.default_rng(0)
    data, uniforms = random_data(rng, (2, 3, 20)), rng.random((2, 3, 20))
    line = apply(DropBlock1D(0.3, 4), data, uniforms).output
    plane = apply(DropBlock2D(0.3, (1, 4)), data[:, :, None], uniforms[:, :, None]).output
    volume = apply(DropBlock3D(0.3, (4, 1, 1)), data[..., None, None], uniforms[..., None, None])
    np.testing.assert_array_equal(plane[:, :, 0], line)
    np.testing.assert_array_equal(volume.output[..., 0, 0], line)


def test_a_uniform_equal_to_the_ratio_is_kept():
    data, uniforms = np.ones((1, 2, 3)), np.full((1, 2, 1), 0.25)
    assert spatial_dropout(data, 0.25, uniforms).mask.all()
    assert noise_shape_dropout(data, 0.25, uniforms, noise_shape=(0, 0, 1)).mask.all()
    # With blocks of one position, gamma is the ratio.
    assert drop_block(data, 0.25, np.full((1, 2, 3), 0.25), block_size=1).mask.all()


def test_ratio_is_the_float32_that_a_node_receives():
    data, uniforms = np.ones((1, 2)), np.full((1, 2), 0.1)
    assert float(np.float32(0.1)) > 0.1
    assert not spatial_dropout(data, 0.1, uniforms).mask.any()
    assert not spatial_dropout(data, 1 - 1e-12, np.ones((1, 2))).mask.any()
    for ratio in (np.float32(0.1), np.array(0.1), np.array([0.1], np.float32)):
        assert not spatial_dropout(data, ratio, uniforms).mask.any()


@pytest.mark.parametrize(
    ("spec", "shape", "expected"),
    [
        (SpatialDropout2D(0.1), (2, 3, 4, 5), (2, 3, 1, 1)),
        (SpatialDropout2D(0.1, data_format="channels_last"), (2, 3, 4, 5), (2, 1, 1, 5)),
        (Dropout(0.1, (4, 1)), (2, 3, 4, 5), (1, 1, 4, 1)),
        (DropPath(0.1), (2, 3), (2, 1)),
        (DropBlock2D(0.1), (2, 3, 4, 5), (2, 3, 4, 5)),
        (DropBlock2D(0.1, shared_axes=(0, 1)), (2, 3, 4, 5), (1, 1, 4, 5)),
    ],
)
def test_uniforms_shape(spec, shape, expected):
    assert uniforms_shape(spec, shape) == expected
    assert mask_shape(spec.op_type, shape, spec.node_attributes(len(shape), shape)) == expected


# --- errors --------------------------------------------------------------------------------------

DATA = np.ones((2, 3, 4, 5), np.float32)
COMPACT = np.full((2, 3, 1, 1), 0.5)
FULL = np.full((2, 3, 4, 5), 0.5)
CALLS = {
    "SpatialDropout": lambda ratio=0.5, data=DATA, uniforms=COMPACT, **attributes: spatial_dropout(
        data, ratio, uniforms, **attributes
    ),
    "NoiseShapeDropout": lambda ratio=0.5, data=DATA, uniforms=COMPACT, **attributes: (
        noise_shape_dropout(data, ratio, uniforms, **{"noise_shape": (0, 0, 1, 1), **attributes})
    ),
    "DropBlock": lambda ratio=0.5, data=DATA, uniforms=FULL, **attributes: drop_block(
        data, ratio, uniforms, **{"block_size": 3, **attributes}
    ),
}


@pytest.mark.parametrize("op", DROPOUT_OPS)
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"ratio": math.nan}, ArgumentError, "ratio is nan; allowed is a number from 0 to 1"),
        ({"ratio": -0.1}, ArgumentError, r"ratio is -0\.1; allowed is a number from 0 to 1"),
        ({"ratio": 1.5}, ArgumentError, r"ratio is 1\.5; allowed is a number from 0 to 1"),
        ({"ratio": 1.5, "training_mode": False}, ArgumentError, "ratio is 1.5"),
        ({"ratio": "0.5"}, ArgumentTypeError, "ratio is '0.5'"),
        ({"ratio": np.array([0.5, 0.5])}, ArgumentTypeError, "ratio is array"),
        ({"data": DATA.astype(int)}, ArgumentTypeError, "data has type int64; allowed is one of"),
        ({"data": np.float32(1)}, ArgumentError, "data has rank 0; rank . or more is needed"),
        ({"uniforms": None}, ArgumentTypeError, "uniforms of shape .* are needed"),
        ({"uniforms": np.ones((2, 3))}, ArgumentError, r"uniforms have shape \(2, 3\); shape"),
        ({"uniforms": COMPACT[:1]}, ArgumentError, r"uniforms have shape \(1, 3, 1, 1\)"),
        ({"uniforms": COMPACT.astype(int)}, ArgumentTypeError, "uniforms have type int64"),
    ],
)
def test_bad_common_arguments(op, arguments, error, message):
    with pytest.raises(error, match=f"^{op}: {message}"):
        CALLS[op](**arguments)


@pytest.mark.parametrize("op", DROPOUT_OPS)
@pytest.mark.parametrize("value", [math.nan, -0.1, 1.1])
def test_bad_uniform(op, value):
    uniforms = FULL.copy() if op == "DropBlock" else COMPACT.copy()
    uniforms.flat[2] = value
    with pytest.raises(ArgumentError, match=f"^{op}: uniforms hold values outside"):
        CALLS[op](uniforms=uniforms)


@pytest.mark.parametrize(
    ("op", "arguments", "error", "message"),
    [
        *(
            (op, {"channel_axis": axis}, ArgumentError, f"channel_axis is {axis}; allowed")
            for op in ("SpatialDropout", "DropBlock")
            for axis in (0, 4, -4, -5)
        ),
        ("SpatialDropout", {"channel_axis": 1.0}, ArgumentTypeError, "channel_axis is 1.0"),
        ("SpatialDropout", {"data": DATA[0, 0, 0]}, ArgumentError, "data has rank 1; rank 2"),
        ("DropBlock", {"data": DATA[0, 0]}, ArgumentError, "data has rank 2; rank 3"),
        ("DropBlock", {"block_size": 0}, ArgumentError, "block_size is 0; allowed is an integer"),
        ("DropBlock", {"block_size": (3, -1)}, ArgumentError, "block_size is -1"),
        ("DropBlock", {"block_size": (3, 3, 3)}, ArgumentError, "block_size .* has 3 entries"),
        ("DropBlock", {"block_size": 3.0}, ArgumentTypeError, "block_size is 3.0"),
        ("DropBlock", {"shared_axes": (2,)}, ArgumentError, "shared axis 2 is a spatial axis"),
        ("DropBlock", {"shared_axes": (9,)}, ArgumentError, "shared axis 9 is outside data"),
        ("DropBlock", {"seed_region": 2}, ArgumentError, r"seed_region is 2; allowed .* 1 \(whol"),
        ("DropBlock", {"seed_region": "x"}, ArgumentError, "seed_region is 'x'; allowed"),
        ("DropBlock", {"normalize": 3}, ArgumentError, r"normalize is 3; allowed .* 2 \(sample"),
        ("DropBlock", {"normalize": None}, ArgumentTypeError, "normalize is None"),
        ("NoiseShapeDropout", {"noise_shape": (0, 1)}, ArgumentError, "has 2 entries; data has"),
        ("NoiseShapeDropout", {"noise_shape": (0, 0, 4, 1)}, ArgumentError, "entry is 4; allowed"),
        ("NoiseShapeDropout", {"noise_shape": (0, 0, -1, 1)}, ArgumentError, "entry is -1"),
        ("NoiseShapeDropout", {"noise_shape": 1}, ArgumentTypeError, "noise_shape is 1"),
        ("NoiseShapeDropout", {"noise_shape": (None,) * 4}, ArgumentTypeError, "entry is None"),
    ],
)
def test_bad_attributes(op, arguments, error, message):
    with pytest.raises(error, match=f"^{op}: .*{message}"):
        CALLS[op](**arguments)


def test_block_size_of_one_entry_serves_all_axes():
    found = drop_block(DATA, 0.5, FULL * 0.1, block_size=[2])
    expected = drop_block(DATA, 0.5, FULL * 0.1, block_size=(2, 2))
    np.testing.assert_array_equal(found.output, expected.output)


@pytest.mark.parametrize(
    ("mask", "scale", "error", "message"),
    [
        (np.ones((2, 3, 1, 1)), np.float32(1), ArgumentTypeError, "mask has type float64"),
        (np.ones((2, 3, 1, 1), bool), np.float64(1), ArgumentTypeError, "scale has type float64"),
        (np.ones((2, 3), bool), np.float32(1), ArgumentError, r"mask has shape \(2, 3\), which"),
        (np.ones((2, 2, 1, 1), bool), np.float32(1), ArgumentError, "does not broadcast"),
        (np.True_, np.float32(1), ArgumentError, r"mask has shape \(\)"),
        (np.ones((2, 3, 1, 1), bool), np.ones(2, np.float32), ArgumentError, "scale has shape"),
    ],
)
def test_bad_gradient_arguments(mask, scale, error, message):
    with pytest.raises(error, match=f"^StructuredDropoutGrad: .*{message}"):
        structured_dropout_grad(DATA, mask, scale)


def test_apply_checks_the_shape():
    with pytest.raises(ArgumentError, match="SpatialDropout2D: data has rank 3; rank 4 is needed"):
        apply(SpatialDropout2D(0.1), DATA[0], COMPACT)
    with pytest.raises(ArgumentError, match="'Dropout' is not a dropout operator"):
        mask_shape("Dropout", (2, 3), {})
