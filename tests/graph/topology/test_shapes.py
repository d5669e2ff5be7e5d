"""Shapes: inference is left out only where it has nothing to say."""

from __future__ import annotations

import onnx
import onnx.parser
import pytest
from one_node import MODELS

from onnx_structdrop.graph.convert import as_ir
from onnx_structdrop.graph.sites import find_sites
from onnx_structdrop.graph.topology import shapes

SAMPLES = sorted(MODELS.rglob("*.onnx"))


def inferences(monkeypatch):
    """Return a list that grows with each inference."""
    real, seen = shapes._infer, []
    monkeypatch.setattr(shapes, "_infer", lambda model: seen.append(model) or real(model))
    return seen


def sites_with_inference(model, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(shapes.Shapes, "_is_settled", lambda self, value: False)
        return find_sites(model)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
@pytest.mark.parametrize("batch", [1, None], ids=["static", "as it is"])
def test_sites_are_those_that_inference_finds(path, batch, monkeypatch):
    model = onnx.load(path)
    if batch is not None:
        for value in model.graph.input:
            for dim in value.type.tensor_type.shape.dim:
                if not dim.HasField("dim_value"):
                    dim.dim_value = batch
        del model.graph.value_info[:]
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    assert find_sites(model) == sites_with_inference(model, monkeypatch)


def net(shape):
    """Return a net of which only the convolution's shape, written here, may be open."""
    return onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1,3,8,8] x, float[4,3,3,3] w) => '
        f"(float[1,4,6,6] y) <{shape} c> {{ c = Conv (x, w) y = Relu (c) }}"
    )


@pytest.mark.parametrize(
    ("shape", "needed"),
    [
        ("float[1,4,6,6]", False),
        ("float[N,4,6,6]", True),
        ("float[1,4,6]", False),
        ("float[1,4,7,7]", False),
        ("double[1,4,6,6]", False),
    ],
)
def test_inference_runs_where_something_is_open(shape, needed, monkeypatch):
    model = as_ir(net(shape))
    expected = sites_with_inference(model, monkeypatch)
    seen = inferences(monkeypatch)
    assert find_sites(model) == expected
    assert bool(seen) is needed


def test_values_without_a_type_are_open(monkeypatch):
    model = net("float[1,4,6,6]")
    del model.graph.value_info[:]
    seen = inferences(monkeypatch)
    assert [site.shape for site in find_sites(model)] == [(1, 4, 6, 6)]
    assert seen
