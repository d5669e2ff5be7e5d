"""Our own nodes in a model: finding them, reading them, and the functions they need."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnx_structdrop.errors import ModelError, UnsupportedModelError
from onnx_structdrop.functions import function_proto
from onnx_structdrop.graph.scopes import default_opset, function_scope, scopes
from onnx_structdrop.schema import DOMAIN, DROPOUT_OPS, ELEMENT_TYPES, GRAD_OP, OPERATORS, VERSION

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from onnx_structdrop.graph.record import Record

__all__ = [
    "check_call",
    "check_known",
    "declare_functions",
    "dropout_nodes",
    "element_type",
    "functions_for",
    "is_dropout",
    "own_calls",
    "seed_of",
    "undeclare_functions",
]

_LISTS = frozenset({"block_size", "noise_shape", "shared_axes"})

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

    Raises
    ------
    ModelError
        If a node of our domain is none of our operators.
    """
    for scope, graph in scopes(model):
        for node in graph:
            if is_dropout(node):
                yield scope, node
            elif node.domain == DOMAIN:
                check_known([node])


def own_calls(model: ir.Model) -> list[ir.Node]:
    """Return every node of our domain, the gradient included."""
    return [node for _, graph in scopes(model) for node in graph if node.domain == DOMAIN]


def seed_of(node: ir.Node) -> int:
    """Return the seed of a node of ours.

    Raises
    ------
    ModelError
        If it has none, or one that is no integer.
    """
    attribute = node.attributes.get("seed")
    if attribute is None:
        raise ModelError(f"{_label(node)} lacks the attribute 'seed'; give it an integer")
    if attribute.is_ref() or attribute.type != ir.AttributeType.INT:
        raise ModelError(f"the seed of {_label(node)} is not an integer; write one there")
    return attribute.as_int()


def element_type(value: ir.Value | None) -> str | None:
    """Return the name of a value's element type if the operators take it, else None."""
    if value is None or value.dtype is None:
        return None
    return _ELEMENT_NAMES.get(value.dtype)


def declare_functions(model: ir.Model, added: Collection[ir.Node] = ()) -> None:
    """Give the model a function for each of our operators that it calls, and the imports.

    A gradient function that is present stays.

    Parameters
    ----------
    model
        Is changed.
    added
        Calls that the functions in the model were not written for, see `functions_for`.

    Raises
    ------
    ModelError, UnsupportedModelError
        As `functions_for`.
    """
    functions = functions_for(model, own_calls(model), added)
    model.functions.update(functions)
    for function in model.functions.values():
        if _calls_ours(function):
            function.opset_imports.setdefault(DOMAIN, VERSION)
    if functions:
        # onnxruntime wants the import even where only functions call ours.
        model.opset_imports.setdefault(DOMAIN, VERSION)


def functions_for(
    model: ir.Model, calls: Iterable[ir.Node], added: Collection[ir.Node] = ()
) -> dict[ir.OperatorIdentifier, ir.Function]:
    """Return a function for each operator of ours that is called.

    A function is written for the one element type of all its calls, or for any type where
    they differ or are unknown, and without masks in inference mode where no call uses one.

    Parameters
    ----------
    model
        Holds the calls. Of a call whose element type it does not tell, as after another tool
        stripped it of types, the function that the model has for it tells the type.
    calls
        Nodes of our domain; others than our operators are passed over.
    added
        Calls that the functions in the model were not written for.

    Raises
    ------
    ModelError
        If a node is no complete call: bodies take no defaults.
    UnsupportedModelError
        If the model's opset has no body for an operator and its types.
    """
    opset = default_opset(model)
    types: dict[str, set[str | None]] = {}
    written_for: dict[str, str | None] = {}
    masked: set[str] = set()
    for node in calls:
        if node.domain != DOMAIN or node.op_type not in OPERATORS:
            continue
        check_call(node)
        known = element_type(node.inputs[0]) or element_type(node.outputs[0])
        present = model.functions.get((DOMAIN, node.op_type, ""))
        if known is None and present is not None and node not in added:
            if node.op_type not in written_for:
                written_for[node.op_type] = _element_type_of(present, opset)
            known = written_for[node.op_type]
        types.setdefault(node.op_type, set()).add(known)
        if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
            masked.add(node.op_type)
    functions = {}
    for op_type, each in types.items():
        one = next(iter(each)) if len(each) == 1 else None
        proto = function_proto(op_type, opset, one, mask_used=op_type in masked)
        functions[DOMAIN, op_type, ""] = ir.serde.deserialize_function(proto)
    return functions


