"""Prefix, then suffix, equals the whole model.

Bit for bit without optimisations: those fuse nodes across the cut, and sum up in another order.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from nets import Net
from one_node import DISABLE_ALL, random_feeds, session
from onnx import TensorProto, helper
from samples import MODELS
from test_generated import SETTINGS, cases, feeds_of, inserted

import onnx_structdrop as sd
from onnx_structdrop.mc import split

FILES = ("convnext_dynamo", "densenet_dynamo", "resnet18_torchscript", "resnet1d_dynamo",
         "resnet_keras_torch", "unet_torchscript", "trainable/unet_resize")  # fmt: skip


def in_parts(parts, feeds):
    """Return the outputs of both parts by name, feeding one from the other."""
    values = dict(feeds)
    found = {}
    for part in (parts.prefix, parts.suffix):
        if part is None:
            continue
        runner = session(part, DISABLE_ALL)
        names = [value.name for value in runner.get_outputs()]
        known = {value.name: values[value.name] for value in runner.get_inputs()}
        results = dict(zip(names, runner.run(None, known), strict=True))
        values |= results
        found |= results
    return found


def check(parts):
    for part in (parts.prefix, parts.suffix):
        if part is not None:
            onnx.checker.check_model(part, full_check=True)


def assert_equals_whole(model, feeds, parts=None):
    parts = parts or split(model)
    names = [value.name for value in model.graph.output]
    whole = dict(zip(names, session(model, DISABLE_ALL).run(None, feeds), strict=True))
    found = in_parts(parts, feeds)
    assert sorted((*parts.deterministic, *parts.stochastic)) == sorted(names)
    for name in names:
        assert whole[name].tobytes() == found[name].tobytes()


def still(parts):
    """Return the parts of a split with dropout off."""
    off = [None if part is None else sd.set_training_mode(part, False)
           for part in (parts.prefix, parts.suffix)]  # fmt: skip
    return type(parts)(*off, parts.cut, parts.deterministic, parts.stochastic)


def live(name, spec=None, which=slice(None)):
    model = onnx.load(MODELS / f"{name}.onnx")
    sites = [site for site in sd.find_sites(model) if site.kind in ("activation", "join")]
    return sd.insert(model, spec or sd.DropPath(0.4, seed=3), sites[which])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("which", [slice(-1, None), slice(4, None, 3)], ids=["last", "many"])
def test_sample_models(name, which):
    """Random runs too: a function's generator starts from its node's seed in either session."""
    model = live(name, which=which)
    feeds = random_feeds(model)
    parts = split(model)
    assert parts.cut
    check(parts)
    assert_equals_whole(model, feeds, parts)
    assert_equals_whole(sd.set_training_mode(model, False), feeds, still(parts))


def test_a_residual_crosses():
    parts = split(live("resnet18_torchscript", which=slice(9, 10)))
    assert len(parts.cut) == 2
    assert parts.deterministic == ()


@settings(SETTINGS, max_examples=15)
@given(cases())
def test_generated_models(case):
    """Subgraphs that capture values, functions, several outputs, names of all kinds."""
    model = inserted(case, training_mode=True)
    assume(sd.inspect(model).own and any(node.reaches for node in sd.inspect(model).own))
    before = model.SerializeToString(deterministic=True)
    parts = split(model)
    check(parts)
    assert model.SerializeToString(deterministic=True) == before
    for chosen in (True, False):
        assert_equals_whole(model, feeds_of(model, chosen), parts)


def test_kernels(tmp_path):
    del tmp_path
    if not sd.native_available():
        pytest.skip("needs the native library")
    from kernel_sessions import kernel_session

    model = live("resnet18_torchscript", sd.DropBlock2D(0.2, 3, seed=5), slice(9, None, 3))
    feeds = random_feeds(model)
    parts = split(model)
    whole, prefix, suffix = (
        kernel_session(one, DISABLE_ALL) for one in (model, parts.prefix, parts.suffix)
    )
    cut = dict(zip(parts.cut, prefix.run(None, feeds), strict=True))
    for _ in range(3):
        assert whole.run(None, feeds)[0].tobytes() == suffix.run(None, cut)[0].tobytes()


def test_kinds_of_models():
    model = live("resnet1d_dynamo")
    parts = split(ir.from_proto(model))
    assert isinstance(parts.suffix, ir.Model)
    assert isinstance(split(model).prefix, onnx.ModelProto)


def test_what_is_not_handed_over():
    """Constants and shapes of what is read anyway are made again; weights are shared."""
    net = Net(("N", 4, "H", "W"))
    early = net.relu(net.conv("x", 4))
    late = net.relu(net.conv(net.pool(early), 4))
    size = net.op("Slice", net.op("Shape", early), net.const([2], np.int64),
                  net.const([4], np.int64))  # fmt: skip
    up = net.op("Resize", late, "", "", net.op("Concat", net.const([1, 4], np.int64), size, axis=0))
    twice = net.op("Mul", net.op("Constant", value=onnx.numpy_helper.from_array(np.float32(2))), up)
    model = net.model(net.op("Add", twice, early), early)
    model = sd.insert(model, sd.DropPath(0.5, seed=1), [late])
    parts = split(model)
    assert set(parts.cut) == {early, late}
    assert parts.deterministic == (early,)
    kinds = {node.op_type for node in parts.suffix.graph.node}
    assert {"Shape", "Slice", "Constant", "Resize"} <= kinds
    assert not {"Conv", "MaxPool"} & kinds
    assert not any(node.domain for node in parts.prefix.graph.node)
    assert_equals_whole(model, {"x": np.ones((1, 4, 8, 12), np.float32)}, parts)


def test_dropout_on_the_input_leaves_no_prefix():
    net = Net(("N", 4, 8, 8))
    copy = net.op("Identity", "x")
    model = net.model(net.head(net.relu(copy)))
    model.graph.node[0].CopyFrom(
        helper.make_node("Dropout", ["x", "r", "t"], [copy], name="drop", seed=1)
    )
    model.graph.initializer.extend(
        [helper.make_tensor("r", TensorProto.FLOAT, [], [0.5]),
         helper.make_tensor("t", TensorProto.BOOL, [], [True])]
    )  # fmt: skip
    parts = split(model)
    assert parts.prefix is None
    assert parts.cut == ()
    assert [value.name for value in parts.suffix.graph.input] == ["x"]


def test_foreign_sources_and_sequences():
    """What is no tensor is made again, not handed over."""
    net = Net(("N", 4, 8, 8))
    x = net.relu(net.conv("x", 4))
    pieces = net.op("SplitToSequence", x, axis=1, keepdims=1)
    noise = net.op("RandomNormalLike", net.op("GlobalAveragePool", x))
    longer = net.op("SequenceInsert", pieces, noise)
    model = net.model(net.op("SequenceAt", longer, net.const(-1, np.int64)))
    parts = split(model)
    assert "SplitToSequence" in {node.op_type for node in parts.suffix.graph.node}
    assert len(parts.cut) == 2
    found = in_parts(parts, {"x": np.ones((2, 4, 8, 8), np.float32)})
    assert found[parts.stochastic[0]].shape == (2, 4, 1, 1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: onnx.load(MODELS / "resnet1d_dynamo.onnx"), "insert structured dropout with"),
        (lambda: sd.set_training_mode(live("resnet1d_dynamo"), False), "structdrop mode --train"),
        (lambda: standard(), "1 standard Dropout nodes are in inference mode"),
        (lambda: unread(), "no output of the model depends on"),
    ],
)
def test_nothing_random(make, words):
    with pytest.raises(sd.ModelError, match=words):
        split(make())


def standard():
    net = Net(("N", 4, 8, 8))
    return net.model(net.op("Dropout", "x"))


def unread():
    net = Net(("N", 4, 8, 8))
    net.op("RandomNormalLike", "x")
    return net.model(net.relu("x"))


def test_an_unknown_type_at_the_cut():
    net = Net(("N", 4, 8, 8))
    odd = net.op("Odd", "x", domain="elsewhere")
    model = net.model(net.op("Add", odd, net.op("RandomNormalLike", "x")))
    model.opset_import.append(helper.make_opsetid("elsewhere", 1))
    with pytest.raises(sd.UnsupportedModelError, match="element type of 'odd_0'"):
        split(model)
