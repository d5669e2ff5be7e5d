"""Samplers: the law of the naive loop, masks that hang on nothing but seed, image and sample."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from mc_nets import PLACEMENTS, SPECS, classifier, images, live, randomised
from nets import Net
from one_node import session
from onnx import TensorProto, helper

import onnx_structdrop as sd
from onnx_structdrop import mc

needs_kernels = pytest.mark.skipif(not sd.native_available(), reason="needs the native library")
both = pytest.mark.parametrize(
    "native", [pytest.param(True, marks=needs_kernels), False], ids=["kernels", "functions"]
)


def sampled(model, some, samples=8, **options):
    options = {
        "threads": 1, "keep_samples": True, "task": "regression", "chunk": 16, **options
    }  # fmt: skip
    result = mc.Sampler(model, samples, **options)(some)
    return result.only.samples


def naive(model, some, samples):
    """Return samples of runs of the whole model, one image at a time as frameworks count it."""
    alone = onnx.ModelProto()
    alone.CopyFrom(model)
    for node in alone.graph.node:
        for attribute in node.attribute:
            if attribute.name == "normalize":
                attribute.i = 2
    runner = session(alone)
    return np.stack([runner.run(None, {"x": some})[0] for _ in range(samples)])


@both
@pytest.mark.parametrize("where", PLACEMENTS)
@pytest.mark.parametrize("spec", ["DropBlock", "Dropout"])
def test_mean_and_variance_are_those_of_the_naive_loop(native, where, spec):
    """At 5 sigma: for 80 numbers a false alarm comes once in 20000 seeds, and these are fixed."""
    model, some, count = live(spec, where), images(8), 600
    ours = sampled(model, some, count, native=native, chunk=64).astype(np.float64)
    theirs = naive(model, some, count).astype(np.float64)
    assert ours.std(axis=0).min() > 0
    error = np.sqrt((ours.var(axis=0) + theirs.var(axis=0)) / count)
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 5 * error).all()

    def spread(found):
        # Of a variance: the fourth moment says how far off it is.
        off = (found - found.mean(axis=0)) ** 2
        return off.mean(axis=0), off.var(axis=0) / count

    (one, unsure), (other, less_so) = spread(ours), spread(theirs)
    assert (np.abs(one - other) < 5 * np.sqrt(unsure + less_so)).all()


@needs_kernels
@pytest.mark.parametrize("spec", SPECS)
def test_masks_hang_on_seed_image_and_sample_alone(spec):
    """Sums of masks are whole numbers, so that they show every mask whatever the order of sums."""
    net = Net(("N", 6, 8, 8))
    dropped = net.relu(net.conv("x", 6))
    bias = net.initializers[-1]
    bias.CopyFrom(onnx.numpy_helper.from_array(np.ones(6, np.float32), bias.name))
    kept = net.op("Cast", net.op("Cast", dropped, to=TensorProto.BOOL), to=TensorProto.FLOAT)
    rates = net.op("Mul", kept, net.const(2.0 ** np.arange(8).reshape(8, 1)))
    model = net.model(net.op("ReduceSum", rates, net.const([2], np.int64), keepdims=0))
    model = sd.insert(model, SPECS[spec], [dropped])
    some = images(7, (6, 8, 8))
    expected = sampled(model, some, 9, seed=4)
    distinct = {one.tobytes() for sample in expected for one in sample}
    assert len(distinct) > 50 if spec in ("DropBlock", "Dropout") else len(distinct) > 1
    for options in ({"chunk": 1}, {"chunk": 5, "batch": 3}, {"chunk": 64, "batch": 7},
                    {"chunk": 63, "threads": 2}, {"batch": 2}):  # fmt: skip
        found = sampled(model, some, 9, seed=4, **options)
        assert found.tobytes() == expected.tobytes(), options
    assert sampled(model, some, 4, seed=4).tobytes() == expected[:4].tobytes()
    assert sampled(model, some, 9, seed=5).tobytes() != expected.tobytes()
    sampler = mc.Sampler(model, 9, seed=4, keep_samples=True, task="regression")
    parts = list(sampler.stream([some[:2], some[2:3], some[3:]]))
    joined = mc.Result.concat(parts).only.samples
    assert joined.tobytes() == expected.tobytes()
    alone = sampler(some[5:6], first_image=5).only.samples
    assert alone.tobytes() == expected[:, 5:6].tobytes()


@needs_kernels
@pytest.mark.parametrize("where", ["head", "late"])
def test_an_image_alone_gives_the_same_bytes_as_in_a_batch(where):
    """Not promised for every machine: onnxruntime may sum up in an order of the batch's size."""
    model, some = live(where=where), images(64)
    together = sampled(model, some, 4, chunk=24)
    for image in (0, 17, 63):
        sampler = mc.Sampler(model, 4, keep_samples=True, task="regression", threads=1, chunk=3)
        alone = sampler(some[image : image + 1], first_image=image).only.samples[:, 0]
        assert alone.tobytes() == together[:, image].tobytes()


