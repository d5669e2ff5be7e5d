"""Specifications: arguments, node attributes, configurations, presets and realised rates."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_structdrop.errors import ArgumentError, ArgumentTypeError
from onnx_structdrop.reference import apply, uniforms_shape
from onnx_structdrop.schema import OPERATORS, Normalize, SeedRegion
from onnx_structdrop.specs import (
    SPECS,
    DropBlock1D,
    DropBlock2D,
    DropBlock3D,
    Dropout,
    DropoutSpec,
    DropPath,
    SpatialDropout1D,
    SpatialDropout2D,
    SpatialDropout3D,
    spec_from_config,
)

PROPERTY = settings(max_examples=60, deadline=None)
SPATIAL = (SpatialDropout1D, SpatialDropout2D, SpatialDropout3D)
BLOCKS = (DropBlock1D, DropBlock2D, DropBlock3D)
ALL = tuple(SPECS.values())

rates = st.sampled_from([0.0, 1.0]) | st.floats(1e-9, 0.9999)
seeds = st.none() | st.integers(0, 2**63 - 1)
formats = st.sampled_from(["channels_first", "channels_last"])


@st.composite
def block_specs(draw, max_block=9, rate=rates):
    cls = draw(st.sampled_from(BLOCKS))
    data_format = draw(formats)
    channel = 1 if data_format == "channels_first" else cls.spatial_rank + 1
    sizes = st.integers(1, max_block)
    return cls(
        draw(rate),
        draw(sizes | st.tuples(*[sizes] * cls.spatial_rank)),
        seed=draw(seeds),
        data_format=data_format,
        shared_axes=draw(st.lists(st.sampled_from([0, channel]), unique=True)),
        seed_region=draw(st.sampled_from(["valid", "whole"])),
        normalize=draw(st.sampled_from(["batch", "sample", "none"])),
    )


all_specs = st.one_of(
    block_specs(),
    st.builds(
        lambda cls, *arguments: cls(*arguments), st.sampled_from(SPATIAL), rates, seeds, formats
    ),
    st.builds(Dropout, rates, st.none() | st.lists(st.none() | st.integers(1, 9)), seeds),
    st.builds(DropPath, rates, seeds, st.booleans()),
)


def spatial_shape(spec, spatial):
    """Return a shape of data with these spatial sizes."""
    if spec.data_format == "channels_first":
        return (2, 3, *spatial)
    return (2, *spatial, 3)


def rank_of(spec):
    if isinstance(spec, Dropout) and spec.noise_shape is not None:
        return max(1, len(spec.noise_shape))
    return (spec.spatial_rank or 2) + 2


# --- node attributes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "rank", "attributes"),
    [
        (SpatialDropout1D(0.1), 3, {"channel_axis": 1}),
        (SpatialDropout2D(0.1), 4, {"channel_axis": 1}),
        (SpatialDropout3D(0.1, data_format="channels_last"), 5, {"channel_axis": 4}),
        (
            DropBlock2D(0.1),
            4,
            {
                "block_size": (7, 7),
                "channel_axis": 1,
                "shared_axes": (),
                "seed_region": SeedRegion.VALID,
                "normalize": Normalize.BATCH,
            },
        ),
        (
            DropBlock3D(
                0.1,
                (1, 2, 3),
                data_format="channels_last",
                shared_axes=(-1, 0),
                seed_region="whole",
                normalize="sample",
            ),
            5,
            {
                "block_size": (1, 2, 3),
                "channel_axis": 4,
                "shared_axes": (0, 4),
                "seed_region": SeedRegion.WHOLE,
                "normalize": Normalize.SAMPLE,
            },
        ),
        (
            DropBlock1D(0.1, 4, normalize="none"),
            3,
            {
                "block_size": (4,),
                "channel_axis": 1,
                "shared_axes": (),
                "seed_region": SeedRegion.VALID,
                "normalize": Normalize.NONE,
            },
        ),
        (Dropout(0.1), 2, {"noise_shape": (0, 0), "scale_by_keep": 1}),
        (Dropout(0.1, (None, 1, None)), 3, {"noise_shape": (0, 1, 0), "scale_by_keep": 1}),
        (Dropout(0.1, (1,)), 3, {"noise_shape": (1, 1, 1), "scale_by_keep": 1}),
        (Dropout(0.1, ()), 2, {"noise_shape": (1, 1), "scale_by_keep": 1}),
        (DropPath(0.1), 1, {"noise_shape": (0,), "scale_by_keep": 1}),
        (DropPath(0.1, scale_by_keep=False), 3, {"noise_shape": (0, 1, 1), "scale_by_keep": 0}),
    ],
)
def test_node_attributes(spec, rank, attributes):
    assert spec.node_attributes(rank) == attributes


@PROPERTY
@given(all_specs)
def test_node_attributes_cover_the_schema(spec):
    if isinstance(spec, Dropout):
        spec = dataclasses.replace(spec, noise_shape=None)
    attributes = spec.node_attributes(rank_of(spec))
    in_schema = OPERATORS[spec.op_type].attributes.keys()
    assert attributes.keys() | {"training_mode", "seed"} == in_schema
    for value in attributes.values():
        assert type(value) is int or all(type(entry) is int for entry in value)


@pytest.mark.parametrize("cls", SPATIAL + BLOCKS)
def test_wrong_rank_names_what_was_found_and_what_is_needed(cls):
    needed = cls.spatial_rank + 2
    for rank in {1, 2, 3, 4, 5, 6} - {needed}:
        message = f"{cls.__name__}: data has rank {rank}; rank {needed} is needed"
        with pytest.raises(ArgumentError, match=message):
            cls(0.1).node_attributes(rank)
        with pytest.raises(ArgumentError, match=message):
            cls(0.1).check_shape((None,) * rank)


def test_any_rank_but_zero():
    for cls in (Dropout, DropPath):
        for rank in range(1, 8):
            cls(0.1).node_attributes(rank)
        with pytest.raises(ArgumentError, match="rank 0; rank 1 or more is needed"):
            cls(0.1).node_attributes(0)
    with pytest.raises(ArgumentTypeError, match=r"rank is 4\.0"):
        SpatialDropout2D(0.1).node_attributes(4.0)


def test_shape_is_checked():
    spec = SpatialDropout2D(0.1)
    spec.check_shape(("N", 3, None, 5))
    for shape, error in [
        ((1, 2, -3, 4), ArgumentError),
        ((1, 2, 3.0, 4), ArgumentTypeError),
        ((1, 2, True, 4), ArgumentTypeError),
        ("1234", ArgumentTypeError),
        (4, ArgumentTypeError),
    ]:
        with pytest.raises(error, match="SpatialDropout2D: shape"):
            spec.check_shape(shape)
    with pytest.raises(ArgumentError, match="does not have rank 4"):
        spec.node_attributes(4, (1, 2, 3))


# --- the noise shape of Dropout ------------------------------------------------------------------


def test_noise_shape_sizes_need_a_known_size():
    spec = Dropout(0.1, (None, 1, 8))
    assert spec.node_attributes(3, ("N", None, 8))["noise_shape"] == (0, 1, 0)
    with pytest.raises(ArgumentError, match="entry 8 meets axis 2, of size 9"):
        spec.node_attributes(3, ("N", 4, 9))
    for shape in [None, ("N", 4, "C"), ("N", 4, None)]:
        with pytest.raises(ArgumentError, match="entry 8 meets axis 2, whose size is not known"):
            spec.node_attributes(3, shape)


def test_noise_shape_length():
    assert Dropout(0.1, (4, 1)).node_attributes(3, (2, 4, 5))["noise_shape"] == (1, 0, 1)
    with pytest.raises(ArgumentError, match="has 3 entries; data has rank 2"):
        Dropout(0.1, (1, 1, 1)).node_attributes(2)
    with pytest.raises(ArgumentError, match="give all 3 entries"):
        Dropout(0.1, (None, 1)).node_attributes(3)


@PROPERTY
@given(st.data())
def test_noise_shape_broadcasts_as_in_numpy(data):
    sizes = st.integers(1, 3)
    shape = tuple(data.draw(st.lists(sizes, min_size=1, max_size=4)))
    noise_shape = tuple(data.draw(st.lists(sizes, max_size=5)))
    spec = Dropout(0.5, noise_shape)
    try:
        np.broadcast_to(np.empty(noise_shape), shape)
    except ValueError:
        with pytest.raises(ArgumentError):
            spec.check_shape(shape)
    else:
        padded = (1,) * (len(shape) - len(noise_shape)) + noise_shape
        assert uniforms_shape(spec, shape) == padded


# --- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("rate", [-1e-9, 1 + 1e-9, math.nan, math.inf, np.float32(2)])
def test_rate_out_of_range(cls, rate):
    with pytest.raises(ArgumentError, match=f"{cls.__name__}: rate is .*allowed is a number") as e:
        cls(rate)
    assert isinstance(e.value, ValueError)
    with pytest.raises(ArgumentError):
        cls(0.1).with_rate(rate)


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("rate", ["0.1", True, np.True_, None, [0.1], 1j, np.array([0.1])])
def test_rate_of_wrong_type(cls, rate):
    with pytest.raises(ArgumentTypeError, match=f"{cls.__name__}: rate is") as e:
        cls(rate)
    assert isinstance(e.value, TypeError)


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize(
    ("seed", "error"),
    [
        (-1, ArgumentError),
        (2**63, ArgumentError),
        (1.0, ArgumentTypeError),
        (True, ArgumentTypeError),
        ("1", ArgumentTypeError),
    ],
)
def test_bad_seed(cls, seed, error):
    with pytest.raises(error, match=f"{cls.__name__}: seed is"):
        cls(0.1, seed=seed)


@pytest.mark.parametrize("cls", BLOCKS)
@pytest.mark.parametrize(
    ("block_size", "error"),
    [
        (0, ArgumentError),
        (-3, ArgumentError),
        (7.0, ArgumentTypeError),
        (True, ArgumentTypeError),
        ("7", ArgumentTypeError),
        (None, ArgumentTypeError),
        ((), ArgumentError),
        ((3, 3, 3, 3), ArgumentError),
    ],
)
def test_bad_block_size(cls, block_size, error):
    with pytest.raises(error, match=f"{cls.__name__}: block_size"):
        cls(0.1, block_size)


@pytest.mark.parametrize(
    "value",
    [10**400, -(10**400), Fraction(10**400), 10**5000],
    ids=["int", "negative", "fraction", "long"],
)
@pytest.mark.parametrize("cls", [Dropout, DropPath, SpatialDropout2D, DropBlock2D])
def test_rates_beyond_every_float(cls, value):
    with pytest.raises(ArgumentError, match=f"{cls.__name__}: rate is .*beyond") as caught:
        cls(value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "block", [2**63, 10**400, 10**5000, (3, 2**63)], ids=["int64", "large", "long", "entry"]
)
def test_block_sizes_that_no_attribute_holds(block):
    with pytest.raises(ArgumentError, match=r"block_size is .* from 1 to 2\*\*63 - 1") as caught:
        DropBlock2D(0.1, block)
    assert len(str(caught.value)) < 200


def test_largest_block_size_covers_the_map():
    largest = DropBlock2D(0.1, 2**63 - 1)
    assert largest.node_attributes(4)["block_size"] == (2**63 - 1,) * 2
    assert largest.realised_rate((1, 1, 5, 6)) == DropBlock2D(0.1, (5, 6)).realised_rate(
        (1, 1, 5, 6)
    )


def test_messages_stay_short_whatever_is_passed():
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    for build in (
        lambda: DropBlock2D(0.1, seed=10**5000),
        lambda: DropBlock2D(0.1, nested),
        lambda: DropBlock2D(0.1, "7" * 100_000),
        lambda: DropBlock2D(0.1, seed_region="v" * 100_000),
        lambda: DropBlock2D(0.1, shared_axes=(10**5000,)),
        lambda: Dropout(0.1, noise_shape=(10**5000,)),
        lambda: DropPath(nested),
        lambda: DropPath.from_config({"rate": 0.1, "k" * 100_000: 1}),
        lambda: spec_from_config({"class_name": "k" * 100_000, "config": {}}),
        lambda: SpatialDropout2D(0.1).node_attributes(10**5000),
    ):
        with pytest.raises((ArgumentError, ArgumentTypeError)) as caught:
            build()
        assert len(str(caught.value)) < 400


def test_bad_block_size_entries():
    with pytest.raises(ArgumentError, match="has 1 entries; 2 are needed"):
        DropBlock2D(0.1, (3,))
    with pytest.raises(ArgumentError, match="block_size is 0"):
        DropBlock2D(0.1, (3, 0))
    with pytest.raises(ArgumentTypeError, match="an integer is needed"):
        DropBlock2D(0.1, (3, 3.0))


@pytest.mark.parametrize("cls", SPATIAL + BLOCKS)
def test_bad_data_format(cls):
    with pytest.raises(ArgumentError, match="'NCHW'; allowed is one of 'channels_first', 'chan"):
        cls(0.1, data_format="NCHW")
    with pytest.raises(ArgumentTypeError, match="data_format is None"):
        cls(0.1, data_format=None)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"shared_axes": (2,)}, ArgumentError, "shared axis 2 is a spatial axis"),
        ({"shared_axes": (-1,)}, ArgumentError, "shared axis -1 is a spatial axis"),
        ({"shared_axes": (4,)}, ArgumentError, "shared axis 4 is outside data of rank 4"),
        ({"shared_axes": (1, -3)}, ArgumentError, "names an axis twice"),
        ({"shared_axes": 1}, ArgumentTypeError, "a tuple of axes is needed"),
        ({"shared_axes": "1"}, ArgumentTypeError, "a tuple of axes is needed"),
        ({"shared_axes": (True,)}, ArgumentTypeError, "an integer is needed"),
        ({"shared_axes": (1,), "data_format": "channels_last"}, ArgumentError, "is a spatial axis"),
        ({"seed_region": "all"}, ArgumentError, "allowed is one of 'valid', 'whole'"),
        ({"seed_region": 1}, ArgumentTypeError, "allowed is one of 'valid', 'whole'"),
        ({"normalize": "mean"}, ArgumentError, "allowed is one of 'none', 'batch', 'sample'"),
        ({"normalize": None}, ArgumentTypeError, "allowed is one of 'none', 'batch', 'sample'"),
    ],
)
def test_bad_drop_block_arguments(arguments, error, message):
    with pytest.raises(error, match=f"DropBlock2D: .*{message}"):
        DropBlock2D(0.1, **arguments)


@pytest.mark.parametrize(
    ("noise_shape", "error"),
    [
        ((0, 1), ArgumentError),
        ((-1,), ArgumentError),
        ((1.0,), ArgumentTypeError),
        (("1",), ArgumentTypeError),
        ((True,), ArgumentTypeError),
        ("11", ArgumentTypeError),
        (3, ArgumentTypeError),
    ],
)
def test_bad_noise_shape(noise_shape, error):
    with pytest.raises(error, match="Dropout: noise_shape"):
        Dropout(0.1, noise_shape)


def test_bad_scale_by_keep():
    with pytest.raises(ArgumentTypeError, match="scale_by_keep is 1"):
        DropPath(0.1, scale_by_keep=1)


def test_normal_form():
    spec = DropBlock2D(
        np.float64(0.25), np.int32(3), seed=np.int64(5), shared_axes=[np.int8(-3), 0]
    )
    assert spec == DropBlock2D(0.25, (3, 3), seed=5, shared_axes=(0, 1))
    assert hash(spec) == hash(DropBlock2D(0.25, [3, 3], seed=5, shared_axes=(1, 0)))
    assert type(spec.rate) is float
    assert type(spec.seed) is int
    assert all(type(size) is int for size in spec.block_size)
    assert Dropout(0, [None, np.int64(1)]) == Dropout(0.0, (None, 1))
    assert DropBlock1D(0.1, 3) != DropBlock2D(0.1, 3)
    assert type(SpatialDropout2D(np.float32(0.5)).rate) is float
    assert type(DropPath(0.1, scale_by_keep=np.True_).scale_by_keep) is bool


@PROPERTY
@given(all_specs, rates)
def test_frozen_hashable_and_replaceable(spec, rate):
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.rate = 0.5
    assert len({spec, dataclasses.replace(spec)}) == 1
    other = spec.with_rate(rate)
    assert type(other) is type(spec)
    assert other.rate == rate
    assert other.with_rate(spec.rate) == spec
    assert eval(repr(spec)) == spec


# --- configurations ------------------------------------------------------------------------------


@PROPERTY
@given(all_specs)
def test_config_round_trip(spec):
    config = spec.get_config()
    stored = json.loads(json.dumps(config))
    assert stored == config
    assert type(spec).from_config(stored) == spec
    assert spec_from_config({"class_name": type(spec).__name__, "config": stored}) == spec


KERAS_DTYPE = {
    "module": "keras",
    "class_name": "DTypePolicy",
    "config": {"name": "float32"},
    "registered_name": None,
}


@pytest.mark.parametrize(
    ("config", "spec"),
    [
        (
            {"rate": 0.3, "seed": None, "name": "spatial_dropout1d", "dtype": "float32"},
            SpatialDropout1D(0.3, data_format="channels_last"),
        ),
        (
            {
                "rate": 0.3,
                "seed": 3,
                "name": "x",
                "dtype": "float32",
                "data_format": "channels_last",
            },
            SpatialDropout2D(0.3, seed=3, data_format="channels_last"),
        ),
        (
            {
                "rate": 0.3,
                "seed": 3,
                "name": "x",
                "dtype": "float16",
                "data_format": "channels_first",
            },
            SpatialDropout3D(0.3, seed=3),
        ),
        (  # keras 2
            {
                "name": "x",
                "trainable": True,
                "batch_input_shape": [None, 8, 8, 3],
                "dtype": "float32",
                "rate": 0.3,
                "noise_shape": None,
                "seed": None,
            },
            SpatialDropout2D(0.3, data_format="channels_last"),
        ),
        (
            {
                "name": "dropout",
                "trainable": True,
                "dtype": KERAS_DTYPE,
                "rate": 0.3,
                "seed": None,
                "noise_shape": (None, 1, 4),
            },
            Dropout(0.3, (None, 1, 4)),
        ),
        (  # keras-cv
            {
                "name": "drop_block2d",
                "trainable": True,
                "dtype": KERAS_DTYPE,
                "rate": 0.1,
                "block_size": (3, 5),
                "seed": None,
            },
            DropBlock2D.keras_cv(0.1, (3, 5)),
        ),
        (  # keras-cv
            {"name": "p", "trainable": True, "dtype": KERAS_DTYPE, "rate": 0.5, "seed": None},
            DropPath(0.5),
        ),
    ],
)
def test_keras_configs(config, spec):
    before = dict(config)
    assert type(spec).from_config(config) == spec
    if hasattr(type(spec), "keras"):
        assert type(spec).keras(config) == spec
    name = f"keras_cv>{type(spec).__name__}"
    serialized = {"module": "m", "class_name": name, "config": config, "registered_name": None}
    assert spec_from_config(serialized) == spec
    assert config == before


def test_own_config_keeps_the_own_default():
    assert SpatialDropout2D.from_config({"rate": 0.1}) == SpatialDropout2D(0.1)
    assert SpatialDropout2D.keras({"rate": 0.1}).data_format == "channels_last"


@pytest.mark.parametrize(
    ("cls", "config", "error", "message"),
    [
        (DropPath, {"rate": 0.1, "rat": 1, "q": 2}, ArgumentError, "unknown entries q, rat; known"),
        (SpatialDropout2D, {"seed": 1}, ArgumentError, "has no entry 'rate'"),
        (SpatialDropout2D, {"rate": 0.1, "noise_shape": None}, ArgumentError, "noise_shape"),
        (
            SpatialDropout2D,
            {"rate": 0.1, "name": "x", "noise_shape": [1]},
            ArgumentError,
            "noise_shape",
        ),
        (DropPath, [("rate", 0.1)], ArgumentTypeError, "is list; a mapping is needed"),
        (DropPath, {"rate": "x"}, ArgumentTypeError, "rate is 'x'"),
    ],
)
def test_bad_configs(cls, config, error, message):
    with pytest.raises(error, match=f"{cls.__name__}: .*{message}"):
        cls.from_config(config)


def test_bad_serialized_configs():
    with pytest.raises(ArgumentError, match="class_name is 'Dense'; known are SpatialDropout1D"):
        spec_from_config({"class_name": "Dense", "config": {}})
    with pytest.raises(ArgumentError, match="entry 'config' is missing"):
        spec_from_config({"class_name": "Dropout"})
    with pytest.raises(ArgumentTypeError, match="found str; a mapping is needed"):
        spec_from_config("Dropout")


def test_registry():
    assert all(issubclass(cls, DropoutSpec) and cls.__name__ == name for name, cls in SPECS.items())


# --- presets -------------------------------------------------------------------------------------


def test_keras_presets():
    assert SpatialDropout1D.keras(0.1, 5) == SpatialDropout1D(0.1, 5, "channels_last")
    assert SpatialDropout2D.keras(0.1) == SpatialDropout2D(0.1, data_format="channels_last")
    assert SpatialDropout3D.keras(0.1, "channels_first", 5) == SpatialDropout3D(0.1, 5)
    assert Dropout.keras(0.1, [1, 2], 3) == Dropout(0.1, (1, 2), 3)
    config = {"rate": 0.1}
    with pytest.raises(ArgumentError, match="seed given beside a configuration"):
        SpatialDropout1D.keras(config, seed=1)
    with pytest.raises(ArgumentError, match="data_format, seed given beside"):
        SpatialDropout2D.keras(config, "channels_last", 1)
    with pytest.raises(ArgumentError, match="noise_shape or seed given beside"):
        Dropout.keras(config, noise_shape=(1,))


@pytest.mark.parametrize("cls", [DropBlock2D, DropBlock3D])
def test_torchvision_preset(cls):
    assert cls.torchvision(0.1, 7) == cls(0.1, 7)
    assert cls.torchvision(p=0.1, block_size=3, inplace=True, eps=1e-3) == cls(0.1, 3)
    with pytest.raises(ArgumentError, match="block_size is 4; torchvision allows an odd one only"):
        cls.torchvision(0.1, 4)
    with pytest.raises(ArgumentError, match=r"p is 1\.5"):
        cls.torchvision(1.5, 3)
    with pytest.raises(ArgumentTypeError, match="block_size"):
        cls.torchvision(0.1, (3, 3))


def test_timm_preset():
    default = DropBlock2D(0.1, 7, shared_axes=(1,), seed_region="whole")
    assert DropBlock2D.timm() == default
    assert DropBlock2D.timm(0.2, 5, 0.25) == dataclasses.replace(default, rate=0.05, block_size=5)
    assert DropBlock2D.timm(couple_channels=False, scale_by_keep=False) == dataclasses.replace(
        default, shared_axes=(), normalize="none"
    )
    assert DropBlock2D.timm(0.1, gamma_scale=10) == default.with_rate(1.0)
    for arguments, error, message in [
        ({"drop_prob": 0.5, "gamma_scale": 3}, ArgumentError, "drop_prob \\* gamma_scale is 1.5"),
        ({"gamma_scale": -1}, ArgumentError, "drop_prob \\* gamma_scale is -0.1"),
        ({"gamma_scale": math.nan}, ArgumentError, "gamma_scale is nan"),
        ({"drop_prob": 2, "gamma_scale": 0.1}, ArgumentError, "drop_prob is 2"),
        ({"with_noise": True}, ArgumentError, "with_noise is True"),
        ({"couple_channels": 1}, ArgumentTypeError, "couple_channels is 1"),
    ]:
        with pytest.raises(error, match=f"DropBlock2D: {message}"):
            DropBlock2D.timm(**arguments)


def test_keras_cv_preset():
    expected = DropBlock2D(0.1, (3, 4), seed=2, data_format="channels_last")
    assert DropBlock2D.keras_cv(0.1, (3, 4), 2) == expected


# --- realised rate -------------------------------------------------------------------------------


def enumerated_rate(rate, block, sizes, *, whole):
    """Return the expected dropped fraction, summed over every set of seeds."""
    block = [min(b, size) for b, size in zip(block, sizes, strict=True)]
    gamma = rate
    for b, size in zip(block, sizes, strict=True):
        gamma *= size / (b * (size - b + 1))
    positions = list(itertools.product(*map(range, sizes)))

    def covered(seed):
        spans = [(s - b // 2, s + (b - 1) // 2) for s, b in zip(seed, block, strict=True)]
        fits = all(low >= 0 and high < n for (low, high), n in zip(spans, sizes, strict=True))
        if not (whole or fits):
            return None
        return {
            p
            for p in positions
            if all(low <= x <= high for x, (low, high) in zip(p, spans, strict=True))
        }

    places = [cover for cover in map(covered, positions) if cover is not None]
    expected = 0.0
    for chosen in itertools.product([False, True], repeat=len(places)):
        probability = math.prod(gamma if c else 1 - gamma for c in chosen)
        dropped = set().union(*(place for place, c in zip(places, chosen, strict=True) if c))
        expected += probability * len(dropped) / len(positions)
    return expected


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    ("cls", "sizes", "block"),
    [
        (DropBlock1D, (7,), 3),
        (DropBlock1D, (8,), 4),
        (DropBlock1D, (4,), 9),
        (DropBlock1D, (9,), 1),
        (DropBlock2D, (3, 3), 2),
        (DropBlock2D, (2, 4), 3),
        (DropBlock2D, (3, 3), (1, 3)),
        (DropBlock3D, (2, 2, 2), 2),
        (DropBlock3D, (1, 2, 4), (2, 1, 3)),
    ],
)
def test_realised_rate_by_enumeration(cls, sizes, block, whole):
    for rate in (0.07, 0.5, 0.95):
        spec = cls(rate, block, seed_region="whole" if whole else "valid")
        expected = enumerated_rate(rate, spec.block_size, sizes, whole=whole)
        assert spec.realised_rate((1, 1, *sizes)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (DropBlock2D(0.5, 7), (1, 400, 28, 28)),
        (DropBlock2D.timm(0.1, 7, couple_channels=False), (1, 2000, 7, 7)),
        (DropBlock2D(0.3, (2, 5), data_format="channels_last"), (1, 9, 14, 2000)),
        (DropBlock1D(0.2, 4, seed_region="whole", shared_axes=(1,)), (3000, 2, 30)),
        (DropBlock3D(0.3, 3), (1, 600, 5, 6, 7)),
    ],
)
def test_realised_rate_by_simulation(spec, shape):
    rng = np.random.default_rng(0)
    dropped = ~apply(
        spec, np.zeros(shape, np.float32), rng.random(uniforms_shape(spec, shape))
    ).mask
    channel = spec.node_attributes(len(shape))["channel_axis"]
    spatial = tuple(axis for axis in range(1, len(shape)) if axis != channel)
    maps = dropped.mean(axis=spatial).ravel()
    margin = 4 * maps.std() / math.sqrt(maps.size)
    assert margin < 0.03
    assert spec.realised_rate(shape) == pytest.approx(maps.mean(), abs=margin)


def test_known_realised_rates():
    assert DropBlock2D(0.5, 7).realised_rate((1, 1, 28, 28)) == pytest.approx(0.372, abs=1e-3)
    assert DropBlock2D.timm(0.1, 7).realised_rate((1, 1, 7, 7)) == pytest.approx(0.93, abs=0.01)
    large = DropBlock2D(0.1, 200).realised_rate((None, "C", 4096, 4096))
    assert 0.09 < large < 0.1


@PROPERTY
@given(block_specs(), st.data())
def test_realised_rate_properties(spec, data):
    spatial = data.draw(st.tuples(*[st.integers(1, 12)] * spec.spatial_rank))
    shape = spatial_shape(spec, spatial)
    realised = spec.realised_rate(shape)
    assert 0 <= realised <= 1
    assert spec.with_rate(0).realised_rate(shape) == 0
    assert spec.with_rate(1).realised_rate(shape) == 1
    assert spec.with_rate(spec.rate / 2).realised_rate(shape) <= realised
    if spec.seed_region == "valid":
        assert realised <= spec.rate * (1 + 1e-12)
    single = dataclasses.replace(spec, block_size=1)
    assert single.realised_rate(shape) == pytest.approx(spec.rate, rel=1e-12)
    unknown = tuple(None if axis == 0 else size for axis, size in enumerate(shape))
    assert spec.realised_rate(unknown) == realised


def test_realised_rate_of_an_empty_map():
    assert DropBlock2D(0.5).realised_rate((1, 1, 0, 8)) == 0
    assert DropBlock2D(1.0).realised_rate((1, 1, 0, 8)) == 0


def test_realised_rate_needs_the_map():
    spec = DropBlock2D(0.1)
    assert spec.realised_rate(("N", None, 8, 8)) > 0
    for method in (spec.realised_rate, spec.calibrated):
        with pytest.raises(ArgumentError, match=r"spatial axis 3 of .* has no known size"):
            method((1, 1, 8, "W"))
        with pytest.raises(ArgumentError, match="rank 3; rank 4 is needed"):
            method((1, 8, 8))


@pytest.mark.parametrize(
    "spec", [SpatialDropout2D(0.3), Dropout(0.3), Dropout(0.3, (8, 1, 1)), DropPath(0.3)]
)
def test_other_specs_realise_their_rate(spec):
    shape = (2, 8, 3, 3)
    assert spec.realised_rate(shape) == 0.3
    assert spec.calibrated(shape) is spec
    if spec.spatial_rank:
        with pytest.raises(ArgumentError, match="rank 3"):
            spec.calibrated((1, 2, 3))


# --- calibration ---------------------------------------------------------------------------------


@PROPERTY
@given(block_specs(rate=st.floats(1e-6, 0.999)), st.data())
def test_calibrated_realises_the_nominal_rate(spec, data):
    spatial = data.draw(st.tuples(*[st.integers(1, 12)] * spec.spatial_rank))
    shape = spatial_shape(spec, spatial)
    try:
        calibrated = spec.calibrated(shape)
    except ArgumentError:
        reachable = spec.with_rate(1 - 2**-24).realised_rate(shape)
        assert reachable < spec.rate
    else:
        assert 0 <= calibrated.rate < 1
        assert calibrated.realised_rate(shape) == pytest.approx(spec.rate, abs=1e-12, rel=1e-12)
        assert calibrated.with_rate(spec.rate) == spec


def test_calibrated_at_the_ends():
    for rate in (0.0, 1.0):
        assert DropBlock2D(rate).calibrated((1, 1, 28, 28)) == DropBlock2D(rate)


def test_unreachable_rate_names_the_largest():
    reachable = DropBlock2D(1 - 2**-24, 7).realised_rate((1, 1, 28, 28))
    assert DropBlock2D(reachable - 1e-4, 7).calibrated((1, 1, 28, 28)).rate < 1
    with pytest.raises(ArgumentError, match=f"reachable rate below 1 is {reachable:.6g}$"):
        DropBlock2D(reachable + 1e-4, 7).calibrated((1, 1, 28, 28))
    with pytest.raises(ArgumentError, match=r"reachable rate below 1 is 0$"):
        DropBlock2D(0.1, 7).calibrated((1, 1, 0, 28))


def test_timm_calibration_lowers_the_rate():
    calibrated = DropBlock2D.timm(0.1, 7).calibrated((1, 1, 7, 7))
    assert calibrated.rate < 0.01
    assert calibrated.realised_rate((1, 1, 7, 7)) == pytest.approx(0.1, rel=1e-12)
