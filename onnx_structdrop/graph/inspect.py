"""Report of every stochastic node of a model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnx_structdrop.graph.collector import uncollected
from onnx_structdrop.graph.convert import as_ir
from onnx_structdrop.graph.fates import Fates, is_deleted
from onnx_structdrop.graph.nodes import element_type, is_dropout
from onnx_structdrop.graph.reach import Reach
from onnx_structdrop.graph.reading import Reading
from onnx_structdrop.graph.scopes import is_own_body, scopes
from onnx_structdrop.schema import Normalize, SeedRegion

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from enum import IntEnum

    import onnx

__all__ = ["InspectReport", "StochasticNode", "inspect", "is_stochastic"]

_DEFAULT = ("", "ai.onnx")

_GENERATORS = (
    "RandomUniform",
    "RandomUniformLike",
    "RandomNormal",
    "RandomNormalLike",
    "Bernoulli",
    "Multinomial",
)

# What exporters leave of TensorFlow's generators: no operators of ONNX, nothing runs them.
_TENSORFLOW = ("Stateless", "Random", "TruncatedNormal", "ParameterizedTruncatedNormal")
_NOT_RANDOM = ("StatelessRandomGet", "StatelessIf", "StatelessWhile", "StatelessCase")

# Place of the ratio and of the mode among the inputs of what onnxruntime fuses Dropout into.
_FUSED = {
    "BiasDropout": (3, 4),
    "BitmaskDropout": (1, 2),
    "BitmaskBiasDropout": (3, 4),
}

_NO_TEST_FLAG_SINCE = 7

_WORDS: dict[str, type[IntEnum]] = {"seed_region": SeedRegion, "normalize": Normalize}
"""Attributes of ours that stand for a word."""

_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


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
    """Whether it is random now; None where that is decided at run time, or cannot be told."""
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
    reaches: tuple[str, ...] = ()
    """Graph outputs that depend on it, in order; empty for a node that is dead."""
    deleted: bool | None = False
    """Whether onnxruntime deletes it at its default optimisation level (and from "basic" up),
    whatever its mode; None where that depends on the call of its function, or on which subgraphs
    read what."""
    frozen: bool = False
    """Whether all that it reads is constant, so that constant folding would fix it for good."""
    alike: tuple[str, ...] = ()
    """Outputs of the nodes that compute the same, its own among them: see `twins`."""
    problems: tuple[str, ...] = ()
    """What is malformed about it; fields that cannot be read for that are None or empty."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold.

        Numbers of type float32 are the shortest that stand for them, such as 0.1, and what
        attributes of this package encode is spelled out, such as ``"valid"``.
        """
        fields: dict[str, Any] = {
            "twins" if name == "alike" else name: self.twins if name == "alike" else value
            for name, value in asdict(self).items()
        }
        fields["ratio"], fields["seed"] = _shortest(self.ratio), _shortest(self.seed)
        fields["attributes"] = {
            name: _word(name, value) if self.origin == "structdrop" else _shortest(value)
            for name, value in fields["attributes"].items()
        }
        return fields

    @property
    def twins(self) -> tuple[str, ...]:
        """Outputs of other nodes that compute the same: merging equal nodes makes one of them."""
        if self.output not in self.alike:
            return self.alike
        place = self.alike.index(self.output)
        return self.alike[:place] + self.alike[place + 1 :]


def _shortest(value: Any) -> Any:
    """Return a float32 as the shortest number that rounds to it; all else as it is."""
    if not isinstance(value, float) or not abs(value) <= _LARGEST_FLOAT32:
        return value
    single = np.float32(value)
    return float(str(single)) if float(single) == value else value


def _word(name: str, value: Any) -> Any:
    """Return what an attribute of ours stands for; what it cannot be stays a number."""
    words = _WORDS.get(name)
    if words is None or not isinstance(value, int) or value not in set(words):
        return _shortest(value)
    return words(value).name.lower()


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


@uncollected()
def inspect(model: onnx.ModelProto | ir.Model) -> InspectReport:
    """Report every stochastic node: structured dropout, and foreign dropout and generators.

    A malformed node does not stop it: the node's `problems` say what is wrong.

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


