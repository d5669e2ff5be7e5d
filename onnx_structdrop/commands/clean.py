"""``structdrop clean``: any dropout, whoever put it there, into its inference form."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from onnx_structdrop.commands.changes import print_changes
from onnx_structdrop.commands.facts import Facts
from onnx_structdrop.commands.files import check_output, model_size, output_path, write
from onnx_structdrop.commands.verify import accept, tell
from onnx_structdrop.console import message, print_json, print_line, print_table, some
from onnx_structdrop.errors import CheckFailedError
from onnx_structdrop.graph.clean import CleanReport, Decision, clean
from onnx_structdrop.graph.io import load
from onnx_structdrop.graph.verify import verify

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    import onnx_ir as ir

    from onnx_structdrop.graph.verify import VerifyReport

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Clean a model, check the result, and write it if nothing random is left."""
    target = output_path(options)
    model = load(options.model)
    check_output(target, model)
    result, report = clean(model, unscaled_dropout=options.unscaled_dropout)
    before = Facts.of(model, model_size(options.model, model))
    left = len(report.residual)
    if left and not options.allow_random:
        _show(options, None, report, None, before, Facts.of(result, None))
        raise CheckFailedError(
            f"{left} {'node stays' if left == 1 else 'nodes stay'} random or in training mode, the "
            f"first is {report.residual[0].node or report.residual[0].output!r}: "
            f"{report.residual[0].reason}; nothing was written (--allow-random writes it)"
        )
    verification = None
    if report.changed and not options.no_verify:
        verification = verify(model, result, inference=True)
        # Expectations tell an unscaled mask from the data, and so does this check.
        try:
            accept(verification, suspicious=options.unscaled_dropout)
        except CheckFailedError:
            _show(options, None, report, verification, before, Facts.of(result, None))
            raise
    size = _finish(options, model, result, target, changed=report.changed)
    if verification is not None:
        tell(verification)
    after = Facts.of(result, before.size if size is None else size)
    _show(options, target, report, verification, before, after)
    return 0


def _finish(
    options: argparse.Namespace, model: ir.Model, result: ir.Model, target: str, *, changed: bool
) -> int | None:
    """Write the result; None if there was no need to."""
    if options.in_place and not changed:
        message(f"{target} is left as it was: there is nothing to change")
        return None
    return write(result if changed else model, target)


def _show(
    options: argparse.Namespace,
    target: str | None,
    report: CleanReport,
    verification: VerifyReport | None,
    before: Facts,
    after: Facts,
) -> None:
    if options.json:
        print_json(
            {
                "model": options.model,
                "output": target,
                **report.to_dict(),
                "verification": None if verification is None else verification.to_dict(),
                "before": before.to_dict(),
                "after": after.to_dict(),
            }
        )
        return
    if report.decisions:
        # What was found, and done, in the same way many times is one row.
        alike: dict[tuple[str, str, str], list[Decision]] = {}
        for entry in report.decisions:
            kind = (entry.pattern, _without_names(entry.action), _without_names(entry.evidence))
            alike.setdefault(kind, []).append(entry)
        print_table(
            {"found": "left", "count": "right", "nodes": "name", "done": "text",
             "evidence": "text"},
            (_row(entries) for entries in alike.values()),
            title=f"{options.model}: decisions",
        )  # fmt: skip
    if report.residual:
        print_table(
            {"node": "name", "operator": "left", "scope": "name", "left because": "text"},
            (
                (entry.node or entry.output, entry.op_type, entry.scope or None, entry.reason)
                for entry in report.residual
            ),
            title=f"{options.model}: still random or in training mode",
        )
    if not report.decisions and not report.residual:
        print_line(f"{options.model}: nothing to clean")
    if report.changed:
        print_changes(before, after)


def _without_names(text: str) -> str:
    """Return a sentence of a report without the names of nodes and values in it."""
    text = re.sub(r"^random numbers of .*?: ", "", text)
    text = re.sub(r"^replaced by '[^']*'$", "replaced by the data", text)
    return re.sub(r"'[^']*'", "...", text)


def _row(entries: Sequence[Decision]) -> tuple[object, ...]:
    """Return the row of decisions that differ in names at most."""
    first = entries[0]
    nodes = [node for entry in entries for node in entry.nodes]
    texts = [
        one if all(other == one for other in others) else _without_names(one)
        for one, others in (
            (first.action, [entry.action for entry in entries]),
            (first.evidence, [entry.evidence for entry in entries]),
        )
    ]
    return first.pattern, len(entries), some(nodes), *texts
