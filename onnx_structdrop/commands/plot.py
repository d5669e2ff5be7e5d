"""``structdrop plot``: the sites of a model, and masks over feature maps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onnx_structdrop import reference
from onnx_structdrop.commands.selection import (
    has_filters,
    placement_notes,
    quantisation_note,
    select,
)
from onnx_structdrop.commands.specification import specification
from onnx_structdrop.commands.usage import UsageError
from onnx_structdrop.console import message, shape_text
from onnx_structdrop.errors import ArgumentError, ModelError
from onnx_structdrop.graph.inspect import inspect
from onnx_structdrop.graph.io import load
from onnx_structdrop.graph.sites import find_sites
from onnx_structdrop.mc.images import numpy_fault
from onnx_structdrop.plot import (
    Capture,
    capture,
    check_figure_path,
    expected_rate,
    plot_masks,
    plot_sites,
    sample_inputs,
    sample_maps,
    save_figure,
)

if TYPE_CHECKING:
    import argparse

    import onnx_ir as ir

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Draw a picture."""
    try:
        check_figure_path(options.output)
    except ArgumentError as error:
        raise UsageError(str(error)) from error
    if options.what == "sites":
        figure = _sites(options)
    elif options.model is None:
        figure = _reference_masks(options)
    else:
        figure = _model_masks(options)
    save_figure(figure, options.output)
    message(f"wrote {options.output}")
    return 0


def _sites(options: argparse.Namespace) -> Any:
    model = load(options.model)
    chosen = None
    if has_filters(options):
        sites = find_sites(model)
        chosen = select(sites, options, default_kinds=False)
        for note in (*placement_notes(sites, options, chosen), *quantisation_note(model)):
            message(note)
    return plot_sites(model, chosen=chosen, title=Path(options.model).name, names=options.names)


def _reference_masks(options: argparse.Namespace) -> Any:
    for option in ("node", "input"):
        if getattr(options, option) is not None:
            raise UsageError(f"--{option} needs a MODEL")
    spec = specification(options)
    if options.shape is None:
        raise UsageError("--shape is needed where there is no MODEL, such as 4,16,28,28")
    shape = tuple(options.shape)
    if min(shape) < 1:
        raise UsageError(f"--shape {shape_text(shape)} has a size below 1")
    generator = np.random.default_rng(options.seed)
    data = sample_maps(shape, generator).astype(np.float32)
    uniforms = generator.random(reference.uniforms_shape(spec, shape))
    dropped = reference.apply(spec, data, uniforms)
    return plot_masks(
        data,
        dropped.mask,
        dropped.output,
        sample=options.sample,
        maps=options.maps,
        title=f"{type(spec).__name__} on {shape_text(shape)}",
        nominal=spec.rate,
        expected=spec.realised_rate(shape),
    )


def _model_masks(options: argparse.Namespace) -> Any:
    if options.spec is not None:
        raise UsageError("--spec draws masks without a model; leave out MODEL or --spec")
    if options.input is not None and options.shape is not None:
        raise UsageError("--shape is that of a made-up input; leave out --input or --shape")
    model = load(options.model)
    nodes = inspect(model).own
    if not nodes:
        raise ModelError(f"no structured dropout in {options.model!r}; insert it first")
    if not any(node.active for node in nodes):
        raise ModelError(
            f"the nodes of {options.model!r} are in inference mode and drop nothing; "
            "structdrop mode --train switches them on"
        )
    rate = 0.1 if options.rate is None else options.rate
    if options.input is not None:
        inputs = _read_inputs(options.input, model)
    else:
        inputs = sample_inputs(model, shape=options.shape, seed=options.seed, scalar=rate)
    seen = _choose(capture(model, inputs), options)
    nominal = seen.ratio
    if nominal is None and isinstance(seen.node.ratio, str) and seen.node.ratio in inputs:
        nominal = float(inputs[seen.node.ratio])
    return plot_masks(
        seen.data,
        seen.mask,
        seen.output,
        channel_axis=seen.channel_axis,
        sample=options.sample,
        maps=options.maps,
        title=f"{seen.node.op_type} behind {seen.node.data} · {shape_text(seen.data.shape)}",
        nominal=nominal,
        expected=expected_rate(seen.node, seen.data.shape),
    )


def _choose(captures: list[Capture], options: argparse.Namespace) -> Capture:
    if not captures:
        raise ModelError(
            "all structured dropout is in subgraphs or functions, where it cannot be seen"
        )
    if options.node is None:
        others = len(captures) - 1
        if others:
            message(f"drawing {captures[0].node.name}; --node draws one of {others} others")
        return captures[0]
    for seen in captures:
        if options.node in (seen.node.name, seen.node.data, seen.node.output):
            return seen
    names = ", ".join(seen.node.name for seen in captures[:3])
    raise ArgumentError(
        f"there is no node {options.node!r}; the model has {len(captures)}, such as {names}"
    )


def _read_inputs(path: str, model: ir.Model) -> dict[str, npt.NDArray[Any]]:
    names = [
        value.name or ""
        for value in model.graph.inputs
        if value.name not in model.graph.initializers
    ]
    try:
        loaded = np.load(path, allow_pickle=False)
        inputs = {names[0]: loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except (ValueError, EOFError) as error:
        raise ArgumentError(
            f"{path!r} is not a .npy or .npz file of arrays: {numpy_fault(path, error)}"
        ) from error
    missing = [name for name in names if name not in inputs]
    if missing:
        raise ArgumentError(f"{path!r} has no array for the inputs {', '.join(missing)}")
    return inputs
