"""Functions and bodies: what goes in and comes out of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnx_structdrop.graph.proofs.sources import is_own
from onnx_structdrop.graph.scopes import scopes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnx_structdrop.graph.proofs.noise import Noise

__all__ = ["Calls", "alike", "bodies", "called"]


class Calls:
    """Which values of a model become which across the borders of its graphs.

    Attributes
    ----------
    actuals
        For each input of a function body, the values that its calls pass in.
    results
        For each output of a function body or subgraph, the values that it becomes outside.
    inner
        The other way round.
    """

    def __init__(self, model: ir.Model) -> None:
        functions = {
            key: function for key, function in model.functions.items() if not is_own(*key[:2])
        }
        self.actuals: dict[ir.Value, list[ir.Value | None]] = {
            formal: [] for function in functions.values() for formal in function.inputs
        }
        self.results: dict[ir.Value, list[ir.Value]] = {}
        self.inner: dict[ir.Value, list[ir.Value]] = {}
        for _, graph in scopes(model):
            for node in graph:
                for body in bodies(node):
                    self._leave(body.outputs, node)
                function = functions.get(node.op_identifier())
                if function is None:
                    continue
                self._leave(function.outputs, node)
                for index, formal in enumerate(function.inputs):
                    given = node.inputs[index] if index < len(node.inputs) else None
                    self.actuals[formal].append(given)

    def _leave(self, inner: Sequence[ir.Value], node: ir.Node) -> None:
        # A Loop's first output is its condition, which shifts the others by one; scans agree.
        shift = 1 if node.op_type == "Loop" else 0
        for value, outer in zip(inner[shift:], node.outputs, strict=False):
            self.results.setdefault(value, []).append(outer)
            self.inner.setdefault(outer, []).append(value)


def called(noise: Noise, node: ir.Node) -> Noise:
    """Return what a call gives where its body gives this: every call draws anew."""
    sense = frozenset(
        (event._replace(calls=(*event.calls, id(node))), happens) for event, happens in noise.sense
    )
    return replace(noise, sense=sense)


def alike(one: Noise, other: Noise) -> bool:
    """Tell whether two calls pass in the same, but for the event itself."""
    if len(one.sense) != len(other.sense) or len(one.sense) > 1:
        return False
    numbers = [(one.first, other.first), (one.second, other.second)]
    return (
        (one.local, one.coarse) == (other.local, other.coarse)
        and all(
            np.array_equal(a.low, b.low)
            and np.array_equal(a.high, b.high)
            and (a.draw is None) == (b.draw is None)
            and (a.draw is None or b.draw is None or bool((a.draw.mean == b.draw.mean).all()))
            and (a.draw is None or b.draw is None or a.draw.family == b.draw.family)
            for a, b in numbers
        )
        and (one.chance is None) == (other.chance is None)
        and (one.chance is None or other.chance is None or bool((one.chance == other.chance).all()))
    )


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the subgraphs of a node."""
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()
