"""Digests of what the kernels compute, to compare environments byte by byte.

The same seed has to give the same bytes with any number of threads, at every SIMD level and in
every onnxruntime. The digests that belong to this version of the kernels lie in ``digests.json``;
this script compares an environment with them::

    python digests.py                       # the installed library
    python digests.py --library FILE        # one that lies elsewhere
    python digests.py --write               # after a change of what the kernels draw

It needs nothing but onnx, onnxruntime (1.17 or newer) and NumPy. Models hold no functions, so
that only the library can run them, and their opset and IR version are ones that onnxruntime 1.17
reads. bfloat16 is cast inside the models, where old versions of NumPy and onnxruntime's Python
have no such type.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import pathlib
import sys
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

DOMAIN = "pkg.onnx_structdrop"
OPSET = 17
IR_VERSION = 8
RUNS = 3
GOLDEN = pathlib.Path(__file__).with_name("digests.json")
LEVELS = ("avx2", "sse2", "neon", "portable")

ELEMENTS = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
}
# What goes in and out of a model with this element.
HANDED = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(np.float32),
}

SMALL, LARGE = (3, 5, 17, 13), (4, 24, 57, 43)
"""Shapes: LARGE is cut into several streams, several chunks, and work for two threads."""

SEEDS = {"SpatialDropout": 2**63 - 25, "NoiseShapeDropout": -3, "DropBlock": 0x123456789ABCDEF}

Case = dict[str, Any]


def cases() -> dict[str, Case]:
    """Return every case by name: an operator, its attributes, a shape, an element, a ratio."""
    found: dict[str, Case] = {}

    def add(op: str, shape: tuple[int, ...], element: str, ratio: float, **attributes: Any) -> None:
        words = [f"{key}={value}".replace(" ", "") for key, value in attributes.items()]
        name = " ".join([op, "x".join(map(str, shape)), element, f"ratio={ratio}", *words])
        found[name] = {
            "op": op,
            "shape": shape,
            "element": element,
            "ratio": ratio,
            "attributes": attributes,
        }

    for element, shape in itertools.product(ELEMENTS, (SMALL, LARGE)):
        # Rare drops and frequent ones are sampled in different ways.
        for ratio in (0.02, 0.3):
            add("SpatialDropout", shape, element, ratio, channel_axis=1)
            add("NoiseShapeDropout", shape, element, ratio, noise_shape=[0, 1, 0, 0])
            add("DropBlock", shape, element, ratio, block_size=[5])
    for ratio in (0.02, 0.3):
        for shape in (SMALL, LARGE):
            last = {"channel_axis": -1}
            add("SpatialDropout", shape, "float32", ratio, **last)
            add("DropBlock", shape, "float32", ratio, block_size=[2, 7], **last)
            add("NoiseShapeDropout", shape, "float32", ratio, noise_shape=[0] * 4)
            plain = {"noise_shape": [0, 1, 1, 1], "scale_by_keep": 0}
            add("NoiseShapeDropout", shape, "float32", ratio, **plain)
            for shared in ([0], [1], [0, 1]):
                add("DropBlock", shape, "float32", ratio, block_size=[4], shared_axes=shared)
            for normalize, region in itertools.product((0, 2), (0, 1)):
                whole = {"normalize": normalize, "seed_region": region}
                add("DropBlock", shape, "float32", ratio, block_size=[7, 3], **whole)
        for shape in ((4, 40, 1700), (3, 6, 15, 22, 19)):
            add("SpatialDropout", shape, "float32", ratio, channel_axis=1)
            add("DropBlock", shape, "float32", ratio, block_size=[3])
            add("DropBlock", shape, "float64", ratio, block_size=[9], seed_region=1)
    for ratio in (0.0, 1.0):
        add("DropBlock", LARGE, "float32", ratio, block_size=[5], normalize=2)
        add("SpatialDropout", LARGE, "float16", ratio, channel_axis=1)
    return found


def model_of(case: Case) -> bytes:
    """Return data, ratio, output_grad -> output, mask, scale, data_grad as a serialised model."""
    op, element = case["op"], case["element"]
    inner = ELEMENTS[element]
    outer = helper.np_dtype_to_tensor_dtype(HANDED[element])
    attributes = {"training_mode": 1, "seed": SEEDS[op], **case["attributes"]}
    call = helper.make_node(op, ["x", "ratio"], ["y", "mask", "scale"], domain=DOMAIN, **attributes)
    back = helper.make_node("StructuredDropoutGrad", ["g", "mask", "scale"], ["d"], domain=DOMAIN)

    def move(source: str, target: str, kind: int) -> onnx.NodeProto:
        if inner == outer:
            return helper.make_node("Identity", [source], [target])
        return helper.make_node("Cast", [source], [target], to=kind)

    shape = case["shape"]
    free = [None] * len(shape)
    per_sample = case["attributes"].get("normalize") == 2
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            move("data", "x", inner),
            move("output_grad", "g", inner),
            call,
            back,
            move("y", "output", outer),
            move("d", "data_grad", outer),
        ],
        "digest",
        [
            value("data", outer, shape),
            value("ratio", TensorProto.FLOAT, []),
            value("output_grad", outer, shape),
        ],
        [
            value("output", outer, shape),
            value("mask", TensorProto.BOOL, free),
            value("scale", TensorProto.FLOAT, free if per_sample else []),
            value("data_grad", outer, shape),
        ],
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)
    return bytes(model.SerializeToString())


def data_of(case: Case, factor: int) -> np.ndarray[Any, Any]:
    """Return numbers that are the same everywhere, and that the element holds exactly."""
    kind = HANDED[case["element"]]
    at = np.arange(int(np.prod(case["shape"])), dtype=np.int64) * factor
    if case["element"] == "bfloat16":
        numbers = (at % 255 - 127) / 8
    elif case["element"] == "float16":
        numbers = (at % 2047 - 1023) / 64
    else:
        numbers = (at % 65521 - 32760) / 977.0
    return numbers.astype(kind).reshape(case["shape"])


def digest(case: Case, library: str, *, threads: int) -> str:
    """Return the digest of all outputs of a few runs of one session."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # What goes wrong is raised as well.
    options.log_severity_level = 4
    options.register_custom_ops_library(library)
    session = onnxruntime.InferenceSession(
        model_of(case), options, providers=["CPUExecutionProvider"]
    )
    feeds = {
        "data": data_of(case, 7919),
        "ratio": np.array(case["ratio"], np.float32),
        "output_grad": data_of(case, 104729),
    }
    total = hashlib.sha256()
    for _ in range(RUNS):
        for result in session.run(None, feeds):
            total.update(repr((result.dtype.str, result.shape)).encode())
            total.update(result.tobytes())
    return total.hexdigest()


