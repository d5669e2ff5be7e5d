"""Which outputs of a model each node can change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["Reach"]

_SHAPE_ONLY = ("Shape", "Size", "RandomUniformLike", "RandomNormalLike", "EyeLike")


class Reach:
    """The graph outputs that lie downstream of each node, at any depth.

    A subgraph's outputs lead where those of its node lead (an If's one by one, others' together),
    a function's where those of its calls lead, and an argument of a call to all of the call's
    outputs. Operators that read nothing but the shape of a value pass nothing on, though a shape
    can be random where it hangs on contents (NonZero and the like).

    Parameters
    ----------
    model
        Is only read. Its nodes are in topological order.
    """

    def __init__(self, model: ir.Model) -> None:
        self._outputs = [value.name or "" for value in model.graph.outputs]
        # A bit per graph output: one pass over the model serves any number of nodes.
        self._masks: dict[ir.Value, int] = {}
        self._sinks: dict[tuple[str, str, str], list[int]] = {}
        self._functions = model.functions
        self._changed: dict[tuple[str, str, str], None] = {}
        self._visit(model.graph, [1 << place for place in range(len(self._outputs))])
        while self._changed:
            # Functions that call each other: as often as something new turns up, masks only grow.
            identifier, _ = self._changed.popitem()
            self._visit(self._functions[identifier].graph, list(self._sinks[identifier]))

    def outputs(self, node: ir.Node) -> tuple[str, ...]:
        """Return the names of the graph outputs that a node can change, in order."""
        mask = self._of(node.outputs)
        return tuple(name for place, name in enumerate(self._outputs) if mask >> place & 1)

    def outputs_of(self, value: ir.Value) -> tuple[str, ...]:
        """Return the names of the graph outputs that a value can change, in order."""
        mask = self._masks.get(value, 0)
        return tuple(name for place, name in enumerate(self._outputs) if mask >> place & 1)

    def _of(self, values: Iterable[ir.Value]) -> int:
        mask = 0
        for value in values:
            mask |= self._masks.get(value, 0)
        return mask

    def _visit(self, graph: ir.Graph, sinks: Sequence[int]) -> None:
        for value, mask in zip(graph.outputs, sinks, strict=False):
            self._add(value, mask)
        for node in reversed(graph):
            own = [self._masks.get(output, 0) for output in node.outputs]
            mask = self._of(node.outputs)
            for attribute in node.attributes.values():
                for subgraph in _subgraphs(attribute):
                    # What a loop's body hands back may be what it is given in its next run.
                    one_by_one = node.op_type == "If" and len(subgraph.outputs) == len(own)
                    self._visit(subgraph, own if one_by_one else [mask] * len(subgraph.outputs))
            if node.op_identifier() in self._functions:
                self._call(node.op_identifier(), own)
            for read in () if _reads_shape(node) else node.inputs:
                if read is not None:
                    self._add(read, mask)

    def _add(self, value: ir.Value, mask: int) -> None:
        self._masks[value] = self._masks.get(value, 0) | mask

    def _call(self, identifier: tuple[str, str, str], masks: Sequence[int]) -> None:
        count = len(self._functions[identifier].outputs)
        if identifier not in self._sinks:
            # Even where nothing is reached, the values inside are to be known.
            self._changed[identifier] = None
        known = self._sinks.setdefault(identifier, [0] * count)
        for place, mask in enumerate(masks[:count]):
            if known[place] | mask != known[place]:
                known[place] |= mask
                self._changed[identifier] = None


def _reads_shape(node: ir.Node) -> bool:
    return node.domain in ("", "ai.onnx") and node.op_type in _SHAPE_ONLY


def _subgraphs(attribute: ir.Attr) -> Iterator[ir.Graph]:
    if attribute.is_ref():
        return
    if attribute.type == ir.AttributeType.GRAPH:
        yield attribute.as_graph()
    elif attribute.type == ir.AttributeType.GRAPHS:
        yield from attribute.as_graphs()
