"""Values of nodes that hang on nothing but constants and static shapes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from onnx_structdrop.errors import ModelError
from onnx_structdrop.graph.files.wellformed import one_line, quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_structdrop.graph.topology.shapes import Shapes

__all__ = ["Constants"]

# Shape arithmetic is small; larger results are cheaper to compute than to store.
_LARGEST = 1024

_RANDOM = ("Dropout", "RandomUniformLike")


class Constants:
    """Evaluates the nodes of our inlined bodies, as far as they are constant.

    Initializers do not count: a ratio has to stay what drives its node. Shapes that the model
    does not state are looked up in `shapes`, where given.
    """

    def __init__(self, shapes: Shapes | None = None) -> None:
        self._shapes = shapes
        self._known: dict[ir.Value, np.ndarray[Any, Any]] = {}

    def value(self, value: ir.Value | None) -> np.ndarray[Any, Any] | None:
        """Return the content of a value if it was found to be constant."""
        return None if value is None else self._known.get(value)

    def learn(self, node: ir.Node) -> bool:
        """Evaluate a node, given that its predecessors were seen; tell whether it is constant."""
        results = self._evaluate(node)
        if results is None:
            return False
        self._known.update(zip(node.outputs, results, strict=True))
        return True

    def learn_as(self, value: ir.Value, content: np.ndarray[Any, Any]) -> None:
        """Note the content of a value that stands for a constant node's result."""
        self._known[value] = content

    def _evaluate(self, node: ir.Node) -> Sequence[np.ndarray[Any, Any]] | None:
        if node.domain not in ("", "ai.onnx") or node.op_type in (*_RANDOM, "If"):
            return None
        if node.op_type == "Shape" and not node.attributes:
            sizes = self._sizes(node.inputs[0])
            if sizes is not None:
                node.outputs[0].shape = ir.Shape([len(sizes)])
                node.outputs[0].type = ir.TensorType(ir.DataType.INT64)
                if all(isinstance(size, int) for size in sizes):
                    return [np.asarray(sizes, np.int64)]
        inputs = [self.value(value) for value in node.inputs]
        if any(content is None for content in inputs) or self._is_large(node):
            return None
        evaluator = ReferenceEvaluator(ir.to_proto(node))
        feeds = {
            value.name or "": content
            for value, content in zip(node.inputs, inputs, strict=True)
            if value is not None
        }
        try:
            results = [np.asarray(result) for result in evaluator.run(None, feeds)]
        except Exception as error:  # the reference evaluator raises many kinds
            raise ModelError(
                f"node {quoted(node.name or '')} ({node.op_type}) cannot be computed: "
                f"{one_line(error)}; mend the attributes of the node that it stems from"
            ) from error
        return results if all(result.size <= _LARGEST for result in results) else None

    def _sizes(self, value: ir.Value | None) -> Sequence[int | str | None] | None:
        if value is None:
            return None
        if value.shape is not None:
            return [size if isinstance(size, int) else size.value for size in value.shape]
        return None if self._shapes is None else self._shapes.dims(value)

    def _is_large(self, node: ir.Node) -> bool:
        if node.op_type not in ("ConstantOfShape", "Expand"):
            return False
        target = self.value(node.inputs[-1])
        return target is not None and math.prod(target.tolist()) > _LARGEST
