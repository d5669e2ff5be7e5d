"""What values are that depend on no data: constants, sizes, rates, scales.

Free sizes and scalar inputs get sample numbers (see `intervals`), so that sizes computed in
different ways can be compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnx_structdrop.graph.files.tensors import content
from onnx_structdrop.graph.proofs import sizes
from onnx_structdrop.graph.proofs.arithmetic import OPERATORS, compute, is_uniform
from onnx_structdrop.graph.proofs.dtypes import element_type
from onnx_structdrop.graph.proofs.intervals import (
    ANY,
    SAMPLES,
    Range,
    exact,
    sample_ratio,
    sample_size,
    span,
)
from onnx_structdrop.graph.proofs.sizes import Dims, Sizes
from onnx_structdrop.graph.proofs.sources import DEFAULT_DOMAINS
from onnx_structdrop.graph.proofs.steps import decided

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Parameters"]

Array = np.ndarray[Any, Any]
_Key = tuple[str, ir.Value]

_LARGEST_CONSTANT = 1 << 16

_NUMBERS = {
    ir.AttributeType.FLOAT: np.float32,
    ir.AttributeType.FLOATS: np.float32,
    ir.AttributeType.INT: np.int64,
    ir.AttributeType.INTS: np.int64,
}


class Parameters:
    """Evaluates, on demand, what does not depend on data.

    Parameters
    ----------
    model
        The model; it is only read.
    actuals
        For each input of a function body, the values that its calls pass in.
    """

    def __init__(self, model: ir.Model, actuals: dict[ir.Value, list[ir.Value | None]]) -> None:
        self._model = model
        self._actuals = actuals
        self._known: dict[_Key, Any] = {}
        self._unknowns: dict[ir.Value, int] = {}
        self._sizes = Sizes(model)

    def arrays(self, value: ir.Value | None) -> list[Array] | None:
        """Return the content of a value under each assignment, or None if it is not known.

        One array stands for all assignments where they agree.
        """
        found: list[Array] | None = self._resolve("arrays", value)
        return found

    def dims(self, value: ir.Value | None) -> Dims | None:
        """Return the shape of a value, each size under each assignment."""
        found: Dims | None = self._resolve("dims", value)
        return found

    def learn_dims(self, value: ir.Value, dims: Dims) -> None:
        """Note the shape of a value that this class knows no rule for."""
        self._known.setdefault(("dims", value), dims)

    def number(self, value: ir.Value | None) -> Range | None:
        """Return the range of a value's entries, which is one number where they are equal."""
        arrays = self.arrays(value)
        if arrays is None or any(array.size == 0 or array.dtype.kind in "OSU" for array in arrays):
            return None
        many = SAMPLES // len(arrays)
        if all(is_uniform(array) for array in arrays):
            numbers = [float(array[(0,) * array.ndim]) for array in arrays]
            return exact(np.asarray(numbers * many))
        low = np.asarray([float(array.min()) for array in arrays] * many)
        high = np.asarray([float(array.max()) for array in arrays] * many)
        return ANY if np.isnan(low).any() or np.isnan(high).any() else span(low, high)

    def is_table(self, value: ir.Value | None) -> bool:
        """Tell whether a value holds many numbers, and not just zeros and ones."""
        arrays = self.arrays(value) or ()
        return any(
            array.size > 1 and not is_uniform(array) and not np.isin(array, (0, 1)).all()
            for array in arrays
        )

    def rounds(self, node: ir.Node) -> bool:
        """Tell whether a division may be one of integers, which scales nothing."""
        for value in node.inputs:
            dtype = None if value is None else element_type(value, self._actuals)
            if dtype is not None:
                return not dtype.is_floating_point()
        return True

    def _resolve(self, what: str, value: ir.Value | None) -> Any:
        """Work through what a value needs, without recursion: chains may be long."""
        if value is None:
            return None
        pending: list[_Key] = [(what, value)]
        entered: set[_Key] = set()
        while pending:
            key = pending[-1]
            if key in self._known:
                pending.pop()
                continue
            needs = self._needs(key)
            missing = [] if needs is None else [need for need in needs if need not in self._known]
            if needs is None:
                self._known[key] = self._last_resort(key)
            elif any(need in entered for need in missing):
                self._known[key] = None
            elif missing:
                entered.add(key)
                pending += missing
                continue
            else:
                self._known[key] = self._evaluate(key)
            entered.discard(key)
            pending.pop()
        return self._known[what, value]

    def _needs(self, key: _Key) -> list[_Key] | None:
        """Return what has to be known first, or None if it would not help."""
        what, value = key
        if what == "dims" and (
            _is_formal_scalar(value) or self._sizes.settled(value, self._tensor(value))
        ):
            return []
        if value in self._actuals:
            return [(what, given) for given in self._actuals[value] if given is not None]
        node = value.producer()
        inner = self._body_output(value)
        if inner is not None:
            return [(what, inner)]
        if what == "dims":
            return None if node is None else sizes.needs(value, node)
        if node is None or _is_constant(node):
            return []
        if node.domain not in DEFAULT_DOMAINS or not node.inputs:
            return None
        if node.op_type in ("Shape", "Size"):
            return [] if node.inputs[0] is None else [("dims", node.inputs[0])]
        if node.op_type not in OPERATORS or value is not node.outputs[0]:
            return None
        return [("arrays", item) for item in _content_inputs(node) if item is not None]

    def _last_resort(self, key: _Key) -> Dims | None:
        """Return at least the rank of a value for which there is no rule."""
        what, value = key
        return self._sizes.merged(value, self._tensor(value), None) if what == "dims" else None

    def _body_output(self, value: ir.Value) -> ir.Value | None:
        node = value.producer()
        function = None if node is None else self._model.functions.get(node.op_identifier())
        index = value.index()
        if function is None or index is None or index >= len(function.outputs):
            return None
        return function.outputs[index]

    def _tensor(self, value: ir.Value) -> ir.TensorProtocol | None:
        """Return the tensor that a value always is, if it is stored in the model."""
        node = value.producer()
        if node is None:
            # From IR version 4 a caller may replace an initializer that is an input as well.
            fixed = not value.is_graph_input() or self._model.ir_version < 4
            return value.const_value if fixed else None
        if not _is_constant(node):
            return None
        attribute = next(iter(node.attributes.values()), None)
        if attribute is None or attribute.is_ref():
            return None
        if attribute.type == ir.AttributeType.TENSOR:
            return attribute.as_tensor()
        kind = _NUMBERS.get(attribute.type)
        return None if kind is None else ir.tensor(np.asarray(attribute.value, kind))

    def _evaluate(self, key: _Key) -> Any:
        what, value = key
        if what == "dims" and _is_formal_scalar(value):
            return ()
        if value in self._actuals:
            agreed = self._agreed(what, value)
            if what == "arrays":
                return agreed
            return self._sizes.merged(value, None, agreed)
        inner = self._body_output(value)
        found = None if inner is None else self._known.get((what, inner))
        if what == "arrays":
            return found if inner is not None else self._arrays_of(value)
        node = value.producer()
        if inner is None and node is not None and sizes.needs(value, node) is not None:
            found = sizes.derived(value, node, self._known.get)
        return self._sizes.merged(value, self._tensor(value), found)

    def _agreed(self, what: str, value: ir.Value) -> Any:
        """Return what all calls of a function agree on."""
        found: list[Any] = []
        for given in self._actuals[value]:
            known = None if given is None else self._known.get((what, given))
            if known is None:
                return None
            found.append(known)
        if not found:
            return None
        first = found[0]
        if what == "dims":
            if any(len(item) != len(first) for item in found):
                return None
            return tuple(
                given[0]
                if all(np.array_equal(size, given[0]) for size in given)
                else np.asarray(sample_size((value.name, axis)))
                for axis, given in enumerate(zip(*found, strict=True))
            )
        if all(_same(item, first) for item in found):
            return first
        if all(array.size == 1 and array.dtype.kind == "f" for item in found for array in item):
            return self._unknown_scalar(value)
        return None

    def _arrays_of(self, value: ir.Value) -> list[Array] | None:
        tensor = self._tensor(value)
        if tensor is not None:
            return _content(tensor)
        node = value.producer()
        if node is None:
            return self._input(value)
        if _is_constant(node):
            # A number that is an attribute of the function around it.
            kinds = {attribute.type for attribute in node.attributes.values()}
            return self._unknown_scalar(value) if kinds == {ir.AttributeType.FLOAT} else None
        if node.op_type in ("Shape", "Size"):
            return self._shape(node)
        needed = _content_inputs(node)
        inputs = [None if v is None else self._known.get(("arrays", v)) for v in needed]
        if any(v is not None and a is None for v, a in zip(needed, inputs, strict=True)):
            return None
        count = max((len(arrays) for arrays in inputs if arrays is not None), default=1)
        results = []
        for index in range(count):
            taken = [None if arrays is None else arrays[index % len(arrays)] for arrays in inputs]
            result = compute(node, taken)
            if result is None:
                return None
            results.append(result)
        return results if decided(node, inputs, results, self._is_fixed) else None

    def _is_fixed(self, value: ir.Value) -> bool:
        arrays = self._known.get(("arrays", value))
        return arrays is not None and all(_equal(array, arrays[0]) for array in arrays)

    def _unknown_scalar(self, value: ir.Value) -> list[Array]:
        # Names repeat from scope to scope: the count keeps different unknowns apart.
        number = self._unknowns.setdefault(value, len(self._unknowns))
        return [np.asarray(sample) for sample in sample_ratio((value.name, number))]

    def _input(self, value: ir.Value) -> list[Array] | None:
        """Return sample numbers for a scalar input of the model, such as a ratio."""
        if not value.is_graph_input() or value.graph is not self._model.graph:
            return None
        if value.shape is None or len(value.shape) > 1 or any(size != 1 for size in value.shape):
            return None
        if value.dtype is None or not value.dtype.is_floating_point():
            return None
        return self._unknown_scalar(value)

    def _shape(self, node: ir.Node) -> list[Array] | None:
        value = node.inputs[0]
        dims: Dims | None = None if value is None else self._known.get(("dims", value))
        if dims is None:
            return None
        table = np.stack(dims, axis=-1) if dims else np.zeros((SAMPLES, 0), np.int64)
        if node.op_type == "Size":
            return [np.asarray(row.prod(), np.int64) for row in table]
        start, end = (node.attributes.get(name) for name in ("start", "end"))
        part = slice(
            None if start is None else start.as_int(), None if end is None else end.as_int()
        )
        rows = [np.asarray(row[part], np.int64) for row in table]
        return rows[:1] if all(np.array_equal(row, rows[0]) for row in rows) else rows


