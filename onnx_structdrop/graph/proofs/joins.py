"""Where random values meet data: what the result is in terms of both."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnx_structdrop.graph.proofs import intervals
from onnx_structdrop.graph.proofs.intervals import Range, exact, times
from onnx_structdrop.graph.proofs.noise import Affine, Noise, NotProvenError, combine, lift
from onnx_structdrop.graph.proofs.transfer import MOVING, coarseness, constant
from onnx_structdrop.graph.proofs.verdicts import Proof, verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx_structdrop.graph.proofs.parameters import Parameters
    from onnx_structdrop.graph.proofs.sizes import Dims

__all__ = ["Joins"]

_ONE, _ZERO = lift(exact(1.0)), lift(exact(0.0))


class Joins:
    """The state of the proofs about one model: what every tainted value is.

    Attributes
    ----------
    noise, affine
        Values that depend on random numbers alone, and those where data have joined.
    data
        Values that depend on data.
    joined_at
        Nodes that belong to joins.
    """

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.noise: dict[ir.Value, Noise] = {}
        self.affine: dict[ir.Value, Affine] = {}
        self.data: set[ir.Value] = set()
        self.joined_at: set[ir.Node] = set()
        self.masks: dict[ir.Value, Dims | None] = {}
        self.complaints: dict[ir.Value, str] = {}

    def joined(self, node: ir.Node, settle: Callable[[list[ir.Value]], None]) -> Affine | None:
        """Return what a node makes of data and noise, or None if it only uses finished joins.

        Parameters
        ----------
        node
            At least one of its inputs is tainted.
        settle
            Called with values on which a proof is complete before the node uses them.

        Raises
        ------
        NotProvenError
            If noise enters it in a way that is not followed.
        """
        op_type = node.op_type
        handler = _HANDLERS.get(op_type)
        noisy = any(value in self.noise for value in node.inputs if value is not None)
        if handler is None:
            if noisy:
                raise NotProvenError(f"{op_type} combines random numbers with data")
            return None
        for value in node.inputs:
            found = None if value is None else self.affine.get(value)
            if value is None or found is None or not _finished(found):
                continue
            if not self.again(node):
                settle([value])
        if not noisy and not any(value in self.affine for value in node.inputs if value):
            return None
        return handler(self, node)

    def prove(self, value: ir.Value, join: Affine) -> Affine:
        """Attach what can be proven about a value, or what stands against it."""
        try:
            proof = verdict(join, value, self.masks.get(value), self.parameters.dims(join.anchor))
            if join.anchor not in self.data and proof.strength not in ("rescaled", "constant"):
                raise NotProvenError(f"{join.anchor.name!r} depends on no input of the model")
        except NotProvenError as error:
            self.complaints[value] = str(error)
            return join
        return replace(join, proven=proof)

    def again(self, node: ir.Node) -> bool:
        """Tell whether a node applies to a join the same random numbers again."""
        drew = [self.affine[value].sources for value in node.inputs if value in self.affine]
        noises = [self.noise[value] for value in node.inputs if value in self.noise]
        return any(
            not sources.isdisjoint(noise.sources)
            for sources in drew
            for noise in noises
            if noise.sense or not noise.first.known
        )

    def _operand(self, node: ir.Node, index: int) -> Noise | Affine:
        value = node.inputs[index]
        if value is None:
            raise NotProvenError(f"{node.op_type} lacks an input")
        if value in self.noise:
            return self.noise[value].explained()
        if value in self.affine:
            return self.affine[value]
        if value not in self.data:
            number = self.parameters.number(value)
            if number is not None and (number.known or _is_fraction(number)):
                return constant(value, self.parameters)
        return Affine(value, _ONE, _ZERO, ())

    def _fit(self, node: ir.Node, value: ir.Value | None, noise: Noise) -> None:
        """Make sure that noise does not enlarge the data it joins."""
        if not noise.dims and noise.dims is not None:
            return
        output = node.outputs[0]
        data = self.parameters.dims(value)
        if noise.dims is None or data is None:
            whole = self.parameters.dims(output)
            if data is None or whole is None or not _equal(whole, data):
                raise NotProvenError("the shapes of mask and data are not known")
            return
        if len(noise.dims) > len(data) or not all(
            (size == 1).all() or (size == other).all()
            for size, other in zip(reversed(noise.dims), reversed(data), strict=False)
        ):
            raise NotProvenError("the random numbers have more positions than the data they join")

    def _made(self, node: ir.Node, before: tuple[Affine, ...], result: Affine) -> Affine:
        self.joined_at.add(node)
        joins = dict.fromkeys(join for affine in before for join in affine.joins)
        return replace(result, joins=(*joins, node), proven=None)

    def _multiply(self, node: ir.Node) -> Affine | None:
        x, y = self._operand(node, 0), self._operand(node, 1)
        value, other = node.inputs[0], y
        if isinstance(x, Noise):
            x, other, value = y, x, node.inputs[1]
            if node.op_type == "Div":
                raise NotProvenError("random numbers are divided by data")
        if not isinstance(x, Affine) or not isinstance(other, Noise):
            return self._apart(node)
        if node.op_type == "Div" and self.parameters.rounds(node):
            raise NotProvenError("a division of integers rounds, it is no scaling")
        self._fit(node, value, other)
        self._note_mask(node, value, other)
        if node.op_type == "Div":
            other = replace(
                other, first=intervals.inverse(other.first), second=intervals.inverse(other.second)
            )
        factor = combine(x.factor, other, times, None)
        offset = combine(x.offset, other, times, None)
        result = self._made(node, (x,), replace(x, factor=factor, offset=offset))
        return self._with_retreat(result, x, other)

    def _with_retreat(self, result: Affine, x: Affine, other: Noise) -> Affine:
        """Keep an earlier proof to retreat to when a scalar that follows has its own purpose.

        A factor up to 1 rescales no mask. A larger one may be a wrong 1/keep.
        """
        proven = x.proven or x.retreat
        harmless = not other.sense and other.first.known and bool((abs(other.first.low) <= 1).all())
        return replace(result, retreat=proven if harmless else None)

    def _add(self, node: ir.Node) -> Affine | None:
        operands = [self._operand(node, index) for index in range(len(node.inputs))]
        affines = [operand for operand in operands if isinstance(operand, Affine)]
        if len({affine.anchor for affine in affines}) != 1:
            return self._apart(node)
        if len({affine.carried for affine in affines}) != 1:
            return self._apart(node)
        at = next(i for i, operand in enumerate(operands) if isinstance(operand, Affine))
        factor, offset = _ZERO, _ZERO
        for index, operand in enumerate(operands):
            sign = -1.0 if node.op_type == "Sub" and index else 1.0
            if isinstance(operand, Noise):
                self._fit(node, node.inputs[at], operand)
                self._note_mask(node, node.inputs[at], operand)
                offset = combine(offset, _scaled(operand, sign), intervals.plus, None)
            else:
                factor = combine(factor, _scaled(operand.factor, sign), intervals.plus, None)
                offset = combine(offset, _scaled(operand.offset, sign), intervals.plus, None)
                self._note_mask(node, node.inputs[index], None)
        result = self._made(node, tuple(affines), replace(affines[0], factor=factor, offset=offset))
        if len(affines) == 1 and all(
            isinstance(operand, Affine) or (not operand.sense and operand.first.known)
            for operand in operands
        ):
            return replace(result, retreat=affines[0].proven or affines[0].retreat)
        return replace(result, retreat=None)

    def _apart(self, node: ir.Node) -> Affine | None:
        """Leave a node that combines different data; noise in it would be unexplained."""
        for value in node.inputs:
            if value is not None and value in self.noise:
                raise NotProvenError(f"{node.op_type} combines random numbers with other data")
        return None

    def _where(self, node: ir.Node) -> Affine | None:
        condition = node.inputs[0]
        if condition is None or condition not in self.noise:
            return self._apart(node)
        mask = self.noise[condition].explained()
        branches = [self._operand(node, index) for index in (1, 2)]
        affines = [branch for branch in branches if isinstance(branch, Affine)]
        if len({affine.anchor for affine in affines}) > 1:
            raise NotProvenError("it chooses at random between different data")
        if len({affine.carried for affine in affines}) != 1:
            raise NotProvenError("it chooses at random between moved data")
        for index in (1, 2):
            value = node.inputs[index]
            if isinstance(branches[index - 1], Affine):
                self._fit(node, value, mask)
                self._note_mask(node, value, mask)
            elif isinstance(branches[index - 1], Noise):
                at = 3 - index
                self._fit(node, node.inputs[at], branches[index - 1])  # type: ignore[arg-type]
        weights = (mask, _scaled(mask, -1.0, 1.0))
        factor, offset = _ZERO, _ZERO
        for weight, branch in zip(weights, branches, strict=True):
            part = branch.offset if isinstance(branch, Affine) else branch
            offset = combine(offset, combine(weight, part, times, None), intervals.plus, None)
            if isinstance(branch, Affine):
                part = combine(weight, branch.factor, times, None)
                factor = combine(factor, part, intervals.plus, None)
        result = replace(affines[0], factor=factor, offset=offset, retreat=None)
        return self._made(node, tuple(affines), result)

    def _negate(self, node: ir.Node) -> Affine | None:
        x = self._operand(node, 0)
        if not isinstance(x, Affine):
            return None
        factor, offset = _scaled(x.factor, -1.0), _scaled(x.offset, -1.0)
        self._note_mask(node, node.inputs[0], None)
        return self._made(node, (x,), replace(x, factor=factor, offset=offset, retreat=None))

    def _carry(self, node: ir.Node) -> Affine | None:
        x = self._operand(node, 0)
        if any(value in self.noise for value in node.inputs[1:] if value is not None):
            raise NotProvenError(f"random numbers steer {node.op_type}")
        if not isinstance(x, Affine) or len(node.outputs) != 1:
            return None
        carried = x.carried
        if node.op_type != "Identity":
            carried = (*carried, node)
        if node.op_type in ("Cast", "CastLike"):
            source, target = node.inputs[0], node.outputs[0].dtype
            attribute = node.attributes.get("to")
            target = target if attribute is None else ir.DataType(attribute.as_int())
            if target is None or source is None or not target.is_floating_point():
                return None
            coarse = max(x.factor.coarse, coarseness(target))
            x = replace(x, factor=replace(x.factor, coarse=coarse))
        self._note_mask(node, node.inputs[0], None)
        retreat = x.proven or x.retreat
        return self._made(node, (x,), replace(x, carried=carried, retreat=retreat))

    def _note_mask(self, node: ir.Node, value: ir.Value | None, noise: Noise | None) -> None:
        """Remember the shape of the mask that a value got, the largest of several."""
        output = node.outputs[0]
        dims = None if noise is None or not noise.sense else noise.dims
        if dims is None and value is not None:
            dims = self.masks.get(value)
        if dims is not None and len(dims) >= len(self.masks.get(output) or ()):
            self.masks[output] = dims

    def slope(self, node: ir.Node) -> Proof:
        """Return the proof that a PRelu with a random slope is a LeakyRelu.

        Raises
        ------
        NotProvenError
            If the slope is not uniformly distributed, or not the same for every input.
        """
        data, given = node.inputs[0], node.inputs[1]
        if data is None or given is None or data not in self.data or given not in self.noise:
            raise NotProvenError("PRelu gets its data from random numbers")
        noise = self.noise[given].explained()
        draw = noise.first.draw
        if noise.sense or draw is None or draw.family != "uniform":
            raise NotProvenError("the slope of PRelu is random, but not uniform")
        if not (draw.mean == draw.mean[0]).all():
            raise NotProvenError("the bounds of the random slope are not constant")
        mean = float(draw.mean[0])
        return Proof(
            node.outputs[0], data, "noise", "RReLU",
            f"the slope is uniformly random with mean {mean:.6g}",
            sources=noise.sources, slope=mean, joins=(node,),
        )  # fmt: skip


def _scaled(noise: Noise, factor: float, offset: float = 0.0) -> Noise:
    def change(number: Range) -> Range:
        return intervals.plus(times(number, exact(factor)), exact(offset))

    if factor == 1.0 and not offset:
        return noise
    return replace(noise, first=change(noise.first), second=change(noise.second))


def _finished(join: Affine) -> bool:
    return join.proven is not None and join.proven.certain


def _is_fraction(number: Range) -> bool:
    return bool((number.low >= 0).all() and (number.high <= 1).all())


def _equal(one: Dims, other: Dims) -> bool:
    return len(one) == len(other) and all((a == b).all() for a, b in zip(one, other, strict=True))


_HANDLERS: dict[str, Callable[[Joins, ir.Node], Affine | None]] = {
    "Add": Joins._add,
    "Cast": Joins._carry,
    "CastLike": Joins._carry,
    "Div": Joins._multiply,
    "Mul": Joins._multiply,
    "Neg": Joins._negate,
    "Sub": Joins._add,
    "Sum": Joins._add,
    "Where": Joins._where,
    **dict.fromkeys(MOVING, Joins._carry),
}
