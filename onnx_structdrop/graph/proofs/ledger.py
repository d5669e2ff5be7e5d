"""What a walk has proven and what it has refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_structdrop.graph.proofs.hidden import hidden_scale, prescale
from onnx_structdrop.graph.proofs.noise import MALFORMED, Affine, Noise, NotProvenError
from onnx_structdrop.graph.proofs.sampling import check_use
from onnx_structdrop.graph.proofs.sources import label

if TYPE_CHECKING:
    from collections.abc import Iterable

    import onnx_ir as ir

    from onnx_structdrop.graph.proofs.calls import Calls
    from onnx_structdrop.graph.proofs.joins import Joins
    from onnx_structdrop.graph.proofs.noise import Sense
    from onnx_structdrop.graph.proofs.verdicts import Proof

__all__ = ["Ledger"]

_UNSCALED = (
    "the mask keeps values unscaled; whether inference keeps them or scales them is not in the file"
)
_EMPTY = "the mask keeps nothing: whether inference keeps everything then is not in the file"


class Ledger:
    """Proofs and refusals, each by itself; `agreement` looks at what they have in common.

    Attributes
    ----------
    proofs
        What was proven about joins, in the order of execution.
    refused
        For events (by key) and generators (by node) why their random numbers cannot be explained.
    aliases
        Pairs of events of which one stands for the other inside a function, and whether both
        happen together.
    links
        Pairs of keys: what refuses one refuses the other.
    loops
        How many loops there are around what is being proven.
    """

    def __init__(self, joins: Joins, calls: Calls, *, unscaled: bool = False) -> None:
        self.proofs: list[Proof] = []
        self.refused: dict[object, str] = {}
        self.aliases: list[tuple[object, object, bool]] = []
        self.links: list[tuple[object, object]] = []
        self.loops = 0
        self._joins = joins
        self._calls = calls
        self._allows_unscaled = unscaled
        self._settled: set[ir.Value] = set()

    def refuse(self, noise: Noise | Affine, reason: str) -> None:
        """Note that some random numbers have a use that no proof explains."""
        if isinstance(noise, Noise) and noise.obscure:
            reason = noise.obscure
        for key in _keys(noise):
            self.refused.setdefault(key, reason)

    def link(self, one: Noise, other: Noise | Affine) -> None:
        """Note that two kinds of random numbers stand or fall together."""
        for key in _keys(one):
            self.links += [(key, second) for second in _keys(other)]

    def tie(self, one: Sense, other: Sense) -> None:
        """Note that an event of one function call stands for that of another."""
        for (first, yes), (second, no) in zip(one, other, strict=True):
            self.aliases.append((first.key, second.key, yes == no))

    def settle(self, values: Iterable[ir.Value | None], *, keep: bool = False) -> None:
        """Complete the proofs about joins, because what uses the values is no part of them.

        With `keep`, another user may still go on with them.
        """
        joins = self._joins
        for value in values:
            join = None if value is None else joins.affine.get(value)
            if value is None or join is None:
                continue
            if value not in self._settled:
                self._settled.add(value)
                self._complete(value, join)
            if not keep:
                del joins.affine[value]
            joins.data.add(value)

    def _complete(self, value: ir.Value, join: Affine) -> None:
        proof: Proof | None = join.proven or join.retreat
        try:
            if proof is None:
                complaint = self._joins.complaints.get(value, "no inference form is known")
                raise NotProvenError(f"{complaint}, at {label(join.joins[-1])}")
            if not proof.certain and proof.strength == "unscaled":
                proof = self._unscaled(proof)
            if proof.added:
                check_use(value, looped=self.loops > 0)
            self.proofs.append(proof)
        except NotProvenError as error:
            self.refuse(join, str(error))
        except MALFORMED as error:
            # A node around the join, where a scale was looked for.
            self.refuse(join, f"a node next to {label(join.joins[-1])} is broken: {error}")

    def _unscaled(self, proof: Proof) -> Proof:
        """Look for a scale that belongs to a mask and sits elsewhere."""
        parameters = self._joins.parameters
        early = prescale(proof, parameters, self._joins.joined_at)
        if early is not None:
            return early
        place = hidden_scale(proof, parameters, self._calls, self._joins.joined_at)
        if place is not None:
            raise NotProvenError(
                f"the mask's scale stands apart from it, at {label(place)}, behind other operators"
            )
        # The mask output of a Dropout is all True in inference mode, whatever it is used for.
        defined = all(event.key[:1] == ("dropout",) for event, _ in proof.events)  # type: ignore[index]
        if not (defined or self._allows_unscaled):
            empty = proof.chance is not None and not proof.chance.any()
            raise NotProvenError(_EMPTY if empty else _UNSCALED)
        return proof


def _keys(noise: Noise | Affine) -> list[object]:
    """Return the events of random numbers, or their generators where there is no event."""
    events: Sense = noise.events if isinstance(noise, Affine) else noise.sense
    keys: list[object] = [event.key for event, _ in events]
    return keys or list(noise.sources)
