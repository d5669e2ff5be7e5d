"""Added noise that is the model's purpose: a sampler adds noise of constant deviation as well."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_structdrop.graph.proofs.noise import NotProvenError
from onnx_structdrop.graph.proofs.sources import DEFAULT_DOMAINS, label
from onnx_structdrop.graph.proofs.transfer import MOVING
from onnx_structdrop.graph.topology.dataflow import operators

__all__ = ["check_deviation", "check_use"]

_DECIDING = operators(
    """ArgMax ArgMin Ceil Equal Floor Greater GreaterOrEqual Hardmax Less LessOrEqual Mod
    Round Sign TopK"""
)
_ORDER_KEEPING = MOVING | operators("Add Div LogSoftmax Mul Sigmoid Softmax Sub Tanh")
"""Operators behind which a decision is still one about the noisy values themselves."""

_DIGITS = 3


def check_use(value: ir.Value, *, looped: bool) -> None:
    """Refuse noise that is added to decide, or step by step.

    ``x + noise > 0`` and ``argmax(x + noise)`` draw samples; a loop that adds noise in each
    round walks at random.

    Parameters
    ----------
    value
        The sum of data and noise.
    looped
        Whether it is computed in a body of Loop or Scan.

    Raises
    ------
    NotProvenError
        If the noise has such a use.
    """
    if looped:
        raise NotProvenError("noise is added in each round of a loop, as a sampler does")
    pending, seen = [value], {value}
    while pending:
        for node, _ in pending.pop().uses():
            if node.domain not in DEFAULT_DOMAINS:
                continue
            if node.op_type in _DECIDING or _cuts(node):
                raise NotProvenError(
                    f"{label(node)} decides by data with noise added, which draws a sample"
                )
            if node.op_type in _ORDER_KEEPING and _has_one_operand(node):
                pending += [output for output in node.outputs if output not in seen]
                seen.update(node.outputs)


def check_deviation(deviation: float, tolerance: float) -> None:
    """Refuse noise whose deviation is no number that a person sets.

    A learned one has as many digits as its element type holds. What is set is a short decimal,
    one over it, its root, or a share of 255 grey levels.

    Raises
    ------
    NotProvenError
        If it is none of those.
    """
    size = abs(deviation)
    if size == 0.0 or not np.isfinite(size):
        return
    for number in (size, 1.0 / size, size * size, 255.0 * size):
        short = float(f"{number:.{_DIGITS}g}")
        if abs(short - number) <= 2 * tolerance * number:
            return
    raise NotProvenError(
        f"the deviation of the noise, {size:.7g}, is no number that one sets: it may be learned"
    )


def _cuts(node: ir.Node) -> bool:
    """Tell whether a node converts to a type that holds whole numbers only."""
    if node.op_type not in ("Cast", "CastLike"):
        return False
    dtype = node.outputs[0].dtype
    attribute = node.attributes.get("to")
    if attribute is not None and not attribute.is_ref():
        dtype = ir.DataType(attribute.as_int())
    return dtype is not None and not dtype.is_floating_point()


def _has_one_operand(node: ir.Node) -> bool:
    """Tell whether all operands but one are constants of the file."""
    return sum(value is not None and not _is_constant(value) for value in node.inputs) == 1


def _is_constant(value: ir.Value) -> bool:
    node = value.producer()
    if node is None:
        return value.const_value is not None and not value.is_graph_input()
    return node.op_type == "Constant"
