"""What every export script does to a fresh export before it is written into this folder."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx.reference

try:
    import onnxruntime
except ImportError:  # the Keras environment of the README does without it
    onnxruntime = None

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# An absolute path with at least two components, or a Windows drive.
_ABSOLUTE_PATH = re.compile(r"""(?:^|[\s"'=(,\[])(?:/[\w.~-]+/[\w.~/-]+|[A-Za-z]:[\\/]\w)""")


def _parts(graph: onnx.GraphProto) -> Iterator[object]:
    """Yield a graph and everything in it that carries metadata, subgraphs included."""
    yield graph
    yield from graph.input
    yield from graph.output
    yield from graph.value_info
    yield from graph.initializer
    for node in graph.node:
        yield from _node_parts(node)


def _node_parts(node: onnx.NodeProto) -> Iterator[object]:
    """Yield a node and the parts of its subgraphs."""
    yield node
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            if graph.node:
                yield from _parts(graph)


def strip_local_traces(model: onnx.ModelProto) -> int:
    """Remove stack traces and every other text that holds a path of the exporting machine.

    Parameters
    ----------
    model
        The model; changed in place.

    Returns
    -------
    int
        The number of entries removed.
    """
    removed = 0
    parts: list[object] = [model, *_parts(model.graph)]
    for function in model.functions:
        parts.append(function)
        for node in function.node:
            parts.extend(_node_parts(node))
    for part in parts:
        if _ABSOLUTE_PATH.search(part.doc_string):
            part.ClearField("doc_string")
            removed += 1
        kept = [
            (entry.key, entry.value)
            for entry in part.metadata_props
            if not entry.key.endswith("stack_trace") and not _ABSOLUTE_PATH.search(entry.value)
        ]
        removed += len(part.metadata_props) - len(kept)
        del part.metadata_props[:]
        for key, value in kept:
            part.metadata_props.add(key=key, value=value)
    return removed


def random_feeds(model: onnx.ModelProto, size: int = 2) -> dict[str, np.ndarray]:
    """Return one seeded normal array per graph input.

    Parameters
    ----------
    model
        The model to feed.
    size
        The size given to an unknown first axis. Other unknown axes get 64.
    """
    generator = np.random.default_rng(0)
    feeds = {}
    for value in model.graph.input:
        shape = [
            dim.dim_value or (size if axis == 0 else 64)
            for axis, dim in enumerate(value.type.tensor_type.shape.dim)
        ]
        feeds[value.name] = generator.standard_normal(shape, dtype=np.float32)
    return feeds


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """Return the only output, from onnxruntime where it is installed, else from onnx itself."""
    if onnxruntime is None:
        (output,) = onnx.reference.ReferenceEvaluator(model).run(None, feeds)
        return output
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (output,) = session.run(None, feeds)
    return output


def finish(raw: Path, path: Path, expected: np.ndarray | None = None) -> None:
    """Strip, check and run a fresh export, then write it.

    Parameters
    ----------
    raw
        The file that the exporter wrote.
    path
        Where the finished file goes.
    expected
        What the framework computes for `random_feeds` of the model; not compared if None.

    Raises
    ------
    AssertionError
        The exported model computes something other than the framework.
    """
    model = onnx.load(raw)
    removed = strip_local_traces(model)
    onnx.checker.check_model(model, full_check=True)
    output = run(model, random_feeds(model))
    if not np.isfinite(output).all():
        raise AssertionError(f"{path.name}: the output is not finite")
    if expected is not None:
        np.testing.assert_allclose(output, expected, rtol=1e-3, atol=1e-4)
    path.write_bytes(model.SerializeToString(deterministic=True))
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    print(
        f"{path.name}: {path.stat().st_size} bytes, opset {opset}, {len(model.graph.node)} nodes,"
        f" {removed} local traces removed"
    )
