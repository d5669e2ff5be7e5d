"""Tables that show what a command changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_structdrop.console import percent, print_table, shape_text, size_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from onnx_structdrop.commands.facts import Facts
    from onnx_structdrop.graph.inspect import StochasticNode

__all__ = ["print_changes", "print_nodes"]


def print_changes(before: Facts, after: Facts) -> None:
    """Print what a model consists of, before and after; of operators, those that changed."""
    print_table({"": "left", "before": "right", "after": "right"}, _changes(before, after))


def _changes(before: Facts, after: Facts) -> Iterator[tuple[object, object, object]]:
    yield "nodes", before.nodes, after.nodes
    for name in sorted(before.operators.keys() | after.operators.keys()):
        one, other = before.operators.get(name, 0), after.operators.get(name, 0)
        if one != other:
            yield f"  {name}", one, other
    if len(before.functions) + len(after.functions):
        yield "functions", len(before.functions), len(after.functions)
    yield "opset", before.opset, after.opset
    yield "IR version", before.ir_version, after.ir_version
    yield "file size", size_text(before.size), size_text(after.size)


def print_nodes(title: str, nodes: Iterable[StochasticNode]) -> None:
    """Print a table of nodes of this package."""
    print_table(
        {"node": "name", "operator": "left", "behind": "name", "shape": "left", "ratio": "right"},
        (
            (node.name, node.op_type, node.data, shape_text(node.shape), percent(node.ratio))
            for node in nodes
        ),
        title=title,
    )
