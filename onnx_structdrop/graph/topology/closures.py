"""The smallest closed set of operators behind a value, and what it does to the value.

Exporters write one activation in many ways, and most of them read their input twice (SiLU is
``x * Sigmoid(x)``). So operators are not matched against templates. From a value the smallest set
of operators is taken that closes over it: they read that value and constants only, and one value
comes out. What the set holds says what it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from onnx_structdrop.graph.topology.dataflow import is_op, operators
from onnx_structdrop.schema import DOMAIN

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnx_structdrop.graph.topology.dataflow import Dataflow
    from onnx_structdrop.graph.topology.resolution import Resolution

__all__ = [
    "ARITHMETIC",
    "GATING",
    "NONLINEAR",
    "SQUASHING",
    "Closure",
    "Closures",
    "Sort",
    "is_pass",
]

_PASS = frozenset({"Cast", "CastLike", "Dropout", "Identity", "Transpose"})
ARITHMETIC = frozenset({"Add", "Div", "Mul", "Neg", "Sub"})
"""Operators that biases and scales are applied with."""
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
    ARITHMETIC
    | NONLINEAR
    | _NORMS
    | _REDUCTIONS
    | _PASS
    | operators(
        """And Equal Floor Greater GreaterOrEqual Less LessOrEqual Not Or Pow Reciprocal Round Sign
        Slice Split Sqrt"""
    )
)
GATING = frozenset({"HardSigmoid", "Sigmoid"})
"""Operators that the gates of maps end in."""
SQUASHING = GATING | {"Softmax", "Tanh"}
"""Operators with bounded results: gates, and the ends of classifiers."""
_MAX_NODES = 40


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


class Closures:
    """Finds the closed sets of a model.

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

    def behind(self, value: ir.Value) -> Closure | None:
        """Return the smallest closed set of operators behind a value, None if there is none."""
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

    def _may_join(self, node: ir.Node, members: dict[ir.Value, set[ir.Node]]) -> bool:
        if not all(source in members for source in self._flow.inputs(node)):
            return False
        if is_pass(node) or is_op(node, _POINTWISE):
            return True
        layouts = [self._resolution.layout(value) for value in self._flow.outputs(node)]
        return bool(layouts) and all(layout and layout.is_vector for layout in layouts)

    def _sort(self, nodes: list[ir.Node]) -> Sort:
        # A slice between convolution and activation cuts off what a causal padding added.
        op_types = {node.op_type for node in nodes if not is_pass(node)} - {"Slice"}
        if any(self._flow.is_noise(value) for node in nodes for value in node.inputs):
            return Sort.NOISE if not op_types & _NORMS else Sort.OTHER
        if not op_types:
            return Sort.PASS
        if any(self._leaves_map(node) for node in nodes):
            gating = op_types & SQUASHING or not op_types <= _POINTWISE
            return Sort.GATE if gating else Sort.NORM
        if op_types & _NORMALISING:
            return Sort.NORM
        if op_types & NONLINEAR:
            return Sort.ACTIVATION
        single = len(nodes) == 1 and op_types <= ARITHMETIC
        return Sort.AFFINE if single else Sort.OTHER

    def _leaves_map(self, node: ir.Node) -> bool:
        layouts = [self._resolution.layout(value) for value in node.outputs]
        return any(layout is not None and layout.is_vector for layout in layouts)


def is_pass(node: ir.Node) -> bool:
    """Tell whether a node hands its data on: nothing that matters to a block."""
    return is_op(node, _PASS) or node.domain == DOMAIN
