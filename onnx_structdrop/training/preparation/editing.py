"""Edits of the main graph that keep the names of values, and note what was done."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnx_structdrop.errors import ModelError, UnsupportedModelError
from onnx_structdrop.graph.names import Names
from onnx_structdrop.graph.scopes import default_opset
from onnx_structdrop.graph.topology.dataflow import Dataflow
from onnx_structdrop.graph.topology.shapes import Shapes
from onnx_structdrop.training.preparation.report import Change

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from onnx_structdrop.graph.topology.shapes import Dim

__all__ = ["Editing", "Emitter", "attribute", "label", "refuse"]

_AXES_ARE_INPUTS_SINCE = 18


def label(node: ir.Node) -> str:
    """Return what messages call a node."""
    domain = f"{node.domain}::" if node.domain else ""
    name = node.name or next((value.name for value in node.outputs if value.name), "")
    return f"node {name!r} ({domain}{node.op_type})"


def refuse(node: ir.Node, why: str) -> UnsupportedModelError:
    """Return the error that says why a node cannot train."""
    return UnsupportedModelError(f"{label(node)} cannot train: {why}")


class Editing:
    """A model that is being prepared.

    Attributes
    ----------
    model : onnx_ir.Model
        Is changed.
    opset : int
        Version of ai.onnx that new nodes are written for.
    names : Names
        Names that are taken.
    changes : list of Change
        What was done so far.
    """

    def __init__(self, model: ir.Model, opset: int | None = None) -> None:
        self.model = model
        self.opset = default_opset(model) if opset is None else opset
        self.names = Names(model)
        self.changes: list[Change] = []
        self._shapes: Shapes | None = None

    @property
    def graph(self) -> ir.Graph:
        """The main graph."""
        return self.model.graph

    def note(self, node: ir.Node | str, what: str, why: str) -> None:
        """Note a change."""
        if isinstance(node, ir.Node):
            node = node.name or next((value.name for value in node.outputs if value.name), "")
        self.changes.append(Change(node, what, why))

    def dims(self, value: ir.Value | None) -> tuple[Dim, ...] | None:
        """Return the shape of a value of the graph as it was first asked for, or None."""
        if value is None:
            return None
        if value.const_value is not None:
            return tuple(int(size) for size in value.const_value.shape.numpy())
        if self._shapes is None:
            self._shapes = Shapes(self.model, Dataflow(self.model).scopes)
        return self._shapes.dims(value)

    def forget_shapes(self) -> None:
        """Have shapes inferred anew, since more of them can be known now."""
        self._shapes = None

    def rank(self, value: ir.Value | None) -> int | None:
        """Return the rank of a value, or None where it is unknown."""
        dims = self.dims(value)
        return None if dims is None else len(dims)

    def initializer(self, array: npt.ArrayLike, name: str, dtype: Any = np.float32) -> ir.Value:
        """Add a constant to the graph."""
        content = np.asarray(array, dtype)
        taken = self.names.take(name)
        value = ir.Value(
            name=taken,
            type=ir.TensorType(ir.DataType.from_numpy(content.dtype)),
            shape=ir.Shape(content.shape),
            const_value=ir.tensor(content, name=taken),
        )
        self.graph.register_initializer(value)
        return value

    def copy_of(self, value: ir.Value, name: str) -> ir.Value:
        """Add another initializer with the content of one."""
        if value.const_value is None:
            raise ModelError(f"{value.name!r} has no data")
        return self.initializer(value.const_value.numpy().copy(), name, None)

    def emit(self, place: ir.Node) -> Emitter:
        """Return what puts nodes in front of `place`."""
        return Emitter(self, place)

    def replace(self, node: ir.Node, result: ir.Value) -> None:
        """Let `result` take the place and the name of a node's first output; remove the node."""
        old = node.outputs[0]
        known = self.dims(old)
        if old.type is not None:
            result.type = copy.copy(old.type)
        if old.shape is not None:
            result.shape = old.shape
        result.metadata_props.update(old.metadata_props)
        result.doc_string = old.doc_string
        old.replace_all_uses_with(result, replace_graph_outputs=True)
        self.graph.remove(node, safe=True)
        result.name, old.name = old.name, None
        # A file cannot hold the shape of a value whose type is not known.
        if result.type is None:
            result.shape = None
        elif result.shape is None and known is not None:
            result.shape = ir.Shape(known)


class Emitter:
    """Puts nodes in front of one place, named after the node there."""

    def __init__(self, editing: Editing, place: ir.Node) -> None:
        self._editing = editing
        self._place = place
        self._prefix = place.name or place.outputs[0].name or place.op_type

    def node(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        outputs: int = 1,
        **attributes: int | float | str | Sequence[int],
    ) -> ir.Node:
        """Add a node."""
        name = self._editing.names.take(f"{self._prefix}/{op_type}")
        node = ir.node(
            op_type,
            list(inputs),
            attributes,
            name=name,
            outputs=[
                ir.Value(name=self._editing.names.take(f"{name}_output")) for _ in range(outputs)
            ],
        )
        self._editing.graph.insert_before(self._place, node)
        return node

    def __call__(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        **attributes: Any,
    ) -> ir.Value:
        """Add a node and return its first output."""
        return self.node(op_type, *inputs, outputs=1, **attributes).outputs[0]

    def constant(self, array: npt.ArrayLike, word: str, dtype: Any = np.float32) -> ir.Value:
        """Add a constant."""
        return self._editing.initializer(array, f"{self._prefix}/{word}", dtype)

    def reduce(self, op_type: str, data: ir.Value, axes: Sequence[int]) -> ir.Value:
        """Add a reduction that keeps the reduced axes with size 1."""
        if op_type != "ReduceSum" and self._editing.opset < _AXES_ARE_INPUTS_SINCE:
            return self(op_type, data, axes=list(axes), keepdims=1)
        return self(op_type, data, self.constant(axes, "axes", np.int64), keepdims=1)

    def reshape(self, data: ir.Value, shape: Sequence[int]) -> ir.Value:
        """Add a Reshape to a constant shape, in which 0 copies a size and -1 takes the rest."""
        return self("Reshape", data, self.constant(shape, "shape", np.int64))


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """Return an attribute's value."""
    found = node.attributes.get(name)
    return default if found is None or found.is_ref() else found.value
