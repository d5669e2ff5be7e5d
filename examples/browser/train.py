"""Train the page's network and export it, in inference form, as ``network.onnx``.

A U-Net of 51,000 weights learns to give every pixel of a scene of digits its class. While it
trains, its deeper maps go through spatial dropout; the export, made in eval mode, has none left:
that is what `make.py` puts back. Needs torch, onnxruntime and scikit-learn, and takes
about ten minutes of one core.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from scenes import draw
from torch import Tensor, nn
from torch.nn import functional

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "models"))
WIDTHS = (12, 16, 24, 32)
CLASSES = 11
RATE = 0.1


def block(inputs: int, outputs: int, rate: float = 0.0) -> nn.Sequential:
    """Return convolution, norm and activation, with spatial dropout behind them where asked."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]
    if rate:
        layers.append(nn.Dropout2d(rate))
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Four levels; max-pooling down, nearest neighbours up, skip connections between."""

    def __init__(self) -> None:
        super().__init__()
        down, inputs = [], 1
        for level, width in enumerate(WIDTHS):
            rate = RATE if level >= 2 else 0.0
            down.append(nn.Sequential(block(inputs, width), block(width, width, rate)))
            inputs = width
        self.down = nn.ModuleList(down)
        self.up = nn.ModuleList(
            block(below + width, width, RATE)
            for below, width in zip(WIDTHS[:0:-1], WIDTHS[-2::-1], strict=True)
        )
        self.classifier = nn.Conv2d(WIDTHS[0], CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [N, 11, H, W] of images [N, 1, H, W], sizes multiples of 8."""
        skips = []
        for level, layer in enumerate(self.down):
            x = layer(x if level == 0 else functional.max_pool2d(x, 2))
            skips.append(x)
        skips.pop()
        for layer in self.up:
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = layer(torch.cat([x, skips.pop()], dim=1))
        return self.classifier(x)


def score(network: UNet, images: Tensor, classes: Tensor) -> tuple[float, float]:
    """Return the share of right pixels, of all and of those of digits."""
    network.eval()
    with torch.no_grad():
        right = torch.cat([network(part).argmax(1) for part in images.split(50)]) == classes
    return right.float().mean().item(), right[classes > 0].float().mean().item()


def train(network: UNet, scenes: int, epochs: int, cycle: int) -> None:
    """Train for one cycle on scenes of its own; the learning rate rises, then falls to zero."""
    torch.manual_seed(cycle)
    images, classes = map(torch.from_numpy, draw(scenes, cycle, shape=(64, 64), most=3))
    test_images, test_classes = map(torch.from_numpy, draw(100, 1000, held_out=True))
    weights = torch.full((CLASSES,), 2.0)
    weights[0] = 0.5  # most pixels are background
    batch = 16
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 6e-3, total_steps=epochs * (scenes // batch)
    )
    for epoch in range(epochs):
        network.train()
        total = 0.0
        for chosen in torch.randperm(scenes)[: scenes // batch * batch].split(batch):
            loss = functional.cross_entropy(network(images[chosen]), classes[chosen], weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        every, digit = score(network, test_images, test_classes)
        print(
            f"cycle {cycle}, epoch {epoch + 1}: loss {total / (scenes // batch):.3f},"
            f" held-out pixels right {every:.3f}, of digits {digit:.3f}",
            flush=True,
        )


def export(network: UNet, path: Path) -> None:
    """Write the network as ONNX, opset 18, its batch, height and width free."""
    from finishing import finish

    example = torch.from_numpy(np.random.default_rng(0).random((2, 1, 96, 128), np.float32))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw = Path(folder) / "raw.onnx"
        torch.onnx.export(
            network,
            (example,),
            str(raw),
            input_names=["image"],
            output_names=["logits"],
            opset_version=18,
            dynamic_axes={axis: {0: "N", 2: "H", 3: "W"} for axis in ("image", "logits")},
            dynamo=False,
        )
        finish(raw, path)


def main() -> None:
    """Train, export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=3000)
    parser.add_argument("--epochs", type=int, nargs="+", default=[14, 8], help="of each cycle")
    parser.add_argument("-o", "--output", type=Path, default=HERE / "network.onnx")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # faster than more of them on maps as small as these
    torch.manual_seed(0)
    network = UNet()
    for cycle, epochs in enumerate(arguments.epochs):
        train(network, arguments.scenes, epochs, cycle)
    export(network.eval(), arguments.output)


if __name__ == "__main__":
    main()
