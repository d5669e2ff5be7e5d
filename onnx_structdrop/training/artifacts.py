"""Training artifacts: everything a runtime needs to train a model, in one folder."""

from __future__ import annotations

import dataclasses
import io
import shutil
import zipfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import onnx
import onnx_ir as ir

from onnx_structdrop.errors import ArgumentError, ArgumentTypeError, UnsupportedModelError
from onnx_structdrop.graph.convert import as_ir, to_proto
from onnx_structdrop.graph.io import load
from onnx_structdrop.graph.mode import reseed, set_training_mode
from onnx_structdrop.training import manifest as files
from onnx_structdrop.training.folders import absolute, check_target, new_folder
from onnx_structdrop.training.gradients import register_gradients
from onnx_structdrop.training.losses import LOSSES, add_loss, check_reached
from onnx_structdrop.training.manifest import Manifest, TensorInfo
from onnx_structdrop.training.optimizer_options import OPTIMIZERS, checked_options
from onnx_structdrop.training.preparation import Prepared, prepare
from onnx_structdrop.training.runtime import quiet, training_api
from onnx_structdrop.training.schedule import Schedule
from onnx_structdrop.training.stages import check_stages, node_stages, ratios_of, split_by_stage

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Mapping
    from pathlib import Path

__all__ = ["OPTIMIZERS", "Artifacts", "generate_artifacts", "write_parameters"]

_MAX_IR = 10
"""Newest IR version that onnxruntime-training 1.19.2 reads."""


@dataclasses.dataclass(frozen=True)
class Artifacts:
    """A folder of training artifacts.

    The files are named as onnxruntime's own tool names them, and load in onnxruntime-training as
    they are; ``structdrop.json`` and ``parameters.npz`` come in addition.

    Attributes
    ----------
    directory
        Where it lies.
    manifest
        What it holds.
    """

    directory: Path
    manifest: Manifest

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Self:
        """Return the artifacts in a folder, which is checked to be whole.

        Raises
        ------
        ModelError
            A file is missing, damaged, or of another version of this package.
        """
        folder = absolute(directory, "directory")
        return cls(folder, Manifest.read(folder))

    @property
    def training_model(self) -> Path:
        """The graph of loss and gradients."""
        return self.directory / files.TRAINING_MODEL

    @property
    def eval_model(self) -> Path:
        """The graph of the loss, with dropout off."""
        return self.directory / files.EVAL_MODEL

    @property
    def optimizer_model(self) -> Path:
        """The graph of the update."""
        return self.directory / files.OPTIMIZER_MODEL

    @property
    def checkpoint(self) -> Path:
        """Parameters and state, in onnxruntime-training's format."""
        return self.directory / files.CHECKPOINT

    @property
    def parameters(self) -> Path:
        """Parameters, in numpy's format."""
        return self.directory / files.PARAMETERS

    def copy(self, directory: Path) -> None:
        """Copy the files, and nothing else that lies beside them, into a folder to make.

        Raises
        ------
        OSError
            A file is gone, or cannot be written.
        """
        directory.mkdir()
        for name in (files.MANIFEST, *files.FILES):
            shutil.copyfile(self.directory / name, directory / name)


