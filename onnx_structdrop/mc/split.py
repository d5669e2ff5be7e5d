"""A model in two parts: what is the same in every run, and what hangs on random numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic

import onnx_ir as ir

from onnx_structdrop.errors import ModelError, UnsupportedModelError
from onnx_structdrop.graph.collector import uncollected
from onnx_structdrop.graph.convert import ModelT, as_ir, like
from onnx_structdrop.graph.files.wellformed import quoted
from onnx_structdrop.graph.nodes import is_dropout
from onnx_structdrop.graph.proofs.sources import is_own, origins
from onnx_structdrop.graph.record import Record
from onnx_structdrop.graph.topology.dataflow import Dataflow
from onnx_structdrop.graph.topology.shapes import Shapes
from onnx_structdrop.mc.parts import Part, bodies_of, extract, reads

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Split", "split"]

_SHAPE_OPS = frozenset({"Shape", "Size"})

_NO_TENSORS = frozenset(
    {
        "Optional",
        "SequenceConstruct",
        "SequenceEmpty",
        "SequenceErase",
        "SequenceInsert",
        "SequenceMap",
        "SplitToSequence",
    }
)
"""Operators that put out sequences and optionals, whose types inference does not tell."""

_LONGEST_CHAIN = 64
"""Nodes of shape arithmetic that are rather computed again than handed over."""


@dataclass(frozen=True)
class Split(Generic[ModelT]):
    """A deterministic part of a model and a stochastic one that goes on from it.

    Running the prefix, and the suffix on what it gives, equals running the whole model.
    """

    prefix: ModelT | None
    """Everything that random numbers do not reach and that is needed; its outputs are `cut` and
    `deterministic`, each once. None where nothing comes before the first random number."""
    suffix: ModelT
    """Everything that random numbers reach. Its inputs are `cut`, and those inputs of the model
    that it reads itself; its outputs are `stochastic`."""
    cut: tuple[str, ...]
    """Names of the values that the prefix hands to the suffix."""
    deterministic: tuple[str, ...]
    """Outputs of the model that the prefix gives, in the model's order."""
    stochastic: tuple[str, ...]
    """Outputs of the model that the suffix gives, in the model's order."""


@uncollected()
def split(model: ModelT) -> Split[ModelT]:
    """Cut a model where randomness begins, so that what comes before needs to run only once.

    The suffix is every node that a live random source reaches: structured dropout in training
    mode, and any other node that draws. A node whose subgraph or function holds a source counts
    as one. Values that depend on no input of the model are computed again in the suffix, and so
    is arithmetic on the shape of what it reads anyway; all else that it needs is cut. Initializers
    that both parts read are in both, sharing their data.

    Parameters
    ----------
    model
        An ``onnx.ModelProto`` or ``onnx_ir.Model``. It is not changed.

    Returns
    -------
    Split
        Two models of the kind that was given.

    Raises
    ------
    ModelError
        If nothing in the model is random, or no output depends on it.
    UnsupportedModelError
        If a value at the cut has no known element type.
    """
    whole = as_ir(model)
    cutter = _Cutter(whole)
    suffix = extract(as_ir(whole), cutter.suffix())
    before = cutter.prefix()
    prefix = None if before is None else extract(as_ir(whole), before)
    for part in (suffix, prefix):
        if part is not None:
            Record.detach(part)
    return Split(
        prefix=None if prefix is None else like(model, prefix),
        suffix=like(model, suffix),
        cut=tuple(value.name or "" for value in cutter.cut),
        deterministic=tuple(cutter.deterministic),
        stochastic=tuple(cutter.stochastic),
    )


