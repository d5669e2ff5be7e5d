"""From a training graph of onnxruntime-training to one that every onnxruntime runs."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import onnx

from onnx_structdrop.errors import UnsupportedModelError
from onnx_structdrop.schema import DOMAIN
from onnx_structdrop.training.lowering.registry import ACCUMULATOR, RULES
from onnx_structdrop.training.lowering.writer import Operation, Writer

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["lower"]

_ONNX = ("", "ai.onnx")
_BUILDER = "com.microsoft"
_OPSET = 17
"""Lowest opset of the result: it scatters with a sum (16) and normalises layers (17). From 13 on,
no operator that inference uses changed its meaning up to here."""


def lower(training_model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace the operators that only onnxruntime-training has by standard ones.

    Works on training and eval models of its artifacts. Gradients that were accumulated in place
    become outputs of their own, named ``<parameter>_grad``, in the order of the accumulators, and
    the inputs of the accumulators go. Nodes of this package and other standard nodes stay.

    Parameters
    ----------
    training_model
        A model as onnxruntime-training 1.19.2 writes it. It is not changed.

    Returns
    -------
    onnx.ModelProto
        Of opset 17 or the model's own, if that is higher.

    Raises
    ------
    UnsupportedModelError
        A node has no standard form; the message names it and its operator.

    Examples
    --------
    >>> import onnx
    >>> from onnx_structdrop.training.lowering import lower
    >>> model = onnx.load("artifacts/training_model.onnx")  # doctest: +SKIP
    >>> onnx.save(lower(model), "training_stock.onnx")  # doctest: +SKIP
    """
    model = copy.deepcopy(training_model)
    opset = _raise_opset(model)
    functions = {(function.domain, function.name) for function in model.functions}
    _release_gradients(model.graph)
    writer = Writer(model.graph)
    for node in model.graph.node:
        rule = RULES.get(node.op_type)
        if rule is not None and node.domain in (*_ONNX, _BUILDER):
            operation = Operation(node)
            try:
                rule(operation, writer)
            except (KeyError, ValueError, IndexError) as error:
                raise operation.refuse(f"its form is unusual ({error!r})") from error
            continue
        _check(node, opset, functions)
        writer.nodes.append(node)
    for function in model.functions:
        for node in function.node:
            _check(node, opset, functions)
    kept = [copy.deepcopy(node) for node in writer.nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(writer.initializers)
    del model.graph.value_info[:]  # what it says of values that are gone would be wrong
    _drop_unused(model)
    return model


def _raise_opset(model: onnx.ModelProto) -> int:
    """Set the opset to one that has all that lowering needs, and return it."""
    version = next((entry.version for entry in model.opset_import if entry.domain in _ONNX), 0)
    if version < 13:
        raise UnsupportedModelError(
            f"the model imports ai.onnx opset {version}; training graphs are lowered from 13 on"
        )
    opset = max(version, _OPSET)
    if version == opset:
        return opset
    for node in model.graph.node:
        old_form = version < 14 and node.op_type == "BatchNormalization" and node.domain in _ONNX
        if old_form and sum(map(bool, node.output)) > 1:
            raise Operation(node).refuse("it trains in the form of opset 13")
    for importer in (model, *model.functions):
        for entry in importer.opset_import:
            if entry.domain in _ONNX:
                entry.version = opset
    return opset


def _release_gradients(graph: onnx.GraphProto) -> None:
    """Make gradients outputs, in the place of what adds them to buffers in place."""
    described = {value.name: value for value in graph.input}
    gradients: dict[str, tuple[str, str]] = {}
    gone: set[str] = set()
    nodes = []
    for node in graph.node:
        if node.op_type == ACCUMULATOR and node.domain == _BUILDER:
            buffer, gradient, *flag = node.input
            gone.update((buffer, *flag))
            gradients.update((output, (gradient, buffer)) for output in node.output if output)
        else:
            nodes.append(node)
    if not gradients:
        return
    inputs = [value for value in graph.input if value.name not in gone]
    outputs: list[onnx.ValueInfoProto] = []
    for value in graph.output:
        if value.name in gradients:  # it was a flag; the buffer has the gradient's type and shape
            gradient, buffer = gradients[value.name]
            value.CopyFrom(described[buffer])
            value.name = gradient
        if value.name not in {other.name for other in outputs}:
            outputs.append(value)
    for field, values in ((graph.node, nodes), (graph.input, inputs), (graph.output, outputs)):
        copies = [copy.deepcopy(value) for value in values]
        del field[:]
        field.extend(copies)


def _check(node: onnx.NodeProto, opset: int, functions: set[tuple[str, str]]) -> None:
    """Raise unless every onnxruntime has the operator, also those inside of the node."""
    known = (
        node.domain == DOMAIN
        or (node.domain, node.op_type) in functions
        or (node.domain.startswith("ai.onnx") and node.domain not in _ONNX)
        or (node.domain in _ONNX and onnx.defs.has(node.op_type, opset))
    )
    if not known:
        raise Operation(node).refuse("there is no rule for this operator")
    for inner in _inside(node):
        if inner.op_type in RULES and inner.domain in (*_ONNX, _BUILDER):
            raise Operation(inner).refuse(f"it is inside of node {node.name!r} ({node.op_type})")
        _check(inner, opset, functions)


def _inside(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            yield from graph.node


def _drop_unused(model: onnx.ModelProto) -> None:
    """Leave out the imports of domains that nothing uses any more."""
    used = {node.domain for node in model.graph.node}
    for function in model.functions:
        used.update((function.domain, *(node.domain for node in function.node)))
    for node in model.graph.node:
        used.update(inner.domain for inner in _inside(node))
    kept = [
        copy.deepcopy(entry)
        for entry in model.opset_import
        if entry.domain in _ONNX or entry.domain in used
    ]
    del model.opset_import[:]
    model.opset_import.extend(kept)
