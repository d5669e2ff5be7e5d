"""From a model as exporters write it to one that onnxruntime-training 1.19.2 trains right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_structdrop.errors import ArgumentError
from onnx_structdrop.graph.convert import ModelT, as_ir, like
from onnx_structdrop.graph.mode import reseed
from onnx_structdrop.training.preparation.activations import rewrite_activations
from onnx_structdrop.training.preparation.arithmetic import fold_constants
from onnx_structdrop.training.preparation.calls import inline_calls
from onnx_structdrop.training.preparation.dimensions import fix_sizes
from onnx_structdrop.training.preparation.editing import Editing
from onnx_structdrop.training.preparation.inputs import drop_defaults, name_apart
from onnx_structdrop.training.preparation.nodes import complete_nodes, complete_standard
from onnx_structdrop.training.preparation.norms import (
    batch_norm_opset,
    freeze_batch_norms,
    rewrite_norms,
    train_batch_norms,
)
from onnx_structdrop.training.preparation.parameters import (
    choose,
    find_parameters,
    lift_constants,
)
from onnx_structdrop.training.preparation.report import Prepared
from onnx_structdrop.training.preparation.resampling import rewrite_resampling
from onnx_structdrop.training.preparation.support import check_gradients, check_graph
from onnx_structdrop.training.preparation.ties import untie
from onnx_structdrop.training.preparation.versions import check_types, fit_versions, fitting_opset
from onnx_structdrop.training.preparation.windows import rewrite_windows

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["BATCH_NORMS", "prepare"]

BATCH_NORMS = ("frozen", "train")
"""What batch normalisation does in training."""


def prepare(
    model: ModelT,
    *,
    requires_grad: Collection[str] | None = None,
    frozen: Collection[str] = (),
    batch_norm: str = "frozen",
    sizes: Mapping[str, int] | None = None,
    seed: int | None = None,
) -> Prepared[ModelT]:
    """Make a model trainable in onnxruntime-training 1.19.2, and find its parameters.

    In the forward direction the result computes what the model does, except that structured
    dropout is on (and batch normalisation uses the batch, if asked to).

    Parameters
    ----------
    model
        An ``onnx.ModelProto`` or ``onnx_ir.Model``, ai.onnx opset 13 and up. It is not changed.
    requires_grad
        Names of initializers to train, or patterns such as ``"layer4.*"``. None takes every
        weight, bias and scale of a layer.
    frozen
        Names or patterns of parameters to leave as they are.
    batch_norm
        "frozen" normalises by the running statistics, as in inference, and trains scale and bias.
        "train" normalises by the batch; the running statistics move by the node's momentum, as
        ONNX defines it: the variance of the batch is divided by the count (torch divides by one
        less). Models whose batch normalisation was folded into their convolutions have none.
    sizes
        Sizes for free dimensions of the inputs, by their names, such as ``{"height": 64}``. Some
        operators need to know height and width, MaxPool among them; the batch may stay free.
    seed
        New seed of the dropout nodes; None keeps theirs.

    Returns
    -------
    Prepared
        The model, what was done to it, and the names of its parameters.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        An unknown name or mode.
    ModelError
        The model is broken.
    UnsupportedModelError
        The model cannot train; the message names the node and the reason.
    """
    if batch_norm not in BATCH_NORMS:
        raise ArgumentError(
            f"batch_norm must be one of {', '.join(BATCH_NORMS)}, not {batch_norm!r}"
        )
    result = as_ir(model)
    if seed is not None:
        result = reseed(result, seed)
    check_types(result)
    opset = fitting_opset(result)
    editing = Editing(result, opset)
    if batch_norm == "train":
        opset = editing.opset = max(opset, batch_norm_opset(editing))
    drop_defaults(editing)
    fix_sizes(editing, {} if sizes is None else sizes)
    inline_calls(editing)
    check_graph(result)
    fold_constants(editing)
    untie(editing)
    lift_constants(editing)
    parameters = find_parameters(editing.graph)
    pairs: list[tuple[str, str]] = []
    if batch_norm == "train":
        statistics, pairs = train_batch_norms(editing)
    else:
        statistics = freeze_batch_norms(editing)
    rewrite_norms(editing)
    rewrite_windows(editing)
    rewrite_resampling(editing)
    rewrite_activations(editing)
    fit_versions(editing, opset)
    complete_standard(editing)
    ratios = complete_nodes(editing)
    name_apart(editing)
    choice = choose(editing.graph, parameters, requires_grad, frozen)
    check_gradients(editing, choice.trainable)
    extra = (value.name or "" for value in (*statistics, *ratios))
    names = dict.fromkeys((*choice.frozen, *extra))
    return Prepared(
        model=like(model, result),
        changes=tuple(editing.changes),
        trainable=choice.trainable,
        frozen=tuple(name for name in names if name not in choice.trainable),
        ratios=tuple(value.name or "" for value in ratios),
        statistics=tuple(pairs),
    )