@needs_kernels
def test_equal_chunks_give_equal_bytes():
    model, some = live(), images(5)
    first, second = (sampled(model, some, 6, chunk=4, batch=5) for _ in range(2))
    assert first.tobytes() == second.tobytes()


@both
def test_a_fixed_batch(native):
    """Its suffix takes other numbers of rows, and the last batch is filled up."""
    for batch in (1, 4):
        model, some = live(shape=(batch, 3, 16, 16)), images(6)
        sampler = mc.Sampler(model, 200, native=native, threads=1, chunk=50)
        found = sampler(some).only
        assert sampler.plans[0].stacked
        free = mc.Sampler(live(), 200, native=native, threads=1, chunk=50)(some).only
        if native:
            np.testing.assert_allclose(found.mean, free.mean, rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_allclose(found.mean, free.mean, atol=0.2)


def shapes_across(batch):
    """Return a network whose sizes are computed before the cut, from what is not handed over."""
    net = Net((batch, 4, 8, 8))
    x = net.relu(net.conv("x", 4))
    shape = net.op("Concat", net.op("Slice", net.op("Shape", net.pool(x)),
                   net.const([0], np.int64), net.const([1], np.int64)),
                   net.const([-1], np.int64), axis=0)  # fmt: skip
    late = net.relu(net.conv(x, 4))
    flat = net.op("Reshape", late, shape)
    weight = net.const(np.zeros((4 * 64, 3)))
    model = randomised(net.model(net.op("MatMul", flat, weight)))
    return sd.insert(model, sd.SpatialDropout2D(0.3, seed=1), [late])


@both
def test_shapes_across_the_cut(native):
    sampler = mc.Sampler(shapes_across("N"), 5, native=native, threads=1, keep_samples=True)
    some = images(3, (4, 8, 8))
    found = sampler(some).only.samples
    (plan,) = sampler.plans
    assert not plan.stacked
    assert "hangs on the batch as a whole" in plan.reason
    assert found.shape == (5, 3, 3)
    assert len({one.tobytes() for one in found[:, 0]}) > 3
    if native:
        alone = sampler(some[2:], first_image=2).only.samples
        np.testing.assert_allclose(alone[:, 0], found[:, 2], rtol=1e-4, atol=1e-5)
    with pytest.raises(sd.ArgumentError, match="leave chunk out"):
        mc.Sampler(shapes_across("N"), 5, chunk=2)(some)


def test_rows_that_hang_together():
    """A softmax over the batch would mix what shares a run."""
    net = Net(("N", 4, 8, 8))
    late = net.relu(net.conv("x", 4))
    scores = net.op("Flatten", net.op("GlobalAveragePool", late))
    model = randomised(net.model(net.op("Softmax", scores, axis=0)))
    model = sd.insert(model, sd.SpatialDropout2D(0.3, seed=1), [late])
    sampler = mc.Sampler(model, 3, task="regression")
    sampler(images(2, (4, 8, 8)))
    assert "depend on the rows beside them" in sampler.plans[0].reason


@both
@pytest.mark.parametrize("batch", ["N", 3])
def test_a_batch_that_is_not_axis_0_where_it_is_dropped(native, batch):
    net = Net((batch, 4, 8, 8))
    late = net.relu(net.conv(net.op("Transpose", net.relu("x"), perm=[1, 0, 2, 3]), 4))
    net.initializers[0].CopyFrom(
        onnx.numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), net.initializers[0].name)
    )
    back = net.op("Transpose", late, perm=[1, 0, 2, 3])
    model = net.model(net.op("Flatten", net.op("GlobalAveragePool", back)))
    model = sd.insert(model, sd.SpatialDropout2D(0.3, seed=1), [late])
    with pytest.raises(sd.UnsupportedModelError, match="the batch has to be axis 0"):
        mc.Sampler(model, 3, native=native)(images(3, (4, 8, 8)))


def standard_dropout(*, mode=True, as_input=False, opset=18):
    net = Net(("N", 3, 8, 8), opset)
    x = net.op("Flatten", net.op("GlobalAveragePool", net.relu(net.conv("x", 16))))
    flag = "mode" if as_input else net.const(mode, np.bool_)
    dropped = net.op("Dropout", x, net.const(0.5), flag)
    if as_input:
        net.inputs.append(helper.make_tensor_value_info("mode", TensorProto.BOOL, []))
    weight = net.const(np.zeros((5, 16)))
    return randomised(net.model(net.op("Gemm", dropped, weight, transB=1)))


