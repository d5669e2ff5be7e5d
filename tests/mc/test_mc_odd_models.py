"""Models and calls that are unusual: rows that hang together, axes in other places, threads."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_structdrop as sd
from onnx_structdrop import mc
from onnx_structdrop.schema import DOMAIN, VERSION

FLOAT = TensorProto.FLOAT
OPSETS = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, VERSION)]


def pooled(*tail, dims=("N", 4), element=FLOAT, dropped="c", drop=None, **more):
    """Return a model that drops from what it is fed, takes means of maps, and goes on with `f`."""
    constants = {
        "ratio": np.float32(0.4), "on": np.array(True), "zero": np.array([0]), **more
    }  # fmt: skip
    nodes = [
        helper.make_node("Cast", ["x"], ["c"], to=FLOAT),
        drop or helper.make_node("Dropout", [dropped, "ratio", "on"], ["d"], name="drop"),
        helper.make_node("GlobalAveragePool", ["d"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        *tail,
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", element, ["N", 4, 3, 3])],
        [helper.make_tensor_value_info("y", FLOAT, dims)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=10)


def centred(element=FLOAT):
    """Return a model whose rows have mean 0 over the batch."""
    return pooled(
        helper.make_node("ReduceMean", ["f", "zero"], ["m"], keepdims=1),
        helper.make_node("Sub", ["f", "m"], ["y"]),
        element=element,
    )


def plain():
    return pooled(helper.make_node("Identity", ["f"], ["y"]))


def maps(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 4, 3, 3)).astype(np.float32)


WHOLE = np.round(4 * maps(1))  # sums of whole numbers are exact, in any order
FLIPPED = np.concatenate([WHOLE, WHOLE[..., ::-1]])


@pytest.mark.parametrize(
    ("element", "some"),
    [
        (FLOAT, WHOLE),
        (FLOAT, FLIPPED),
        (FLOAT, np.zeros((1, 4, 3, 3), np.float32)),
        (TensorProto.UINT8, np.full((2, 4, 3, 3), 7, np.uint8)),
        (TensorProto.UINT8, np.zeros((1, 4, 3, 3), np.uint8)),
    ],
    ids=["one", "flipped", "zeros", "equal", "black"],
)
def test_rows_that_hang_together_whatever_the_first_images(element, some):
    """A second image of the same means would hide what the rows do to each other."""
    sampler = mc.Sampler(
        centred(element), 8, threads=1, task="regression", keep_samples=True, allow_nonfinite=True
    )
    found = sampler(some).only.samples
    assert not sampler.plans[0].stacked
    np.testing.assert_allclose(found.mean(axis=1), 0, atol=1e-5)


@pytest.mark.parametrize("inside", [False, True])
def test_rows_that_hang_together_behind_dead_features(inside):
    """Where the first images leave nothing behind a ReLU, they tell nothing."""
    model = centred()
    relu = helper.make_node("Relu", ["d" if inside else "c"], ["q"])
    at = 2 if inside else 1
    model.graph.node[at].input[0] = "q"
    model.graph.node.insert(at, relu)
    sampler = mc.Sampler(model, 8, threads=1, task="regression", keep_samples=True)
    sampler(-1 - np.abs(maps(2)))
    np.testing.assert_allclose(sampler(maps(2)).only.samples.mean(axis=1), 0, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2])
def test_weights_that_are_inputs_with_defaults(count):
    """Old exporters list all initializers as inputs."""
    model = pooled(
        helper.make_node("Mul", ["f", "factor"], ["y"]), factor=np.full(4, 3, np.float32)
    )
    model.graph.node.insert(1, helper.make_node("Mul", ["c", "factor4"], ["s"]))
    model.graph.node[2].input[0] = "s"
    four = np.full((4, 1, 1), 2, np.float32)
    model.graph.initializer.append(numpy_helper.from_array(four, "factor4"))
    for name, dims in (("factor", [4]), ("factor4", [4, 1, 1])):
        model.graph.input.append(helper.make_tensor_value_info(name, FLOAT, dims))
    sampler = mc.Sampler(model, 5, threads=1, chunk=4, task="regression", keep_samples=True)
    found = [
        sampler({"x": maps(count), **given}).only.samples
        for given in ({}, {"factor": np.ones(4, np.float32)}, {"factor4": four / 2})
    ]
    np.testing.assert_allclose(found[0], 3 * found[1], rtol=1e-5)
    np.testing.assert_allclose(found[0], 2 * found[2], rtol=1e-5)


def looped(op="Loop"):
    """Return a model that puts out what three iterations keep of the same ones."""
    drop = helper.make_node(
        "SpatialDropout", ["s", "ratio"], ["k", "", ""], domain=DOMAIN, training_mode=1, seed=1
    )
    value = helper.make_tensor_value_info
    states = [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, [])]
    same = [helper.make_node("Identity", [a], [b]) for a, b in (("go", "on"), ("s", "t"))]
    results = [value("on", TensorProto.BOOL, [])] if op == "Loop" else []
    maps_of = [value(name, FLOAT, ["N", 4, 3, 3]) for name in ("s", "t", "k")]
    if op == "Loop":
        inputs, more = [*states, maps_of[0]], {}
        call = ["three", "", "x"]
    else:
        inputs, more = [maps_of[0], value("i", TensorProto.INT64, [])], {"num_scan_inputs": 1}
        call, same = ["x", "steps"], same[1:]
    body = helper.make_graph([drop, *same], "body", inputs, [*results, *maps_of[1:]])
    nodes = [
        helper.make_node(op, call, ["last", "stack"], body=body, **more),
        helper.make_node("Transpose", ["stack"], ["y"], perm=[1, 0, 2, 3, 4]),
    ]
    constants = {"ratio": np.float32(0.4), "three": np.array(3), "steps": np.arange(3)}
    graph = helper.make_graph(
        nodes,
        "graph",
        [value("x", FLOAT, ["N", 4, 3, 3])],
        [value("y", FLOAT, ["N", 3, 4, 3, 3])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=10)


@pytest.mark.parametrize("native", [True, False])
def test_iterations_of_a_loop_drop_on_their_own(native):
    options = {"task": "regression", "native": native, "threads": 1, "keep_samples": True}
    sampler = mc.Sampler(looped(), 300, chunk=50, **options)
    kept = sampler(np.ones((4, 4, 3, 3), np.float32)).only.samples[..., 0, 0] > 0
    first, second, third = np.moveaxis(kept, 2, 0).reshape(3, -1)
    limit = 5 / len(first) ** 0.5
    assert abs(np.corrcoef([first, second, third])[np.triu_indices(3, 1)]).max() < limit
    if native:
        other = mc.Sampler(looped(), 300, chunk=7, **options)
        again = other(np.ones((2, 4, 3, 3), np.float32), first_image=2).only.samples[..., 0, 0] > 0
        np.testing.assert_array_equal(again, kept[:, 2:])


def test_iterations_without_a_number():
    sampler = mc.Sampler(looped("Scan"), 2, threads=1, task="regression", native=True)
    with pytest.raises(sd.UnsupportedModelError, match="pass native=False"):
        sampler(maps(2))


@pytest.mark.parametrize("count", [2, 4, 5])
def test_an_output_with_the_batch_on_axis_1(count):
    """With as many images as classes, shapes alone do not tell."""
    turned = pooled(helper.make_node("Transpose", ["f"], ["y"], perm=[1, 0]), dims=(4, "N"))
    with pytest.raises(sd.ModelError, match="axis 0 is to be the batch"):
        mc.Sampler(turned, 2, threads=1, task="regression")(maps(count))


@pytest.mark.parametrize("count", [2, 4, 5])
def test_dropout_with_the_batch_on_axis_1(count):
    drop = pooled(helper.make_node("Transpose", ["f"], ["y"], perm=[1, 0]), dropped="t")
    drop.graph.node.insert(1, helper.make_node("Transpose", ["c"], ["t"], perm=[1, 0, 2, 3]))
    with pytest.raises(sd.UnsupportedModelError, match="the batch has to be axis 0"):
        mc.Sampler(drop, 2, threads=1, task="regression")(maps(count))


def test_attributes_that_are_left_to_their_defaults():
    """Nodes that insert wrote say all of them; hand-written ones need not."""

    def block(**attributes):
        return pooled(
            helper.make_node("Identity", ["f"], ["y"]),
            drop=helper.make_node(
                "DropBlock", ["c", "ratio"], ["d"], domain=DOMAIN, training_mode=1, seed=1,
                **attributes,
            ),
        )  # fmt: skip

    options = {"threads": 1, "task": "regression", "keep_samples": True, "chunk": 4}
    said = block(block_size=[2, 2], channel_axis=1, seed_region=0, normalize=1)
    found = [
        mc.Sampler(model, 6, **options)(maps(3)).only.samples
        for model in (block(block_size=[2, 2]), said)
    ]
    np.testing.assert_array_equal(*found)
    assert found[0].std(axis=0).min() > 0
    with pytest.raises(sd.ModelError, match="has no attribute block_size"):
        mc.Sampler(block())


def test_threads_that_share_a_sampler():
    sampler = mc.Sampler(plain(), 24, threads=1, chunk=5, task="regression")
    some = [maps(4, seed) for seed in range(3)]
    expected = [sampler(one).only.mean for one in some]
    wrong = []

    def work(index):
        for _ in range(10):
            if not np.array_equal(sampler(some[index]).only.mean, expected[index]):
                wrong.append(index)

    errors = []
    before, threading.excepthook = threading.excepthook, lambda found: errors.append(found)
    try:
        threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        threading.excepthook = before
    assert (wrong, errors) == ([], [])


@pytest.mark.parametrize("how", [copy.deepcopy, pickle.dumps])
def test_copies_are_refused_in_words(how):
    with pytest.raises(sd.ArgumentTypeError, match="make one there"):
        how(mc.Sampler(plain(), 2, threads=1))


def test_the_image_that_turns_out_to_hold_no_probabilities_has_its_number_in_the_stream():
    model = pooled(helper.make_node("Identity", ["f"], ["y"]), ratio=np.float32(0))
    good = np.full((3, 4, 3, 3), 0.25, np.float32)
    bad = good.copy()
    bad[1] = 5
    stream = mc.Sampler(model, 2, threads=1).stream([good, bad])
    next(stream)
    with pytest.raises(sd.ArgumentError, match="image 4 has values outside"):
        next(stream)


def test_no_memory_for_all_samples(monkeypatch):
    zeros = np.zeros

    def scarce(shape, *arguments, **named):
        if np.ndim(shape) and shape[0] == 17:
            raise MemoryError
        return zeros(shape, *arguments, **named)

    sampler = mc.Sampler(plain(), 17, threads=1, quantiles=[0.5], chunk=4)
    monkeypatch.setattr(np, "zeros", scarce)
    with pytest.raises(sd.ArgumentError, match="no memory for 17 samples of 3 images"):
        sampler(maps(3))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"outputs": 3}, sd.ArgumentTypeError, "outputs must be a list"),
        ({"task": {"z": "regression"}}, sd.ArgumentError, "task is given for 'z'"),
        ({"class_axis": {"z": 1}}, sd.ArgumentError, "class_axis is given for 'z'"),
        ({"threads": 1 << 20}, sd.ArgumentError, "threads is 1048576; allowed is 1 to 1024"),
    ],
)
def test_wrong_options(options, error, words):
    with pytest.raises(error, match=words):
        mc.Sampler(plain(), **options)


def test_a_stream_of_nothing_that_can_be_iterated():
    with pytest.raises(sd.ArgumentTypeError, match="batches must be iterable, not NoneType"):
        list(mc.Sampler(plain(), threads=1).stream(None))
