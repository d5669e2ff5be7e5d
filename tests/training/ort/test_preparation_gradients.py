"""Every rewrite has the gradient that torch gives to the operator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from onnx import numpy_helper
from prepared_nets import around, data
from stepping import build, step

from onnx_structdrop.training import prepare

slope = np.float32([0.5, 1.0, 2.0, 1.5])
vector = np.float32([0.5, -1.0, 2.0, 1.5])

CASES = {
    "HardSwish": ((2, 4, 5, 5), {"opset": 14}, lambda z: functional.hardswish(z)),
    "HardSigmoid": ((2, 4, 5, 5), {"alpha": 1 / 6}, lambda z: functional.hardsigmoid(z)),
    "Mish": ((2, 4, 5, 5), {"opset": 18}, lambda z: functional.mish(z)),
    "Elu": ((2, 4, 5, 5), {"alpha": 0.7}, lambda z: functional.elu(z, 0.7)),
    "Celu": ((2, 4, 5, 5), {"alpha": 0.7}, lambda z: functional.celu(z, 0.7)),
    "Selu": ((2, 4, 5, 5), {}, lambda z: functional.selu(z)),
    "Softplus": ((2, 4, 5, 5), {}, lambda z: functional.softplus(z)),
    "Softsign": ((2, 4, 5, 5), {}, lambda z: functional.softsign(z)),
    "PRelu": ((2, 4, 5, 5), {"inputs": (slope[:, None, None],)},
              lambda z, a: functional.prelu(z, a.reshape(-1))),
    "AveragePool": ((2, 4, 7, 6), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4},
                    lambda z: functional.avg_pool2d(z, 3, 2, 1, count_include_pad=False)),
    "ConvTranspose": ((2, 4, 3, 5), {"inputs": (data((4, 3, 2, 2)), data((3,))),
                                     "strides": [2, 2]},
                      lambda z, w, b: functional.conv_transpose2d(z, w, b, stride=2)),
    "GlobalMaxPool": ((2, 4, 5, 3), {}, lambda z: z.amax((2, 3), keepdim=True)),
    "InstanceNormalization": ((2, 4, 5, 3), {"inputs": (vector, vector)},
                              lambda z, w, b: functional.instance_norm(z, weight=w, bias=b)),
    "GroupNormalization": ((2, 4, 5, 3), {"inputs": (vector, vector), "num_groups": 2,
                                          "opset": 21},
                           lambda z, w, b: functional.group_norm(z, 2, w, b)),
    "LayerNormalization": ((2, 4, 5, 4), {"inputs": (vector,)},
                           lambda z, w: functional.layer_norm(z, (4,), w)),
    "DepthToSpace": ((2, 8, 3, 4), {"blocksize": 2, "mode": "CRD"},
                     lambda z: functional.pixel_shuffle(z, 2)),
    "BatchNormalization": ((3, 4, 5, 3), {"inputs": (vector, vector, vector, slope)},
                           lambda z, w, b, m, v: functional.batch_norm(z, m, v, w, b)),
}  # fmt: skip

RESIZES = {
    "nearest": ({"mode": "nearest", "coordinate_transformation_mode": "asymmetric",
                 "nearest_mode": "floor"}, {"mode": "nearest"}),
    "bilinear": ({"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
                 {"mode": "bilinear"}),
    "corners": ({"mode": "linear", "coordinate_transformation_mode": "align_corners"},
                {"mode": "bilinear", "align_corners": True}),
    "bicubic": ({"mode": "cubic", "coordinate_transformation_mode": "pytorch_half_pixel"},
                {"mode": "bicubic"}),
}  # fmt: skip


def compare(model, prepared, folder, shape, function, limit=1e-6):
    """Compare the gradients of a network around one node with torch's."""
    x = data(shape)
    tensors = {
        tensor.name: torch.tensor(numpy_helper.to_array(tensor))
        for tensor in model.graph.initializer
    }
    for name in prepared.trainable:
        tensors[name].requires_grad_()
    z = functional.conv2d(torch.tensor(x), tensors["conv.weight"])
    rest = [tensors[name] for name in model.graph.node[1].input[1:] if name]
    y = function(z, *rest)
    target = data(tuple(y.shape), 5)
    loss = ((y - torch.tensor(target)) ** 2).mean()
    loss.backward()
    value, gradients = step(prepared, folder, [x], target)
    assert value == pytest.approx(loss.item(), rel=1e-6)
    largest = max(tensors[name].grad.abs().max().item() for name in prepared.trainable)
    for name in prepared.trainable:
        difference = np.abs(gradients[name] - tensors[name].grad.numpy()).max()
        assert difference <= limit * largest, name


@pytest.mark.parametrize("op_type", CASES)
def test_rewritten_operator(op_type, tmp_path):
    shape, options, function = CASES[op_type]
    model = around(op_type, shape, **options)
    compare(model, prepare(model), tmp_path, shape, function)


@pytest.mark.parametrize("mode", RESIZES)
@pytest.mark.parametrize("free", [True, False])
def test_resize(mode, free, tmp_path):
    attributes, torch_mode = RESIZES[mode]
    if free and mode in ("corners", "bicubic"):
        pytest.skip("refused: no form for free sizes")
    shape = (2, 4, 5, 6)
    names = ("N", None, "H", "W") if free else ("N",)
    inputs = (None, np.float32([1, 1, 2, 2]))
    model = around("Resize", shape, inputs=inputs, free=names, **attributes)
    compare(
        model, prepare(model), tmp_path, shape,
        lambda z, *_: functional.interpolate(z, scale_factor=2, **torch_mode),
    )  # fmt: skip


@pytest.mark.parametrize("momentum", [0.9, 0.3])
def test_batch_norm_by_the_batch(momentum, tmp_path):
    shape = (3, 4, 5, 3)
    inputs = (vector, vector, vector, slope)
    model = around("BatchNormalization", shape, inputs=inputs, momentum=momentum, opset=15)
    prepared = prepare(model, batch_norm="train")

    def function(z, weight, bias, mean, var):
        return functional.batch_norm(z, mean.clone(), var.clone(), weight, bias, training=True)

    compare(model, prepared, tmp_path, shape, function, limit=2e-6)
    module, _ = build(prepared, tmp_path, more=[name for _, name in prepared.statistics])
    x = data(shape)
    outputs = module(x, data(shape, 5))
    weight = torch.tensor(numpy_helper.to_array(model.graph.initializer[0]))
    z = functional.conv2d(torch.tensor(x), weight).numpy()
    for updated, old, batch in (
        (outputs[1], vector, z.mean((0, 2, 3))), (outputs[2], slope, z.var((0, 2, 3))),
    ):  # fmt: skip
        np.testing.assert_allclose(updated, momentum * old + (1 - momentum) * batch, atol=1e-6)
