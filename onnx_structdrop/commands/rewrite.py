"""``structdrop mode``, ``reseed``, ``fold`` and ``inline``: change nodes of ours in a model."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from onnx_structdrop.commands.changes import print_changes, print_nodes
from onnx_structdrop.commands.facts import Facts
from onnx_structdrop.commands.files import check_output, model_size, output_path, write
from onnx_structdrop.commands.verify import accept, tell
from onnx_structdrop.console import message, print_json, print_table
from onnx_structdrop.errors import CheckFailedError, ModelError
from onnx_structdrop.graph.fold import fold
from onnx_structdrop.graph.inline import inline
from onnx_structdrop.graph.inspect import StochasticNode, inspect
from onnx_structdrop.graph.io import load
from onnx_structdrop.graph.mode import reseed, set_training_mode
from onnx_structdrop.graph.record import check_not_inlined
from onnx_structdrop.graph.verify import verify
from onnx_structdrop.graph.verify.pinned import pinned

if TYPE_CHECKING:
    import argparse

    import onnx_ir as ir

    from onnx_structdrop.graph.verify import VerifyReport

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Run one of the commands: all read a model, change its nodes, and write it."""
    target = output_path(options)
    model = load(options.model)
    check_output(target, model)
    check_not_inlined(model)
    nodes = inspect(model).own
    if not nodes and options.verb != "fold":
        raise ModelError(f"no structured dropout in {options.model!r}; insert it first")
    return _COMMANDS[options.verb](options, model, nodes, target)


def _mode(
    options: argparse.Namespace, model: ir.Model, nodes: tuple[StochasticNode, ...], target: str
) -> int:
    result = set_training_mode(model, options.train)
    mode = "training" if options.train else "inference"
    _finish(options, model, result, target, changed=any(n.active != options.train for n in nodes))
    after = inspect(result).own
    if options.json:
        _print_json(options, target, training_mode=options.train, nodes=after)
        return 0
    print_nodes(f"{_count(after)} in {mode} mode", after)
    return 0


def _reseed(
    options: argparse.Namespace, model: ir.Model, nodes: tuple[StochasticNode, ...], target: str
) -> int:
    result = reseed(model, options.seed)
    after = inspect(result).own
    changed = [node.seed for node in nodes] != [node.seed for node in after]
    _finish(options, model, result, target, changed=changed)
    if options.json:
        _print_json(options, target, seed=options.seed, nodes=after)
        return 0
    print_table(
        {"node": "name", "operator": "left", "seed before": "right", "seed": "right"},
        (
            (new.name, new.op_type, old.seed, new.seed)
            for old, new in zip(nodes, after, strict=True)
        ),
        title=f"{_count(after)} reseeded from {options.seed}",
    )
    return 0


def _fold(
    options: argparse.Namespace, model: ir.Model, nodes: tuple[StochasticNode, ...], target: str
) -> int:
    result = fold(model)
    left = inspect(result).own
    if left:
        raise CheckFailedError(f"{_count(left)} would be left, the first is {left[0].name!r}")
    before = Facts.of(model, model_size(options.model, model))
    if not nodes:
        message(f"no structured dropout in {options.model}: nothing to fold")
    # Functions of ours that nothing calls, and the like, go as well.
    changed = bool(nodes) or dataclasses.replace(before, size=None) != Facts.of(result, None)
    verification = None
    if changed and not options.no_verify:
        # What is random in both of them is held the same way: folding does not touch it.
        verification = verify(pinned(model).model, pinned(result).model, tolerance=0)
        if any(node.active is not False for node in nodes):
            verification = _in_inference_form(verification)
        try:
            accept(verification)
        except CheckFailedError:
            if options.json:
                _print_fold(options, None, nodes, verification, before, Facts.of(result, None))
            raise
    size = _finish(options, model, result, target, changed=changed)
    if verification is not None:
        tell(verification)
    after = Facts.of(result, before.size if size is None else size)
    if options.json:
        _print_fold(options, target, nodes, verification, before, after)
        return 0
    if nodes:
        print_nodes(f"removed {_count(nodes)}", nodes)
    print_changes(before, after)
    return 0


def _print_fold(
    options: argparse.Namespace,
    target: str | None,
    nodes: tuple[StochasticNode, ...],
    verification: VerifyReport | None,
    before: Facts,
    after: Facts,
) -> None:
    plain = None if verification is None else verification.to_dict()
    _print_json(options, target, removed=nodes, verification=plain, before=before, after=after)


def _in_inference_form(report: VerifyReport) -> VerifyReport:
    """Say what the folded model was compared with, where the original as it is drops."""
    form = "original in inference form"
    checks = tuple(
        check.replace(f"of the {report.reference},", f"of the {form},") for check in report.checks
    )
    return dataclasses.replace(report, reference=form, checks=checks)


def _inline(
    options: argparse.Namespace, model: ir.Model, nodes: tuple[StochasticNode, ...], target: str
) -> int:
    result = inline(model, options.random_source)
    left = inspect(result).own
    if left:
        raise CheckFailedError(f"{_count(left)} would be left, the first is {left[0].name!r}")
    before = Facts.of(model, model_size(options.model, model))
    after = Facts.of(result, _finish(options, model, result, target, changed=True))
    if options.json:
        source = options.random_source
        _print_json(
            options, target, random_source=source, inlined=nodes, before=before, after=after
        )
        return 0
    print_nodes(f"inlined {_count(nodes)}", nodes)
    print_changes(before, after)
    return 0


_COMMANDS = {"mode": _mode, "reseed": _reseed, "fold": _fold, "inline": _inline}


def _finish(
    options: argparse.Namespace, model: ir.Model, result: ir.Model, target: str, *, changed: bool
) -> int | None:
    """Write the result; None if there was no need to."""
    if options.in_place and not changed:
        message(f"{target} is left as it was: there is nothing to change")
        return None
    return write(result if changed else model, target)


def _count(nodes: tuple[StochasticNode, ...]) -> str:
    return "1 node" if len(nodes) == 1 else f"{len(nodes)} nodes"


def _print_json(options: argparse.Namespace, target: str | None, **parts: Any) -> None:
    document: dict[str, Any] = {"model": options.model, "output": target}
    for name, part in parts.items():
        if isinstance(part, Facts):
            document[name] = part.to_dict()
        elif isinstance(part, tuple):
            document[name] = [node.to_dict() for node in part]
        else:
            document[name] = part
    print_json(document)
