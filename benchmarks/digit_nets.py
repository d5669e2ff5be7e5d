"""Small residual networks that torch trains on digits, exported in inference form.

What a user has before anything of this package comes in: a torch module with or without
``nn.Dropout2d``, trained, in ``eval`` mode, as an ONNX file.
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

import onnx
import torch
from torch import nn

if TYPE_CHECKING:
    import numpy as np

WIDTHS = (8, 24, 48)
BATCH = 16
LEARNING_RATE = 5e-3


class Block(nn.Module):
    """A basic residual block, with dropout of whole channels behind it."""

    def __init__(self, before: int, width: int, stride: int, rate: float) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.second = nn.Sequential(
            nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        )
        self.shortcut = (
            nn.Identity()
            if stride == 1 and before == width
            else nn.Sequential(
                nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )
        )
        self.dropout = nn.Dropout2d(rate) if rate else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output."""
        return self.dropout(torch.relu(self.second(self.first(x)) + self.shortcut(x)))


class DigitNet(nn.Module):
    """Three stages of one block each, for 16x16 images of one channel.

    Parameters
    ----------
    classes
        Number of logits.
    rate
        Of the dropout behind the blocks of the last two stages.
    """

    def __init__(self, classes: int, rate: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, WIDTHS[0], 3, 1, 1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU()
        )
        self.stages = nn.Sequential(
            Block(WIDTHS[0], WIDTHS[0], 1, 0.0),
            Block(WIDTHS[0], WIDTHS[1], 2, rate),
            Block(WIDTHS[1], WIDTHS[2], 2, rate),
        )
        self.classifier = nn.Linear(WIDTHS[2], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.classifier(self.stages(self.stem(x)).mean((2, 3)))


def train(
    images: np.ndarray, labels: np.ndarray, classes: int, *, rate: float, epochs: int, seed: int
) -> onnx.ModelProto:
    """Train a network from scratch and return it as ONNX, in inference form."""
    torch.manual_seed(seed)
    net = DigitNet(classes, rate)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    steps = epochs * (len(x) // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE * 2, steps)
    net.train()
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for start in range(0, len(x) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            loss = nn.functional.cross_entropy(net(x[chosen]), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return export(net.eval(), images[:2])


def export(net: nn.Module, example: np.ndarray) -> onnx.ModelProto:
    """Return a network in ``eval`` mode as ONNX, of any number of images."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        # The TorchScript exporter takes a tenth of the other's time, and is deprecated.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (torch.from_numpy(example),), file, dynamo=False, opset_version=17,
            input_names=["images"], output_names=["logits"],
            dynamic_axes={"images": {0: "n"}, "logits": {0: "n"}},
        )  # fmt: skip
    return onnx.load_from_string(file.getvalue())
