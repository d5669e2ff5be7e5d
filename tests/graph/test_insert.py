"""Insertion: where nodes go, what they look like, and what stays as it was."""

from __future__ import annotations

import copy
import functools

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from nets import Net
from one_node import DISABLE_ALL, LEVELS, MODELS, random_feeds, run, session
from onnx import TensorProto, helper, numpy_helper

from onnx_structdrop.errors import (
    ArgumentError,
    ArgumentTypeError,
    SiteError,
    UnsupportedModelError,
)
from onnx_structdrop.graph.compare import differences
from onnx_structdrop.graph.fold import fold
from onnx_structdrop.graph.insert import insert
from onnx_structdrop.graph.inspect import inspect
from onnx_structdrop.graph.selection import DEFAULT_KINDS
from onnx_structdrop.graph.sites import find_sites
from onnx_structdrop.schema import DOMAIN, METADATA_KEY, OPERATORS, VERSION
from onnx_structdrop.specs import (
    DropBlock1D,
    DropBlock2D,
    DropBlock3D,
    Dropout,
    DropPath,
    SpatialDropout2D,
)

FILES = sorted(path.stem for path in MODELS.glob("*.onnx"))
BLOCKS = {3: DropBlock1D, 4: DropBlock2D, 5: DropBlock3D}


@functools.cache
def original(name):
    return onnx.load(MODELS / f"{name}.onnx")


@pytest.fixture
def resnet():
    return original("resnet18_dynamo")


def spec_for(model, rate=0.2, seed=1, **options):
    return BLOCKS[len(find_sites(model)[0].shape)](rate, 3, seed=seed, **options)


def as_bytes(model):
    return model.SerializeToString(deterministic=True)


def ours(model):
    """Return our nodes of the main graph, by the name of the value behind which they stand."""
    return {node.input[0]: node for node in model.graph.node if node.domain == DOMAIN}


def attributes(node):
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def finished(net, *outputs):
    """Return a net's model with the ranks of its outputs, which the checker wants."""
    model = net.model(*outputs)
    for value in model.graph.output:
        value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, [None] * 4))
    return model


def two_convs(opset=18):
    net = Net(("N", 3, 16, 16), opset=opset)
    return finished(net, net.relu(net.conv(net.relu(net.conv("x", 4)), 6)))


# --- On every sample model -----------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_every_site_gets_its_node(name):
    model = original(name)
    sites = find_sites(model)
    before = model.SerializeToString(deterministic=True)
    result = insert(model, spec_for(model), sites)
    assert model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(result, full_check=True)
    # Inputs and outputs are described as before, value for value.
    assert list(result.graph.input) == list(model.graph.input)
    assert list(result.graph.output) == list(model.graph.output)
    assert len(inspect(result).own) == len(sites)
    for node in ours(result).values():
        assert len(node.output) == 3
        assert node.output[1:] == ["", ""]
        assert set(attributes(node)) == set(OPERATORS["DropBlock"].attributes)


@pytest.mark.parametrize("name", FILES)
def test_the_rest_of_the_graph_is_untouched(name):
    """Nodes keep their order, names and attributes; only the names of inputs may change."""
    model = original(name)
    result = insert(model, spec_for(model), find_sites(model))
    kept = [node for node in result.graph.node if node.domain != DOMAIN]
    for old, new in zip(model.graph.node, kept, strict=True):
        assert (old.name, old.op_type, old.domain) == (new.name, new.op_type, new.domain)
        assert list(old.attribute) == list(new.attribute)
        assert list(old.metadata_props) == list(new.metadata_props)
    old_weights = {tensor.name: tensor for tensor in model.graph.initializer}
    new_weights = {tensor.name: tensor for tensor in result.graph.initializer}
    assert new_weights.keys() - old_weights.keys() == {"structdrop_ratio"}
    assert all(new_weights[name] == tensor for name, tensor in old_weights.items())


@pytest.mark.parametrize("name", FILES)
def test_consumers_read_the_dropped_value(name):
    model = original(name)
    sites = find_sites(model)
    result = insert(model, spec_for(model), sites)
    nodes = ours(result)
    outputs = {value.name for value in model.graph.output}
    for site in sites:
        kept = site.value if site.value in nodes else f"{site.value}_kept"
        (reader,) = [node for node in result.graph.node if kept in node.input]
        assert reader.domain == DOMAIN
        assert kept == site.value or site.value in outputs


@pytest.mark.parametrize("name", FILES)
def test_the_default_is_activations_and_joins(name):
    model = original(name)
    spec = spec_for(model)
    chosen = [site for site in find_sites(model) if site.kind in DEFAULT_KINDS]
    assert insert(model, spec) == insert(model, spec, chosen)


