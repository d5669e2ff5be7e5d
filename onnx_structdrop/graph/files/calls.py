"""Calls among the functions of a model: no rings, and no more of them than anything can follow.

A few lines of functions that call each other twice stand for more nodes than there is memory, and
whoever follows the calls, such as the shape inference of onnx or a runtime that inlines functions,
hangs, or runs out of stack where they are deep or never end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnx_structdrop.errors import ModelError, UnsupportedModelError
from onnx_structdrop.graph.files.tensors import with_subgraphs
from onnx_structdrop.graph.files.wellformed import quoted
from onnx_structdrop.schema import DOMAIN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import onnx

__all__ = ["check_calls"]

_Identifier = tuple[str, str, str]

_DEEPEST = 200
"""Calls in calls; the shape inference of onnx takes stack for each."""

_LARGEST = 200_000
"""Nodes that the calls of a model stand for, all in all. A call of ours counts as one node."""


def check_calls(model: onnx.ModelProto | ir.Model) -> None:
    """Check that the calls of functions in `model` come to an end, and soon.

    Raises
    ------
    ModelError
        If a function calls itself, over however many others.
    UnsupportedModelError
        If calls are nested too deeply, or stand for too many nodes.
    """
    if not model.functions:
        return
    if isinstance(model, ir.Model):
        bodies = {
            _called(body): list(map(_call, _nodes_in(body))) for body in model.functions.values()
        }
        nodes: Iterator[Any] = _nodes_in(model.graph)
    else:
        proto: onnx.ModelProto = model
        bodies = {_called(body): list(map(_call, _nodes(body.node))) for body in proto.functions}
        nodes = _nodes(proto.graph.node)
    extents = _extents(bodies)
    for identifier, (_, depth) in extents.items():
        if depth > _DEEPEST:
            raise UnsupportedModelError(
                f"function {_label(identifier)} nests calls of functions more than "
                f"{_DEEPEST} deep; inline some of them"
            )
    names = {name for _, name, _ in extents}
    calls = (_call(node) for node in nodes if node.op_type in names)
    total = sum(extents[identifier][0] for identifier in calls if identifier in extents)
    if total > _LARGEST:
        raise UnsupportedModelError(
            f"the calls of functions stand for more than {_LARGEST} nodes; "
            "no runtime could inline them, split the model or remove functions"
        )


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _called(function: ir.Function | onnx.FunctionProto) -> _Identifier:
    return _domain(function.domain), function.name, function.overload


def _call(node: ir.Node | onnx.NodeProto) -> _Identifier:
    return _domain(node.domain), node.op_type, node.overload


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield nodes, and those in their subgraphs."""
    pending = [nodes]
    while pending:
        for node in pending.pop():
            yield node
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    pending.append(attribute.g.node)
                elif attribute.graphs:
                    pending += [graph.node for graph in attribute.graphs]


def _nodes_in(root: ir.Graph | ir.Function) -> Iterator[ir.Node]:
    """Yield the nodes of a graph, and those in its subgraphs."""
    for graph in with_subgraphs(root.graph if isinstance(root, ir.Function) else root):
        yield from graph


def _extents(bodies: Mapping[_Identifier, list[_Identifier]]) -> dict[_Identifier, tuple[int, int]]:
    """Return for each function how many nodes a call stands for, and how deep calls nest."""
    found: dict[_Identifier, tuple[int, int]] = {}
    for start in bodies:
        path: dict[_Identifier, Iterator[_Identifier]] = {}
        if start not in found:
            path[start] = iter(bodies[start])
        while path:
            current, rest = next(reversed(path.items()))
            inner = next((each for each in rest if each in bodies and each not in found), None)
            if inner is None:
                del path[current]
                parts = [found.get(each, (0, 0)) for each in bodies[current]]
                # Nothing follows the calls of our own functions.
                leaf = current[0] == DOMAIN and not any(depth for _, depth in parts)
                size = 0 if leaf else sum(1 + part for part, _ in parts)
                # Counting on would make numbers of thousands of digits.
                found[current] = min(size, _LARGEST + 1), 1 + max((d for _, d in parts), default=0)
            elif inner in path:
                way = "" if inner == current else f", by way of {_label(current)}"
                raise ModelError(f"function {_label(inner)} calls itself{way}")
            else:
                path[inner] = iter(bodies[inner])
    return found


def _label(identifier: _Identifier) -> str:
    domain, name, _ = identifier
    return quoted(f"{domain}::{name}")
