"""What flows where: which values carry the model's data, which only steer or randomise it.

Everything that reasons about blocks works on data edges alone. An edge that hands over a weight,
a shape or a random mask is none: a residual `Add` has two data inputs, a bias `Add` has one, and a
dropout mask that is multiplied in leaves its `Mul` a unary operation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import onnx_ir as ir

from onnx_structdrop.graph.scopes import scopes
from onnx_structdrop.schema import DOMAIN

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = [
    "Dataflow",
    "Scope",
    "Step",
    "attribute_int",
    "attribute_ints",
    "constant",
    "is_op",
    "operators",
]


def operators(names: str) -> frozenset[str]:
    """Return a set of operators from their names, separated by spaces."""
    return frozenset(names.split())


# Operators whose first input is the data and whose other inputs are parameters of it.
_FIRST_INPUT_ONLY = operators(
    """AffineGrid AveragePool BatchNormalization Conv ConvInteger ConvTranspose CumSum DeformConv
    DequantizeLinear Dropout Expand FusedConv Gather GatherND GridSample GroupNormalization
    InstanceNormalization LayerNormalization MaxPool MaxUnpool OneHot PRelu Pad QLinearConv
    QuantizeLinear RMSNormalization ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax
    ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Reshape Resize RoiAlign Slice Split
    Squeeze Tile TopK Unsqueeze Upsample"""
)
# Operators that look at the shape of their input, or at nothing but its probability.
_NO_DATA = frozenset({"Shape", "Size", "RandomNormalLike", "RandomUniformLike"})
_RANDOM = operators(
    """Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform
    RandomUniformLike"""
)
_NEVER_DATA_TYPES = frozenset({ir.DataType.BOOL, ir.DataType.STRING})
_STANDARD = ("", "com.microsoft")
_SMALL = 64


@dataclass(eq=False)
class Scope:
    """A graph of the model, the node that runs it (None: nothing does) and how it got there."""

    name: str
    graph: ir.Graph
    owner: ir.Node | None = None
    attribute: str = ""
    parent: Scope | None = None
    function: ir.Function | None = None
    nodes: list[ir.Node] = field(default_factory=list)

    def arguments(self) -> Iterator[tuple[ir.Value, ir.Value | None]]:
        """Yield each input of the body with the value that its owner passes in."""
        if self.owner is None:
            return
        given: Sequence[ir.Value | None] = self.owner.inputs
        formal: Sequence[ir.Value] = self.graph.inputs
        if self.function is None and self.owner.op_type == "Loop":
            given, formal = given[2:], formal[2:]
        yield from zip(formal, given, strict=False)

    def results(self) -> Iterator[tuple[ir.Value, ir.Value]]:
        """Yield each output of the owner with the value of the body that becomes it."""
        if self.owner is None:
            return
        inner: Sequence[ir.Value] = self.graph.outputs
        if self.function is None and self.owner.op_type == "Loop":
            inner = inner[1:]
        yield from zip(self.owner.outputs, inner, strict=False)


class Step(NamedTuple):
    """One step of the execution order: a node, or (node None) the entry into a scope."""

    scope: Scope
    node: ir.Node | None


class Dataflow:
    """The data edges of a model, in an order in which every body precedes the node that runs it.

    Parameters
    ----------
    model : onnx_ir.Model
        The model; it is only read.

    Attributes
    ----------
    scopes : list of Scope
        The main graph first, then bodies in the order in which they are first run.
    steps : list of Step
        Execution order. A function body appears once, at its first call.
    """

    def __init__(self, model: ir.Model) -> None:
        self.scopes: list[Scope] = []
        self.steps: list[Step] = []
        self._names = {
            id(graph.graph if isinstance(graph, ir.Function) else graph): name
            for name, graph in scopes(model)
        }
        self._functions = model.functions
        self._data: set[ir.Value] = set()
        self._noise: set[ir.Value] = set()
        self._inputs: dict[ir.Node, tuple[ir.Value, ...]] = {}
        self._consumers: dict[ir.Value, dict[ir.Node, None]] = {}
        self._captured: dict[ir.Node, dict[ir.Value, None]] = {}
        self._bodies: dict[ir.Node, list[Scope]] = {}
        self._body_of: dict[int, Scope] = {}
        self._order(model)
        for step in self.steps:
            if step.node is None:
                self._enter(step.scope)
            else:
                self._run(step.scope, step.node)

    def is_data(self, value: ir.Value | None) -> bool:
        """Tell whether a value depends on the model's data (and not just on its shape)."""
        return value in self._data

    def is_noise(self, value: ir.Value | None) -> bool:
        """Tell whether a value is random and independent of the data."""
        return value in self._noise

    def inputs(self, node: ir.Node) -> tuple[ir.Value, ...]:
        """Return the distinct data inputs of a node, values captured by its bodies included."""
        return self._inputs.get(node, ())

    def consumers(self, value: ir.Value) -> tuple[ir.Node, ...]:
        """Return the nodes of the value's own graph that take it as data."""
        return tuple(self._consumers.get(value, ()))

    def outputs(self, node: ir.Node) -> list[ir.Value]:
        """Return the outputs of a node that carry data."""
        return [value for value in node.outputs if value in self._data]

    def bodies(self, node: ir.Node) -> list[Scope]:
        """Return the scopes a node runs: its subgraphs, or the function that it calls."""
        return self._bodies.get(node, [])

    def _order(self, model: ir.Model) -> None:
        stack: list[tuple[Scope, Iterator[ir.Node | None]]] = []
        entered: set[int] = set()

        def push(scope: Scope) -> None:
            entered.add(id(scope.graph))
            self.scopes.append(scope)
            stack.append((scope, chain((None,), scope.graph)))

        def drain() -> None:
            while stack:
                scope, nodes = stack[-1]
                try:
                    node = next(nodes)
                except StopIteration:
                    stack.pop()
                    continue
                if node is not None:
                    bodies = self._bodies_of(scope, node)
                    fresh = [body for body in bodies if id(body.graph) not in entered]
                    if fresh:
                        # The node itself comes after all its bodies.
                        stack.append((scope, iter((node,))))
                        for body in reversed(fresh):
                            push(body)
                        continue
                    if bodies:
                        self._bodies[node] = bodies
                    scope.nodes.append(node)
                self.steps.append(Step(scope, node))

        push(Scope("", model.graph))
        drain()
        for function in model.functions.values():
            if function.domain != DOMAIN and id(function.graph) not in entered:
                name = self._names[id(function.graph)]
                push(Scope(name, function.graph, function=function))
                drain()

    def _bodies_of(self, scope: Scope, node: ir.Node) -> list[Scope]:
        found: list[Scope] = []
        for attribute in node.attributes.data.values():
            if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
                graph = attribute.as_graph()
                body = self._body_of.get(id(graph))
                if body is None:
                    name = self._names.get(id(graph), "")
                    body = Scope(name, graph, node, attribute.name, scope)
                    self._body_of[id(graph)] = body
                found.append(body)
        function = self._functions.get(node.op_identifier()) if self._functions else None
        if function is not None and node.domain != DOMAIN:
            body = self._body_of.get(id(function.graph))
            if body is None:
                name = self._names[id(function.graph)]
                body = Scope(name, function.graph, node, "", scope, function)
                self._body_of[id(function.graph)] = body
            found.append(body)
        return found

    def _enter(self, scope: Scope) -> None:
        if scope.parent is not None:
            for formal, given in scope.arguments():
                if given in self._data:
                    self._data.add(formal)
                elif given in self._noise:
                    self._noise.add(formal)
            return
        # Of a function that is never called, the first input is taken for the data.
        candidates = scope.graph.inputs[:1] if scope.function else scope.graph.inputs
        for index, value in enumerate(candidates):
            if value.is_initializer() or value.dtype in _NEVER_DATA_TYPES:
                continue
            sizes = None if value.shape is None else list(value.shape)
            # Inputs besides the first that have one size other than 1 are weights.
            thin = sizes is not None and sum(size != 1 for size in sizes) <= 1
            if sizes is None or (len(sizes) > 1 and not (index and thin)):
                self._data.add(value)

    def _run(self, scope: Scope, node: ir.Node) -> None:
        inputs: dict[ir.Value, None] = {}
        own = node.domain == DOMAIN
        operator = node.op_type if node.domain in _STANDARD else ""
        if operator not in _NO_DATA:
            first_only = own or operator in _FIRST_INPUT_ONLY
            for value in node.inputs[:1] if first_only else node.inputs:
                if value is not None and value in self._data:
                    inputs[value] = None
                    self._capture(scope, node, value)
        inputs.update(self._captured.get(node, {}))
        self._inputs[node] = tuple(inputs)
        for value in inputs:
            if value.graph is node.graph:
                self._consumers.setdefault(value, {})[node] = None

        random = operator in _RANDOM
        if inputs and not random:
            masks = own or operator == "Dropout"
            self._data.update(node.outputs[:1] if masks else node.outputs)
            self._noise.update(node.outputs[1:] if masks else ())
            return
        if random or any(value in self._noise for value in node.inputs):
            self._noise.update(node.outputs)
        for body in self.bodies(node):
            for outer, inner in body.results():
                if inner in self._data:
                    self._data.add(outer)
                elif inner in self._noise:
                    self._noise.add(outer)

    def _capture(self, scope: Scope, node: ir.Node, value: ir.Value) -> None:
        """Make every node around `node`, up to the value's own graph, a consumer of the value."""
        where: Scope | None = scope
        while where is not None and where.graph is not value.graph and where.function is None:
            if where.owner is not None:
                self._captured.setdefault(where.owner, {})[value] = None
            where = where.parent


