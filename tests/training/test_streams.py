"""A session that begins at run n draws what another one draws in its run n."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from one_node import attributes_of, dropped, one_node, random_data, session

from onnx_structdrop import native_available, register
from onnx_structdrop.schema import DROPOUT_OPS
from onnx_structdrop.training.streams import begin_at, reseeded

SHAPE = (4, 6, 12, 12)
RUNS = 6

needs_kernels = pytest.mark.skipif(not native_available(), reason="needs the native library")


def model_of(op_type, **changes):
    return one_node(op_type, SHAPE, seed=11, **attributes_of(op_type, len(SHAPE), **changes))


def kernel_session(model):
    options = onnxruntime.SessionOptions()
    register(options)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def masks(runner, ratios):
    data = random_data(SHAPE, "float32")
    return [dropped(runner, data, ratio).mask for ratio in ratios]


def assert_goes_on(make, model, ratios, *, native):
    every = masks(make(model), ratios)
    assert not np.array_equal(every[0], every[1])
    for run in (0, 1, 4):
        later = masks(make(begin_at(model, run, native=native)), ratios[run:])
        np.testing.assert_array_equal(later, every[run:])


@needs_kernels
@pytest.mark.parametrize("op_type", DROPOUT_OPS)
def test_kernels(op_type):
    ratios = np.linspace(0.02, 0.6, RUNS)
    assert_goes_on(kernel_session, model_of(op_type), ratios, native=True)


@pytest.mark.parametrize("op_type", DROPOUT_OPS)
def test_functions_of_one_ratio(op_type):
    assert_goes_on(session, model_of(op_type), [0.3] * RUNS, native=False)


@pytest.mark.parametrize("op_type", ["SpatialDropout", "NoiseShapeDropout"])
def test_functions_of_any_ratios(op_type):
    assert_goes_on(session, model_of(op_type), np.linspace(0.1, 0.6, RUNS), native=False)


def test_function_of_a_block_does_not_go_on_where_its_ratio_crossed():
    """What `begin_at` says of DropBlock's function holds: each way of drawing counts for itself."""
    ratios = [0.01] * 3 + [0.5] * 3
    model = model_of("DropBlock")
    every = masks(session(model), ratios)
    later = masks(session(begin_at(model, 3, native=False)), ratios[3:])
    assert not np.array_equal(later, every[3:])


def test_beginning_changes_only_a_copy():
    model = model_of("DropBlock")
    before = model.SerializeToString()
    assert begin_at(model, 0, native=True).SerializeToString() == before
    begin_at(model, 3, native=True)
    begin_at(model, 3, native=False)
    reseeded(model, 8)
    assert model.SerializeToString() == before


def test_reseeding():
    seeds = {
        attribute.i
        for seed in range(50)
        for node in reseeded(model_of("SpatialDropout"), seed).graph.node
        for attribute in node.attribute
        if attribute.name == "seed"
    }
    assert len(seeds) == 50
