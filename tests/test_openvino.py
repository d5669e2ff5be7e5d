"""The inlined form with uniform numbers as source runs on OpenVINO."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from samples import MODELS

import onnx_structdrop as sd

pytestmark = [pytest.mark.openvino, pytest.mark.filterwarnings("default")]

SPECS = {
    "resnet1d_dynamo": (sd.DropBlock1D(0.2, 5, seed=1), sd.SpatialDropout1D(0.2, seed=1)),
    "resnet18_dynamo": (sd.DropBlock2D(0.2, 5, seed=1), sd.SpatialDropout2D(0.2, seed=1)),
    "resnet_keras_torch": (sd.DropBlock2D(0.2, 5, seed=1), sd.DropPath(0.2, seed=1)),
    "resnet3d_dynamo": (sd.DropBlock3D(0.2, 2, seed=1), sd.SpatialDropout3D(0.2, seed=1)),
}
CASES = [(name, spec) for name, specs in SPECS.items() for spec in specs]


def with_batch(model, size):
    """Return a copy with a fixed batch, or the model itself with a free one."""
    if size is None:
        return model
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].Clear()
        value.type.tensor_type.shape.dim[0].dim_value = size
    del fixed.graph.value_info[:]
    return fixed


def compiled(model):
    import openvino

    core = openvino.Core()
    core.set_property({"INFERENCE_PRECISION_HINT": "f32"})
    return core.compile_model(core.read_model(model.SerializeToString()), "CPU")


def run(network, data):
    return next(iter(network([data]).values())).copy()


def sample(model):
    shape = [
        dimension.dim_value or (3 if axis == 0 else 32)
        for axis, dimension in enumerate(model.graph.input[0].type.tensor_type.shape.dim)
    ]
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("batch", [None, 3], ids=["dynamic", "static"])
@pytest.mark.parametrize(("name", "spec"), CASES, ids=lambda value: getattr(value, "op_type", None))
def test_random_in_training_and_equal_in_inference(name, spec, batch):
    original = with_batch(onnx.load(MODELS / f"{name}.onnx"), batch)
    inserted = sd.insert(original, spec)
    data = sample(original)

    network = compiled(sd.inline(inserted, "uniform"))
    first, second = run(network, data), run(network, data)
    assert np.isfinite(first).all()
    assert not np.array_equal(first, second)

    inference = compiled(sd.inline(sd.set_training_mode(inserted, False), "uniform"))
    expected = run(compiled(original), data)
    assert np.allclose(run(inference, data), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spatial", [(20,), (12, 10), (6, 5, 7)], ids=["1D", "2D", "3D"])
@pytest.mark.parametrize("batch", [None, 8], ids=["dynamic", "static"])
def test_output_is_what_the_mask_says(spatial, batch):
    family = {1: sd.DropBlock1D, 2: sd.DropBlock2D, 3: sd.DropBlock3D}[len(spatial)]
    spec = family(0.3, 3, seed=4)
    model = one_site(spatial, batch, spec)
    data = np.random.default_rng(1).standard_normal((8, 16, *spatial)).astype(np.float32)
    data = np.abs(data) + 1
    result = run(compiled(sd.inline(model, "uniform")), data)
    kept = result != 0
    scale = np.float32(kept.size / kept.sum())
    assert np.allclose(result, np.where(kept, data * scale, 0), rtol=1e-6)
    assert abs((1 - kept.mean()) - spec.realised_rate(data.shape)) < 0.1


def test_the_function_form_is_refused():
    inserted = sd.insert(onnx.load(MODELS / "resnet1d_dynamo.onnx"), sd.SpatialDropout1D(0.2))
    with pytest.raises(RuntimeError, match="SpatialDropout"):
        compiled(inserted)


def one_site(spatial, batch, spec):
    """Return Conv (an identity) and Relu with a node behind them; the data is positive."""
    shape = [batch or "N", 16, *spatial]
    value = onnx.helper.make_tensor_value_info
    kernel = np.eye(16, dtype=np.float32).reshape(16, 16, *(1 for _ in spatial))
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Conv", ["x", "w"], ["c"]),
            onnx.helper.make_node("Relu", ["c"], ["y"]),
        ],
        "one_site",
        [value("x", onnx.TensorProto.FLOAT, shape)],
        [value("y", onnx.TensorProto.FLOAT, shape)],
        [onnx.numpy_helper.from_array(kernel, "w")],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9
    )
    return sd.insert(model, spec)
