"""One training step in onnxruntime-training: loss and gradients."""

from __future__ import annotations

import onnx
import onnxruntime
from onnxruntime.training import artifacts
from onnxruntime.training.api import CheckpointState, Module


def build(prepared, folder, *, loss="mse", more=()):
    """Return the module and its state, of artifacts in a folder."""
    onnxruntime.set_default_logger_severity(4)
    artifacts.generate_artifacts(
        prepared.model,
        requires_grad=list(prepared.trainable),
        frozen_params=list(prepared.frozen),
        loss=artifacts.LossType.MSELoss if loss == "mse" else artifacts.LossType.CrossEntropyLoss,
        loss_input_names=[prepared.model.graph.output[0].name],
        additional_output_names=list(more) or None,
        artifact_directory=str(folder),
    )
    path = folder / "training_model.onnx"
    proto = onnx.load(path)
    proto.ir_version = min(proto.ir_version, 10)
    onnx.save(proto, path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    state = CheckpointState.load_checkpoint(str(folder / "checkpoint"))
    module = Module(str(path), state, session_options=options)
    module.train()
    return module, state


def step(prepared, folder, inputs, target, *, loss="mse"):
    """Return the loss and the gradient of every parameter."""
    module, state = build(prepared, folder, loss=loss)
    value = float(module(*inputs, target))
    return value, {name: state.parameters[name].grad.copy() for name in prepared.trainable}
