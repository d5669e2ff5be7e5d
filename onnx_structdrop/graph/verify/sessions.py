"""Running a model in onnxruntime, as it is written, within limits, and in another process.

onnxruntime ends the process it is in on some malformed models, and others never end.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import onnx_ir as ir

from onnx_structdrop.errors import ModelError
from onnx_structdrop.graph.convert import as_ir, to_proto
from onnx_structdrop.graph.files.external import total_size
from onnx_structdrop.graph.files.tensors import tensor_slots
from onnx_structdrop.graph.files.wellformed import one_line
from onnx_structdrop.graph.names import Names
from onnx_structdrop.graph.verify import worker

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

__all__ = [
    "CrashError",
    "LimitError",
    "Limits",
    "RunError",
    "Runner",
    "as_fed",
    "has_half",
    "one_at_a_time",
]

_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)

# Newer versions change nothing about running a model, but older runtimes refuse them.
_IR_VERSION = 10

_LOCK = threading.RLock()


class RunError(ModelError):
    """onnxruntime cannot load or run a model, or may not."""


class CrashError(RunError):
    """onnxruntime ended its process; sessions in it are gone."""


class LimitError(RunError):
    """A model is too large, or takes too long, to be run."""


class Limits(NamedTuple):
    """What running a model may take."""

    max_weights: int
    """Most bytes of weights."""
    timeout: float
    """Seconds for loading it, and for a run."""


class _Process:
    """A process with onnxruntime in it, started when it is needed and kept for the next model."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def ask(self, timeout: float, **request: Any) -> dict[str, Any]:
        """Send a request and return the answer.

        Raises
        ------
        RunError
            onnxruntime refused, or crashed; `LimitError` if it took too long.
        """
        process = self._started()
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(timeout, stop)
        timer.daemon = True
        timer.start()
        try:
            worker.write(cast("IO[bytes]", process.stdin), request)
            answer = worker.read(cast("IO[bytes]", process.stdout))
        except (EOFError, OSError) as error:
            self.end()
            if late.is_set():
                raise LimitError(f"onnxruntime takes more than {timeout:g} s") from error
            raise CrashError(f"onnxruntime crashed on it (exit {process.returncode})") from error
        except BaseException:
            # An interruption between request and answer would leave the next one out of step.
            self.end()
            raise
        finally:
            timer.cancel()
        return answer

    def end(self) -> None:
        """Stop the process, if there is one."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        process.wait()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._owner != os.getpid():
            self._process = None  # a fork's is the parent's
        if self._process is None or self._process.poll() is not None:
            self.end()
            if not sys.executable:
                raise RunError("there is no Python interpreter to run onnxruntime in")
            self._owner = os.getpid()
            self._process = subprocess.Popen(
                [sys.executable, "-I", worker.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            stdin = cast("IO[bytes]", self._process.stdin)
            stdin.write(json.dumps([os.path.abspath(path) for path in sys.path]).encode() + b"\n")  # noqa: PTH100
        return self._process


_PROCESS = _Process()
atexit.register(_PROCESS.end)


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Keep other threads from using the process, which holds one model."""
    with _LOCK:
        yield


def has_half(model: ir.Model) -> bool:
    """Tell whether anything in the main graph is of a 16-bit floating-point type."""
    graph = model.graph
    values = (*graph.inputs, *graph.outputs, *graph.initializers.values())
    if any(value.dtype in _HALF for value in values):
        return True
    return any(output.dtype in _HALF for node in graph for output in node.outputs)


class Runner:
    """A session on the CPU, on one thread, without optimisations that move arithmetic.

    Making another one ends it; `one_at_a_time` keeps other threads from doing so.

    Parameters
    ----------
    model
        Is not changed, and its external weights are mapped, not read.
    limits
        What running it may take.
    basic
        Whether to optimise at the level "basic". With optimisations off, onnxruntime keeps
        float32 between float16 nodes that it has no kernels for, and every Identity rounds.

    Raises
    ------
    LimitError
        If its weights are too large, or loading it takes too long.
    RunError
        If onnxruntime does not load it.
    """

    def __init__(self, model: ir.Model, limits: Limits, *, basic: bool = False) -> None:
        size = total_size(model)
        if size > limits.max_weights:
            raise LimitError(
                f"its weights take {size / 1e9:.2g} GB, more than the "
                f"{limits.max_weights / 1e9:.2g} GB that a check may load"
            )
        folder = _folder(model)
        private = as_ir(model)
        private.ir_version = min(private.ir_version, _IR_VERSION)
        _widen(private)
        content = to_proto(private).SerializeToString()
        self._timeout = limits.timeout
        self._ask("onnxruntime does not load it", do="load", model=content, folder=folder,
                  basic=basic)  # fmt: skip

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> list[Any]:
        """Return the outputs in order; inputs that the model does not have are left out.

        Raises
        ------
        RunError
            If it fails; `LimitError` if it takes too long.
        """
        answer = self._ask("onnxruntime cannot run it", do="run", feeds=dict(feeds))
        outputs: list[Any] = answer["outputs"]
        return outputs

    def _ask(self, failure: str, **request: Any) -> dict[str, Any]:
        answer = _PROCESS.ask(self._timeout, **request)
        if "error" in answer:
            raise RunError(f"{failure}: {one_line(Exception(answer['error']))}")
        return answer


def _folder(model: ir.Model) -> str | None:
    """Return the folder that external data are in."""
    folders = {
        str(tensor.base_dir)
        for tensor, _, _ in tensor_slots(model)
        if isinstance(tensor, ir.ExternalTensor)
    }
    if len(folders) > 1:
        raise RunError(f"its weights are in {len(folders)} folders; save it first")
    return folders.pop() if folders else None


def _widen(model: ir.Model) -> None:
    """Let bfloat16 enter and leave as float32, which holds it exactly and which NumPy knows."""
    graph, names = model.graph, Names(model)
    for place, value in enumerate(list(graph.inputs)):
        if value.dtype != ir.DataType.BFLOAT16 or value.name in graph.initializers:
            continue
        outer = ir.Value(name=value.name, type=ir.TensorType(ir.DataType.FLOAT), shape=value.shape)
        node = _cast(outer, ir.DataType.BFLOAT16)
        value.name = None
        node.outputs[0].name = names.take(f"{outer.name}_bfloat16")
        value.replace_all_uses_with(node.outputs[0], replace_graph_outputs=True)
        graph.inputs[place] = outer
        graph.insert_before(graph[0], node) if len(graph) else graph.append(node)
    for place, value in enumerate(list(graph.outputs)):
        if value.dtype != ir.DataType.BFLOAT16:
            continue
        node = _cast(value, ir.DataType.FLOAT)
        name = value.name or ""
        if not value.is_graph_input() and graph.outputs.count(value) == 1:
            value.name = names.take(f"{name}_bfloat16")
            node.outputs[0].name = name
        else:
            node.outputs[0].name = names.take(f"{name}_float32")
        graph.append(node)
        graph.outputs[place] = node.outputs[0]


def _cast(value: ir.Value, dtype: ir.DataType) -> ir.Node:
    node = ir.node("Cast", [value], {"to": int(dtype)})
    node.outputs[0].type = ir.TensorType(dtype)
    node.outputs[0].shape = value.shape
    return node


def as_fed(array: npt.NDArray[Any], dtype: ir.DataType) -> npt.NDArray[Any]:
    """Return an array the way a `Runner` takes one of this type."""
    if dtype == ir.DataType.BFLOAT16:
        return array.astype(dtype.numpy()).astype(np.float32)
    return array.astype(dtype.numpy())
