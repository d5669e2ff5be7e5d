"""Any dropout into its inference form, as far as that can be proven."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir

from onnx_structdrop.errors import UnsupportedModelError
from onnx_structdrop.graph.collector import uncollected
from onnx_structdrop.graph.convert import as_ir, like
from onnx_structdrop.graph.fold import fold
from onnx_structdrop.graph.names import Names
from onnx_structdrop.graph.nodes import is_dropout
from onnx_structdrop.graph.proofs.agreement import Agreement
from onnx_structdrop.graph.proofs.frozen import frozen_masks
from onnx_structdrop.graph.proofs.idle import drop_idle
from onnx_structdrop.graph.proofs.norms import to_inference, training_norms
from onnx_structdrop.graph.proofs.rewrite import Rewriter
from onnx_structdrop.graph.proofs.sources import origins
from onnx_structdrop.graph.proofs.unused import Usage
from onnx_structdrop.graph.proofs.walk import Walk
from onnx_structdrop.graph.scopes import scopes
from onnx_structdrop.schema import DOMAIN, INLINED_KEY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onnx_structdrop.graph.convert import ModelT
    from onnx_structdrop.graph.proofs.verdicts import Proof

__all__ = ["CleanReport", "Decision", "Residual", "clean"]

_NEWEST_OPSET = 26
_POOLS = frozenset({"AveragePool", "MaxPool"})


@dataclass(frozen=True)
class Decision:
    """One thing that was found, and what was done about it."""

    nodes: tuple[str, ...]
    """Names of the nodes it is about; an unnamed one goes by its first output."""
    scope: str
    """"" for the main graph, else a name as `graph.scopes` gives it."""
    pattern: str
    """What it is, in the field's terms."""
    evidence: str
    """Why that is certain."""
    action: str
    """What was done; "left" begins what was only reported."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return {**asdict(self), "nodes": list(self.nodes)}


@dataclass(frozen=True)
class Residual:
    """One node that is still random, or still in training mode, and why."""

    node: str
    """Node name; may be empty, as ONNX allows that."""
    scope: str
    op_type: str
    output: str
    """Name of its first output."""
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return asdict(self)


@dataclass(frozen=True)
class CleanReport:
    """What `clean` found, what it did and what it left."""

    decisions: tuple[Decision, ...]
    """One entry per thing found, in the order in which it was dealt with."""
    residual: tuple[Residual, ...]
    """What is still random or in training mode; empty when the model is clean."""
    changed: bool
    """Whether the model differs from what was given."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return {
            "decisions": [decision.to_dict() for decision in self.decisions],
            "residual": [residual.to_dict() for residual in self.residual],
            "changed": self.changed,
        }


@uncollected()
def clean(model: ModelT, *, unscaled_dropout: bool = False) -> tuple[ModelT, CleanReport]:
    """Return a copy of a model in inference form, and a report.

    Dropout of any kind and origin is replaced by what it is when nothing is dropped, wherever
    that is proven: for each value that random numbers reach, it is derived what that value is
    with everything kept, what it is with everything dropped, and how probable that is. A join
    with data goes when it is then exactly its input, with its scale wherever it sits.
    BatchNormalization is switched to inference. What becomes dead goes as well. All else stays,
    in particular the names, order, types and shapes of inputs and outputs, also of inputs that
    steered nothing but dropout.

    Parameters
    ----------
    model
        An ``onnx.ModelProto`` or ``onnx_ir.Model``. It is not changed.
    unscaled_dropout
        Whether a random mask that keeps values as they are, without a scale of 1/keep anywhere,
        is taken for dropout that inference leaves out. The file does not tell it from random
        corruption, or from dropout whose inference form multiplies by the probability of
        keeping; by default such a mask is left.

    Returns
    -------
    model
        Of the kind that was given.
    report : CleanReport
        Every decision, and what was left with the reason. Random numbers that are the model's
        purpose, such as sampling, are left.

    Raises
    ------
    ModelError
        If the model is broken.
    UnsupportedModelError
        If its operator set is newer than what is known here.

    Examples
    --------
    >>> import onnx_structdrop as sd
    >>> model, report = sd.clean(sd.load("trained.onnx"))  # doctest: +SKIP
    >>> report.residual  # doctest: +SKIP
    ()
    """
    result = as_ir(model)
    _check_opset(result)
    decisions: list[Decision] = []
    own = [
        (scope, _label(node))
        for scope, graph in scopes(result)
        for node in graph
        if is_dropout(node)
    ]
    inlined = result.metadata_props.pop(INLINED_KEY, None)
    if own:
        result = fold(result)
        for scope, name in own:
            evidence = f"a node of {DOMAIN}: in inference mode it is the identity"
            decisions.append(
                Decision((name,), scope, "structured dropout", evidence, "replaced by its input")
            )
    changed = bool(own)
    sources = list(origins(result))
    norms = list(training_norms(result))
    reasons: dict[ir.Node, str] = {}
    residual: list[Residual] = []
    if norms or any(source.active is not False or source.undecided for source in sources):
        usage = Usage(result)
        rewriter = Rewriter(Names(result))
        for norm in norms:
            if norm.obstacle is not None:
                residual.append(_left(norm.node, norm.scope, norm.obstacle))
                continue
            label = (_label(norm.node),)
            evidence = f"it is in training mode at opset {norm.opset}"
            action = to_inference(norm, rewriter)
            decisions.append(Decision(label, norm.scope, "batch normalisation", evidence, action))
        if sources:
            walk = Walk(result, unscaled=unscaled_dropout)
            agreement = Agreement(walk)
            reasons = agreement.reasons
            decisions += _applied(agreement.proofs, walk, rewriter)
            for function, formal in walk.fed():
                if not formal.uses() and not formal.is_graph_output():
                    rewriter.drop_input(result, function, formal)
        for scope, nodes, evidence in drop_idle(result, rewriter):
            labels = tuple(_label(node) for node in nodes)
            decisions.append(Decision(labels, scope, "unused", evidence, "removed"))
        changed = changed or bool(decisions)
        if changed:
            usage.prune(result)
    for scope, node, evidence in frozen_masks(result):
        decisions.append(
            Decision((_label(node),), scope, "frozen mask", evidence,
                     "left: frozen mask, which values it dropped is not known any more")
        )  # fmt: skip
    for source in origins(result):
        if source.active is not False:
            reason = reasons.get(source.node, "nothing of what it draws was proven to be dropout")
            residual.append(_left(source.node, source.scope, reason))
    if inlined is not None:
        if residual:
            result.metadata_props[INLINED_KEY] = inlined
        else:
            changed = True
    report = CleanReport(tuple(decisions), tuple(residual), changed)
    return like(model, result), report


