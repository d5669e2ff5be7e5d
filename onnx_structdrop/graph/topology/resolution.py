"""Channel axes and strides of every value, carried from the model's inputs through its operators.

A stride is exact where the operators tell it: stride attributes of convolutions and pools, scales
of a Resize, block sizes. Sizes are consulted only where they do not, because padding makes sizes
say less than strides: 28 to 26 is a stride of 1, not of 1.08.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from onnx_structdrop.graph.topology.dataflow import is_op
from onnx_structdrop.graph.topology.layout import OPEN, POINT, Axis, Layout, Role, moved
from onnx_structdrop.graph.topology.transfer import transfer

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnx_structdrop.graph.topology.dataflow import Dataflow, Scope
    from onnx_structdrop.graph.topology.shapes import Dim, Shapes

__all__ = ["Resolution"]

_SHAPE_ORIGINS = 4


class Resolution:
    """Layouts of all values of a model.

    Parameters
    ----------
    flow : Dataflow
        The data edges of the model, in execution order.
    shapes : Shapes
        Its shapes, as far as they are known.

    Attributes
    ----------
    input_sizes : tuple of (int or None) or None
        Sizes of the map that the first convolution reads; None before there was one.
    """

    def __init__(self, flow: Dataflow, shapes: Shapes) -> None:
        self.input_sizes: tuple[int | None, ...] | None = None
        self._flow = flow
        self._shapes = shapes
        self._layouts: dict[ir.Value, Layout] = {}
        # For values that are computed from shapes: the values whose shapes those are.
        self._origins: dict[ir.Value, tuple[ir.Value, ...]] = {}
        self._ambiguous: set[int] = set()
        for step in flow.steps:
            if step.node is None:
                self._enter(step.scope)
            else:
                self._run(step.node)

    def layout(self, value: ir.Value | None) -> Layout | None:
        """Return the layout of a value, None where even the number of its axes is unknown."""
        return None if value is None else self._layouts.get(value)

    def dims(self, value: ir.Value | None) -> tuple[Dim, ...] | None:
        """Return the shape of a value, None where it is unknown."""
        return self._shapes.dims(value)

    def inputs(self, node: ir.Node) -> tuple[ir.Value, ...]:
        """Return the data inputs of a node."""
        return self._flow.inputs(node)

    def origins(self, value: ir.Value | None) -> tuple[ir.Value, ...]:
        """Return the data values whose shapes a value was computed from."""
        return () if value is None else self._origins.get(value, ())

    def is_ambiguous(self, scope: Scope) -> bool:
        """Tell whether a scope is in a function that is called at different resolutions."""
        inside: Scope | None = scope
        while inside is not None:
            if id(inside.graph) in self._ambiguous:
                return True
            inside = inside.parent
        return False

    def _enter(self, scope: Scope) -> None:
        if scope.parent is not None:
            for formal, given in scope.arguments():
                layout = self.layout(given)
                if layout is not None and self._rank(formal) in (None, len(layout.axes)):
                    self._layouts[formal] = layout
            return
        for value in scope.graph.inputs:
            dims = self.dims(value)
            if dims is not None and self._flow.is_data(value):
                sizes = [dim if isinstance(dim, int) else None for dim in dims]
                axes = tuple(Axis(Role.OPEN, Fraction(1), size) for size in sizes)
                self._layouts[value] = Layout(axes)

    def _run(self, node: ir.Node) -> None:
        if not self._flow.inputs(node):
            self._note_origins(node)
            return
        layouts: list[Layout | None]
        if self._flow.bodies(node):
            layouts = self._results(node)
        else:
            layouts = [transfer(self, node)] * len(node.outputs) if node.outputs else []
        for value, layout in zip(node.outputs, layouts, strict=False):
            rank = self._rank(value)
            if layout is not None and rank not in (None, len(layout.axes)):
                layout = None
            if layout is None and rank is not None:
                layout = self._from_shape(value)
            if layout is not None:
                self._layouts[value] = layout

    def _note_origins(self, node: ir.Node) -> None:
        origins: dict[ir.Value, None] = {}
        for value in node.inputs:
            if value is not None and self._flow.is_data(value):
                origins[value] = None  # a Shape, or the like
            origins.update(dict.fromkeys(self.origins(value)))
        if origins:
            kept = tuple(origins)[:_SHAPE_ORIGINS]
            self._origins.update(dict.fromkeys(node.outputs, kept))

    def _from_shape(self, value: ir.Value) -> Layout:
        """Return what a shape alone tells: behind the batch, an axis of size one is a point."""
        dims = self.dims(value) or ()
        return Layout(tuple(POINT if i and dim == 1 else OPEN for i, dim in enumerate(dims)))

    def _rank(self, value: ir.Value) -> int | None:
        dims = self.dims(value)
        return None if dims is None else len(dims)

    def _results(self, node: ir.Node) -> list[Layout | None]:
        """Return the layouts of what a node's bodies return."""
        found: dict[ir.Value, Layout] = {}
        for body in self._flow.bodies(node):
            factor: Fraction | None = Fraction(1)
            if body.function is not None and body.owner is not node:
                # The body was traced at its first call: here it may start from another stride.
                factor = self._factor(body, node)
                if factor != 1:
                    self._ambiguous.add(id(body.graph))
            skipped = int(is_op(node, "Loop") and body.function is None)
            for outer, inner in zip(node.outputs, body.graph.outputs[skipped:], strict=False):
                layout = self.layout(inner)
                if layout is not None:
                    changed = layout if factor == 1 else _scaled(layout, factor)
                    found.setdefault(outer, changed)
        return [found.get(value) for value in node.outputs]

    def _factor(self, body: Scope, node: ir.Node) -> Fraction | None:
        """Return how much coarser the maps are at this call of a function than at its first."""
        for formal, given in zip(body.graph.inputs, node.inputs, strict=False):
            traced, here = self.layout(formal), self.layout(given)
            if traced is None or here is None:
                continue
            if traced == here:
                return Fraction(1)
            # Axes of the model's input have no role yet, but a stride.
            changes = {
                now.stride / then.stride
                for then, now in zip(traced.axes, here.axes, strict=False)
                if then.stride and now.stride is not None
            }
            if changes:
                return changes.pop() if len(changes) == 1 else None
        return None


def _scaled(layout: Layout, factor: Fraction | None) -> Layout:
    return Layout(tuple(moved(axis, factor) for axis in layout.axes))
