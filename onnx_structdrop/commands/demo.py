"""``structdrop demo``: everything once, on a ResNet that comes with the package."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from onnx_structdrop.commands.facts import Facts
from onnx_structdrop.commands.insert import inserted_nodes, print_inserted
from onnx_structdrop.commands.sites import print_sites
from onnx_structdrop.console import (
    message,
    percent,
    print_check,
    print_heading,
    print_line,
    print_table,
    shape_text,
)
from onnx_structdrop.demo import SPEC, STAGES, Check, Demo, Rate
from onnx_structdrop.errors import CheckFailedError, NativeLibraryError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Run the demonstration; a check that fails does not stop it, but is its result."""
    start = time.perf_counter()
    demo = Demo(options.output)
    checks: list[Check] = []

    facts = Facts.of(demo.original, None)
    print_heading(f"1  A ResNet-18 as {demo.original.producer_name} exported it")
    print_line(f"  {demo.source}")
    print_line(f"  {facts.nodes} nodes, opset {facts.opset}, IR version {facts.ir_version}")

    sites, chosen = demo.find()
    print_heading("2  Its sites: where dropout can go")
    print_sites("", sites)

    stages = " and ".join(map(str, STAGES))
    print_heading(f"3  DropBlock2D({SPEC.rate:g}, 7) goes into stages {stages}")
    found = demo.insert()
    print_inserted("", inserted_nodes(demo.original, demo.dropping, chosen))
    checks += _shown(found)

    print_heading("4  Training mode in onnxruntime")
    found, rates = demo.train()
    _print_rates(rates)
    checks += _shown(found)

    print_heading("5  The same file with the native kernels")
    checks += _accelerated(demo)

    print_heading("6  Inference mode")
    checks += _shown(demo.evaluate())

    print_heading("7  Folded away")
    checks += _shown(demo.fold())

    print_heading("8  Pictures")
    checks += _shown(demo.draw())
    for path in demo.written:
        print_line(f"    {path}")

    failed = [check for check in checks if not check.passed]
    print_line()
    if failed:
        raise CheckFailedError(
            f"{len(failed)} of {len(checks)} checks failed, the first: {failed[0].text}"
        )
    seconds = time.perf_counter() - start
    print_check(True, f"all {len(checks)} checks passed in {seconds:.1f} s")
    message(f"wrote {len(demo.written)} files to {demo.folder}")
    return 0


def _accelerated(demo: Demo) -> list[Check]:
    """Run the kernels where there are any; the rest of the demonstration does without."""
    try:
        found, seconds = demo.accelerate()
    except NativeLibraryError as error:
        print_line(f"  not usable here: {error}")
        return []
    plain, function, kernel = (f"{1000 * value:.0f} ms" for value in seconds)
    print_line(f"  a run takes {function} with functions, {kernel} with kernels, {plain} without")
    return _shown(found)


def _shown(checks: Iterable[Check]) -> list[Check]:
    shown = list(checks)
    for check in shown:
        print_check(check.passed, check.text)
    return shown


def _print_rates(rates: Iterable[Rate]) -> None:
    print_table(
        {
            "node": "name",
            "shape": "left",
            "ratio": "right",
            "expected": "right",
            "measured": "right",
            "standard error": "right",
        },
        (
            (
                rate.node,
                shape_text(rate.shape),
                percent(rate.nominal),
                f"{rate.expected:.2%}",
                f"{rate.realised:.2%}",
                f"{rate.error:.2%}",
            )
            for rate in rates
        ),
    )
