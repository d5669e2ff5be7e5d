"""Where a convolution block ends: norms, activations and what may stand between them.

What stands behind a value is taken as closed sets of operators, see `closures`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnx_structdrop.graph.topology.closures import (
    ARITHMETIC,
    GATING,
    SQUASHING,
    Closure,
    Closures,
    Sort,
    is_pass,
)
from onnx_structdrop.graph.topology.dataflow import constant, is_op, operators
from onnx_structdrop.graph.topology.transfer import CONVOLUTIONS, POOLS, PRODUCTS

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnx_structdrop.graph.topology.dataflow import Dataflow
    from onnx_structdrop.graph.topology.resolution import Resolution

__all__ = ["BlockEnd", "Chains"]

# What may stand between a gate and its product, or between attention logits and their Softmax.
_RESIZING = frozenset({"Expand", "Resize", "Upsample"})
_REARRANGING = operators("Cast Expand Flatten Identity Reshape Squeeze Transpose Unsqueeze")
_CONVOLVING = CONVOLUTIONS | PRODUCTS
_MAX_STEPS = 64


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
        self._closures = Closures(flow, resolution)

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
            if not is_pass(node):
                noisy = any(self._flow.is_noise(other) for other in node.inputs)
                if not (noisy and is_op(node, ARITHMETIC)):
                    break
            value = inputs[0]
            values.append(value)
        return values

    def _follow(self, start: ir.Value, absorbed: frozenset[Sort]) -> BlockEnd:
        end = current = start
        noisy = False
        for _ in range(_MAX_STEPS):
            closure = self._closures.behind(current)
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
        factor = self._closures.behind(value)
        if factor is None or factor.sort is not Sort.AFFINE:
            return value
        node = factor.nodes[0]
        numbers = [constant(other) for other in node.inputs if other is not value]
        scalar = len(numbers) == 1 and numbers[0] is not None and len(numbers[0]) == 1
        return factor.value if scalar and is_op(node, frozenset({"Div", "Mul"})) else value

    def _is_head(self, closure: Closure) -> bool:
        """Tell whether an activation only turns a model's last values into its prediction."""
        last = [node for node in closure.nodes if not is_pass(node)]
        value = closure.value
        outermost = value.graph is self._flow.scopes[0].graph
        ends = outermost and value.is_graph_output() and not self._flow.consumers(value)
        return ends and len(last) == 1 and last[0].op_type in SQUASHING

    def _gates_another(self, closure: Closure) -> bool:
        """Tell whether a sigmoid is multiplied with a map that is not its own input."""
        op_types = {node.op_type for node in closure.nodes if not is_pass(node)}
        if not op_types & GATING or op_types & {"Mul"}:
            return False
        value = closure.value
        for _ in range(_MAX_STEPS):
            consumers = self._flow.consumers(value)
            if len(consumers) != 1:
                return False
            if not (is_pass(consumers[0]) or is_op(consumers[0], _RESIZING)):
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
            step = self._closures.behind(current)
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
            step = self._closures.behind(current)
            if step is not None and step.sort is Sort.ACTIVATION:
                return Closure(Sort.ACTIVATION, step.value, (pool, *step.nodes))
            if step is None or step.sort not in (Sort.PASS, Sort.NOISE):
                return None
            current = step.value
        return None

    def _only_consumer(self, value: ir.Value, op_type: str) -> ir.Node | None:
        consumers = self._flow.consumers(value)
        return consumers[0] if len(consumers) == 1 and is_op(consumers[0], op_type) else None
