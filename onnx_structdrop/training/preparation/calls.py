"""Functions of others, written out: the gradient builder does not look into them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_structdrop.graph.expand import expand
from onnx_structdrop.schema import DOMAIN, OPERATORS
from onnx_structdrop.training.preparation.editing import refuse

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnx_structdrop.training.preparation.editing import Editing

__all__ = ["inline_calls"]


def inline_calls(editing: Editing) -> None:
    """Replace every call of a function that is not ours by the function's body.

    Raises
    ------
    UnsupportedModelError
        If a call leaves out an attribute that has no default, or an output.
    """
    model = editing.model
    pending = list(model.graph)
    while pending:
        node = pending.pop()
        function = model.functions.get(node.op_identifier())
        if function is None or _is_own(node):
            continue
        for name, parameter in function.attributes.items():
            if name in node.attributes:
                continue
            if parameter.value is None:
                raise refuse(node, f"its call leaves out the attribute {name!r}")
            node.attributes[name] = parameter
        missing = len(function.inputs) - len(node.inputs)
        if missing < 0 or len(function.outputs) < len(node.outputs):
            raise refuse(node, "it has more inputs or outputs than the function it calls")
        node.resize_inputs(len(function.inputs))
        node.resize_outputs(len(function.outputs))
        editing.note(node, f"call of {node.domain}::{node.op_type} written out",
                     "no gradient is built inside functions")  # fmt: skip
        pending.extend(expand(node, function, editing.names))
    for identifier in [key for key in model.functions if key[0] != DOMAIN]:
        del model.functions[identifier]


def _is_own(node: ir.Node) -> bool:
    return node.domain == DOMAIN and node.op_type in OPERATORS