def generate_artifacts(
    model: onnx.ModelProto | ir.Model | Prepared[Any] | str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    loss: str = "cross_entropy",
    optimizer: str = "adamw",
    optimizer_options: Mapping[str, Any] | None = None,
    loss_output: str | None = None,
    requires_grad: Collection[str] | None = None,
    frozen: Collection[str] = (),
    batch_norm: str = "frozen",
    sizes: Mapping[str, int] | None = None,
    schedule: Schedule | None = None,
    seed: int | None = None,
    extra_outputs: Sequence[str] = (),
    overwrite: bool = False,
) -> Artifacts:
    """Write what it takes to train a model with structured dropout.

    The folder holds ``training_model.onnx`` (loss and gradients), ``eval_model.onnx`` (loss, with
    dropout off), ``optimizer_model.onnx``, ``checkpoint``, ``structdrop.json`` and
    ``parameters.npz``. It appears whole or not at all. Native kernels are no part of it: whether
    a session uses them is decided where it is made.

    Parameters
    ----------
    model
        A model, a path of one, or what `prepare` returned. It is not changed. The last axis but
        the batch and the spatial ones of its output, axis 1, holds the classes.
    directory
        Folder to make, in one that exists.
    loss
        "cross_entropy" (int64 labels, one class axis less than the output), "mse", "bce" (on
        logits) or "l1" (labels like the output).
    optimizer
        "adamw" or "sgd".
    optimizer_options
        Of adamw: ``betas``, ``eps``, ``weight_decay``, ``bias_correction``, and of both
        ``clip_grad``, the largest norm of all gradients together.
    loss_output
        The output that the loss reads, where the model has several.
    requires_grad, frozen, batch_norm, sizes
        As `prepare` takes them; not together with what it returned.
    schedule
        Drives the ratios in sessions. One with factors gives each stage a ratio of its own.
    seed
        Gives the nodes new seeds, as `reseed` does.
    extra_outputs
        Values of the model that training and evaluation return as well.
    overwrite
        Whether a folder of artifacts that is there may be replaced.

    Returns
    -------
    Artifacts

    Raises
    ------
    DependencyError
        onnxruntime-training is not installed.
    ArgumentError, ArgumentTypeError
        An argument is unknown, out of range, or contradicts the model.
    UnsupportedModelError
        The model cannot train; the message names the node.
    OutputError
        The folder cannot be written; nothing was left behind.
    """
    if loss not in LOSSES:
        raise ArgumentError(f"loss is {loss!r}; allowed are {', '.join(LOSSES)}")
    if optimizer not in OPTIMIZERS:
        raise ArgumentError(f"optimizer is {optimizer!r}; allowed are {', '.join(OPTIMIZERS)}")
    options = checked_options(optimizer, optimizer_options)
    if schedule is not None and not isinstance(schedule, Schedule):
        raise ArgumentTypeError(f"schedule must be a Schedule, not {type(schedule).__name__}")
    target = absolute(directory, "directory")
    check_target(target, overwrite=overwrite)
    training_api("artifacts")  # what is missing is told before any work
    if isinstance(model, Prepared):
        if requires_grad is not None or tuple(frozen) or batch_norm != "frozen" or sizes:
            raise ArgumentError(
                "requires_grad, frozen, batch_norm and sizes go to prepare, which made this model"
            )
        source = as_ir(model.model)
    else:
        source = as_ir(model) if isinstance(model, onnx.ModelProto | ir.Model) else load(model)
    if seed is not None:
        source = reseed(source, seed)
    stages = node_stages(source)
    before = tuple(source.graph.initializers)
    if schedule is not None and schedule.factors:
        split_by_stage(source, stages)
    if isinstance(model, Prepared):
        prepared = _renewed(model, source, before)
    else:
        prepared = prepare(
            source,
            requires_grad=requires_grad,
            frozen=frozen,
            batch_norm=batch_norm,
            sizes=sizes,
        )
    readable = prepared.model
    ratios = ratios_of(readable, prepared.ratios, stages)
    if schedule is not None:
        check_stages(schedule, ratios)
    proto = to_proto(readable)
    loss_output = _loss_output(proto, loss_output)
    check_reached(proto, loss_output, prepared.trainable)
    inputs = tuple(map(_tensor_info, _data_inputs(proto)))
    outputs = [output.name for output in proto.graph.output]
    _check_values(proto, extra_outputs)
    extra = [name for name in dict.fromkeys(extra_outputs) if name not in outputs]
    loss_name, labels = add_loss(proto, loss, loss_output)
    with new_folder(target, overwrite=overwrite) as folder:
        _generate(
            proto,
            folder,
            loss_input_names=[loss_name],
            loss=None,  # it is in the model
            optimizer=_optimizer_block(optimizer, options),
            requires_grad=list(prepared.trainable),
            frozen_params=list(prepared.frozen),
            additional_output_names=[*outputs, *extra, *dict(prepared.statistics).values()],
        )
        _finish_models(folder, set(dict(prepared.statistics).values()))
        checkpoints = training_api().CheckpointState
        write_parameters(checkpoints.load_checkpoint(str(folder / files.CHECKPOINT)), folder)
        manifest = Manifest(
            opset=next(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")),
            loss=loss,
            optimizer=optimizer,
            loss_name=loss_name,
            outputs=tuple(outputs),
            extra_outputs=tuple(extra),
            loss_output=loss_output,
            inputs=inputs,
            labels=next(_tensor_info(i) for i in proto.graph.input if i.name == labels),
            trainable=tuple(prepared.trainable),
            frozen=tuple(prepared.frozen),
            ratios=ratios,
            classes=_classes(proto, loss_output) if loss == "cross_entropy" else None,
            statistics=tuple(prepared.statistics),
            schedule=schedule,
        )
        manifest.write(folder)
    return Artifacts.load(target)


def write_parameters(state: Any, folder: Path) -> None:
    """Write the parameters of a checkpoint's state as numpy's archive into a folder."""
    with zipfile.ZipFile(folder / files.PARAMETERS, "w") as archive:
        # numpy.savez takes names as keywords, and one of them is its own.
        for name, parameter in state.parameters:
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, parameter.data, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue())


