"""Each case runs what it is named after, and is found out where it does not."""

from __future__ import annotations

import itertools
import math

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest

import onnx_structdrop as sd
from onnx_structdrop.bench import cases, models, suites
from onnx_structdrop.bench.checks import Expected, check_dropout, check_equal
from onnx_structdrop.bench.goals import LARGE, SMALL
from onnx_structdrop.bench.sessions import copier, session_call
from onnx_structdrop.bench.tensors import DTYPES, Tensors
from onnx_structdrop.schema import DOMAIN

SHAPES = [(4, 8, 40), (4, 8, 12, 11), (2, 3, 6, 5, 7), (1, 1, 1, 1), (1, 1, 4, 4)]
ELEMENTS = ["float16", "bfloat16", "float32", "float64"]


def groups(shape, threads=2):
    yield suites.standard_group(shape, threads)
    yield suites.function_group(shape, threads)
    for name in suites.SWEEPS:
        if name != "size":
            yield from suites.sweep(name, shape, threads)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_case_passes_its_check(shape):
    for group in groups(shape):
        tensors = Tensors(group.shape)
        for case in group.cases:
            call = case.make(tensors)
            for _ in range(3):
                call.run()
                call.check()


def test_the_smallest_group_and_the_sweep_of_sizes():
    small = suites.smallest_group(1)
    assert math.prod(small.shape) * 4 == 64
    sizes = [4 * math.prod(group.shape) for group in suites.sweep("size", (1, 1, 1), 1)]
    assert sizes[0] == 64
    assert sizes[-1] > 100_000_000
    assert sizes == sorted(set(sizes))
    for case in small.cases:
        call = case.make(Tensors(small.shape))
        call.run()
        call.check()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_keys_are_unique_and_units_are_there(threads):
    for group in [
        *groups((2, 3, 4, 5), threads),
        suites.smallest_group(threads),
        *suites.sweep("size", (), threads),
    ]:
        keys = [case.key for case in group.cases]
        assert len(set(keys)) == len(keys)
        assert {case.unit for case in group.cases} <= set(keys)
        assert all(1 <= case.threads <= threads for case in group.cases)


def test_goals_name_cases():
    keys = {case.key for case in suites.standard_group((2, 3, 4, 5), 2).cases} | {"torchvision"}
    for goal in LARGE:
        assert {goal.case, goal.other, goal.less or goal.case} <= keys
    keys = {case.key for case in suites.smallest_group(2).cases}
    assert all({goal.case, goal.other} <= keys for goal in SMALL)


def test_threads_are_powers_of_two_and_the_last():
    (group,) = suites.sweep("threads", (2, 3, 4, 5), 6)
    assert sorted({case.threads for case in group.cases}) == [1, 2, 4, 6]
    assert {case.parameter for case in group.cases} == {1, 2, 4, 6}


@pytest.mark.parametrize("element", ELEMENTS)
def test_kernel_models_run_only_where_the_library_is(element):
    shape = (2, 3, 8, 8)
    spec = sd.DropBlock2D(0.1, 3)
    bare = [
        models.structured_model(spec, shape, element=element),
        models.structured_model(spec, shape, element=element, mask_shape=shape),
        models.gradient_model(shape, element=element),
        models.chain_model(spec, shape, 2, shape_known=True),
    ]
    for content in bare:
        assert not onnx.load_from_string(content).functions
        with pytest.raises(Exception, match=DOMAIN):
            onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        options = onnxruntime.SessionOptions()
        sd.register(options)
        onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def test_function_models_hold_their_function():
    content = models.structured_model(sd.DropPath(0.1), (2, 3, 4), as_function=True)
    model = onnx.load_from_string(content)
    assert [function.name for function in model.functions] == ["NoiseShapeDropout"]
    onnx.checker.check_model(model, full_check=True)


def test_standard_dropout_survives():
    # Its own check fails where onnxruntime has deleted it: then nothing is dropped.
    tensors = Tensors((4, 8, 16, 16))
    call = cases.standard_dropout(1, 0.5).make(tensors)
    call.run()
    call.check()
    assert 0.3 < (tensors.output("float32") == 0).mean() < 0.7


def test_nodes_in_a_row_draw_masks_of_their_own():
    graph = onnx.load_from_string(
        models.chain_model(sd.DropPath(0.1), (2, 3, 4), 6, shape_known=False)
    ).graph
    seeds = [
        attribute.i
        for node in graph.node
        for attribute in node.attribute
        if attribute.name == "seed"
    ]
    assert len(set(seeds)) == len(seeds) == 6
    assert not graph.input[0].type.tensor_type.HasField("shape")


