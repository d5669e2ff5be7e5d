"""Between protos and onnx-ir, in both directions, with nothing lost on the way.

Every function of the package works on a private `onnx_ir.Model` made by `as_ir`, and hands back
the caller's kind with `like`. onnx-ir alone would drop or change some things; what happens to
each of them here:

===================================================  =============================================
onnx-ir 1.1                                          here
===================================================  =============================================
drops trailing unnamed outputs of a node             restored: a call of a function must name all
adds a value_info entry per initializer              removed again, unless the model had it
drops value_info of unknown names, of graph inputs   kept and written back, in the original order
and outputs, of function inputs
drops quantization annotations of unknown names,     kept and written back, in the original order
writes some twice
merges the metadata of an output's two descriptions  each its own
gives a pass-through input the type of the output    both keep their own
writes the metadata of a tensor twice                once
keeps one of two metadata entries of one key         both, of models, graphs, functions, nodes
drops checksum and unknown keys of external data     kept while the data stay where they are
renaming an initializer renames the caller's tensor  copied when renamed
drops training_info and sparse initializers, fails   refused (`UnsupportedModelError`)
on sparse attributes and map types
keeps one of two entries of one name                 refused (`ModelError`)
only logs values that nothing produces               refused (`ModelError`)
===================================================  =============================================

Normalised, with the same meaning: metadata entries are sorted by key, explicit empty strings
disappear, the domain "ai.onnx" is written "", nodes out of order are sorted, and before IR
version 10, where functions have no value_info, theirs moves to the graph under qualified names.
"""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, TypeVar, cast

import onnx
import onnx_ir as ir

