"""Inlining: structured dropout as plain ONNX operators."""

from __future__ import annotations

import collections
import functools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from one_node import (
    ALL,
    DISABLE_ALL,
    LEVELS,
    MODELS,
    RANDOM_OPS,
    assert_relations,
    attributes_of,
    dropped,
    one_node,
    random_data,
    random_feeds,
    run,
    session,
)
from onnx import numpy_helper

from onnx_structdrop.errors import ArgumentError, ModelError, UnsupportedModelError
from onnx_structdrop.graph.compare import differences
from onnx_structdrop.graph.fold import fold
from onnx_structdrop.graph.inline import RANDOM_SOURCES, inline
from onnx_structdrop.graph.insert import insert
from onnx_structdrop.graph.inspect import inspect
from onnx_structdrop.graph.mode import set_training_mode
from onnx_structdrop.graph.sites import find_sites
from onnx_structdrop.schema import DOMAIN, DROPOUT_OPS, INLINED_KEY, METADATA_KEY
from onnx_structdrop.specs import DropBlock1D, DropBlock2D, DropBlock3D, SpatialDropout2D

FILES = sorted(path.stem for path in MODELS.glob("*.onnx"))
SPECS = {
    3: DropBlock1D(0.3, 5, seed=1),
    4: DropBlock2D(0.3, 5, seed=1),
    5: DropBlock3D(0.3, 2, seed=1),
}
SIZES = (3, 4, 6, 7)
FREE = ("N", "C", "H", "W")

each_op = pytest.mark.parametrize("op_type", DROPOUT_OPS)
each_source = pytest.mark.parametrize("source", RANDOM_SOURCES)
each_shape = pytest.mark.parametrize("shape", [SIZES, FREE], ids=["static", "dynamic"])


@functools.cache
def original(name):
    return onnx.load(MODELS / f"{name}.onnx")


@functools.cache
def inserted(name):
    """Return a model with nodes at some of its sites, the first and the last among them."""
    model = original(name)
    sites = find_sites(model)
    return insert(model, SPECS[len(sites[0].shape)], [*sites[::9], sites[-1]])


def all_nodes(model):
    graphs, found = [model.graph], []
    while graphs:
        for node in graphs.pop().node:
            found.append(node)
            graphs += [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return found


def ops(model):
    return collections.Counter(node.op_type for node in all_nodes(model))


def assert_plain(model):
    assert not model.functions
    assert {entry.domain for entry in model.opset_import} <= {"", "ai.onnx.ml"}
    assert not any(node.domain for node in all_nodes(model))
    assert METADATA_KEY not in {entry.key for entry in model.metadata_props}
    onnx.checker.check_model(model, full_check=True)


@each_shape
@pytest.mark.parametrize("opset", [13, 14, 17, 18, 20, 26])
@each_op
def test_one_node_on_onnxruntime(op_type, opset, shape):
    model = inline(one_node(op_type, shape, opset=opset))
    assert_plain(model)
    data = random_data(SIZES)
    for level in LEVELS:
        runner = session(model, level)
        for ratio in (0.0, 0.1, 0.4, 1.0):
            outputs = dropped(runner, data, ratio)
            assert_relations(op_type, attributes_of(op_type, 4), data, ratio, outputs)
        masks = {dropped(runner, data, 0.4).mask.tobytes() for _ in range(8)}
        assert len(masks) > 1


@each_shape
@pytest.mark.parametrize("opset", [13, 17, 21])
@each_op
def test_uniform_numbers_on_onnxruntime(op_type, opset, shape):
    model = inline(one_node(op_type, shape, opset=opset), "uniform")
    assert_plain(model)
    assert RANDOM_OPS & set(ops(model)) == {"RandomUniformLike"}
    assert not ops(model)["If"]
    data = random_data(SIZES)
    for level in (DISABLE_ALL, ALL):
        runner = session(model, level)
        for ratio in (0.0, 0.1, 0.4, 1.0):
            outputs = dropped(runner, data, ratio)
            assert_relations(op_type, attributes_of(op_type, 4), data, ratio, outputs)
        masks = {dropped(runner, data, 0.4).mask.tobytes() for _ in range(8)}
        assert len(masks) > 1


@each_source
@pytest.mark.parametrize("element", ["float16", "bfloat16", "float64"])
@each_op
def test_element_types(op_type, element, source):
    model = inline(one_node(op_type, FREE, element=element), source)
    assert_plain(model)
    data = random_data(SIZES, element)
    outputs = dropped(session(model), data, 0.4)
    assert_relations(op_type, attributes_of(op_type, 4), data, 0.4, outputs)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed_region": 1, "block_size": [4, 2]},
        {"shared_axes": [0, 1], "normalize": 2},
        {"shared_axes": [1]},
        {"channel_axis": -1, "normalize": 0},
        {"block_size": [50]},
    ],
    ids=["whole", "shared", "channels", "last", "clipped"],
)
@each_source
@each_shape
def test_options(changes, source, shape):
    model = inline(one_node("DropBlock", shape, **changes), source)
    assert_plain(model)
    runner = session(model)
    data = random_data(SIZES)
    attributes = attributes_of("DropBlock", 4, **changes)
    for ratio in (0.05, 0.4):
        for _ in range(3):
            assert_relations("DropBlock", attributes, data, ratio, dropped(runner, data, ratio))


