"""BatchNormalization into inference mode."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from onnx_structdrop.graph.proofs.sources import DEFAULT_DOMAINS, integer
from onnx_structdrop.graph.scopes import scopes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx_structdrop.graph.proofs.rewrite import Rewriter

__all__ = ["Norm", "to_inference", "training_norms"]

_MODE_ATTRIBUTE_SINCE = 14
_TEST_FLAG_UNTIL = 6


class Norm:
    """A BatchNormalization in training mode."""

    def __init__(self, node: ir.Node, scope: str, opset: int) -> None:
        self.node, self.scope, self.opset = node, scope, opset

    @property
    def obstacle(self) -> str | None:
        """Why it has no inference form, or None."""
        if self.node.attributes.get("training_mode") is not None and (
            self.node.attributes["training_mode"].is_ref()
        ):
            return "its training_mode is an attribute of the function around it"
        if len(self.node.inputs) < 5 or None in self.node.inputs[:5]:
            return "it has no running statistics"
        if any(_is_used(value) for value in self.node.outputs[3:]):
            return "the statistics of the batch that it puts out are used"
        return None


def training_norms(model: ir.Model) -> Iterator[Norm]:
    """Yield every BatchNormalization in training mode, scope by scope."""
    version = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 1))
    for scope, graph in scopes(model):
        opset = version
        if isinstance(graph, ir.Function):
            opset = graph.opset_imports.get("", version)
        for node in graph:
            if node.op_type != "BatchNormalization" or node.domain not in DEFAULT_DOMAINS:
                continue
            if _trains(node, opset):
                yield Norm(node, scope, opset)


def _trains(node: ir.Node, opset: int) -> bool:
    if opset >= _MODE_ATTRIBUTE_SINCE:
        return integer(node, "training_mode", 0) != 0
    if opset <= _TEST_FLAG_UNTIL:
        return not integer(node, "is_test", 0)
    # From opset 7 to 13 the number of outputs is the mode.
    return any(value.name for value in node.outputs[1:])


def to_inference(norm: Norm, rewriter: Rewriter) -> str:
    """Switch a BatchNormalization, and return what was done."""
    node = norm.node
    done = "training_mode was set to inference"
    if norm.opset <= _TEST_FLAG_UNTIL:
        node.attributes["is_test"] = ir.AttrInt64("is_test", 1)
    else:
        node.attributes.pop("training_mode", None)
    # In inference mode the running statistics come out as they went in.
    for value, given in zip(node.outputs[1:3], node.inputs[3:5], strict=False):
        if given is not None and _is_used(value):
            rewriter.become(value, given)
            done += f", {given.name!r} takes the place of its update"
    if len(node.outputs) > 1:
        node.resize_outputs(1)
        done += ", extra outputs were removed"
    return done


def _is_used(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()
