"""What a model consists of, for comparing it before and after a command."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from onnx_structdrop.graph.scopes import default_opset, scopes
from onnx_structdrop.schema import DOMAIN

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Facts"]


@dataclass(frozen=True)
class Facts:
    """Counts and versions of a model."""

    nodes: int
    """Nodes in all graphs, bodies of our functions apart."""
    operators: dict[str, int]
    """How many of each, by name; ``domain::name`` outside the default domain."""
    functions: list[str]
    opset: int
    ir_version: int
    size: int | None
    """Bytes on disk; None for a model that was not written."""

    @classmethod
    def of(cls, model: ir.Model, size: int | None) -> Facts:
        """Count what is in a model."""
        counts: Counter[str] = Counter()
        for scope, graph in scopes(model):
            if scope.startswith(f"function:{DOMAIN}::"):
                continue
            counts.update(
                node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
                for node in graph
            )
        return cls(
            nodes=counts.total(),
            operators=dict(sorted(counts.items())),
            functions=[f"{domain}::{name}" for domain, name, _ in model.functions],
            opset=default_opset(model),
            ir_version=model.ir_version,
            size=size,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return asdict(self)
