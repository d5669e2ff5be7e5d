"""Time the function form of the operators against what the same session does otherwise.

Everything is measured in one process, interleaved and preallocated through IOBinding; ratios are
medians of paired runs, so they hold when the machine's speed drifts. The unit is onnxruntime's
``Mul`` of the tensor by a scalar: one read and one write, close to what memory allows.

    python benchmarks/function_bodies.py [--shape 32,64,56,56] [--rounds 15] [--threads 2] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from rich.console import Console
from rich.table import Table

import onnx_structdrop as sd
from onnx_structdrop.functions import function_proto
from onnx_structdrop.schema import DOMAIN, VERSION

OPSET = 20

# Ratio to a two-thread memcpy that a native prototype reached on another machine: the ceiling for
# any form of these operators, and what a function of dense tosses and MaxPool took there.
CEILING = {"SpatialDropout2D": "1.0", "DropBlock2D": "1.15"}
PROTOTYPE = {"DropBlock2D": "20-54"}


@dataclass(frozen=True)
class Case:
    """One model to time, with one input x and one output y."""

    name: str
    model: onnx.ModelProto
    ceiling: str = ""
    prototype: str = ""


def structured(name: str, spec: sd.DropBlock2D | sd.SpatialDropout2D | sd.DropPath, shape) -> Case:
    """Return a model of one node in its function form."""
    attributes = {"training_mode": 1, "seed": 1, **spec.node_attributes(len(shape))}
    node = onnx.helper.make_node(
        spec.op_type, ["x", "ratio"], ["y", "", ""], domain=DOMAIN, name="dropout"
    )
    for key, value in attributes.items():
        kind = onnx.AttributeProto.INT if isinstance(value, int) else onnx.AttributeProto.INTS
        node.attribute.append(onnx.helper.make_attribute(key, value, attr_type=kind))
    functions = [function_proto(spec.op_type, OPSET, "float32")]
    family = type(spec).__name__
    return Case(
        name,
        model(shape, [node], {"ratio": spec.rate}, functions),
        CEILING.get(family, ""),
        PROTOTYPE.get(family, ""),
    )


def model(shape, nodes, scalars, functions=()) -> onnx.ModelProto:
    """Return a float32 model around some nodes."""
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "benchmark",
        [value("x", onnx.TensorProto.FLOAT, shape)],
        [value("y", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor(k, onnx.TensorProto.FLOAT, [], [v]) for k, v in scalars.items()],
    )
    imports = [onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid(DOMAIN, VERSION)]
    return onnx.helper.make_model(
        graph, opset_imports=imports, functions=list(functions), ir_version=9
    )


def cases(shape) -> list[Case]:
    """Return the unit first, then what is compared with it."""
    multiply = onnx.helper.make_node("Mul", ["x", "two"], ["y"])
    # A consumed mask keeps onnxruntime from deleting the node.
    dropout = [
        onnx.helper.make_node(
            "Constant", [], ["on"], value=onnx.numpy_helper.from_array(np.array(True))
        ),
        onnx.helper.make_node("Dropout", ["x", "ratio", "on"], ["dropped", "mask"], seed=1),
        onnx.helper.make_node("Where", ["mask", "dropped", "x"], ["y"]),
    ]
    return [
        Case("onnxruntime Mul", model(shape, [multiply], {"two": 2.0})),
        Case("onnxruntime Dropout + Where", model(shape, dropout, {"ratio": 0.1})),
        structured("SpatialDropout2D(0.1)", sd.SpatialDropout2D(0.1), shape),
        structured("DropPath(0.1)", sd.DropPath(0.1), shape),
        structured("DropBlock2D(0.1, 3)", sd.DropBlock2D(0.1, 3), shape),
        structured("DropBlock2D(0.1, 7)", sd.DropBlock2D(0.1, 7), shape),
        structured(
            "DropBlock2D(0.1, 7, whole)", sd.DropBlock2D(0.1, 7, seed_region="whole"), shape
        ),
        structured("DropBlock2D(0.1, 7, shared)", sd.DropBlock2D(0.1, 7, shared_axes=(1,)), shape),
        structured("DropBlock2D(0.3, 2), dense", sd.DropBlock2D(0.3, 2), shape),
    ]


def runner(case: Case, data: np.ndarray, threads: int):
    """Return a function that runs the model once, with nothing left to allocate."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        case.model.SerializeToString(), options, ["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    binding.bind_cpu_input("x", data)
    binding.bind_ortvalue_output("y", onnxruntime.OrtValue.ortvalue_from_numpy(np.empty_like(data)))
    return lambda: session.run_with_iobinding(binding)


def measure(chosen: list[Case], data: np.ndarray, rounds: int, threads: int) -> list[dict]:
    """Time all cases in turn, `rounds` times."""
    runners = [runner(case, data, threads) for case in chosen]
    for run in runners:
        run()
    seconds: list[list[float]] = [[] for _ in runners]
    for _ in range(rounds):
        for run, times in zip(runners, seconds, strict=True):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    rows = []
    for case, times in zip(chosen, seconds, strict=True):
        ratios = [own / unit for own, unit in zip(times, seconds[0], strict=True)]
        quarter, _, three_quarters = statistics.quantiles(ratios, n=4)
        rows.append(
            {
                "case": case.name,
                "milliseconds": statistics.median(times) * 1e3,
                "ratio": statistics.median(ratios),
                "quartiles": [quarter, three_quarters],
                "ceiling": case.ceiling,
                "prototype": case.prototype,
            }
        )
    return rows


def main() -> int:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", action="append", help="N,C,H,W; may be given several times")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = {}
    for text in arguments.shape or ["32,64,56,56", "64,256,28,28"]:
        shape = [int(size) for size in text.split(",")]
        data = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        results[text] = measure(cases(shape), data, arguments.rounds, arguments.threads)
    if arguments.json:
        json.dump(results, sys.stdout, indent=2)
        return 0
    for text, rows in results.items():
        table = Table(title=f"{text} float32, {arguments.threads} threads", box=None)
        for column in ("", "ms", "x Mul", "quartiles", "native ceiling", "prototype function"):
            table.add_column(column, justify="left" if not column else "right", no_wrap=True)
        for row in rows:
            low, high = row["quartiles"]
            table.add_row(
                row["case"],
                f"{row['milliseconds']:.1f}",
                f"{row['ratio']:.2f}",
                f"{low:.2f}-{high:.2f}",
                row["ceiling"],
                row["prototype"],
            )
        Console(width=110).print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
