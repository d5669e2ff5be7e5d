"""What the layout of a node's output is made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnx_structdrop.graph.topology.layout import Layout
    from onnx_structdrop.graph.topology.shapes import Dim

__all__ = ["Known"]


class Known(Protocol):
    """What is known so far: layouts, shapes and data edges of the values before a node."""

    input_sizes: tuple[int | None, ...] | None

    def layout(self, value: ir.Value | None) -> Layout | None:
        """Return the layout of a value."""

    def dims(self, value: ir.Value | None) -> tuple[Dim, ...] | None:
        """Return the shape of a value."""

    def inputs(self, node: ir.Node) -> tuple[ir.Value, ...]:
        """Return the data inputs of a node."""

    def origins(self, value: ir.Value | None) -> tuple[ir.Value, ...]:
        """Return the data values whose shapes a value was computed from."""
