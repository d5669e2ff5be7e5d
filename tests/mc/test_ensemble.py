"""An ensemble's members are samples: each runs once, and their outputs are summed up alike."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from sampled import softmax

import onnx_structdrop as sd
from onnx_structdrop.mc.ensemble import ensemble

IMAGES = np.random.default_rng(0).standard_normal((7, 4)).astype(np.float32)


def member(seed, batch="n", body="", extra=""):
    """Return a linear classifier, and its weights."""
    weights = np.random.default_rng(seed).standard_normal((4, 3)).astype(np.float32) * 2
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> '
        f"net (float[{batch}, 4] x) => (float[{batch}, 3] y{extra}) {{ y = MatMul(x, w) {body} }}"
    )
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    return model, weights


def test_statistics_over_the_members(tmp_path):
    models, weights = zip(*map(member, range(3)), strict=True)
    path = tmp_path / "second.onnx"
    onnx.save(models[1], path)
    forms = [models[0], path, ir.from_proto(models[2])]
    found = ensemble(forms, IMAGES, batch=2, threads=1, keep_samples=True, quantiles=(0.5,))
    probabilities = softmax(np.stack([IMAGES @ one for one in weights]).astype(float), 2)
    one = found["y"]
    assert (found.samples, found.images, found.seed) == (3, 7, None)
    np.testing.assert_allclose(one.samples, probabilities, atol=1e-6)
    np.testing.assert_allclose(one.mean, probabilities.mean(0), atol=1e-6)
    np.testing.assert_allclose(one.variance, probabilities.var(0, ddof=1), atol=1e-6)
    np.testing.assert_allclose(one.quantiles[0], np.median(probabilities, 0), atol=1e-6)
    assert one.mutual_information.min() > 0


def test_one_member_is_the_network_itself():
    model, weights = member(0)
    before = model.SerializeToString()
    one = ensemble([model], {"x": IMAGES}, values="logits").only
    np.testing.assert_allclose(one.mean, softmax((IMAGES @ weights).astype(float), 1), atol=1e-6)
    np.testing.assert_allclose(one.mutual_information, 0, atol=1e-15)
    assert np.isnan(one.variance).all()
    assert model.SerializeToString() == before


def test_what_outputs_hold_may_be_said():
    model, weights = member(0)
    found = ensemble([model], IMAGES, task={"y": "regression"}).only
    np.testing.assert_allclose(found.mean, IMAGES @ weights, rtol=1e-5)
    assert ensemble([model], IMAGES, class_axis=None).only.kind.events


def test_a_fixed_batch():
    model, weights = member(0, batch=4)
    found = ensemble([model], IMAGES, task="regression").only
    np.testing.assert_allclose(found.mean, IMAGES @ weights, rtol=1e-5)


def test_outputs_that_are_no_scores_are_left_out():
    model, _ = member(0, body="top = ArgMax <axis = 1, keepdims = 0> (y)", extra=", int64[n] top")
    assert list(ensemble([model], IMAGES)) == ["y"]
    with pytest.raises(sd.ArgumentError, match="'top' holds int64"):
        ensemble([model], IMAGES, outputs=["top"])
    total, _ = member(0, body="all = ReduceSum <keepdims = 0> (y)", extra=", float all")
    assert list(ensemble([total], IMAGES)) == ["y"]
    with pytest.raises(sd.ArgumentError, match="'all' of model 0 has shape"):
        ensemble([total], IMAGES, outputs=["all"])


def test_bad_arguments():
    model, _ = member(0)
    other, _ = member(1)
    other.graph.output[0].name = other.graph.node[0].output[0] = "z"
    with pytest.raises(sd.ArgumentError, match="model 1 has no output 'y'; its outputs are z"):
        ensemble([model, other], IMAGES)
    with pytest.raises(sd.ArgumentTypeError, match="at least one"):
        ensemble([], IMAGES)
    with pytest.raises(sd.ArgumentTypeError, match="list of models"):
        ensemble("net.onnx", IMAGES)
    with pytest.raises(sd.ArgumentError, match="batch is 0"):
        ensemble([model], IMAGES, batch=0)
    with pytest.raises(sd.ArgumentError, match="shape"):
        ensemble([model], IMAGES[:, :3])
    with pytest.raises(sd.ModelError, match=r"none\.onnx"):
        ensemble(["none.onnx"], IMAGES)
