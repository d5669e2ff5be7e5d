"""NumPy versions of the operators that exporters compute sizes, rates and scales with.

Arrays may be broadcast views of a single number: a template of a whole feature map then takes no
memory, and elementwise operators keep it that way.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["OPERATORS", "compute", "is_uniform"]

Array = np.ndarray[Any, Any]

_LARGEST = 1 << 16
"""Elements of the largest result that is computed; a uniform one may have any size."""


class _TooLargeError(ValueError):
    """A result is not worth its memory."""


def is_uniform(array: Array) -> bool:
    """Tell whether all entries are one number, without looking at each of a broadcast view."""
    if array.size <= 1 or not any(array.strides):
        return True
    return array.size <= _LARGEST and bool((array == array.flat[0]).all())


def compute(node: ir.Node, inputs: Sequence[Array | None]) -> Array | None:
    """Return the first output of a node, or None if it cannot be told.

    Raises nothing: a node that does not fit its inputs gives None, runtimes will refuse it.
    """
    try:
        with np.errstate(all="ignore"):
            result = OPERATORS[node.op_type](node, inputs)
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, AttributeError):
        return None
    if result is None or (result.size > _LARGEST and any(result.strides)):
        return None
    return result


def _elementwise(function: Callable[..., Any]) -> Callable[..., Array]:
    def run(_node: ir.Node, inputs: Sequence[Array | None]) -> Array:
        arrays = [array for array in inputs if array is not None]
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
        if all(array.size == 1 or not any(array.strides) for array in arrays) and arrays:
            if 0 in shape:
                raise _TooLargeError
            numbers = [
                array.reshape(-1)[:1] if array.size == 1 else _head(array) for array in arrays
            ]
            return np.broadcast_to(np.asarray(function(*numbers)).reshape(()), shape)
        if math.prod(shape) > _LARGEST:
            raise _TooLargeError
        return np.asarray(function(*arrays))

    return run


def _head(array: Array) -> Array:
    return np.asarray(array[(0,) * array.ndim]).reshape(1)


def _divide(x: Array, y: Array) -> Array:
    if np.issubdtype(x.dtype, np.integer):
        # ONNX rounds towards zero.
        return np.asarray(np.trunc(x / y), x.dtype)
    return np.asarray(x / y)


def _ints(node: ir.Node, name: str, given: Array | None = None) -> list[int] | None:
    if given is not None:
        return [int(number) for number in given.reshape(-1)]
    attribute = node.attributes.get(name)
    return None if attribute is None else list(attribute.as_ints())


def _int(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def _at(inputs: Sequence[Array | None], index: int) -> Array | None:
    return inputs[index] if index < len(inputs) else None


def _first(inputs: Sequence[Array | None]) -> Array:
    array = inputs[0]
    if array is None:
        raise ValueError("an input is missing")
    return array


def _cast(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    target = ir.DataType(_int(node, "to", 1)).numpy()
    return _elementwise(lambda x: x.astype(target))(node, inputs)


def _cast_like(node: ir.Node, inputs: Sequence[Array | None]) -> Array | None:
    like = node.inputs[1]
    if like is None or like.dtype is None:
        # Scales and rates are of some float type; its precision is allowed for elsewhere.
        return _first(inputs)
    target = like.dtype.numpy()
    return _elementwise(lambda x: x.astype(target))(node, inputs[:1])


def _gather(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    index = inputs[1]
    if index is None:
        raise ValueError("an input is missing")
    return np.take(_first(inputs), index.astype(np.int64), axis=_int(node, "axis", 0))


def _concat(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    arrays = [array for array in inputs if array is not None]
    if sum(array.size for array in arrays) > _LARGEST:
        raise _TooLargeError
    return np.concatenate(arrays, axis=_int(node, "axis", 0))


def _unsqueeze(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    axes = _ints(node, "axes", _at(inputs, 1)) or []
    return np.expand_dims(_first(inputs), tuple(axes))


def _squeeze(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    axes = _ints(node, "axes", _at(inputs, 1))
    return np.squeeze(_first(inputs), None if axes is None else tuple(axes))


def _slice(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    array = _first(inputs)
    starts = _ints(node, "starts", _at(inputs, 1)) or []
    ends = _ints(node, "ends", _at(inputs, 2)) or []
    axes = _ints(node, "axes", _at(inputs, 3)) or list(range(len(starts)))
    given = _at(inputs, 4)
    steps = [1] * len(starts) if given is None else [int(step) for step in given]
    index = [slice(None)] * array.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 0:
            start = array.shape[axis] - 1 if start == -1 else start
            index[axis] = slice(start, None if end < -array.shape[axis] else end, step)
        else:
            index[axis] = slice(start, end, step)
    return np.asarray(array[tuple(index)])


def _reshape(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    array = _first(inputs)
    target = _ints(node, "shape", _at(inputs, 1)) or []
    if not _int(node, "allowzero", 0):
        target = [array.shape[i] if size == 0 else size for i, size in enumerate(target)]
    if array.size and not any(array.strides):
        shape = np.lib.stride_tricks.as_strided(np.zeros(()), array.shape, (0,) * array.ndim)
        if -1 in target:
            rest = math.prod(size for size in target if size != -1)
            target[target.index(-1)] = shape.size // rest
        return np.broadcast_to(array[(0,) * array.ndim], target)
    return array.reshape(target)


def _transpose(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    return np.transpose(_first(inputs), _ints(node, "perm"))


def _expand(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    array = _first(inputs)
    target = _ints(node, "shape", _at(inputs, 1)) or []
    return np.broadcast_to(array, np.broadcast_shapes(array.shape, tuple(target)))


def _constant_of_shape(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    attribute = node.attributes.get("value")
    fill = np.zeros(1, np.float32) if attribute is None else attribute.as_tensor().numpy()
    return np.broadcast_to(fill.reshape(()), [int(size) for size in _first(inputs)])


def _range(_node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    start, limit, step = (array.item() for array in inputs if array is not None)
    if abs((limit - start) / step) > _LARGEST:
        raise _TooLargeError
    return np.arange(start, limit, step, dtype=_first(inputs).dtype)


def _reduction(function: Callable[..., Any]) -> Callable[..., Array]:
    def run(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
        array = _first(inputs)
        axes = _ints(node, "axes", _at(inputs, 1))
        if array.size > _LARGEST:
            raise _TooLargeError
        if not axes and _int(node, "noop_with_empty_axes", 0):
            return array
        keep = bool(_int(node, "keepdims", 1))
        return np.asarray(function(array, axis=tuple(axes) if axes else None, keepdims=keep))

    return run


def _clip(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    bounds: list[Any] = []
    for index, name in ((1, "min"), (2, "max")):
        given, attribute = _at(inputs, index), node.attributes.get(name)
        bounds.append(attribute.as_float() if given is None and attribute is not None else given)
    low, high = bounds
    if low is None and high is None:
        return _first(inputs)
    return np.asarray(np.clip(_first(inputs), low, high))


def _modulus(x: Array, y: Array) -> Array:
    return np.asarray(np.mod(x, y))


def _remainder(x: Array, y: Array) -> Array:
    return np.asarray(np.fmod(x, y))


def _modulo(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    function: Callable[..., Array] = _remainder if _int(node, "fmod", 0) else _modulus
    return _elementwise(function)(node, inputs)


def _folded(function: Any, node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    result = _first(inputs)
    for array in inputs[1:]:
        result = _elementwise(function)(node, [result, array])
    return result


_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "Abs": np.abs,
    "Add": np.add,
    "And": np.logical_and,
    "Ceil": np.ceil,
    "Div": _divide,
    "Equal": np.equal,
    "Exp": np.exp,
    "Floor": np.floor,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Identity": lambda x: x,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Log": np.log,
    "Mul": lambda x, y: np.asarray(x * y),
    "Neg": np.negative,
    "Not": np.logical_not,
    "Or": np.logical_or,
    "Pow": lambda x, y: np.asarray(np.power(x, y)).astype(x.dtype),
    "Reciprocal": lambda x: np.asarray(1 / x, x.dtype),
    "Round": np.round,
    "Sqrt": np.sqrt,
    "Sub": np.subtract,
    "Where": np.where,
    "Xor": np.logical_xor,
}

OPERATORS: dict[str, Callable[[ir.Node, Sequence[Array | None]], Array | None]] = {
    **{name: _elementwise(function) for name, function in _ELEMENTWISE.items()},
    "Max": lambda node, inputs: _folded(np.maximum, node, inputs),
    "Min": lambda node, inputs: _folded(np.minimum, node, inputs),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Clip": _clip,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Gather": _gather,
    "Mod": _modulo,
    "Range": _range,
    "ReduceMax": _reduction(np.max),
    "ReduceMean": _reduction(np.mean),
    "ReduceMin": _reduction(np.min),
    "ReduceProd": _reduction(np.prod),
    "ReduceSum": _reduction(np.sum),
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""First outputs by operator, given the node and its inputs."""