@pytest.mark.parametrize("name", ["resnet18_dynamo", "resnet_keras_torch", "resnet18_torchscript"])
def test_ir_model_gives_the_same(name):
    model = original(name)
    spec = spec_for(model)
    private = ir.from_proto(model)
    result = insert(private, spec)
    assert isinstance(result, ir.Model)
    assert differences(private, model) == []
    assert differences(result, insert(model, spec)) == []


# --- The nodes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "op_type", "expected"),
    [
        (SpatialDropout2D(0.1, seed=1), "SpatialDropout", {"channel_axis": 1}),
        (
            DropPath(0.1, seed=1),
            "NoiseShapeDropout",
            {"noise_shape": [0, 1, 1, 1], "scale_by_keep": 1},
        ),
        (
            DropPath(0.1, seed=1, scale_by_keep=False),
            "NoiseShapeDropout",
            {"noise_shape": [0, 1, 1, 1], "scale_by_keep": 0},
        ),
        (
            Dropout(0.1, (None, 1, None, 1), seed=1),
            "NoiseShapeDropout",
            {"noise_shape": [0, 1, 0, 1], "scale_by_keep": 1},
        ),
        (
            DropBlock2D(
                0.1,
                (5, 3),
                seed=1,
                shared_axes=(0, 1),
                seed_region="whole",
                normalize="sample",
            ),
            "DropBlock",
            {
                "block_size": [5, 3],
                "channel_axis": 1,
                "shared_axes": [0, 1],
                "seed_region": 1,
                "normalize": 2,
            },
        ),
    ],
    ids=["spatial", "path", "path, unscaled", "noise shape", "blocks"],
)
@pytest.mark.parametrize("training_mode", [True, False])
def test_attributes(resnet, spec, op_type, expected, training_mode):
    result = insert(resnet, spec, training_mode=training_mode)
    for node in ours(result).values():
        found = attributes(node)
        assert node.op_type == op_type
        assert found.pop("seed") > 0
        assert found == {"training_mode": int(training_mode), **expected}
    assert [function.name for function in result.functions] == [op_type]


def test_names(resnet):
    site = find_sites(resnet)[3]
    node = ours(insert(resnet, SpatialDropout2D(0.1), [site]))[site.value]
    assert node.name == f"{site.value}_SpatialDropout"
    assert node.output[0] == f"{site.value}_dropped"


def test_taken_names_get_a_number():
    model = two_convs()
    site = find_sites(model)[0]
    model.graph.node[0].name = f"{site.value}_SpatialDropout"
    model.graph.initializer[0].name = "structdrop_ratio"
    model.graph.node[0].input[1] = "structdrop_ratio"
    result = insert(model, SpatialDropout2D(0.1), [site])
    node = ours(result)[site.value]
    assert node.name == f"{site.value}_SpatialDropout_1"
    assert node.input[1] == "structdrop_ratio_1"
    assert differences(model, fold(result)) == []


def test_the_node_stands_right_behind_its_producer(resnet):
    result = insert(resnet, SpatialDropout2D(0.1))
    for place, node in enumerate(result.graph.node):
        if node.domain == DOMAIN:
            assert node.input[0] in result.graph.node[place - 1].output


def test_types_and_shapes_of_dropped_values(resnet):
    result = insert(resnet, SpatialDropout2D(0.1))
    infos = {value.name: value for value in result.graph.value_info}
    for value in ours(result):
        assert infos[f"{value}_dropped"].type == infos[value].type


def test_inferred_shapes_where_the_model_has_none():
    model = original("resnet_keras_tensorflow")
    assert not model.graph.value_info
    result = insert(model, SpatialDropout2D(0.1))
    infos = {value.name: value.type.tensor_type for value in result.graph.value_info}
    for site in find_sites(model):
        if site.kind in DEFAULT_KINDS:
            dims = infos[f"{site.value}_dropped"].shape.dim
            assert [dim.dim_value or dim.dim_param for dim in dims] == list(site.shape)


@pytest.mark.parametrize("ir_version", [6, 7, 8, 10])
def test_ir_version_is_raised_to_8(ir_version):
    model = two_convs(opset=13)
    model.ir_version = ir_version
    result = insert(model, SpatialDropout2D(0.1))
    assert result.ir_version == max(ir_version, 8)
    assert differences(model, fold(result)) == []


@pytest.mark.parametrize("opset", range(13, 27))
def test_every_opset(opset):
    model = two_convs(opset=opset)
    result = insert(model, DropBlock2D(0.3, 3, seed=1))
    onnx.checker.check_model(result, full_check=True)
    assert result.functions[0].opset_import[0].version == opset
    assert [(e.domain, e.version) for e in result.opset_import] == [("", opset), (DOMAIN, VERSION)]
    runner = session(result)
    data = np.ones((2, 3, 16, 16), np.float32)
    assert run(runner, {"x": data})[0].shape == (2, 6, 16, 16)


# --- Channels last -------------------------------------------------------------------------------


