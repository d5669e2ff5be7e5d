"""Insertion of structured dropout behind chosen sites of a graph."""

from __future__ import annotations

import dataclasses
import secrets
from typing import TYPE_CHECKING, Any, TypeVar, cast

import onnx
import onnx_ir as ir

from onnx_structdrop.errors import ArgumentError, ArgumentTypeError, SiteError
from onnx_structdrop.functions import check_opset
from onnx_structdrop.graph.collector import uncollected
from onnx_structdrop.graph.convert import as_ir, like
from onnx_structdrop.graph.files.fidelity import follow
from onnx_structdrop.graph.names import Names
from onnx_structdrop.graph.nodes import (
    check_call,
    check_known,
    declare_functions,
    is_dropout,
    own_calls,
    seed_of,
)
from onnx_structdrop.graph.outputs import copy_output, copy_results
from onnx_structdrop.graph.ratios import Ratios
from onnx_structdrop.graph.record import Record, is_copy
from onnx_structdrop.graph.scopes import default_opset, scopes
from onnx_structdrop.graph.seeds import distinct_seeds
from onnx_structdrop.graph.selection import choose_sites
from onnx_structdrop.schema import DOMAIN, ELEMENT_TYPES, MIN_FUNCTION_IR
from onnx_structdrop.specs import DropoutSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from onnx_structdrop.graph.sites import Site

__all__ = ["insert"]

Model = TypeVar("Model", onnx.ModelProto, ir.Model)

_ELEMENT_TYPES = dict(
    zip(
        ELEMENT_TYPES,
        (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE),
        strict=True,
    )
)


@uncollected()
def insert(
    model: Model,
    spec: DropoutSpec,
    sites: Iterable[Site | str] | Site | str | None = None,
    *,
    training_mode: bool = True,
    ratio_input: str | None = None,
    calibrate: bool = False,
) -> Model:
    """Return a copy of a model with a dropout node behind each of the chosen sites.

    Every consumer of a site's value, subgraphs included, reads the dropped value instead; a
    graph output keeps its name; where the graph reads it as well, an Identity makes the output,
    so that a node in inference mode costs nothing there either. All nodes of one call share one
    ratio, a float32 initializer by default. `fold` takes the result back to the model as it was.

    Parameters
    ----------
    model
        An ``onnx.ModelProto`` or ``onnx_ir.Model``, ai.onnx opset 13 to 26. It is not changed.
        An IR version below 8 is raised to 8, the first that allows functions.
    spec
        What to drop. The channel axis of a site wins over the specification's ``data_format``
        (and ``shared_axes`` follows it). ``spec.seed`` None draws a seed.
    sites
        Sites from `find_sites` of this model, or their value names. None takes every
        "activation" and "join"; `DropPath` belongs on residual branches instead, which end in
        sites of kind "linear".
    training_mode
        Whether the nodes drop; if False they are identities until `set_training_mode`.
    ratio_input
        Name of a graph input, float32 scalar, that drives the ratio instead of an initializer.
        An input of that name and type is shared, otherwise it is added.
    calibrate
        Raise each node's ratio so that the realised rate on its map equals ``spec.rate``. Needs
        known spatial sizes.

    Returns
    -------
    onnx.ModelProto or onnx_ir.Model
        As `model`.

    Raises
    ------
    SiteError
        No site selected; an unknown site, one that holds structured dropout already, or one that
        the specification does not apply to.
    ArgumentError, ArgumentTypeError
        Arguments that contradict each other or the model.
    ModelError
        The model holds a node of our domain that is no complete call of an operator.
    UnsupportedModelError
        The model's opset has no function body for the operator, or none for several element
        types: below opset 15, where they are unknown (as in the body of an untyped function) too.
    """
    if not isinstance(spec, DropoutSpec):
        kind = f"the class {spec.__name__}" if isinstance(spec, type) else type(spec).__name__
        raise ArgumentTypeError(
            f"spec must be a specification such as DropBlock2D(0.1), not {kind}"
        )
    for name, flag in (("training_mode", training_mode), ("calibrate", calibrate)):
        if not isinstance(flag, bool):
            raise ArgumentTypeError(f"{name} must be True or False, not {flag!r}")
    if ratio_input is not None and not isinstance(ratio_input, str):
        raise ArgumentTypeError(
            f"ratio_input must be the name of a graph input, not {ratio_input!r}; "
            "the ratio itself is the specification's rate"
        )
    if ratio_input is not None and calibrate:
        raise ArgumentError(
            "calibrate needs a constant ratio per node, ratio_input drives one for all: choose one"
        )
    result = as_ir(model)
    check_opset(default_opset(result))
    calls = own_calls(result)
    check_known(calls)
    for node in calls:
        check_call(node)
    old = [node for node in calls if is_dropout(node)]
    chosen = choose_sites(result, sites)
    plans = [_Plan.of(spec, site, calibrate=calibrate) for site in chosen]

    record = Record.of(result) or Record.before(result)
    record.fit(result)
    result.ir_version = max(result.ir_version, MIN_FUNCTION_IR)
    names = Names(result)
    ratios = Ratios(result, names, ratio_input, record)
    taken = {seed_of(node) for node in old}
    seeds = distinct_seeds(spec.seed if spec.seed is not None else _drawn_seed(), taken)
    values = _values(result)
    added = []
    for plan, seed in zip(plans, seeds, strict=False):
        graph, value = values[plan.site.scope, plan.site.value]
        _check_free(value)
        ratio = ratios.get(plan.rate, plan.site)
        added.append(
            _insert_behind(graph, value, ratio, plan, seed, names, training_mode=training_mode)
        )
    copy_results(result, _results(added), names)
    declare_functions(result, set(added))
    record.attach(result)
    return like(model, result)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """One node to insert."""

    site: Site
    op_type: str
    attributes: dict[str, int | tuple[int, ...]]
    rate: float

    @classmethod
    def of(cls, spec: DropoutSpec, site: Site, *, calibrate: bool) -> _Plan:
        if site.shape is None:
            raise SiteError(
                f"the rank of site {site.value!r} is unknown, so the mask's shape is too; "
                "run onnx.shape_inference on the model first"
            )
        if site.dtype is not None and site.dtype not in ELEMENT_TYPES:
            raise SiteError(
                f"site {site.value!r} holds {site.dtype}; dropout takes {', '.join(ELEMENT_TYPES)} "
                "(insert before quantising)"
            )
        try:
            fitted = _laid_out(spec, site.channel_axis, len(site.shape))
            if calibrate:
                fitted = fitted.calibrated(site.shape)
            attributes = fitted.node_attributes(len(site.shape), site.shape)
        except ArgumentError as error:
            raise SiteError(f"site {site.value!r} of shape {_text(site.shape)}: {error}") from error
        return cls(site, fitted.op_type, attributes, fitted.rate)