@pytest.mark.parametrize("element", ELEMENTS)
def test_checks_find_what_is_wrong(element):
    dtype = DTYPES[element]
    data = Tensors((8, 16, 8, 8)).data(element)
    rng = np.random.default_rng(0)
    mask = rng.random(data.shape) > 0.25
    output = np.where(mask, data.astype(np.float64) * 4 / 3, 0).astype(dtype)
    expected = Expected(0.25, data.size)
    check_dropout("good", data, output, expected, mask)
    check_dropout("nothing left", data, np.zeros_like(data), Expected(1.0, 10.0))
    with pytest.raises(sd.CheckFailedError, match=r"x dropped 0\.00% instead of 25\.00%"):
        check_dropout("x", data, data, expected)
    with pytest.raises(sd.CheckFailedError, match="dropped"):
        check_dropout("x", data, output, Expected(0.35, data.size))
    with pytest.raises(sd.CheckFailedError, match="mask of something else"):
        check_dropout("x", data, output, expected, ~mask)
    uneven = output.copy()
    uneven[:4] = (uneven[:4].astype(np.float32) * 1.1).astype(dtype)
    with pytest.raises(sd.CheckFailedError, match="did not scale"):
        check_dropout("x", data, uneven, expected, mask)
    with pytest.raises(sd.CheckFailedError, match="did not scale"):
        check_dropout("x", data, -output, expected, mask)
    with pytest.raises(sd.CheckFailedError, match="did not compute"):
        check_equal("x", data, output)


def test_expected_rates_and_pieces():
    shape = (32, 64, 56, 56)
    assert cases.expected_of(sd.SpatialDropout2D(0.1), shape) == (0.1, 32 * 64)
    assert cases.expected_of(sd.DropPath(0.1), shape) == (0.1, 32)
    assert cases.expected_of(sd.Dropout(0.1), shape) == (0.1, math.prod(shape))
    rate, pieces = cases.expected_of(sd.DropBlock2D(0.1, (7, 5), shared_axes=(1,)), shape)
    assert rate == sd.DropBlock2D(0.1, (7, 5)).realised_rate(shape)
    assert pieces == pytest.approx(32 * 56 * 56 / 35)


@pytest.mark.parametrize("element", ELEMENTS)
def test_data_is_shared_aligned_and_without_zeros(element):
    tensors = Tensors((3, 5, 700, 111))
    data, output = tensors.data(element), tensors.output(element)
    assert data is tensors.data(element)
    assert output is tensors.output(element)
    assert data.dtype == DTYPES[element]
    assert data.shape == output.shape == (3, 5, 700, 111)
    assert data.flags.c_contiguous
    assert not (data == 0).any()
    assert {data.ctypes.data % 4096, output.ctypes.data % 4096} == {0}
    assert not np.shares_memory(data, output)
    assert not np.shares_memory(output, tensors.empty(element))


def test_memory_that_is_not_there():
    with pytest.raises(sd.ArgumentError, match="no memory for a tensor of"):
        Tensors((1 << 20, 1 << 20, 1 << 20)).data("float32")


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 1000, (1 << 22) + 4, 3_000_001])
def test_copies_are_whole(threads, size):
    source = np.arange(size, dtype=np.float32)
    target = np.zeros_like(source)
    copier(source, target, threads)()
    np.testing.assert_array_equal(source, target)


def test_bound_memory_outlives_its_names():
    shape = (4, 4, 4)
    output = np.zeros(shape, np.float32)
    run = session_call(
        models.multiply_model(shape),
        {models.DATA: np.full(shape, 3, np.float32)},
        {models.OUTPUT: output},
        1,
        library=False,
    )
    for _ in range(100):
        np.full(shape, 5, np.float32)
        run()
    assert (output == 6).all()


def test_bfloat16_is_read_and_written_as_such():
    shape = (2, 4, 8, 8)
    tensors = Tensors(shape)
    call = cases.kernel(
        "k", "kernel", sd.SpatialDropout2D(0.5), 1, element="bfloat16"
    ).make(tensors)  # fmt: skip
    call.run()
    call.check()
    output = tensors.output("bfloat16")
    assert output.dtype == ml_dtypes.bfloat16
    kept = output != 0
    np.testing.assert_array_equal(
        output[kept].astype(np.float32), 2 * tensors.data("bfloat16")[kept].astype(np.float32)
    )


def test_runs_differ():
    tensors = Tensors((4, 8, 8, 8))
    call = cases.kernel("k", "kernel", sd.DropBlock2D(0.2, 3), 1).make(tensors)
    seen = []
    for _ in range(3):
        call.run()
        seen.append((tensors.output("float32") == 0).tobytes())
    assert all(first != second for first, second in itertools.combinations(seen, 2))


def test_shapes_that_cannot_be_timed():
    for shape, words in [((4, 4), "rank 2"), ((1,) * 6, "rank 6"), ((2, 0, 3), "below 1")]:
        with pytest.raises(sd.ArgumentError, match=words):
            suites.check_shape(shape)
