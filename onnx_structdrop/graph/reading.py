"""Reading a node that may be malformed: what cannot be read is a problem, not an exception."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnx_structdrop.errors import ModelError
from onnx_structdrop.graph.files.wellformed import one_line, quoted

if TYPE_CHECKING:
    from collections.abc import Collection

    import numpy.typing as npt

__all__ = ["Reading", "constant_array"]

_LARGEST = 64
"""Elements of what is read: larger constants are weights."""

_NUMBERS = (ir.AttributeType.INT, ir.AttributeType.FLOAT)


def constant_array(value: ir.Value) -> npt.NDArray[Any] | None:
    """Return what a small constant holds, or None.

    `onnx_ir.convenience.get_const_tensor` would write the value's name into a tensor that may be
    the caller's. Whatever is wrong with the tensor shows in the exception that reading it raises.
    """
    if value.const_value is not None:
        return _small(value.const_value)
    node = value.producer()
    if node is None or node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    attribute = next(iter(node.attributes.values()), None)
    if attribute is None or attribute.is_ref():
        return None
    if attribute.type == ir.AttributeType.TENSOR:
        return _small(attribute.as_tensor())
    types = {ir.AttributeType.FLOAT: np.float32, ir.AttributeType.FLOATS: np.float32,
             ir.AttributeType.INT: np.int64, ir.AttributeType.INTS: np.int64}  # fmt: skip
    if attribute.type not in types:
        return None
    return np.asarray(attribute.value, types[attribute.type])


def _small(tensor: ir.TensorProtocol) -> npt.NDArray[Any] | None:
    return tensor.numpy() if tensor.size <= _LARGEST else None


class Reading:
    """The attributes, inputs and outputs of one node.

    Parameters
    ----------
    node
        Is only read.
    known
        Content of constants that were read before: many nodes share one.

    Attributes
    ----------
    problems : list of str
        What was found to be malformed so far.
    """

    def __init__(self, node: ir.Node, known: dict[ir.Value, Any] | None = None) -> None:
        self._node = node
        self._known = {} if known is None else known
        self.problems: list[str] = []

    def input(self, place: int) -> ir.Value | None:
        """Return an input, or None where there is none."""
        return self._node.inputs[place] if place < len(self._node.inputs) else None

    def output(self) -> ir.Value | None:
        """Return the first output."""
        if not self._node.outputs:
            self._problem("it has no output")
            return None
        return self._node.outputs[0]

    def integer(self, name: str, default: int | None = None) -> int | None:
        """Return an integer attribute; None where it is the caller's to give, or malformed."""
        value = self._attribute(name, (ir.AttributeType.INT,), default)
        return None if value is None else int(value)

    def number(self, name: str) -> int | float | None:
        """Return an attribute that is an integer or a float."""
        value: int | float | None = self._attribute(name, _NUMBERS, None)
        return value

    def attributes(self, without: Collection[str]) -> dict[str, int | float | list[int]]:
        """Return the numbers and lists of integers among the other attributes."""
        return {
            name: list(attribute.as_ints())
            if attribute.type == ir.AttributeType.INTS
            else attribute.value
            for name, attribute in self._node.attributes.items()
            if name not in without
            and not attribute.is_ref()
            and attribute.type in (*_NUMBERS, ir.AttributeType.INTS)
        }

    def flag(self, place: int) -> bool | None:
        """Return a bool input: False where it is left out, None where it is not constant."""
        value = self.input(place)
        if value is None:
            return False
        constant = self._constant(value)
        if constant is None:
            return None
        if not isinstance(constant, bool):
            self._problem(f"{quoted(value.name or '')} is {constant!r}, a bool is needed")
            return None
        return constant

    def ratio(self, place: int, default: float | None = None) -> float | str | None:
        """Return the ratio: an input, an attribute, or what holds where there is neither."""
        value = self.input(place)
        if value is None:
            ratio: float | None = self._attribute("ratio", _NUMBERS, default)
            return None if ratio is None else float(ratio)
        constant = self._constant(value)
        if constant is None:
            return value.name
        if isinstance(constant, bool) or not isinstance(constant, int | float):
            self._problem(f"its ratio {quoted(value.name or '')} is {constant!r}, no number")
            return value.name
        return float(constant)

    def _attribute(self, name: str, types: Collection[ir.AttributeType], default: Any) -> Any:
        attribute = self._node.attributes.get(name)
        if attribute is None:
            return default
        if attribute.is_ref():
            return None
        if attribute.type not in types:
            wanted = " or a ".join(kind.name for kind in types)
            self._problem(f"its attribute {name!r} is a {attribute.type.name}, not a {wanted}")
            return None
        return attribute.value

    def _constant(self, value: ir.Value) -> Any:
        """Return the one element that a constant holds, or None."""
        if value not in self._known:
            content = self._content(value)
            if self.problems:
                return content  # read again, so that every node has its problems
            self._known[value] = content
        return self._known[value]

    def _content(self, value: ir.Value) -> Any:
        if value.is_graph_input():
            return None
        try:
            array = constant_array(value)
            if array is None or array.size != 1:
                return None
            content = array.reshape(-1)[0]
        except (ModelError, ArithmeticError, AttributeError, LookupError, OSError, TypeError,
                ValueError) as error:  # fmt: skip
            self._problem(f"{quoted(value.name or '')} cannot be read: {one_line(error)}")
            return None
        return content.item() if hasattr(content, "item") else content

    def _problem(self, text: str) -> None:
        if text not in self.problems:
            self.problems.append(text)
