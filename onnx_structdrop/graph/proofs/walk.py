"""Following random numbers through a whole model, into branches, loops and functions."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnx_structdrop.graph.files.wellformed import one_line
from onnx_structdrop.graph.proofs.calls import Calls, alike, bodies, called
from onnx_structdrop.graph.proofs.generators import dropout_chance, generated, of_constant
from onnx_structdrop.graph.proofs.intervals import ANY, exact
from onnx_structdrop.graph.proofs.joins import Joins
from onnx_structdrop.graph.proofs.ledger import Ledger
from onnx_structdrop.graph.proofs.noise import MALFORMED, Event, Noise, NotProvenError, Sense
from onnx_structdrop.graph.proofs.parameters import Parameters
from onnx_structdrop.graph.proofs.sources import DEFAULT_DOMAINS, Origin, is_own, label, origins
from onnx_structdrop.graph.proofs.transfer import MOVING, transferred
from onnx_structdrop.graph.proofs.verdicts import Proof
from onnx_structdrop.graph.scopes import scopes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Walk"]

_SHAPE_ONLY = frozenset({"Shape", "Size"})
_LOOPS = frozenset({"Loop", "Scan"})
_SINGLE = frozenset({"MaxPool", "Dropout"})


class Walk:
    """One pass over a model, in the order of execution.

    Parameters
    ----------
    model
        The model; it is only read.
    unscaled
        Whether a mask that keeps values as they are counts as dropout.

    Attributes
    ----------
    ledger
        What was proven and what was refused.
    origins
        The random sources of the model.
    scope_of
        The scope of every node that was visited.
    """

    def __init__(self, model: ir.Model, *, unscaled: bool = False) -> None:
        self.origins: dict[ir.Node, Origin] = {found.node: found for found in origins(model)}
        self.scope_of: dict[ir.Node, str] = {}
        self._model = model
        self._calls = Calls(model)
        self._joins = Joins(Parameters(model, self._calls.actuals))
        self.ledger = Ledger(self._joins, self._calls, unscaled=unscaled)
        self._drawing: set[ir.Node] = set()
        self._entered: dict[int, tuple[Noise | None, ...]] = {}
        self._graphs = {
            id(graph.graph if isinstance(graph, ir.Function) else graph): name
            for name, graph in scopes(model)
        }
        self._data = self._joins.data
        self._data.update(
            value for value in model.graph.inputs if self._joins.parameters.arrays(value) is None
        )
        self._drive(self._graph(model.graph))
        for function in model.functions.values():
            if id(function.graph) not in self._entered and not is_own(*function.identifier()[:2]):
                self._data.update(function.inputs)
                self._entered[id(function.graph)] = ()
                self._drive(self._graph(function.graph))

    def fed(self) -> Iterator[tuple[ir.Function, ir.Value]]:
        """Yield each function input that got random numbers, with its function."""
        for function in self._model.functions.values():
            for formal in list(function.inputs):
                if formal in self._joins.noise and formal in self._calls.actuals:
                    yield function, formal

    def _drive(self, first: Iterator[Iterator[object]]) -> None:
        """Run generators that wait for others: bodies nest without recursion."""
        stack = [first]
        while stack:
            inner = next(stack[-1], None)
            if inner is None:
                stack.pop()
            else:
                stack.append(inner)  # type: ignore[arg-type]

    def _graph(self, graph: ir.Graph) -> Iterator[Iterator[object]]:
        scope = self._graphs.get(id(graph), "")
        for node in graph:
            self.scope_of[node] = scope
            function = self._model.functions.get(node.op_identifier())
            inner = list(bodies(node))
            if function is not None and not is_own(node.domain, node.op_type):
                yield from self._call(node, function)
            elif inner:
                yield from self._control(node, inner)
            else:
                self._visit(node)
        main = graph is self._model.graph
        self.ledger.settle(graph.outputs)
        for value in graph.outputs:
            if value in self._joins.noise and main and not self._is_mask(value):
                self.ledger.refuse(
                    self._joins.noise[value], f"it reaches the output {value.name!r}"
                )

    def _is_mask(self, value: ir.Value) -> bool:
        """Tell whether noise is the mask of standard Dropouts alone, which inference defines."""
        sources = self._joins.noise[value].sources
        return all(node.op_type == "Dropout" and node not in self._drawing for node in sources)

    def _visit(self, node: ir.Node) -> None:
        try:
            self._node(node)
        except MALFORMED as error:
            reason = f"{label(node)} does not fit its inputs or attributes: {one_line(error)}"
            self.ledger.refused.setdefault(node, reason)
            self._give_up(node, reason)

    def _node(self, node: ir.Node) -> None:
        joins = self._joins
        if node in self.origins and self._source(node):
            return
        tainted = [
            value for value in _content(node) if value in joins.noise or value in joins.affine
        ]
        standard = node.domain in DEFAULT_DOMAINS
        if standard and node.op_type in _SHAPE_ONLY:
            return
        if not tainted:
            if any(value in self._data for value in _content(node)):
                self._data.update(node.outputs)
            return
        try:
            if not standard:
                raise NotProvenError(f"the random numbers enter {node.domain}::{node.op_type}")
            if node.op_type == "PRelu" and node.inputs[1] in joins.noise:
                self.ledger.proofs.append(joins.slope(node))
                self._data.update(node.outputs)
            elif self._is_pure(node):
                self._transfer(node)
            else:
                self._join(node)
        except NotProvenError as error:
            self._stop(node, error)

    def _stop(self, node: ir.Node, error: NotProvenError) -> None:
        """Give up on random numbers, or on what is known of them where no data meet them yet."""
        joins = self._joins
        reason = str(error) if " at " in str(error) else f"{error} at {label(node)}"
        if not self._is_pure(node):
            self._give_up(node, reason)
            return
        given = [joins.noise[value] for value in node.inputs if value in joins.noise]
        blank = Noise(
            ANY,
            ANY,
            frozenset().union(*(noise.sense for noise in given)),
            sources=frozenset().union(*(noise.sources for noise in given)),
            obscure=reason,
        )
        for value in node.outputs:
            joins.noise[value] = blank

    def _is_pure(self, node: ir.Node) -> bool:
        joins = self._joins
        return not any(value in self._data or value in joins.affine for value in _content(node))

    def _transfer(self, node: ir.Node) -> None:
        joins = self._joins
        masks = any(joins.noise[v].sense for v in node.inputs if v in joins.noise)
        if masks and node.op_type in ("Mul", "Div") and self._meets_table(node):
            with suppress(NotProvenError):
                self._join(node)
                return
        try:
            result = transferred(node, joins.noise, joins.parameters)
        except NotProvenError as error:
            # A mask on weights, which depend on no data either, is still a join.
            if not masks:
                raise
            try:
                self._join(node)
            except NotProvenError:
                # What stood against following the mask says more than that it is no join.
                raise error from None
            return
        for value in node.inputs[1:] if node.op_type in MOVING else ():
            if value in joins.noise:
                self.ledger.link(joins.noise[value], result)
        outputs = node.outputs[:1] if node.op_type in _SINGLE else node.outputs
        for value in outputs:
            dims = result.dims
            if dims is not None:
                joins.parameters.learn_dims(value, dims)
            joins.noise[value] = result

    def _meets_table(self, node: ir.Node) -> bool:
        """Tell whether one of the operands is a table of weights."""
        joins = self._joins
        return any(v not in joins.noise and joins.parameters.is_table(v) for v in node.inputs)

    def _join(self, node: ir.Node) -> None:
        joins = self._joins
        try:
            result = joins.joined(node, self.ledger.settle)
        except NotProvenError:
            # An unscaled mask that is complete by itself may be what stands in the way.
            if joins.again(node) or not any(value in joins.affine for value in node.inputs):
                raise
            self.ledger.settle(node.inputs)
            result = joins.joined(node, self.ledger.settle)
        if result is None:
            if any(value in joins.noise for value in _content(node)):
                raise NotProvenError(f"{node.op_type} combines random numbers with data")
            self.ledger.settle(node.inputs, keep=True)
            self._data.update(node.outputs)
            return
        output = node.outputs[0]
        joins.affine[output] = joins.prove(output, result)

    def _give_up(self, node: ir.Node, reason: str) -> None:
        affine = [self._joins.affine[v] for v in node.inputs if v in self._joins.affine]
        self.ledger.settle(node.inputs, keep=True)
        for value in node.inputs:
            if value in self._joins.noise:
                self.ledger.refuse(self._joins.noise[value], reason)
                for join in affine:
                    # What they were to become together is not known, so neither goes.
                    self.ledger.link(self._joins.noise[value], join)
        self._data.update(node.outputs)

    def _source(self, node: ir.Node) -> bool:
        """Handle a node that draws; return whether it does."""
        origin, joins = self.origins[node], self._joins
        if node.op_type == "Dropout" and node.domain in DEFAULT_DOMAINS:
            return self._dropout(node, origin)
        if origin.active is False:
            return False
        try:
            if node.domain not in DEFAULT_DOMAINS:
                raise NotProvenError(f"nothing is known of {node.domain}::{node.op_type}")
            if any(value in joins.noise or value in joins.affine for value in node.inputs) and (
                not node.op_type.endswith("Like")
            ):
                raise NotProvenError("its parameters are random themselves")
            if node.op_type == "Bernoulli" and node.inputs[0] in self._data:
                raise NotProvenError("its probability is computed from data")
            noise = generated(node, joins.parameters)
            for value in node.outputs:
                joins.noise[value] = noise
                if noise.dims is not None:
                    joins.parameters.learn_dims(value, noise.dims)
        except NotProvenError as error:
            self.ledger.refused.setdefault(node, str(error))
            self._give_up(node, f"it decides what {label(node)} draws")
        return True

    def _dropout(self, node: ir.Node, origin: Origin) -> bool:
        joins = self._joins
        data, output = node.inputs[0], node.outputs[0]
        mask = node.outputs[1] if len(node.outputs) > 1 else None
        used = mask is not None and (mask.uses() or mask.is_graph_output())
        if origin.active is False and (used or not origin.undecided):
            return False
        if data is None:
            return False
        if data in joins.affine:
            self.ledger.settle([data], keep=True)
        elif data in joins.noise:
            self.ledger.refuse(joins.noise[data], "the random numbers enter a Dropout")
        if data in self._data or data in joins.noise:
            self._data.add(output)
        drawn = None
        if data not in self._data and data not in joins.noise:
            drawn = of_constant(node, joins.parameters)
        if drawn is not None:
            self._drawing.add(node)
            self.ledger.tie(drawn[0].sense, drawn[1].sense)
            joins.noise.update(zip(node.outputs, drawn, strict=False))
            return True
        sense: Sense = frozenset()
        chance = dropout_chance(node, joins.parameters)
        if used and mask is not None:
            sense = frozenset({(Event(("dropout", id(node))), True)})
            dims = joins.parameters.dims(data)
            joins.noise[mask] = Noise(
                exact(1.0), exact(0.0), sense, chance, dims=dims, sources=frozenset({node})
            )
        evidence = "inference mode of the operator is the identity"
        if origin.active is False:
            evidence = "below opset 12 nothing in the file switches it on"
        self.ledger.proofs.append(
            Proof(output, data, "definition", "dropout", evidence, sense,
                  frozenset({node}), chance, joins=(node,))
        )  # fmt: skip
        return True

    def _control(self, node: ir.Node, inner: list[ir.Graph]) -> Iterator[Iterator[object]]:
        joins = self._joins
        steered = False
        self.ledger.settle(node.inputs, keep=True)
        for value in node.inputs:
            if value in joins.noise:
                self.ledger.refuse(joins.noise[value], f"the random numbers steer {label(node)}")
                steered = True
        fed = steered or any(value in self._data for value in node.inputs)
        for body in inner:
            # What one round hands to the next, and slices of a scan, are taken for data: their
            # content is not followed.
            self._data.update(body.inputs)
            looped = node.op_type in _LOOPS
            self.ledger.loops += looped
            yield self._graph(body)
            self.ledger.loops -= looped
            for value in body.outputs:
                if value in joins.noise:
                    self.ledger.refuse(joins.noise[value], f"it leaves a body of {label(node)}")
                    fed = True
                fed = fed or value in self._data
        if fed:
            self._data.update(node.outputs)

    def _call(self, node: ir.Node, function: ir.Function) -> Iterator[Iterator[object]]:
        joins = self._joins
        self.ledger.settle(node.inputs, keep=True)
        noises = tuple(
            joins.noise.get(value) if value is not None else None for value in node.inputs
        )
        key = id(function.graph)
        if key not in self._entered:
            self._entered[key] = noises
            for formal, noise in zip(function.inputs, noises, strict=False):
                if noise is not None:
                    joins.noise[formal] = noise
                elif any(given in self._data for given in self._calls.actuals[formal]) or (
                    joins.parameters.arrays(formal) is None and not self._is_constant(formal)
                ):
                    self._data.add(formal)
            yield self._graph(function.graph)
        else:
            self._compare_calls(node, self._entered[key], noises)
        for value, inner in zip(node.outputs, function.outputs, strict=False):
            if inner in joins.noise:
                joins.noise[value] = called(joins.noise[inner], node)
            else:
                self._data.add(value)

    def _is_constant(self, formal: ir.Value) -> bool:
        """Tell whether every call passes weights."""
        return all(
            given is not None and given.const_value is not None
            for given in self._calls.actuals[formal]
        )

    def _compare_calls(
        self, node: ir.Node, before: tuple[Noise | None, ...], now: tuple[Noise | None, ...]
    ) -> None:
        """Refuse noise that a function gets only from some of its calls, or in other forms."""
        for one, other in zip(before, now, strict=False):
            if one is None and other is None:
                continue
            if one is not None and other is not None and alike(one, other):
                self.ledger.tie(one.sense, other.sense)
                continue
            reason = f"{label(node)} passes other random numbers than another call"
            for noise in (one, other):
                if noise is not None:
                    self.ledger.refuse(noise, reason)


def _content(node: ir.Node) -> Sequence[ir.Value | None]:
    """Return the inputs whose content a node uses, and not only their type."""
    return node.inputs[:1] if node.op_type == "CastLike" else node.inputs