def _renewed(
    old: Prepared[Any], model: ir.Model, initializers: Sequence[str]
) -> Prepared[ir.Model]:
    """Return a prepared model after its ratios were split."""
    now = model.graph.initializers
    added = [name for name in now if name not in initializers]
    frozen, ratios = (
        tuple(name for name in names if name in now or name not in initializers)
        for names in (old.frozen, old.ratios)
    )
    return dataclasses.replace(old, model=model, frozen=(*frozen, *added), ratios=(*ratios, *added))


def _data_inputs(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    initialised = {tensor.name for tensor in proto.graph.initializer}
    return [value for value in proto.graph.input if value.name not in initialised]


def _tensor_info(value: onnx.ValueInfoProto) -> TensorInfo:
    tensor = value.type.tensor_type
    shape = None
    if tensor.HasField("shape"):
        shape = tuple(
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
            for dim in tensor.shape.dim
        )
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return TensorInfo(value.name, np.dtype(dtype).name, shape)


def _loss_output(proto: onnx.ModelProto, wanted: str | None) -> str:
    outputs: list[str] = [output.name for output in proto.graph.output]
    if wanted is None:
        if len(outputs) == 1:
            return outputs[0]
        raise ArgumentError(
            f"the model has {len(outputs)} outputs: say by loss_output which one the loss reads, "
            f"of {', '.join(map(repr, outputs))}"
        )
    if wanted not in outputs:
        raise ArgumentError(
            f"loss_output is {wanted!r}; outputs of the model are {', '.join(map(repr, outputs))}"
        )
    return wanted


def _classes(proto: onnx.ModelProto, loss_output: str) -> int | str | None:
    (output,) = (each for each in proto.graph.output if each.name == loss_output)
    shape = _tensor_info(output).shape
    return None if shape is None else shape[1]


def _check_values(proto: onnx.ModelProto, names: Sequence[str]) -> None:
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise ArgumentTypeError(f"extra_outputs must be a list of names, not {names!r}")
    made = {output for node in proto.graph.node for output in node.output if output}
    for name in names:
        if name not in made:
            raise ArgumentError(f"extra_outputs: no node of the model makes a value {name!r}")


def _optimizer_block(name: str, options: Mapping[str, Any]) -> Any:
    kinds = training_api("onnxblock").optim
    given = dict(options)
    if "clip_grad" in given:
        given["clip_grad"] = kinds.ClipGradNorm(given["clip_grad"])
    return (kinds.AdamW if name == "adamw" else kinds.SGD)(**given)


def _generate(proto: onnx.ModelProto, folder: Path, **arguments: Any) -> None:
    register_gradients()
    try:
        with quiet():
            training_api("artifacts").generate_artifacts(
                proto, artifact_directory=str(folder), **arguments
            )
    except OSError:
        raise
    except Exception as error:
        # Onnxruntime raises whatever its builder meets; all of it means that this cannot train.
        reason = " ".join(str(error).split())
        raise UnsupportedModelError(f"onnxruntime cannot build the gradients: {reason}") from error


def _finish_models(folder: Path, statistics: set[str]) -> None:
    """Mend what onnxruntime leaves wrong: IR versions, and what evaluation does."""
    for name in (files.TRAINING_MODEL, files.EVAL_MODEL, files.OPTIMIZER_MODEL):
        path = folder / name
        proto = onnx.load(path)
        if name == files.EVAL_MODEL:
            _normalise_by_statistics(proto.graph, statistics)
            proto = set_training_mode(proto, False)
        proto.ir_version = min(proto.ir_version, _MAX_IR)
        path.write_bytes(proto.SerializeToString())


def _normalise_by_statistics(graph: onnx.GraphProto, updated: set[str]) -> None:
    """Take the updated statistics off batch normalisation, which has them in training only."""
    for node in graph.node:
        if node.op_type == "BatchNormalization":
            del node.output[1:]
    kept = [output for output in graph.output if output.name not in updated]
    del graph.output[:]
    graph.output.extend(kept)
