"""Training on the plain onnxruntime next to onnxruntime-training: time per step, and gradients.

    python benchmarks/stock_training.py --other PYTHON [FOLDER...] [--only speed|gradients]
                                        [--rounds 40] [--batch 16] [--size 64] [--threads 2]
                                        [--json FILE] [--docs]

The two runtimes share their module name, so each has an environment of its own: this runs in that
of the plain one, and `--other` names the python of the training environment, with torch. Without
folders of `generate_artifacts`, those of sample networks without dropout are made.

Time: both run at once, and make their steps in turns. Printed are medians within rounds of the
ratio of the plain runtime's time to the other's. On a busy machine trust that of processor time.

Gradients: of one batch, by both, and by the lowered graph in float64, whose gradients are compared
with finite differences of its loss. An error is the largest of all elements, as a share of the
largest element of all gradients of the network. The exit status is 1 if gradients of the plain
runtime are off by more than 1e-6 and by more than 1.5 times what the other's are.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
import onnx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from onnx_structdrop.training import Artifacts, StockTrainer, TrainingSession

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "training.md"
NETWORKS = {
    "digits_resnet": "trainable/digits_resnet.onnx",
    "resnet18": "trainable/resnet18.onnx",
    "mobilenetv2": "trainable/mobilenetv2.onnx",
    "unet": "trainable/unet.onnx",
    "mobilenetv2_dynamo": "mobilenetv2_dynamo.onnx",
    "convnext_dynamo": "convnext_dynamo.onnx",
    "densenet_dynamo": "densenet_dynamo.onnx",
}
WIDE = "resnet18, width 64"
EXACT, WORSE = 1e-6, 1.5
_PROBES = 4
"""Images in the batch that gradients are compared on."""
_STEP = 1e-7
"""Of finite differences: a longer one crosses kinks, of which large networks have many."""
_SECONDS = 0.05
"""Least time of a round: small networks make several steps in one."""


def batch_of(artifacts: Artifacts, count: int, size: int) -> list[np.ndarray]:
    """Draw inputs and labels, with `size` on axes that are free."""
    manifest = artifacts.manifest
    random = np.random.default_rng(0)
    arrays = []
    for info in (*manifest.inputs, manifest.labels):
        shape = [
            one if isinstance(one, int) else (count if axis == 0 else size)
            for axis, one in enumerate(info.shape or ())
        ]
        if info.dtype == "int64":
            shape[0] = len(arrays[0])
            classes = manifest.classes if isinstance(manifest.classes, int) else 2
            arrays.append(random.integers(0, classes, shape))
        else:
            arrays.append(random.standard_normal(shape).astype(info.dtype))
    return arrays


# What runs in a process of its own, by the first word of its command line.


def make(folder: pathlib.Path) -> None:
    """Write artifacts of the sample networks."""
    from trainable import free_sizes
    from training_overhead import resnet18

    from onnx_structdrop.training import generate_artifacts

    models = {name: onnx.load(ROOT / "models" / path) for name, path in NETWORKS.items()}
    models[WIDE] = resnet18(64, 64)
    for name, model in models.items():
        kept = any(node.op_type == "BatchNormalization" for node in model.graph.node)
        generate_artifacts(
            model, folder / name, batch_norm="train" if kept else "frozen",
            sizes=free_sizes(model),
        )  # fmt: skip


def steps(kind: str, folder: str, batch: int, size: int, threads: int) -> None:
    """Make as many steps as each line of the input says, and answer with seconds of each."""
    artifacts = Artifacts.load(folder)
    *inputs, labels = batch_of(artifacts, batch, size)
    trainer: Any = (StockTrainer if kind == "stock" else TrainingSession)(
        artifacts, native=False, threads=threads
    )
    print(json.dumps([trainer.step(inputs, labels)]), flush=True)
    for line in sys.stdin:
        count = int(line)
        wall, processor = time.perf_counter(), time.process_time()
        for _ in range(count):
            trainer.step(inputs, labels)
        spent = (time.perf_counter() - wall, time.process_time() - processor)
        print(json.dumps([each / count for each in spent]), flush=True)


def gradients(kind: str, folder: str, size: int, target: str) -> None:
    """Write the gradients of one batch; in float64 print how well the loss agrees."""
    artifacts = Artifacts.load(folder)
    *inputs, labels = batch_of(artifacts, _PROBES, size)
    names = artifacts.manifest.trainable
    if kind == "stock":
        trainer = StockTrainer(artifacts, native=False, threads=1)
        trainer.step(inputs, labels)
        found = trainer.gradients
    elif kind == "training":
        from onnxruntime.training.api import CheckpointState, Module

        state = CheckpointState.load_checkpoint(str(artifacts.checkpoint))
        module = Module(str(artifacts.training_model), state)
        module.train()
        module(*inputs, labels)
        found = {name: np.array(state.parameters[name].grad) for name in names}
    else:
        found = truth(artifacts, inputs, labels)
    np.savez(target, **{str(place): found[name] for place, name in enumerate(names)})


def truth(artifacts: Artifacts, inputs: list[np.ndarray], labels: np.ndarray) -> dict[str, Any]:
    """Return gradients in float64, and print how far finite differences of the loss are off."""
    from float64 import doubled, evaluate

    from onnx_structdrop.training.lowering import lower

    manifest = artifacts.manifest
    model = doubled(lower(onnx.load(artifacts.training_model)))
    with np.load(artifacts.parameters) as archive:
        values = {name: archive[name].astype(np.float64) for name in archive.files}
    values |= {
        info.name: array.astype(np.float64)
        for info, array in zip(manifest.inputs, inputs, strict=True)
    }
    values[manifest.labels.name] = labels
    taken = [value.name for value in model.graph.input]
    found = evaluate(model, {name: values[name] for name in taken})
    slopes = {name: found[f"{name}_grad"] for name in manifest.trainable}
    random = np.random.default_rng(1)
    direction = {
        name: random.standard_normal(slope.shape) * np.abs(values[name]).mean()
        for name, slope in slopes.items()
    }
    losses = []
    for step in (_STEP, -_STEP):
        moved = values | {name: values[name] + step * way for name, way in direction.items()}
        result = evaluate(model, {name: moved[name] for name in taken})
        losses.append(float(result[manifest.loss_name]))
    told = sum(float((slope * direction[name]).sum()) for name, slope in slopes.items())
    print(json.dumps(abs((losses[0] - losses[1]) / (2 * _STEP) - told) / abs(told)))
    return slopes


# What compares them.


def time_steps(folder: pathlib.Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return milliseconds of both runtimes, and ratios."""
    processes = {}
    for kind, python in pythons(arguments).items():
        command = [python, __file__, "worker", "steps", kind, str(folder)]
        command += [str(each) for each in (arguments.batch, arguments.size, arguments.threads)]
        processes[kind] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def answer(kind: str, question: int | None = None) -> list[float]:
        process = processes[kind]
        if question is not None:
            process.stdin.write(f"{question}\n")
            process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"{kind}, {folder.name}: no answer, exit status {process.wait()}")
        return list(json.loads(line))

    try:
        for kind in processes:
            answer(kind)
        count = max(int(_SECONDS / max(answer(kind, 3)[0] for kind in processes)), 1)
        spent: dict[str, list[list[float]]] = {kind: [] for kind in processes}
        for turn in range(arguments.rounds):
            for kind in list(processes)[:: 1 if turn % 2 else -1]:
                spent[kind].append(answer(kind, count))
    finally:
        for process in processes.values():
            process.stdin.close()
            process.wait()
    rounds = list(zip(spent["stock"], spent["training"], strict=True))
    return {
        "network": folder.name,
        **{kind: min(wall for wall, _ in each) * 1e3 for kind, each in spent.items()},
        "wall": statistics.quantiles([one[0] / other[0] for one, other in rounds], n=4),
        "processor": statistics.quantiles([one[1] / other[1] for one, other in rounds], n=4),
    }