class _Cutter:
    """Decides for each node of the main graph which part it belongs to."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._shapes = Shapes(model, Dataflow(model).scopes)
        self._nodes = list(model.graph)
        self._place = {node: place for place, node in enumerate(self._nodes)}
        self._inputs = set(model.graph.inputs)
        self._constant: set[ir.Node] = set()
        tainted = self._taint()
        outputs = list(model.graph.outputs)
        self._random_outputs = [value for value in outputs if value.producer() in tainted]
        if not self._random_outputs:
            raise ModelError(
                "no output of the model depends on its random nodes; insert structured dropout "
                "at sites that lead to an output"
            )
        self._after = self._closure(self._random_outputs, tainted)
        self._complete()
        self.cut = self._crossing()
        """Values that the prefix hands over, in the order of the graph."""
        self._given = [value for value in outputs if value.producer() not in tainted]
        self.deterministic = [value.name or "" for value in self._given]
        self.stochastic = [value.name or "" for value in self._random_outputs]

    def suffix(self) -> Part:
        """Return what belongs to the suffix."""
        return Part(
            nodes=frozenset(self._place[node] for node in self._after),
            outputs=tuple(self.stochastic),
            entries=tuple((value.name or "", *self._described(value)) for value in self.cut),
        )

    def prefix(self) -> Part | None:
        """Return what belongs to the prefix, or None where there is nothing to compute."""
        results = list(dict.fromkeys([*self.cut, *self._given]))
        if not results:
            return None
        nodes = self._closure(results, set(self._nodes))
        return Part(
            nodes=frozenset(self._place[node] for node in nodes),
            outputs=tuple(value.name or "" for value in results),
            described={value.name or "": self._described(value) for value in self.cut},
        )

    def _taint(self) -> set[ir.Node]:
        """Return the nodes that random numbers reach, and note those that hang on no input."""
        random = _random_nodes(self._model)
        tainted: set[ir.Node] = set()
        for node in self._nodes:
            read = list(reads(node))
            if node in random or any(value.producer() in tainted for value in read):
                tainted.add(node)
            elif not any(self._varies(value) for value in read):
                self._constant.add(node)
        return tainted

    def _varies(self, value: ir.Value) -> bool:
        producer = value.producer()
        if producer is not None:
            return producer not in self._constant
        return value in self._inputs

    def _closure(self, results: Iterable[ir.Value], among: set[ir.Node]) -> set[ir.Node]:
        """Return the nodes of a set that are needed to compute values, going back within it."""
        needed: set[ir.Node] = set()
        pending = [value.producer() for value in results]
        while pending:
            node = pending.pop()
            if node is None or node not in among or node in needed:
                continue
            needed.add(node)
            pending += [value.producer() for value in reads(node)]
        return needed

    def _complete(self) -> None:
        """Add to the suffix what is rather computed again than handed over."""
        changed = True
        while changed:
            crossing = self._crossing()
            base = {value for node in self._after for value in reads(node)}
            base -= {value for value in base if self._is_constant(value)}
            changed = False
            for value in crossing:
                again = self._again(value, base)
                if again and not again <= self._after:
                    self._after |= again
                    changed = True

    def _again(self, value: ir.Value, base: set[ir.Value]) -> set[ir.Node]:
        """Return the nodes to compute a value from, in the suffix; none where it is to be cut."""
        producer = value.producer()
        if producer is None:
            return set()
        if producer in self._constant:
            return self._closure([value], self._constant)
        if producer.op_type in _NO_TENSORS or not isinstance(value.type, ir.TensorType | None):
            # Sequences and optionals are not handed over: their makers run again.
            return {producer}
        return self._shape_chain(value, base - {value})

    def _shape_chain(self, value: ir.Value, base: set[ir.Value]) -> set[ir.Node]:
        """Return the nodes that compute a value from nothing but shapes of values of `base`."""
        chain: set[ir.Node] = set()
        pending = [value]
        while pending:
            current = pending.pop()
            producer = current.producer()
            if producer is None:
                if current in self._inputs:
                    return set()
                continue
            if producer in chain:
                continue
            chain.add(producer)
            if len(chain) > _LONGEST_CHAIN:
                return set()
            if producer.op_type in _SHAPE_OPS and producer.domain == "":
                if producer.inputs[0] not in base:
                    return set()
                continue
            pending += reads(producer)
        return chain

    def _is_constant(self, value: ir.Value) -> bool:
        return not self._varies(value)

    def _crossing(self) -> list[ir.Value]:
        """Return what the suffix reads from nodes before it, in the order of the graph."""
        found = {
            value: self._place[producer]
            for node in self._after
            for value in reads(node)
            if (producer := value.producer()) is not None and producer not in self._after
        }
        return sorted(found, key=lambda value: (found[value], value.index() or 0))

    def _described(self, value: ir.Value) -> tuple[ir.TypeProtocol, ir.Shape | None]:
        dtype, dims = self._shapes.dtype(value), self._shapes.dims(value)
        if dtype is None or dtype == ir.DataType.UNDEFINED:
            raise UnsupportedModelError(
                f"the element type of {quoted(value.name or '')}, where the model is to be cut, is "
                "not known; run shape inference on the model, or give the value a type"
            )
        return ir.TensorType(dtype), None if dims is None else ir.Shape(dims)


def _random_nodes(model: ir.Model) -> set[ir.Node]:
    """Return the nodes of the main graph that draw, or whose subgraph or function does.

    Raises
    ------
    ModelError
        If there are none.
    """
    found = list(origins(model))
    live = {origin.node for origin in found if origin.active is not False}
    functions: set[ir.OperatorIdentifier] = set()
    changed = True
    while changed:
        # Functions may call each other in any order of the file.
        drawing = {
            identifier
            for identifier, function in model.functions.items()
            if not is_own(identifier[0], identifier[1])
            and any(_draws(node, live, functions) for node in function)
        }
        changed = drawing != functions
        functions = drawing
    nodes = {node for node in model.graph if _draws(node, live, functions)}
    if not nodes:
        raise ModelError(_nothing_random([origin.node for origin in found]))
    return nodes


def _draws(node: ir.Node, live: set[ir.Node], functions: set[ir.OperatorIdentifier]) -> bool:
    return any(one in live or one.op_identifier() in functions for one in _and_inner(node))


def _and_inner(node: ir.Node) -> Iterator[ir.Node]:
    pending = [node]
    while pending:
        current = pending.pop()
        yield current
        for body in bodies_of(current):
            pending += body


def _nothing_random(idle: list[ir.Node]) -> str:
    """Say why there is nothing to sample, and what to do about it."""
    own = sum(is_dropout(node) for node in idle)
    if own:
        return (
            f"nothing in the model is random: its {own} structured dropout nodes are in inference "
            "mode; switch them on with set_training_mode(model, True) or structdrop mode --train"
        )
    how = "insert structured dropout with onnx_structdrop.insert or with --spec"
    standard = sum(node.op_type == "Dropout" for node in idle)
    if standard:
        return (
            f"nothing in the model is random: its {standard} standard Dropout nodes are in "
            f"inference mode, where they do nothing; {how}"
        )
    return f"nothing in the model is random; {how}"