@both
def test_standard_dropout_is_sampled_though_onnxruntime_deletes_it(native):
    some = images(3, (3, 8, 8))
    model = standard_dropout()
    deleted = session(model)
    assert np.array_equal(*(deleted.run(None, {"x": some})[0] for _ in range(2)))
    result = mc.Sampler(model, 2000, native=native, threads=1)(some).only
    np.testing.assert_allclose(
        mc.Sampler(model, 2000, native=native, threads=1, task="regression")(some).only.mean,
        deleted.run(None, {"x": some})[0], atol=0.15,
    )  # fmt: skip
    assert result.variance.min() > 0


@both
def test_a_mode_that_is_an_input(native):
    model, some = standard_dropout(as_input=True), images(3, (3, 8, 8))
    sampler = mc.Sampler(model, 20, native=native, task="regression")
    assert sampler({"x": some, "mode": np.array(True)}).only.variance.min() > 0
    assert sampler({"x": some, "mode": False}).only.variance.max() < 1e-12


@both
def test_a_ratio_that_is_an_input(native):
    model = classifier()
    site = [site for site in sd.find_sites(model) if site.kind == "join"][-1]
    model = sd.insert(model, sd.DropBlock2D(0.1, 3, seed=1), site, ratio_input="rate")
    sampler = mc.Sampler(model, 40, native=native, task="regression", chunk=40)
    found = [
        sampler({"x": images(4), "rate": np.float32(rate)}).only.variance.mean()
        for rate in (0.0, 0.1, 0.4)
    ]
    assert found[0] < 1e-12 < found[1] < found[2]


@both
def test_dropout_in_functions_and_subgraphs(native):
    """Draws reach a node wherever it is."""
    net = Net(("N", 4, 8, 8))
    x = net.relu(net.conv("x", 4))
    net.inputs.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    branches = {}
    kernel = net.const(np.zeros((4, 4, 3, 3)))
    for label, op in (("then_branch", "Relu"), ("else_branch", "Sigmoid")):
        made = [
            helper.make_node("Conv", [x, kernel], [f"{label}_c"], name=f"{label}_c", pads=[1] * 4),
            helper.make_node(op, [f"{label}_c"], [label], name=label),
        ]
        result = helper.make_tensor_value_info(label, TensorProto.FLOAT, ["N", 4, 8, 8])
        branches[label] = helper.make_graph(made, label, [], [result])
    inner = net.op("If", "c", **branches)
    called = net.op("act", inner, net.const(np.zeros((4, 4, 3, 3))), domain="local")
    model = net.model(net.op("Flatten", net.op("GlobalAveragePool", called)))
    imports = [helper.make_opsetid("", 18)]
    body = [
        helper.make_node("Conv", ["v", "k"], ["c"], name="c", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["w"], name="w"),
    ]
    model.functions.append(helper.make_function("local", "act", ["v", "k"], ["w"], body, imports))
    model.opset_import.append(helper.make_opsetid("local", 1))
    model = randomised(onnx.shape_inference.infer_shapes(model))
    sites = [site for site in sd.find_sites(model) if site.scope]
    assert len(sites) == 3
    model = sd.insert(model, sd.SpatialDropout2D(0.4, seed=2), sites)
    some = {"x": images(4, (4, 8, 8)), "c": np.array(True)}
    sampler = mc.Sampler(model, 9, native=native, keep_samples=True, task="regression")
    found = sampler(some).only.samples
    assert sampler.plans[0].stacked
    assert len({one.tobytes() for sample in found for one in sample}) > 20


@both
@pytest.mark.parametrize("batch", ["N", 1])
@pytest.mark.parametrize("element", ["FLOAT16", "BFLOAT16", "DOUBLE"])
def test_element_types(native, batch, element):
    """A cut of a type that NumPy lacks is handed over as well."""
    kind = getattr(TensorProto, element)
    net = Net((batch, 4, 8, 8))
    late = net.relu(net.conv("x", 4))
    narrow = net.op("Cast", late, to=kind)
    dropped = net.op("Dropout", narrow, net.const(0.4), net.const(True, np.bool_))
    wide = net.op("Cast", dropped, to=TensorProto.FLOAT)
    model = randomised(net.model(net.op("Flatten", net.op("GlobalAveragePool", wide))))
    sampler = mc.Sampler(model, 6, native=native, keep_samples=True, task="regression", chunk=4)
    found = sampler(images(3, (4, 8, 8))).only.samples
    assert sampler.plans[0].stacked
    assert len({one.tobytes() for sample in found for one in sample}) == 18


