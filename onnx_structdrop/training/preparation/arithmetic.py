"""What exporters leave to be computed although it is known: scales, sizes, shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_structdrop.graph.constants import Constants

if TYPE_CHECKING:
    from onnx_structdrop.training.preparation.editing import Editing

__all__ = ["fold_constants"]


def fold_constants(editing: Editing) -> None:
    """Replace small arithmetic on constants and static shapes by its result.

    Initializers do not count as constants: they may be parameters. Without this, the scales of a
    Resize that are concatenated from two constants hide every shape behind it.
    """
    constants = Constants()
    done = 0
    for node in list(editing.graph):
        if not constants.learn(node) or node.op_type == "Constant" or len(node.outputs) != 1:
            continue
        (output,) = node.outputs
        content = constants.value(output)
        if content is None or output.is_graph_output():
            continue
        result = editing.initializer(content, f"{output.name}_value", None)
        constants.learn_as(result, content)
        editing.replace(node, result)
        done += 1
    if done:
        nodes = "1 node" if done == 1 else f"{done} nodes"
        editing.note("", f"{nodes} of arithmetic on constants computed", "shapes hang on them")
        editing.forget_shapes()