def check_call(node: ir.Node) -> None:
    """Check that a node of ours can be a call of its function.

    Raises
    ------
    ModelError
        If the number of its inputs or outputs, or an attribute, is not what the operator has.
    """
    attributes = OPERATORS[node.op_type].attributes
    if node.overload:
        raise ModelError(f"{_label(node)} asks for overload {node.overload!r}; there is none")
    needed = 3 if node.op_type == GRAD_OP else 2
    if len(node.inputs) != needed or any(value is None for value in node.inputs):
        raise ModelError(
            f"{_label(node)} needs {needed} inputs, "
            f"it has {sum(value is not None for value in node.inputs)}"
        )
    named = 1 if node.op_type == GRAD_OP else 3
    if len(node.outputs) != named:
        raise ModelError(
            f"{_label(node)} lists {len(node.outputs)} outputs, it has {named}; "
            'list them all, those without use as ""'
        )
    for name in attributes:
        attribute = node.attributes.get(name)
        if attribute is None:
            raise ModelError(
                f"{_label(node)} lacks the attribute {name!r}; it needs all of "
                f"{', '.join(attributes)}"
            )
        wanted = ir.AttributeType.INTS if name in _LISTS else ir.AttributeType.INT
        if attribute.type != wanted:
            raise ModelError(
                f"attribute {name!r} of {_label(node)} is of type {attribute.type.name}; "
                f"it must be {wanted.name}"
            )
    for name in node.attributes:
        if name not in attributes:
            raise ModelError(
                f"{_label(node)} has an attribute {name!r} that means nothing to the operator; "
                f"remove it, known are {', '.join(attributes) or 'none'}"
            )


def check_known(calls: Iterable[ir.Node]) -> None:
    """Check that nodes of our domain call operators that this version has.

    Raises
    ------
    ModelError
        At the first that does not.
    """
    for node in calls:
        if node.op_type not in OPERATORS:
            raise ModelError(
                f"node {node.name!r} calls {DOMAIN}::{node.op_type}, which is no operator of this "
                f"version; known are {', '.join(OPERATORS)}: tools that put models together "
                "(onnx.compose) rename functions, insert after them; or update the package"
            )


def _label(node: ir.Node) -> str:
    return f"node {node.name!r} ({node.domain}::{node.op_type})"


def undeclare_functions(model: ir.Model, record: Record | None = None) -> None:
    """Remove our functions that nothing calls, and our imports where nothing is ours.

    What was there before insertion according to `record` stays, or is put back.
    """
    called = {node.op_identifier() for node in own_calls(model)}
    kept: Mapping[ir.OperatorIdentifier, ir.Function] = record.kept_functions() if record else {}
    imports = record.imports if record else []
    for identifier in list(model.functions):
        if identifier[0] != DOMAIN or identifier in called:
            continue
        if identifier in kept:
            model.functions[identifier] = kept[identifier]
        else:
            del model.functions[identifier]
    for function in model.functions.values():
        if function.domain != DOMAIN and not (
            _calls_ours(function) or function_scope(function) in imports
        ):
            function.opset_imports.pop(DOMAIN, None)
    if not called and "" not in imports:
        model.opset_imports.pop(DOMAIN, None)


def _calls_ours(function: ir.Function) -> bool:
    return any(node.domain == DOMAIN for node in function.all_nodes())


def _element_type_of(function: ir.Function, opset: int) -> str | None:
    """Return the element type a function of ours was written for, or None for any."""
    try:
        body = ir.to_proto(function)
    except ir.serde.SerdeError as error:
        raise ModelError(f"function {function.name!r} cannot be written: {error}") from error
    for name, mask_used in itertools.product(ELEMENT_TYPES, (True, False)):
        try:
            candidate = function_proto(function.name, opset, name, mask_used=mask_used)
        except UnsupportedModelError:
            continue
        if ir.to_proto(ir.from_proto(candidate)) == body:
            return name
    return None
