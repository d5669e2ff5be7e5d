"""Take exported CNNs all the way: dropout in, trained, evaluated, exported, folded, compared.

    python benchmarks/end_to_end.py [MODEL...] [--steps 60] [--json FILE] [--docs]

Without models: the residual network, the inverted residual one and the U-Nets of models/, as
TorchScript exports them with batch normalisation and as dynamo exports them without. Each gets
DropBlock where its family has dropout, on a linear schedule, and learns scikit-learn's digits:
their classes, or, where the output is a map, background, edge and core of the digit at each pixel.

Checked are that the loss falls, that two evaluations give equal bytes, that the finished model
holds nothing random, that two runs of it are equal, and that they equal the evaluation. The exit
status is 1 if a check fails.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import re
import sys
import tempfile
import time

import numpy as np
import onnx
import onnxruntime
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

import onnx_structdrop as sd
from onnx_structdrop.training import Schedule, TrainingSession, finish, fit, generate_artifacts
from onnx_structdrop.training.digits import batches, load_digits, outlines

MODELS = pathlib.Path(__file__).parents[1] / "models"
PAGE = MODELS.parent / "docs" / "training.md"
ZOO = (
    "trainable/resnet18.onnx",
    "resnet18_dynamo.onnx",
    "trainable/mobilenetv2.onnx",
    "mobilenetv2_dynamo.onnx",
    "trainable/unet.onnx",
    "trainable/unet_resize.onnx",
    "unet_dynamo.onnx",
)
BATCH = 16
PIXELS = 64  # where the model leaves the size open
LEARNING_RATE = 0.002
SPEC = sd.DropBlock2D(0.1, 3, seed=1)


@dataclasses.dataclass
class Outcome:
    """What became of one model."""

    model: str
    nodes: int
    steps: int
    first: float
    last: float
    seconds: float
    falls: bool
    repeatable: bool
    folded: bool
    equal: bool
    difference: float

    @property
    def passed(self) -> bool:
        """Whether all checks hold."""
        return self.falls and self.repeatable and self.folded and self.equal


def sizes(value: onnx.ValueInfoProto) -> list[int]:
    """Return the sizes of a value, 0 where one is open."""
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def data(model: onnx.ModelProto) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels in the form that the model takes."""
    _, channels, height, _ = sizes(model.graph.input[0])
    digits = load_digits(1700, size=height or PIXELS, channels=channels)
    dense = len(sizes(model.graph.output[0])) > 2
    images = digits.train_images
    return images, outlines(images) if dense else digits.train_labels


def run(path: pathlib.Path, steps: int, advance) -> Outcome:
    """Take one model all the way."""
    model = onnx.load(path)
    images, labels = data(model)
    sites = sd.placement(sd.find_sites(model), "paper")
    live = sd.insert(model, SPEC, sites)
    with tempfile.TemporaryDirectory() as folder:
        artifacts = generate_artifacts(
            live, pathlib.Path(folder, "artifacts"), loss="cross_entropy",
            schedule=Schedule.linear(steps), batch_norm="train",
        )  # fmt: skip
        session = TrainingSession(artifacts, threads=2, learning_rate=LEARNING_RATE)
        started = time.perf_counter()
        history = fit(session, batches(images, labels, BATCH, steps), told=lambda _: advance())
        seconds = time.perf_counter() - started
        seen = images[:BATCH]
        evaluated, again = (
            next(iter(session.evaluate(seen, labels[:BATCH]).outputs.values())) for _ in range(2)
        )
        finished = finish(session)
    runner = onnxruntime.InferenceSession(
        finished.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    name = finished.graph.input[0].name
    one, two = (runner.run(None, {name: seen})[0] for _ in range(2))
    scale = float(np.abs(evaluated).max())
    difference = float(np.abs(one - evaluated).max()) / scale
    return Outcome(
        model=path.relative_to(MODELS).as_posix() if path.is_relative_to(MODELS) else path.name,
        nodes=len(sites),
        steps=steps,
        first=float(np.mean(history.loss[:5])),
        last=float(np.mean(history.loss[-5:])),
        seconds=seconds / steps,
        falls=history.falls(),
        repeatable=bool(np.array_equal(evaluated, again) and np.array_equal(one, two)),
        folded=sd.inspect(finished).nodes == (),
        equal=difference < 1e-5,
        difference=difference,
    )


HEADER = ["model", "DropBlock nodes", "loss, first 5 steps", "loss, last 5", "ms per step",
          "loss falls", "repeatable", "folded", "equals eval"]  # fmt: skip


def row_of(outcome: Outcome) -> list[str]:
    """Return the row of a table."""
    checks = (outcome.falls, outcome.repeatable, outcome.folded)
    return [
        outcome.model, str(outcome.nodes), f"{outcome.first:.3f}", f"{outcome.last:.3f}",
        f"{1000 * outcome.seconds:.0f}", *("yes" if check else "NO" for check in checks),
        f"{'yes' if outcome.equal else 'NO'}, to {outcome.difference:.0e}",
    ]  # fmt: skip


def document(rows: list[list[str]]) -> None:
    """Write the table into the page."""
    text = PAGE.read_text(encoding="utf-8")
    lines = ("| " + " | ".join(row) + " |" for row in (HEADER, ["---"] * len(HEADER), *rows))
    made, count = re.subn(
        r"(<!-- end to end -->\n).*?(<!-- end -->)",
        lambda match: match[1] + "\n".join(lines) + "\n" + match[2],
        text,
        flags=re.DOTALL,
    )
    if count != 1:
        raise SystemExit(f"{PAGE} has {count} places marked <!-- end to end -->, not one")
    PAGE.write_text(made, encoding="utf-8")


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=pathlib.Path, metavar="MODEL")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--json", type=pathlib.Path, help="where all figures go")
    parser.add_argument("--docs", action="store_true", help=f"write the table into {PAGE.name}")
    arguments = parser.parse_args()
    paths = arguments.models or [MODELS / name for name in ZOO]
    outcomes = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for path in paths:
            task = progress.add_task(path.name, total=arguments.steps)
            outcomes.append(run(path, arguments.steps, lambda task=task: progress.advance(task)))
    rows = [row_of(outcome) for outcome in outcomes]
    table = Table(*HEADER, box=None)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    if arguments.json:
        content = [dataclasses.asdict(outcome) for outcome in outcomes]
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if arguments.docs:
        document(rows)
    return int(not all(outcome.passed for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