def _check_free(value: ir.Value) -> None:
    for node, index in value.uses():
        if is_dropout(node) and index == 0:
            raise SiteError(
                f"site {value.name!r} already holds {node.op_type} ({node.name!r}); fold the model "
                "first, or leave the site out"
            )


def _insert_behind(
    graph: ir.Graph | ir.Function,
    value: ir.Value,
    ratio: ir.Value,
    plan: _Plan,
    seed: int,
    names: Names,
    *,
    training_mode: bool,
) -> ir.Node:
    producer = value.producer()
    if producer is None:
        raise SiteError(f"site {value.name!r} is an input, not the result of a node")
    type_, shape = value.type, value.shape
    is_output, is_read = value.is_graph_output(), bool(value.uses())
    if (is_read or not is_output) and not plan.site.scope.startswith("function:"):
        # Runtimes do not infer through the node; what was inferred without it still holds.
        # What describes an output of the graph is the model's own.
        if type_ is None and plan.site.dtype is not None:
            type_ = ir.TensorType(_ELEMENT_TYPES[plan.site.dtype])
        if shape is None and type_ is not None and plan.site.shape is not None:
            shape = ir.Shape(plan.site.shape)
    dropped = ir.Value(name=names.take(f"{value.name}_dropped"), type=type_, shape=shape)
    attributes = {"training_mode": int(training_mode), "seed": seed, **plan.attributes}
    # The placeholder keeps the new node out of the rewiring of the value's uses.
    placeholder = ir.Value(name="")
    node = ir.Node(
        DOMAIN,
        plan.op_type,
        [placeholder, ratio],
        _attributes(attributes),
        outputs=[dropped, ir.Value(name=""), ir.Value(name="")],
        name=names.take(f"{value.name}_{plan.op_type}"),
    )
    value.replace_all_uses_with(dropped, replace_graph_outputs=True)
    node.replace_input_with(0, value)
    graph.insert_after(producer, node)
    if is_output:
        result = dropped
        if is_read:
            result = copy_output(dropped, value, names.take(f"{value.name}_output"))
        # The output of the graph is another value now, but described as before.
        result.metadata_props.update(value.metadata_props)
        result.doc_string = value.doc_string
        value.name, result.name = names.take(f"{value.name}_kept"), value.name
        follow(graph if isinstance(graph, ir.Graph) else graph.graph, result.name, value.name)
    return node


def _results(nodes: Iterable[ir.Node]) -> Iterator[ir.Value]:
    """Yield what nodes make, and the copies of it."""
    for node in nodes:
        yield node.outputs[0]
        for usage in node.outputs[0].uses():
            yield from usage.node.outputs if is_copy(usage.node) else ()


def _laid_out(spec: DropoutSpec, channel_axis: int, rank: int) -> DropoutSpec:
    """Return the specification for data with this channel axis; shared axes follow it."""
    fields = {field.name for field in dataclasses.fields(cast("Any", spec))}
    if "data_format" not in fields:
        return spec
    layouts = {1: "channels_first", rank - 1: "channels_last"}
    if channel_axis not in layouts:
        raise ArgumentError(f"its channel axis is {channel_axis}; 1 or the last one is needed")
    written = cast("Any", spec)
    if written.data_format == layouts[channel_axis]:
        return spec
    old_axis = 1 if written.data_format == "channels_first" else rank - 1
    changes: dict[str, Any] = {"data_format": layouts[channel_axis]}
    if "shared_axes" in fields:
        changes["shared_axes"] = tuple(
            channel_axis if axis == old_axis else axis for axis in written.shared_axes
        )
    return cast("DropoutSpec", dataclasses.replace(written, **changes))


def _attributes(attributes: dict[str, int | tuple[int, ...]]) -> list[ir.Attr]:
    return [
        ir.AttrInt64(name, value) if isinstance(value, int) else ir.AttrInt64s(name, list(value))
        for name, value in attributes.items()
    ]


def _values(model: ir.Model) -> dict[tuple[str, str], tuple[ir.Graph | ir.Function, ir.Value]]:
    return {
        (scope, output.name): (graph, output)
        for scope, graph in scopes(model)
        for node in graph
        for output in node.outputs
        if output.name
    }


def _drawn_seed() -> int:
    return secrets.randbits(63)


def _text(shape: Sequence[int | str | None]) -> str:
    return "(" + ", ".join("?" if size is None else str(size) for size in shape) + ")"
