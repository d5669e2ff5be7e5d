"""What makes a suffix ready to be sampled: rows that are independent, and that can be repeated.

onnxruntime deletes standard Dropout in training mode unless somebody reads its mask, so that such
a node is replaced by a NoiseShapeDropout that drops single elements. A mask is never shared along
the batch, and DropBlock is normalised per sample: images and samples that share a run must not
depend on each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnx_structdrop.errors import ModelError, UnsupportedModelError
from onnx_structdrop.functions import check_opset
from onnx_structdrop.graph.convert import as_ir
from onnx_structdrop.graph.expand import expand
from onnx_structdrop.graph.names import Names
from onnx_structdrop.graph.nodes import declare_functions, dropout_nodes, is_dropout
from onnx_structdrop.graph.proofs.sources import constant_bool, label, origins
from onnx_structdrop.graph.scopes import default_opset, function_scope, scopes
from onnx_structdrop.graph.seeds import distinct_seeds
from onnx_structdrop.graph.topology.dataflow import Dataflow
from onnx_structdrop.graph.topology.shapes import Shapes
from onnx_structdrop.mc.iterations import IteratedDraws
from onnx_structdrop.mc.parts import remove_unused
from onnx_structdrop.schema import DOMAIN, OPERATORS, VERSION, Normalize

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

__all__ = ["DRAWS", "ROWS", "foreign_sources", "in_rows", "prepare", "sampling", "still"]

DRAWS = "structdrop_draws"
"""Input of a suffix for kernels: the number of the draw for each row, int64."""

ROWS = "structdrop_rows"
"""Input of a suffix in rows: the image that each row is of, int64."""

_STANDARD = ("", "ai.onnx")


def prepare(suffix: ir.Model, *, seed: int) -> ir.Model:
    """Return a copy of a suffix whose rows drop independently, from seeds made of `seed`.

    Parameters
    ----------
    suffix
        As `split` makes it. It is not changed.
    seed
        0 or more.

    Raises
    ------
    UnsupportedModelError
        A standard Dropout cannot be replaced, or a function with a random node not be expanded.
    ModelError
        A node lacks an attribute.
    """
    model = as_ir(suffix)
    names = Names(model)
    _expand_random_calls(model, names)
    _replace_standard(model, names)
    shapes = Shapes(model, Dataflow(model).scopes)
    seeds = distinct_seeds(seed)
    for _, node in dropout_nodes(model):
        _complete_attributes(node)
        node.attributes["seed"] = ir.AttrInt64("seed", next(seeds))
        dims = shapes.dims(node.inputs[0])
        _make_rows_independent(node, None if dims is None else len(dims))
    remove_unused(model)
    return model


def foreign_sources(model: ir.Model) -> list[str]:
    """Return what the live random nodes that are not ours are called."""
    return [
        label(origin.node)
        for origin in origins(model)
        if origin.active is not False and not is_dropout(origin.node)
    ]


def sampling(prepared: ir.Model, *, native: bool) -> ir.Model:
    """Return a copy of a prepared suffix that draws: with kernels, an input says which draws.

    Parameters
    ----------
    prepared
        From `prepare` or `in_rows`. It is not changed.
    native
        Whether the session will have the kernels. The functions are left out then: they lack the
        input, and nothing else is to run by mistake.

    Raises
    ------
    UnsupportedModelError
        With kernels, of dropout in loops whose iterations have no number.
    """
    model = as_ir(prepared)
    if not native:
        return _with_functions(model)
    nodes = [node for _, node in dropout_nodes(model) if _is_on(node)]
    if nodes:
        draws = ir.Value(
            name=DRAWS, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["draws"])
        )
        model.graph.inputs.append(draws)
        numbered = IteratedDraws(model, draws)
        for node in nodes:
            node.resize_inputs(3)
            node.replace_input_with(2, numbered.at(node))
    return _without_functions(model)


def still(prepared: ir.Model, *, native: bool) -> ir.Model:
    """Return a copy of a prepared suffix in which structured dropout drops nothing."""
    model = as_ir(prepared)
    for _, node in dropout_nodes(model):
        node.attributes["training_mode"] = ir.AttrInt64("training_mode", 0)
    return _without_functions(model) if native else _with_functions(model)


def in_rows(prepared: ir.Model, per_image: Collection[str]) -> ir.Model:
    """Return a copy of a prepared suffix that takes any number of rows, images in any order.

    Parameters
    ----------
    prepared
        From `prepare`. It is not changed.
    per_image
        Inputs with images along axis 0: an input of row numbers picks from them inside of the
        graph, so that what is sampled many times is there once.
    """
    model = as_ir(prepared)
    graph = model.graph
    rows = ir.Value(name=ROWS, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["rows"]))
    names = Names(model)
    picks = []
    # Shapes that were stated or inferred are those of the whole batch.
    for _, body in scopes(model):
        if isinstance(body, ir.Graph):
            for node in body:
                for value in node.outputs:
                    value.shape = None
    for value in graph.outputs:
        value.shape = None
    for value in graph.inputs:
        if value.name not in per_image:
            continue
        if value.shape is not None:
            value.shape = ir.Shape(["images", *value.shape[1:]])
        node = ir.node("Gather", [rows, rows], {"axis": 0}, name=names.take("structdrop_pick"))
        node.outputs[0].name = names.take(f"{value.name}_rows")
        node.outputs[0].type = value.type
        value.replace_all_uses_with(node.outputs[0])
        node.replace_input_with(0, value)
        picks.append(node)
    if picks:
        graph.inputs.append(rows)
        first = graph[0]
        for node in picks:
            graph.insert_before(first, node)
    return model


def _is_on(node: ir.Node) -> bool:
    return node.attributes["training_mode"].as_int() != 0


def _with_functions(model: ir.Model) -> ir.Model:
    if any(True for _ in dropout_nodes(model)):
        check_opset(default_opset(model))
        declare_functions(model)
    return model


def _without_functions(model: ir.Model) -> ir.Model:
    for name in OPERATORS:
        model.functions.pop((DOMAIN, name, ""), None)
    if any(True for _ in dropout_nodes(model)):
        model.opset_imports.setdefault(DOMAIN, VERSION)
    return model


# ------------------------------------------------------------------------------------- functions
def _expand_random_calls(model: ir.Model, names: Names) -> None:
    """Put the bodies of functions that draw into the graph, where draws can be handed to them."""
    changed = True
    while changed:
        changed = False
        drawing = _drawing_functions(model)
        for node in _calls(model, drawing):
            function = model.functions[node.op_identifier()]
            _complete(node, function)
            expand(node, function, names)
            changed = True


def _drawing_functions(model: ir.Model) -> set[ir.OperatorIdentifier]:
    """Return the functions with a dropout node that the sampler has to reach."""
    live = {
        origin.scope.partition("/")[0]
        for origin in origins(model)
        if origin.active is not False and (is_dropout(origin.node) or _is_deleted(origin.node))
    }
    drawing = {
        identifier
        for identifier, function in model.functions.items()
        if function_scope(function) in live
    }
    known = 0
    while len(drawing) != known:
        known = len(drawing)
        drawing |= {
            identifier
            for identifier, function in model.functions.items()
            if any(node.op_identifier() in drawing for node in function.all_nodes())
        }
    return drawing


def _calls(model: ir.Model, drawing: set[ir.OperatorIdentifier]) -> list[ir.Node]:
    return [
        node
        for scope, graph in scopes(model)
        if not scope.startswith("function:")
        for node in graph
        if node.op_identifier() in drawing
    ]


def _complete(call: ir.Node, function: ir.Function) -> None:
    if len(call.inputs) < len(function.inputs) or len(call.outputs) < len(function.outputs):
        raise UnsupportedModelError(
            f"{label(call)} leaves out inputs or outputs of its function, in which there is "
            "dropout; inline the model's functions first (onnx.inliner)"
        )
    for name, attribute in function.attributes.items():
        if name not in call.attributes and attribute.value is not None:
            call.attributes[name] = attribute


# ------------------------------------------------------------------------------------- dropout
def _is_deleted(node: ir.Node) -> bool:
    """Tell whether onnxruntime deletes a node: a Dropout whose mask nobody reads."""
    return (
        node.op_type == "Dropout"
        and node.domain in _STANDARD
        and not any(value.uses() or value.is_graph_output() for value in node.outputs[1:])
    )


def _replace_standard(model: ir.Model, names: Names) -> None:
    nodes = [
        origin.node
        for origin in origins(model)
        if origin.active is not False and _is_deleted(origin.node)
    ]
    if not nodes:
        return
    shapes = Shapes(model, Dataflow(model).scopes)
    for node in nodes:
        _replace(node, shapes, names)


def _replace(node: ir.Node, shapes: Shapes, names: Names) -> None:
    data, graph = node.inputs[0], node.graph
    dims = shapes.dims(data)
    if graph is None or data is None or dims is None or "is_test" in node.attributes:
        raise UnsupportedModelError(
            f"onnxruntime deletes {label(node)} even in training mode, and it cannot be replaced: "
            "the rank of its data is not known; run shape inference on the model, or put "
            "onnx_structdrop.Dropout there"
        )
    ratio = node.inputs[1] if len(node.inputs) > 1 else None
    mode = node.inputs[2] if len(node.inputs) > 2 else None
    added = []

    def add(
        op_type: str, inputs: list[ir.Value], **attributes: int | ir.TensorProtocol
    ) -> ir.Value:
        new = ir.node(op_type, inputs, attributes, name=names.take(f"{node.name}_{op_type}"))
        new.outputs[0].name = names.take(f"{node.name}_{op_type}_output")
        added.append(new)
        return new.outputs[0]

    if ratio is None:
        ratio = add("Constant", [], value=ir.tensor(np.float32(0.5)))
    elif shapes.dtype(ratio) != ir.DataType.FLOAT:
        ratio = add("Cast", [ratio], to=int(ir.DataType.FLOAT))
    if mode is not None and constant_bool(mode) is None:
        # At a ratio of 0 the node hands its data on, bit for bit.
        ratio = add("Where", [mode, ratio, add("Constant", [], value=ir.tensor(np.float32(0)))])
    old = node.outputs[0]
    new = ir.Node(
        DOMAIN,
        "NoiseShapeDropout",
        [data, ratio],
        [
            ir.AttrInt64("training_mode", 1),
            ir.AttrInt64("seed", 1),
            ir.AttrInt64s("noise_shape", [0] * len(dims)),
            ir.AttrInt64("scale_by_keep", 1),
        ],
        outputs=[
            ir.Value(type=old.type, shape=old.shape),
            ir.Value(name=""),
            ir.Value(name=""),
        ],
        name=node.name,
    )
    graph.insert_before(node, [*added, new])
    name, old.name = old.name, None
    old.replace_all_uses_with(new.outputs[0], replace_graph_outputs=True)
    new.outputs[0].name = name
    graph.remove(node, safe=True)
    # The copy of a type keeps whoever shares it from being changed with it.
    if new.outputs[0].type is None:
        dtype = shapes.dtype(data)
        new.outputs[0].type = None if dtype is None else ir.TensorType(dtype)


def _complete_attributes(node: ir.Node) -> None:
    """Give a node the attributes that it leaves to their defaults."""
    for name, default in OPERATORS[node.op_type].attributes.items():
        if name in node.attributes or name == "seed":
            continue
        if default is None:
            raise ModelError(f"{label(node)} has no attribute {name}, which it needs")
        node.attributes[name] = (
            ir.AttrInt64(name, default)
            if isinstance(default, int)
            else ir.Attr(name, ir.AttributeType.INTS, list(default))
        )


def _make_rows_independent(node: ir.Node, rank: int | None) -> None:
    if node.op_type == "NoiseShapeDropout":
        sizes = list(node.attributes["noise_shape"].as_ints())
        node.attributes["noise_shape"] = ir.AttrInt64s("noise_shape", [0, *sizes[1:]])
    elif node.op_type == "DropBlock":
        axes = [
            axis for axis in _shared(node) if axis != 0 and not (rank is not None and axis == -rank)
        ]
        node.attributes["shared_axes"] = ir.Attr("shared_axes", ir.AttributeType.INTS, axes)
        if node.attributes["normalize"].as_int() == Normalize.BATCH:
            node.attributes["normalize"] = ir.AttrInt64("normalize", int(Normalize.SAMPLE))


def _shared(node: ir.Node) -> Iterator[int]:
    attribute = node.attributes["shared_axes"]
    yield from attribute.as_ints() if attribute.value else ()