def test_foreign_randomness_runs_as_it_is():
    net = Net(("N", 4, 8, 8), 18)
    x = net.relu(net.conv("x", 4))
    noisy = net.op("Add", x, net.op("RandomNormalLike", x))
    model = randomised(net.model(net.op("Flatten", net.op("GlobalAveragePool", noisy))))
    sampler = mc.Sampler(model, 50, task="regression")
    found = sampler(images(3, (4, 8, 8))).only
    assert not sampler.plans[0].stacked
    assert "RandomNormalLike" in sampler.plans[0].reason
    assert found.variance.min() > 0


def test_outputs_and_kinds(tmp_path):
    net = Net(("N", 4, 8, 8))
    early = net.relu(net.conv("x", 4))
    late = net.relu(net.conv(early, 6))
    scores = net.op("Flatten", net.op("GlobalAveragePool", late))
    model = randomised(net.model(scores, late, net.op("ArgMax", scores, axis=1), early))
    model.graph.output[2].type.tensor_type.elem_type = TensorProto.INT64
    model = sd.insert(model, sd.DropPath(0.5, seed=1), [late])
    (name, maps, _, early) = [value.name for value in model.graph.output]
    with pytest.raises(sd.ArgumentError, match="holds int64"):
        mc.Sampler(model)(images(2, (4, 8, 8)))
    path = tmp_path / "net.onnx"
    sd.save(model, path)
    sampler = mc.Sampler(path, 4, outputs=[maps, name], task={maps: "dense"},
                         class_axis={maps: 1}, progress=True)  # fmt: skip
    result = sampler(images(2, (4, 8, 8)))
    assert list(result) == [name, maps]
    assert result[maps].kind.task == "dense"
    assert set(sampler.kinds) == {name, maps}
    with pytest.raises(sd.ArgumentError, match="does not depend on any random node"):
        mc.Sampler(model, outputs=[early])
    with pytest.raises(sd.ArgumentError, match="no output 'other'"):
        mc.Sampler(model, outputs=["other"])


def test_an_output_without_a_batch():
    net = Net(("N", 4, 8, 8))
    late = net.relu(net.conv("x", 4))
    model = randomised(net.model(net.op("ReduceSum", late, keepdims=0)))
    model = sd.insert(model, sd.DropPath(0.5, seed=1), [late])
    with pytest.raises(sd.ModelError, match="axis 0 is to be the batch"):
        mc.Sampler(model, task="regression")(images(2, (4, 8, 8)))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"samples": 0}, sd.ArgumentError, "samples is 0; allowed is 1 to 1048576"),
        ({"samples": 2.5}, sd.ArgumentTypeError, "samples is 2.5"),
        ({"samples": True}, sd.ArgumentTypeError, "samples is True"),
        ({"samples": 2**20 + 1}, sd.ArgumentError, "allowed is 1 to"),
        ({"chunk": 0}, sd.ArgumentError, "chunk is 0; allowed is 1 or more"),
        ({"batch": -1}, sd.ArgumentError, "batch is -1"),
        ({"threads": "2"}, sd.ArgumentTypeError, "threads"),
        ({"seed": -1}, sd.ArgumentError, "seed"),
        ({"seed": None}, sd.ArgumentTypeError, "seed"),
        ({"native": "yes"}, sd.ArgumentError, "allowed are True, False and 'auto'"),
        ({"quantiles": [1.5]}, sd.ArgumentError, "quantile"),
        ({"quantiles": "all"}, sd.ArgumentTypeError, "quantiles"),
        ({"progress": 1}, sd.ArgumentTypeError, "progress"),
        ({"outputs": "logits"}, sd.ArgumentTypeError, "outputs"),
    ],
)
def test_wrong_options(options, error, words):
    with pytest.raises(error, match=words):
        mc.Sampler(live(where="head"), **options)


def test_a_fixed_batch_is_not_another_one():
    with pytest.raises(sd.ArgumentError, match="fixed at 4"):
        mc.Sampler(live(shape=(4, 3, 16, 16)), batch=3)


def test_earlier_results_of_a_stream_hold():
    some = images(2)
    broken = images(2)
    broken[1, 0, 3, 4] = np.nan
    stream = mc.Sampler(live(), 3).stream([some, broken])
    assert next(stream).images == 2
    with pytest.raises(sd.ArgumentError, match=r"image 3 of input 'x' holds nan at \[0, 3, 4\]"):
        next(stream)
    with pytest.raises(sd.ArgumentError, match="no images"):
        list(mc.Sampler(live(), 3).stream([]))
    with pytest.raises(sd.ArgumentError, match="beyond the range"):
        mc.Sampler(live(), 3)(some, first_image=2**28 - 1)


def test_images_that_are_not_finite_where_that_is_allowed():
    broken = images(2)
    broken[1] = np.inf
    result = mc.Sampler(live(), 3, allow_nonfinite=True, task="regression")(broken).only
    assert np.isfinite(result.mean[0]).all()
    assert not np.isfinite(result.mean[1]).all()
