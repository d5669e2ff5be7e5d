"""Our own nodes in a model: finding them, reading them, and the functions they need."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnx_structdrop.errors import ModelError, UnsupportedModelError
from onnx_structdrop.functions import function_proto
from onnx_structdrop.graph.scopes import default_opset, scopes
from onnx_structdrop.schema import DOMAIN, DROPOUT_OPS, ELEMENT_TYPES, GRAD_OP, OPERATORS, VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "declare_functions",
    "dropout_nodes",
    "element_type",
    "is_dropout",
    "seed_of",
    "undeclare_functions",
]

_ELEMENT_NAMES = {
    ir.DataType.FLOAT16: "float16",
    ir.DataType.BFLOAT16: "bfloat16",
    ir.DataType.FLOAT: "float32",
    ir.DataType.DOUBLE: "float64",
}


def is_dropout(node: ir.Node) -> bool:
    """Tell whether a node is one of our dropout operators (the gradient is not)."""
    return node.domain == DOMAIN and node.op_type in DROPOUT_OPS


def dropout_nodes(model: ir.Model) -> Iterator[tuple[str, ir.Node]]:
    """Yield the scope name and the node of every dropout node of ours.

    Bodies of our own functions hold none, so they need no exception.
    """
    for scope, graph in scopes(model):
        for node in graph:
            if is_dropout(node):
                yield scope, node


def seed_of(node: ir.Node) -> int:
    """Return the seed of a node of ours.

    Raises
    ------
    ModelError
        If it has none, or one that is no integer.
    """
    _check_call(node)
    attribute = node.attributes["seed"]
    if attribute.is_ref() or attribute.type != ir.AttributeType.INT:
        raise ModelError(f"the seed of node {node.name!r} is not an integer")
    return attribute.as_int()


def element_type(value: ir.Value | None) -> str | None:
    """Return the name of a value's element type if the operators take it, else None."""
    if value is None or value.dtype is None:
        return None
    return _ELEMENT_NAMES.get(value.dtype)


def declare_functions(model: ir.Model) -> None:
    """Give the model a function for each of our operators that it calls, and the imports.

    A function is written for the one element type of all its calls, or for any type where
    they differ or are unknown, and without masks in inference mode where no call uses one. A
    gradient function that is present stays.

    Raises
    ------
    ModelError
        If a node lacks an input or an attribute: bodies take no defaults.
    UnsupportedModelError
        If the model's opset has no body for an operator and its types.
    """
    opset = default_opset(model)
    calls: dict[str, set[str | None]] = {}
    masked: set[str] = set()
    for _, graph in scopes(model):
        for node in graph:
            if node.domain == DOMAIN and node.op_type in OPERATORS:
                _check_call(node)
                known = element_type(node.inputs[0]) or element_type(node.outputs[0])
                calls.setdefault(node.op_type, set()).add(known)
                if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
                    masked.add(node.op_type)
    for op_type, types in calls.items():
        identifier = (DOMAIN, op_type, "")
        if None in types and identifier in model.functions:
            types.remove(None)
            types.add(_element_type_of(model.functions[identifier], opset))
        one = next(iter(types)) if len(types) == 1 else None
        proto = function_proto(op_type, opset, one, mask_used=op_type in masked)
        model.functions[identifier] = ir.serde.deserialize_function(proto)
    for function in model.functions.values():
        if _calls_ours(function):
            function.opset_imports.setdefault(DOMAIN, VERSION)
    if calls:
        # onnxruntime wants the import even where only functions call ours.
        model.opset_imports.setdefault(DOMAIN, VERSION)


def _check_call(node: ir.Node) -> None:
    needed = 3 if node.op_type == GRAD_OP else 2
    if len(node.inputs) != needed or any(value is None for value in node.inputs):
        raise ModelError(
            f"node {node.name!r} ({DOMAIN}::{node.op_type}) needs {needed} inputs, "
            f"it has {sum(value is not None for value in node.inputs)}"
        )
    missing = [name for name in OPERATORS[node.op_type].attributes if name not in node.attributes]
    if missing:
        raise ModelError(
            f"node {node.name!r} ({DOMAIN}::{node.op_type}) lacks the attribute {missing[0]!r}; "
            f"it needs all of {', '.join(OPERATORS[node.op_type].attributes)}"
        )


def undeclare_functions(model: ir.Model) -> None:
    """Remove our functions that nothing calls, and our imports where nothing is ours."""
    called = {node.op_identifier() for _, graph in scopes(model) for node in graph}
    for identifier in list(model.functions):
        if identifier[0] == DOMAIN and identifier not in called:
            del model.functions[identifier]
    for function in model.functions.values():
        if not _calls_ours(function):
            function.opset_imports.pop(DOMAIN, None)
    if not any(identifier[0] == DOMAIN for identifier in (*called, *model.functions)):
        model.opset_imports.pop(DOMAIN, None)


def _calls_ours(function: ir.Function) -> bool:
    return any(node.domain == DOMAIN for node in function.all_nodes())


def _element_type_of(function: ir.Function, opset: int) -> str | None:
    """Return the element type a function of ours was written for, or None for any."""
    body = ir.to_proto(function)
    for name, mask_used in itertools.product(ELEMENT_TYPES, (True, False)):
        try:
            candidate = function_proto(function.name, opset, name, mask_used=mask_used)
        except UnsupportedModelError:
            continue
        if ir.to_proto(ir.from_proto(candidate)) == body:
            return name
    return None
