"""Structured dropout as plain ONNX, for runtimes that know no model-local functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import onnx
import onnx_ir as ir

from onnx_structdrop.errors import ArgumentError, ModelError, UnsupportedModelError
from onnx_structdrop.graph.constants import Constants
from onnx_structdrop.graph.convert import as_ir, like
from onnx_structdrop.graph.expand import expand
from onnx_structdrop.graph.names import Names
from onnx_structdrop.graph.nodes import (
    check_known,
    dropout_nodes,
    functions_for,
    is_dropout,
    own_calls,
    seed_of,
    undeclare_functions,
)
from onnx_structdrop.graph.record import Record, mark_inlined, unmark_copy
from onnx_structdrop.graph.scopes import default_opset, scopes
from onnx_structdrop.graph.seeds import distinct_seeds
from onnx_structdrop.graph.topology.dataflow import Dataflow
from onnx_structdrop.graph.topology.shapes import Shapes
from onnx_structdrop.schema import DOMAIN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = ["RANDOM_SOURCES", "inline", "inline_nodes"]

Model = TypeVar("Model", onnx.ModelProto, ir.Model)

RANDOM_SOURCES = ("dropout", "uniform")
"""What inlined nodes draw from: the mask of Dropout, or RandomUniformLike."""

# From 22 on, onnxruntime has no CPU kernel for the random generators.
_UNIFORM_UNTIL = 21


def inline(model: Model, random_source: str = "dropout") -> Model:
    """Return a copy of a model in which structured dropout is plain ONNX.

    Nodes in inference mode become Identity. The result cannot be folded any more: keep the
    model with functions.

    Parameters
    ----------
    model
        An ``onnx.ModelProto`` or ``onnx_ir.Model``. It is not changed.
    random_source
        "dropout" draws from the mask output of Dropout in training mode, which runs on
        onnxruntime at every opset. "uniform" draws from RandomUniformLike, for runtimes that
        refuse Dropout in training mode (OpenVINO); opset 21 at most. DropBlock then draws one
        number per position, without a branch at run time, which OpenVINO does not take either.

    Raises
    ------
    ArgumentError
        An unknown `random_source`.
    ModelError
        A node of our domain is no complete call of an operator.
    UnsupportedModelError
        "uniform" above opset 21, or in a function that passes an attribute on to a node.
    """
    if random_source not in RANDOM_SOURCES:
        raise ArgumentError(
            f"random_source must be one of {', '.join(RANDOM_SOURCES)}, not {random_source!r}"
        )
    result = as_ir(model)
    opset = default_opset(result)
    if random_source == "uniform" and opset > _UNIFORM_UNTIL:
        raise UnsupportedModelError(
            f"random_source 'uniform' needs ai.onnx opset {_UNIFORM_UNTIL} or below, because no "
            f"CPU runtime has random generators above it; the model imports {opset}"
        )
    calls = own_calls(result)
    check_known(calls)
    functions = functions_for(result, calls)
    live = sum(is_dropout(node) and not _is_off(node) for node in calls)
    if random_source == "uniform":
        _check_fixed(calls)
        seed = next((seed_of(node) for _, node in dropout_nodes(result)), 0)
        _draw_uniforms(functions)
        new = inline_nodes(result, calls, functions, always_dense=True)
        for node, node_seed in zip(_generators(result, new), distinct_seeds(seed), strict=False):
            # float32 holds integers up to 2**24; equal seeds would let optimisers merge nodes.
            node.attributes["seed"] = ir.AttrFloat32("seed", float(node_seed % (1 << 24)))
    else:
        inline_nodes(result, calls, functions)
    undeclare_functions(result)
    Record.detach(result)
    for _, graph in scopes(result):
        for node in graph:
            unmark_copy(node)
    if live:
        mark_inlined(result, live)
    return like(model, result)


def inline_nodes(
    model: ir.Model,
    calls: Sequence[ir.Node],
    functions: Mapping[ir.OperatorIdentifier, ir.Function],
    *,
    always_dense: bool = False,
) -> set[ir.Node]:
    """Replace calls by the bodies of their functions, in place; return the nodes of the bodies.

    Branches on attributes, such as training mode, are decided on the way. The only other one
    chooses how DropBlock draws its seeds; `always_dense` takes the dense way.
    """
    before = {node for _, graph in scopes(model) for node in graph}
    notes = [
        (graph, index, dict(value.metadata_props), value.doc_string)
        for _, graph in scopes(model)
        for index, value in enumerate(graph.outputs)
    ]
    constants = Constants(Shapes(model, Dataflow(model).scopes))
    names = Names(model)
    for call in calls:
        nodes = expand(call, functions[call.op_identifier()], names)
        _simplify(nodes, constants, default=0 if always_dense else None)
    new = {node for _, graph in scopes(model) for node in graph if node not in before}
    for _, graph in scopes(model):
        _remove_unused(graph, new)
    for graph, index, metadata, doc_string in notes:
        if index < len(graph.outputs):
            # An output is made by another value now, but described as before.
            graph.outputs[index].metadata_props.update(metadata)
            graph.outputs[index].doc_string = doc_string
    return {node for node in new if node.graph is not None}


def _check_fixed(calls: Iterable[ir.Node]) -> None:
    for node in calls:
        for attribute in node.attributes.values():
            if attribute.is_ref():
                raise UnsupportedModelError(
                    f"node {node.name!r} ({DOMAIN}::{node.op_type}) takes {attribute.name!r} from "
                    f"the calls of the function that holds it, and random_source 'uniform' leaves "
                    "no branch to decide at run time; inline the model's own functions first"
                )


def _is_off(node: ir.Node) -> bool:
    """Tell whether a node is in inference mode for certain; an enclosing function may decide."""
    mode = node.attributes["training_mode"]
    return not mode.is_ref() and mode.as_int() == 0


def _simplify(nodes: Iterable[ir.Node], constants: Constants, default: int | None) -> None:
    """Replace constant nodes by Constant, and each decided If by the branch it takes.

    `default` decides the branches that constants do not.
    """
    pending = list(reversed(list(nodes)))
    while pending:
        node = pending.pop()
        graph = node.graph
        if not isinstance(graph, ir.Graph):
            continue
        if node.op_type == "If":
            condition = constants.value(node.inputs[0])
            taken = default if condition is None else int(condition.all())
            if taken is not None:
                pending += reversed(_take_branch(graph, node, taken=bool(taken)))
        elif any(attribute.is_ref() for attribute in node.attributes.values()):
            continue  # Every call of the function that holds it decides.
        elif constants.learn(node) and node.op_type != "Constant":
            _replace_by_constant(graph, node, constants)


def _take_branch(graph: ir.Graph, node: ir.Node, *, taken: bool) -> list[ir.Node]:
    names = ("then_branch", "else_branch")
    branch = node.attributes[names[not taken]].as_graph()
    _discard(node.attributes[names[taken]].as_graph())
    moved = list(branch)
    results = list(branch.outputs)
    branch.outputs.clear()
    branch.remove(moved)
    graph.insert_before(node, moved)
    for output, result in zip(list(node.outputs), results, strict=True):
        output.replace_all_uses_with(result, replace_graph_outputs=True)
        if output.type is not None:
            result.type, result.shape = output.type, output.shape
        if output.name:
            result.name, output.name = output.name, None
    graph.remove(node, safe=True)
    return moved


def _replace_by_constant(graph: ir.Graph, node: ir.Node, constants: Constants) -> None:
    for output in node.outputs:
        content = constants.value(output)
        if content is None or output.is_graph_output() or not output.uses():
            continue
        if content.size == 0:
            continue  # OpenVINO reads an empty constant as a scalar.
        name, output.name = output.name, None
        tensor = ir.tensor(content, name=name)
        result = ir.Value(
            name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(content.shape)
        )
        constant = ir.node("Constant", [], {"value": tensor}, name=node.name, outputs=[result])
        graph.insert_before(node, constant)
        output.replace_all_uses_with(constant.outputs[0])
        constants.learn_as(constant.outputs[0], content)
    if not any(output.uses() or output.is_graph_output() for output in node.outputs):
        graph.remove(node, safe=True)


def _discard(graph: ir.Graph) -> None:
    """Empty a graph, so that it no longer counts as a user of values around it."""
    graph.outputs.clear()
    for node in list(graph):
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                _discard(attribute.as_graph())
    graph.remove(list(graph), safe=True)


def _remove_unused(graph: ir.Graph | ir.Function, candidates: set[ir.Node]) -> None:
    for node in reversed(list(graph)):
        used = any(value.uses() or value.is_graph_output() for value in node.outputs)
        if node in candidates and not used:
            graph.remove(node, safe=True)


def _draw_uniforms(functions: Mapping[ir.OperatorIdentifier, ir.Function]) -> None:
    """Make our functions draw from RandomUniformLike instead of Dropout: keep where u >= ratio.

    The template's shape is made to depend on data: OpenVINO evaluates a generator of known shape
    while it compiles, once per place that asks for a size, and contradicts itself.
    """
    for function in functions.values():
        for node in [n for n in function.all_nodes() if n.op_type == "Dropout"]:
            _draw_uniform(node, function.inputs[0])


def _draw_uniform(node: ir.Node, data: ir.Value) -> None:
    graph, mask, template = node.graph, node.outputs[1], node.inputs[0]
    maker = None if template is None else template.producer()
    if graph is None or maker is None:
        raise ModelError(f"the body of {DOMAIN} is not one of ours: {node.name} has no template")
    flat = ir.node("Reshape", [data, *_integers(graph, node, [-1])])
    first = ir.node("Slice", [flat.outputs[0], *_integers(graph, node, [0], [1], [0])])
    # onnxruntime cannot add up bfloat16.
    wide = ir.node("Cast", [first.outputs[0]], {"to": ir.DataType.FLOAT.value})
    anchor = ir.node("ReduceSum", [wide.outputs[0]], {"keepdims": 0})
    # Nothing is less than itself, NaN included, but no runtime proves that.
    never = ir.node("Less", [anchor.outputs[0], anchor.outputs[0]])
    zero = ir.node("Cast", [never.outputs[0]], {"to": ir.DataType.INT64.value})
    shape = ir.node("Add", [maker.inputs[0], zero.outputs[0]])
    blank = ir.node("ConstantOfShape", [shape.outputs[0]])
    uniform = ir.node(
        "RandomUniformLike",
        [blank.outputs[0]],
        {"low": 0.0, "high": 1.0, "dtype": ir.DataType.FLOAT.value, "seed": 0.0},
    )
    keep = ir.node("GreaterOrEqual", [uniform.outputs[0], node.inputs[1]])
    graph.insert_before(node, [flat, first, wide, anchor, never, zero, shape, blank, uniform, keep])
    mask.replace_all_uses_with(keep.outputs[0], replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _integers(graph: ir.Graph | ir.Function, before: ir.Node, *lists: list[int]) -> list[ir.Value]:
    constants = [ir.node("Constant", [], {"value_ints": entries}) for entries in lists]
    graph.insert_before(before, constants)
    return [constant.outputs[0] for constant in constants]


def _generators(model: ir.Model, candidates: set[ir.Node]) -> Iterator[ir.Node]:
    for _, graph in scopes(model):
        for node in graph:
            if node in candidates and node.op_type == "RandomUniformLike":
                yield node
