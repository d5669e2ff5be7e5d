"""``structdrop verify``: do two models compute the same; and the same check for other commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_structdrop.commands.usage import UsageError
from onnx_structdrop.console import message, print_json, print_line, print_table, shape_text
from onnx_structdrop.errors import ArgumentError, CheckFailedError, UnsupportedModelError
from onnx_structdrop.graph.io import load
from onnx_structdrop.graph.verify import verify
from onnx_structdrop.graph.verify.live import Live

if TYPE_CHECKING:
    import argparse

    from onnx_structdrop.graph.verify import OutputCheck, VerifyReport

__all__ = ["accept", "run", "tell"]


def run(options: argparse.Namespace) -> int:
    """Compare two models; whatever is not proven equal is an error."""
    original, rewritten = load(options.original), load(options.rewritten)
    try:
        report = verify(
            original,
            rewritten,
            samples=options.samples,
            seed=options.seed,
            tolerance=options.tolerance,
            inference=options.inference,
        )
    except ArgumentError as error:
        raise UsageError(str(error)) from error
    if options.json:
        models = {"original": options.original, "rewritten": options.rewritten}
        print_json({**models, **report.to_dict()})
    else:
        _print_report(report)
    if report.status == "different":
        raise CheckFailedError(f"the models are different: {report.reason}")
    if report.status != "equal":
        # The inference form is the original's: dropout of the rewritten model would stay on.
        hint = ""
        if report.status == "not comparable":
            if Live(rewritten).nodes:
                hint = " (structdrop clean brings the rewritten model to its inference form)"
            elif Live(original).nodes and not options.inference:
                hint = " (--inference compares with dropout off)"
        raise UnsupportedModelError(f"{report.status}: {report.reason}{hint}")
    return 0


def accept(report: VerifyReport, *, suspicious: bool = False) -> None:
    """End a command before it writes, if a check found a difference or cannot explain one.

    Parameters
    ----------
    report
        What the check found.
    suspicious
        Whether a difference that it cannot explain is to be expected.

    Raises
    ------
    CheckFailedError
        The models are different, or seem to be.
    """
    if report.status == "different":
        raise CheckFailedError(
            f"the result does not compute the same: {report.reason}; nothing was written"
        )
    if report.suspicious and not suspicious:
        raise CheckFailedError(
            f"the result may not compute the same: {report.reason}; nothing was written "
            "(look at --json, --no-verify writes it)"
        )


def tell(report: VerifyReport) -> None:
    """Tell what a check found, also that something could not be run or compared."""
    passed = "; ".join(report.checks[1:])
    if report.status == "equal":
        message(f"verified: {passed}")
        return
    message(f"not verified ({report.status}): {report.reason}")
    if passed:
        message(f"what could be checked: {passed}")


def _print_report(report: VerifyReport) -> None:
    """Print what was compared; the reason of the verdict is the error that follows."""
    if report.outputs:
        reasons = len({output.reason for output in report.outputs if output.reason}) > 1
        print_table(
            {"output": "name", "result": "left", "error": "right", "tolerance": "right",
             **({"why": "text"} if reasons else {})},
            (
                (
                    output.name,
                    ("equal bit for bit" if output.exact else output.status)
                    + (", a constant" if output.constant else ""),
                    _error(output),
                    None if output.status == "not comparable" else f"{output.tolerance:g}",
                    *((output.reason or None,) if reasons else ()),
                )
                for output in report.outputs
            ),
            title=f"compared with the {report.reference}",
        )  # fmt: skip
    for number, shapes in enumerate(report.shapes, start=1):
        listed = ", ".join(f"{name} {shape_text(shape)}" for name, shape in shapes.items())
        print_line(f"sample {number}: {listed or 'no inputs'}")
    for name, value in report.held.items():
        print_line(f"input {name} was held at {value}: it switches dropout")
    for check in report.checks:
        print_line(f"checked: {check}")
    print_line(report.status)


def _error(output: OutputCheck) -> str | None:
    if output.status == "not comparable":
        return None
    return f"{output.error:.2g}"