def is_op(node: ir.Node | None, op_types: str | frozenset[str]) -> bool:
    """Tell whether a node is one of these operators of the default domain."""
    if node is None:
        return False
    op_type = node.op_type
    found = op_type == op_types if isinstance(op_types, str) else op_type in op_types
    return found and node.domain in _STANDARD


def attribute_ints(node: ir.Node, name: str) -> list[int] | None:
    """Return an attribute of type INTS, or None where it is absent or of another kind."""
    attribute = node.attributes.data.get(name)
    if attribute is None or attribute.is_ref() or attribute.type != ir.AttributeType.INTS:
        return None
    return list(attribute.as_ints())


def attribute_int(node: ir.Node, name: str, default: int) -> int:
    """Return an attribute of type INT, or a default where it is absent or of another kind."""
    attribute = node.attributes.data.get(name)
    if attribute is None or attribute.is_ref() or attribute.type != ir.AttributeType.INT:
        return default
    return attribute.as_int()


def constant(value: ir.Value | None) -> list[float] | None:
    """Return the numbers of a small constant, or None if it is not constant, small or readable."""
    for _ in range(8):
        producer = value.producer() if value is not None else None
        if producer is None or not is_op(producer, "Identity"):
            break
        value = producer.inputs[0]
    if value is None:
        return None
    try:
        tensor = value.const_value
        if tensor is None:
            return _constant_node(value.producer())
        if tensor.size > _SMALL or tensor.dtype in _NEVER_DATA_TYPES:
            return None
        return [float(number) for number in tensor.numpy().ravel()]
    except (OSError, ValueError, TypeError, AttributeError, NotImplementedError):
        # A missing data file or an odd tensor: all that is lost is a hint.
        return None


def whole_numbers(value: ir.Value | None) -> list[int] | None:
    """Return the numbers of a small constant, or None as well if one of them is not whole."""
    numbers = constant(value)
    if numbers is None or not all(number.is_integer() for number in numbers):
        return None
    return [int(number) for number in numbers]


def _constant_node(node: ir.Node | None) -> list[float] | None:
    # onnx_ir.convenience.get_const_tensor would write the value's name into the tensor.
    if not is_op(node, "Constant") or node is None:
        return None
    attribute = next(iter(node.attributes.values()), None)
    if attribute is None or attribute.is_ref():
        return None
    if attribute.type == ir.AttributeType.TENSOR:
        tensor = attribute.as_tensor()
        if tensor.size > _SMALL or tensor.dtype in _NEVER_DATA_TYPES:
            return None
        return [float(number) for number in tensor.numpy().ravel()]
    numbers = attribute.value
    if isinstance(numbers, (int, float)):
        return [float(numbers)]
    return [float(number) for number in numbers] if isinstance(numbers, (list, tuple)) else None
