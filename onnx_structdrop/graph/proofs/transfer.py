"""What operators do to random values that no data have joined yet."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnx_structdrop.graph.proofs import intervals
from onnx_structdrop.graph.proofs.generators import below, compared, stepped
from onnx_structdrop.graph.proofs.geometry import axes_of, joined, moved, padded, pooled, reduced
from onnx_structdrop.graph.proofs.intervals import ANY, SAMPLES, Array, Range, exact, hull, times
from onnx_structdrop.graph.proofs.noise import ROUNDING, Noise, NotProvenError, combine, lift
from onnx_structdrop.graph.proofs.steps import STEPS, check_step
from onnx_structdrop.graph.topology.dataflow import operators

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx_structdrop.graph.proofs.parameters import Parameters

__all__ = ["MOVING", "coarseness", "constant", "transferred"]

MOVING = operators(
    """Expand Flatten Gather Identity Reshape Slice Split Squeeze Tile Transpose
    Unsqueeze"""
)
"""Operators that move the positions of their first input, or take some of them."""

_IN_PLACE = frozenset({"Expand", "Identity", "Squeeze", "Unsqueeze"})
_COMPARING = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})
_ROUNDING = frozenset({"Ceil", "Floor", "Round", "Sign"})

_MONOTONE: dict[str, Callable[[Array], Array]] = {
    "Ceil": np.ceil,
    "Elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0.0))),
    "Exp": np.exp,
    "Floor": np.floor,
    "Log": np.log,
    "Relu": lambda x: np.maximum(x, 0.0),
    "Round": np.round,
    "Sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
    "Sign": np.sign,
    "Sqrt": np.sqrt,
    "Tanh": np.tanh,
}

_COARSE = {ir.DataType.FLOAT16: 2e-3, ir.DataType.BFLOAT16: 1e-2}


def transferred(node: ir.Node, noise: dict[ir.Value, Noise], parameters: Parameters) -> Noise:
    """Return what a node makes of random values and parameters.

    Raises
    ------
    NotProvenError
        If that cannot be told.
    """
    return _Transfer(node, noise, parameters).result()


def constant(value: ir.Value, parameters: Parameters) -> Noise:
    """Return a value that depends on no data as noise that is always the same.

    Raises
    ------
    NotProvenError
        If its content is not known.
    """
    number = parameters.number(value)
    if number is None:
        raise NotProvenError(f"it meets {value.name!r}, whose content is not known")
    coarse = coarseness(value.dtype)
    return replace(lift(number, parameters.dims(value)), coarse=coarse)


def coarseness(dtype: ir.DataType | None) -> float:
    """Return the relative tolerance for numbers that pass through an element type."""
    return ROUNDING if dtype is None else _COARSE.get(dtype, ROUNDING)


class _Transfer:
    def __init__(self, node: ir.Node, noise: dict[ir.Value, Noise], parameters: Parameters) -> None:
        self._node, self._noise, self._parameters = node, noise, parameters

    def result(self) -> Noise:
        node, op_type = self._node, self._node.op_type
        if op_type in STEPS:
            # A CastLike uses no more than the type of its second input.
            content = node.inputs[:1] if op_type == "CastLike" else node.inputs
            given = [index for index, value in enumerate(content) if value is not None]
            check_step(node, [self._input(index) for index in given])
        if op_type in _COMPARING:
            return self._compare()
        if op_type in MOVING:
            return self._move()
        if op_type in ("Cast", "CastLike"):
            return self._cast()
        if op_type in _ROUNDING and self._input(0).first.draw is not None:
            return stepped(self._input(0), op_type, node)
        if op_type in _UNARY:
            return self._each(_UNARY[op_type], self._input(0))
        if op_type in _BINARY:
            return self._fold(_BINARY[op_type])
        if op_type in _METHODS:
            return _METHODS[op_type](self)
        raise NotProvenError(f"the random numbers enter {op_type}")

    def _input(self, index: int) -> Noise:
        value = self._node.inputs[index] if index < len(self._node.inputs) else None
        if value is None:
            raise NotProvenError(f"{self._node.op_type} lacks an input")
        found = self._noise.get(value)
        if found is None:
            return constant(value, self._parameters)
        return found.explained()

    def _inputs(self) -> list[Noise]:
        return [self._input(index) for index in range(len(self._node.inputs))]

    def _only_first(self) -> Noise:
        for value in self._node.inputs[1:]:
            if value is not None and value in self._noise:
                raise NotProvenError(f"the random numbers steer {self._node.op_type}")
        return self._input(0)

    def _each(self, operation: Callable[[Range], Range], x: Noise, **changes: Any) -> Noise:
        first, second = operation(x.first), operation(x.second)
        if x.first.draw is not None and first.draw is None and first is ANY:
            raise NotProvenError(f"{self._node.op_type} is applied to random numbers")
        return replace(x, first=first, second=second, **changes)

    def _fold(self, operation: Callable[[Range, Range], Range]) -> Noise:
        if self._node.op_type == "Div" and self._parameters.rounds(self._node):
            raise NotProvenError("random integers are divided")
        result, *others = self._inputs()
        for other in others:
            result = combine(result, other, operation, joined(result.dims, other.dims))
        draw = result.first.draw
        if draw is None or draw.family != "normal" or not self._has_table():
            return result
        # Its deviation is a tensor that may have been learned.
        first = result.first._replace(draw=draw._replace(scale=None, offset=None))
        return replace(result, first=first, second=first)

    def _has_table(self) -> bool:
        """Tell whether a constant operand is stored with more than one number."""
        for value in self._node.inputs:
            if value is not None and value not in self._noise:
                arrays = self._parameters.arrays(value) or ()
                if any(array.size > 1 and any(array.strides) for array in arrays):
                    return True
        return False

    def _compare(self) -> Noise:
        x, y = self._input(0), self._input(1)
        op_type = self._node.op_type
        dims = joined(x.dims, y.dims)
        if x.first.draw is None and y.first.draw is None:
            return combine(x, y, lambda a, b: compared(op_type, a, b), dims)
        if op_type == "Equal":
            raise NotProvenError("random numbers are compared for equality")
        if x.first.draw is None:
            x, y = y, x
            op_type = "Less" if op_type.startswith("Greater") else "Greater"
        if y.first.draw is not None or y.sense:
            raise NotProvenError("random numbers are compared with each other")
        indicator = replace(below(x, y.first, self._node), dims=dims)
        indicator = replace(indicator, coarse=max(x.coarse, y.coarse))
        if op_type.startswith("Less"):
            return indicator
        return replace(indicator, first=indicator.second, second=indicator.first)

    def _move(self) -> Noise:
        # Which positions are taken may be random: they are alike.
        x = self._input(0)
        place = x.place if self._node.op_type in _IN_PLACE else id(self._node)
        return replace(x, place=place, dims=moved(self._node, x.dims, self._parameters))

    def _cast(self) -> Noise:
        x = self._input(0)
        attribute = self._node.attributes.get("to")
        target = self._node.outputs[0].dtype
        if attribute is not None:
            target = ir.DataType(attribute.as_int())
        elif target is None and self._node.op_type == "CastLike":
            like = self._node.inputs[1]
            target = None if like is None else like.dtype
        if target == ir.DataType.BOOL:
            if x.first.draw is not None:
                raise NotProvenError("random numbers are converted to bool")
            return self._each(_truth, x)
        if target is not None and target.is_integer():
            if x.first.draw is not None:
                return stepped(x, "Cast", self._node)
            return self._each(lambda a: intervals.mapped(np.trunc, a, monotone=True), x)
        return replace(x, coarse=max(x.coarse, coarseness(target)))

    def _where(self) -> Noise:
        condition, yes, no = self._inputs()
        dims = joined(joined(condition.dims, yes.dims), no.dims)
        chosen = combine(condition, yes, times, dims)
        rest = combine(self._each(_complement, condition), no, times, dims)
        return combine(chosen, rest, intervals.plus, dims)

    def _or(self) -> Noise:
        x, y = (self._each(_complement, one) for one in (self._input(0), self._input(1)))
        return self._each(_complement, combine(x, y, times, joined(x.dims, y.dims)))

    def _pad(self) -> Noise:
        x = self._only_first()
        mode = self._node.attributes.get("mode")
        changes: dict[str, Any] = {
            "local": False,
            "chance": None,
            "dims": padded(self._node, x.dims, self._parameters),
            "place": id(self._node),
        }
        if mode is not None and mode.as_string() != "constant":
            return self._each(lambda a: a, x, **changes)
        fill = exact(0.0)
        given = self._node.inputs[2] if len(self._node.inputs) > 2 else None
        attribute = self._node.attributes.get("value")
        if given is not None:
            fill = constant(given, self._parameters).first
        elif attribute is not None:
            fill = exact(attribute.as_float())
        if x.first.draw is not None:
            raise NotProvenError("random numbers are padded before they are compared")
        return self._each(lambda a: hull(a, fill), x, **changes)

    def _pool(self) -> Noise:
        x = self._only_first()
        if x.first.draw is not None:
            raise NotProvenError(f"{self._node.op_type} is applied to random numbers")
        operation: Callable[[Range], Range] = lambda a: a  # noqa: E731
        pads = self._node.attributes.get("pads")
        if self._node.op_type == "AveragePool" and pads is not None and any(pads.as_ints()):
            # Whether the padding counts or not, the average lies between the value and 0.
            included = self._node.attributes.get("count_include_pad")
            if included is not None and included.as_int():
                operation = lambda a: hull(a, exact(0.0))  # noqa: E731
        dims = pooled(self._node, x.dims, self._parameters)
        return self._each(operation, x, local=False, chance=None, dims=dims, place=id(self._node))

    def _reduce(self) -> Noise:
        x = self._only_first()
        axes = axes_of(self._node, self._parameters)
        noop = self._node.attributes.get("noop_with_empty_axes")
        if not axes and noop is not None and noop.as_int():
            return x
        if x.dims is None:
            raise NotProvenError(f"{self._node.op_type} counts a mask whose size is not known")
        count = np.ones(SAMPLES)
        for axis in axes or range(len(x.dims)):
            count = count * x.dims[axis]
        dims = reduced(self._node, x.dims, axes)
        if x.first.draw is not None:
            raise NotProvenError(f"{self._node.op_type} is applied to random numbers")
        number = exact(count if self._node.op_type == "ReduceSum" else 1.0)
        return self._each(
            lambda a: times(a, number),
            x,
            local=False,
            reduced=True,
            chance=None,
            dims=dims,
            place=id(self._node),
        )

    def _clip(self) -> Noise:
        x = self._only_first()
        bounds = []
        for index, name, default in ((1, "min", -np.inf), (2, "max", np.inf)):
            given = self._node.inputs[index] if index < len(self._node.inputs) else None
            attribute = self._node.attributes.get(name)
            if given is not None:
                bounds.append(constant(given, self._parameters).first.low)
            else:
                bounds.append(exact(default if attribute is None else attribute.as_float()).low)
        low, high = bounds

        def clip(a: Range) -> Range:
            return intervals.mapped(lambda n: np.clip(n, low, high), a, monotone=True)

        return self._each(clip, x)


def _complement(x: Range) -> Range:
    return intervals.plus(exact(1.0), intervals.negative(x))


def _truth(x: Range) -> Range:
    always = (x.low > 0) | (x.high < 0)
    never = (x.low == 0) & (x.high == 0)
    return Range(np.where(always, 1.0, 0.0), np.where(never, 0.0, 1.0))


def _extreme(function: Callable[..., Array]) -> Callable[[Range, Range], Range]:
    def operation(x: Range, y: Range) -> Range:
        if x.draw is not None or y.draw is not None:
            return ANY
        return Range(function(x.low, y.low), function(x.high, y.high))

    return operation


def _power(x: Range, y: Range) -> Range:
    if not (x.known and y.known):
        return ANY
    with np.errstate(all="ignore"):
        return exact(np.power(x.low, y.low))


_UNARY: dict[str, Callable[[Range], Range]] = {
    **{
        name: (lambda x, function=function: intervals.mapped(function, x, monotone=True))  # type: ignore[misc]
        for name, function in _MONOTONE.items()
    },
    "Abs": lambda x: intervals.mapped(np.abs, x, monotone=bool((x.low >= 0).all())),
    "Neg": intervals.negative,
    "Not": _complement,
    "Reciprocal": intervals.inverse,
}

_BINARY: dict[str, Callable[[Range, Range], Range]] = {
    "Add": intervals.plus,
    "And": times,
    "Div": lambda x, y: times(x, intervals.inverse(y)),
    "Max": _extreme(np.maximum),
    "Min": _extreme(np.minimum),
    "Mul": times,
    "Pow": _power,
    "Sub": lambda x, y: intervals.plus(x, intervals.negative(y)),
    "Sum": intervals.plus,
}

_METHODS: dict[str, Callable[[_Transfer], Noise]] = {
    "AveragePool": _Transfer._pool,
    "Clip": _Transfer._clip,
    "GlobalAveragePool": _Transfer._pool,
    "GlobalMaxPool": _Transfer._pool,
    "MaxPool": _Transfer._pool,
    "Or": _Transfer._or,
    "Pad": _Transfer._pad,
    "ReduceMax": _Transfer._reduce,
    "ReduceMean": _Transfer._reduce,
    "ReduceMin": _Transfer._reduce,
    "ReduceSum": _Transfer._reduce,
    "Where": _Transfer._where,
}
