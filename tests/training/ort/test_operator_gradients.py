"""Gradients of the operators, through onnxruntime's gradient builder.

They are held against torch's, given the mask and the scale that the operator drew, and against
differences of the loss: a new session draws the masks of the last one, so the loss can be had
at other weights with the same masks.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from operator_models import operator_artifacts

from onnx_structdrop.training import TrainingSession

SHAPE = (8, 6, 7, 5)
CASES = {
    "spatial": ("SpatialDropout", {}),
    "spatial, channels last": ("SpatialDropout", {"channel_axis": -1}),
    "noise shape": ("NoiseShapeDropout", {"noise_shape": [0, 1, 0, 1]}),
    "unscaled noise shape": ("NoiseShapeDropout", {"scale_by_keep": 0}),
    "drop path": ("NoiseShapeDropout", {"noise_shape": [0, 1, 1, 1]}),
    "drop path, unscaled": (
        "NoiseShapeDropout",
        {"noise_shape": [0, 1, 1, 1], "scale_by_keep": 0},
    ),
    "block": ("DropBlock", {}),
    "block, unequal": ("DropBlock", {"block_size": [2, 3]}),
    "block, channels last": ("DropBlock", {"channel_axis": -1}),
    "block, shared by channels": ("DropBlock", {"shared_axes": [1]}),
    "block, shared by samples": ("DropBlock", {"shared_axes": [0, 1]}),
    "block, anywhere": ("DropBlock", {"seed_region": 1}),
    "block, not normalised": ("DropBlock", {"normalize": 0}),
    "block, normalised by sample": ("DropBlock", {"normalize": 2}),
    "block, all variants": (
        "DropBlock",
        {"seed_region": 1, "normalize": 2, "shared_axes": [1], "block_size": [3, 2]},
    ),
}

each_case = pytest.mark.parametrize(("op_type", "changes"), CASES.values(), ids=CASES)
each_form = pytest.mark.parametrize("native", [False, True], ids=["function", "kernel"])


def tensors(shape=SHAPE):
    generator = np.random.default_rng(0)
    return [generator.standard_normal(shape).astype(np.float32) for _ in range(2)]


def first_step(artifacts, target, weights=None, *, native):
    """Return the session after a step that left the weights as they were, and its loss."""
    session = TrainingSession(artifacts, native=native, threads=1, learning_rate=0.0)
    if weights is not None:
        session.assign({"weights": weights})
    return session, session.step([], target)


def gradient_of(session):
    return session._state.parameters["weights"].grad


def torch_gradient(weights, target, mask, scale):
    variable = torch.tensor(weights, requires_grad=True)
    dropped = torch.where(torch.tensor(mask), variable * torch.tensor(scale), 0.0)
    torch.nn.functional.mse_loss(dropped, torch.tensor(target)).backward()
    return variable.grad.numpy()


@each_form
@each_case
def test_gradient_is_that_of_torch_and_of_differences(tmp_path, op_type, changes, native):
    weights, target = tensors()
    artifacts = operator_artifacts(tmp_path / "artifacts", op_type, weights, **changes)
    session, _ = first_step(artifacts, target, native=native)
    drawn = session.last_outputs
    assert 0 < drawn["mask"].mean() < 1
    gradient = gradient_of(session)
    expected = torch_gradient(weights, target, drawn["mask"], drawn["scale"])
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-8)

    # The loss is quadratic in the weights, so a difference of any width is exact but for rounding.
    direction = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    losses = []
    for width in (1.0, -1.0):
        moved = (weights + np.float32(width) * direction).astype(np.float32)
        other, loss = first_step(artifacts, target, moved, native=native)
        np.testing.assert_array_equal(other.last_outputs["mask"], drawn["mask"])
        losses.append(loss)
    slope = float((gradient.astype(np.float64) * direction).sum())
    assert (losses[0] - losses[1]) / 2 == pytest.approx(slope, rel=1e-4, abs=1e-6)


@each_form
@pytest.mark.parametrize("ratio", [0.0, 1.0])
@pytest.mark.parametrize("op_type", ["SpatialDropout", "NoiseShapeDropout", "DropBlock"])
def test_nothing_and_everything_dropped(tmp_path, op_type, ratio, native):
    weights, target = tensors()
    artifacts = operator_artifacts(tmp_path / "artifacts", op_type, weights, ratio=ratio)
    session, _ = first_step(artifacts, target, native=native)
    kept = np.full(SHAPE, ratio == 0.0)
    expected = torch_gradient(weights, target, kept, np.float32(1))
    np.testing.assert_allclose(gradient_of(session), expected, rtol=1e-6, atol=1e-8)


@each_form
@pytest.mark.parametrize("element", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("op_type", ["SpatialDropout", "NoiseShapeDropout", "DropBlock"])
def test_other_element_types(tmp_path, op_type, element, native):
    weights, target = tensors()
    artifacts = operator_artifacts(tmp_path / "artifacts", op_type, weights, element=element)
    session, _ = first_step(artifacts, target, native=native)
    drawn = session.last_outputs
    expected = torch_gradient(weights, target, drawn["mask"], drawn["scale"])
    tolerance = {"float16": 2e-3, "bfloat16": 2e-2, "float64": 1e-6}[element]
    np.testing.assert_allclose(
        gradient_of(session), expected, rtol=tolerance, atol=tolerance * np.abs(expected).max()
    )