def test_the_same_masks_as_the_function():
    """With Dropout as source, inlining is what onnxruntime does itself."""
    data = random_data(SIZES)
    for op_type in DROPOUT_OPS:
        model = one_node(op_type, FREE)
        runners = [session(model), session(inline(model))]
        for ratio in (0.1, 0.4):
            first, second = (dropped(runner, data, ratio).mask for runner in runners)
            np.testing.assert_array_equal(first, second)


@each_source
@each_op
def test_inference_mode_is_one_identity(op_type, source):
    model = inline(one_node(op_type, FREE, training_mode=0, only_output=True), source)
    assert_plain(model)
    assert ops(model) == {"Identity": 1}
    assert not inspect(model).nodes
    assert INLINED_KEY not in {entry.key for entry in model.metadata_props}
    data = random_data(SIZES)
    (output,) = run(session(model), {"data": data, "ratio": np.array(0.4, np.float32)})
    assert output.tobytes() == data.tobytes()


@pytest.mark.parametrize(
    ("op_type", "source", "most"),
    [
        ("SpatialDropout", "dropout", 40),
        ("SpatialDropout", "uniform", 60),
        ("NoiseShapeDropout", "dropout", 40),
        ("DropBlock", "uniform", 100),
    ],
)
def test_static_shapes_leave_few_nodes(op_type, source, most):
    static = inline(one_node(op_type, SIZES, only_output=True), source)
    dynamic = inline(one_node(op_type, FREE, only_output=True), source)
    counts = [
        sum(count for name, count in ops(model).items() if name != "Constant")
        for model in (static, dynamic)
    ]
    print(op_type, source, counts)
    assert counts[0] < counts[1]
    assert counts[0] <= most
    assert not ops(static)["Shape"] or source == "uniform"


@each_source
@pytest.mark.parametrize("name", FILES)
def test_sample_models(name, source):
    full = inserted(name)
    model = inline(full, source)
    assert_plain(model)
    assert list(model.graph.input) == list(full.graph.input)
    assert list(model.graph.output) == list(full.graph.output)
    # Everything of the original is still there, in its order.
    old = [node.name for node in original(name).graph.node]
    kept = [node.name for node in model.graph.node if node.name in set(old)]
    assert kept == old
    runner = session(model)
    feeds = random_feeds(original(name))
    first, second = (run(runner, feeds)[0] for _ in range(2))
    assert np.isfinite(first).all()
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("name", ["resnet1d_dynamo", "unet_torchscript", "resnet_keras_torch"])
@each_source
def test_sample_models_in_inference_mode(name, source):
    model = inline(set_training_mode(inserted(name), False), source)
    assert_plain(model)
    assert not inspect(model).nodes
    feeds = random_feeds(original(name))
    expected = run(session(original(name), DISABLE_ALL), feeds)[0]
    assert run(session(model, DISABLE_ALL), feeds)[0].tobytes() == expected.tobytes()


@each_source
def test_the_ratio_stays_an_initializer(source):
    """So that a schedule can still drive it: at 0 the model is the original."""
    model = inline(inserted("resnet1d_dynamo"), source)
    (ratio,) = (t for t in model.graph.initializer if t.name == "structdrop_ratio")
    assert numpy_helper.to_array(ratio) == np.float32(0.3)
    ratio.CopyFrom(numpy_helper.from_array(np.array(0, np.float32), ratio.name))
    feeds = random_feeds(original("resnet1d_dynamo"))
    expected = run(session(original("resnet1d_dynamo"), DISABLE_ALL), feeds)[0]
    np.testing.assert_array_equal(run(session(model, DISABLE_ALL), feeds)[0], expected)


