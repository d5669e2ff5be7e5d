"""Nodes that draw random numbers, whatever exporter wrote them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnx_structdrop.graph.files.tensors import content
from onnx_structdrop.graph.nodes import is_dropout
from onnx_structdrop.graph.scopes import is_own_body, scopes
from onnx_structdrop.schema import DOMAIN, OPERATORS

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "DEFAULT_DOMAINS",
    "DRAWING",
    "Origin",
    "integer",
    "is_own",
    "is_random",
    "label",
    "origins",
]

DEFAULT_DOMAINS = ("", "ai.onnx")

DRAWING = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
"""Standard operators that draw whenever they run."""

_FUSED = frozenset({"BiasDropout", "BitmaskBiasDropout", "BitmaskDropout"})
"""Operators of com.microsoft with a training mode as their last input."""

_ATEN_WORDS = ("dropout", "bernoulli", "rand", "normal_", "multinomial", "rrelu", "uniform")

_NO_TEST_FLAG_SINCE = 7
_MODE_INPUT_SINCE = 12


@dataclass(frozen=True)
class Origin:
    """A node that draws, or would in training mode."""

    node: ir.Node
    scope: str
    active: bool | None
    """Whether it draws; None where that is decided at run time."""
    undecided: bool = False
    """Whether nothing in the file can switch it on or off: Dropout from opset 7 to 11."""

    @property
    def output(self) -> str:
        """Name of the node's first output that has one."""
        return next((value.name for value in self.node.outputs if value.name), "")


def origins(model: ir.Model) -> Iterator[Origin]:
    """Yield every random source of a model, scope by scope."""
    version = model.opset_imports.get("", model.opset_imports.get("ai.onnx", _MODE_INPUT_SINCE))
    for scope, graph in scopes(model):
        if is_own_body(scope):
            continue
        imports = graph.opset_imports if isinstance(graph, ir.Function) else {}
        opset = imports.get("", version)
        for node in graph:
            if is_random(node):
                undecided = (
                    node.op_type == "Dropout"
                    and node.domain in DEFAULT_DOMAINS
                    and _NO_TEST_FLAG_SINCE <= opset < _MODE_INPUT_SINCE
                )
                yield Origin(node, scope, _active(node, opset), undecided)


def is_own(domain: str, name: str) -> bool:
    """Tell whether an operator is one of ours, and not just in our domain."""
    return domain == DOMAIN and name in OPERATORS


def is_random(node: ir.Node) -> bool:
    """Tell whether a node draws random numbers, or would in training mode."""
    if node.domain in DEFAULT_DOMAINS:
        return node.op_type in DRAWING or node.op_type == "Dropout" or _is_stateless(node)
    if node.domain == DOMAIN:
        return is_dropout(node)
    if node.domain == "com.microsoft":
        return node.op_type in _FUSED
    if node.op_type == "ATen":
        operator = node.attributes.get("operator")
        name = "" if operator is None or operator.is_ref() else str(operator.value)
        return any(word in name for word in _ATEN_WORDS)
    return False


def _is_stateless(node: ir.Node) -> bool:
    # TensorFlow operators that keras exports leave in the file unconverted. GetKeyCounter and
    # GetAlg only derive a key.
    return node.op_type.startswith("Stateless") and "Get" not in node.op_type


def _active(node: ir.Node, opset: int) -> bool | None:
    if is_dropout(node):
        mode = integer(node, "training_mode", 1)
        return None if mode is None else bool(mode)
    if node.op_type == "Dropout" and node.domain in DEFAULT_DOMAINS:
        return _dropout_active(node, opset)
    if node.domain == "com.microsoft":
        flag = node.inputs[-1] if len(node.inputs) > 2 else None
        return False if flag is None else constant_bool(flag)
    return True


def _dropout_active(node: ir.Node, opset: int) -> bool | None:
    """Tell whether a standard Dropout is on.

    ``is_test`` decides below opset 7, an input from 12. In between nothing in the file does:
    runtimes take those for switched off.
    """
    if opset < _NO_TEST_FLAG_SINCE:
        return not integer(node, "is_test", 0)
    mode = node.inputs[2] if len(node.inputs) > 2 else None
    if mode is None:
        return False
    return constant_bool(mode)


def integer(node: ir.Node, name: str, default: int) -> int | None:
    """Return an integer attribute; None where the function around the node decides it."""
    attribute = node.attributes.get(name)
    if attribute is None:
        return default
    if attribute.is_ref():
        return None
    return attribute.as_int() if attribute.type == ir.AttributeType.INT else default


def constant_bool(value: ir.Value) -> bool | None:
    """Return the content of a constant bool scalar, or None where it is not constant."""
    if value.is_graph_input():
        return None
    tensor = value.const_value
    producer = value.producer()
    if tensor is None and producer is not None and producer.op_type == "Constant":
        attribute = producer.attributes.get("value")
        if attribute is not None and attribute.type == ir.AttributeType.TENSOR:
            tensor = None if attribute.is_ref() else attribute.as_tensor()
    if tensor is None or tensor.size != 1:
        return None
    array = content(tensor)
    return None if array is None or array.size != 1 else bool(array.item())


def label(node: ir.Node) -> str:
    """Return what to call a node in a message."""
    name = node.name or next((value.name for value in node.outputs if value.name), "")
    return f"{node.op_type} {name!r}" if name else node.op_type
