"""IR version and opset that onnxruntime-training 1.19.2 reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from onnx_structdrop.errors import UnsupportedModelError
from onnx_structdrop.graph.scopes import default_opset, scopes
from onnx_structdrop.schema import DOMAIN, MIN_OPSET

if TYPE_CHECKING:
    from onnx_structdrop.training.preparation.editing import Editing

__all__ = ["MAX_IR", "MAX_OPSET", "check_types", "fit_versions", "fitting_opset"]

MAX_IR = 10
"""Newest IR version that 1.19.2 reads."""

MAX_OPSET = 21
"""Newest ai.onnx opset that 1.19.2 reads; of 22 it says that it is under development."""

_MAX_ML = 5
_RUNTIME_DOMAINS = frozenset({"", "ai.onnx", DOMAIN, "com.microsoft"})
_KNOWN_TYPES = frozenset(
    {
        ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.BOOL, ir.DataType.STRING,
        ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64,
        ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64,
    }
)  # fmt: skip


def fitting_opset(model: ir.Model) -> int:
    """Return the opset that the prepared model will have.

    Raises
    ------
    UnsupportedModelError
        Below `MIN_OPSET`.
    """
    opset = default_opset(model)
    if opset < MIN_OPSET:
        raise UnsupportedModelError(
            f"the model imports ai.onnx opset {opset}, training needs {MIN_OPSET} to {MAX_OPSET}; "
            f"convert it first: onnx.version_converter.convert_version(model, {MIN_OPSET})"
        )
    return min(opset, MAX_OPSET)


def fit_versions(editing: Editing, opset: int) -> None:
    """Set the opset and an IR version that 1.19.2 reads.

    Raises
    ------
    UnsupportedModelError
        If a node does not mean the same at this opset.
    """
    model = editing.model
    old = default_opset(model)
    if old != opset:
        for _, graph in scopes(model):
            for node in graph:
                if node.domain in ("", "ai.onnx"):
                    _check_same(node, old, opset)
        model.opset_imports.pop("ai.onnx", None)
        model.opset_imports[""] = opset
        editing.note(
            "", f"ai.onnx opset {old} written as {opset}", "1.19.2 trains opsets 13 to 21; every "
            "node means the same in both"
        )  # fmt: skip
    used = {node.domain for _, graph in scopes(model) for node in graph}
    for domain in list(model.opset_imports):
        if domain not in _RUNTIME_DOMAINS and domain not in used:
            del model.opset_imports[domain]
            editing.note("", f"import of {domain} removed", "nothing calls it, and 1.19.2 reads "
                         "old versions only")  # fmt: skip
    if model.ir_version > MAX_IR:
        editing.note("", f"IR version {model.ir_version} lowered to {MAX_IR}", "1.19.2 reads no "
                     "newer one; nothing in the model needs it")  # fmt: skip
        model.ir_version = MAX_IR


def check_types(model: ir.Model) -> None:
    """Raise where the model holds element types that do not train.

    Raises
    ------
    UnsupportedModelError
        At the first tensor of half precision, or of a type that old IR versions do not have.
    """
    for _, graph in scopes(model):
        values = [*graph.inputs, *getattr(graph, "initializers", {}).values()]
        for value in values:
            if value.dtype is not None and value.dtype not in _KNOWN_TYPES:
                raise UnsupportedModelError(
                    f"{value.name!r} is {value.dtype.name.lower()}; onnxruntime-training trains "
                    "float32 on a CPU: export the model in float32"
                )


def _check_same(node: ir.Node, old: int, new: int) -> None:
    """Raise unless a node, written for one opset, means the same in another."""
    try:
        written = onnx.defs.get_schema(node.op_type, old, "")
        read = onnx.defs.get_schema(node.op_type, new, "")
    except onnx.defs.SchemaError as error:
        raise _unfit(node, old, new, f"opset {new} has no such operator") from error
    if written.since_version == read.since_version:
        return
    for name, attribute in written.attributes.items():
        other = read.attributes.get(name)
        if name in node.attributes:
            if other is None:
                raise _unfit(node, old, new, f"it lacks the attribute {name!r} there")
        elif other is not None and other.default_value != attribute.default_value:
            raise _unfit(node, old, new, f"the default of {name!r} differs")
    if len(node.inputs) > read.max_input or len(node.outputs) > read.max_output:
        raise _unfit(node, old, new, "it takes fewer inputs or outputs there")


def _unfit(node: ir.Node, old: int, new: int, why: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"node {node.name!r} ({node.op_type}) is written for ai.onnx opset {old}, training needs "
        f"at most {MAX_OPSET}, and it means something else at {new}: {why}; export the model at "
        f"opset {new}"
    )
