"""Gradients of convolutions and transposed convolutions: of maps, weights and biases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_structdrop.training.lowering.geometry import Geometry
from onnx_structdrop.training.lowering.maps import map_gradient
from onnx_structdrop.training.lowering.weights import weight_gradient

if TYPE_CHECKING:
    from onnx_structdrop.training.lowering.writer import Operation, Rule, Writer

__all__ = ["RULES"]


def _conv_grad(operation: Operation, writer: Writer) -> None:
    grad, image, weights = operation.inputs[:3]
    sizes = writer.static(operation, weights)
    spatial = writer.shape(operation, image)[2:]
    geometry = Geometry.of(operation, sizes[2:], spatial)
    if operation.output(0):
        map_gradient(
            writer,
            geometry,
            grad=grad,
            weights=weights,
            like=image,
            sizes=sizes,
            spatial=spatial,
            windows=writer.shape(operation, grad)[2:],
            output=operation.output(0),
        )
    if operation.output(1):
        weight_gradient(
            operation,
            writer,
            geometry,
            image=image,
            grad=grad,
            sizes=sizes,
            output=operation.output(1),
        )
    if operation.output(2):
        _bias_gradient(writer, grad, geometry.rank, operation.output(2))


def _conv_transpose_grad(operation: Operation, writer: Writer) -> None:
    # The node is the gradient of a convolution, so its own gradients are a convolution and the
    # weight gradient with map and gradient in each other's place.
    grad, image, weights = operation.inputs[:3]
    if operation.attributes.get("output_shape"):
        raise operation.refuse("output_shape has no lowered form; give pads and output_padding")
    sizes = writer.static(operation, weights)
    geometry = Geometry.of(operation, sizes[2:], writer.shape(operation, grad)[2:])
    if operation.output(0):
        writer.emit(
            "Conv",
            grad,
            weights,
            output=operation.output(0),
            group=geometry.group,
            strides=list(geometry.strides),
            dilations=list(geometry.dilations),
            pads=geometry.pads,
        )
    if operation.output(1):
        weight_gradient(
            operation,
            writer,
            geometry,
            image=grad,
            grad=image,
            sizes=sizes,
            output=operation.output(1),
        )
    if operation.output(2):
        _bias_gradient(writer, grad, geometry.rank, operation.output(2))


def _bias_gradient(writer: Writer, grad: str, rank: int, output: str) -> None:
    writer.total(grad, [0, *range(2, rank + 2)], keep=False, output=output)


RULES: dict[str, Rule] = {
    "ConvGrad": _conv_grad,
    "ConvTransposeGrad": _conv_transpose_grad,
}
"""How each operator is written in standard ONNX."""
