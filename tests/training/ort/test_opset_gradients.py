"""Whole networks at ratio 0, by onnxruntime-training and by torch."""

from __future__ import annotations

import io

import numpy as np
import onnx
import pytest
import torch
from stepping import step
from torch import nn

import onnx_structdrop as sd
from onnx_structdrop.training import prepare


class Block(nn.Module):
    """Two convolutions and a residual join, with a shortcut."""

    def __init__(self, channels, out):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, 2, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, groups=2)
        self.norm2 = nn.BatchNorm2d(out)
        self.short = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(channels, out, 1))
        self.act = nn.ReLU()

    def forward(self, x):
        y = self.act(self.norm1(self.conv1(x)))
        return self.act(self.norm2(self.conv2(y)) + self.short(x))


class Net(nn.Module):
    """Convolution, normalisation, pooling, residual blocks and a linear head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )  # fmt: skip
        self.blocks = nn.Sequential(Block(8, 12), Block(12, 16))
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        y = self.blocks(self.stem(x))
        return self.head(y.mean((2, 3)))


def fresh(seed=0):
    """Return a network whose running statistics are not trivial."""
    torch.manual_seed(seed)
    net = Net()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            statistics = (module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 2)
            parameters = (module.weight.data, 0.5, 1.5), (module.bias.data, -0.5, 0.5)
            for tensor, low, high in (*statistics, *parameters):
                tensor.uniform_(low, high)
    return net


@pytest.mark.filterwarnings("ignore")
def exported(net, opset=17):
    """Export with batch normalisation kept and dropout of ratio 0 inserted."""
    file = io.BytesIO()
    torch.onnx.export(
        net, (torch.zeros(2, 3, 32, 32),), file, dynamo=False, opset_version=opset,
        training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
        input_names=["x"], output_names=["y"], dynamic_axes={"x": {0: "N"}, "y": {0: "N"}},
    )  # fmt: skip
    model = onnx.load_from_string(file.getvalue())
    return sd.insert(model, sd.DropBlock2D(0.0, 3, seed=1))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_gradients_equal_those_of_torch(opset, batch_norm, tmp_path):
    net = fresh().eval()
    model = exported(net, opset)
    prepared = prepare(model, batch_norm=batch_norm)
    assert set(prepared.trainable) == {name for name, _ in net.named_parameters()}
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 3, 32, 32)).astype(np.float32)
    labels = rng.integers(0, 10, 4)
    if batch_norm == "train":
        net.train()
    net.double()  # so that only one side rounds
    loss = nn.functional.cross_entropy(net(torch.tensor(x).double()), torch.tensor(labels))
    loss.backward()
    value, gradients = step(prepared, tmp_path, [x], labels, loss="cross_entropy")
    assert value == pytest.approx(loss.item(), rel=1e-6)
    expected = {name: parameter.grad.numpy() for name, parameter in net.named_parameters()}
    largest = max(np.abs(gradient).max() for gradient in expected.values())
    differences = {
        name: np.abs(gradients[name] - gradient).max() / largest
        for name, gradient in expected.items()
    }
    assert max(differences.values()) <= 1e-6, differences
