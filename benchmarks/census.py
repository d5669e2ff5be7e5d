"""Count convolutions, activations and joins of a model, without the package.

The census reads the protobuf alone: shape inference of onnx, post-dominators of the data edges,
and the operators between a convolution and the next value that all its ways pass. It shares no
code with ``onnx_structdrop.graph.topology``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import onnx

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def words(text: str) -> set[str]:
    """Return the words of a text."""
    return set(text.split())


CONVS = {"Conv", "ConvTranspose", "DeformConv", "FusedConv"}
GLOBAL_POOLS = {"GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"}
REDUCTIONS = {"ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2", "ReduceSumSquare"}
SHAPE_ONLY = {"Shape", "Size", "RandomUniformLike", "RandomNormalLike"}
ACTIVATIONS = words(
    """Relu LeakyRelu PRelu Elu Selu Celu Clip Sigmoid HardSigmoid HardSwish Swish Mish Gelu Erf
    Tanh Softplus Softsign ThresholdedRelu Max Min BiasGelu FastGelu QuickGelu"""
)
LINEAR = words(
    """Slice Split BatchNormalization InstanceNormalization GroupNormalization
    LayerNormalization LpNormalization Identity Cast Transpose Dropout Add Sub Mul Div Where"""
)
PARAMETERS = words(
    """Conv ConvTranspose DeformConv BatchNormalization InstanceNormalization LayerNormalization
    GroupNormalization Resize Upsample Reshape Slice Pad Expand Tile PRelu Unsqueeze Squeeze Clip
    QuantizeLinear DequantizeLinear Split Dropout"""
)
"""Operators of which only the first input is data."""

Shape = list[int | str | None] | None


@dataclass
class Count:
    """What one graph holds."""

    convs: dict[str, bool] = field(default_factory=dict)
    """End of each convolution block on the main path, and whether an activation ends it."""
    joins: list[str] = field(default_factory=list)
    """Outputs of the sums in which branches with a convolution meet."""
    gates: int = 0
    """Convolutions of gates and classifiers, which are left out."""

    def __iadd__(self, other: Count) -> Count:
        self.convs.update(other.convs)
        self.joins += other.joins
        self.gates += other.gates
        return self


class Graph:
    """The data edges of one graph, and its post-dominators."""

    def __init__(
        self,
        graph: onnx.GraphProto | onnx.FunctionProto,
        outer: set[str],
        shapes: dict[str, Shape],
        scalars: set[str],
    ) -> None:
        self.nodes = list(graph.node)
        self.shapes = shapes
        self.scalars = scalars
        function = isinstance(graph, onnx.FunctionProto)
        inputs = graph.input if function else [value.name for value in graph.input]
        outputs = graph.output if function else [value.name for value in graph.output]
        weights = set() if function else {tensor.name for tensor in graph.initializer}
        # A shape of rank 1 or less is no map: a threshold, a training flag.
        self.data = outer | {n for n in inputs if n not in weights and not self._is_small(n)}
        if function:
            self.data = outer | set(inputs[:1])
        self.maker: dict[str, int] = {}
        self.sources: list[list[str]] = []
        # A value is pooled if every way to it passes a global pool.
        self.pooled: set[str] = set()
        for index, node in enumerate(self.nodes):
            names = node.input[:1] if node.op_type in PARAMETERS else node.input
            taken = [name for name in dict.fromkeys(names) if name in self.data]
            for name in _captured(node):
                if name in self.data and name not in taken:
                    taken.append(name)
            if node.op_type in SHAPE_ONLY:
                taken = []
            self.sources.append(taken)
            for name in node.output:
                self.maker[name] = index
            if taken:
                self.data.update(name for name in node.output if name)
                if self._pools(node) or all(name in self.pooled for name in taken):
                    self.pooled.update(node.output)
        self.users: dict[str, list[int]] = {}
        for index, names in enumerate(self.sources):
            for name in names:
                self.users.setdefault(name, []).append(index)
        self.outputs = set(outputs)
        self._post_dominate()
        # The convolutions that lead to each value, one bit each.
        self.history: dict[str, int] = {}
        for index, node in enumerate(self.nodes):
            before = 0
            for name in self.sources[index]:
                before |= self.history.get(name, 0)
            if self.is_conv(index):
                before |= 1 << index
            self.history.update(dict.fromkeys(node.output, before))

    def _is_small(self, name: str) -> bool:
        shape = self.shapes.get(name)
        return shape is not None and len(shape) < 2

    def _pools(self, node: onnx.NodeProto) -> bool:
        if node.op_type in GLOBAL_POOLS | {"Flatten", "Gemm"}:
            return True
        shape = self.shapes.get(node.output[0])
        before = self.shapes.get(node.input[0]) if node.input else None
        if node.op_type in REDUCTIONS:
            if shape is None or before is None or len(before) < 3:
                return False
            return sum(size != 1 for size in shape[1:]) <= 1
        if node.op_type == "MatMul" and shape is not None and len(shape) > 2:
            return all(size == 1 for size in shape[1:2] + shape[3:])  # averaged by attention
        if node.op_type in ("AveragePool", "MaxPool") and shape is not None:
            # A window over the whole map, larger than those that pool inside a network.
            kernel = next(list(a.ints) for a in node.attribute if a.name == "kernel_shape")
            return min(kernel) > 3 and all(size == 1 for size in shape[2:])
        return False

    def is_conv(self, index: int) -> bool:
        """Tell whether a node convolves a map."""
        node = self.nodes[index]
        if not self.sources[index] or self.sources[index][0] in self.pooled:
            return False
        if node.op_type == "MatMul":
            shape = self.shapes.get(node.output[0])
            return len(self.sources[index]) == 1 and shape is not None and len(shape) > 3
        return node.op_type in CONVS

    def _post_dominate(self) -> None:
        """Set for each node the next one that every way to an output passes."""
        count = len(self.nodes)
        self.next = [count] * count
        depth = [0] * (count + 1)
        for index in range(count - 1, -1, -1):
            after: int | None = None
            for name in self.nodes[index].output:
                users = self.users.get(name, [])
                for user in [*users, *([count] if name in self.outputs else [])]:
                    after = user if after is None else self._common(after, user, depth)
            self.next[index] = count if after is None else after
            depth[index] = depth[self.next[index]] + 1

    def _common(self, one: int, other: int, depth: list[int]) -> int:
        while one != other:
            if depth[one] < depth[other]:
                one, other = other, one
            one = self.next[one] if one < len(self.nodes) else one
        return one

    def between(self, index: int) -> tuple[list[int], int]:
        """Return the nodes from one node to its post-dominator, which is the last of them."""
        stop = self.next[index]
        found, pending = set(), [index]
        while pending:
            for name in self.nodes[pending.pop()].output:
                for user in self.users.get(name, []):
                    if user != stop and user not in found:
                        found.add(user)
                        pending.append(user)
        return [*sorted(found), *([stop] if stop < len(self.nodes) else [])], stop


def count_graph(graph: Graph) -> Count:
    """Count what one graph holds."""
    result = Count()
    gates: set[int] = set()
    for index in range(len(graph.nodes) - 1, -1, -1):
        node = graph.nodes[index]
        users = {user for name in node.output for user in graph.users.get(name, [])}
        used = users or any(name in graph.outputs for name in node.output)
        if not graph.sources[index] or not used:
            continue
        end = _block_end(graph, index) if graph.is_conv(index) else None
        outside = not graph.outputs.isdisjoint(node.output)
        gate = graph.is_conv(index) and end is None
        if gate or (users and users <= gates and not outside):
            gates.add(index)
            result.gates += graph.is_conv(index)
            result.gates += graph.is_conv(index)
        elif end is not None:
            result.convs[f"{node.output[0]}:{end[0]}"] = end[1]
        elif node.op_type in CONVS:
            result.gates += 1
        elif node.op_type in ("Add", "Sum") and _is_join(graph, index):
            result.joins.append(node.output[0])
    return result


def _block_end(graph: Graph, conv: int) -> tuple[str, bool] | None:
    """Return the end of a block and whether it is activated, None for a gate."""
    end = current = conv
    for _ in range(64):
        region, stop = graph.between(current)
        op_types = [graph.nodes[i].op_type for i in region]
        if not region or stop == len(graph.nodes) or any(graph.is_conv(i) for i in region):
            break
        inside = set(region) | {current}
        entering = {n for i in region for n in graph.sources[i] if graph.maker.get(n) not in inside}
        if _weighs(graph, current):
            return None
        if entering:
            gating = op_types[-1] == "Mul" and (end == current or len(op_types) == 1)
            before = graph.nodes[current].op_type
            return None if gating and before in ("Sigmoid", "HardSigmoid") else _linear(graph, end)
        if (
            any(graph.nodes[i].output[0] in graph.pooled for i in region)
            or set(op_types) & REDUCTIONS
        ):
            current = stop  # a norm, or squeeze and excitation
        elif set(op_types) & ACTIVATIONS:
            if _is_gate(graph, stop, op_types):
                return None
            if op_types in (["Sigmoid"], ["Tanh"]) and graph.nodes[stop].output[0] in graph.outputs:
                break  # the prediction
            return _scaled(graph, stop, len(region)), True
        elif op_types in (["MaxPool"], ["AveragePool"]):
            # conv, pool, activation is one block; conv, pool, norm is the start of the next one
            after = graph.between(stop)[0]
            if not (after and graph.nodes[after[0]].op_type in ACTIVATIONS):
                break
            current = stop
        elif set(op_types) <= LINEAR | {"Reshape"}:
            current = stop
        else:
            break
    return _linear(graph, end)


def _scaled(graph: Graph, end: int, size: int) -> str:
    """Return the end of an activation with the constant factor that some are written with."""
    after = graph.next[end]
    if size > 2 and after < len(graph.nodes) and graph.between(end)[0] == [after]:
        node = graph.nodes[after]
        factors = [name for name in node.input if name not in graph.data]
        if node.op_type in ("Mul", "Div") and factors and graph.scalars.issuperset(factors):
            end = after
    return graph.nodes[end].output[0]


def _linear(graph: Graph, conv: int) -> tuple[str, bool]:
    return graph.nodes[conv].output[0], False


def _is_gate(graph: Graph, stop: int, op_types: list[str]) -> bool:
    """Tell whether a sigmoid is only multiplied with other data."""
    if not set(op_types) <= LINEAR - {"Mul"} | {"Sigmoid", "HardSigmoid"}:
        return False
    while True:
        users = graph.users.get(graph.nodes[stop].output[0], [])
        if len(users) != 1:
            return False
        node = graph.nodes[users[0]]
        if node.op_type == "Mul":
            return len(graph.sources[users[0]]) > 1
        if node.op_type not in ("Identity", "Transpose", "Cast", "Expand", "Dropout", "Resize"):
            return False
        stop = users[0]


def _weighs(graph: Graph, index: int) -> bool:
    """Tell whether a Softmax makes weights of a value, for an average of other data."""
    softmax = False
    while len(users := graph.users.get(graph.nodes[index].output[0], [])) == 1:
        index = users[0]
        op_type = graph.nodes[index].op_type
        if softmax and op_type in ("MatMul", "Mul"):
            return len(graph.sources[index]) > 1
        softmax = softmax or op_type == "Softmax"
        if op_type not in ("Softmax", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Identity"):
            return False
    return False


def _is_join(graph: Graph, index: int) -> bool:
    """Tell whether a node is the last of the sums that add up branches with a convolution."""
    users = graph.users.get(graph.nodes[index].output[0], [])
    nested = len(users) == 1 and graph.nodes[users[0]].op_type in ("Add", "Sum")
    # a + b + c is one join
    return _adds_maps(graph, index) and not (nested and _adds_maps(graph, users[0]))


def _adds_maps(graph: Graph, index: int) -> bool:
    sources = graph.sources[index]
    if len(sources) < 2 or any(name in graph.pooled for name in sources):
        return False
    shapes = [shape for name in sources if (shape := graph.shapes.get(name)) is not None]
    if any(len(shape) < 3 for shape in shapes):
        return False
    for sizes in zip(*shapes, strict=False):
        if len({size for size in sizes if isinstance(size, int)}) > 1:
            return False
    return len({graph.history.get(name, 0) for name in sources}) > 1


def _captured(node: onnx.NodeProto) -> Iterator[str]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            for inner in attribute.g.node:
                yield from inner.input
                yield from _captured(inner)


def count_model(model: onnx.ModelProto) -> Count:
    """Count the convolutions, activations and joins of a model with all its bodies."""
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    result = Count()
    for function in model.functions:
        result += count_graph(Graph(function, set(), {}, _scalars(function.node)))
    pending: list[tuple[onnx.GraphProto, set[str], dict[str, Shape]]] = [(model.graph, set(), {})]
    scalars = _scalars(model.graph.node)
    scalars.update(t.name for t in model.graph.initializer if math.prod(t.dims) == 1)
    while pending:
        proto, outer, known = pending.pop()
        shapes = {**known, **_shapes(proto)}
        graph = Graph(proto, outer, shapes, scalars)
        result += count_graph(graph)
        for node in proto.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    pending.append((attribute.g, graph.data, shapes))
    return result


def _scalars(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Return the constants that hold one number."""
    found = set()
    for node in nodes:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name != "value" or math.prod(attribute.t.dims) == 1:
                found.add(node.output[0])
    return found


def _shapes(graph: onnx.GraphProto) -> dict[str, Shape]:
    return {
        value.name: [
            dim.dim_value if dim.HasField("dim_value") else None
            for dim in value.type.tensor_type.shape.dim
        ]
        for values in (graph.input, graph.value_info, graph.output)
        for value in values
        if value.type.tensor_type.HasField("shape")
    }
