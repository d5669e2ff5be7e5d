"""Gradients of the operators, told to onnxruntime's gradient builder.

The builder looks gradients up by operator name before any function is inlined, so one definition
serves the functions and the native kernels alike.
"""

from __future__ import annotations

import functools

from onnx_structdrop.schema import DOMAIN, DROPOUT_OPS, GRAD_OP
from onnx_structdrop.training.runtime import gradient_registry

__all__ = ["register_gradients"]


@functools.cache
def register_gradients() -> None:
    """Tell onnxruntime-training what the gradient of each dropout operator is.

    The gradient of the data is ``StructuredDropoutGrad(output_grad, mask, scale)``, that is
    ``where(mask, output_grad * scale, 0)``: the scale counts as a constant, as in every framework.
    The ratio has no gradient. Nodes have to name their outputs mask and scale, and the model has
    to hold the function `StructuredDropoutGrad`; `prepare` sees to both.

    Calling it again changes nothing. It acts on the whole process.

    Raises
    ------
    DependencyError
        onnxruntime-training is not installed.

    Examples
    --------
    >>> from onnx_structdrop.training import register_gradients
    >>> register_gradients()  # doctest: +SKIP
    """
    registry = gradient_registry()
    for name in DROPOUT_OPS:
        definition = registry.GradientNodeDefinition()
        definition.domain, definition.op_type = DOMAIN, GRAD_OP
        definition.inputs = ["GO(0)", "O(1)", "O(2)"]
        definition.outputs = ["GI(0)"]
        definition.attributes = []
        registry.register_gradient_definition(f"{DOMAIN}::{name}", [definition])
