"""From a trained model to one for inference, without a trace of dropout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from onnx_structdrop.errors import ArgumentError, CheckFailedError, ModelError
from onnx_structdrop.graph.fold import fold
from onnx_structdrop.graph.io import save
from onnx_structdrop.graph.verify import verify
from onnx_structdrop.training.feeds import arrange_inputs
from onnx_structdrop.training.opening import open_session
from onnx_structdrop.training.session import TrainingSession
from onnx_structdrop.training.stock import StockTrainer

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from onnx_structdrop.training.artifacts import Artifacts
    from onnx_structdrop.training.manifest import TensorInfo

__all__ = ["finish"]

_FREE_SIZE = 2
"""What a free size is taken as in made-up inputs."""

_TOLERANCE = 1e-4
"""Largest difference over the largest value: optimisers of graphs differ in order and fusion."""


def finish(
    source: TrainingSession | StockTrainer | Artifacts | str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    *,
    inputs: Any = None,
    seed: int = 0,
    overwrite: bool = True,
) -> onnx.ModelProto:
    """Return the trained model in inference form, folded and checked.

    The export of a session keeps our nodes, switched off; here they are removed. Three checks come
    before anything is written: two runs are equal bit for bit, `verify` finds what was folded
    equal to what was exported, and the outputs are those of the evaluation model.

    Parameters
    ----------
    source
        A session, a trainer, or a folder of `generate_artifacts`, or of `TrainingSession.save`
        where onnxruntime-training is installed.
    path
        File to write the model to; None only returns it.
    inputs
        A batch to check with, as `TrainingSession.step` takes it. By default normal numbers are
        drawn, 2 for every free size; give one where a model needs other sizes.
    seed
        Of the inputs that are drawn.
    overwrite
        Whether a file that is there may be replaced.

    Raises
    ------
    CheckFailedError
        A check failed; nothing was written.
    ArgumentError, ArgumentTypeError
        `inputs` are not what the model takes.
    ModelError
        The folder is not whole, or onnxruntime cannot run the model.
    OutputError
        The file cannot be written.
    """
    session = source if isinstance(source, TrainingSession | StockTrainer) else open_session(source)
    _check_finite(session)
    manifest = session.manifest
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ArgumentError(f"seed is {seed!r}; allowed is an integer of 0 or more")
    if inputs is None:
        inputs = _drawn(manifest.inputs, seed)
    before = session.inference_model()
    model = _without_idle_imports(fold(before))
    _check_folded(before, model)
    _check_outputs(session, model, inputs)
    if path is not None:
        save(model, path, overwrite=overwrite)
    return model


def _check_finite(session: TrainingSession | StockTrainer) -> None:
    """Check what training changes: behind a Relu or in unused places NaN would not show."""
    manifest, parameters = session.manifest, session.parameters
    for name in (*manifest.trainable, *(name for name, _ in manifest.statistics)):
        if not np.isfinite(parameters[name]).all():
            raise CheckFailedError(
                f"parameter {name!r} is not finite after {session.steps} steps: training has "
                "diverged; go on from an earlier save with a lower learning rate"
            )


def _without_idle_imports(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove the imports of every domain that onnxruntime knows and the model does not use."""
    used = {node.domain for node in model.graph.node} | {"", "ai.onnx"}
    if not model.functions and not any(_has_subgraph(node) for node in model.graph.node):
        kept = [each for each in model.opset_import if each.domain in used]
        del model.opset_import[:]
        model.opset_import.extend(kept)
    return model


def _has_subgraph(node: onnx.NodeProto) -> bool:
    graphs = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    return any(attribute.type in graphs for attribute in node.attribute)


def _check_folded(before: onnx.ModelProto, model: onnx.ModelProto) -> None:
    report = verify(before, model)
    if report.status != "equal":
        raise CheckFailedError(
            f"the folded model is not proven equal to the exported one: {report.status}"
            f"{f', {report.reason}' if report.reason else ''}"
        )


def _check_outputs(
    session: TrainingSession | StockTrainer, model: onnx.ModelProto, inputs: Any
) -> None:
    manifest = session.manifest
    feeds = dict(
        zip([info.name for info in manifest.inputs], arrange_inputs(manifest, inputs), strict=True)
    )
    first, second = _runs(model, feeds)
    shape = list(first[manifest.loss_output].shape)
    if manifest.loss == "cross_entropy":
        del shape[1]
    evaluated = session.evaluate(inputs, np.zeros(shape, manifest.labels.dtype)).outputs
    for name, value in first.items():
        if not np.array_equal(value, second[name], equal_nan=True):
            raise CheckFailedError(f"two runs of the finished model differ in output {name!r}")
        wanted = evaluated[name]
        scale = float(np.abs(wanted).max(initial=1.0))
        error = float(np.abs(value - wanted).max(initial=0.0)) / scale
        if not error <= _TOLERANCE:
            raise CheckFailedError(
                f"output {name!r} of the finished model differs from the evaluation model's by "
                f"{error:.2g} of its largest value; allowed is {_TOLERANCE:g}"
            )


def _runs(
    model: onnx.ModelProto, feeds: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    import onnxruntime

    names = [output.name for output in model.graph.output]
    read = {value.name for value in model.graph.input}
    feeds = {name: value for name, value in feeds.items() if name in read}  # others are idle
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        first, second = (session.run(names, feeds) for _ in range(2))
    except Exception as error:
        # Onnxruntime has an exception class for every status, and no base class for them.
        reason = " ".join(str(error).split())
        raise ModelError(f"onnxruntime cannot run the finished model: {reason}") from error
    return dict(zip(names, first, strict=True)), dict(zip(names, second, strict=True))


def _drawn(inputs: Iterable[TensorInfo], seed: int) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    arrays = []
    for info in inputs:
        if info.shape is None:
            raise ArgumentError(f"the shape of input {info.name!r} is unknown: give inputs")
        shape = [size if isinstance(size, int) else _FREE_SIZE for size in info.shape]
        arrays.append(generator.standard_normal(shape).astype(info.dtype))
    return arrays