@each_source
def test_a_graph_input_stays_the_ratio(source):
    base = original("resnet1d_dynamo")
    model = inline(insert(base, DropBlock1D(0.3, 5), ratio_input="rate"), source)
    assert [value.name for value in model.graph.input] == [base.graph.input[0].name, "rate"]
    feeds = random_feeds(base)
    expected = run(session(base, DISABLE_ALL), feeds)[0]
    runner = session(model, DISABLE_ALL)
    found = {rate: run(runner, {**feeds, "rate": np.float32(rate)})[0] for rate in (0, 0.5)}
    np.testing.assert_array_equal(found[0], expected)
    assert not np.array_equal(found[0.5], expected)


def test_generators_have_seeds_of_their_own():
    model = inline(inserted("resnet18_torchscript"), "uniform")
    found = [
        attribute.f
        for node in all_nodes(model)
        if node.op_type == "RandomUniformLike"
        for attribute in node.attribute
        if attribute.name == "seed"
    ]
    assert len(set(found)) == len(found) >= 8
    again = inline(inserted("resnet18_torchscript"), "uniform")
    assert again.SerializeToString(deterministic=True) == model.SerializeToString(
        deterministic=True
    )


def test_generators_of_the_model_keep_their_seeds():
    text = """
    <ir_version: 8, opset_import: ["": 18]>
    g (float[2,3,8,8] x) => (float[2,4,8,8] y) <float[4,3,1,1] w = {1,1,1,1,1,1,1,1,1,1,1,1}> {
      noise = RandomUniformLike <seed = 5.0> (x)
      noisy = Add (x, noise)
      a = Conv (noisy, w)
      y = Relu (a)
    }
    """
    model = onnx.parser.parse_model(text)
    inlined = inline(insert(model, SpatialDropout2D(0.3, seed=1)), "uniform")
    seeds = {
        node.output[0]: node.attribute[0].f
        for node in inlined.graph.node
        if node.op_type == "RandomUniformLike" and node.output[0] == "noise"
    }
    assert seeds == {"noise": 5.0}


@each_source
def test_the_argument_is_left_alone(source):
    model = inserted("resnet1d_dynamo")
    before = model.SerializeToString(deterministic=True)
    result = inline(model, source)
    assert model.SerializeToString(deterministic=True) == before
    private = ir.from_proto(model)
    other = inline(private, source)
    assert isinstance(other, ir.Model)
    assert differences(private, model) == []
    assert differences(result, other) == []


def test_a_model_without_nodes():
    model = original("resnet1d_dynamo")
    for source in RANDOM_SOURCES:
        assert differences(model, inline(model, source)) == []


def test_functions_of_the_model_stay():
    text = """
    <ir_version: 8, opset_import: ["": 18, "local": 1]>
    g (float[2,3,8,8] x) => (float[2,4,8,8] y) <float[4,3,1,1] w = {1,1,1,1,1,1,1,1,1,1,1,1}> {
      y = local.block (x, w)
    }
    <domain: "local", opset_import: ["": 18]>
    block (v, w) => (o) { u = Conv (v, w) o = Relu (u) }
    """
    model = onnx.parser.parse_model(text)
    full = insert(model, SpatialDropout2D(0.5, seed=1), find_sites(model))
    for source in RANDOM_SOURCES:
        inlined = inline(full, source)
        onnx.checker.check_model(inlined, full_check=True)
        assert [(f.domain, f.name) for f in inlined.functions] == [("local", "block")]
        assert DOMAIN not in {entry.domain for entry in inlined.opset_import}
        assert DOMAIN not in {entry.domain for entry in inlined.functions[0].opset_import}
        data = np.ones((2, 3, 8, 8), np.float32)
        runner = session(inlined)
        results = {run(runner, {"x": data})[0].tobytes() for _ in range(4)}
        assert len(results) > 1