def _content_inputs(node: ir.Node) -> Sequence[ir.Value | None]:
    return node.inputs[:1] if node.op_type == "CastLike" else node.inputs


def _is_constant(node: ir.Node) -> bool:
    return node.op_type == "Constant" and node.domain in DEFAULT_DOMAINS


def _is_formal_scalar(value: ir.Value) -> bool:
    """Tell whether a value is a number that is an attribute of the function around it."""
    node = value.producer()
    if node is None or not _is_constant(node):
        return False
    return any(
        attribute.is_ref() and name in ("value_float", "value_int")
        for name, attribute in node.attributes.items()
    )


def _equal(one: Array, other: Array) -> bool:
    return one is other or np.array_equal(one, other)


def _same(one: list[Array], other: list[Array]) -> bool:
    return len(one) == len(other) and all(
        np.array_equal(a, b) for a, b in zip(one, other, strict=True)
    )


def _content(tensor: ir.TensorProtocol) -> list[Array] | None:
    if tensor.size > _LARGEST_CONSTANT or tensor.dtype == ir.DataType.STRING:
        return None
    array = content(tensor)
    if array is None:
        return None  # Data that cannot be read prove nothing.
    return [array.astype(np.float32) if tensor.dtype == ir.DataType.BFLOAT16 else array]
