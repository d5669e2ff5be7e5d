"""Which block, and which resolution stage, a place in the model belongs to.

Stages are counted on block outputs. The first block of a stage still has operators at the old
resolution; they belong to the stage of their block. So first every node inside a block is given to
the merge that ends the block, then the resolutions of block outputs are numbered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_structdrop.graph.topology.dominators import ROOT, DominatorTree

if TYPE_CHECKING:
    from collections.abc import Iterable
    from fractions import Fraction

    import onnx_ir as ir

    from onnx_structdrop.graph.topology.blocks import Blocks, ConvBlock, Merge

__all__ = ["BlockMap", "number_stages"]


class BlockMap:
    """The blocks of one scope: which nodes they own, how coarse their outputs are.

    Parameters
    ----------
    blocks : Blocks
        Convolutions and merges of the scope.

    Attributes
    ----------
    outputs : dict of int to Fraction or None
        Position of each node that ends a block, in order, with the coarseness of its output.
    """

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._owner: dict[int, int] = {}
        self._after = _post_dominators(blocks)
        # Layers of a dense block lead to every later concatenation of it.
        self._dense = {merge.index for merge in blocks.merges.values() if merge.dense}
        self._leads_on = self._before_convolutions()
        ends: dict[int, ir.Value] = {}
        # Sums first: a concatenation inside a residual block ends no block of its own.
        for merge in sorted(blocks.merges.values(), key=lambda m: (not m.is_join, m.index)):
            if not merge.climbs and (merge.is_join or merge.index not in self._owner):
                self._claim(merge)
                ends[merge.index] = merge.end
        for conv in blocks.convs.values():
            inside = self._bottleneck(conv, ends)
            if inside:
                self._owner.update(dict.fromkeys(inside, conv.index))
                ends[conv.index] = conv.end
        self.outputs = {index: blocks.coarseness(ends[index]) for index in sorted(ends)}

    def place(self, index: int, value: ir.Value) -> tuple[int | None, Fraction | None]:
        """Return the block of a value made at `index`, and the coarseness that tells its stage.

        The block is given as the position of the node that ends it. Its output decides about the
        stage. A value that leads elsewhere, too, is in no block and stands for itself: in decoders
        and feature pyramids, what lies between a fork and a merge is no one block.
        """
        own = self._blocks.coarseness(value)
        if index in self.outputs:
            return index, self.outputs[index]
        owner = self._owner.get(index)
        merge = self._blocks.merges.get(index)
        if owner is None or (merge is not None and merge.climbs):
            # What merges resolutions belongs to none of them but its own.
            return None, own
        block = self.outputs.get(owner)
        if own is None or block is None or own == block:
            inside = owner in self._dense or self._always_before(index, owner)
            return (owner if inside else None), own
        inside = own < block and self._always_before(index, owner)
        return (owner, block) if inside else (None, own)

    def _always_before(self, index: int, owner: int) -> bool:
        count = len(self._blocks.scope.nodes)
        return self._after.dominates(count - 1 - owner, count - 1 - index)

    def _claim(self, merge: Merge) -> None:
        """Give every node between the fork and the merge that has no block yet to the merge."""
        blocks = self._blocks
        pending = [blocks.producer(value) for value in merge.operands]
        seen: set[int] = set()
        while pending:
            index = pending.pop()
            if index in seen or index in (ROOT, merge.fork):
                continue
            seen.add(index)
            inner = blocks.merges.get(self._owner.get(index, ROOT))
            if inner is not None:
                # All of that block lies behind its fork.
                if blocks.dominators.dominates(merge.fork, inner.fork):
                    pending.append(inner.fork)
                continue
            self._owner[index] = merge.index
            pending += blocks.predecessors[index]

    def _bottleneck(self, conv: ConvBlock, ends: dict[int, ir.Value]) -> list[int]:
        """Return the convolutions of a block that ends in a linear bottleneck without a join.

        Such blocks begin the stages of MobileNetV2 and its kin: an expansion, a depthwise
        convolution and a pointwise one without activation, or a full convolution and a pointwise
        one.
        """
        linear = conv.kind == "linear" and conv.kernel == 1 and not conv.depthwise
        if not linear or conv.index in self._owner or not self._leads_on[conv.index]:
            return []
        last = self._previous(conv, ends)
        if last is None or not last.activated or not self._always_before(last.index, conv.index):
            return []
        expands = last.widening is not None and last.widening >= 2
        narrows = conv.widening is not None and conv.widening < 1
        if not (last.depthwise or (expands and narrows)):
            return []
        inside = [last.index]
        expansion = self._previous(last, ends) if last.depthwise else None
        if expansion is not None and expansion.activated and expansion.kernel == 1:
            inside.append(expansion.index)
        # Between the last convolutions there is no pool, and nothing enlarges the map.
        first = self._blocks.coarseness(self._blocks.convs[inside[-1]].end)
        before = self._blocks.coarseness(last.end)
        after = self._blocks.coarseness(conv.end)
        if before != after or (first is not None and after is not None and first > after):
            return []
        return inside

    def _previous(self, conv: ConvBlock, ends: dict[int, ir.Value]) -> ConvBlock | None:
        """Return the nearest convolution that all ways to this one pass, within its block."""
        index = self._blocks.dominators.parent(conv.index)
        while index != ROOT and index not in self._owner and index not in ends:
            if index in self._blocks.convs:
                return self._blocks.convs[index]
            if index in self._blocks.merges:
                return None
            index = self._blocks.dominators.parent(index)
        return None

    def _before_convolutions(self) -> list[bool]:
        """Tell for each node whether a convolution follows."""
        blocks = self._blocks
        leads = [False] * len(blocks.scope.nodes)
        for index in range(len(leads) - 1, -1, -1):
            if leads[index] or index in blocks.convs:
                for other in blocks.predecessors[index]:
                    if other != ROOT:
                        leads[other] = True
        return leads


def _post_dominators(blocks: Blocks) -> DominatorTree:
    count = len(blocks.scope.nodes)
    successors: list[list[int]] = [[] for _ in range(count)]
    for index in range(count - 1, -1, -1):
        if any(value.is_graph_output() for value in blocks.scope.nodes[index].outputs):
            successors[index].append(count)
        if successors[index]:  # else nothing uses the node, and it leads nowhere
            for source in blocks.predecessors[index]:
                if source != ROOT:
                    successors[source].append(index)
    return DominatorTree(
        [[count - 1 - after for after in successors[count - 1 - index]] for index in range(count)]
    )


def number_stages(
    values: Iterable[Fraction | None], outputs: Iterable[Fraction | None]
) -> dict[Fraction, int]:
    """Return the stage of each coarseness, counted from 1 at the finest block output.

    Parameters
    ----------
    values : iterable of Fraction or None
        Coarseness of every site.
    outputs : iterable of Fraction or None
        Coarseness of every block output; if there is none, every site counts.
    """
    known = {value for value in values if value is not None}
    blocks = {value for value in outputs if value is not None}
    finest = min(blocks, default=min(known, default=None))
    if finest is None:
        return {}
    stages = sorted(value for value in known | blocks if value >= finest)
    return {value: number for number, value in enumerate(stages, start=1)}
