"""BatchNormalization into inference mode."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from onnx_structdrop.errors import ModelError
from onnx_structdrop.graph.files.tensors import content
from onnx_structdrop.graph.files.wellformed import quoted
from onnx_structdrop.graph.proofs.calls import Calls, bodies
from onnx_structdrop.graph.proofs.sources import DEFAULT_DOMAINS, integer, is_random
from onnx_structdrop.graph.scopes import scopes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx_structdrop.graph.proofs.rewrite import Rewriter

__all__ = ["Norm", "to_inference", "training_norms"]

_MODE_ATTRIBUTE_SINCE = 14
_TEST_FLAG_UNTIL = 6


class Norm:
    """A BatchNormalization in training mode."""

    def __init__(self, node: ir.Node, scope: str, opset: int, calls: Calls) -> None:
        self.node, self.scope, self.opset = node, scope, opset
        self._calls = calls

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
        if _number(self.node, "momentum", 0.9) == 0.0:
            return "its momentum is 0: it keeps no running statistics"
        if _is_dummy(self.node.inputs[3], 0.0) and _is_dummy(self.node.inputs[4], 1.0):
            return "its statistics are 0 and 1 and shared with other nodes: they look made up"
        if not _hangs_on_data(self.node.inputs[0], self._calls):
            return "it normalises what depends on no input of the model, such as weights"
        return None


def training_norms(model: ir.Model) -> Iterator[Norm]:
    """Yield every BatchNormalization in training mode, scope by scope."""
    calls: Calls | None = None
    version = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 1))
    for scope, graph in scopes(model):
        opset = version
        if isinstance(graph, ir.Function):
            opset = graph.opset_imports.get("", version)
        for node in graph:
            if node.op_type != "BatchNormalization" or node.domain not in DEFAULT_DOMAINS:
                continue
            if _trains(node, opset):
                calls = Calls(model) if calls is None else calls
                yield Norm(node, scope, opset, calls)


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


def _number(node: ir.Node, name: str, default: float) -> float | None:
    """Return a float attribute; None where the function around the node decides it."""
    attribute = node.attributes.get(name)
    if attribute is None:
        return default
    if attribute.is_ref():
        return None
    if attribute.type != ir.AttributeType.FLOAT:
        raise ModelError(
            f"node {quoted(node.name or '')} ({node.op_type}): its attribute {name!r} is a "
            f"{attribute.type.name}, not a FLOAT; mend the attribute"
        )
    return attribute.as_float()


def _is_dummy(value: ir.Value | None, wanted: float) -> bool:
    """Tell whether a constant of one number serves several normalisations."""
    if value is None or value.const_value is None or value.is_graph_input():
        return False
    users = {node for node, _ in value.uses() if node.op_type == "BatchNormalization"}
    if len(users) < 2:
        return False
    array = content(value.const_value)
    return array is not None and bool((array == wanted).all())


def _hangs_on_data(value: ir.Value | None, calls: Calls) -> bool:
    """Tell whether the content of a value depends on an input of the model, or on chance."""
    pending = [value]
    seen: set[ir.Value | None] = {value, None}
    while pending:
        current = pending.pop()
        if current is None:
            continue
        found: list[ir.Value | None] = []
        node = current.producer()
        if node is not None:
            if is_random(node):
                return True
            if node.op_type not in ("Shape", "Size"):
                found.extend(node.inputs)
            for body in bodies(node):
                found.extend(body.outputs)  # += asks the container, which refuses
            found += calls.inner.get(current, ())
        elif current in calls.actuals:
            found += calls.actuals[current]
        elif current.const_value is None or current.is_graph_input():
            # An input of the model, or of a body.
            return True
        pending += [one for one in found if one not in seen]
        seen.update(found)
    return False


def _is_used(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()
