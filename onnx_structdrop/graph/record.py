"""What insertion writes into a model's metadata so that folding can undo it exactly."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from onnx_structdrop.errors import ModelError, UnsupportedModelError
from onnx_structdrop.graph.scopes import function_scope, scopes
from onnx_structdrop.schema import DOMAIN, INLINED_KEY, METADATA_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Record", "check_not_inlined", "is_copy", "mark_copy", "mark_inlined", "unmark_copy"]


@dataclass
class Record:
    """State of a model before insertion, as far as the nodes themselves do not show it."""

    ir_version: int
    """IR version before the first insertion."""

    ratio_inputs: list[str]
    """Graph inputs that insertion added to drive the ratio."""

    imports: list[str] = field(default_factory=list)
    """Scopes (of the model: "") that imported our domain already."""

    functions: list[str] = field(default_factory=list)
    """Functions of our domain that were there though nothing called them: protos in base64."""

    @classmethod
    def before(cls, model: ir.Model) -> Record:
        """Return the record of a model that holds no insertion yet."""
        called = {
            node.op_identifier()
            for _, graph in scopes(model)
            for node in graph
            if node.domain == DOMAIN
        }
        # An import that serves a node of ours goes when that is folded.
        imports = [""] if DOMAIN in model.opset_imports and not called else []
        imports += [
            function_scope(function)
            for function in model.functions.values()
            if function.domain != DOMAIN
            and DOMAIN in function.opset_imports
            and not any(node.domain == DOMAIN for node in function.all_nodes())
        ]
        functions = [
            base64.b64encode(ir.to_proto(function).SerializeToString(deterministic=True)).decode()
            for identifier, function in model.functions.items()
            if identifier[0] == DOMAIN and identifier not in called
        ]
        return cls(model.ir_version, [], imports, functions)

    @classmethod
    def of(cls, model: ir.Model) -> Record | None:
        """Return the record that a model carries, or None if it carries none.

        Raises
        ------
        ModelError
            If the metadata entry was damaged.
        """
        text = model.metadata_props.get(METADATA_KEY)
        if text is None:
            return None
        try:
            entries = json.loads(text)
            record = cls(
                int(entries["ir_version"]),
                [str(name) for name in entries["ratio_inputs"]],
                [str(scope) for scope in entries.get("imports", ())],
                [str(function) for function in entries.get("functions", ())],
            )
            if not 1 <= record.ir_version <= onnx.IR_VERSION:
                raise ValueError(f"there is no IR version {record.ir_version}")
            record.kept_functions()
        except (
            ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError,
            DecodeError,
        ) as error:  # fmt: skip
            reason = " ".join(str(error).split())
            raise ModelError(
                f"the model's metadata entry {METADATA_KEY!r} is damaged ({reason}); "
                "remove it, and folding will keep the IR version and the inputs as they are"
            ) from error
        return record

    def kept_functions(self) -> Mapping[ir.OperatorIdentifier, ir.Function]:
        """Return the functions that nothing called, as they were."""
        found = {}
        for text in self.functions:
            proto = onnx.FunctionProto.FromString(base64.b64decode(text, validate=True))
            if proto.domain != DOMAIN:
                raise ValueError(f"function {proto.domain}::{proto.name} is none of {DOMAIN}")
            function = ir.from_proto(proto)
            found[function.identifier()] = function
        return found

    def fit(self, model: ir.Model) -> None:
        """Correct what the model contradicts, where somebody edited either of them."""
        self.ir_version = min(self.ir_version, model.ir_version)
        importing = {
            function_scope(function)
            for function in model.functions.values()
            if DOMAIN in function.opset_imports
        }
        if DOMAIN in model.opset_imports:
            importing.add("")
        self.imports = [scope for scope in self.imports if scope in importing]

    def attach(self, model: ir.Model) -> None:
        """Write the record into the model's metadata."""
        entries: dict[str, Any] = {"ir_version": self.ir_version, "ratio_inputs": self.ratio_inputs}
        more = {"imports": self.imports, "functions": self.functions}
        entries.update((name, value) for name, value in more.items() if value)
        model.metadata_props[METADATA_KEY] = json.dumps(entries, sort_keys=True)

    @staticmethod
    def detach(model: ir.Model) -> None:
        """Remove the record from the model's metadata."""
        model.metadata_props.pop(METADATA_KEY, None)


_COPY = "output"


def mark_copy(node: ir.Node) -> None:
    """Note in a node's metadata that insertion put it there to make an output of the graph."""
    node.metadata_props[METADATA_KEY] = _COPY


def unmark_copy(node: ir.Node) -> None:
    """Take away the note of `mark_copy`."""
    node.metadata_props.pop(METADATA_KEY, None)


def is_copy(node: ir.Node) -> bool:
    """Tell whether insertion put a node there to make an output of the graph."""
    is_identity = node.op_type == "Identity" and node.domain in ("", "ai.onnx")
    return is_identity and node.metadata_props.get(METADATA_KEY) == _COPY


def mark_inlined(model: ir.Model, nodes: int) -> None:
    """Note in the metadata that live nodes were inlined, and are not ours to switch any more."""
    model.metadata_props[INLINED_KEY] = str(nodes)


def check_not_inlined(model: ir.Model) -> None:
    """Raise if live nodes of the model were inlined.

    Raises
    ------
    UnsupportedModelError
        They were; switching or folding would leave them alive without a word.
    """
    count = model.metadata_props.get(INLINED_KEY)
    if count is not None:
        raise UnsupportedModelError(
            f"the model holds {count} inlined dropout nodes, which cannot be switched, reseeded or "
            "folded any more; use the model with functions that it was made from"
        )