def is_stochastic(node: ir.Node, functions: Collection[ir.OperatorIdentifier] = ()) -> bool:
    """Tell whether a node draws random numbers, now or in training mode.

    Parameters
    ----------
    node
        Any node.
    functions
        Identifiers of the model's functions: a call of one is not random by its name.
    """
    if is_dropout(node):
        return True
    if node.domain == "com.microsoft" and node.op_type in _FUSED:
        return True
    if node.domain not in _DEFAULT or node.op_identifier() in functions:
        return False
    name = node.op_type
    return (
        name in _GENERATORS
        or name == "Dropout"
        or (name.startswith(_TENSORFLOW) and not name.startswith(_NOT_RANDOM))
    )


def _stochastic_nodes(model: ir.Model) -> Iterator[StochasticNode]:
    found: list[tuple[str, ir.Node, int, frozenset[ir.Value]]] = []
    fates = Fates()
    opset, formal = model.opset_imports.get(""), frozenset[ir.Value]()
    for scope, graph in scopes(model):
        if isinstance(graph, ir.Function):
            # Its subgraphs follow before the next function does.
            opset, formal = graph.opset_imports.get(""), frozenset((*graph.inputs, *graph.outputs))
        if is_own_body(scope):
            continue
        random = [node for node in graph if is_stochastic(node, model.functions)]
        fates.read(graph, set(random))
        known = _NO_TEST_FLAG_SINCE if opset is None else opset
        found += [(scope, node, known, formal) for node in random]
    reach = Reach(model) if found else None
    constants: dict[ir.Value, Any] = {}
    for scope, node, known, formal in found:
        reading = Reading(node, constants)
        yield _described(scope, reading, node, known, formal, fates, reach)


def _described(
    scope: str,
    reading: Reading,
    node: ir.Node,
    opset: int,
    formal: frozenset[ir.Value],
    fates: Fates,
    reach: Reach | None,
) -> StochasticNode:
    own, standard = is_dropout(node), node.op_type == "Dropout" and node.domain in _DEFAULT
    ratio: float | str | None = None
    if own:
        mode = reading.integer("training_mode")
        active, ratio = None if mode is None else bool(mode), reading.ratio(1)
    elif standard:
        active, ratio = _dropout_active(reading, opset), reading.ratio(1, default=0.5)
    elif node.op_type in _FUSED:
        place, mode_place = _FUSED[node.op_type]
        active, ratio = reading.flag(mode_place), reading.ratio(place, default=0.5)
    else:
        active = True
    output, data = reading.output(), reading.input(0)
    known = data if output is None or (output.shape is None and data is not None) else output
    seed = reading.number("seed")
    return StochasticNode(
        name=node.name or "",
        op_type=node.op_type,
        domain=node.domain,
        scope=scope,
        origin="structdrop" if own else "foreign",
        active=active,
        data=None if data is None else data.name,
        output="" if output is None else output.name or "",
        shape=None
        if known is None or known.shape is None
        else tuple(size if isinstance(size, int) else size.value for size in known.shape),
        dtype=element_type(output) or element_type(data),
        ratio=ratio,
        seed=seed,
        attributes=reading.attributes(without=("seed", "training_mode")),
        reaches=() if reach is None else reach.outputs(node),
        deleted=is_deleted(node, formal) if standard else False,
        frozen=not own and fates.frozen(node),
        alike=fates.alike(node) if node.outputs else (),
        problems=tuple(reading.problems),
    )


def _dropout_active(reading: Reading, opset: int) -> bool | None:
    """Tell whether a standard Dropout is on.

    It is unless ``is_test`` says otherwise below opset 7, never from 7 to 11, and an input's
    business from 12.
    """
    if opset < _NO_TEST_FLAG_SINCE:
        test = reading.integer("is_test", default=0)
        return None if test is None else not test
    return reading.flag(2)
