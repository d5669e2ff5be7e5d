"""Export the sample CNNs of PyTorch, with random weights, through its two ONNX exporters.

Run ``python models/export_torch.py`` for every file, or name the ones to write.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import torch
from finishing import finish, random_feeds
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MAX_POOL = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVERAGE_POOL = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


class BasicBlock(nn.Module):
    """Two 3-wide convolutions and a shortcut, the activation after the join."""

    def __init__(self, rank: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = CONV[rank](inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = NORM[rank](outputs)
        self.conv2 = CONV[rank](outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = NORM[rank](outputs)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                CONV[rank](inputs, outputs, 1, stride, bias=False), NORM[rank](outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y = self.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return self.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """A residual network over 1, 2 or 3 spatial axes."""

    def __init__(
        self,
        rank: int = 2,
        channels: int = 3,
        widths: Sequence[int] = (8, 12, 16, 24),
        depths: Sequence[int] = (2, 2, 2, 2),
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            CONV[rank](channels, widths[0], 7, 2, 3, bias=False),
            NORM[rank](widths[0]),
            nn.ReLU(),
            MAX_POOL[rank](3, 2, 1),
        )
        stages = []
        inputs = widths[0]
        for index, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            blocks = []
            for block in range(depth):
                stride = 2 if index > 0 and block == 0 else 1
                blocks.append(BasicBlock(rank, inputs, width, stride))
                inputs = width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.pool = AVERAGE_POOL[rank](1)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.classifier(self.pool(self.stages(self.stem(x))).flatten(1))


class InvertedResidual(nn.Module):
    """Expand, convolve per channel, project without activation; join where the shape allows."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()]
        layers += [
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.layers = nn.Sequential(*layers)
        self.join = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return x + self.layers(x) if self.join else self.layers(x)


class MobileNetV2(nn.Module):
    """Inverted residuals with linear bottlenecks and ReLU6."""

    # expansion, width, number of blocks, stride of the first block
    SETTING = (
        (1, 4, 1, 1),
        (4, 8, 2, 2),
        (4, 12, 2, 2),
        (4, 16, 2, 2),
        (4, 24, 1, 1),
        (4, 32, 2, 2),
    )

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        inputs = 8
        layers: list[nn.Module] = [
            nn.Conv2d(3, inputs, 3, 2, 1, bias=False),
            nn.BatchNorm2d(inputs),
            nn.ReLU6(),
        ]
        for expansion, width, depth, first in self.SETTING:
            for block in range(depth):
                stride = first if block == 0 else 1
                layers.append(InvertedResidual(inputs, width, stride, expansion))
                inputs = width
        layers += [nn.Conv2d(inputs, 64, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU6()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.classifier(self.features(x).mean((2, 3)))


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions with norm and activation, as in each level of a U-Net."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """Three levels down and up again, with the skips concatenated."""

    def __init__(self, up: str, widths: Sequence[int] = (8, 12, 16, 24), classes: int = 3) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        self.down = nn.ModuleList(
            double_conv(inputs, outputs)
            for inputs, outputs in zip((3, *widths[:-1]), widths, strict=True)
        )
        levels = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(low, high, 2, 2)
            if up == "transposed"
            else nn.Sequential(
                nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(low, high, 1)
            )
            for low, high in levels
        )
        self.merge = nn.ModuleList(double_conv(2 * high, high) for _, high in levels)
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of each pixel."""
        skips = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else self.pool(x))
            skips.append(x)
        skips.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], 1))
        return self.head(x)


