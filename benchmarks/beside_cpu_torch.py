"""Run ``structdrop bench`` where torchvision was built for another torch than the one installed.

torchvision's wheels are built against the CUDA build of torch. Beside the CPU build their compiled
operators do not load, and importing torchvision fails at the first one that it describes, although
``drop_block2d`` uses none of them. Here they are declared, which is all that the import asks for.

    python benchmarks/beside_cpu_torch.py [OPTIONS OF structdrop bench]
"""

from __future__ import annotations

import os
import sys

from onnx_structdrop.cli import main

MISSING = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def declare() -> object:
    """Declare the operators; they stay for as long as what is returned."""
    # As the command does it, which is too late once torch has been imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for operator in MISSING:
        library.define(operator)
    return library


if __name__ == "__main__":
    declared = declare()
    raise SystemExit(main(["bench", *sys.argv[1:]]))
