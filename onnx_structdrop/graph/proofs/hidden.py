"""Scales that belong to a mask but sit elsewhere.

A mask without a scale next to it is complete only if its 1/keep is nowhere around: ahead of it,
as tf.nn.dropout has it, or behind operators through which a scale passes unchanged.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from onnx_structdrop.graph.proofs.intervals import Array, close
from onnx_structdrop.graph.proofs.noise import ROUNDING, NotProvenError
from onnx_structdrop.graph.proofs.sources import DEFAULT_DOMAINS
from onnx_structdrop.graph.proofs.transfer import MOVING, coarseness
from onnx_structdrop.graph.topology.dataflow import operators

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnx_structdrop.graph.proofs.calls import Calls
    from onnx_structdrop.graph.proofs.parameters import Parameters
    from onnx_structdrop.graph.proofs.verdicts import Proof

__all__ = ["hidden_scale", "prescale"]

_DEPTH = 12
_NODES = 48
_NEAR = 1e-4

_SHAPE_ONLY = operators("Shape Size RandomNormalLike RandomUniformLike")

# A factor on the input of these is one on the output (of the data, that is; biases aside).
_HOMOGENEOUS = MOVING | operators(
    """Add AveragePool Cast CastLike Concat Conv ConvTranspose Dropout Gemm GlobalAveragePool
    GlobalMaxPool LeakyRelu MatMul MaxPool Pad PRelu ReduceMax ReduceMean ReduceSum Relu Resize
    Sub Sum Where"""
)


def prescale(proof: Proof, parameters: Parameters, joins: set[ir.Node]) -> Proof | None:
    """Return the proof with the data before a scale ahead of the mask, if there is one.

    Raises
    ------
    NotProvenError
        If there is a scale that may be meant for the mask, and is not its 1/keep.
    """
    value, factor, moved = proof.anchor, np.ones(3), []
    tolerance = coarseness(proof.value.dtype)
    scaled: ir.Node | None = None
    for _ in range(_DEPTH):
        node = value.producer()
        if node is None or node.domain not in DEFAULT_DOMAINS or len(node.outputs) != 1:
            break
        if node in joins:
            break
        if node.op_type in MOVING or node.op_type in ("Cast", "CastLike"):
            source = node.inputs[0]
            if source is None:
                break
            if node.op_type != "Identity":
                moved.append(node)
            value = source
            continue
        step = scalar_factor(node, parameters)
        if step is None:
            break
        scaled, source, number = node, step[0], step[1]
        factor = factor * number
        value = source
        near = max(tolerance, ROUNDING * float(np.abs(factor).max()))
        if proof.chance is not None and close(factor * proof.chance, 1.0, near):
            _check_exclusive(node, proof)
            return replace(
                proof,
                anchor=value,
                strength="rescaled",
                carried=(*reversed(moved), *proof.carried),
                evidence=f"{proof.evidence}; the scale 1/keep stands ahead of the mask",
            )
    if scaled is not None and not proof.counted and bool((np.abs(factor) > 1 + tolerance).any()):
        raise NotProvenError(
            f"the data are scaled by {factor[0]:.6g} ahead of the mask, which is not its 1/keep"
        )
    return None


def _check_exclusive(scaled: ir.Node, proof: Proof) -> None:
    """Make sure that a scale ahead of a mask serves masks alone."""
    inside = set(proof.joins)
    pending, seen = [scaled], {scaled}
    while pending:
        node = pending.pop()
        if node.outputs[0].is_graph_output():
            raise NotProvenError("the scale ahead of the mask reaches an output as well")
        for user, _ in node.outputs[0].uses():
            if user in inside or user in seen or user.op_type in _SHAPE_ONLY:
                continue
            if user.op_type in MOVING or user.op_type in ("Cast", "CastLike"):
                seen.add(user)
                pending.append(user)
                continue
            raise NotProvenError(
                f"the scale ahead of the mask is used by {user.op_type} {user.name!r} as well"
            )


def hidden_scale(
    proof: Proof, parameters: Parameters, calls: Calls, joins: set[ir.Node]
) -> ir.Node | None:
    """Return a node that scales by 1/keep, ahead of a mask or behind it, at some distance.

    Nodes of `joins` belong to masks of their own, ahead of this one.
    """
    chance = proof.chance
    if chance is None or bool((chance > 0.999).all()):
        return None
    tolerance = max(_NEAR, coarseness(proof.value.dtype))
    value, factor = proof.anchor, np.ones(3)
    for _ in range(_DEPTH):
        node = value.producer()
        if node is None and calls.actuals.get(value):
            outer = calls.actuals[value][0]
            if outer is None:
                break
            value = outer
            continue
        if node is None or not node.inputs or node in joins:
            break
        step = scalar_factor(node, parameters)
        if step is None and (node.op_type not in _HOMOGENEOUS or node.inputs[0] is None):
            break
        if step is None:
            value = node.inputs[0]  # type: ignore[assignment]
            continue
        value, factor = step[0], factor * step[1]
        if close(factor * chance, 1.0, tolerance):
            return node
    pending: list[tuple[ir.Value, Array]] = [(proof.value, np.ones(3))]
    for _ in range(_NODES):  # Wide fans are cut off: the nearest come first.
        if not pending:
            break
        value, factor = pending.pop(0)
        pending += [(outer, factor) for outer in calls.results.get(value, ())]
        for node, _ in itertools.islice(value.uses(), _NODES):
            step = scalar_factor(node, parameters)
            after = factor if step is None else factor * step[1]
            if step is not None and close(after * chance, 1.0, tolerance):
                return node
            if step is not None or node.op_type in _HOMOGENEOUS:
                pending += [(output, after) for output in node.outputs[:1]]
    return None


def scalar_factor(node: ir.Node, parameters: Parameters) -> tuple[ir.Value, Array] | None:
    """Return the data and the number of a node that multiplies or divides by one number."""
    if node.domain not in DEFAULT_DOMAINS or node.op_type not in ("Mul", "Div"):
        return None
    for data, other in ((0, 1), (1, 0)):
        if node.op_type == "Div" and (data == 1 or parameters.rounds(node)):
            break
        value = node.inputs[data]
        number = parameters.number(node.inputs[other])
        if value is None or number is None or not number.known:
            continue
        if parameters.number(value) is not None:
            return None
        with np.errstate(all="ignore"):
            return value, 1.0 / number.low if node.op_type == "Div" else number.low
    return None
