"""Free dimensions of the inputs, given a size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnx_structdrop.errors import ArgumentError, ArgumentTypeError

if TYPE_CHECKING:
    from onnx_structdrop.training.preparation.editing import Editing

__all__ = ["fix_sizes"]


def fix_sizes(editing: Editing, sizes: Mapping[str, int]) -> None:
    """Replace free dimensions by numbers, in the inputs and wherever their names appear.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If no input has a dimension of a name, or a size is not positive.
    """
    if not isinstance(sizes, Mapping):
        raise ArgumentTypeError(
            f"sizes must be numbers by name, such as {{'height': 224}}, not {sizes!r}"
        )
    graph = editing.graph
    names = {
        dim.value
        for value in graph.inputs
        for dim in (value.shape or ())
        if not isinstance(dim, int) and dim.value
    }
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ArgumentError(f"sizes: {name!r} must be a positive integer, not {size!r}")
        if name not in names:
            known = ", ".join(sorted(names)) or "none"
            raise ArgumentError(f"sizes: no input has a dimension {name!r}; there are {known}")
        editing.note("", f"dimension {name!r} is {size}", "asked for")
    if not sizes:
        return
    values = [*graph.inputs, *graph.outputs, *(v for node in graph for v in node.outputs)]
    for value in values:
        if value.shape is not None:
            dims = [dim if isinstance(dim, int) else dim.value for dim in value.shape]
            value.shape = ir.Shape([sizes.get(d, d) if isinstance(d, str) else d for d in dims])