def test_subgraphs():
    text = """
    <ir_version: 8, opset_import: ["": 18]>
    g (bool c, float[2,3,8,8] x) => (float[2,4,8,8] y)
      <float[4,3,1,1] w = {1,1,1,1,1,1,1,1,1,1,1,1}>
    {
      y = If (c) <
        then_branch = t () => (p) { q = Conv (x, w) p = Relu (q) },
        else_branch = e () => (r) { s = Conv (x, w) r = Sigmoid (s) }
      >
    }
    """
    model = onnx.parser.parse_model(text)
    full = insert(model, DropBlock2D(0.4, 3, seed=1), find_sites(model))
    data = np.ones((2, 3, 8, 8), np.float32)
    for source in RANDOM_SOURCES:
        inlined = inline(full, source)
        assert_plain(inlined)
        runner = session(inlined)
        for chosen in (True, False):
            feeds = {"c": np.array(chosen), "x": data}
            results = [run(runner, feeds)[0] for _ in range(6)]
            assert len({result.tobytes() for result in results}) > 1
            assert all((result == 0).any() for result in results[:1])


# --- Names ---------------------------------------------------------------------------------------


def all_names(graph):
    """Return the names that the nodes of a graph and of its subgraphs define."""
    names = [value.name for value in graph.input]
    names += [tensor.name for tensor in graph.initializer]
    for node in graph.node:
        names += [name for name in node.output if name]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                names += all_names(attribute.g)
    return names


# Names that the bodies of our functions use, in the subgraphs of somebody else's model.
TAKEN = """
<ir_version: 8, opset_import: ["": 18]>
g (bool c, float[N,3,8,8] x) => (float[N,4,8,8] y) <float[4,3,1,1] w = {1,1,1,1,1,1,1,1,1,1,1,1}> {
  a = Conv (x, w)
  r = Relu (a)
  y = If (c) <
    then_branch = t () => (o) {
      dims = Identity (r) axes = Neg (dims) tosses = Abs (axes) mask_dims = Neg (tosses)
      mask = Conv (x, w) is_training = Relu (mask) o = Add (is_training, mask_dims)
    },
    else_branch = e () => (p) {
      deep = If (c) <
        then_branch = tt () => (q) { dims = Identity (r) count = Neg (dims) q = Neg (count) },
        else_branch = ee () => (q) { scaled = Neg (r) seeds = Neg (scaled) q = Neg (seeds) }
      >
      p = Relu (deep)
    }
  >
}
"""


@pytest.mark.parametrize("training_mode", [True, False])
@pytest.mark.parametrize("spec", [SpatialDropout2D(0.4, seed=1), DropBlock2D(0.4, 3, seed=1)])
@each_source
def test_names_in_subgraphs_of_the_model_are_left_alone(source, spec, training_mode):
    model = onnx.parser.parse_model(TAKEN)
    full = insert(model, spec, ["r", "is_training"], training_mode=training_mode)
    inlined = inline(full, source)
    assert_plain(inlined)
    assert set(all_names(model.graph)) <= set(all_names(inlined.graph))
    runner = session(inlined)
    data = np.ones((2, 3, 8, 8), np.float32)
    for chosen in (True, False):
        run(runner, {"c": np.array(chosen), "x": data})


@each_source
def test_inlined_names_lead_back_to_their_node(source):
    model = onnx.parser.parse_model(TAKEN)
    full = insert(model, DropBlock2D(0.4, 3, seed=1), ["r", "is_training"])
    names = all_names(inline(full, source).graph)
    old = set(all_names(full.graph))
    new = [name for name in names if name not in old]
    assert new
    prefixes = ("r_DropBlock/", "is_training_DropBlock/")
    assert all(name.startswith(prefixes) for name in new)
    # Names differ even between branches; what the nodes made is called as before.
    assert len(set(new)) == len(new)
    assert {"r_dropped", "is_training_dropped"} <= set(names)


def test_a_node_without_a_name_lends_that_of_its_result():
    model = inserted("resnet1d_dynamo")
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for node in bare.graph.node:
        node.name = ""
    inlined = inline(bare)
    assert_plain(inlined)
    assert any("_dropped/" in name for name in all_names(inlined.graph))


# --- Nodes that are no calls ---------------------------------------------------------------------