def test_the_sites_channel_axis_wins():
    """The Keras model on torch holds its activations channels last."""
    model = original("resnet_keras_torch")
    axes = {site.value: site.channel_axis for site in find_sites(model)}
    assert set(axes.values()) == {3}
    for data_format in ("channels_first", "channels_last"):
        spec = DropBlock2D(0.2, 3, seed=1, data_format=data_format)
        for node in ours(insert(model, spec)).values():
            assert attributes(node)["channel_axis"] == 3


@pytest.mark.parametrize(
    ("data_format", "shared", "expected"),
    [
        ("channels_first", (), []),
        ("channels_first", (0,), [0]),
        ("channels_first", (1,), [3]),
        ("channels_first", (0, 1), [0, 3]),
        ("channels_last", (3,), [3]),
        ("channels_last", (0, 3), [0, 3]),
    ],
)
def test_shared_axes_follow_the_channels(data_format, shared, expected):
    model = original("resnet_keras_torch")
    spec = DropBlock2D(0.2, 3, seed=1, data_format=data_format, shared_axes=shared)
    for node in ours(insert(model, spec)).values():
        assert attributes(node)["shared_axes"] == expected


def test_both_layouts_in_one_model():
    """ConvNeXt is channels last inside its blocks and channels first at their ends."""
    model = original("convnext_dynamo")
    axes = {site.value: site.channel_axis for site in find_sites(model)}
    result = insert(model, SpatialDropout2D(0.2), find_sites(model))
    found = {value: attributes(node)["channel_axis"] for value, node in ours(result).items()}
    assert found == axes
    assert set(axes.values()) == {1, 3}


# --- Seeds ---------------------------------------------------------------------------------------


def seeds(model):
    return [node.seed for node in inspect(model).own]


def test_seeds_are_distinct_and_reproducible(resnet):
    first, again, other = (
        seeds(insert(resnet, SpatialDropout2D(0.1, seed=s), find_sites(resnet))) for s in (7, 7, 8)
    )
    assert first == again
    assert len(set(first)) == len(first) == 28
    assert not set(first) & set(other)


def test_a_seed_is_drawn_where_none_is_given(resnet):
    first, second = (seeds(insert(resnet, SpatialDropout2D(0.1))) for _ in range(2))
    assert len({*first, *second}) == len(first) + len(second)


def test_a_second_insertion_avoids_the_seeds_of_the_first(resnet):
    sites = find_sites(resnet)
    once = insert(resnet, SpatialDropout2D(0.1, seed=7), sites[:10])
    twice = insert(once, DropPath(0.2, seed=7), sites[10:])
    found = seeds(twice)
    assert len(set(found)) == len(found) == 28


# --- Ratios --------------------------------------------------------------------------------------


def test_one_initializer_for_all(resnet):
    result = insert(resnet, SpatialDropout2D(0.25))
    (ratio,) = [t for t in result.graph.initializer if t.name == "structdrop_ratio"]
    assert numpy_helper.to_array(ratio).dtype == np.float32
    assert numpy_helper.to_array(ratio) == 0.25
    assert numpy_helper.to_array(ratio).shape == ()
    assert {node.input[1] for node in ours(result).values()} == {"structdrop_ratio"}


def test_a_new_graph_input(resnet):
    result = insert(resnet, SpatialDropout2D(0.25), ratio_input="rate")
    assert result.graph.input[:-1] == list(resnet.graph.input)
    added = result.graph.input[-1]
    assert added == helper.make_tensor_value_info("rate", TensorProto.FLOAT, [])
    assert len(result.graph.initializer) == len(resnet.graph.initializer)
    assert {node.input[1] for node in ours(result).values()} == {"rate"}


def test_a_graph_input_drives_the_ratio():
    model = original("resnet1d_dynamo")
    result = insert(model, DropBlock1D(0.3, 3, seed=1), ratio_input="rate")
    feeds = random_feeds(model)
    expected = run(session(model, DISABLE_ALL), feeds)[0]
    runner = session(result, DISABLE_ALL)
    found = [run(runner, {**feeds, "rate": np.array(r, np.float32)})[0] for r in (0, 0.4, 0.4)]
    np.testing.assert_array_equal(found[0], expected)
    assert not np.array_equal(found[1], found[2])


def test_an_input_that_is_there_is_shared():
    model = two_convs()
    model.graph.input.append(helper.make_tensor_value_info("rate", TensorProto.FLOAT, []))
    result = insert(model, SpatialDropout2D(0.25), ratio_input="rate")
    assert list(result.graph.input) == list(model.graph.input)
    assert differences(model, fold(result)) == []


def test_two_insertions_share_one_input(resnet):
    sites = find_sites(resnet)
    once = insert(resnet, SpatialDropout2D(0.1), sites[:5], ratio_input="rate")
    twice = insert(once, DropBlock2D(0.1), sites[5:9], ratio_input="rate")
    assert [value.name for value in twice.graph.input].count("rate") == 1
    assert {node.ratio for node in inspect(twice).own} == {"rate"}
    assert differences(resnet, fold(twice)) == []