from onnx_structdrop.errors import ArgumentTypeError, ModelError, StructDropError
from onnx_structdrop.graph.collector import uncollected
from onnx_structdrop.graph.files.bulk import PlainInitializers, PlainNodes
from onnx_structdrop.graph.files.calls import check_calls
from onnx_structdrop.graph.files.descriptions import Descriptions
from onnx_structdrop.graph.files.external import check_references, external_tensors
from onnx_structdrop.graph.files.fidelity import (
    FUNCTION_DESCRIPTIONS,
    adopt,
    described_names,
    restore,
)
from onnx_structdrop.graph.files.outline import Outline
from onnx_structdrop.graph.files.stream import hollow
from onnx_structdrop.graph.files.tensors import all_graphs, tensor_slots, unshared
from onnx_structdrop.graph.files.texts import check_text
from onnx_structdrop.graph.files.wellformed import (
    check_header,
    check_structure,
    one_line,
    quoted,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["ModelT", "as_ir", "from_proto", "like", "outlined", "to_proto"]

_UNTOLD = ("Value name not set for node output", "does not have a constant value set")
"""What is in the messages: outputs left out in functions are allowed, weights left out refused."""

ModelT = TypeVar("ModelT", bound=onnx.ModelProto | ir.Model)
"""A model of either kind, for functions that return the kind they were given."""


def as_ir(model: onnx.ModelProto | ir.Model) -> ir.Model:
    """Return a private copy of `model` to work on; the weights are shared, not copied.

    Whatever is done to the result, also to the names, types and initializers of its values, the
    argument stays as it is. External data that a proto refers to cannot be read, since a proto
    does not know its folder; the references are handed through.

    Raises
    ------
    ArgumentTypeError
        If `model` is neither of the two kinds.
    ModelError
        If the model is broken, see `from_proto`, or functions call themselves.
    UnsupportedModelError
        If calls of functions stand for too many nodes.
    """
    if isinstance(model, onnx.ModelProto):
        return from_proto(model)
    if not isinstance(model, ir.Model):
        hint = "onnx_structdrop.load(path) reads one from a file"
        if isinstance(model, tuple):
            hint = "clean returns a model and its report: take them apart"
        raise ArgumentTypeError(
            "model must be an onnx.ModelProto or an onnx_ir.Model, got "
            f"{type(model).__name__}; {hint}"
        )
    with _broken("the model cannot be copied"), uncollected():
        check_calls(model)
        private = model.clone()
    private.meta.update(model.meta)
    for tensor, _, _ in tensor_slots(private):
        if tensor.dtype == ir.DataType.UNDEFINED:
            raise ModelError(f"tensor {quoted(tensor.name or '')} has no element type")
    for graph in all_graphs(private):
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = unshared(value.const_value)
        for node in graph:
            if not isinstance(node.op_type, str):
                raise ModelError(f"node {quoted(node.name or '')} names no operator")
        produced = (output for node in graph for output in node.outputs)
        for value in (*graph.inputs, *graph.initializers.values(), *produced):
            # Setting Value.dtype writes into the type object, which clone() shares.
            kind = value.type
            if isinstance(kind, (ir.TensorType, ir.SparseTensorType)):
                value.type = type(kind)(kind.dtype, denotation=kind.denotation)
    return private


def like(original: ModelT, model: ir.Model) -> ModelT:
    """Return `model` in the kind that `original` has."""
    return cast("ModelT", to_proto(model) if isinstance(original, onnx.ModelProto) else model)


def from_proto(
    proto: onnx.ModelProto, base_dir: str | None = None, *, share: bool = True
) -> ir.Model:
    """Convert a proto, sharing its weights.

    Parameters
    ----------
    proto
        Not changed, nor by changes to the result.
    base_dir
        Absolute path of the folder that external data are relative to; all references are
        checked against it. Without it they are handed through, and cannot be read.
    share
        Whether values of one type may share their shape: not in a model that is handed out.

    Raises
    ------
    ModelError
        If the model is incomplete or inconsistent, or an external reference is refused.
    UnsupportedModelError
        If it holds what onnx-ir cannot, see the table above.
    """
    with _broken("the model is broken"), uncollected():
        check_header(proto)
        check_text(proto)
        external = external_tensors(proto)
        check_references(external, base_dir)
        in_order = check_structure(proto)
        check_calls(proto)
        with warnings.catch_warnings() if external else nullcontext():
            if external:
                # onnx warns of keys in external data that it does not know; we keep them.
                warnings.simplefilter("ignore")
            model = _read(proto, share=share)
        adopt(proto, model, base_dir)
        for root in (model.graph, *(function.graph for function in model.functions.values())):
            imports = dict(root.opset_imports)
            root.opset_imports.clear()
            for domain, version in imports.items():
                root.opset_imports["" if domain == "ai.onnx" else domain] = version
            if not in_order:
                root.sort()
    return model


def _read(proto: onnx.ModelProto, *, share: bool) -> ir.Model:
    if proto.functions and proto.ir_version < FUNCTION_DESCRIPTIONS:
        return ir.from_proto(proto)  # Descriptions in the main graph are of functions as well.
    descriptions = Descriptions(proto.graph)
    graph = Outline(proto.graph, value_info=descriptions.rest)
    model = ir.serde.deserialize_model(cast("onnx.ModelProto", Outline(proto, graph=graph)))
    descriptions.describe(model.graph, share=share)
    return model


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """Convert `model`, writing back what onnx-ir dropped when it was read.

    Raises
    ------
    ModelError
        If onnx-ir cannot serialise the model, such as an initializer without data.
    """
    return _serialised(model, {})


def outlined(model: ir.Model) -> tuple[onnx.ModelProto, dict[int, ir.TensorProtocol]]:
    """Convert `model` without the content of its large weights, for `stream.pieces`.

    Returns
    -------
    proto : onnx.ModelProto
        As from `to_proto`, but some initializers of the main graph are empty.
    weights : dict of int to onnx_ir.TensorProtocol
        Those, by their position.

    Raises
    ------
    ModelError
        As `to_proto`.
    """
    with _broken("the model cannot be copied"):
        check_calls(model)
    weights: dict[int, ir.TensorProtocol] = {}
    hollowed: dict[str, ir.TensorProtocol] = {}
    for place, (name, value) in enumerate(model.graph.initializers.items()):
        empty = hollow(value.const_value)
        if empty is not None and value.const_value is not None:
            weights[place], hollowed[name] = value.const_value, empty
    return _serialised(model, hollowed), weights


def _serialised(model: ir.Model, replaced: Mapping[str, ir.TensorProtocol]) -> onnx.ModelProto:
    with _broken("the model cannot be converted to a proto"), uncollected(), _unlogged():
        proto = onnx.ModelProto()
        nodes = PlainNodes(model.graph, proto.graph)
        described = described_names(model.graph)
        initializers = PlainInitializers(model.graph, proto.graph, described, replaced)
        graph = Outline(model.graph, nodes, initializers=initializers)
        ir.serde.serialize_model_into(proto, cast("ir.Model", Outline(model, graph=graph)))
        restore(proto, model, nodes.rest)
    return proto


@contextmanager
def _unlogged() -> Iterator[None]:
    """Keep onnx-ir from reporting what is allowed, or refused here anyway."""

    def allows(record: logging.LogRecord) -> bool:
        return not any(part in str(record.msg) for part in _UNTOLD)

    logger = logging.getLogger("onnx_ir.serde")
    logger.addFilter(allows)
    try:
        yield
    finally:
        logger.removeFilter(allows)


@contextmanager
def _broken(what: str) -> Iterator[None]:
    """Turn what onnx-ir and protobuf raise on a broken model into a `ModelError`."""
    try:
        yield
    except StructDropError:
        raise
    except (
        ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError,
        ValueError,
    ) as error:  # fmt: skip
        raise ModelError(f"{what}: {one_line(error)}") from error
