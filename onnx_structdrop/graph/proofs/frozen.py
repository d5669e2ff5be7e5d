"""Masks that an optimiser froze into constants. They cannot be undone, only reported."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnx_structdrop.graph.files.tensors import content
from onnx_structdrop.graph.proofs.sources import DEFAULT_DOMAINS
from onnx_structdrop.graph.scopes import scopes

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["frozen_masks"]

_SMALLEST, _LARGEST = 16, 1 << 22
_GLANCE = 64


def frozen_masks(model: ir.Model) -> Iterator[tuple[str, ir.Node, str]]:
    """Yield scope, node and evidence of each product with a constant that looks like a mask.

    Such a constant holds 0 and one number c > 1, or 0 and 1 in a product that is then divided by
    a number below 1, and its share of zeros is what a mask with the keep probability 1/c has.
    """
    for scope, graph in scopes(model):
        for node in graph:
            if node.op_type != "Mul" or node.domain not in DEFAULT_DOMAINS:
                continue
            for value in node.inputs:
                evidence = None if value is None else _evidence(node, value)
                if evidence is not None:
                    yield scope, node, evidence


def _evidence(node: ir.Node, value: ir.Value) -> str | None:
    tensor = _tensor(value)
    if tensor is None or not _SMALLEST <= tensor.size <= _LARGEST:
        return None
    if not tensor.dtype.is_floating_point():
        return None
    array = content(tensor)
    if array is None or np.unique(array.reshape(-1)[:_GLANCE]).size > 2:
        return None
    numbers = np.unique(array)
    if numbers.size != 2 or numbers[0] != 0 or not numbers[1] > 0:
        return None
    top = float(numbers[1])
    scale = top if top > 1 else top * _later_scale(node)
    share = float((array != 0).mean())
    if not scale > 1.0:
        return None
    # Four standard deviations of the share that independent drops would give.
    spread = 4.0 * math.sqrt((1.0 - 1.0 / scale) / scale / array.size)
    if abs(share - 1.0 / scale) > spread:
        return None
    return (
        f"{value.name!r} holds 0 and {top:.4g}, and keeps {share:.3g} where 1/scale is "
        f"{1 / scale:.3g}"
    )


def _tensor(value: ir.Value) -> ir.TensorProtocol | None:
    if value.is_graph_input():
        return None
    node = value.producer()
    if node is None:
        return value.const_value
    attribute = node.attributes.get("value") if node.op_type == "Constant" else None
    if attribute is None or attribute.is_ref() or attribute.type != ir.AttributeType.TENSOR:
        return None
    return attribute.as_tensor()


def _later_scale(node: ir.Node) -> float:
    """Return the scale that a node right behind a product applies, or 0."""
    for user, index in node.outputs[0].uses():
        if user.op_type not in ("Mul", "Div") or user.domain not in DEFAULT_DOMAINS:
            continue
        other = user.inputs[1 - index] if len(user.inputs) == 2 else None
        tensor = None if other is None else _tensor(other)
        if tensor is not None and tensor.size == 1:
            number = float(tensor.numpy().item())
            if user.op_type == "Mul":
                return number
            return 1.0 / number if index == 0 and number else 0.0
    return 0.0
