"""Export small CNNs for training: batch normalisation kept, weights as torch initialises them.

Run ``python models/trainable/export_trainable.py`` for every file, or name the ones to write. The
TorchScript exporter is used, since the other one drops batch normalisation.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import torch
from torch import Tensor, nn

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))

from export_torch import BasicBlock, MobileNetV2, ResNet, UNet  # noqa: E402
from finishing import finish, random_feeds  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

OPSET = 17


class DigitsResNet(nn.Module):
    """Three stages of one basic block each, for 16x16 images of one channel."""

    def __init__(self, widths: tuple[int, ...] = (12, 24, 48), classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        self.stages = nn.Sequential(
            *(
                BasicBlock(2, before, width, stride)
                for before, width, stride in zip(
                    (widths[0], *widths), widths, (1, 2, 2), strict=False
                )
            )
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.classifier(self.pool(self.stages(self.stem(x))).flatten(1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "digits_resnet": (DigitsResNet, (1, 16, 16)),
    "resnet18": (ResNet, (3, 64, 64)),
    "mobilenetv2": (MobileNetV2, (3, 64, 64)),
    "unet": (lambda: UNet("transposed"), (3, 32, 32)),
    "unet_resize": (lambda: UNet("resize"), (3, 32, 32)),
}


def export(name: str, folder: Path) -> None:
    """Export one network.

    Parameters
    ----------
    name
        A key of `NETWORKS`, which is also the stem of the file.
    folder
        Where to write it.
    """
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    model = build()
    example = torch.randn(2, *shape)
    with torch.no_grad():
        model.train()
        for _ in range(20):
            model(torch.randn(16, *shape))  # running statistics that fit the weights
    model.eval()
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        raw = Path(scratch, "raw.onnx")
        torch.onnx.export(
            model,
            (example,),
            str(raw),
            dynamo=False,
            opset_version=OPSET,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            input_names=["input"],
            output_names=["output"],
            dynamic_axes={"input": {0: "N"}, "output": {0: "N"}},
        )
        (feed,) = random_feeds(onnx.load(raw)).values()
        with torch.no_grad():
            expected = model(torch.from_numpy(feed)).numpy()
        finish(raw, folder / f"{name}.onnx", expected)
        kinds = [node.op_type for node in onnx.load(folder / f"{name}.onnx").graph.node]
        if "BatchNormalization" not in kinds:
            raise SystemExit(f"{name}: the exporter has removed batch normalisation")


def main() -> None:
    """Read the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"some of: {', '.join(NETWORKS)} (default: all)")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(NETWORKS)
    if unknown:
        parser.error(f"no such network: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    for name in arguments.names or NETWORKS:
        export(name, arguments.output)


if __name__ == "__main__":
    main()
