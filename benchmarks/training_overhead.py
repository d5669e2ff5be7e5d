"""Measure what DropBlock in the last two stages costs a training step.

    python benchmarks/training_overhead.py [--rounds 15] [--width 64] [--size 64] [--batch 16]
                                           [--threads 2] [--json FILE] [--docs]

A ResNet-18 of torch, batch normalisation kept, trains with no dropout, with native kernels, and
with the same nodes as functions: a step of each in turn, round by round, in one process. Printed
are medians and quartiles, of seconds and of the ratio within rounds. The exit status is 1 if
native DropBlock takes more than 1.03 of no dropout. Needs the training environment, with torch.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pathlib
import re
import sys
import tempfile
import time
import warnings

import numpy as np
import onnx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from spread import Spread

import onnx_structdrop as sd
from onnx_structdrop.training import Schedule, TrainingSession, generate_artifacts

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "training.md"
STAGES = (3, 4)
SPEC = sd.DropBlock2D(0.1, 7, seed=1)
GOAL = 1.03
BASE = "no dropout"


def resnet18(width: int, size: int) -> onnx.ModelProto:
    """Export a ResNet-18 with its batch normalisation."""
    import torch

    sys.path.insert(0, str(ROOT / "models"))
    from export_torch import ResNet

    torch.manual_seed(0)
    model = ResNet(widths=tuple(width * factor for factor in (1, 2, 4, 8))).eval()
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (torch.randn(2, 3, size, size),), content, dynamo=False, opset_version=17,
            training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
            input_names=["input"], output_names=["output"],
            dynamic_axes={"input": {0: "N"}, "output": {0: "N"}},
        )  # fmt: skip
    return onnx.ModelProto.FromString(content.getvalue())


def sessions(model: onnx.ModelProto, folder: str, threads: int) -> dict[str, TrainingSession]:
    """Return what is timed, by name."""
    sites = [site for site in sd.placement(sd.find_sites(model), "paper") if site.stage in STAGES]
    live = sd.insert(model, SPEC, sites)
    made = {}
    for name, source, native in (
        (BASE, model, False),
        ("DropBlock, native kernels", live, True),
        ("DropBlock, functions", live, False),
    ):
        artifacts = generate_artifacts(
            source, pathlib.Path(folder, str(len(made))), batch_norm="train",
            schedule=Schedule.constant(),
        )  # fmt: skip
        made[name] = TrainingSession(artifacts, native=native, threads=threads)
    return made


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--width", type=int, default=64, help="channels of the first stage")
    parser.add_argument("--size", type=int, default=64, help="height and width of an image")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=pathlib.Path, help="where all figures go")
    parser.add_argument("--docs", action="store_true", help=f"write the table into {PAGE.name}")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error("--rounds must be at least 2")
    load = os.getloadavg()[0]
    rng = np.random.default_rng(0)
    images = rng.standard_normal((arguments.batch, 3, arguments.size, arguments.size), np.float32)
    labels = rng.integers(0, 10, arguments.batch)
    seconds: dict[str, list[float]] = {}
    columns = (TextColumn("steps"), BarColumn(), MofNCompleteColumn())
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress(*columns, console=Console(stderr=True)) as progress,
    ):
        timed = sessions(resnet18(arguments.width, arguments.size), folder, arguments.threads)
        task = progress.add_task("", total=(arguments.rounds + 1) * len(timed))
        names = list(timed)
        for number in range(arguments.rounds + 1):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                started = time.perf_counter()
                timed[name].step(images, labels)
                if number:  # the first round warms up
                    seconds.setdefault(name, []).append(time.perf_counter() - started)
                progress.advance(task)
    ratios = {
        name: Spread.of([one / base for one, base in zip(found, seconds[BASE], strict=True)])
        for name, found in seconds.items()
    }
    header = ["", "ms per step", "against no dropout", "goal"]
    rows = [
        [
            name,
            Spread.of(found).text(1000, 0),
            "" if name == BASE else ratios[name].text(places=3),
            f"≤ {GOAL}" if "native" in name else "",
        ]
        for name, found in seconds.items()
    ]
    head = (
        f"ResNet-18 of width {arguments.width}, {arguments.batch} images of {arguments.size}x"
        f"{arguments.size}, {arguments.threads} threads, {arguments.rounds} rounds, load "
        f"{load:.1f} at the start; median (quartiles)."
    )
    table = Table(*header, box=None, title=head, title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"head": head, "seconds": seconds}) + "\n")
    if arguments.docs:
        document(head, header, rows)
    native = next(spread for name, spread in ratios.items() if "native" in name)
    return int(native.median > GOAL)


def document(head: str, header: list[str], rows: list[list[str]]) -> None:
    """Write the table into the page."""
    text = PAGE.read_text(encoding="utf-8")
    lines = [head, "", *("| " + " | ".join(row) + " |" for row in (header, ["---"] * 4, *rows))]
    made, count = re.subn(
        r"(<!-- overhead -->\n).*?(<!-- end -->)",
        lambda match: match[1] + "\n".join(lines) + "\n" + match[2],
        text,
        flags=re.DOTALL,
    )
    if count != 1:
        raise SystemExit(f"{PAGE} has {count} places marked <!-- overhead -->, not one")
    PAGE.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
