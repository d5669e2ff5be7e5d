"""Which values the data propagation of onnx may follow: those that are short for certain.

With ``data_prop``, onnx carries the content of shapes through a few operators, one object for each
element: of any vector that such an operator reads and whose length it knows. A file of ten nodes
can name a vector of 2**40 elements, or double one forty times. What is read here gives an upper
bound of each length in one pass over the nodes; a value without a small one is hidden from the
operators that would follow it. Feature maps and computed shapes have small ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from onnx_structdrop.graph.topology.dataflow import operators

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import onnx

__all__ = ["LongVectors"]

_LONGEST = 4096
"""Elements of a vector that may be followed."""

_RANK = 64
"""Taken for the length of a shape, or of what a body is given, where nothing tells it."""

_UNBOUNDED = 1 << 62

_FOLLOWED = operators("Add Cast Concat Gather Mul Size Slice Squeeze Sub Unsqueeze")
"""Operators with data propagation that read content; Shape does not."""

_KEEP_LENGTH = operators(
    """Abs Add And Cast CastLike Ceil Clip Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual
    HardSigmoid HardSwish Identity LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not
    Or PRelu Pow Reciprocal Relu Round Sigmoid Sign Slice Softplus Softsign Sqrt Sub Sum Tanh
    Where Xor Dropout Softmax"""
)
"""Operators whose result is no longer than their longest input, and has as many axes."""

_KEEP_RANK = operators(
    """AveragePool BatchNormalization Conv ConvTranspose CumSum DepthToSpace GlobalAveragePool
    GlobalMaxPool GroupNormalization InstanceNormalization LayerNormalization LpNormalization
    MaxPool Pad RMSNormalization Resize SpaceToDepth Tile Transpose Upsample DequantizeLinear
    QuantizeLinear LRN"""
)
"""Operators whose result has as many axes as their first input."""

_SHAPE_INPUT = {"Reshape": 1, "Expand": 1, "ConstantOfShape": 0}
"""Operators whose result has as many axes as an input has elements."""


class _Known(NamedTuple):
    """What holds of a value, at most or at least: bounds for all that inference may find out.

    `vector`: its length, if it is a vector. `axes`: at least so many. `content`: elements that are
    carried along with it. `is_flat`: it has at most one axis. `is_exact`: `vector` is its length.
    """

    vector: int | None
    axes: int = 0
    content: int = 0
    is_flat: bool = False
    is_exact: bool = False

    @property
    def size(self) -> int:
        """Elements that an operator would follow, at most."""
        if self.axes > 1:
            return self.content
        return max(self.content, _UNBOUNDED if self.vector is None else self.vector)


_NOTHING = _Known(None)
_FORMAL = _Known(_RANK)
_HIDDEN = _Known(0)


class _Body(NamedTuple):
    """What holds of a function that is given values of size `_RANK`."""

    largest: int
    outputs: list[_Known]


class LongVectors:
    """Uses of values that may be long vectors, by operators that data propagation follows.

    Parameters
    ----------
    model
        Nodes are best in topological order; calls of functions come to an end.
    inferred
        The model after shape inference without data propagation, or `model` itself.

    Attributes
    ----------
    uses : list
        Nodes of the main graph, and the place of the input that may be a long vector.
    in_bodies : bool
        Whether there are any in subgraphs and functions.
    """

    def __init__(self, model: onnx.ModelProto, inferred: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._types = _types(inferred.graph)
        self._functions = {(f.domain, f.name, f.overload): f for f in model.functions}
        self._bodies: dict[tuple[str, str, str], _Body] = {}
        self.uses: list[tuple[onnx.NodeProto, int]] = []
        self.in_bodies = False
        known = {name: _of_type(kind) for name, kind in self._types.items()}
        known |= {tensor.name: _of_dims(tensor.dims) for tensor in model.graph.initializer}
        self._run(model.graph.node, known, self._types, is_main=True)

    def hide(self) -> None:
        """Let the uses read inputs of the graph that have no shape instead."""
        for number, (node, place) in enumerate(self.uses):
            name = f"{node.input[place]}/hidden/{number}"
            opaque = self._graph.input.add(name=name)
            kind = self._types.get(node.input[place])
            if kind is not None and kind.HasField("tensor_type"):
                opaque.type.tensor_type.elem_type = kind.tensor_type.elem_type
            node.input[place] = name

    def _run(
        self,
        nodes: Iterable[onnx.NodeProto],
        known: dict[str, _Known],
        types: Mapping[str, onnx.TypeProto],
        *,
        is_main: bool = False,
    ) -> int:
        """Add what holds of the results of `nodes` to `known`; return the largest size followed."""
        largest = 0
        for node in nodes:
            inputs = [known.get(name, _NOTHING) for name in node.input]
            called = self._functions.get((node.domain, node.op_type, node.overload))
            graphs = list(_subgraphs(node))
            is_followed = called is None and _is_followed(node)
            if is_followed or called is not None or graphs:
                budget = _LONGEST
                for place, value in enumerate(inputs):
                    if node.input[place] and value.size > budget:
                        self._found(node, place, is_main=is_main)
                        inputs[place] = _HIDDEN
                    elif node.op_type == "Concat":
                        budget -= value.size
            if called is None:
                results = [_result(node, inputs)]
            else:
                within_call, results = self._called(called, inputs)
                largest = max(largest, within_call)
            results += [_NOTHING] * (len(node.output) - len(results))
            for name, result in zip(node.output, results, strict=False):
                kind = types.get(name)
                known[name] = result if kind is None else _both(result, _of_type(kind))
                largest = max(largest, result.content)
            for graph in graphs:
                inner = {**known, **dict.fromkeys((v.name for v in graph.input), _FORMAL)}
                within = _types(graph)
                for name, kind in within.items():
                    inner[name] = _both(inner.get(name, _NOTHING), _of_type(kind))
                inner |= {tensor.name: _of_dims(tensor.dims) for tensor in graph.initializer}
                largest = max(largest, self._run(graph.node, inner, within))
        return largest

    def _found(self, node: onnx.NodeProto, place: int, *, is_main: bool) -> None:
        if is_main:
            self.uses.append((node, place))
        else:
            self.in_bodies = True

    def _called(
        self, function: onnx.FunctionProto, inputs: Sequence[_Known]
    ) -> tuple[int, list[_Known]]:
        """Return the largest size followed within a call, and what holds of its results."""
        key = (function.domain, function.name, function.overload)
        if key not in self._bodies:
            known = dict.fromkeys(function.input, _FORMAL)
            largest = self._run(function.node, known, {})
            outputs = [known.get(name, _NOTHING) for name in function.output]
            self._bodies[key] = _Body(largest, outputs)
        body = self._bodies[key]
        times = -(-max((value.size for value in inputs), default=1) // _RANK)
        if body.largest * times > _LONGEST:
            self.in_bodies = True
        return body.largest * times, [
            value._replace(
                vector=None if value.vector is None else value.vector * times,
                content=value.content * times,
                is_exact=False,
            )
            for value in body.outputs
        ]


def _is_followed(node: onnx.NodeProto) -> bool:
    return node.domain in ("", "ai.onnx") and node.op_type in _FOLLOWED


def _result(node: onnx.NodeProto, inputs: Sequence[_Known]) -> _Known:
    """Return what holds of the first output of a node."""
    if node.domain not in ("", "ai.onnx"):
        return _NOTHING
    op_type, first = node.op_type, inputs[0] if inputs else _NOTHING
    if op_type == "Shape":
        # Also where data propagation ends: its content is the shape itself.
        return _Known(max(_RANK, first.axes), 1, max(_RANK, first.axes), is_flat=True)
    if op_type == "Constant":
        return _constant(node)
    if op_type in _SHAPE_INPUT:
        place = _SHAPE_INPUT[op_type]
        shape = inputs[place] if place < len(inputs) else _NOTHING
        axes = shape.vector if shape.is_exact and shape.vector is not None else 0
        return _Known(None, max(axes, first.axes) if op_type == "Expand" else axes)
    if op_type in _KEEP_RANK:
        return _Known(None, first.axes)
    if op_type not in _FOLLOWED:
        keeps = op_type in _KEEP_LENGTH
        return _elementwise(inputs)._replace(content=0) if keeps else _NOTHING
    if op_type == "Size":
        return _Known(1, content=1, is_flat=True)
    content = max((value.size for value in inputs), default=0)
    if op_type == "Concat":
        vectors = [value.vector for value in inputs if value.axes < 2]
        total = sum(vector for vector in vectors if vector is not None)
        return _elementwise(inputs)._replace(
            vector=None if None in vectors else total,
            content=sum(value.size for value in inputs),
        )
    if op_type == "Unsqueeze":
        return _Known(1 if first.axes == 0 else None, first.axes, content)
    if op_type in ("Gather", "Squeeze") and not all(value.is_flat for value in inputs):
        return _Known(None, 0, content)
    if op_type in ("Gather", "Squeeze"):  # perhaps one element without an axis
        return _elementwise(inputs)._replace(content=content, axes=0, is_exact=False)
    if op_type == "Slice":
        return first._replace(content=content, is_exact=False)
    return _elementwise(inputs)._replace(content=content)


def _elementwise(inputs: Sequence[_Known]) -> _Known:
    """Return what holds of a result that has the axes of all inputs, and no more elements."""
    vectors = [value.vector for value in inputs if value.axes < 2]
    return _Known(
        None if None in vectors else max((v for v in vectors if v is not None), default=0),
        max((value.axes for value in inputs), default=0),
        is_flat=all(value.is_flat for value in inputs),
        is_exact=bool(inputs) and all(value.is_exact for value in inputs),
    )


def _constant(node: onnx.NodeProto) -> _Known:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            return _of_dims(attribute.t.dims)
        count = len(attribute.ints) or len(attribute.floats)
        if count:
            return _of_dims([count])
        return _of_dims([])
    return _NOTHING


def _of_dims(dims: Sequence[int]) -> _Known:
    if len(dims) > 1:
        return _Known(None, len(dims))
    return _Known(dims[0] if dims else 1, len(dims), is_flat=True, is_exact=bool(dims))


def _of_type(kind: onnx.TypeProto) -> _Known:
    tensor = kind.tensor_type
    if not tensor.HasField("shape"):
        return _NOTHING
    dims = tensor.shape.dim
    if len(dims) == 1 and not dims[0].HasField("dim_value"):
        return _Known(None, 1, is_flat=True)
    return _of_dims([dim.dim_value for dim in dims])


def _both(one: _Known, other: _Known) -> _Known:
    vectors = [value.vector for value in (one, other) if value.vector is not None]
    exact = [v.vector for v in (one, other) if v.is_exact and v.vector is not None]
    return _Known(
        max(exact) if exact else min(vectors, default=None),
        max(one.axes, other.axes),
        max(one.content, other.content),
        one.is_flat or other.is_flat,
        bool(exact),
    )


def _types(graph: onnx.GraphProto) -> dict[str, onnx.TypeProto]:
    return {
        info.name: info.type
        for infos in (graph.input, graph.value_info, graph.output)
        for info in infos
    }


def _subgraphs(node: onnx.NodeProto) -> Iterable[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