@pytest.mark.parametrize(
    "value",
    [
        helper.make_tensor_value_info("rate", TensorProto.DOUBLE, []),
        helper.make_tensor_value_info("rate", TensorProto.FLOAT, [1]),
        helper.make_tensor_value_info("rate", TensorProto.FLOAT, None),
        helper.make_tensor_value_info("rate", TensorProto.BOOL, []),
    ],
)
def test_an_input_that_cannot_be_a_ratio(value):
    model = two_convs()
    model.graph.input.append(value)
    with pytest.raises(ArgumentError, match=r"input 'rate' cannot drive the ratio.*float32 scalar"):
        insert(model, SpatialDropout2D(0.1), ratio_input="rate")


def test_a_ratio_input_needs_a_free_name(resnet):
    for name in ("", resnet.graph.node[0].output[0], resnet.graph.initializer[0].name):
        with pytest.raises(ArgumentError, match="not a free name"):
            insert(resnet, SpatialDropout2D(0.1), ratio_input=name)


# --- Calibration ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18_dynamo", "resnet3d_dynamo", "resnet1d_dynamo"])
def test_calibrated_ratios(name):
    model = original(name)
    spec = spec_for(model, 0.15)
    sites = [site for site in find_sites(model) if site.stage in (1, 2)]
    result = insert(model, spec, sites, calibrate=True)
    ratios = {node.data: node.ratio for node in inspect(result).own}
    for site in sites:
        nominal = ratios[site.value]
        realised = spec.with_rate(nominal).realised_rate(site.shape)
        assert nominal > 0.15
        assert realised == pytest.approx(0.15, rel=1e-6)
    # One initializer per distinct rate, hence per size of map.
    initializers = {node.input[1] for node in ours(result).values()}
    assert len(initializers) == len(set(ratios.values())) == len({s.shape[2:] for s in sites})
    assert differences(model, fold(result)) == []


def test_calibration_leaves_spatial_dropout_alone(resnet):
    result = insert(resnet, SpatialDropout2D(0.1), calibrate=True)
    assert {node.ratio for node in inspect(result).own} == {float(np.float32(0.1))}


def test_calibration_needs_sizes():
    model = original("unet_torchscript")
    with pytest.raises(SiteError, match=r"has no known size"):
        insert(model, DropBlock2D(0.1), calibrate=True)


def test_calibration_that_cannot_be_reached(resnet):
    with pytest.raises(SiteError, match=r"rate 0\.9 cannot be realised.*largest reachable"):
        insert(resnet, DropBlock2D(0.9, 3), calibrate=True)


def test_calibration_and_a_ratio_input_exclude_each_other(resnet):
    with pytest.raises(ArgumentError, match="choose one"):
        insert(resnet, DropBlock2D(0.1), ratio_input="rate", calibrate=True)


# --- Graph outputs -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["unet_dynamo", "unet_torchscript"])
def test_a_graph_output_keeps_its_name(name):
    model = original(name)
    (output,) = (value.name for value in model.graph.output)
    site = next(site for site in find_sites(model) if site.value == output)
    result = insert(model, DropBlock2D(0.5, 3, seed=1), [site])
    node = ours(result)[f"{output}_kept"]
    assert node.output[0] == output
    assert list(result.graph.output) == list(model.graph.output)
    (found,) = run(session(result), random_feeds(model))
    assert (found == 0).mean() > 0.1
    assert differences(model, fold(result)) == []


def test_an_output_that_is_read_inside_as_well():
    net = Net()
    inner = net.relu(net.conv("x", 4))
    outer = net.relu(net.conv(inner, 4))
    model = finished(net, inner, outer)
    result = insert(model, SpatialDropout2D(0.5, seed=1), [inner])
    onnx.checker.check_model(result, full_check=True)
    node = ours(result)[f"{inner}_kept"]
    assert node.output[0] == f"{inner}_dropped"
    readers = [n.op_type for n in result.graph.node if node.output[0] in n.input]
    assert readers == ["Identity", "Conv"]
    (copy,) = (n for n in result.graph.node if inner in n.output)
    assert copy.input == [node.output[0]]
    assert list(result.graph.output) == list(model.graph.output)
    assert differences(model, fold(result)) == []
    assert as_bytes(fold(result)) == as_bytes(fold(model))


@pytest.mark.parametrize("element", [np.float32, np.float16])
@pytest.mark.parametrize("level", LEVELS)
def test_an_output_that_is_read_inside_costs_nothing_in_inference_mode(level, element):
    """Bit for bit; with optimisations off, onnxruntime rounds float16 between any two nodes."""
    model = convs_of_outputs(element)
    (inner, *_) = (value.name for value in model.graph.output)
    result = insert(model, SpatialDropout2D(0.5, seed=1), [inner], training_mode=False)
    shape = (2, 3, 16, 16)
    feeds = {"x": np.random.default_rng(1).standard_normal(shape).astype(element)}
    expected, found = (run(session(m, level), feeds) for m in (model, result))
    if level == DISABLE_ALL and element == np.float16:
        assert expected[0].tobytes() == found[0].tobytes()
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-2, atol=1e-2)
    else:
        assert [a.tobytes() for a in expected] == [a.tobytes() for a in found]
    assert differences(model, fold(result)) == []


