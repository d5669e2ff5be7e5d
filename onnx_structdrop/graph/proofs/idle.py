"""Random numbers that nothing uses, or of which only the shape is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_structdrop.graph.proofs.calls import bodies
from onnx_structdrop.graph.proofs.sources import DEFAULT_DOMAINS, is_random, origins
from onnx_structdrop.graph.reach import Reach
from onnx_structdrop.graph.scopes import scopes

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir

    from onnx_structdrop.graph.proofs.rewrite import Rewriter

__all__ = ["drop_idle"]

_SHAPE_ONLY = frozenset({"RandomNormalLike", "RandomUniformLike", "Shape", "Size"})


def drop_idle(
    model: ir.Model, rewriter: Rewriter
) -> Iterator[tuple[str, tuple[ir.Node, ...], str]]:
    """Remove sources whose numbers go nowhere, with what they alone feed.

    Yields
    ------
    scope : str
        Where.
    nodes : tuple of onnx_ir.Node
        What was removed.
    evidence : str
        Why it could go.
    """
    graphs = dict(scopes(model))
    found = [origin for origin in origins(model) if origin.active is not False]
    # One pass over the model tells most of them from what may go.
    reach = Reach(model) if found else None
    for origin in found:
        node = origin.node
        if node in rewriter.removed or (reach is not None and reach.outputs(node)):
            continue
        if _lends_its_shape(node):
            # It has the shape of its input, whatever it draws.
            given = node.inputs[0]
            if given is not None:
                node.outputs[0].replace_all_uses_with(given)
        dead = _dead_behind(node)
        if dead is None:
            continue
        gone = rewriter.sweep(dead)
        if gone and origin.scope in graphs:
            yield origin.scope, tuple(gone), "no output depends on what it draws"


def _lends_its_shape(node: ir.Node) -> bool:
    uses = [user for value in node.outputs for user, _ in value.uses()]
    return (
        bool(uses)
        and node.op_type in ("RandomNormalLike", "RandomUniformLike")
        and node.domain in DEFAULT_DOMAINS
        and not node.outputs[0].is_graph_output()
        and all(
            user.op_type in _SHAPE_ONLY
            and user.domain in DEFAULT_DOMAINS
            and (user.op_type in ("Shape", "Size") or "dtype" in user.attributes)
            for user in uses
        )
    )


def _dead_behind(node: ir.Node) -> list[ir.Node] | None:
    """Return a node and all that is downstream, the last first, if nothing of it is an output."""
    found: dict[ir.Node, None] = {node: None}
    pending = [node]
    while pending:
        current = pending.pop()
        if any(value.is_graph_output() for value in current.outputs):
            return None
        # A node with bodies may have more in them than what it is fed.
        if current is not node and (any(bodies(current)) or is_random(current)):
            return None
        for value in current.outputs:
            for user, _ in value.uses():
                if user not in found:
                    found[user] = None
                    pending.append(user)
    return list(found)
