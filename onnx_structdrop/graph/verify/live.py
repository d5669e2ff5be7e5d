"""What of a model is random when it is run, and which outputs hang on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_structdrop.graph.files.wellformed import quoted
from onnx_structdrop.graph.inspect import StochasticNode, inspect
from onnx_structdrop.graph.scopes import scopes

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Live"]

_PASSED_ON = ("Identity", "Cast", "Not", "Squeeze", "Unsqueeze", "Reshape")
_DROPOUTS = {"Dropout": 2, "BiasDropout": 4, "BitmaskDropout": 2, "BitmaskBiasDropout": 4}
"""Place of the mode among the inputs."""


class Live:
    """The random nodes of a model, once the inputs that switch dropout are held.

    Attributes
    ----------
    held : dict
        Bool inputs that switch dropout, with the value that switches it off.
    nodes : list of StochasticNode
        What is random nevertheless, or may be.
    """

    def __init__(self, model: ir.Model) -> None:
        self.held: dict[str, bool] = {}
        switched: set[tuple[str, str]] = set()
        for scope, graph in scopes(model):
            for node in graph:
                if node.op_type not in _DROPOUTS or not node.outputs:
                    continue
                place = _DROPOUTS[node.op_type]
                mode = node.inputs[place] if place < len(node.inputs) else None
                held = None if mode is None else _switch(mode, model)
                if held is not None and self.held.setdefault(*held) == held[1]:
                    switched.add((scope, node.outputs[0].name or ""))
        self.nodes = [
            node
            for node in inspect(model).nodes
            if _is_live(node)
            and not (node.active is None and (node.scope, node.output) in switched)
        ]

    def behind(self, output: str) -> str | None:
        """Return what an output hangs on that is random, or None."""
        for node in self.nodes:
            if output in node.reaches:
                name = node.name or node.output
                where = f" in {node.scope}" if node.scope else ""
                return f"{node.op_type} {quoted(name)}{where}"
        return None


def _is_live(node: StochasticNode) -> bool:
    drops_nothing = node.ratio == 0 and (node.origin == "structdrop" or node.op_type in _DROPOUTS)
    return node.active is not False and not drops_nothing


def _switch(mode: ir.Value, model: ir.Model) -> tuple[str, bool] | None:
    """Return the input of the model that a mode comes from, and what switches it off."""
    off = False
    producer = mode.producer()
    while producer is not None and producer.op_type in _PASSED_ON:
        source = producer.inputs[0] if producer.inputs else None
        if source is None:
            return None
        off = not off if producer.op_type == "Not" else off
        mode, producer = source, source.producer()
    inputs = {value.name for value in model.graph.inputs} - set(model.graph.initializers)
    if mode not in model.graph.inputs or mode.name not in inputs or mode.type is None:
        return None
    return (mode.name or "", off) if mode.dtype is not None and mode.dtype.name == "BOOL" else None
