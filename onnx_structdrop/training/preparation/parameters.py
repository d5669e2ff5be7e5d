"""Which initializers are parameters: what layers multiply by and add, not what steers them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnx_structdrop.errors import ArgumentError, ArgumentTypeError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from onnx_structdrop.training.preparation.editing import Editing

__all__ = ["Choice", "choose", "find_parameters", "lift_constants", "source"]

_LAYERS = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "BatchNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "RMSNormalization": (1,),
    "PRelu": (1,),
}
"""Inputs of a layer that are its parameters, where they are constants."""

_BEHIND_LAYERS = ("Add", "Mul", "Sub")
"""A constant tensor here is a bias or a scale, if the other operand comes from a layer.

In front of the first layer it prepares the data, and a single number is arithmetic.
"""

_MOVES = frozenset({"Identity", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Flatten"})
"""Through these a parameter stays one."""


def source(value: ir.Value | None) -> ir.Value | None:
    """Return the initializer or constant behind a value, through moves; None if there is none."""
    while value is not None:
        node = value.producer()
        if node is None:
            return value if value.const_value is not None else None
        if node.domain not in ("", "ai.onnx"):
            return None
        if node.op_type == "Constant":
            return value
        if node.op_type not in _MOVES or not node.inputs:
            return None
        value = node.inputs[0]
    return None


def lift_constants(editing: Editing) -> None:
    """Turn Constant nodes that hold parameters into initializers."""
    for value in list(_roles(editing.graph)):
        node = value.producer()
        if node is None:
            continue
        attribute = node.attributes.get("value")
        if attribute is None or attribute.is_ref() or attribute.type != ir.AttributeType.TENSOR:
            continue
        lifted = editing.initializer(attribute.as_tensor().numpy(), f"{value.name}_value", None)
        name = value.name
        editing.replace(node, lifted)
        editing.note(name or "", "made an initializer", "a parameter in a Constant node is fixed")


def find_parameters(graph: ir.Graph) -> list[ir.Value]:
    """Return the initializers that are parameters of layers, in the order of their first use."""
    return list(dict.fromkeys(_roles(graph)))


def _roles(graph: ir.Graph) -> Iterator[ir.Value]:
    from_layer: set[ir.Value] = set()
    for node in graph:
        if node.domain not in ("", "ai.onnx"):
            found: Iterable[int] = ()
        elif node.op_type in _LAYERS:
            found = _LAYERS[node.op_type]
        elif node.op_type in _BEHIND_LAYERS and any(v in from_layer for v in node.inputs):
            found = range(len(node.inputs))
        else:
            found = ()
        weights = [origin for i in found if (origin := _parameter(node, i)) is not None]
        yield from weights
        if weights or any(value in from_layer for value in node.inputs):
            from_layer.update(node.outputs)


def _parameter(node: ir.Node, place: int) -> ir.Value | None:
    if place >= len(node.inputs):
        return None
    origin = source(node.inputs[place])
    if origin is None:
        return None
    tensor = origin.const_value
    if tensor is None:
        producer = origin.producer()
        attribute = None if producer is None else producer.attributes.get("value")
        if attribute is None or attribute.is_ref() or attribute.type != ir.AttributeType.TENSOR:
            return None
        tensor = attribute.as_tensor()
    if tensor.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
        return None
    return origin if tensor.size > 1 or node.op_type in _LAYERS else None


@dataclass(frozen=True)
class Choice:
    """Parameters by what becomes of them."""

    trainable: tuple[str, ...]
    frozen: tuple[str, ...]


def choose(
    graph: ir.Graph,
    found: Sequence[ir.Value],
    requires_grad: Collection[str] | None,
    frozen: Collection[str],
) -> Choice:
    """Decide which parameters train.

    Parameters
    ----------
    graph
        Holds the initializers.
    found
        The parameters of layers.
    requires_grad, frozen
        Names or patterns of initializers; frozen wins over what was found, and must not
        contradict `requires_grad`.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If a name matches nothing, or is in both.
    UnsupportedModelError
        If nothing is left to train, or it is not float32.
    """
    names = {value.name or "": value for value in found}
    fixed = _matching(graph, frozen, "frozen", names)
    if requires_grad is None:
        chosen = [name for name in names if name not in fixed]
    else:
        chosen = _matching(graph, requires_grad, "requires_grad", names)
        both = [name for name in chosen if name in fixed]
        if both:
            raise ArgumentError(f"{both[0]!r} is in requires_grad and in frozen: choose one")
    for name in chosen:
        value = graph.initializers[name]
        if value.dtype != ir.DataType.FLOAT:
            kind = "of no known type" if value.dtype is None else value.dtype.name.lower()
            raise UnsupportedModelError(
                f"parameter {name!r} is {kind}; the optimizers of onnxruntime-training take "
                "float32: export the model in float32"
            )
    if not chosen:
        raise UnsupportedModelError(
            "the model has no parameter to train: no layer reads a float32 initializer"
            + (" that is not frozen" if fixed else "")
        )
    train = set(chosen)
    rest = dict.fromkeys((*(name for name in names if name not in train), *fixed))
    return Choice(tuple(chosen), tuple(rest))


def _matching(
    graph: ir.Graph, patterns: Collection[str], argument: str, first: Iterable[str]
) -> list[str]:
    if isinstance(patterns, str):
        raise ArgumentTypeError(f"{argument} must be a list of names, not the text {patterns!r}")
    if not isinstance(patterns, Iterable):
        raise ArgumentTypeError(f"{argument} must be a list of names, not {patterns!r}")
    chosen: dict[str, None] = {}
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise ArgumentTypeError(f"{argument} must hold names, not {pattern!r}")
        exact = [pattern] if pattern in graph.initializers else []
        matches = exact or [name for name in first if fnmatchcase(name, pattern)]
        if not matches:
            raise ArgumentError(f"{argument}: {pattern!r} matches no parameter of the model")
        chosen.update(dict.fromkeys(matches))
    return list(chosen)
