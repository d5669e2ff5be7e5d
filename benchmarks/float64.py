"""Run a lowered training graph in float64, as the truth that float32 is measured against.

Convolutions and pooling are torch's, the rest is onnx's reference implementation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch.nn import functional


def doubled(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with float64 in the place of float32 throughout."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for tensor in graph.initializer:
        _double(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _double(attribute.t)
            if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
        if node.op_type == "ConstantOfShape" and not node.attribute:
            zero = numpy_helper.from_array(np.zeros(1))
            node.attribute.append(helper.make_attribute("value", zero))
    return result


def _double(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        array = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


class Conv(OpRun):
    """A convolution of torch's."""

    op_domain = ""

    def _run(self, x, w, b=None, *, auto_pad=None, dilations=None, group=None, kernel_shape=None,
             pads=None, strides=None):  # fmt: skip
        rank = x.ndim - 2
        _explicit(auto_pad)
        pads = list(pads or [0] * 2 * rank)
        around = [pads[axis + end] for axis in reversed(range(rank)) for end in (0, rank)]
        run = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
        result = run(
            functional.pad(_torch(x), around), _torch(w), None if b is None else _torch(b),
            stride=list(strides or [1] * rank), dilation=list(dilations or [1] * rank),
            groups=group or 1,
        )  # fmt: skip
        return (result.numpy(),)


class ConvTranspose(OpRun):
    """A transposed convolution of torch's."""

    op_domain = ""

    def _run(self, x, w, b=None, *, auto_pad=None, dilations=None, group=None, kernel_shape=None,
             output_padding=None, output_shape=None, pads=None, strides=None):  # fmt: skip
        rank = x.ndim - 2
        _explicit(auto_pad)
        pads = list(pads or [0] * 2 * rank)
        added = list(output_padding or [0] * rank)
        run = (functional.conv_transpose1d, functional.conv_transpose2d,
               functional.conv_transpose3d)[rank - 1]  # fmt: skip
        whole = run(
            _torch(x), _torch(w), stride=list(strides or [1] * rank),
            dilation=list(dilations or [1] * rank), groups=group or 1,
        )  # fmt: skip
        behind = [size for axis in reversed(range(rank)) for size in (0, added[axis])]
        whole = functional.pad(whole, behind).numpy()
        inside = tuple(
            slice(pads[axis], whole.shape[axis + 2] - pads[axis + rank]) for axis in range(rank)
        )
        result = whole[(slice(None), slice(None), *inside)]
        return (result if b is None else result + b.reshape(-1, *[1] * rank),)


class MaxPool(OpRun):
    """Pooling of torch's, with the places of the maxima in the whole map as ONNX counts them."""

    op_domain = ""

    def _run(self, x, *, auto_pad=None, ceil_mode=None, dilations=None, kernel_shape=None,
             pads=None, storage_order=None, strides=None):  # fmt: skip
        rank = x.ndim - 2
        _explicit(auto_pad)
        pads = list(pads or [0] * 2 * rank)
        if pads[:rank] != pads[rank:] or storage_order:
            raise NotImplementedError(f"MaxPool with pads {pads}, storage_order {storage_order}")
        run = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[rank - 1]
        result, places = run(
            _torch(x), list(kernel_shape), list(strides or [1] * rank), pads[:rank],
            list(dilations or [1] * rank), bool(ceil_mode), return_indices=True,
        )  # fmt: skip
        before = np.arange(x.shape[0] * x.shape[1]) * np.prod(x.shape[2:])
        places = places.numpy() + before.reshape(*x.shape[:2], *[1] * rank)
        return (result.numpy(), places)[: len(self.onnx_node.output)]


class BatchNormalization(OpRun):
    """By the batch, with its statistics as further outputs, or by those that are given."""

    op_domain = ""

    def _run(self, x, scale, bias, mean, var, *, epsilon=1e-5, momentum=0.9, training_mode=0):
        column = (-1, *[1] * (x.ndim - 2))
        rest: tuple[Any, ...] = ()
        if training_mode:
            axes = (0, *range(2, x.ndim))
            own = x.mean(axes), x.var(axes)
            pairs = zip((mean, var), own, strict=True)
            rest = tuple(momentum * old + (1 - momentum) * new for old, new in pairs)
            mean, var = own
        unit = (x - mean.reshape(column)) / np.sqrt(var.reshape(column) + epsilon)
        return (unit * scale.reshape(column) + bias.reshape(column), *rest)


class LayerNormalization(OpRun):
    """With mean and inverse deviation, in the element type that is given."""

    op_domain = ""

    def _run(self, x, scale, bias=None, *, axis=-1, epsilon=1e-5, stash_type=1):
        axes = tuple(range(axis % x.ndim, x.ndim))
        mean = x.mean(axes, keepdims=True)
        inverse = 1 / np.sqrt(np.square(x - mean).mean(axes, keepdims=True) + epsilon)
        result = (x - mean) * inverse * scale + (0 if bias is None else bias)
        return (result, mean, inverse)[: max(len(self.onnx_node.output), 1)]


class ScatterElements(OpRun):
    """Torch's, as the reference implementation is a loop over elements."""

    op_domain = ""

    def _run(self, data, indices, updates, *, axis=0, reduction=None):
        result, places = _torch(data).clone(), _torch(indices % data.shape[axis])
        scatter = result.scatter_add_ if reduction == "add" else result.scatter_
        return (scatter(axis, places, _torch(updates)).numpy(),)


class Erf(OpRun):
    """Torch's, which knows arrays."""

    op_domain = ""

    def _run(self, x):
        return (torch.erf(_torch(x)).numpy(),)


_OWN = [Conv, ConvTranspose, MaxPool, BatchNormalization, LayerNormalization, ScatterElements, Erf]


def evaluate(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the outputs of a model of `doubled` by name."""
    names = [output.name for output in model.graph.output]
    evaluator = ReferenceEvaluator(model, new_ops=_OWN)
    return dict(zip(names, evaluator.run(None, feeds), strict=True))


def _torch(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def _explicit(auto_pad: str | None) -> None:
    if auto_pad not in (None, "NOTSET"):
        raise NotImplementedError(f"auto_pad is {auto_pad}")
