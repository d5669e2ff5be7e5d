"""Do two models take and give the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_structdrop.graph.files.wellformed import quoted
from onnx_structdrop.graph.record import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

__all__ = ["mismatches", "ratio_inputs"]


def mismatches(original: ir.Model, rewritten: ir.Model) -> list[str]:
    """Return what is different in names, order, types or shapes of inputs and outputs.

    A size that only one of the models states is no difference, unless it is one of an input that
    was free before and is fixed now. Inputs that insertion added to drive a ratio may be there or
    not.
    """
    added = {name for model in (original, rewritten) for name in ratio_inputs(model)}
    found: list[str] = []
    for what, before, after in (
        ("input", original.graph.inputs, rewritten.graph.inputs),
        ("output", original.graph.outputs, rewritten.graph.outputs),
    ):
        ones, others = (
            [value for value in values if what == "output" or value.name not in added]
            for values in (before, after)
        )
        names, other_names = ([value.name or "" for value in values] for values in (ones, others))
        if names != other_names:
            found.append(f"the {what}s are {_listed(other_names)} instead of {_listed(names)}")
            continue
        for one, other in zip(ones, others, strict=True):
            name = f"{what} {quoted(one.name or '')}"
            found += [f"{name} {fault}" for fault in _faults(one, other, free=what == "output")]
    return found


def ratio_inputs(model: ir.Model) -> Sequence[str]:
    """Return the inputs that insertion added to drive a ratio."""
    record = Record.of(model)
    return () if record is None else record.ratio_inputs


def _listed(names: Sequence[str]) -> str:
    return quoted(", ".join(names))


def _faults(one: ir.Value, other: ir.Value, *, free: bool) -> list[str]:
    if one.type != other.type and None not in (one.type, other.type):
        return [f"is of type {other.type} instead of {one.type}"]
    if one.shape is None or other.shape is None:
        return []
    if len(one.shape) != len(other.shape):
        return [f"has {len(other.shape)} axes instead of {len(one.shape)}"]
    return [
        f"has size {_shown(second)} on axis {axis} instead of {_shown(first)}"
        for axis, (first, second) in enumerate(zip(one.shape, other.shape, strict=True))
        if first != second and isinstance(second, int) and not (free and not isinstance(first, int))
    ]


def _shown(size: int | ir.SymbolicDim) -> str:
    return str(size if isinstance(size, int) else size.value or "a free one")
