"""Report of every stochastic node of a model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnx_structdrop.graph.convert import as_ir
from onnx_structdrop.graph.nodes import element_type, is_dropout
from onnx_structdrop.graph.scopes import scopes
from onnx_structdrop.schema import DOMAIN

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

__all__ = ["InspectReport", "StochasticNode", "inspect"]

_GENERATORS = (
    "RandomUniform",
    "RandomUniformLike",
    "RandomNormal",
    "RandomNormalLike",
    "Bernoulli",
    "Multinomial",
)


_NO_TEST_FLAG_SINCE = 7

_OWN_BODIES = f"function:{DOMAIN}::"


@dataclass(frozen=True)
class StochasticNode:
    """One node that draws random numbers, or would in training mode."""

    name: str
    """Node name; may be empty, as ONNX allows that."""
    op_type: str
    domain: str
    scope: str
    """"" for the main graph, else as in `Site.scope`."""
    origin: str
    """"structdrop" for nodes of this package, "foreign" for any other."""
    active: bool | None
    """Whether it is random now; None where that is decided at run time."""
    data: str | None
    """Name of the value it drops or samples from."""
    output: str
    """Name of its first output."""
    shape: tuple[int | str | None, ...] | None
    """Shape of that output, where known."""
    dtype: str | None
    ratio: float | str | None
    """Constant ratio, or the name of the value that drives it."""
    seed: int | float | None
    attributes: dict[str, int | float | list[int]]
    """Further attributes as they stand on the node."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return asdict(self)


@dataclass(frozen=True)
class InspectReport:
    """What `inspect` found, in the order of the graph."""

    nodes: tuple[StochasticNode, ...]

    @property
    def own(self) -> tuple[StochasticNode, ...]:
        """Nodes of this package."""
        return tuple(node for node in self.nodes if node.origin == "structdrop")

    @property
    def foreign(self) -> tuple[StochasticNode, ...]:
        """Nodes that came with the model."""
        return tuple(node for node in self.nodes if node.origin == "foreign")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return {"nodes": [node.to_dict() for node in self.nodes]}


def inspect(model: onnx.ModelProto | ir.Model) -> InspectReport:
    """Report every stochastic node: structured dropout, and foreign dropout and generators.

    Parameters
    ----------
    model
        An ``onnx.ModelProto`` or ``onnx_ir.Model``. It is not changed.

    Returns
    -------
    InspectReport
        Nodes of the main graph, of subgraphs and of function bodies.
    """
    return InspectReport(tuple(_stochastic_nodes(as_ir(model))))


def _stochastic_nodes(model: ir.Model) -> Iterator[StochasticNode]:
    opset = model.opset_imports.get("", _NO_TEST_FLAG_SINCE)
    for scope, graph in scopes(model):
        if scope.startswith(_OWN_BODIES):
            continue
        for node in graph:
            if is_dropout(node):
                mode = _integer(node, "training_mode")
                active = None if mode is None else bool(mode)
                yield _described(scope, node, "structdrop", active, _input(node, 1))
            elif node.domain in ("", "ai.onnx") and node.op_type in _GENERATORS:
                yield _described(scope, node, "foreign", True, None)
            elif node.domain in ("", "ai.onnx") and node.op_type == "Dropout":
                active = _dropout_active(node, opset)
                yield _described(scope, node, "foreign", active, _input(node, 1))


def _described(
    scope: str, node: ir.Node, origin: str, active: bool | None, ratio: ir.Value | None
) -> StochasticNode:
    output, data = node.outputs[0], _input(node, 0)
    known = output if output.shape is not None or data is None else data
    attributes = {
        name: list(attribute.as_ints())
        if attribute.type == ir.AttributeType.INTS
        else attribute.value
        for name, attribute in node.attributes.items()
        if name not in ("seed", "training_mode")
        and not attribute.is_ref()
        and attribute.type in (ir.AttributeType.INT, ir.AttributeType.INTS, ir.AttributeType.FLOAT)
    }
    return StochasticNode(
        name=node.name or "",
        op_type=node.op_type,
        domain=node.domain,
        scope=scope,
        origin=origin,
        active=active,
        data=None if data is None else data.name,
        output=output.name or "",
        shape=None
        if known is None or known.shape is None
        else tuple(size if isinstance(size, int) else size.value for size in known.shape),
        dtype=element_type(output) or element_type(data),
        ratio=_ratio(node, ratio),
        seed=_seed(node),
        attributes=attributes,
    )


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _integer(node: ir.Node, name: str) -> int | None:
    attribute = node.attributes.get(name)
    return None if attribute is None or attribute.is_ref() else attribute.as_int()


def _seed(node: ir.Node) -> int | float | None:
    attribute = node.attributes.get("seed")
    if attribute is None or attribute.is_ref():
        return None
    value: int | float = attribute.value
    return value


def _constant(value: ir.Value | None) -> Any:
    tensor = (
        None if value is None or value.is_graph_input() else ir.convenience.get_const_tensor(value)
    )
    return None if tensor is None or tensor.size != 1 else tensor.numpy().item()


def _ratio(node: ir.Node, value: ir.Value | None) -> float | str | None:
    if value is not None:
        constant = _constant(value)
        return value.name if constant is None else float(constant)
    attribute = node.attributes.get("ratio")
    if attribute is not None and not attribute.is_ref():
        return float(attribute.as_float())
    return 0.5 if node.op_type == "Dropout" else None


def _dropout_active(node: ir.Node, opset: int) -> bool | None:
    """Tell whether a standard Dropout is on.

    It is unless ``is_test`` says otherwise below opset 7, never from 7 to 11, and an input's
    business from 12.
    """
    if opset < _NO_TEST_FLAG_SINCE:
        return not _integer(node, "is_test")
    mode = _input(node, 2)
    if mode is None:
        return False
    constant = _constant(mode)
    return None if constant is None else bool(constant)
