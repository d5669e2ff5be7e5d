"""Convolution blocks and what their branches meet in: residual joins and concatenations."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from onnx_structdrop.graph.topology.closures import NONLINEAR
from onnx_structdrop.graph.topology.dataflow import attribute_int, attribute_ints, is_op
from onnx_structdrop.graph.topology.dominators import ROOT, DominatorTree
from onnx_structdrop.graph.topology.transfer import POOLS, PRODUCTS

if TYPE_CHECKING:
    from fractions import Fraction

    import onnx_ir as ir

    from onnx_structdrop.graph.topology.chains import Chains
    from onnx_structdrop.graph.topology.dataflow import Dataflow, Scope
    from onnx_structdrop.graph.topology.resolution import Resolution

__all__ = ["Blocks", "ConvBlock", "Merge"]

_ADDITIONS = frozenset({"Add", "Sum"})
_GATE_DEPTH = 4
"""Convolutions in a row that a gate may have (the bottleneck attention module has four)."""


@dataclass(eq=False)
class ConvBlock:
    """One convolution with what belongs to it, up to its norm and activation."""

    index: int
    """Position of the convolution among the nodes of its scope."""
    node: ir.Node
    end: ir.Value
    activated: bool
    kernel: int
    """Number of taps of the kernel (1: pointwise)."""
    depthwise: bool
    widening: float | None
    """Channels out over channels in, None where unknown."""
    kind: str = ""


@dataclass(eq=False)
class Merge:
    """A node in which branches of one fork meet."""

    index: int
    node: ir.Node
    operands: list[ir.Value]
    fork: int
    """The node that all branches come from (`ROOT`: the inputs of the scope)."""
    is_join: bool
    """Whether branches are added up; concatenated otherwise."""
    end: ir.Value
    """The activation behind a join, or else the result of the node."""
    climbs: bool
    """A branch went to a coarser resolution and came back, as in decoders and pyramids."""
    dense: bool = False
    """The end of a layer in a dense block, which concatenates it to the features it read."""


@dataclass(eq=False)
class Blocks:
    """Everything that is found in one scope.

    Attributes
    ----------
    scope : Scope
        The scope.
    convs : dict of int to ConvBlock
        By position of the convolution; gates and classifiers are left out.
    merges : dict of int to Merge
        Joins and concatenations of branches that hold convolutions, by position.
    pooled : list of Value
        Ends of shortcuts that hold a pool but no convolution.
    """

    scope: Scope
    flow: Dataflow
    resolution: Resolution
    chains: Chains
    convs: dict[int, ConvBlock] = field(default_factory=dict)
    merges: dict[int, Merge] = field(default_factory=dict)
    pooled: list[ir.Value] = field(default_factory=list)

    def __post_init__(self) -> None:
        nodes = self.scope.nodes
        self.position = {node: index for index, node in enumerate(nodes)}
        self.predecessors = [self._predecessors(node) for node in nodes]
        self.dominators = DominatorTree(self.predecessors)
        self._find_convs()
        self._measure()
        for merge in self._candidates():
            if not self._holds_conv(merge):
                continue
            if merge.is_join:
                if merge.index in self._gating:
                    continue
                merge.end = self.chains.join_end(merge.end)
            self.merges[merge.index] = merge
        self._name_kinds()

    def producer(self, value: ir.Value) -> int:
        """Return the position of the node that makes a value, `ROOT` if another scope does."""
        node = value.producer()
        return ROOT if node is None else self.position.get(node, ROOT)

    def coarseness(self, value: ir.Value) -> Fraction | None:
        """Return how coarse a map is, None where that is unknown."""
        layout = self.resolution.layout(value)
        return None if layout is None else layout.coarseness

    def depth_of(self, value: ir.Value) -> int:
        """Return the number of convolutions on the longest way to a value."""
        index = self.producer(value)
        return 0 if index == ROOT else self._depth[index]

    def _predecessors(self, node: ir.Node) -> list[int]:
        return sorted({self.producer(value) for value in self.flow.inputs(node)})

    def _find_convs(self) -> None:
        gates: set[int] = set()
        self._is_conv = [self.chains.is_convolution(node) for node in self.scope.nodes]
        for index, node in enumerate(self.scope.nodes):
            if not self._is_conv[index]:
                continue
            end = self.chains.block_end(node)
            if end is None or end.gate:
                self._is_conv[index] = False
                gates.add(index)
                continue
            kernel, depthwise, widening = self._kernel(node)
            self.convs[index] = ConvBlock(
                index, node, end.value, end.activated, kernel, depthwise, widening
            )
        self._gating = self._leading_to(gates)
        for index in self._gating & self.convs.keys():
            self._is_conv[index] = False
            del self.convs[index]

    def _leading_to(self, gates: set[int]) -> set[int]:
        """Return the nodes that are used for nothing but gates, where those are small.

        A mask that a whole network computes for its own input is a gate to the letter only: its
        convolutions are the network.
        """
        heights = dict.fromkeys(gates, 1)
        for index in range(len(self.scope.nodes) - 1, -1, -1):
            outputs = self.scope.nodes[index].outputs
            if index in gates or any(value.is_graph_output() for value in outputs):
                continue
            after = [self.position.get(n, ROOT) for v in outputs for n in self.flow.consumers(v)]
            if after and all(other in heights for other in after):
                height = max(heights[other] for other in after)
                heights[index] = height + self._is_conv[index]
        large: set[int] = set()
        for index in sorted(heights):
            before = self.predecessors[index]
            if heights[index] > _GATE_DEPTH or not large.isdisjoint(before) or ROOT in before:
                large.add(index)
        return heights.keys() - large - gates

    def _kernel(self, node: ir.Node) -> tuple[int, bool, float | None]:
        weight = self.resolution.dims(node.inputs[1] if len(node.inputs) > 1 else None) or ()
        sizes = [size if isinstance(size, int) else 0 for size in weight[:2]]
        group = max(attribute_int(node, "group", 1), 1)
        if node.op_type == "Conv" and len(sizes) == 2:
            sizes = [sizes[1] * group, sizes[0]]
        elif node.op_type == "ConvTranspose" and len(sizes) == 2:
            sizes = [sizes[0], sizes[1] * group]
        if attribute_int(node, "transB", 0):
            sizes.reverse()
        widening = sizes[1] / sizes[0] if len(sizes) == 2 and all(sizes) else None
        if is_op(node, PRODUCTS):
            return 1, False, widening
        kernel = attribute_ints(node, "kernel_shape") or [
            size for size in weight[2:] if isinstance(size, int)
        ]
        depthwise = group > 1 and (not sizes or not sizes[0] or group == sizes[0])
        return prod(kernel), depthwise, widening

    def _measure(self) -> None:
        """Count convolutions and nonlinear operators on the ways to each node; note peaks."""
        count = len(self.scope.nodes)
        self._depth = [0] * count
        self._bends = [0] * count
        self._peak: list[Fraction | None] = [None] * count
        for index, node in enumerate(self.scope.nodes):
            depth = bends = 0
            peak = self.coarseness(node.outputs[0]) if node.outputs else None
            for other in self.predecessors[index]:
                if other != ROOT:
                    depth = max(depth, self._depth[other])
                    bends = max(bends, self._bends[other])
                    peak = _coarser(peak, self._peak[other])
            self._depth[index] = depth + self._is_conv[index]
            self._bends[index] = bends + is_op(node, NONLINEAR)
            self._peak[index] = peak

    def _candidates(self) -> list[Merge]:
        """Return every sum and every concatenation along channels of two maps or more."""
        found: dict[ir.Node, list[ir.Value]] = {}
        for node in self.scope.nodes:
            operands = list(self.flow.inputs(node))
            if len(operands) < 2:
                continue
            if is_op(node, _ADDITIONS) and self._same_maps(operands):
                # a + b + c is one join, however many nodes add it up.
                flat: list[ir.Value] = []
                for value in operands:
                    inner = value.producer()
                    alone = not value.is_graph_output() and len(self.flow.consumers(value)) == 1
                    nested = inner in found and is_op(inner, _ADDITIONS) and alone
                    flat += found.pop(inner) if nested and inner is not None else [value]
                found[node] = flat
            elif is_op(node, "Concat") and self._along_channels(node):
                found[node] = operands
        return [self._merge(node, operands) for node, operands in found.items()]

    def _same_maps(self, values: list[ir.Value]) -> bool:
        layouts = [self.resolution.layout(value) for value in values]
        if any(layout is not None and not layout.is_map for layout in layouts):
            return False
        shapes = [self.resolution.dims(value) for value in values]
        known = [shape for shape in shapes if shape is not None]
        if len({len(shape) for shape in known}) > 1:
            return False
        return all(
            len({size for size in sizes if isinstance(size, int)}) < 2
            for sizes in zip(*known, strict=True)
        )

    def _along_channels(self, node: ir.Node) -> bool:
        layout = self.resolution.layout(node.outputs[0])
        if layout is None or not layout.is_map or layout.channel_axis is None:
            return False
        return attribute_int(node, "axis", 1) % len(layout.axes) == layout.channel_axis

    def _merge(self, node: ir.Node, operands: list[ir.Value]) -> Merge:
        index = self.position[node]
        fork = self.dominators.parent(index)
        result = node.outputs[0]
        own = self.coarseness(result)
        before = self._peak[fork] if fork != ROOT else None
        base = own if own is None or before is None else max(own, before)
        peaks = [self._peak_of(value) for value in operands]
        climbs = base is not None and any(peak is not None and peak > base for peak in peaks)
        return Merge(index, node, operands, fork, is_op(node, _ADDITIONS), result, climbs)

    def _peak_of(self, value: ir.Value) -> Fraction | None:
        index = self.producer(value)
        return self.coarseness(value) if index == ROOT else self._peak[index]

    def _holds_conv(self, merge: Merge) -> bool:
        start = 0 if merge.fork == ROOT else self._depth[merge.fork]
        return any(self.depth_of(value) > start for value in merge.operands)

    def _name_kinds(self) -> None:
        for conv in self.convs.values():
            conv.kind = "activation" if conv.activated else "linear"
        # A layer is judged where it is concatenated first: all later ones include that.
        ends = {conv.end: conv for conv in self.convs.values() if not conv.activated}
        for merge in self.merges.values():
            if merge.is_join:
                self._name_shortcuts(merge)
            else:
                self._name_layers(merge, ends)

    def _name_shortcuts(self, join: Merge) -> None:
        branches = [(value, *self._branch(value, join.fork)) for value in join.operands]

        def weight(position: int) -> tuple[int, int, int]:
            # The longest branch is the main one; of equals, the one with the larger kernel.
            value, conv, _ = branches[position]
            return self.depth_of(value), conv.kernel if conv is not None else 0, -position

        main = max(range(len(branches)), key=weight)
        for position, (value, conv, pool) in enumerate(branches):
            if position == main:
                continue
            if conv is not None:
                conv.kind = "shortcut"
            elif pool:
                self.pooled.append(self.chains.strip(value))

    def _branch(self, value: ir.Value, fork: int) -> tuple[ConvBlock | None, bool]:
        """Return the last convolution of a branch, and whether it ends in a pool instead."""
        index, pool = self.producer(value), False
        while index not in (fork, ROOT) and index not in self.merges:
            if index in self.convs:
                return self.convs[index], pool
            pool = pool or is_op(self.scope.nodes[index], POOLS)
            index = self.dominators.parent(index)
        return None, pool and index in (fork, ROOT)

    def _name_layers(self, concat: Merge, unseen: dict[ir.Value, ConvBlock]) -> None:
        """Find the layers of a dense block: they read features that they are concatenated to."""
        for value in concat.operands:
            conv = unseen.pop(self.chains.strip(value), None)
            if conv is None or conv.kind != "linear":
                continue
            if any(self._feeds(other, conv) for other in concat.operands if other is not value):
                conv.kind = "concat"
                concat.dense = True

    def _feeds(self, features: ir.Value, conv: ConvBlock) -> bool:
        """Tell whether a convolution works on these features and at their resolution."""
        passed = self.chains.passed(features)
        source = passed[-1]
        used_again = any(len(self.flow.consumers(value)) > 1 for value in passed)
        index = self.producer(source)
        if not used_again or index == conv.index:
            return False
        if not self.dominators.dominates(index, conv.index):
            return False
        # A layer bends what it reads; a ghost module only convolves its features once more.
        if self._bends[conv.index] == (0 if index == ROOT else self._bends[index]):
            return False
        # A decoder's skip connection also leads to what it is concatenated with, but by way of
        # coarser maps.
        before = None if index == ROOT else self._peak[index]
        own = self.coarseness(conv.end)
        known = [coarseness for coarseness in (before, own) if coarseness is not None]
        return self._peak[conv.index] == max(known, default=None)


def _coarser(one: Fraction | None, other: Fraction | None) -> Fraction | None:
    """Return the larger one of those that are known."""
    if other is None or one is other:
        return one
    return other if one is None or other > one else one