def compare_gradients(folder: pathlib.Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return how far each runtime is from float64, and both from each other."""
    arrays = {}
    with tempfile.TemporaryDirectory() as place:
        for kind, python in {**pythons(arguments), "float64": arguments.other}.items():
            target = str(pathlib.Path(place, f"{kind}.npz"))
            said = call(python, "gradients", kind, str(folder), str(arguments.size), target)
            with np.load(target) as archive:
                arrays[kind] = [archive[name].astype(np.float64) for name in archive.files]
    exact = arrays["float64"]
    largest = max(float(np.abs(each).max()) for each in exact)

    def apart(one: str, other: str) -> tuple[float, float]:
        pairs = [a - b for a, b in zip(arrays[one], arrays[other], strict=True)]
        squares = sum(float(np.square(each).sum()) for each in pairs)
        norm = sum(float(np.square(each).sum()) for each in exact)
        return max(float(np.abs(each).max()) for each in pairs) / largest, (squares / norm) ** 0.5

    return {
        "network": folder.name,
        "stock": apart("stock", "float64"),
        "training": apart("training", "float64"),
        "both": apart("stock", "training"),
        "finite": float(said),
    }


def pythons(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the python of each runtime."""
    return {"stock": sys.executable, "training": arguments.other}


def call(python: str, *words: str) -> str:
    """Run a worker to its end and return the last line that it printed."""
    command = [python, __file__, "worker", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise SystemExit(f"{' '.join(words)}: {last}")
    return (done.stdout.strip().splitlines() or [""])[-1]


def speed_table(found: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows."""
    header = ["network", "plain, ms per step", "1.19.2, ms", "ratio", "of processor time"]
    rows = [
        [one["network"], f"{one['stock']:.1f}", f"{one['training']:.1f}",
         *("{1:.2f} ({0:.2f} to {2:.2f})".format(*one[clock]) for clock in ("wall", "processor"))]
        for one in found
    ]  # fmt: skip
    return header, rows


def gradient_table(found: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows."""
    pairs = {"stock": "plain to float64", "training": "1.19.2 to float64", "both": "one another"}
    header = ["network", *pairs.values(), *(f"{text}, rms" for text in pairs.values())]
    header.append("float64 to differences")
    rows = [
        [one["network"], *(f"{one[key][part]:.1e}" for part in (0, 1) for key in pairs),
         f"{one['finite']:.0e}"]
        for one in found
    ]  # fmt: skip
    return header, rows


def document(mark: str, head: str, header: list[str], rows: list[list[str]]) -> None:
    """Write a table into the page."""
    text = PAGE.read_text(encoding="utf-8")
    lines = ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]
    made, count = re.subn(
        rf"(<!-- {mark} -->\n).*?(<!-- end -->)",
        lambda match: match[1] + "\n".join([head, "", *lines]) + "\n" + match[2],
        text,
        flags=re.DOTALL,
    )
    if count != 1:
        raise SystemExit(f"{PAGE} has {count} places marked <!-- {mark} -->, not one")
    PAGE.write_text(made, encoding="utf-8")


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=pathlib.Path, metavar="FOLDER")
    parser.add_argument("--other", required=True, help="python with onnxruntime-training")
    parser.add_argument("--only", choices=["speed", "gradients"])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=64, help="of axes that are free")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=pathlib.Path, help="where all figures go")
    parser.add_argument("--docs", action="store_true", help=f"write tables into {PAGE.name}")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error("--rounds must be at least 2")
    load = os.getloadavg()[0]
    parts = {
        "speed": (time_steps, speed_table,
                  f"Batches of {arguments.batch}, {arguments.threads} threads, "
                  f"{arguments.rounds} rounds, load {load:.1f} at the start; "
                  "best time, median (quartiles) of ratios."),
        "gradients": (compare_gradients, gradient_table,
                      f"Batches of {_PROBES}; shares of the largest element, and of the norm, "
                      "of all gradients."),
    }  # fmt: skip
    results: dict[str, list[dict[str, Any]]] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with (
        tempfile.TemporaryDirectory() as place,
        Progress(*columns, console=Console(stderr=True)) as progress,
    ):
        folders = arguments.folders
        if not folders:
            call(arguments.other, "make", place)
            folders = [pathlib.Path(place, name) for name in (*NETWORKS, WIDE)]
        for part, (measure, _, _) in parts.items():
            if arguments.only in (None, part):
                task = progress.add_task(part, total=len(folders))
                for folder in folders:
                    results.setdefault(part, []).append(measure(folder, arguments))
                    progress.advance(task)
    console = Console(width=None if sys.stdout.isatty() else 200)
    for part, found in results.items():
        _, tabulate, head = parts[part]
        header, rows = tabulate(found)
        table = Table(*header, title=head, box=None)
        for row in rows:
            table.add_row(*row)
        console.print(table)
        if arguments.docs:
            document(f"stock {part}", head, header, rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return int(
        any(
            one["stock"][0] > max(EXACT, WORSE * one["training"][0])
            for one in results.get("gradients", [])
        )
    )


def work(words: list[str]) -> None:
    """Do what a worker's command line says."""
    task, *rest = words
    if task == "make":
        make(pathlib.Path(rest[0]))
    elif task == "steps":
        kind, folder, *numbers = rest
        steps(kind, folder, *map(int, numbers))
    else:
        kind, folder, size, target = rest
        gradients(kind, folder, int(size), target)


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        work(sys.argv[2:])
    else:
        sys.exit(main())
