"""Element types, also where neither the model nor shape inference states them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from onnx_structdrop.graph.proofs.sources import DEFAULT_DOMAINS
from onnx_structdrop.graph.topology.dataflow import operators

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["element_type"]

_FLOAT_ONLY = operators(
    """AveragePool BatchNormalization Conv ConvTranspose Dropout Elu Erf Exp Gelu
    GlobalAveragePool HardSigmoid HardSwish InstanceNormalization LayerNormalization LeakyRelu Log
    LogSoftmax RandomNormal RandomNormalLike RandomUniform RandomUniformLike Selu
    Sigmoid Softmax Softplus Sqrt Tanh"""
)
_SAME = operators(
    """Abs Add Clip Concat Div Expand Flatten Gather Identity Max MaxPool Min Mul Neg Pad PRelu
    ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Slice Split Squeeze Sub Sum Tile
    Transpose Unsqueeze"""
)
_LONGEST = 1000


def element_type(
    value: ir.Value, actuals: Mapping[ir.Value, Sequence[ir.Value | None]]
) -> ir.DataType | None:
    """Return the element type of a value, or None where it is not told.

    Parameters
    ----------
    value
        A value.
    actuals
        For each input of a function body, the values that its calls pass in.
    """
    current: ir.Value | None = value
    for _ in range(_LONGEST):
        if current is None or current.dtype is not None:
            break
        if current.const_value is not None:
            return current.const_value.dtype
        node = current.producer()
        if node is None:
            current = next((given for given in actuals.get(current, ()) if given is not None), None)
            continue
        if node.domain not in DEFAULT_DOMAINS:
            return None
        to = node.attributes.get("to")
        if node.op_type == "Cast" and to is not None and not to.is_ref():
            return ir.DataType(to.as_int())
        tensor = node.attributes.get("value")
        if node.op_type in ("Constant", "ConstantOfShape") and tensor is not None:
            return None if tensor.is_ref() else tensor.as_tensor().dtype
        if node.op_type == "Constant":
            kind = next(iter(node.attributes), "")
            return ir.DataType.FLOAT if kind.startswith("value_float") else ir.DataType.INT64
        if node.op_type in ("CastLike", "Where"):
            current = node.inputs[1]
        elif node.op_type in _SAME:
            current = node.inputs[0]
        else:
            return ir.DataType.FLOAT if node.op_type in _FLOAT_ONLY else None
    return None if current is None else current.dtype
