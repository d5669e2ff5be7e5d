"""Parameters that exporters store once because they were equal, each made its own.

TorchScript replaces equal tensors by an Identity of one of them, and optimisers merge equal
initializers. Fresh biases, scales and statistics are equal by chance (all zeros or ones), and must
not train as one. A weight that layers share is no accident: equal random tensors are one tensor,
so a module that is applied twice stays shared, its bias included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_structdrop.training.preparation.parameters import source

if TYPE_CHECKING:
    from collections.abc import Hashable

    import onnx_ir as ir

    from onnx_structdrop.training.preparation.editing import Editing

__all__ = ["untie"]

_VECTORS = {
    "Conv": (2,),
    "ConvTranspose": (2,),
    "Gemm": (2,),
    "BatchNormalization": (1, 2, 3, 4),
    "LayerNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "PRelu": (1,),
    "Add": (0, 1),
    "Mul": (0, 1),
    "Sub": (0, 1),
}
"""Inputs that may be equal by chance."""

_WEIGHTS = {"Conv": (1,), "ConvTranspose": (1,), "Gemm": (0, 1), "MatMul": (0, 1)}

_WHY = "it was stored once because it was equal to another's, and would train as one with it"


def untie(editing: Editing) -> None:
    """Give every layer its own parameters, except where layers share their weight."""
    through_identity(editing)
    shared: dict[tuple[ir.Value, Hashable], ir.Value] = {}
    owners: dict[ir.Value, Hashable] = {}
    for node in editing.graph:
        if node.domain not in ("", "ai.onnx") or node.op_type not in _VECTORS:
            continue
        for place in _VECTORS[node.op_type]:
            value = node.inputs[place] if place < len(node.inputs) else None
            if value is None or value.const_value is None or value.is_graph_input():
                continue
            # A single number is arithmetic, except for the slope of PRelu and channels of one.
            if value.const_value.size <= 1 and node.op_type in ("Add", "Mul", "Sub"):
                continue
            owner = _owner(node)
            first = owners.setdefault(value, owner)
            if first == owner:
                continue
            key = (value, owner)
            if key not in shared:
                shared[key] = editing.copy_of(value, f"{value.name}_untied")
                editing.note(node, f"given its own copy of {value.name!r}", _WHY)
            node.replace_input_with(place, shared[key])


def through_identity(editing: Editing) -> None:
    """Turn every Identity of an initializer into an initializer."""
    for node in list(editing.graph):
        if node.domain not in ("", "ai.onnx") or node.op_type != "Identity":
            continue
        value = node.inputs[0]
        if value is None or value.const_value is None or value.is_graph_input():
            continue
        output = node.outputs[0]
        if output.is_graph_output():
            continue
        name = output.name or "untied"
        own = editing.copy_of(value, f"{name}_value")
        editing.replace(node, own)
        editing.note(name, f"given its own copy of {value.name!r}",
                     _WHY)  # fmt: skip


def _owner(node: ir.Node) -> Hashable:
    """Return what calls of one module share: the weight, or that of the layer before."""
    current: ir.Node | None = node
    path: list[str] = []
    while current is not None and len(path) < 8:
        for place in _WEIGHTS.get(current.op_type, ()):
            value = current.inputs[place] if place < len(current.inputs) else None
            origin = source(value)
            if origin is not None:
                return (origin, *path)
        path.append(current.op_type)
        data = [value for value in current.inputs if value is not None and source(value) is None]
        current = data[0].producer() if data else None
    return node