def test_an_output_that_is_read_inside_is_the_dropped_value():
    model = convs_of_outputs(np.float32)
    (inner, *_) = (value.name for value in model.graph.output)
    result = insert(model, SpatialDropout2D(0.5, seed=1), [inner])
    site = ours(result)[f"{inner}_kept"]
    result.graph.output.append(
        helper.make_tensor_value_info(site.output[0], TensorProto.FLOAT, [None] * 4)
    )
    data = np.random.default_rng(1).standard_normal((2, 3, 16, 16)).astype(np.float32)
    output, _, read = run(session(result), {"x": data})
    assert output.tobytes() == read.tobytes()
    assert (output == 0).all(axis=(2, 3)).any()


def test_sites_of_a_model_with_such_an_output():
    model = convs_of_outputs(np.float32)
    sites = find_sites(model)
    result = insert(model, SpatialDropout2D(0.5, seed=1), [model.graph.output[0].name])
    assert [s.kind for s in find_sites(result)] == [s.kind for s in sites]
    with pytest.raises(SiteError, match="already holds"):
        insert(result, SpatialDropout2D(0.5), sites=[find_sites(result)[0]])


def convs_of_outputs(element):
    """Return three Convs and Relus, the first and last of which are outputs."""
    random = np.random.default_rng(0)
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(element))
    nodes, weights, value, channels = [], [], "x", 3
    for index in range(3):
        weight = random.standard_normal((16, channels, 3, 3)) * 0.2
        weights.append(numpy_helper.from_array(weight.astype(element), f"w{index}"))
        nodes.append(helper.make_node("Conv", [value, f"w{index}"], [f"c{index}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
        value, channels = f"r{index}", 16
    infos = [
        helper.make_tensor_value_info(name, dtype, ["N", size, 16, 16])
        for name, size in (("x", 3), ("r0", 16), ("r2", 16))
    ]
    return helper.make_model(
        helper.make_graph(nodes, "net", infos[:1], infos[1:], weights),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )


@pytest.mark.parametrize("shape", [None, ("N", 6, 16, 16), (None, None, None, None)])
def test_the_description_of_an_output_is_the_models(shape):
    model = two_convs()
    output = model.graph.output[0]
    output.CopyFrom(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, shape))
    output.doc_string = "the result"
    output.metadata_props.append(onnx.StringStringEntryProto(key="k", value="v"))
    result = insert(model, SpatialDropout2D(0.5, seed=1))
    assert list(result.graph.output) == list(model.graph.output)
    assert differences(model, fold(result)) == []


# --- Subgraphs and functions ---------------------------------------------------------------------

WEIGHT = "<float[4,3,1,1] w = {1,1,1,1,1,1,1,1,1,1,1,1}>"
BRANCHES = f"""
<ir_version: 8, opset_import: ["": 18]>
g (bool c, float[N,3,8,8] x) => (float[N,4,8,8] y, float[N,4,8,8] z) {WEIGHT} {{
  a = Conv (x, w)
  outer = Relu (a)
  y = If (c) <
    then_branch = t () => (o) {{ b = Conv (x, w) inner = Relu (b) o = Add (inner, outer) }},
    else_branch = e () => (o) {{ b = Conv (x, w) o = Sigmoid (b) }}
  >
  z = If (c) <
    then_branch = tt () => (o) {{ b = Conv (x, w) o = Tanh (b) }},
    else_branch = ee () => (o) {{ o = Identity (outer) }}
  >
}}
"""
FUNCTION = f"""
<ir_version: 8, opset_import: ["": 18, "local": 1]>
g (bool c, float[N,3,8,8] x) => (float[N,4,8,8] y) {WEIGHT} {{
  h = local.block (c, x, w)
  y = Relu (h)
}}
<domain: "local", opset_import: ["": 18]>
block (c, v, w) => (o) {{
  u = Conv (v, w)
  r = Relu (u)
  o = If (c) <
    then_branch = t () => (p) {{ q = Conv (v, w) p = Relu (q) }},
    else_branch = e () => (p) {{ p = Identity (r) }}
  >
}}
"""


def scopes_of(model):
    return sorted(node.scope for node in inspect(model).own)


def runs_of(model, chosen, count=6):
    runner = session(model)
    feeds = {"c": np.array(chosen), "x": np.ones((2, 3, 8, 8), np.float32)}
    return [run(runner, feeds) for _ in range(count)]


def test_subgraphs():
    model = onnx.parser.parse_model(BRANCHES)
    sites = find_sites(model)
    assert len({(site.scope, site.value) for site in sites}) == len(sites) == 5
    result = insert(model, SpatialDropout2D(0.5, seed=1), sites)
    onnx.checker.check_model(result, full_check=True)
    assert scopes_of(result) == [
        "",
        "If#2/then_branch",
        "If/else_branch",
        "If/then_branch",
        "If/then_branch",
    ]
    for chosen in (True, False):
        for place in (0, 1):
            found = runs_of(result, chosen)
            assert len({outputs[place].tobytes() for outputs in found}) > 1
    assert differences(model, fold(result)) == []


def test_a_subgraph_reads_the_dropped_outer_value():
    model = onnx.parser.parse_model(BRANCHES)
    site = next(site for site in find_sites(model) if site.value == "outer")
    result = insert(model, SpatialDropout2D(0.5, seed=1), [site])
    branches = [a.g for node in result.graph.node if node.op_type == "If" for a in node.attribute]
    reads = [name for graph in branches for node in graph.node for name in node.input]
    assert "outer" not in reads
    assert reads.count("outer_dropped") == 2
    found = runs_of(result, False)
    assert len({outputs[1].tobytes() for outputs in found}) > 1
    assert differences(model, fold(result)) == []


def test_a_subgraphs_name_is_enough_where_it_is_unique():
    model = onnx.parser.parse_model(BRANCHES)
    result = insert(model, SpatialDropout2D(0.5, seed=1), ["inner"])
    assert scopes_of(result) == ["If/then_branch"]
    with pytest.raises(SiteError, match=r"'o' is ambiguous.*If/else_branch.*If#2/then_branch"):
        insert(model, SpatialDropout2D(0.5), ["o"])


def test_function_bodies():
    model = onnx.parser.parse_model(FUNCTION)
    sites = find_sites(model)
    assert {site.scope for site in sites} == {
        "function:local::block",
        "function:local::block/If/then_branch",
    }
    result = insert(model, SpatialDropout2D(0.5, seed=1), sites)
    onnx.checker.check_model(result, full_check=True)
    assert scopes_of(result) == sorted(site.scope for site in sites)
    body = next(function for function in result.functions if function.name == "block")
    assert {entry.domain for entry in body.opset_import} == {"", DOMAIN}
    assert [node.op_type for node in body.node].count("Constant") == 1
    assert not any("structdrop" in tensor.name for tensor in result.graph.initializer)
    for chosen in (True, False):
        assert len({outputs[0].tobytes() for outputs in runs_of(result, chosen)}) > 1
    assert differences(model, fold(result)) == []


def test_function_bodies_cannot_see_a_graph_input():
    model = onnx.parser.parse_model(FUNCTION)
    with pytest.raises(
        SiteError, match=r"function:local::block.*cannot see the graph input 'rate'"
    ):
        insert(model, SpatialDropout2D(0.5), ratio_input="rate")


def test_calibration_needs_sizes_that_a_function_body_does_not_know():
    model = onnx.parser.parse_model(FUNCTION)
    with pytest.raises(SiteError, match="has no known size"):
        insert(model, DropBlock2D(0.1, 3, seed=1), find_sites(model), calibrate=True)


# --- Element types -------------------------------------------------------------------------------


def typed_model(element, opset=18):
    """Return x -> Conv -> Relu, and beside it x -> Conv -> Cast -> Relu in another type."""
    net = Net(opset=opset)
    plain = net.relu(net.conv("x", 4))
    other = net.relu(net.op("Cast", net.conv("x", 4), to=element))
    model = finished(net, plain, net.op("Cast", other, to=TensorProto.FLOAT))
    # Weights of zeros would leave nothing to drop.
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(np.ones(tensor.dims, np.float32), tensor.name))
    return model, plain, other


def test_one_type_gets_a_function_of_its_own():
    model, _, other = typed_model(TensorProto.FLOAT16)
    result = insert(model, DropBlock2D(0.4, 3, seed=1), [other])
    assert "CastLike" not in str(result.functions[0])
    found = run(session(result), {"x": np.ones((2, 3, 64, 64), np.float32)})[1]
    assert (found == 0).any()


@pytest.mark.parametrize("opset", [15, 16, 20, 26])
@pytest.mark.parametrize("element", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_two_types_share_a_general_function(element, opset):
    model, plain, other = typed_model(element, opset)
    for spec in (SpatialDropout2D(0.4, seed=1), DropBlock2D(0.4, 3, seed=1)):
        result = insert(model, spec, [plain, other])
        onnx.checker.check_model(result, full_check=True)
        assert len(result.functions) == 1
        assert "CastLike" in str(result.functions[0])
        runner = session(result)
        found = [run(runner, {"x": np.ones((2, 3, 64, 64), np.float32)}) for _ in range(2)]
        for place in (0, 1):
            assert not np.array_equal(found[0][place], found[1][place])
        assert differences(model, fold(result)) == []


def test_two_types_need_opset_15():
    model, plain, other = typed_model(TensorProto.DOUBLE, 14)
    insert(model, SpatialDropout2D(0.1), [other])
    with pytest.raises(UnsupportedModelError, match=r"needs ai\.onnx opset 15"):
        insert(model, SpatialDropout2D(0.1), [plain, other])


def test_a_second_insertion_widens_the_function():
    model, plain, other = typed_model(TensorProto.DOUBLE)
    once = insert(model, SpatialDropout2D(0.4, seed=1), [plain])
    assert "CastLike" not in str(once.functions[0])
    twice = insert(once, SpatialDropout2D(0.4, seed=2), [other])
    assert "CastLike" in str(twice.functions[0])
    onnx.checker.check_model(twice, full_check=True)
    run(session(twice), {"x": np.ones((2, 3, 64, 64), np.float32)})
    assert differences(model, fold(twice)) == []


TYPED_CALLS = """
<ir_version: 8, opset_import: ["": %(opset)d, "local": 1]>
g (float[2,3,8,8] x) => (float[2,4,8,8] y) <float[4,3,1,1] w = {1,1,1,1,1,1,1,1,1,1,1,1}> {
  a = Conv (x, w)
  plain = Relu (a)
  narrow_x = Cast <to = %(element)d> (x)
  narrow_w = Cast <to = %(element)d> (w)
  narrow = local.block (narrow_x, narrow_w)
  wide = Cast <to = 1> (narrow)
  %(more)s
}
<domain: "local", opset_import: ["": %(opset)d]>
block (v, w) => (o) { u = Conv (v, w) o = Relu (u) }
"""
ELEMENTS = {
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "float64": TensorProto.DOUBLE,
    "float32": TensorProto.FLOAT,
}
RUNNABLE = ("float16", "float32")
"""What onnxruntime has kernels of Conv for, on a processor."""


def calling_model(element, opset=22, *, twice=False):
    """Return a model whose untyped function is called with one type, or with two."""
    more = "y = Add (plain, wide)"
    if twice:
        more = "again = local.block (x, w) z = Add (plain, again) y = Add (z, wide)"
    text = TYPED_CALLS % {"opset": opset, "element": ELEMENTS[element], "more": more}
    return onnx.parser.parse_model(text)


@pytest.mark.parametrize("order", [("", "function"), ("function", ""), ("both",)])
@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("spec", [SpatialDropout2D(0.4, seed=1), DropBlock2D(0.4, 3, seed=1)])
def test_an_untyped_function_in_any_order(spec, element, order):
    """The function that is there was not written for the type that a body is called with."""
    model = calling_model(element)
    result = model
    for part in order:
        sites = [
            site
            for site in find_sites(result)
            if site.value in {"": ["plain"], "function": ["o"], "both": ["plain", "o"]}[part]
        ]
        result = insert(result, spec, sites)
    assert len(inspect(result).own) == 2
    onnx.checker.check_model(result, full_check=True)
    assert differences(model, fold(result)) == []
    if element in RUNNABLE:
        runner = session(result)
        feeds = {"x": np.ones((2, 3, 8, 8), np.float32)}
        found = [run(runner, feeds)[0] for _ in range(8)]
        assert len({values.tobytes() for values in found}) > 1


@pytest.mark.parametrize("element", ["float16", "bfloat16", "float64"])
def test_a_function_that_is_called_with_two_types(element):
    model = calling_model(element, twice=True)
    result = insert(model, SpatialDropout2D(0.4, seed=1), ["o"])
    onnx.checker.check_model(result, full_check=True)
    twice = insert(result, SpatialDropout2D(0.4, seed=2), ["plain"])
    onnx.checker.check_model(twice, full_check=True)
    if element in RUNNABLE:
        run(session(twice), {"x": np.ones((2, 3, 8, 8), np.float32)})
    assert differences(model, fold(twice)) == []


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("opset", [13, 14])
def test_an_untyped_function_needs_opset_15(opset, twice):
    model = calling_model("float16", opset, twice=twice)
    once = insert(model, SpatialDropout2D(0.4), ["plain"])
    for base in (model, once):
        with pytest.raises(UnsupportedModelError, match=r"unknown\) element types.*opset 15"):
            insert(base, SpatialDropout2D(0.4), ["o"])


# --- A second insertion --------------------------------------------------------------------------


def test_a_second_insertion_elsewhere(resnet):
    sites = find_sites(resnet)
    once = insert(resnet, SpatialDropout2D(0.1, seed=1), sites[:3])
    again = [site for site in find_sites(once) if site.value in {s.value for s in sites[3:6]}]
    twice = insert(once, DropBlock2D(0.3, 5, seed=2), again)
    assert sorted(node.op_type for node in inspect(twice).own) == (
        ["DropBlock"] * 3 + ["SpatialDropout"] * 3
    )
    assert {function.name for function in twice.functions} == {"DropBlock", "SpatialDropout"}
    assert sum(entry.key == METADATA_KEY for entry in twice.metadata_props) == 1
    onnx.checker.check_model(twice, full_check=True)
    assert differences(resnet, fold(twice)) == []


def test_a_site_takes_one_node(resnet):
    once = insert(resnet, SpatialDropout2D(0.1))
    with pytest.raises(SiteError, match="already holds SpatialDropout"):
        insert(once, DropBlock2D(0.1))


# --- Errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [None, 0.1, "DropBlock2D", DropBlock2D, {"rate": 0.1}])
def test_not_a_specification(resnet, spec):
    with pytest.raises(ArgumentTypeError, match=r"specification such as DropBlock2D\(0\.1\)"):
        insert(resnet, spec)


@pytest.mark.parametrize("model", [None, b"", "model.onnx"])
def test_not_a_model(model):
    with pytest.raises(ArgumentTypeError, match="ModelProto"):
        insert(model, SpatialDropout2D(0.1))


@pytest.mark.parametrize("flags", [{"training_mode": 1}, {"training_mode": None}, {"calibrate": 0}])
def test_flags_are_bools(resnet, flags):
    with pytest.raises(ArgumentTypeError, match="must be True or False"):
        insert(resnet, SpatialDropout2D(0.1), **flags)


@pytest.mark.parametrize("ratio_input", [0.1, True, b"rate", ["rate"]])
def test_a_ratio_input_is_a_name(resnet, ratio_input):
    with pytest.raises(ArgumentTypeError, match="ratio_input must be the name"):
        insert(resnet, SpatialDropout2D(0.1), ratio_input=ratio_input)


def test_no_site_selected(resnet):
    with pytest.raises(SiteError, match="no site selected"):
        insert(resnet, SpatialDropout2D(0.1), [])


def test_unknown_site(resnet):
    name = find_sites(resnet)[0].value
    with pytest.raises(SiteError, match=rf"no site '{name}x' .*close are '{name}'"):
        insert(resnet, SpatialDropout2D(0.1), [f"{name}x"])
    with pytest.raises(SiteError, match=r"no site '#' \(it has 28\)"):
        insert(resnet, SpatialDropout2D(0.1), ["#"])


def test_a_site_of_another_model(resnet):
    foreign = find_sites(original("resnet1d_dynamo"))
    with pytest.raises(SiteError):
        insert(resnet, SpatialDropout2D(0.1), foreign)


@pytest.mark.parametrize("site", [3, None, b"relu", ("relu",)])
def test_a_site_of_another_type(resnet, site):
    with pytest.raises(ArgumentTypeError, match="must be a Site or the name of its value"):
        insert(resnet, SpatialDropout2D(0.1), [site])


def test_sites_are_taken_once(resnet):
    site = find_sites(resnet)[0]
    result = insert(resnet, SpatialDropout2D(0.1), [site, site.value, site])
    assert len(inspect(result).own) == 1


def test_a_model_without_sites():
    net = Net()
    with pytest.raises(SiteError, match="no site of kind activation or join"):
        insert(net.model(net.relu("x")), SpatialDropout2D(0.1))


@pytest.mark.parametrize("spec", [DropBlock1D(0.1), DropBlock3D(0.1)])
def test_wrong_rank(resnet, spec):
    with pytest.raises(SiteError, match=r"of shape \(\w+, 8, \d+, \d+\).*rank"):
        insert(resnet, spec)


def test_a_noise_shape_that_does_not_fit(resnet):
    with pytest.raises(SiteError, match="noise_shape entry 5"):
        insert(resnet, Dropout(0.1, (None, 5, 1, 1)))


@pytest.mark.parametrize("opset", [9, 12])
def test_an_old_opset(opset):
    model = two_convs(opset=opset)
    with pytest.raises(UnsupportedModelError, match=rf"opset {opset}.*convert_version"):
        insert(model, SpatialDropout2D(0.1))


@pytest.mark.parametrize("error", ["spec", "sites", "rank", "input"])
def test_the_argument_survives_an_error(error):
    model = two_convs()
    before = copy.deepcopy(model)
    arguments = {
        "spec": (0.1,),
        "sites": (SpatialDropout2D(0.1), ["nowhere"]),
        "rank": (DropBlock1D(0.1),),
        "input": (SpatialDropout2D(0.1), None),
    }[error]
    options = {"ratio_input": "x"} if error == "input" else {}
    with pytest.raises((ArgumentError, ArgumentTypeError)):
        insert(model, *arguments, **options)
    assert model == before


def test_a_class_is_no_specification():
    with pytest.raises(
        ArgumentTypeError, match=r"such as DropBlock2D\(0\.1\), not the class DropPath"
    ):
        insert(onnx.load(MODELS / "resnet18_dynamo.onnx"), DropPath)
