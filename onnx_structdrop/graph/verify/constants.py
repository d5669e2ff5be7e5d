"""Constants of one element."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_structdrop.errors import ModelError
from onnx_structdrop.graph.reading import constant_array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["is_blank", "is_integer", "scalar"]

_PASSED_ON = ("Cast", "CastLike", "Identity")


def is_blank(value: ir.Value) -> bool:
    """Tell whether a value holds the same number at every position, whatever the inputs are."""
    producer = value.producer()
    while producer is not None and producer.op_type in (*_PASSED_ON, "Expand") and producer.inputs:
        if producer.inputs[0] is None:
            return False
        value = producer.inputs[0]
        producer = value.producer()
    if producer is not None and producer.op_type == "ConstantOfShape":
        return True
    if value.is_graph_input():
        return False
    try:
        array = constant_array(value)
        return array is not None and array.size > 0 and bool((array == array.flat[0]).all())
    except (ModelError, ArithmeticError, AttributeError, LookupError, OSError, TypeError,
            ValueError):  # fmt: skip
        return False


def is_integer(value: ir.Value | None) -> bool:
    """Tell whether a value is known to hold integers, by its type or as a constant."""
    if value is None:
        return False
    if value.dtype is not None:
        return value.dtype.is_integer()
    try:
        array = constant_array(value)
    except (ModelError, ArithmeticError, AttributeError, LookupError, OSError, TypeError,
            ValueError):  # fmt: skip
        return False
    return array is not None and array.dtype.kind in "iu"


def scalar(value: ir.Value | None) -> float | None:
    """Return the number that a constant holds, or None where it is no constant number."""
    producer = None if value is None else value.producer()
    while producer is not None and producer.op_type in _PASSED_ON and producer.inputs:
        value = producer.inputs[0]
        producer = None if value is None else value.producer()
    if value is None or value.is_graph_input():
        return None
    try:
        array = constant_array(value)
        if array is None or array.size != 1 or array.dtype.kind in "OSU":
            return None
        return float(array.reshape(-1)[0])
    except (ModelError, ArithmeticError, AttributeError, LookupError, OSError, TypeError,
            ValueError):  # fmt: skip
        return None
