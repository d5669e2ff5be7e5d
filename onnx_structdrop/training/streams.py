"""Where in their random streams the nodes of a training model begin.

A kernel draws the masks of run ``k`` of a session from a stream keyed by seed and ``k``, and
a function's Dropout from a generator that starts at ``seed + k``. Sessions count runs from 0, so
a session that goes on after ``n`` steps is given a model whose nodes begin at run ``n``: kernels by
the attribute ``first_run``, functions by a seed that is ``n`` higher.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from onnx_structdrop.graph.mode import reseed
from onnx_structdrop.schema import DOMAIN, DROPOUT_OPS

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FIRST_RUN", "begin_at", "reseeded"]

FIRST_RUN = "first_run"
"""Attribute that only the kernels know: the number of a session's first run."""


def begin_at(model: onnx.ModelProto, run: int, *, native: bool) -> onnx.ModelProto:
    """Return a copy whose first run in a session draws what run `run` would have drawn.

    With kernels this is exact. With functions it is, too, as long as every run has drawn: a ratio
    of 0 draws nothing, and a DropBlock function holds two ways to draw seeds, for low and for high
    ratios, each with a generator that counts only the runs in which it was used. Where a schedule
    has passed through 0, or from one way to the other, masks follow the same law but not the
    same sequence.

    Parameters
    ----------
    model
        With dropout nodes in its graph.
    run
        0 or more.
    native
        Whether the session will use the kernels.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    if run == 0:
        return result
    for node in _nodes(result.graph):
        if native:
            node.attribute.append(onnx.helper.make_attribute(FIRST_RUN, run))
        else:
            (seed,) = (each for each in node.attribute if each.name == "seed")
            seed.i += run
    return result


def reseeded(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """Return a copy whose nodes have other seeds, see `onnx_structdrop.reseed`."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    seeds = {
        node.name: each.i
        for node in _nodes(reseed(model, seed).graph)
        for each in node.attribute
        if each.name == "seed"
    }
    for node in _nodes(result.graph):
        for each in node.attribute:
            if each.name == "seed":
                each.i = seeds[node.name]
    return result


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        if node.domain == DOMAIN and node.op_type in DROPOUT_OPS:
            yield node
