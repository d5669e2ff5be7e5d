"""Train one small CNN with each kind of dropout, on several seeds, and compare accuracies.

    python benchmarks/learning.py [--seeds 6] [--steps 300] [--images 300] [--json FILE] [--docs]

The network of models/trainable/digits_resnet.onnx, weights drawn anew for each seed, learns few of
scikit-learn's digits; the others test it, as they are and with a square of each put out. Every
variant of one seed has the same weights, images and order of batches, and standard errors are
those over the seeds, also of the paired difference to training without dropout. Dropout sits
at the activations and joins of the last two stages, on rates that were set once and not tuned.
Needs the training environment of the README; takes less than three minutes on two cores.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import math
import multiprocessing
import os
import pathlib
import re
import statistics
import sys
import tempfile
import time

import numpy as np
import onnx
from onnx import numpy_helper
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import onnx_structdrop as sd
from onnx_structdrop.training import Schedule, TrainingSession, fit, generate_artifacts
from onnx_structdrop.training.digits import batches, load_digits, occlude

ROOT = pathlib.Path(__file__).parents[1]
MODEL = ROOT / "models" / "trainable" / "digits_resnet.onnx"
PAGE = ROOT / "docs" / "training.md"
STAGES = (2, 3)
KINDS = ("activation", "join")
BATCH = 32
LEARNING_RATE = 0.002
SQUARE = 6

SPECS = {
    "none": None,
    "Dropout": lambda seed: sd.Dropout(0.2, seed=seed),
    "SpatialDropout": lambda seed: sd.SpatialDropout2D(0.1, seed=seed),
    "DropBlock": lambda seed: sd.DropBlock2D(0.1, 3, seed=seed),
}
VARIANTS = [
    (name, schedule)
    for name in SPECS
    for schedule in (("constant",) if name == "none" else ("constant", "linear"))
]


def with_fresh_weights(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """Return the model with convolution and matrix weights drawn anew, after He et al. (2015)."""
    fresh = onnx.ModelProto()
    fresh.CopyFrom(model)
    rng = np.random.default_rng(seed)
    for tensor in fresh.graph.initializer:
        if len(tensor.dims) > 1:
            deviation = math.sqrt(2 / math.prod(tensor.dims[1:]))
            drawn = rng.standard_normal(tensor.dims, np.float32) * np.float32(deviation)
            tensor.CopyFrom(numpy_helper.from_array(drawn, tensor.name))
    return fresh


def run(job: tuple[str, str, int, int, int]) -> dict[str, float]:
    """Train one variant with one seed and return its accuracies."""
    name, course, seed, steps, images = job
    started = time.perf_counter()
    model = with_fresh_weights(onnx.load(MODEL), seed)
    spec = SPECS[name]
    if spec is not None:
        sites = [
            site for site in sd.find_sites(model) if site.stage in STAGES and site.kind in KINDS
        ]
        model = sd.insert(model, spec(seed), sites)
    digits = load_digits(images, seed)
    sets = {
        "clean": (digits.test_images, digits.test_labels),
        "occluded": (occlude(digits.test_images, SQUARE, seed), digits.test_labels),
    }
    schedule = Schedule.linear(steps) if course == "linear" else Schedule.constant()
    with tempfile.TemporaryDirectory() as folder:
        artifacts = generate_artifacts(
            model, pathlib.Path(folder, "artifacts"), loss="cross_entropy", optimizer="adamw",
            batch_norm="train", schedule=schedule,
        )  # fmt: skip
        session = TrainingSession(artifacts, threads=1, learning_rate=LEARNING_RATE)
        order = batches(digits.train_images, digits.train_labels, BATCH, steps, seed)
        history = fit(session, order, sets=sets)
    found = history.evaluations[-1]
    return {
        "clean": found["clean"],
        "occluded": found["occluded"],
        "loss": statistics.fmean(history.loss[-20:]),
        "seconds": time.perf_counter() - started,
    }


def summary(values: list[float]) -> tuple[float, float]:
    """Return the mean and its standard error."""
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))


def rows_of(results: dict[tuple[str, str], list[dict[str, float]]]) -> list[list[str]]:
    """Return a row for each variant: means, standard errors, differences to no dropout."""
    base = results["none", "constant"]
    rows = []
    for (name, course), found in results.items():
        row = [name, "-" if name == "none" else course]
        for key in ("clean", "occluded"):
            mean, error = summary([100 * one[key] for one in found])
            row.append(f"{mean:.2f} ± {error:.2f}")
            pairs = [100 * (one[key] - other[key]) for one, other in zip(found, base, strict=True)]
            mean, error = summary(pairs)
            row.append("" if name == "none" else f"{mean:+.2f} ± {error:.2f}")
        rows.append([*row, f"{statistics.fmean(one['loss'] for one in found):.3f}"])
    return rows


HEADER = ["dropout", "schedule", "clean, %", "difference", "occluded, %", "difference",
          "training loss"]  # fmt: skip


def document(rows: list[list[str]], head: str) -> None:
    """Write the table into the page."""
    text = PAGE.read_text(encoding="utf-8")
    lines = [head, "", *("| " + " | ".join(row) + " |" for row in (HEADER, ["---"] * 7, *rows))]
    made, count = re.subn(
        r"(<!-- learning -->\n).*?(<!-- end -->)",
        lambda match: match[1] + "\n".join(lines) + "\n" + match[2],
        text,
        flags=re.DOTALL,
    )
    if count != 1:
        raise SystemExit(f"{PAGE} has {count} places marked <!-- learning -->, not one")
    PAGE.write_text(made, encoding="utf-8")


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=6, help="runs of each variant")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--images", type=int, default=300, help="images to train on")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time")
    parser.add_argument("--json", type=pathlib.Path, help="where all figures go")
    parser.add_argument("--docs", action="store_true", help=f"write the table into {PAGE.name}")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error("--seeds must be at least 2")
    jobs = [
        (name, course, seed, arguments.steps, arguments.images)
        for seed in range(arguments.seeds)
        for name, course in VARIANTS
    ]
    started = time.perf_counter()
    results: dict[tuple[str, str], list[dict[str, float]]] = {key: [] for key in VARIANTS}
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    context = multiprocessing.get_context("spawn")
    with (
        Progress(*columns, console=Console(stderr=True)) as progress,
        concurrent.futures.ProcessPoolExecutor(arguments.jobs, context) as pool,
    ):
        task = progress.add_task("", total=len(jobs))
        for job, found in zip(jobs, pool.map(run, jobs), strict=True):
            results[job[:2]].append(found)
            progress.advance(task)
    seconds = time.perf_counter() - started
    rows = rows_of(results)
    head = (
        f"{arguments.seeds} seeds, {arguments.steps} steps of {BATCH} images, "
        f"{arguments.images} images to train on, {1797 - arguments.images} to test with; mean ± "
        f"standard error of the mean; {seconds:.0f} s in all."
    )
    table = Table(*HEADER, box=None, title=head, title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    if arguments.json:
        content = {
            "settings": {key: str(value) for key, value in vars(arguments).items()},
            "seconds": seconds,
            "results": [
                {"dropout": name, "schedule": course, "runs": found}
                for (name, course), found in results.items()
            ],
        }
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if arguments.docs:
        document(rows, head)
    return 0


if __name__ == "__main__":
    sys.exit(main())