def _check_opset(model: ir.Model) -> None:
    """Refuse operators of a future in which they may mean something else."""
    newest = max(onnx.defs.onnx_opset_version(), _NEWEST_OPSET)
    for _, graph in scopes(model):
        imports = graph.opset_imports if isinstance(graph, ir.Function) else model.opset_imports
        if imports.get("", 1) > newest:
            raise UnsupportedModelError(
                f"opset {imports['']} of ai.onnx is newer than {newest}, the newest that onnx "
                f"{onnx.__version__} knows; a newer onnx may know it"
            )


def _applied(proofs: Iterable[Proof], walk: Walk, rewriter: Rewriter) -> list[Decision]:
    """Put proofs into effect; standard Dropouts come last, when their masks are used no more."""
    made: list[tuple[int, Decision]] = []
    order = list(enumerate(proofs))
    for place, proof in sorted(order, key=lambda item: item[1].strength == "definition"):
        node = proof.value.producer()
        if node is None or node in rewriter.removed:
            continue
        scope = walk.scope_of.get(node, "")
        name = _label(node)
        drew = ", ".join(sorted(_label(source) for source in proof.sources))
        action = f"replaced by {rewriter.current(proof.anchor).name!r}"
        if proof.strength == "definition" and _mask_used(node):
            _to_inference(node)
            gone, action = [node], "switched to inference mode, its mask is all True"
        elif proof.slope is not None:
            gone = rewriter.leaky(proof.value, proof.anchor, proof.slope)
            action = f"replaced by a LeakyRelu of slope {proof.slope:.6g}"
        else:
            gone = rewriter.become(proof.value, proof.anchor, proof.carried)
        labels = dict.fromkeys([name, *(_label(one) for one in gone)])
        evidence = proof.evidence
        if proof.strength != "definition":
            evidence = f"random numbers of {drew}: {evidence}"
        pattern = proof.pattern
        if pattern == "DropBlock" and not any(one.op_type in _POOLS for one in gone):
            pattern = "structured mask"
        decision = Decision(tuple(labels), scope, pattern, evidence, action)
        made.append((place, decision))
    return [decision for _, decision in sorted(made, key=lambda item: item[0])]


def _mask_used(node: ir.Node) -> bool:
    return any(value.uses() or value.is_graph_output() for value in node.outputs[1:])


def _to_inference(node: ir.Node) -> None:
    """Make a Dropout put out its input and a mask that is all True."""
    if len(node.inputs) > 1:
        node.resize_inputs(1)
    if "is_test" in node.attributes or "ratio" in node.attributes:
        node.attributes["is_test"] = ir.AttrInt64("is_test", 1)


def _left(node: ir.Node, scope: str, reason: str) -> Residual:
    output = next((value.name for value in node.outputs if value.name), "")
    return Residual(node.name or "", scope, node.op_type, output or "", reason)


def _label(node: ir.Node) -> str:
    return node.name or next((value.name for value in node.outputs if value.name), "")
