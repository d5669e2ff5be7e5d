"""Random sources of a model and the graph outputs that hang on them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnx_structdrop.graph.proofs.sources import Origin, is_own, origins
from onnx_structdrop.graph.scopes import is_own_body, scopes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["RandomSource", "TaintReport", "analyse"]


@dataclass(frozen=True)
class RandomSource:
    """One node that draws random numbers, and what its numbers reach."""

    node: str
    """Node name; may be empty, as ONNX allows that."""
    scope: str
    """"" for the main graph, else a name as `graph.scopes` gives it."""
    op_type: str
    domain: str
    output: str
    """Name of its first output, which identifies it within its scope."""
    active: bool | None
    """Whether it draws; None where an input decides that at run time."""
    reaches: tuple[str, ...]
    """Graph outputs that depend on its numbers, in the order of the graph."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return asdict(self)


@dataclass(frozen=True)
class TaintReport:
    """Every random source of a model, in the order of its scopes and nodes."""

    sources: tuple[RandomSource, ...]

    @property
    def live(self) -> tuple[RandomSource, ...]:
        """Sources that draw, or may draw."""
        return tuple(source for source in self.sources if source.active is not False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return {"sources": [source.to_dict() for source in self.sources]}


def analyse(model: ir.Model) -> TaintReport:
    """Find every random source and the graph outputs that it reaches.

    Control counts as well as data: what an `If` gives depends on its condition. Operators that
    read nothing but the shape of a value (`Shape`, `Size`, the generators named ``...Like``)
    pass nothing on.

    Parameters
    ----------
    model
        The model; it is only read.

    Returns
    -------
    TaintReport
        One entry per source: of the main graph, of subgraphs and of function bodies.
    """
    found = list(origins(model))
    reach = _Reach(model, found)
    outputs = [(value.name or "", reach.bits.get(value, 0)) for value in model.graph.outputs]
    return TaintReport(
        tuple(
            RandomSource(
                node=origin.node.name or "",
                scope=origin.scope,
                op_type=origin.node.op_type,
                domain=origin.node.domain,
                output=origin.output,
                active=origin.active,
                reaches=tuple(name for name, bits in outputs if bits >> index & 1),
            )
            for index, origin in enumerate(found)
        )
    )


class _Reach:
    """For each value the set of the sources it depends on, as the bits of one integer."""

    def __init__(self, model: ir.Model, found: Iterable[Origin]) -> None:
        self.bits: dict[ir.Value, int] = {}
        self._drawn = {origin.node: 1 << index for index, origin in enumerate(found)}
        self._functions = model.functions
        graphs = [
            graph.graph if isinstance(graph, ir.Function) else graph
            for name, graph in scopes(model)
            if not is_own_body(name)
        ]
        # Bodies come after the graph that runs them, so the bodies' results are there first
        # when the list is walked backwards; what flows in needs another round.
        changed = True
        while changed:
            changed = False
            for graph in reversed(graphs):
                for node in graph:
                    changed |= self._visit(node)
            # One round is all it takes where no body is involved.
            changed = changed and len(graphs) > 1

    def _visit(self, node: ir.Node) -> bool:
        bits = self._drawn.get(node, 0)
        if not (node.op_type in _SHAPE_ONLY and node.domain in ("", "ai.onnx")):
            for value in node.inputs:
                if value is not None:
                    bits |= self.bits.get(value, 0)
        changed = False
        for formal, given in _passed(node, self._functions):
            changed |= self._add(formal, self.bits.get(given, 0))
        for inner in _results(node, self._functions):
            bits |= self.bits.get(inner, 0)
        if bits:
            for value in node.outputs:
                changed |= self._add(value, bits)
        return changed

    def _add(self, value: ir.Value, bits: int) -> bool:
        known = self.bits.get(value, 0)
        if bits | known == known:
            return False
        self.bits[value] = bits | known
        return True


_SHAPE_ONLY = frozenset({"Shape", "Size", "RandomNormalLike", "RandomUniformLike"})


def _bodies(node: ir.Node) -> Iterator[ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def _passed(
    node: ir.Node, functions: dict[tuple[str, str, str], ir.Function]
) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Yield each input of the bodies that a node runs with each value it may get."""
    function = _function(node, functions)
    if function is not None:
        for formal, given in zip(function.inputs, node.inputs, strict=False):
            if given is not None:
                yield formal, given
    for body in _bodies(node):
        # Which input of a Loop or Scan becomes which of the body, and what one round hands to
        # the next, is not told apart here: a body is taken as one.
        for formal in body.inputs:
            for given in (*node.inputs, *body.outputs):
                if given is not None:
                    yield formal, given


def _function(
    node: ir.Node, functions: dict[tuple[str, str, str], ir.Function]
) -> ir.Function | None:
    own = is_own(node.domain, node.op_type)
    return None if own else functions.get(node.op_identifier())


def _results(
    node: ir.Node, functions: dict[tuple[str, str, str], ir.Function]
) -> Iterator[ir.Value]:
    function = _function(node, functions)
    if function is not None:
        yield from function.outputs
    for body in _bodies(node):
        yield from body.outputs
