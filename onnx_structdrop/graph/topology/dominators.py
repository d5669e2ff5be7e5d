"""Dominators of a directed acyclic graph, in time that grows like n log n."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ROOT", "DominatorTree"]

ROOT = -1
"""The virtual node in front of every node that has no predecessor."""


class DominatorTree:
    """Immediate dominators of nodes 0 … n-1 that are numbered in topological order.

    Parameters
    ----------
    predecessors : sequence of sequence of int
        For each node its predecessors; `ROOT` and (for broken graphs) numbers that are not smaller
        than the node's own count as the root.

    Examples
    --------
    >>> tree = DominatorTree([[ROOT], [0], [0], [1, 2]])
    >>> tree.parent(3)
    0
    """

    def __init__(self, predecessors: Sequence[Sequence[int]]) -> None:
        # Entry i + 1 belongs to node i, entry 0 to the root. Each entry has, besides its parent,
        # a jump to an ancestor further up, so that a climb takes logarithmically many steps.
        count = len(predecessors) + 1
        self._parent = [0] * count
        self._jump = [0] * count
        self._depth = [0] * count
        for node, sources in enumerate(predecessors):
            entry = node + 1
            common = -1
            for source in sources:
                other = source + 1 if ROOT < source < node else 0
                common = other if common < 0 else self._common(common, other)
            parent = max(common, 0)
            self._parent[entry] = parent
            self._depth[entry] = self._depth[parent] + 1
            jump = self._jump[parent]
            even = self._depth[parent] - self._depth[jump] == (
                self._depth[jump] - self._depth[self._jump[jump]]
            )
            self._jump[entry] = self._jump[jump] if even else parent

    def parent(self, node: int) -> int:
        """Return the immediate dominator of a node."""
        return self._parent[node + 1] - 1

    def dominates(self, upper: int, lower: int) -> bool:
        """Tell whether every path from the root to `lower` passes `upper` (or is it)."""
        entry = upper + 1
        return self._climb(lower + 1, self._depth[entry]) == entry

    def _climb(self, entry: int, depth: int) -> int:
        while self._depth[entry] > depth:
            jump = self._jump[entry]
            entry = jump if self._depth[jump] >= depth else self._parent[entry]
        return entry

    def _common(self, left: int, right: int) -> int:
        left = self._climb(left, self._depth[right])
        right = self._climb(right, self._depth[left])
        while left != right:
            if self._jump[left] != self._jump[right]:
                left, right = self._jump[left], self._jump[right]
            else:
                left, right = self._parent[left], self._parent[right]
        return left