def changed(**changes):
    """Return a model with one node of ours that is not as it should be."""
    model = one_node("SpatialDropout", FREE)
    (node,) = (node for node in model.graph.node if node.domain)
    outputs = changes.pop("outputs", None)
    if outputs is not None:
        del model.graph.output[:]
        del node.output[:]
        node.output.extend(["output", "mask", "scale", "more"][:outputs])
        echo = "output" if outputs else "data"
        model.graph.node.append(onnx.helper.make_node("Identity", [echo], ["end"], name="end"))
        model.graph.output.append(onnx.helper.make_tensor_value_info("end", 1, [None] * 4))
    for name, value in changes.items():
        kept = [attribute for attribute in node.attribute if attribute.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])
    return model


GRAPH = onnx.parser.parse_graph("g () => (float a) { a = Constant <value_float = 1.0> () }")


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (changed(outputs=0), "lists 0 outputs, it has 3"),
        (changed(outputs=1), "lists 1 outputs, it has 3"),
        (changed(outputs=2), "lists 2 outputs, it has 3"),
        (changed(outputs=4), "lists 4 outputs, it has 3"),
        (changed(seed="seven"), "attribute 'seed' .* type STRING; it must be INT"),
        (changed(channel_axis=1.0), "attribute 'channel_axis' .* type FLOAT; it must be INT"),
        (changed(channel_axis=[1]), "attribute 'channel_axis' .* type INTS; it must be INT"),
        (changed(training_mode=GRAPH), "attribute 'training_mode' .* type GRAPH; it must be INT"),
        (changed(body=GRAPH), "attribute 'body' that means nothing"),
        (changed(note="text"), "attribute 'note' that means nothing"),
    ],
)
@pytest.mark.parametrize("act", [inline, lambda m: insert(m, SpatialDropout2D(0.1), ["output"])])
def test_nodes_that_are_no_calls(model, match, act):
    with pytest.raises(ModelError, match=rf"^(node|attribute) .*SpatialDropout.*{match}|{match}"):
        act(model)


def test_operators_that_nobody_knows():
    model = one_node("SpatialDropout", FREE)
    node = next(node for node in model.graph.node if node.domain)
    node.op_type = "SpatialDropouts"
    with pytest.raises(ModelError, match=r"SpatialDropouts, which is no operator.*SpatialDropout,"):
        inline(model)


def test_a_mode_that_a_function_hands_on():
    """Nodes in a function may take their attributes from a call of it."""
    text = f"""
    <ir_version: 8, opset_import: ["": 18, "local": 1, "{DOMAIN}": 1]>
    g (float[2,4,8,8] x) => (float[2,4,8,8] y, float[2,4,8,8] z) {{
      y = local.drop <on = 1> (x)
      z = local.drop <on = 0> (x)
    }}
    <domain: "local", opset_import: ["": 18, "{DOMAIN}": 1]>
    drop <on> (v) => (o) {{
      half = Constant <value_float = 0.5> ()
      o, m, s = {DOMAIN}.SpatialDropout
        <training_mode : int = @on, seed = 3, channel_axis = 1> (v, half)
    }}
    """
    model = onnx.parser.parse_model(text)
    data = np.ones((2, 4, 8, 8), np.float32)
    inlined = inline(model)
    assert [(f.domain, f.name) for f in inlined.functions] == [("local", "drop")]
    onnx.checker.check_model(inlined, full_check=True)
    runner = session(inlined)
    assert any((run(runner, {"x": data})[0] == 0).any() for _ in range(4))
    np.testing.assert_array_equal(run(runner, {"x": data})[1], data)
    assert INLINED_KEY in {entry.key for entry in inlined.metadata_props}
    with pytest.raises(UnsupportedModelError, match="takes 'training_mode' from the calls"):
        inline(model, "uniform")


@pytest.mark.parametrize("opset", [22, 26])
def test_uniform_numbers_end_at_opset_21(opset):
    model = one_node("SpatialDropout", FREE, opset=opset)
    with pytest.raises(UnsupportedModelError, match=rf"'uniform'.*opset 21.*imports {opset}"):
        inline(model, "uniform")
    assert_plain(inline(model))


@pytest.mark.parametrize("source", ["Dropout", "", "normal", None])
def test_unknown_source(source):
    with pytest.raises(ArgumentError, match="random_source must be one of"):
        inline(one_node("SpatialDropout", FREE), source)


def test_what_was_inlined_cannot_be_folded():
    model = inline(inserted("resnet1d_dynamo"))
    with pytest.raises(UnsupportedModelError, match="inlined"):
        fold(model)
