"""Gradients of whole networks, exported from torch and prepared, against torch's own.

Structured dropout is inserted with a ratio of 0, so that both compute the same function. Torch's
side is in float64: what is left is the rounding of onnxruntime's float32.
"""

from __future__ import annotations

import copy
import io
import warnings

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import onnx_structdrop as sd
from onnx_structdrop.training import TrainingSession, generate_artifacts, prepare

BATCH = 6
TOLERANCE = 1e-6
"""Largest error of a gradient, by the largest gradient of its tensor; by that of the network
where batch normalisation uses the batch. Measured: 5.5e-7 and 3.7e-7.
"""


class Residual(nn.Module):
    """Two convolutions around which the data flows as well."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        """Return relu(x + f(x))."""
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(x + self.norm2(self.conv2(y)))


class Classifier(nn.Module):
    """Convolution, residual block, both kinds of pooling, linear layers."""

    shape, loss = (3, 12, 12), "cross_entropy"

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.first = Residual(8)
        self.down = nn.Sequential(
            nn.MaxPool2d(2), nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU()
        )
        self.second = Residual(12)
        self.pool = nn.AvgPool2d(3, 2, padding=1, count_include_pad=False)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(108, 16), nn.ReLU(), nn.Linear(16, 5))

    def forward(self, x):
        """Return the logits."""
        return self.head(self.pool(self.second(self.down(self.first(self.stem(x))))))


class Segmenter(nn.Module):
    """An encoder, a decoder, and a connection from one to the other."""

    shape, loss = (2, 8, 8), "mse"

    def __init__(self, up):
        super().__init__()
        self.down1, self.down2 = self.stage(2, 6), self.stage(6, 10)
        self.pool, self.up = nn.MaxPool2d(2), up
        self.back, self.head = self.stage(16, 6), nn.Conv2d(6, 2, 1)

    @staticmethod
    def stage(before, after):
        """Return convolution, normalisation, activation."""
        return nn.Sequential(
            nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()
        )

    def forward(self, x):
        """Return a value per place and class."""
        fine = self.down1(x)
        coarse = self.down2(self.pool(fine))
        return self.head(self.back(torch.cat([fine, self.up(coarse)], 1)))


class Mobile(nn.Module):
    """Depthwise convolution and HardSwish."""

    shape, loss = (2, 8, 8), "cross_entropy"

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.Hardswish(),
            nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
            nn.BatchNorm2d(8),
            nn.Hardswish(),
        )
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Hardsigmoid())
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))

    def forward(self, x):
        """Return the logits."""
        x = self.body(x)
        return self.head(x * self.gate(x))


NETWORKS = {
    "classifier": (Classifier, set()),
    "transposed": (lambda: Segmenter(nn.ConvTranspose2d(10, 10, 2, 2)), {"ConvTranspose"}),
    "bilinear": (
        lambda: Segmenter(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)),
        {"Resize"},
    ),
    "corners": (
        lambda: Segmenter(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)),
        {"Resize"},
    ),
    "mobile": (Mobile, {"HardSwish", "HardSigmoid"}),
}


def built(name):
    """Return a network whose statistics and affine parameters are like those of a trained one."""
    torch.manual_seed(3)
    network = NETWORKS[name][0]()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.2)
                module.running_mean.normal_(std=0.2)
                module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def exported(network):
    """Return the model with batch normalisation kept, dropout of ratio 0 inserted."""
    written = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(BATCH, *network.shape),),
            written,
            dynamo=False,
            opset_version=17,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            input_names=["image"],
            output_names=["output"],
            dynamic_axes={"image": {0: "N"}, "output": {0: "N"}},
        )
    model = onnx.load_from_string(written.getvalue())
    return sd.insert(model, sd.DropBlock2D(0.0, 3, seed=1))


def data_for(network):
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(BATCH, *network.shape, generator=generator)
    with torch.no_grad():
        output = network(images)
    if network.loss == "mse":
        return images, torch.randn(output.shape, generator=generator)
    return images, torch.randint(0, output.shape[1], (BATCH,), generator=generator)


def torch_step(network, images, target, *, train):
    """Return the loss, the gradients and the buffers after the step, computed in float64."""
    network = copy.deepcopy(network).double().train(train)
    output = network(images.double())
    if network.loss == "mse":
        loss = nn.functional.mse_loss(output, target.double())
    else:
        loss = nn.functional.cross_entropy(output, target)
    loss.backward()
    gradients = {name: value.grad.numpy() for name, value in network.named_parameters()}
    return float(loss.detach()), gradients, dict(network.named_buffers())


def session_step(folder, prepared, network, images, target):
    """Return a session after one step with a learning rate of 0, which keeps its gradients."""
    artifacts = generate_artifacts(prepared, folder, loss=network.loss, optimizer="sgd")
    session = TrainingSession(artifacts, native=False, threads=1, learning_rate=0.0)
    return session, session.step(images.numpy(), target.numpy())


def errors(session, expected):
    """Return the largest error of each gradient, and the largest value of each."""
    parameters = session._state.parameters
    found = {name: parameters[name].grad for name in expected}
    return {
        name: (np.abs(found[name] - value).max(), np.abs(value).max())
        for name, value in expected.items()
    }


@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_those_of_torch(tmp_path, name, batch_norm):
    network = built(name)
    model = exported(network)
    assert {node.op_type for node in model.graph.node} >= {
        "BatchNormalization",
        "DropBlock",
        *NETWORKS[name][1],
    }
    prepared = prepare(model, batch_norm=batch_norm)
    images, target = data_for(network)
    loss, expected, _ = torch_step(network, images, target, train=batch_norm == "train")
    assert set(prepared.trainable) == set(expected)
    session, reached = session_step(tmp_path / "artifacts", prepared, network, images, target)
    assert reached == pytest.approx(loss, rel=1e-6)
    measured = errors(session, expected)
    largest = max(size for _, size in measured.values())
    for parameter, (error, size) in measured.items():
        # A bias in front of a normalisation by the batch has no gradient but for rounding, and
        # where the mean is subtracted gradients cancel: there the scale is the network's.
        scale = size if batch_norm == "frozen" else largest
        assert error <= TOLERANCE * scale, parameter


@pytest.mark.parametrize("name", ["classifier", "transposed"])
def test_running_statistics_are_those_of_torch_but_for_the_bias(tmp_path, name):
    """ONNX divides the variance of the batch by the count, torch by one less."""
    network = built(name)
    images, target = data_for(network)
    prepared = prepare(exported(network), batch_norm="train")
    _, _, after = torch_step(network, images, target, train=True)
    session, _ = session_step(tmp_path / "artifacts", prepared, network, images, target)
    counts = elements_per_channel(network, images)
    found = session.parameters
    before = {key: value.double().numpy() for key, value in network.named_buffers()}
    named = [key for key in before if "running" in key]
    assert {statistic for statistic, _ in prepared.statistics} == set(named)
    for key in named:
        expected = after[key].numpy()
        if key.endswith("running_var"):
            count = counts[key.removesuffix(".running_var")]
            kept = 0.9 * before[key]
            expected = kept + (expected - kept) * (count - 1) / count
        assert np.abs(expected - before[key]).max() > 1e-3
        np.testing.assert_allclose(found[key], expected, rtol=1e-6, atol=1e-7, err_msg=key)


def test_frozen_statistics_stay(tmp_path):
    network = built("classifier")
    images, target = data_for(network)
    prepared = prepare(exported(network))
    assert prepared.statistics == ()
    session, _ = session_step(tmp_path / "artifacts", prepared, network, images, target)
    for key, value in network.named_buffers():
        if "running" in key:
            np.testing.assert_array_equal(session.parameters[key], value.numpy())


def elements_per_channel(network, images):
    """Return over how many elements each normalisation averages, by its name."""
    counts = {}
    watched = copy.deepcopy(network)
    for name, module in watched.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(
                lambda _, inputs, output, name=name: counts.update(
                    {name: output.numel() // output.shape[1]}
                )
            )
    with torch.no_grad():
        watched(images)
    return counts
