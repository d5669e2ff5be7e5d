"""Every graph of a model: the main graph, subgraphs at any depth, function bodies.

A scope's name is "" for the main graph, ``If_3/then_branch`` for a subgraph (node name and
attribute, outermost first) and ``function:domain::name`` for a function body, with its
subgraphs appended in the same way. An unnamed node goes by its operator, and so does one whose
name begins with ``function:``; nodes of one graph that would go by the same name are numbered:
``If``, ``If#2``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from onnx_structdrop.errors import ModelError
from onnx_structdrop.schema import DOMAIN, OPERATORS

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["default_opset", "function_scope", "is_own_body", "scopes"]

_FUNCTION = "function:"
_GRAPH_TYPES = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def function_scope(function: ir.Function) -> str:
    """Return the scope name of a function body."""
    overload = f":{function.overload}" if function.overload else ""
    return f"{_FUNCTION}{function.domain}::{function.name}{overload}"


def is_own_body(scope: str) -> bool:
    """Tell whether a scope is in the function of one of our operators.

    Other functions of our domain are anybody's: tools that put models together rename functions.
    """
    function = scope.partition("/")[0]
    return any(function == f"{_FUNCTION}{DOMAIN}::{name}" for name in OPERATORS)


def scopes(model: ir.Model) -> Iterator[tuple[str, ir.Graph | ir.Function]]:
    """Yield the name and the graph of every scope, the main graph first."""
    pending: list[tuple[str, ir.Graph | ir.Function]] = [("", model.graph)]
    pending += [(function_scope(function), function) for function in model.functions.values()]
    pending.reverse()
    while pending:
        name, graph = pending.pop()
        yield name, graph
        inner: list[tuple[str, ir.Graph | ir.Function]] = []
        labels: dict[str, int] = {}
        for node in graph:
            attributes = node.attributes.data
            if not attributes:
                continue
            label = ""
            for attribute in attributes.values():
                if attribute.type not in _GRAPH_TYPES or attribute.is_ref():
                    continue
                label = label or _free(_label(node), labels)
                path = "/".join(filter(None, (name, label, attribute.name)))
                if attribute.type == ir.AttributeType.GRAPH:
                    inner.append((path, attribute.as_graph()))
                elif attribute.type == ir.AttributeType.GRAPHS:
                    inner += [
                        (f"{path}[{index}]", subgraph)
                        for index, subgraph in enumerate(attribute.as_graphs())
                    ]
        pending.extend(reversed(inner))


def _label(node: ir.Node) -> str:
    # What begins like this is the body of a function, for whoever reads a scope.
    name = node.name or ""
    return node.op_type if name.startswith(_FUNCTION) else name or node.op_type


def _free(wanted: str, taken: dict[str, int]) -> str:
    """Return a label that is not taken; `taken` holds the last number that each was given."""
    label, count = wanted, taken.get(wanted, 1)
    while label in taken:
        count += 1
        label = f"{wanted}#{count}"
    taken[wanted] = count
    taken.setdefault(label, 1)
    return label


def default_opset(model: ir.Model) -> int:
    """Return the version of the ai.onnx operator set that the model imports.

    Raises
    ------
    ModelError
        If the model imports none.
    """
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx"))
    if opset is None:
        raise ModelError("the model imports no version of the default operator set (ai.onnx)")
    return opset