def digests(library: str, *, threads: int = 1) -> dict[str, str]:
    """Return the digest of every case, by name."""
    return {name: digest(case, library, threads=threads) for name, case in cases().items()}


def levels_here(library: str) -> list[str]:
    """Return the SIMD levels that the library has on this processor."""
    case = next(iter(cases().values()))
    found = []
    for level in LEVELS:
        os.environ["STRUCTDROP_SIMD"] = level
        try:
            digest(case, library, threads=1)
        except Exception as error:
            # Onnxruntime has an exception class for every status, and no base class for them.
            if "STRUCTDROP_SIMD" not in str(error):
                raise
        else:
            found.append(level)
        finally:
            del os.environ["STRUCTDROP_SIMD"]
    return found


def main(argv: list[str] | None = None) -> int:
    """Compare this environment with the committed digests, at all levels and thread counts."""
    parser = argparse.ArgumentParser(description="Compare the kernels' bytes with digests.json.")
    parser.add_argument("--library", help="the native library; that of the package by default")
    parser.add_argument("--write", action="store_true", help="write digests.json anew")
    options = parser.parse_args(argv)
    library = options.library
    if library is None:
        from onnx_structdrop.native import get_library_path

        library = str(get_library_path())
    if options.write:
        GOLDEN.write_text(json.dumps(digests(library), indent=1) + "\n", encoding="utf-8")
    expected = json.loads(GOLDEN.read_text(encoding="utf-8"))
    levels = levels_here(library)
    different = [] if list(expected) == list(cases()) else ["the list of cases"]
    for level, threads in itertools.product(levels, (1, 2)):
        os.environ["STRUCTDROP_SIMD"] = level
        found = digests(library, threads=threads)
        different += [
            f"{name}, {level}, {threads} threads"
            for name, value in found.items()
            if value != expected.get(name)
        ]
    summary = {
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
        "levels": levels,
        "threads": [1, 2],
        "cases": len(expected),
        "different": different,
    }
    print(json.dumps(summary, indent=1))
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
