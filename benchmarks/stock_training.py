"""Training on the plain onnxruntime next to onnxruntime-training: gradients and time per step.

The two share their module name, so each has an environment of its own. Make artifacts with
`generate_artifacts`, then run, in the environment of the plain onnxruntime::

    python benchmarks/stock_training.py --other OTHER/bin/python FOLDER...

Both train the same folders in turns, each turn in a process of its own. Printed are the best
seconds per step of each, their ratio, the same for processor time, and the largest difference of
a loss over the steps. On a busy machine trust processor time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from onnx_structdrop.training import Artifacts, StockTrainer, TrainingSession


def main() -> None:
    """Measure the folders that the command line names."""
    arguments = _parser().parse_args()
    if arguments.worker:
        print(json.dumps(_measure(arguments.folders[0], arguments)))
        return
    if arguments.other is None:
        sys.exit("--other PYTHON names the environment of onnxruntime-training")
    pythons = {"stock": sys.executable, "training": arguments.other}
    print(f"{'folder':24} {'stock':>8} {'training':>8} {'ratio':>6} {'cpu':>6} {'loss':>9}")
    for folder in arguments.folders:
        results: dict[str, dict[str, Any]] = {}
        for _ in range(arguments.turns):
            for worker, python in pythons.items():
                found = _run(python, worker, folder, arguments)
                before = results.setdefault(worker, found)
                for clock in ("wall", "cpu"):
                    before[clock] = min(before[clock], found[clock])
        stock, training = results["stock"], results["training"]
        apart = np.abs(np.subtract(stock["losses"], training["losses"])).max()
        print(
            f"{folder.name:24} {stock['wall'] * 1e3:8.1f} {training['wall'] * 1e3:8.1f} "
            f"{stock['wall'] / training['wall']:6.2f} {stock['cpu'] / training['cpu']:6.2f} "
            f"{apart:9.1e}",
            flush=True,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--other", help="python with onnxruntime-training")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=64, help="of axes that are free")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--worker", choices=["stock", "training"], help=argparse.SUPPRESS)
    return parser


def _run(python: str, worker: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    options = [
        f"--{name}={getattr(arguments, name)}" for name in ("batch", "size", "steps", "threads")
    ]
    command = [python, __file__, f"--worker={worker}", *options, str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{worker}: {result.stderr.strip().splitlines()[-1]}")
    return dict(json.loads(result.stdout.strip().splitlines()[-1]))


def _measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    manifest = Artifacts.load(folder).manifest
    random = np.random.default_rng(0)
    arrays = []
    for info in (*manifest.inputs, manifest.labels):
        shape = [
            size if isinstance(size, int) else (arguments.batch if axis == 0 else arguments.size)
            for axis, size in enumerate(info.shape or ())
        ]
        if info.dtype == "int64":
            classes = manifest.classes if isinstance(manifest.classes, int) else 2
            arrays.append(random.integers(0, classes, shape))
        else:
            arrays.append(random.standard_normal(shape).astype(info.dtype))
    kind = StockTrainer if arguments.worker == "stock" else TrainingSession
    trainer = kind(folder, native=False, threads=arguments.threads)
    losses, walls, cpus = [], [], []
    for _ in range(arguments.steps):
        wall, cpu = time.perf_counter(), time.process_time()
        losses.append(trainer.step(arrays[:-1], arrays[-1]))
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {"wall": min(walls), "cpu": min(cpus), "losses": losses[:3]}


if __name__ == "__main__":
    main()
