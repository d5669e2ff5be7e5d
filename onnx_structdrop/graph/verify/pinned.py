"""A model with its randomness held where nothing is dropped, to compare a cleaned model with.

What the ONNX standard defines is used first: Dropout, BatchNormalization and our own operators
have an inference mode. That pins them firmly: another result is a fault. A generator has none.
Its numbers are replaced by their expectation where they act linearly, and masks that count what
they keep, and so scale themselves, by the outcome that is likelier. Equality then says that the
result is right; a difference may be the fault of a pattern that is not linear. Where neither
holds (a block mask with a scale from elsewhere, say), equality would say nothing: keeping
everything, but dividing by the keep probability, is just the mistake that is looked for.

This shares nothing with the proofs that clean a model by, so that it can find their mistakes.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from onnx_structdrop.graph.convert import as_ir
from onnx_structdrop.graph.inspect import is_stochastic
from onnx_structdrop.graph.names import Names
from onnx_structdrop.graph.nodes import is_dropout
from onnx_structdrop.graph.reach import Reach
from onnx_structdrop.graph.scopes import default_opset, scopes
from onnx_structdrop.graph.verify.chances import normal_chance, uniform_chance
from onnx_structdrop.graph.verify.constants import is_blank, is_integer, scalar
from onnx_structdrop.graph.verify.masks import Masks
from onnx_structdrop.schema import DOMAIN

__all__ = ["Pinned", "pinned"]

_OWN_BODIES = f"function:{DOMAIN}::"
_COMPARISONS = ("Less", "LessOrEqual", "Greater", "GreaterOrEqual")
_SHAPE_ONLY = ("Shape", "Size", "RandomUniformLike", "RandomNormalLike")
_DIRECT = ("Mul", "Add", "Sub", "PRelu")
"""Operators in which a continuous random number acts linearly."""

_EXPAND_SINCE, _MODE_INPUT_SINCE, _MODE_ATTRIBUTE_SINCE, _NO_TEST_FLAG_SINCE = 8, 12, 14, 7
_FUSED_MODES = {"BiasDropout": 4, "BitmaskDropout": 2, "BitmaskBiasDropout": 4}


@dataclass
class Pinned:
    """A model in which nothing is random, as far as that can be had."""

    model: ir.Model
    soft: set[str] = field(default_factory=set)
    """Graph outputs of which a difference says nothing."""
    blind: dict[str, str] = field(default_factory=dict)
    """Graph outputs of which equality says nothing either, with the node at fault."""


def pinned(model: ir.Model) -> Pinned:
    """Return a copy of `model` with its randomness held: the same way for the same nodes."""
    return _Pins(model).result


class _Pins:
    """Pins every random node of a copy of a model."""

    def __init__(self, model: ir.Model) -> None:
        self._copy = as_ir(model)
        self._names = Names(self._copy)
        self._count = 0
        self._constants: dict[tuple[Any, ...], ir.Value] = {}
        self._sound = True
        self.result = Pinned(self._copy)
        found = [
            (node, _opset(self._copy, graph))
            for scope, graph in scopes(self._copy)
            if not scope.startswith(_OWN_BODIES)
            for node in graph
            if node.op_type == "BatchNormalization" or is_stochastic(node, self._copy.functions)
        ]
        reach = Reach(self._copy)
        self._masks = Masks(
            self._copy, {node for node, _ in found if node.op_type != "BatchNormalization"}
        )
        # All of it first: pinning changes what is downstream.
        reached = [reach.outputs(node) for node, _ in found]
        for (node, self._opset), outputs in zip(found, reached, strict=True):
            self._sound = True
            label = f"{node.op_type} {node.name or node.outputs[0].name!r}" if node.outputs else ""
            if node.op_type == "BatchNormalization":
                firm = self._batch_normalization(node)
            else:
                firm = self._random(node)
            if not firm:
                self.result.soft.update(outputs)
            if not self._sound:
                self.result.blind.update(dict.fromkeys(outputs, label))

    def _random(self, node: ir.Node) -> bool:
        """Pin a random node; tell whether the standard says that this is its inference form."""
        if not node.outputs:
            return True
        if is_dropout(node):
            node.attributes["training_mode"] = ir.AttrInt64("training_mode", 0)
            return True
        if node.op_type == "Dropout":
            return self._dropout(node)
        if node.op_type in _FUSED_MODES:
            self._switch_off(node, _FUSED_MODES[node.op_type])
            self._sound = not any(output.uses() for output in node.outputs[1:])
            return self._sound
        value = self._held(node)
        if value is None:
            self._sound = False
        else:
            self._replace(node, value)
        return False

    def _dropout(self, node: ir.Node) -> bool:
        data = node.inputs[0] if node.inputs else None
        if self._opset < _NO_TEST_FLAG_SINCE:
            # onnxruntime has no kernel that old.
            if data is not None and not any(mask.uses() for mask in node.outputs[1:]):
                self._replace(node, self._before(node, "Identity", [data]))
        elif self._opset >= _MODE_INPUT_SINCE and len(node.inputs) > 2:
            self._switch_off(node, 2)
            if data is not None and is_blank(data):
                # A Dropout of one number everywhere is a generator of masks.
                self._sound = self._masks.is_linear(node.outputs[0]) and all(
                    self._masks.is_normalised(mask) for mask in node.outputs[1:2] if mask.uses()
                )
                return False
            used = [mask for mask in node.outputs[1:2] if mask.uses()]
            if used:
                # A mask that others use is a source of random numbers, and they have no mode.
                ratio = 0.5 if node.inputs[1] is None else scalar(node.inputs[1])
                self._mask(used[0], None if ratio is None else 1 - ratio, node.outputs[0])
                return False
        return True

    def _replace(self, node: ir.Node, value: ir.Value) -> None:
        """Let what reads a node read a value instead, and remove it: it may have no kernel."""
        output, graph = node.outputs[0], node.graph
        name = output.name
        is_output = output.is_graph_output()
        output.replace_all_uses_with(value, replace_graph_outputs=True)
        if graph is not None:
            graph.remove(node, safe=True)
        if is_output:
            value.name = name
            value.type, value.shape = output.type, output.shape

    def _switch_off(self, node: ir.Node, place: int) -> None:
        if place < len(node.inputs) and node.inputs[place] is not None:
            node.replace_input_with(place, self._constant(np.asarray(False), node))

    def _batch_normalization(self, node: ir.Node) -> bool:
        more = [output for output in node.outputs[1:] if output.name]
        mode = node.attributes.get("training_mode")
        if self._opset < _NO_TEST_FLAG_SINCE:
            node.attributes["is_test"] = ir.AttrInt64("is_test", 1)
        elif self._opset < _MODE_ATTRIBUTE_SINCE:
            if not more:
                return True
        elif mode is None or (not mode.is_ref() and mode.value == 0):
            return True
        saved = [output for output in node.outputs[3:] if output.name]
        if any(output.uses() or output.is_graph_output() for output in saved):
            return False
        # In inference mode the running statistics come out as they went in.
        for output, given in zip(node.outputs[1:3], node.inputs[3:5], strict=False):
            if given is not None and (output.uses() or output.is_graph_output()):
                same = self._before(node, "Identity", [given])
                name = output.name
                same.type, same.shape = output.type, output.shape
                output.replace_all_uses_with(same, replace_graph_outputs=True)
                output.name, same.name = None, name
        node.attributes.pop("training_mode", None)
        node.resize_outputs(1)
        return True

    # Generators

    def _held(self, node: ir.Node) -> ir.Value | None:
        """Return what stands for the numbers of a generator, or None where nothing can."""
        kind, output = node.op_type, node.outputs[0]
        if self._opset < _EXPAND_SINCE:
            return None
        if kind == "Bernoulli" and node.inputs and node.inputs[0] is not None:
            likely = scalar(node.inputs[0])
            if self._masks.is_linear(output):
                return self._before(node, "Cast", [node.inputs[0]], {"to": int(_dtype(node))})
            self._sound = likely is not None and self._masks.is_normalised(output)
            return self._filled(node, float(likely is None or likely >= 0.5))
        if "Normal" in kind:
            mean, deviation = _float(node, "mean", 0.0), _float(node, "scale", 1.0)
            for user, place in list(output.uses()):
                if user.op_type in _COMPARISONS and len(user.inputs) == 2:
                    self._mask(user.outputs[0], normal_chance(user, place, mean, deviation))
            self._only_direct(node)
            return self._filled(node, mean)
        if "Uniform" not in kind:
            return None
        low, high = _float(node, "low", 0.0), _float(node, "high", 1.0)
        for user, place in list(output.uses()):
            if user.op_type in _COMPARISONS and len(user.inputs) == 2:
                self._mask(user.outputs[0], uniform_chance(user, place, low, high))
            elif user.op_type == "Add" and (low, high) == (0.0, 1.0):
                self._floor(user)
        self._only_direct(node)
        return self._filled(node, (low + high) / 2)

    def _only_direct(self, node: ir.Node) -> None:
        """Note whether the numbers of a generator act linearly where they are used as such."""
        for user, place in node.outputs[0].uses():
            if user.op_type not in (*_COMPARISONS, *_DIRECT, *_SHAPE_ONLY) and (
                user.op_type,
                place,
            ) != ("CastLike", 1):
                self._sound = False

    def _mask(self, mask: ir.Value, chance: float | None, own: ir.Value | None = None) -> None:
        """Take a mask that is true with a chance at its expectation, or at what is likely.

        What `own` is multiplied with is left alone: a Dropout's output is masked already.
        """
        for user, place in list(mask.uses()):
            if user.op_type == "Not":
                self._mask(user.outputs[0], None if chance is None else 1 - chance, own)
            elif user.op_type in ("Cast", "CastLike") and place == 0:
                value = user.outputs[0]
                if own is not None and all(own in reader.inputs for reader, _ in value.uses()):
                    continue
                if chance is not None and self._masks.is_linear(value):
                    self._fix(user, chance)
                elif not self._masks.is_normalised(value):
                    self._sound = False
            elif (
                user.op_type == "Where"
                and place == 0
                and chance is not None
                and not any(map(is_integer, user.inputs[1:]))
            ):
                self._mix(user, chance)
            else:
                self._sound = False
        producer = mask.producer()
        if producer is not None and producer.op_type in _COMPARISONS:
            self._fix(producer, chance is not None and chance >= 0.5)

    def _floor(self, node: ir.Node) -> None:
        """Take floor(u + keep) at its expectation, which is keep for u from 0 to 1."""
        numbers = [scalar(value) for value in node.inputs]
        keep = next((number for number in numbers if number is not None), None)
        for user, _ in list(node.outputs[0].uses()):
            if user.op_type != "Floor":
                continue
            if keep is not None and 0 <= keep <= 1 and self._masks.is_linear(user.outputs[0]):
                self._fix(user, keep)
            else:
                self._sound = False

    def _mix(self, node: ir.Node, chance: float) -> None:
        """Take a Where at its expectation."""
        chosen, other = node.inputs[1:3]
        if node.graph is None or chosen is None or other is None:
            return
        dtype = _dtype(node).numpy()
        parts = []
        for value, share in ((chosen, chance), (other, 1 - chance)):
            parts.append(
                self._before(node, "Mul", [value, self._constant(np.asarray(share, dtype), node)])
            )
        self._replace(node, self._before(node, "Add", parts))

    def _fix(self, node: ir.Node, number: float | bool) -> None:
        """Let what reads a node read a number instead, in the same shape."""
        value, graph = node.outputs[0], node.graph
        if graph is None or (value.is_graph_output() and graph is self._copy.graph):
            return
        uses = list(value.uses())
        dtype = np.bool_ if isinstance(number, bool) else _dtype(node).numpy()
        shape = self._new("Shape", [value])
        constant = self._constant(np.asarray(number, dtype), node)
        expand = self._new("Expand", [constant, shape.outputs[0]])
        graph.insert_after(node, [shape, expand])
        for reader, place in uses:
            if reader.op_type != "Shape":
                reader.replace_input_with(place, expand.outputs[0])
        for place, output in enumerate(graph.outputs):
            # A body or function hands the mask on.
            if output is value:
                graph.outputs[place] = expand.outputs[0]

    def _filled(self, node: ir.Node, number: float) -> ir.Value | None:
        """Return a number in the shape that a generator gives."""
        constant = self._constant(np.asarray(number, _dtype(node).numpy()), node)
        shape = self._shape_of(node)
        return None if shape is None else self._before(node, "Expand", [constant, shape])

    def _shape_of(self, node: ir.Node) -> ir.Value | None:
        if node.op_type.endswith("Like") or node.op_type == "Bernoulli":
            template = node.inputs[0] if node.inputs else None
            return None if template is None else self._before(node, "Shape", [template])
        attribute = node.attributes.get("shape")
        if attribute is not None and attribute.type == ir.AttributeType.INTS:
            return self._constant(np.asarray(attribute.value, np.int64), node)
        sizes = node.inputs[0] if node.inputs else None
        if node.op_type.startswith("Stateless") and sizes is not None:
            return self._before(node, "Cast", [sizes], {"to": int(ir.DataType.INT64)})
        return None

    # New nodes

    def _constant(self, content: np.ndarray[Any, Any], node: ir.Node) -> ir.Value:
        """Return a constant at the start of a node's graph, one for all that want the same."""
        graph = node.graph
        key = (id(graph), content.dtype.str, content.shape, content.tobytes())
        if key not in self._constants:
            made = self._new("Constant", [], {"value": ir.tensor(content)})
            if graph is not None:
                graph.insert_before(graph[0], made)
            self._constants[key] = made.outputs[0]
        return self._constants[key]

    def _before(
        self,
        node: ir.Node,
        op_type: str,
        inputs: list[ir.Value],
        attributes: dict[str, Any] | None = None,
    ) -> ir.Value:
        made = self._new(op_type, inputs, attributes)
        if node.graph is not None:
            node.graph.insert_before(node, made)
        return made.outputs[0]

    def _new(
        self, op_type: str, inputs: list[ir.Value], attributes: dict[str, Any] | None = None
    ) -> ir.Node:
        # Counted here: looking for the first free number gets slow with thousands of nodes.
        self._count += 1
        name = self._names.take(f"pinned_{self._count}")
        node = ir.node(op_type, inputs, attributes or {}, name=name)
        node.outputs[0].name = name
        return node


def _opset(model: ir.Model, graph: ir.Graph | ir.Function) -> int:
    own = graph.opset_imports.get("") if isinstance(graph, ir.Function) else None
    return default_opset(model) if own is None else own


def _dtype(node: ir.Node) -> ir.DataType:
    """Return the element type of what a node gives, float32 where nothing says it."""
    for name in ("dtype", "to"):
        attribute = node.attributes.get(name)
        if attribute is not None and attribute.type == ir.AttributeType.INT:
            with suppress(ValueError):
                stated = ir.DataType(attribute.value)
                return stated if stated.is_floating_point() else ir.DataType.FLOAT
    for value in (node.outputs[0], *reversed(node.inputs)):
        dtype = None if value is None else value.dtype
        if dtype is not None and dtype.is_floating_point():
            return dtype
    return ir.DataType.FLOAT


def _float(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    is_float = attribute is not None and attribute.type == ir.AttributeType.FLOAT
    return float(attribute.value) if attribute is not None and is_float else default
