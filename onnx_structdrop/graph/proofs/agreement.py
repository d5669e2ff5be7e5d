"""Which proofs stand together: joins of one mask have to agree on what keeping means."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_ir as ir

    from onnx_structdrop.graph.proofs.ledger import Ledger
    from onnx_structdrop.graph.proofs.verdicts import Proof
    from onnx_structdrop.graph.proofs.walk import Walk

__all__ = ["Agreement"]

_OPPOSED = "one of its joins keeps what another drops"


class Agreement:
    """The proofs of a walk that hold in view of each other.

    Attributes
    ----------
    proofs
        Those that hold, in the order of execution.
    reasons
        For each generator whose numbers are not all explained, why.
    """

    def __init__(self, walk: Walk) -> None:
        self._parent: dict[object, tuple[object, bool]] = {}
        self._reasons: dict[object, str] = {}
        for one, other, same in walk.ledger.aliases:
            if not self._unite(one, other, same):
                self._reasons[self._find(one)[0]] = _OPPOSED
        for key, reason in walk.ledger.refused.items():
            self._reasons.setdefault(self._find(key)[0], reason)
        self.proofs = self._standing(walk.ledger)
        kept = {id(proof) for proof in self.proofs}
        self.reasons: dict[ir.Node, str] = {}
        for proof in walk.ledger.proofs:
            if id(proof) in kept:
                continue
            for reason in self._against(proof):
                for node in proof.sources:
                    self.reasons.setdefault(node, reason)
        drawers = _drawers(walk)
        for key, reason in walk.ledger.refused.items():
            for node in drawers(key):
                self.reasons.setdefault(node, reason)
        for key in [*self._reasons, *self._parent]:
            # What others refuse, by way of a link or another name.
            found = self._reasons.get(self._find(key)[0])
            if found is not None:
                for node in drawers(key):
                    self.reasons.setdefault(node, found)

    def _standing(self, ledger: Ledger) -> list[Proof]:
        proofs = ledger.proofs
        directions: dict[object, bool] = {}
        for proof in proofs:
            if proof.strength == "companion":
                continue
            for key, happens in self._roots(proof):
                if directions.setdefault(key, happens) != happens:
                    self._reasons.setdefault(key, _OPPOSED)
        shared: dict[object, list[Proof]] = defaultdict(list)
        for proof in proofs:
            for key in self._keys(proof):
                shared[key].append(proof)
            if proof.strength == "companion":
                for key, happens in self._roots(proof):
                    if directions.get(key) != happens:
                        self._reasons.setdefault(
                            key, "it scales data, but nothing that drops by it was proven"
                        )
        linked: dict[object, list[object]] = defaultdict(list)
        for one, other in ledger.links:
            first, second = self._find(one)[0], self._find(other)[0]
            linked[first].append(second)
            linked[second].append(first)
        # What refuses one proof refuses all that share an event or generator with it.
        pending = list(self._reasons)
        dropped: set[int] = set()
        while pending:
            key = pending.pop()
            for proof in shared.pop(key, ()):
                if id(proof) in dropped:
                    continue
                dropped.add(id(proof))
                linked[key] += self._keys(proof)
            for other in linked.pop(key, ()):
                if other not in self._reasons:
                    self._reasons[other] = self._reasons[key]
                    pending.append(other)
        return [proof for proof in proofs if id(proof) not in dropped]

    def _against(self, proof: Proof) -> list[str]:
        return [self._reasons[key] for key in self._keys(proof) if key in self._reasons]

    def _roots(self, proof: Proof) -> list[tuple[object, bool]]:
        found = []
        for event, happens in proof.events:
            root, same = self._find(event.key)
            found.append((root, happens == same))
        return found

    def _keys(self, proof: Proof) -> list[object]:
        """Return the events of a proof, or its generators where it has no event."""
        if proof.events:
            return list(dict.fromkeys(key for key, _ in self._roots(proof)))
        if proof.strength == "definition":
            return []
        return [self._find(node)[0] for node in proof.sources]

    def _find(self, key: object) -> tuple[object, bool]:
        """Return the representative of an event, and whether both happen together."""
        same = True
        while key in self._parent:
            key, step = self._parent[key]
            same = same == step
        return key, same

    def _unite(self, one: object, other: object, same: bool) -> bool:
        first, along = self._find(one)
        second, beside = self._find(other)
        together = (along == beside) == same
        if first == second:
            return together
        self._parent[second] = (first, together)
        return True


def _drawers(walk: Walk) -> Callable[[object], list[ir.Node]]:
    """Return what finds the generators that an event, or a key that is one, belongs to."""
    by_number = {id(node): node for node in walk.origins}

    def find(key: object) -> list[ir.Node]:
        if isinstance(key, tuple):
            return [by_number[part] for part in key if part in by_number]
        return [node for node in (by_number.get(id(key)),) if node is not None]

    return find
