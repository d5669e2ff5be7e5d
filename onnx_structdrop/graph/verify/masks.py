"""What becomes of random numbers before they meet data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_structdrop.graph.nodes import is_dropout
from onnx_structdrop.graph.scopes import scopes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    import onnx_ir as ir

__all__ = ["Masks"]

_SHAPE_ONLY = ("Shape", "Size", "RandomUniformLike", "RandomNormalLike")
_LINEAR = frozenset(
    ("Mul", "Div", "Add", "Sub", "Neg", "Identity", "Reshape", "Expand", "Transpose", "Cast",
     "CastLike", "Unsqueeze", "Squeeze", "Slice", "Concat")
)  # fmt: skip
_REDUCTIONS = frozenset(("ReduceSum", "ReduceMean", "GlobalAveragePool"))


class Masks:
    """The values of a model that hang on random numbers, constants and shapes, and on no data.

    Parameters
    ----------
    model
        Is only read.
    random
        Its nodes that draw random numbers.
    """

    def __init__(self, model: ir.Model, random: Collection[ir.Node]) -> None:
        self._free: set[ir.Value] = set()
        for _, graph in scopes(model):
            for node in graph:
                if node in random and (is_dropout(node) or "Dropout" in node.op_type):
                    # The first one is data, masked, if it is not a mask of constants itself.
                    data = node.inputs[0] if node.inputs else None
                    blank = data is not None and self._is_free(data)
                    self._free.update(node.outputs if blank else node.outputs[1:])
                elif (
                    node.op_type in _SHAPE_ONLY
                    or node in random
                    or all(value is None or self._is_free(value) for value in node.inputs)
                ):
                    self._free.update(node.outputs)

    def _is_free(self, value: ir.Value) -> bool:
        return value in self._free or (value.is_initializer() and not value.is_graph_input())

    def is_linear(self, value: ir.Value) -> bool:
        """Tell whether a mask is used in such a way that its expectation may stand for it."""
        closure = self._closure(value)
        for node in closure:
            inside = [place for place, read in enumerate(node.inputs) if _in(read, value, closure)]
            divided = node.op_type == "Div" and inside != [0]
            squared = node.op_type == "Mul" and len(inside) > 1
            if node.op_type not in _LINEAR or divided or squared:
                return False
        return True

    def is_normalised(self, value: ir.Value) -> bool:
        """Tell whether what a mask keeps is counted: then it scales itself, whatever it keeps."""
        return any(node.op_type in _REDUCTIONS for node in self._closure(value))

    def _closure(self, value: ir.Value) -> dict[ir.Node, None]:
        """Return the nodes that a mask passes through before it meets data."""
        found: dict[ir.Node, None] = {}
        pending: list[ir.Value] = [value]
        while pending:
            for node, _ in pending.pop().uses():
                if node not in found and _all_in(node.outputs, self._free):
                    found[node] = None
                    pending += node.outputs
        return found


def _all_in(values: Iterable[ir.Value], known: Collection[ir.Value]) -> bool:
    return all(value in known for value in values)


def _in(read: ir.Value | None, value: ir.Value, closure: Collection[ir.Node]) -> bool:
    return read is value or (read is not None and read.producer() in closure)
