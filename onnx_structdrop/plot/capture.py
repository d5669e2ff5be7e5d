"""What the dropout nodes of a model do in one run: their data, masks and outputs."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_structdrop.errors import ArgumentError, ModelError
from onnx_structdrop.graph.convert import as_ir
from onnx_structdrop.graph.files.wellformed import one_line
from onnx_structdrop.graph.inspect import StochasticNode, inspect
from onnx_structdrop.graph.io import save
from onnx_structdrop.graph.names import Names
from onnx_structdrop.graph.nodes import dropout_nodes
from onnx_structdrop.schema import SeedRegion
from onnx_structdrop.specs import rates

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx
    import onnxruntime

__all__ = ["Capture", "capture", "expected_rate", "sample_inputs", "sample_maps"]

Array = npt.NDArray[Any]

_BATCH = 4
_FREE_SIZE = 64
_CHANNELS = 4
_NUMPY_TYPES = {
    ir.DataType.FLOAT: np.float32,
    ir.DataType.DOUBLE: np.float64,
    ir.DataType.FLOAT16: np.float16,
}


@dataclass(frozen=True)
class Capture:
    """One dropout node in one run."""

    node: StochasticNode
    data: Array
    mask: Array
    output: Array

    @property
    def ratio(self) -> float | None:
        """Nominal rate, where the model holds it."""
        return self.node.ratio if isinstance(self.node.ratio, float) else None

    @property
    def channel_axis(self) -> int:
        """Axis of the channels; 1 where the operator has no such notion."""
        axis = self.node.attributes.get("channel_axis", 1)
        return axis if isinstance(axis, int) else 1

    @property
    def realised(self) -> float:
        """Dropped fraction of the data."""
        return 1 - float(self.mask.mean())


def capture(
    model: onnx.ModelProto | ir.Model,
    inputs: Mapping[str, npt.ArrayLike],
    *,
    session_options: onnxruntime.SessionOptions | None = None,
) -> list[Capture]:
    """Run a model in onnxruntime and return what each dropout node of this package did.

    Nodes in subgraphs and functions are left out: their values cannot be seen from outside.

    Parameters
    ----------
    model
        An ``onnx.ModelProto`` or ``onnx_ir.Model``. It is not changed.
    inputs
        Array for each input; `sample_inputs` makes some.
    session_options
        Options of the session, such as those that `register` has put the native kernels into.

    Returns
    -------
    list of Capture
        In the order of the graph.

    Raises
    ------
    ModelError
        onnxruntime cannot run the model on these inputs.
    """
    exposed = as_ir(model)
    names = Names(exposed)
    reports = {(node.scope, node.output): node for node in inspect(exposed).own}
    outputs = {value.name for value in exposed.graph.outputs}
    wanted: list[tuple[StochasticNode, tuple[str, str, str]]] = []
    for scope, node in dropout_nodes(exposed):
        data, (output, mask) = node.inputs[0], node.outputs[:2]
        if scope or data is None:
            continue
        if not mask.name:
            mask.name = names.take(f"{output.name}_mask")
        report = reports[scope, output.name or ""]
        wanted.append((report, (data.name or "", mask.name, output.name or "")))
        mask.type = mask.type or ir.TensorType(ir.DataType.BOOL)
        for value in (data, mask, output):
            if value.name not in outputs:
                outputs.add(value.name)
                exposed.graph.outputs.append(value)
    if not wanted:
        return []
    results = _run(exposed, inputs, session_options)
    return [
        Capture(report, results[data], results[mask], results[output])
        for report, (data, mask, output) in wanted
    ]


def _run(
    model: ir.Model,
    inputs: Mapping[str, npt.ArrayLike],
    options: onnxruntime.SessionOptions | None,
) -> dict[str, Array]:
    import onnxruntime

    if options is None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
    known = {value.name for value in model.graph.inputs}
    fed = {name: np.asarray(array) for name, array in inputs.items() if name in known}
    results = dict(fed)
    wanted = [value.name for value in model.graph.outputs if value.name and value.name not in fed]
    with tempfile.TemporaryDirectory(prefix="structdrop-") as folder:
        # A file, and not bytes, since only that can have its weights beside it.
        path = Path(folder, "model.onnx")
        save(model, path)
        try:
            session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
            results.update(zip(wanted, session.run(wanted, fed), strict=True))
        except Exception as error:
            # onnxruntime's own exceptions have no common base but Exception.
            raise ModelError(f"onnxruntime cannot run the model: {one_line(error)}") from error
        finally:
            session = None
    return results


def expected_rate(
    node: StochasticNode, shape: Sequence[int | str | None] | None = None
) -> float | None:
    """Return the fraction that a node of this package drops on average in training mode.

    Parameters
    ----------
    node
        From `inspect`.
    shape
        Shape of its data; by default what the model says.

    Returns
    -------
    float or None
        None where the ratio or a size that matters is decided at run time.
    """
    if not isinstance(node.ratio, float):
        return None
    if node.op_type != "DropBlock":
        return node.ratio
    shape = node.shape if shape is None else shape
    block, channel = node.attributes.get("block_size"), node.attributes.get("channel_axis", 1)
    if shape is None or not isinstance(block, list) or not isinstance(channel, int):
        return None
    kept = (0, channel % len(shape))
    spatial = [size for axis, size in enumerate(shape) if axis not in kept]
    sizes = [size for size in spatial if isinstance(size, int)]
    if len(sizes) < len(spatial):
        return None
    block = block * len(sizes) if len(block) == 1 else block
    whole = node.attributes.get("seed_region", 0) == SeedRegion.WHOLE
    return rates.realised_rate(node.ratio, block, sizes, whole=whole)


def sample_inputs(
    model: onnx.ModelProto | ir.Model,
    *,
    shape: Sequence[int] | None = None,
    seed: int = 0,
    scalar: float = 0.1,
) -> dict[str, Array]:
    """Return inputs to run a model on: smooth random images rather than noise.

    Parameters
    ----------
    model
        A model of either kind.
    shape
        Shape of the first input that is no scalar; by default what the model says, with a batch
        of 4 and 64 for any other size that is free.
    seed
        Seed of the images.
    scalar
        Value of scalar inputs, such as one that drives the ratio.

    Raises
    ------
    ArgumentError
        The shape contradicts the model, or an input is not of a floating-point type.
    """
    generator = np.random.default_rng(seed)
    graph = as_ir(model).graph
    inputs: dict[str, Array] = {}
    for value in graph.inputs:
        name = value.name or ""
        if name in graph.initializers:
            continue
        if value.dtype not in _NUMPY_TYPES or value.shape is None:
            raise ArgumentError(
                f"input {name!r} is {value.type}{value.shape or ''}; only floating-point tensors "
                "of known rank can be made up, give the inputs yourself"
            )
        declared = tuple(size if isinstance(size, int) else None for size in value.shape)
        if declared:
            sizes = _sizes(name, declared, shape)
            shape = None
            array: Array = sample_maps(sizes, generator)
        else:
            array = np.asarray(scalar)
        inputs[name] = array.astype(_NUMPY_TYPES[value.dtype])
    if shape is not None:
        raise ArgumentError("the model has no input that the shape could apply to")
    return inputs


def _sizes(
    name: str, declared: tuple[int | None, ...], wanted: Sequence[int] | None
) -> tuple[int, ...]:
    if wanted is None:
        free = (_BATCH, *(_FREE_SIZE for _ in declared[1:]))
        return tuple(
            own if own is not None else size for own, size in zip(declared, free, strict=True)
        )
    fits = len(wanted) == len(declared) and all(
        own in (None, size) for own, size in zip(declared, wanted, strict=True)
    )
    if not fits:
        shown = ",".join("?" if size is None else str(size) for size in declared)
        raise ArgumentError(
            f"input {name!r} has shape {shown}, {','.join(map(str, wanted))} does not fit"
        )
    return tuple(wanted)


def sample_maps(shape: Sequence[int], generator: np.random.Generator) -> Array:
    """Return standardised noise with about the spectrum of natural images, per sample.

    Axes of up to 4 are taken for channels, which have no order.
    """
    noise = generator.standard_normal(tuple(shape))
    smooth = [axis for axis in range(1, noise.ndim) if noise.shape[axis] > _CHANNELS]
    if noise.ndim < 3 or not smooth:
        return noise
    frequencies = np.meshgrid(
        *(
            np.fft.fftfreq(size) if axis in smooth else np.zeros(size)
            for axis, size in enumerate(noise.shape)
        ),
        indexing="ij",
        sparse=True,
    )
    distance = np.sqrt(sum(np.square(frequency) for frequency in frequencies))
    spectrum = np.fft.fftn(noise, axes=smooth) / (distance + 0.02)
    image = np.fft.ifftn(spectrum, axes=smooth).real
    result: Array = (image - image.mean()) / image.std()
    return result
