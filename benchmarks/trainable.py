"""Which exported CNNs train? Each gets DropBlock, is prepared, and makes three steps.

    python benchmarks/trainable.py [MODEL...] [--corpus DIR] [--json FILE] [--docs]

Without models: those of models/ and, with ``--corpus``, those that hold a convolution in the
folder of exports. Dropout of their own is cleaned away first. A model either trains (three steps
on random data, the loss finite, parameters changed), or is refused with a reason; anything else,
such as a crash of the runtime, counts as failed, and the exit status is then 1. Every model has a
process of its own. Needs the training environment of docs/training.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np
import onnx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

import onnx_structdrop as sd

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "training.md"
SPECS = {3: sd.DropBlock1D(0.1, 3, seed=1), 4: sd.DropBlock2D(0.1, 3, seed=1),
         5: sd.DropBlock3D(0.1, 3, seed=1)}  # fmt: skip
STEPS = 3
BATCH, PIXELS = 2, 64
TIMEOUT = 300
_MARK = "outcome: "


@dataclasses.dataclass
class Outcome:
    """What became of one model."""

    model: str
    kind: str
    """"trains", "refused" or "failed"."""
    detail: str
    nodes: int = 0
    changes: tuple[str, ...] = ()


def convolutional(path: pathlib.Path) -> bool:
    """Tell whether a file holds a convolution in its main graph."""
    model = onnx.load(path, load_external_data=False)
    return any(node.op_type in ("Conv", "QLinearConv") for node in model.graph.node)


def drawn(infos, labels_like=None, classes=None):
    """Draw an array for an input that a manifest describes."""
    rng = np.random.default_rng(0)
    names: dict[str, int] = {}

    def size(place, value):
        if isinstance(value, int):
            return value
        key = value or f"axis {place}"
        return names.setdefault(key, BATCH if place == 0 else PIXELS)

    arrays = []
    for info in infos:
        shape = [size(place, value) for place, value in enumerate(info.shape)]
        arrays.append(rng.standard_normal(shape).astype(info.dtype))
    return arrays, size


def free_sizes(model: onnx.ModelProto) -> dict[str, int]:
    """Give a size to free heights and widths: MaxPool trains wrong without."""
    known = {tensor.name for tensor in model.graph.initializer}
    return {
        dim.dim_param: PIXELS
        for value in model.graph.input
        if value.name not in known
        for dim in value.type.tensor_type.shape.dim[2:]
        if dim.dim_param
    }


def train(path: pathlib.Path) -> Outcome:
    """Take one model through three steps."""
    from onnx_structdrop.training import TrainingSession, generate_artifacts, prepare

    model, nodes = onnx.load(path), 0
    try:
        model, report = sd.clean(model)
        if report.residual:
            return Outcome(path.name, "refused", f"stays random: {report.residual[0].reason}")
        sites = [
            site for site in sd.find_sites(model)
            if site.kind in ("activation", "join") and site.shape and len(site.shape) in SPECS
        ]  # fmt: skip
        for rank, spec in SPECS.items():
            chosen = [site for site in sites if len(site.shape) == rank]
            nodes += len(chosen)
            model = sd.insert(model, spec, chosen) if chosen else model
        sizes = free_sizes(model)
        prepared = prepare(model, batch_norm="frozen", sizes=sizes)
        with tempfile.TemporaryDirectory() as folder:
            outputs = prepared.model.graph.output
            artifacts = generate_artifacts(
                prepared, pathlib.Path(folder, "artifacts"), loss="mse",
                loss_output=outputs[0].name, optimizer="adamw",
            )  # fmt: skip
            session = TrainingSession(artifacts, threads=1, learning_rate=1e-4)
            manifest = session.manifest
            arrays, _ = drawn(manifest.inputs)
            before = session.parameters
            labels = np.zeros(output_shape(prepared.model, manifest, arrays), np.float32)
            losses = [session.step(arrays, labels) for _ in range(STEPS)]
            after = session.parameters
    except sd.UnsupportedModelError as error:
        return Outcome(path.name, "refused", str(error))
    except sd.StructDropError as error:
        return Outcome(path.name, "failed", str(error))
    if not np.isfinite(losses).all():
        return Outcome(path.name, "failed", f"losses {losses}")
    moved = sum(not np.array_equal(before[name], after[name]) for name in manifest.trainable)
    if moved == 0:
        return Outcome(path.name, "failed", "no parameter has changed")
    changes = tuple(dict.fromkeys(re.sub(r"'[^']*'", "_", one.what) for one in prepared.changes))
    detail = f"{moved} of {len(manifest.trainable)} parameters move"
    detail += "; its free sizes are given" if sizes else ""
    return Outcome(path.name, "trains", detail, nodes, changes)


def output_shape(model: onnx.ModelProto, manifest, arrays) -> tuple[int, ...]:
    """Return the shape of the output that the loss reads, by running the folded model."""
    import onnxruntime

    folded = sd.fold(model)
    folded.ir_version = min(folded.ir_version, 10)
    session = onnxruntime.InferenceSession(
        folded.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [info.name for info in manifest.inputs]
    (output,) = session.run([manifest.loss_output], dict(zip(names, arrays, strict=True)))
    return output.shape


def separately(path: pathlib.Path) -> Outcome:
    """Train in a process of its own, which may crash."""
    command = [sys.executable, __file__, "--child", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return Outcome(path.name, "failed", f"takes more than {TIMEOUT} s")
    lines = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if not lines:
        last = (done.stderr.strip().splitlines() or [""])[-1][:200]
        return Outcome(path.name, "failed", f"exit status {done.returncode}: {last}")
    return Outcome(**json.loads(lines[-1].removeprefix(_MARK)))


HEADER = ["model", "outcome", "DropBlock nodes", "detail"]


def row_of(outcome: Outcome) -> list[str]:
    """Return the row of a table."""
    nodes = str(outcome.nodes) if outcome.kind == "trains" else ""
    return [outcome.model, outcome.kind, nodes, outcome.detail.replace("|", "/")]


def document(head: str, rows: list[list[str]]) -> None:
    """Write the table into the page."""
    text = PAGE.read_text(encoding="utf-8")
    lines = [head, "", *("| " + " | ".join(row) + " |" for row in (HEADER, ["---"] * 4, *rows))]
    made, count = re.subn(
        r"(<!-- trainable -->\n).*?(<!-- end -->)",
        lambda match: match[1] + "\n".join(lines) + "\n" + match[2],
        text,
        flags=re.DOTALL,
    )
    if count != 1:
        raise SystemExit(f"{PAGE} has {count} places marked <!-- trainable -->, not one")
    PAGE.write_text(made, encoding="utf-8")


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=pathlib.Path, metavar="MODEL")
    parser.add_argument("--corpus", type=pathlib.Path, help="folder of exports")
    parser.add_argument("--json", type=pathlib.Path, help="where all is written")
    parser.add_argument("--docs", action="store_true", help=f"write the table into {PAGE.name}")
    parser.add_argument("--child", type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(_MARK + json.dumps(dataclasses.asdict(train(arguments.child))))
        return 0
    paths = arguments.models
    if not paths:
        paths = sorted((ROOT / "models").glob("*.onnx"))
        paths += sorted((ROOT / "models" / "trainable").glob("*.onnx"))
        if arguments.corpus:
            paths += sorted(filter(convolutional, (arguments.corpus / "models").glob("*.onnx")))
    outcomes = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("models", total=len(paths))
        for path in paths:
            progress.update(task, description=path.name)
            outcomes.append(separately(path))
            progress.advance(task)
    counts = {
        kind: sum(one.kind == kind for one in outcomes) for kind in ("trains", "refused", "failed")
    }
    head = f"{len(outcomes)} models: " + ", ".join(f"{n} {kind}" for kind, n in counts.items())
    table = Table(*HEADER, title=head, box=None)
    for outcome in outcomes:
        table.add_row(*row_of(outcome))
    Console(width=None if sys.stdout.isatty() else 220).print(table)
    if arguments.json:
        content = [dataclasses.asdict(outcome) for outcome in outcomes]
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if arguments.docs:
        document(head + ".", list(map(row_of, outcomes)))
    return int(counts["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
