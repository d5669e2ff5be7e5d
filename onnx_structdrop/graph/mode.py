"""Switching structured dropout on and off, and changing its seeds."""

from __future__ import annotations

from typing import TypeVar

import onnx
import onnx_ir as ir

from onnx_structdrop.errors import ArgumentTypeError
from onnx_structdrop.graph.convert import as_ir, like
from onnx_structdrop.graph.nodes import dropout_nodes
from onnx_structdrop.graph.record import check_not_inlined
from onnx_structdrop.graph.seeds import distinct_seeds
from onnx_structdrop.specs import arguments

__all__ = ["reseed", "set_training_mode"]

Model = TypeVar("Model", onnx.ModelProto, ir.Model)


def set_training_mode(model: Model, enabled: bool) -> Model:
    """Return a copy of a model whose structured dropout nodes drop, or do not.

    Only nodes of this package change. A model without such nodes is returned as an unchanged copy.

    Parameters
    ----------
    model
        An ``onnx.ModelProto`` or ``onnx_ir.Model``. It is not changed.
    enabled
        True to drop, False for identities.

    Raises
    ------
    ArgumentTypeError
        If `enabled` is not a bool.
    UnsupportedModelError
        If the nodes were inlined, which cannot be switched.
    """
    if not isinstance(enabled, bool):
        raise ArgumentTypeError(f"enabled must be True or False, not {enabled!r}")
    result = as_ir(model)
    check_not_inlined(result)
    for _, node in dropout_nodes(result):
        node.attributes["training_mode"] = ir.AttrInt64("training_mode", int(enabled))
    return like(model, result)


def reseed(model: Model, seed: int) -> Model:
    """Return a copy of a model whose structured dropout nodes have new seeds.

    Seeds stay distinct per node. The same `seed` on the same model gives the same seeds; give
    every rank or replica its own.

    Parameters
    ----------
    model
        An ``onnx.ModelProto`` or ``onnx_ir.Model``. It is not changed.
    seed
        From 0 to 2**63 - 1.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If `seed` is out of range or not an integer.
    UnsupportedModelError
        If the nodes were inlined.
    """
    checked = arguments.seed(seed, "reseed")
    if checked is None:
        raise ArgumentTypeError("reseed: seed must be an integer, not None")
    result = as_ir(model)
    check_not_inlined(result)
    seeds = distinct_seeds(checked)
    for _, node in dropout_nodes(result):
        node.attributes["seed"] = ir.AttrInt64("seed", next(seeds))
    return like(model, result)
