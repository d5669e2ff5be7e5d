"""Shapes of values, from what the model states, shape inference and a few rules of its own.

Inference stops at function bodies and where sizes are computed; the rules go on from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnx_structdrop.graph.proofs.intervals import SAMPLES, sample_size
from onnx_structdrop.graph.proofs.sources import DEFAULT_DOMAINS
from onnx_structdrop.graph.topology.dataflow import Dataflow, operators
from onnx_structdrop.graph.topology.shapes import Shapes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Dims", "Sizes", "broadcast", "rows"]

Array = np.ndarray[Any, Any]

Dims = tuple[Array, ...]
"""A shape: each size under each assignment."""

# Operators whose output has the shape of their first input.
_SHAPE_KEEPING = operators(
    """BatchNormalization Cast CastLike Clip Dropout Elu Erf Exp Gelu HardSigmoid HardSwish
    Identity InstanceNormalization LayerNormalization LeakyRelu LogSoftmax Mish Neg PRelu Relu
    Selu Sigmoid Softmax Softplus Sqrt Swish Tanh"""
)
_RANK_KEEPING = operators(
    "AveragePool Conv ConvTranspose GlobalAveragePool GlobalMaxPool MaxPool Pad Slice"
)
_BROADCASTING = operators("Add Div Mul Sub Where Sum Max Min")
_TEMPLATES = operators("ConstantOfShape Expand")

_Key = tuple[str, ir.Value]


class Sizes:
    """What is known of shapes without evaluating anything.

    Parameters
    ----------
    model
        The model; it is only read.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._shapes: Shapes | None = None

    def stated(self, value: ir.Value, tensor: ir.TensorProtocol | None) -> list[int | str | None]:
        """Return the sizes that the model or shape inference gives; empty if not even the rank.

        Raises
        ------
        LookupError
            If the rank is not known.
        """
        sizes: Sequence[int | str | None] | None = None
        if value.shape is not None:
            sizes = [size if isinstance(size, int) else size.value for size in value.shape]
        elif tensor is not None:
            sizes = [int(size) for size in tensor.shape.numpy()]
        if sizes is None or None in sizes:
            if self._shapes is None:
                # It costs a pass over the model: only where the model itself is silent.
                self._shapes = Shapes(self._model, Dataflow(self._model).scopes)
            inferred = self._shapes.dims(value)
            sizes = inferred if inferred is not None else sizes
        if sizes is None:
            raise LookupError(value.name)
        return list(sizes)

    def settled(self, value: ir.Value, tensor: ir.TensorProtocol | None) -> bool:
        """Tell whether every size of a value is a number or has a name."""
        try:
            return None not in self.stated(value, tensor)
        except LookupError:
            return False

    def merged(
        self, value: ir.Value, tensor: ir.TensorProtocol | None, derived: Dims | None
    ) -> Dims | None:
        """Return the shape from what is stated, and from a rule where that leaves sizes open."""
        try:
            sizes = self.stated(value, tensor)
        except LookupError:
            return derived
        fits = derived is not None and len(derived) == len(sizes)
        result = []
        for axis, size in enumerate(sizes):
            if isinstance(size, int):
                result.append(np.full(SAMPLES, size))
            elif size is not None:
                result.append(np.asarray(sample_size(size)))
            elif fits and derived is not None:
                result.append(derived[axis])
            else:
                result.append(np.asarray(sample_size((value.name, axis))))
        return tuple(result)


def needs(value: ir.Value, node: ir.Node) -> list[_Key] | None:
    """Return what a rule for the shape of a node's output takes."""
    if node.domain not in DEFAULT_DOMAINS or not node.inputs or node.inputs[0] is None:
        return None
    if node.op_type in _BROADCASTING:
        return [("dims", given) for given in node.inputs if given is not None]
    if node.op_type == "ConstantOfShape":
        return [("arrays", node.inputs[0])]
    if node.op_type == "Expand" and node.inputs[1] is not None:
        return [("dims", node.inputs[0]), ("arrays", node.inputs[1])]
    if node.op_type in _SHAPE_KEEPING | _RANK_KEEPING:
        return [("dims", node.inputs[0])]
    return [("arrays", value)]


def derived(value: ir.Value, node: ir.Node, known: Callable[[_Key], Any]) -> Dims | None:
    """Return the shape of a node's output by rule, given what `needs` asked for."""
    first = node.inputs[0] if node.inputs else None
    if first is None:
        return None
    if node.op_type in _TEMPLATES:
        last = node.inputs[-1]
        target = rows(None if last is None else known(("arrays", last)))
        if node.op_type == "ConstantOfShape" or target is None:
            return target
        base: Dims | None = known(("dims", first))
        return None if base is None else broadcast([base, target])
    if node.op_type in _BROADCASTING:
        given = [known(("dims", item)) for item in node.inputs if item is not None]
        return None if any(dims is None for dims in given) else broadcast(given)
    if node.op_type in _SHAPE_KEEPING | _RANK_KEEPING:
        dims: Dims | None = known(("dims", first))
        if dims is None or node.op_type in _SHAPE_KEEPING:
            return dims
        return tuple(np.asarray(sample_size((value.name, axis))) for axis in range(len(dims)))
    arrays = known(("arrays", value))
    if arrays is None or len({array.ndim for array in arrays}) != 1:
        return None
    shapes = [arrays[index % len(arrays)].shape for index in range(SAMPLES)]
    return tuple(np.asarray(sizes) for sizes in zip(*shapes, strict=True))


def rows(arrays: Sequence[Array] | None) -> Dims | None:
    """Return the shape that is the content of a value."""
    if arrays is None or len({array.size for array in arrays}) != 1:
        return None
    table = np.stack([arrays[index % len(arrays)].reshape(-1) for index in range(SAMPLES)])
    return tuple(table[:, axis] for axis in range(table.shape[1]))


def broadcast(shapes: Sequence[Dims]) -> Dims | None:
    """Return the shape that shapes broadcast to, or None if they do not fit."""
    rank = max(len(dims) for dims in shapes)
    result = []
    for axis in range(1, rank + 1):
        size = np.ones(SAMPLES, np.int64)
        for dims in shapes:
            if axis > len(dims) or (dims[-axis] == 1).all():
                continue
            if not (size == 1).all() and not np.array_equal(size, dims[-axis]):
                return None
            size = dims[-axis]
        result.append(size)
    return tuple(reversed(result))
