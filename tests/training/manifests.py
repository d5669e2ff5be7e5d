"""A manifest, and a folder that it describes, without a runtime that trains."""

from __future__ import annotations

from onnx_structdrop.training import Schedule
from onnx_structdrop.training.manifest import (
    CHECKPOINT,
    EVAL_MODEL,
    OPTIMIZER_MODEL,
    PARAMETERS,
    TRAINING_MODEL,
    Manifest,
    Ratio,
    TensorInfo,
)

FILES = (TRAINING_MODEL, EVAL_MODEL, OPTIMIZER_MODEL, CHECKPOINT, PARAMETERS)

MANIFEST = Manifest(
    opset=17,
    loss="cross_entropy",
    optimizer="adamw",
    loss_name="loss",
    outputs=("y",),
    extra_outputs=("ÿ",),
    loss_output="y",
    inputs=(TensorInfo("x", "float32", ("N", 3, None, 8)), TensorInfo("z", "float32", None)),
    labels=TensorInfo("labels", "int64", ("N",)),
    trainable=("w", "b"),
    frozen=("mean", "ratio"),
    ratios=(Ratio("ratio", 0.3, (None, 2), ("drop", "drop_1")),),
    classes=10,
    statistics=(("mean", "new_mean"),),
    schedule=Schedule.linear(8, factors={2: 0.5}),
)


def folder_of(path, manifest=MANIFEST):
    """Make a folder whose files hold their names."""
    path.mkdir()
    for name in FILES:
        (path / name).write_text(name)
    manifest.write(path)
    return path
