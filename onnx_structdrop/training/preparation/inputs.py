"""What the gradient builder cannot read in graphs that ONNX allows: defaults, names used twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx_structdrop.training.preparation.editing import Editing

__all__ = ["drop_defaults", "name_apart"]


def drop_defaults(editing: Editing) -> None:
    """Let initializers that are inputs as well be initializers alone.

    Exporters once listed every weight as an input; the training model would get it as a
    parameter and as an input of one name.
    """
    graph = editing.graph
    for value in [value for value in graph.inputs if value.is_initializer()]:
        graph.inputs.remove(value)
        editing.note(value.name or "", "no input any more", "it has a value of its own")


def name_apart(editing: Editing) -> None:
    """Give nodes of one name names of their own; onnxruntime-training takes no name twice."""
    taken = set()
    for node in editing.graph:
        if node.name and node.name in taken:
            old, node.name = node.name, editing.names.take(node.name)
            editing.note(node, f"named so, not {old!r}", "another node has that name")
        if node.name:
            taken.add(node.name)