class DenseLayer(nn.Module):
    """Pre-activation bottleneck whose output is concatenated to its input."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, 2 * growth, 1, bias=False),
            nn.BatchNorm2d(2 * growth),
            nn.ReLU(),
            nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        return torch.cat([x, self.layers(x)], 1)


class DenseNet(nn.Module):
    """Dense stages with halving transitions between them."""

    def __init__(
        self, growth: int = 6, depths: Sequence[int] = (2, 3, 3), classes: int = 10
    ) -> None:
        super().__init__()
        width = 12
        layers: list[nn.Module] = [
            nn.Conv2d(3, width, 3, 2, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        ]
        for stage, depth in enumerate(depths):
            if stage > 0:
                layers += [
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                    nn.Conv2d(width, width // 2, 1, bias=False),
                    nn.AvgPool2d(2),
                ]
                width //= 2
            for _ in range(depth):
                layers.append(DenseLayer(width, growth))
                width += growth
        layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.classifier(self.features(x))


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a channels-first map."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, then a channels-last MLP with GELU and a learned scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.project = nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.project(nn.functional.gelu(self.expand(y)))
        return x + y.permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """Four stages of ConvNeXt blocks."""

    def __init__(
        self,
        widths: Sequence[int] = (8, 12, 16, 24),
        depths: Sequence[int] = (1, 1, 2, 1),
        classes: int = 10,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 4), ChannelNorm(widths[0])]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if stage > 0:
                before = widths[stage - 1]
                layers += [ChannelNorm(before), nn.Conv2d(before, width, 2, 2)]
            layers += [ConvNeXtBlock(width) for _ in range(depth)]
        self.features = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(widths[-1])
        self.classifier = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.classifier(self.norm(self.features(x).mean((2, 3))))


@dataclass(frozen=True)
class Sample:
    """One file of this folder.

    Attributes
    ----------
    build
        Makes the network.
    shape
        Shape of the input without the batch.
    opset
        Target opset.
    dynamo
        True for the torch.export-based exporter, False for TorchScript.
    free_size
        Leave the spatial sizes open, beside the batch.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    opset: int
    dynamo: bool
    free_size: bool = False


SAMPLES = {
    "resnet18_dynamo": Sample(ResNet, (3, 224, 224), 20, dynamo=True),
    "resnet18_torchscript": Sample(ResNet, (3, 224, 224), 13, dynamo=False),
    "mobilenetv2_dynamo": Sample(MobileNetV2, (3, 96, 96), 18, dynamo=True),
    "unet_dynamo": Sample(lambda: UNet("transposed"), (3, 64, 64), 18, dynamo=True),
    "unet_torchscript": Sample(
        lambda: UNet("resize"), (3, 64, 64), 17, dynamo=False, free_size=True
    ),
    "resnet1d_dynamo": Sample(
        lambda: ResNet(1, 2, (8, 12, 16, 24), (1, 1, 1, 1)), (2, 256), 20, dynamo=True
    ),
    "resnet3d_dynamo": Sample(
        lambda: ResNet(3, 1, (4, 8, 12), (1, 1, 1)), (1, 16, 32, 32), 20, dynamo=True
    ),
    "densenet_dynamo": Sample(DenseNet, (3, 64, 64), 20, dynamo=True),
    "convnext_dynamo": Sample(ConvNeXt, (3, 64, 64), 20, dynamo=True),
}


def build(sample: Sample) -> nn.Module:
    """Make a seeded network in eval mode whose norms hold plausible statistics."""
    torch.manual_seed(0)
    model = sample.build()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.LayerNorm):
            # Left at 1 and 0, the parameters of several layers would be merged by the exporter.
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.2)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # a plain average over the batches below
        elif isinstance(module, nn.modules.conv._ConvNd):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    with torch.no_grad():
        model.train()
        for _ in range(2):
            model(torch.randn(8, *sample.shape))
    return model.eval()


def export(name: str, folder: Path) -> None:
    """Export one sample.

    Parameters
    ----------
    name
        A key of `SAMPLES`, which is also the stem of the file.
    folder
        Where to write it.
    """
    sample = SAMPLES[name]
    model = build(sample)
    example = (torch.randn(2, *sample.shape),)
    names = {"input_names": ["input"], "output_names": ["output"]}
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        # One exporter is deprecated as a whole, the other calls functions that are.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        raw = Path(scratch, "raw.onnx")
        if sample.dynamo:
            torch.onnx.export(
                model,
                example,
                raw,
                dynamo=True,
                external_data=False,
                opset_version=sample.opset,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
                **names,
            )
        else:
            free = {0: "batch"} | ({2: "height", 3: "width"} if sample.free_size else {})
            torch.onnx.export(
                model,
                example,
                str(raw),
                dynamo=False,
                opset_version=sample.opset,
                dynamic_axes={"input": free, "output": free if sample.free_size else {0: "batch"}},
                **names,
            )
        (feed,) = random_feeds(onnx.load(raw)).values()
        with torch.no_grad():
            expected = model(torch.from_numpy(feed)).numpy()
        finish(raw, folder / f"{name}.onnx", expected)


def main() -> None:
    """Read the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"some of: {', '.join(SAMPLES)} (default: all)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(SAMPLES)
    if unknown:
        parser.error(f"no such sample: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    for name in arguments.names or SAMPLES:
        export(name, arguments.output)


if __name__ == "__main__":
    main()
