"""Functions and operator sets that were in use before an edit and are not any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_structdrop.graph.scopes import scopes

if TYPE_CHECKING:
    from collections.abc import Iterable

    import onnx_ir as ir

__all__ = ["Usage"]

_Identifier = tuple[str, str, str]


class Usage:
    """What a model uses at a time.

    Parameters
    ----------
    model
        The model, before it is edited.
    """

    def __init__(self, model: ir.Model) -> None:
        self._called = _reached(model)
        self._domains = _domains([graph for _, graph in scopes(model)])
        self._local = {
            key: {node.domain for node in function.all_nodes()}
            for key, function in model.functions.items()
        }

    def prune(self, model: ir.Model) -> None:
        """Remove functions and imports that the model used before, and does not use now."""
        called = _reached(model)
        for key in list(model.functions):
            if key in self._called and key not in called:
                del model.functions[key]
        now = _domains([graph for _, graph in scopes(model)])
        _forget(model.opset_imports, self._domains - now)
        for key, function in model.functions.items():
            now = {node.domain for node in function.all_nodes()}
            _forget(function.opset_imports, self._local[key] - now)


def _forget(imports: dict[str, int], domains: set[str]) -> None:
    for domain in domains:
        # A model without the default operator set would be odd, though allowed.
        if domain not in ("", "ai.onnx"):
            imports.pop(domain, None)


def _reached(model: ir.Model) -> set[_Identifier]:
    """Return the functions that are called, directly or by way of others."""
    found: set[_Identifier] = set()
    pending: list[ir.Graph | ir.Function] = [model.graph]
    while pending:
        graph = pending.pop()
        for node in graph.all_nodes():
            key = node.op_identifier()
            if key in model.functions and key not in found:
                found.add(key)
                pending.append(model.functions[key])
    return found


def _domains(graphs: Iterable[ir.Graph | ir.Function]) -> set[str]:
    return {node.domain for graph in graphs for node in graph}
