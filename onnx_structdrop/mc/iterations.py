"""Draws of dropout in loops: every iteration takes masks of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnx_structdrop.errors import UnsupportedModelError
from onnx_structdrop.graph.names import Names
from onnx_structdrop.graph.proofs.sources import label
from onnx_structdrop.mc.parts import bodies_of

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["IteratedDraws"]

_DRAWS = 1 << 48
"""As many as there are: images times samples, see `chunks`."""

_STEP = int((5**0.5 - 1) / 2 * _DRAWS) | 1
"""From one iteration to the next, around the draws: by the golden ratio, which keeps any few of
them far apart. Those of a hundred iterations meet after a million images."""


class IteratedDraws:
    """The draws that a node takes, by the graph it is in.

    Parameters
    ----------
    model
        Is changed: bodies of loops get nodes that add draws for each iteration.
    draws
        Input of the main graph.
    """

    def __init__(self, model: ir.Model, draws: ir.Value) -> None:
        self._draws = draws
        self._names = Names(model)
        self._owners = {id(body): node for node, body in _bodies(model.graph)}
        self._known: dict[int, ir.Value] = {id(model.graph): draws}

    def at(self, node: ir.Node) -> ir.Value:
        """Return the draws of a node.

        Raises
        ------
        UnsupportedModelError
            It is in a loop that is in another one, or in one whose iterations have no number.
        """
        graph = node.graph
        if id(graph) not in self._known:
            assert isinstance(graph, ir.Graph)
            self._known[id(graph)] = self._within(node, graph, self._owners[id(graph)])
        return self._known[id(graph)]

    def _within(self, node: ir.Node, body: ir.Graph, owner: ir.Node) -> ir.Value:
        outer = self.at(owner)
        if owner.op_type == "If":
            return outer
        if owner.op_type != "Loop" or outer is not self._draws:
            raise UnsupportedModelError(
                f"{label(node)} is in {label(owner)}, whose iterations cannot be told apart, so "
                "that all would drop the same; pass native=False (--functions)"
            )
        step = self._new("Constant", [], value=ir.tensor(np.int64(_STEP)))
        most = self._new("Constant", [], value=ir.tensor(np.int64(_DRAWS)))
        shift = self._new("Mul", [body.inputs[0], step])
        sum_of = self._new("Add", [outer, shift])
        found = self._new("Mod", [sum_of, most])
        made = [value.producer() for value in (step, most, shift, sum_of, found)]
        body.insert_before(body[0], [one for one in made if one is not None])
        return found

    def _new(
        self, op_type: str, inputs: list[ir.Value], **attributes: ir.TensorProtocol
    ) -> ir.Value:
        node = ir.node(op_type, inputs, attributes, name=self._names.take(f"structdrop_{op_type}"))
        node.outputs[0].name = self._names.take(f"structdrop_{op_type}_output")
        node.outputs[0].type = ir.TensorType(ir.DataType.INT64)
        return node.outputs[0]


def _bodies(graph: ir.Graph) -> Iterator[tuple[ir.Node, ir.Graph]]:
    """Yield every subgraph, with the node that it belongs to."""
    pending = [graph]
    while pending:
        for node in pending.pop():
            for body in bodies_of(node):
                yield node, body
                pending.append(body)
