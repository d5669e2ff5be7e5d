"""The evaluation model with its parameters inside, made without onnxruntime-training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import numpy_helper

from onnx_structdrop.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

__all__ = ["inference_model"]


def inference_model(
    evaluation: onnx.ModelProto, outputs: Sequence[str], parameters: Mapping[str, np.ndarray]
) -> onnx.ModelProto:
    """Return what onnxruntime-training calls the model for inferencing.

    Parameters
    ----------
    evaluation
        The evaluation model of artifacts: its parameters are inputs, and it computes a loss.
    outputs
        What the result returns; the loss and what else is not needed for it are left out.
    parameters
        Values of the inputs that are parameters.

    Raises
    ------
    ModelError
        The model makes no value of such a name.
    """
    graph = evaluation.graph
    infos = {info.name: info for info in (*graph.output, *graph.value_info)}
    missing = [name for name in outputs if name not in infos]
    if missing:
        raise ModelError(f"the evaluation model has no output {missing[0]!r}; make it again")
    needed, nodes = set(outputs), []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(name for name in _read(node) if name)
    result = onnx.ModelProto()
    result.CopyFrom(evaluation)
    del result.graph.node[:], result.graph.input[:], result.graph.output[:]
    del result.graph.initializer[:]
    result.graph.node.extend(reversed(nodes))
    result.graph.output.extend(infos[name] for name in outputs)
    result.graph.input.extend(
        info for info in graph.input if info.name in needed and info.name not in parameters
    )
    result.graph.initializer.extend(each for each in graph.initializer if each.name in needed)
    result.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in parameters.items() if name in needed
    )
    return result


def _read(node: onnx.NodeProto) -> set[str]:
    """Return the names that a node reads, in its subgraphs as well."""
    found = set(node.input)
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for each in inner.node:
                found |= _read(each)
            found.update(output.name for output in inner.output)
    return found
