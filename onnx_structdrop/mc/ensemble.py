"""Several trained networks in the place of samples: the baseline that is hardest to beat.

Lakshminarayanan, Pritzel and Blundell, "Simple and Scalable Predictive Uncertainty Estimation using
Deep Ensembles", 2017. One network alone is an ensemble of one: its plain prediction.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onnx_structdrop.errors import ArgumentError, ArgumentTypeError
from onnx_structdrop.graph.convert import as_ir
from onnx_structdrop.graph.io import load
from onnx_structdrop.mc.accumulator import Accumulator
from onnx_structdrop.mc.inputs import Inputs
from onnx_structdrop.mc.outputs import describe, is_floating
from onnx_structdrop.mc.result import Result
from onnx_structdrop.mc.sessions import PartSession, as_array, as_ort_value

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    import onnx
    import onnx_ir as ir

    Model = onnx.ModelProto | ir.Model | str | os.PathLike[str]

__all__ = ["ensemble"]


def ensemble(
    models: Iterable[Model],
    images: Any,
    *,
    outputs: Sequence[str] | None = None,
    batch: int = 64,
    threads: int | None = None,
    task: str | Mapping[str, str] = "auto",
    values: str | Mapping[str, str] = "auto",
    class_axis: int | str | Mapping[str, int | str | None] | None = "auto",
    quantiles: Sequence[float] = (),
    keep_samples: bool = False,
) -> Result:
    """Run every model on the images once and return statistics over the models.

    The mean is the ensemble's prediction, mutual information what its members disagree about. Of a
    single model it is that model's own: variance is NaN, mutual information 0.

    Parameters
    ----------
    models
        Models in inference form, or paths of them, with the same inputs and outputs. They are
        opened one after the other.
    images
        An array, or arrays by input name, as `Sampler` takes them.
    outputs
        Names of the outputs to sum up; None takes all of the first model that hold floating-point
        numbers for each image.
    batch
        Images to run at a time, where the models leave that open.
    threads
        Threads of each run; None leaves it to onnxruntime.
    task, values, class_axis
        What the outputs hold, see `describe`; also by name.
    quantiles, keep_samples
        As for `Sampler`.

    Returns
    -------
    Result
        With as many samples as there are models, in their order.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        There is no model, the images do not fit one, or an output is missing or fits no batch.
    ModelError
        A model cannot be read or run.
    """
    members = [] if isinstance(models, str | os.PathLike) else list(models)
    if not members:
        raise ArgumentTypeError("models must be a list of models or of paths, at least one")
    if batch < 1:
        raise ArgumentError(f"batch is {batch}; allowed is 1 or more")
    said = {"task": task, "values": values, "class_axis": class_axis}
    sums: dict[str, Accumulator] = {}
    names = None if outputs is None else list(outputs)
    for number, member in enumerate(members):
        model = as_ir(load(member) if isinstance(member, str | os.PathLike) else member)
        inputs = Inputs(model)
        feeds = inputs.check(images)
        session = PartSession(model, threads=threads, library=False, what=f"model {number}")
        width = inputs.batch or batch
        for start in range(0, feeds.count, width):
            piece = feeds.piece(start, min(start + width, feeds.count))
            full = piece.padded(inputs.batch or piece.count)
            fed = {
                name: as_ort_value(array, inputs.all[name].dtype)
                for name, array in (*full.images.items(), *full.shared.items())
            }
            found = {name: as_array(value) for name, value in session.run(fed).items()}
            if names is None:
                names = _of_images(found, full.count)
            for name in names:
                rows = _rows(found, name, full.count, number)[: piece.count]
                if name not in sums:
                    kind = describe(
                        name, rows, **{key: _of(one, name) for key, one in said.items()}
                    )
                    sums[name] = Accumulator(
                        kind, feeds.count, len(members),
                        quantiles=quantiles, keep_samples=keep_samples,
                    )  # fmt: skip
                sums[name].add(rows[None], start)
    return Result({name: one.finish() for name, one in sums.items()})


def _of_images(found: Mapping[str, np.ndarray], count: int) -> list[str]:
    names = [
        name for name, array in found.items() if is_floating(array) and array.shape[:1] == (count,)
    ]
    if not names:
        raise ArgumentError(
            f"none of the outputs {', '.join(found)} holds floating-point numbers for each image"
        )
    return names


def _rows(found: Mapping[str, np.ndarray], name: str, count: int, number: int) -> np.ndarray:
    if name not in found:
        raise ArgumentError(
            f"model {number} has no output {name!r}; its outputs are {', '.join(found)}"
        )
    array = found[name]
    if array.shape[:1] != (count,):
        raise ArgumentError(
            f"output {name!r} of model {number} has shape {array.shape} for {count} images: axis 0 "
            "should be the batch; name the outputs to take"
        )
    return array


def _of(said: Any, name: str) -> Any:
    """Return what was said of an output: by name, or of all of them."""
    return said.get(name, "auto") if isinstance(said, Mapping) else said
