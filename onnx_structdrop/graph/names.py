"""Names that are free in every scope of a model."""

from __future__ import annotations

import onnx_ir as ir

from onnx_structdrop.graph.files.fidelity import kept_names
from onnx_structdrop.graph.scopes import is_own_body, scopes

__all__ = ["Names"]


class Names:
    """The names of all values and nodes of a model; new ones avoid them.

    One set for all scopes keeps new names out of the way of subgraphs, which see the names of
    the graphs around them. Names that the model describes though nothing has them are taken too:
    a description must not pass to another value.
    """

    def __init__(self, model: ir.Model) -> None:
        self._taken: set[str] = set()
        self._last: dict[str, int] = {}
        for scope, graph in scopes(model):
            if is_own_body(scope):
                continue  # Nothing is inserted there, and a body's names are its own business.
            self._taken.update(value.name or "" for value in graph.inputs)
            self._taken.update(getattr(graph, "initializers", ()))
            self._taken.update(kept_names(graph.graph if isinstance(graph, ir.Function) else graph))
            self._taken.update([node.name or "" for node in graph])
            self._taken.update([value.name or "" for node in graph for value in node.outputs])

    def __contains__(self, name: object) -> bool:
        return name in self._taken

    def take(self, wanted: str) -> str:
        """Return `wanted`, or `wanted` with the first free number, and take it."""
        # Names are never given back: search on from the last number.
        name, count = wanted, self._last.get(wanted, 0)
        while name in self._taken:
            count += 1
            name = f"{wanted}_{count}"
        self._last[wanted] = count
        self._taken.add(name)
        return name
