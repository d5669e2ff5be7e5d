"""Switching between training and inference, and reseeding."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from one_node import ALL, BASIC, DISABLE_ALL, MODELS, random_feeds, run, session

from onnx_structdrop.errors import ArgumentError, ArgumentTypeError, UnsupportedModelError
from onnx_structdrop.graph.compare import differences
from onnx_structdrop.graph.fold import fold
from onnx_structdrop.graph.inline import inline
from onnx_structdrop.graph.insert import insert
from onnx_structdrop.graph.inspect import inspect
from onnx_structdrop.graph.mode import reseed, set_training_mode
from onnx_structdrop.graph.sites import find_sites
from onnx_structdrop.specs import (
    DropBlock1D,
    DropBlock2D,
    DropBlock3D,
    SpatialDropout2D,
)

FILES = sorted(path.stem for path in MODELS.glob("*.onnx"))
SPECS = {3: DropBlock1D(0.3, 5), 4: DropBlock2D(0.3, 5), 5: DropBlock3D(0.3, 2)}


@functools.cache
def original(name):
    return onnx.load(MODELS / f"{name}.onnx")


@functools.cache
def inserted(name, seed=1):
    model = original(name)
    sites = find_sites(model)
    spec = SPECS[len(sites[0].shape)]
    return insert(model, type(spec)(**{**vars(spec), "seed": seed}), sites)


@pytest.fixture(scope="module")
def resnet():
    return inserted("resnet18_dynamo")


@pytest.mark.parametrize("name", FILES)
def test_inference_mode_is_the_original_bit_for_bit(name):
    feeds = random_feeds(original(name))
    evaluation = set_training_mode(inserted(name), False)
    for level in (DISABLE_ALL, BASIC, ALL):
        (expected,) = run(session(original(name), level), feeds)
        (found,) = run(session(evaluation, level), feeds)
        assert expected.tobytes() == found.tobytes()


@pytest.mark.parametrize("name", ["resnet1d_dynamo", "resnet_keras_torch", "unet_torchscript"])
def test_training_mode_differs_from_run_to_run(name):
    runner = session(inserted(name))
    feeds = random_feeds(original(name))
    first, second = (run(runner, feeds)[0] for _ in range(2))
    assert np.isfinite(first).all()
    assert not np.array_equal(first, second)


def test_there_and_back(resnet):
    off = set_training_mode(resnet, False)
    assert {node.active for node in inspect(off).own} == {False}
    assert differences(resnet, off)
    on = set_training_mode(off, True)
    assert on.SerializeToString(deterministic=True) == resnet.SerializeToString(deterministic=True)
    assert differences(off, set_training_mode(off, False)) == []


def test_only_the_mode_changes(resnet):
    off = set_training_mode(resnet, False)
    for node in off.graph.node:
        for attribute in node.attribute:
            if attribute.name == "training_mode":
                assert attribute.i == 0
                attribute.i = 1
    assert differences(resnet, off) == []


def test_foreign_dropout_keeps_its_mode():
    text = """
    <ir_version: 8, opset_import: ["": 18]>
    g (float[2,3,8,8] x) => (float[2,3,8,8] y) <bool on = {1}, float half = {0.5}> {
      y = Dropout (x, half, on)
    }
    """
    model = onnx.parser.parse_model(text)
    assert differences(model, set_training_mode(model, False)) == []


@pytest.mark.parametrize("change", [lambda m: set_training_mode(m, False), lambda m: reseed(m, 4)])
def test_the_argument_is_left_alone(resnet, change):
    before = resnet.SerializeToString(deterministic=True)
    assert change(resnet) is not resnet
    assert resnet.SerializeToString(deterministic=True) == before
    model = ir.from_proto(resnet)
    result = change(model)
    assert isinstance(result, ir.Model)
    assert differences(model, resnet) == []
    assert differences(result, change(resnet)) == []


@pytest.mark.parametrize("enabled", [1, 0, None, "train", np.True_])
def test_the_mode_is_a_bool(resnet, enabled):
    with pytest.raises(ArgumentTypeError, match="enabled must be True or False"):
        set_training_mode(resnet, enabled)


@pytest.mark.parametrize("model", [b"onnx", "model.onnx", None])
def test_not_a_model(model):
    with pytest.raises(ArgumentTypeError, match=r"onnx\.ModelProto or an onnx_ir\.Model"):
        set_training_mode(model, True)
    with pytest.raises(ArgumentTypeError, match=r"onnx\.ModelProto or an onnx_ir\.Model"):
        reseed(model, 1)


# --- Reseeding -----------------------------------------------------------------------------------


def seeds(model):
    return [node.seed for node in inspect(model).own]


def test_reseeding_gives_distinct_new_seeds(resnet):
    first, second, again = (seeds(reseed(resnet, seed)) for seed in (4, 5, 4))
    assert first == again
    assert len(set(first)) == len(first)
    assert not set(first) & set(second)
    assert not set(first) & set(seeds(resnet))
    assert all(1 <= seed < 2**31 - 1 for seed in first)


def test_only_the_seeds_change(resnet):
    changed = reseed(resnet, 4)
    assert differences(original("resnet18_dynamo"), fold(changed)) == []
    for node, old in zip([n for n in changed.graph.node if n.domain], seeds(resnet), strict=True):
        next(attribute for attribute in node.attribute if attribute.name == "seed").i = old
    assert differences(resnet, changed) == []


def test_reseeding_to_the_seed_of_insertion():
    """Insertion into a model without nodes and reseeding draw the same seeds."""
    assert seeds(inserted("resnet1d_dynamo", 9)) == seeds(reseed(inserted("resnet1d_dynamo", 3), 9))


def test_new_seeds_give_new_masks():
    model = inserted("resnet1d_dynamo")
    feeds = random_feeds(original("resnet1d_dynamo"))
    results = [run(session(m), feeds)[0] for m in (model, reseed(model, 77), reseed(model, 77))]
    assert not np.array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[1], results[2])


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seed_out_of_range(resnet, seed):
    with pytest.raises(ArgumentError, match=rf"reseed: seed is {seed}"):
        reseed(resnet, seed)


@pytest.mark.parametrize("seed", [None, 1.5, "7", True])
def test_seed_of_another_type(resnet, seed):
    with pytest.raises(ArgumentTypeError, match="reseed: seed"):
        reseed(resnet, seed)


def test_inlined_nodes_cannot_be_changed():
    model = original("resnet1d_dynamo")
    live = inline(insert(model, DropBlock1D(0.1)))
    for change in (lambda m: set_training_mode(m, False), lambda m: reseed(m, 1)):
        with pytest.raises(UnsupportedModelError, match="inlined dropout nodes"):
            change(live)


def test_a_model_without_nodes():
    model = original("resnet1d_dynamo")
    assert differences(model, set_training_mode(model, True)) == []
    assert differences(model, reseed(model, 1)) == []


def test_nodes_in_every_scope():
    text = """
    <ir_version: 8, opset_import: ["": 18, "local": 1]>
    g (bool c, float[N,3,8,8] x) => (float[N,4,8,8] y)
      <float[4,3,1,1] w = {1,1,1,1,1,1,1,1,1,1,1,1}>
    {
      a = local.block (x, w)
      y = If (c) <
        then_branch = t () => (p) { q = Conv (x, w) p = Relu (q) },
        else_branch = e () => (r) { r = Identity (a) }
      >
    }
    <domain: "local", opset_import: ["": 18]>
    block (v, w) => (o) { u = Conv (v, w) o = Relu (u) }
    """
    model = onnx.parser.parse_model(text)
    full = insert(model, SpatialDropout2D(0.5, seed=1), find_sites(model))
    assert {node.scope for node in inspect(full).own} == {"If/then_branch", "function:local::block"}
    off = set_training_mode(full, False)
    assert {node.active for node in inspect(off).own} == {False}
    assert not set(seeds(reseed(full, 2))) & set(seeds(full))
