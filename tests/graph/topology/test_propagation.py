"""Bounds on the lengths of vectors: what is long is hidden, what models compute is followed."""

from __future__ import annotations

import onnx
import pytest

from onnx_structdrop.graph.topology.propagation import LongVectors

HEADER = '<ir_version: 8, opset_import: ["": 18]> agraph (float[N,4,8,8] x) => (float y)'

SHORT = {
    "feature maps that were reshaped by their shape": """{
        s = Shape(x) k = Constant <value_ints = [0]> () n = Gather(s, k)
        m = Constant <value_ints = [-1, 4, 8]> () t = Concat <axis = 0> (n, m)
        r = Reshape(x, t) a = Relu(r) b = Add(a, r) y = Concat <axis = 1> (a, b) }""",
    "dense blocks": "{"
    + " ".join(
        f"v{i + 1} = Concat <axis = 1> (v{i}, v{i})" if i else "v1 = Relu(x)" for i in range(40)
    )
    + " y = Add(v40, v40) }",
}

LONG = {
    "a vector that doubles": "{ v0 = Shape(x) "
    + " ".join(f"v{i + 1} = Concat <axis = 0> (v{i}, v{i})" for i in range(40))
    + " y = Identity(v40) }",
    "a range": """{ a = Constant <value_int = 0> () b = Constant <value_int = 1> ()
        n = Size(x) r = Range(a, n, b) y = Add(r, r) }""",
}


def search(text):
    model = onnx.parser.parse_model(HEADER + text)
    return LongVectors(model, onnx.shape_inference.infer_shapes(model))


@pytest.mark.parametrize("text", SHORT.values(), ids=SHORT)
def test_what_models_compute_is_followed(text):
    assert search(text).uses == []


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_uses_of_what_may_be_long_are_hidden(text):
    found = search(text)
    places = [(node, place, node.input[place]) for node, place in found.uses]
    assert places
    assert not found.in_bodies
    found.hide()
    assert all(node.input[place].startswith(f"{name}/hidden/") for node, place, name in places)
