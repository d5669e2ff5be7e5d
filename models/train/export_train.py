"""Export a small CNN in train mode, its dropout alive, through both ONNX exporters of PyTorch.

``structdrop clean`` has to make of each file what its eval-mode sibling computes. Needs torch and
torchvision; ``python models/train/export_train.py`` writes all four files.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torchvision.ops import DropBlock2d, StochasticDepth

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))

from finishing import strip_local_traces  # noqa: E402


class Block(nn.Module):
    """Residual block with DropBlock inside and stochastic depth on the branch."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            DropBlock2d(0.1, 3),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
            StochasticDepth(0.2, "row"),
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both branches, rectified."""
        return torch.relu(self.branch(x) + self.shortcut(x))


def network(*, spatial: bool) -> nn.Module:
    """Return a seeded network with every kind of dropout that the exporter can write."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.ReLU(),
        Block(8, 8, 1),
        Block(8, 12, 2),
        nn.Dropout2d(0.25) if spatial else nn.Identity(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(12, 10),
    )
    with torch.no_grad():
        model(torch.randn(8, 3, 32, 32))  # running statistics that are no zeros and ones
    return model


def finish(path: Path) -> None:
    """Leave nothing of the exporting machine in a file."""
    model = onnx.load(path)
    strip_local_traces(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def main() -> None:
    """Write train-mode and eval-mode files of both exporters."""
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", FutureWarning)
    torch.set_num_threads(1)
    example = (torch.randn(2, 3, 32, 32),)
    names = {"input_names": ["input"], "output_names": ["output"]}
    for mode in ("train", "eval"):
        path = FOLDER / f"resnet_dynamo_{mode}.onnx"
        model = network(spatial=True).train(mode == "train")
        torch.onnx.export(
            model, example, path, dynamo=True, external_data=False, opset_version=20,
            optimize=False, verbose=False, **names,
        )  # fmt: skip
        finish(path)
    model = network(spatial=False)
    for mode in ("train", "eval"):  # tracing in train mode moves the running statistics
        path = FOLDER / f"resnet_torchscript_{mode}.onnx"
        training = getattr(torch.onnx.TrainingMode, "TRAINING" if mode == "train" else "EVAL")
        torch.onnx.export(
            model.train(mode == "train"), example, str(path), dynamo=False, opset_version=17,
            training=training, do_constant_folding=False,
            dynamic_axes={"input": {0: "N"}, "output": {0: "N"}}, **names,
        )  # fmt: skip
        finish(path)


if __name__ == "__main__":
    main()
