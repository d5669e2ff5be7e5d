"""Where a convolution block ends: norms, activations and what may stand between them.

Exporters write one activation in many ways, and most of them read their input twice (SiLU is
``x * Sigmoid(x)``). So op_types are not matched against templates. From a value the smallest set
of op_types is taken that closes over it: they read that value and constants only, and one value
comes out. What the set holds says what it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from onnx_structdrop.graph.topology.dataflow import constant, is_op, operators
from onnx_structdrop.graph.topology.transfer import CONVOLUTIONS, POOLS, PRODUCTS
from onnx_structdrop.schema import DOMAIN

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnx_structdrop.graph.topology.dataflow import Dataflow
    from onnx_structdrop.graph.topology.resolution import Resolution

__all__ = ["NONLINEAR", "BlockEnd", "Chains", "Closure", "Sort"]

_PASS = frozenset({"Cast", "CastLike", "Dropout", "Identity", "Transpose"})
_ARITHMETIC = frozenset({"Add", "Div", "Mul", "Neg", "Sub"})
_NORMS = operators(
    """BatchNormalization GroupNorm GroupNormalization InstanceNormalization LayerNormalization
    LpNormalization MeanVarianceNormalization RMSNormalization
    SimplifiedLayerNormalization"""
)
_REDUCTIONS = operators("ReduceL2 ReduceMax ReduceMean ReduceMin ReduceSum ReduceSumSquare")
_NORMALISING = _NORMS | _REDUCTIONS
NONLINEAR = operators(
    """Abs BiasGelu Celu Clip Cos Elu Erf Exp FastGelu Gelu HardSigmoid HardSwish LeakyRelu Log Max
    Min Mish PRelu QuickGelu Relu Selu Shrink Sigmoid Sin Softplus Softsign Swish Tanh
    ThresholdedRelu Where"""
)
"""Operators that activations are made of."""
_POINTWISE = (
    _ARITHMETIC
    | NONLINEAR
    | _NORMS
    | _REDUCTIONS
    | _PASS
    | operators(
        """And Equal Floor Greater GreaterOrEqual Less LessOrEqual Not Or Pow Reciprocal Round Sign
        Slice Split Sqrt"""
    )
)
_GATING = frozenset({"HardSigmoid", "Sigmoid"})
# What may stand between a gate and its product, or between attention logits and their Softmax.
_RESIZING = frozenset({"Expand", "Resize", "Upsample"})
_REARRANGING = operators("Cast Expand Flatten Identity Reshape Squeeze Transpose Unsqueeze")
_SQUASHING = _GATING | {"Softmax", "Tanh"}
_CONVOLVING = CONVOLUTIONS | PRODUCTS
_MAX_NODES = 40
_MAX_STEPS = 64


class Sort(Enum):
    """What a closed set of operators does to a value."""

    PASS = auto()
    """Nothing that matters here: Identity, Cast, Transpose, dropout of any kind."""
    NOISE = auto()
    """Multiplies a random mask in, or scales for one."""
    AFFINE = auto()
    """Adds a bias, or applies a scale and a shift."""
    NORM = auto()
    ACTIVATION = auto()
    GATE = auto()
    """Multiplies the map by something computed from its global pool (squeeze and excitation)."""
    OTHER = auto()


@dataclass(frozen=True)
class Closure:
    """The smallest closed set of operators behind a value, and the value that leaves it."""

    sort: Sort
    value: ir.Value
    nodes: tuple[ir.Node, ...]


@dataclass(frozen=True)
class BlockEnd:
    """The end of a convolution block: conv, bias, norm, activation as far as they are there."""

    value: ir.Value
    activated: bool
    gate: bool
    """The block computes a gate for another map, so it is no block of the main path."""


class Chains:
    """Follows values from a convolution or a join to where its block ends.

    Parameters
    ----------
    flow : Dataflow
        The data edges of the model.
    resolution : Resolution
        The layouts of its values.
    """

    def __init__(self, flow: Dataflow, resolution: Resolution) -> None:
        self._flow = flow
        self._resolution = resolution
        self._rank = {step.node: i for i, step in enumerate(flow.steps) if step.node is not None}

    def is_convolution(self, node: ir.Node) -> bool:
        """Tell whether a node convolves a map.

        A product with a constant matrix is a pointwise convolution on channels-last maps, also on
        their positions in rows. Maps that were pooled to a point are no maps: what works on them
        is a gate or a classifier.
        """
        if not is_op(node, _CONVOLVING) or not node.inputs or not node.outputs:
            return False
        if not self._flow.is_data(node.inputs[0]):
            return False
        layout = self._resolution.layout(node.outputs[0])
        if is_op(node, CONVOLUTIONS):
            return layout is None or layout.is_map
        if layout is None:
            return False
        if len(layout.axes) < 3:
            return self._map_of_rows(node) is not None
        last = layout.channel_axis == len(layout.axes) - 1
        return last and layout.is_map and len(self._flow.inputs(node)) == 1

    def block_end(self, conv: ir.Node) -> BlockEnd | None:
        """Return where the block of a convolution ends, None if nothing uses the convolution."""
        output = self._map_of_rows(conv) or conv.outputs[0]
        if not self._flow.consumers(output) and not output.is_graph_output():
            return None
        if conv.op_type == "FusedConv":
            return BlockEnd(output, activated=True, gate=False)
        end = self._follow(output, frozenset({Sort.NORM, Sort.AFFINE}))
        if not (end.activated or end.gate) and self._weighs_positions(end.value):
            return BlockEnd(end.value, activated=False, gate=True)
        return end

    def _map_of_rows(self, node: ir.Node) -> ir.Value | None:
        """Return the map that a matrix product of rows of channels is made again, if it is."""
        output = node.outputs[0]
        layout = self._resolution.layout(output)
        folded = is_op(node, PRODUCTS) and layout is not None and layout.memory is not None
        if not folded or output.is_graph_output() or len(self._flow.inputs(node)) != 1:
            return None
        consumer = self._only_consumer(output, "Reshape")
        result = None if consumer is None else self._resolution.layout(consumer.outputs[0])
        made = result is not None and result.is_map and result.channel_axis is not None
        return consumer.outputs[0] if consumer is not None and made else None

    def join_end(self, value: ir.Value) -> ir.Value:
        """Return the activation that follows a join directly, or the join where none does."""
        return self._follow(value, frozenset()).value

    def strip(self, value: ir.Value) -> ir.Value:
        """Return the value behind casts, transposes, dropout and the like."""
        return self.passed(value)[-1]

    def passed(self, value: ir.Value) -> list[ir.Value]:
        """Return a value and those behind it, up to what casts, transposes and dropout work on."""
        values = [value]
        for _ in range(_MAX_STEPS):
            node = value.producer()
            if node is None:
                break
            inputs = self._flow.inputs(node)
            if len(inputs) != 1 or inputs[0].graph is not value.graph:
                break
            if not _is_pass(node):
                noisy = any(self._flow.is_noise(other) for other in node.inputs)
                if not (noisy and is_op(node, _ARITHMETIC)):
                    break
            value = inputs[0]
            values.append(value)
        return values

    def closure(self, value: ir.Value) -> Closure | None:
        """Return the smallest closed set of operators behind a value, None if there is none."""
        single = self._single(value)
        if single is not None:
            return single
        members: dict[ir.Value, set[ir.Node]] = {value: set(self._flow.consumers(value))}
        nodes: list[ir.Node] = []
        while len(nodes) < _MAX_NODES:
            ready = {node for waiting in members.values() for node in waiting}
            if not ready:
                return None
            node = min(ready, key=lambda candidate: self._rank[candidate])
            if not self._may_join(node, members):
                return None
            nodes.append(node)
            for source in self._flow.inputs(node):
                members[source].discard(node)
            for output in self._flow.outputs(node):
                members[output] = set(self._flow.consumers(output))
            alive = [
                member
                for member, waiting in members.items()
                if waiting or (member is not value and member.is_graph_output())
            ]
            if len(alive) == 1 and alive[0] is not value:
                return Closure(self._sort(nodes), alive[0], tuple(nodes))
        return None

    def _single(self, value: ir.Value) -> Closure | None:
        """Return the closure of one node that alone reads a value, if that is a closure."""
        consumers = self._flow.consumers(value)
        if len(consumers) != 1 or self._flow.inputs(consumers[0]) != (value,):
            return None
        outputs = self._flow.outputs(consumers[0])
        if len(outputs) != 1 or not self._may_join(consumers[0], {value: set()}):
            return None
        alive = self._flow.consumers(outputs[0]) or outputs[0].is_graph_output()
        return Closure(self._sort([*consumers]), outputs[0], consumers) if alive else None

    def _may_join(self, node: ir.Node, members: dict[ir.Value, set[ir.Node]]) -> bool:
        if not all(source in members for source in self._flow.inputs(node)):
            return False
        if _is_pass(node) or is_op(node, _POINTWISE):
            return True
        layouts = [self._resolution.layout(value) for value in self._flow.outputs(node)]
        return bool(layouts) and all(layout and layout.is_vector for layout in layouts)

    def _sort(self, nodes: list[ir.Node]) -> Sort:
        # A slice between convolution and activation cuts off what a causal padding added.
        op_types = {node.op_type for node in nodes if not _is_pass(node)} - {"Slice"}
        if any(self._flow.is_noise(value) for node in nodes for value in node.inputs):
            return Sort.NOISE if not op_types & _NORMS else Sort.OTHER
        if not op_types:
            return Sort.PASS
        if any(self._leaves_map(node) for node in nodes):
            gating = op_types & _SQUASHING or not op_types <= _POINTWISE
            return Sort.GATE if gating else Sort.NORM
        if op_types & _NORMALISING:
            return Sort.NORM
        if op_types & NONLINEAR:
            return Sort.ACTIVATION
        single = len(nodes) == 1 and op_types <= _ARITHMETIC
        return Sort.AFFINE if single else Sort.OTHER

    def _leaves_map(self, node: ir.Node) -> bool:
        layouts = [self._resolution.layout(value) for value in node.outputs]
        return any(layout is not None and layout.is_vector for layout in layouts)

    def _follow(self, start: ir.Value, absorbed: frozenset[Sort]) -> BlockEnd:
        end = current = start
        noisy = False
        for _ in range(_MAX_STEPS):
            closure = self.closure(current)
            if closure is None and absorbed:
                closure = self._regrouped_norm(current) or self._pooled_activation(current)
            if closure is None:
                break
            if closure.sort is Sort.ACTIVATION:
                if self._is_head(closure):
                    break
                if self._gates_another(closure):
                    return BlockEnd(end, activated=False, gate=True)
                return BlockEnd(self._rescaled(closure), activated=True, gate=False)
            current = closure.value
            noisy = noisy or closure.sort is Sort.NOISE
            if closure.sort in absorbed:
                # A factor behind a mask is the mask's.
                if not (noisy and closure.sort is Sort.AFFINE):
                    end = current
            elif closure.sort not in (Sort.PASS, Sort.NOISE) and not (
                absorbed and closure.sort is Sort.GATE
            ):
                break
        return BlockEnd(end, activated=False, gate=False)

    def _rescaled(self, closure: Closure) -> ir.Value:
        """Return the end of an activation with the constant factor some are written with."""
        value = closure.value
        op_types = {node.op_type for node in closure.nodes}
        if len(closure.nodes) < 3 or "Softplus" in op_types:
            return value
        factor = self.closure(value)
        if factor is None or factor.sort is not Sort.AFFINE:
            return value
        node = factor.nodes[0]
        numbers = [constant(other) for other in node.inputs if other is not value]
        scalar = len(numbers) == 1 and numbers[0] is not None and len(numbers[0]) == 1
        return factor.value if scalar and is_op(node, frozenset({"Div", "Mul"})) else value

    def _is_head(self, closure: Closure) -> bool:
        """Tell whether an activation only turns a model's last values into its prediction."""
        last = [node for node in closure.nodes if not _is_pass(node)]
        value = closure.value
        outermost = value.graph is self._flow.scopes[0].graph
        ends = outermost and value.is_graph_output() and not self._flow.consumers(value)
        return ends and len(last) == 1 and last[0].op_type in _SQUASHING

    def _gates_another(self, closure: Closure) -> bool:
        """Tell whether a sigmoid is multiplied with a map that is not its own input."""
        op_types = {node.op_type for node in closure.nodes if not _is_pass(node)}
        if not op_types & _GATING or op_types & {"Mul"}:
            return False
        value = closure.value
        for _ in range(_MAX_STEPS):
            consumers = self._flow.consumers(value)
            if len(consumers) != 1:
                return False
            if not (_is_pass(consumers[0]) or is_op(consumers[0], _RESIZING)):
                return is_op(consumers[0], "Mul") and len(self._flow.inputs(consumers[0])) > 1
            value = consumers[0].outputs[0]
        return False

    def _weighs_positions(self, value: ir.Value) -> bool:
        """Tell whether a Softmax makes weights of a value by which other data is averaged."""
        softmax = False
        for _ in range(_MAX_STEPS):
            consumers = self._flow.consumers(value)
            if len(consumers) != 1 or value.is_graph_output():
                return False
            node = consumers[0]
            if softmax and is_op(node, frozenset({"MatMul", "Mul"})):
                return len(self._flow.inputs(node)) > 1
            if is_op(node, "Softmax") and not softmax:
                softmax = True
            elif not is_op(node, _REARRANGING):
                return False
            value = node.outputs[0]
        return False

    def _regrouped_norm(self, value: ir.Value) -> Closure | None:
        """Return a norm between two Reshapes: how a group norm is written without its operator."""
        opening = self._only_consumer(value, "Reshape")
        if opening is None:
            return None
        nodes, current, normed = [opening], opening.outputs[0], False
        for _ in range(_MAX_STEPS):
            closing = self._only_consumer(current, "Reshape")
            if closing is not None:
                result = closing.outputs[0]
                before, after = self._resolution.layout(value), self._resolution.layout(result)
                same = before is None or after is None or len(before.axes) == len(after.axes)
                if not (normed and same):
                    return None
                return Closure(Sort.NORM, result, (*nodes, closing))
            step = self.closure(current)
            if step is None or step.sort not in (Sort.PASS, Sort.AFFINE, Sort.NORM):
                return None
            normed = normed or step.sort is Sort.NORM
            nodes += step.nodes
            current = step.value
        return None

    def _pooled_activation(self, value: ir.Value) -> Closure | None:
        """Return pool and activation where they stand in the order conv, pool, activation."""
        pools = [self._only_consumer(value, op) for op in POOLS]
        pool = next((node for node in pools if node is not None), None)
        if pool is None:
            return None
        current = pool.outputs[0]
        for _ in range(_MAX_STEPS):
            step = self.closure(current)
            if step is not None and step.sort is Sort.ACTIVATION:
                return Closure(Sort.ACTIVATION, step.value, (pool, *step.nodes))
            if step is None or step.sort not in (Sort.PASS, Sort.NOISE):
                return None
            current = step.value
        return None

    def _only_consumer(self, value: ir.Value, op_type: str) -> ir.Node | None:
        consumers = self._flow.consumers(value)
        return consumers[0] if len(consumers) == 1 and is_op(consumers[0], op_type) else None


def _is_pass(node: ir.Node) -> bool:
    return is_op(node, _PASS) or node.domain == DOMAIN
