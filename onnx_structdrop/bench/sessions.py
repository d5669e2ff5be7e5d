"""Sessions with their inputs and outputs bound, and a copy on as many threads."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from onnx_structdrop import native
from onnx_structdrop.bench.models import TYPES
from onnx_structdrop.bench.tensors import DTYPES, Array

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["binds_bfloat16", "copier", "session_call"]

_SERIAL_COPY = 4 << 20
"""Bytes below which a copy on several threads takes longer than on one."""


def session_call(
    model: bytes,
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
    threads: int,
    *,
    library: bool,
) -> Callable[[], None]:
    """Return a function that runs a model once, with nothing left to allocate.

    Parameters
    ----------
    model
        Serialised model.
    inputs, outputs
        Memory that is read and written.
    threads
        Threads of the session, with the caller's.
    library
        Whether the session has the native kernels.

    Raises
    ------
    NativeLibraryError
        The kernels are asked for and missing.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads of one session that wait for work by spinning take the processors from the others.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if library:
        native.register(options)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for bind, arrays in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
        for name, array in arrays.items():
            bind(name, "cpu", 0, _element_type(array), array.shape, array.ctypes.data)
    kept = (inputs, outputs)  # The binding holds addresses only.

    def run(_kept: Any = kept) -> None:
        session.run_with_iobinding(binding)

    return run


def binds_bfloat16() -> bool:
    """Tell whether the installed onnxruntime takes memory of a type that NumPy does not have."""
    from onnxruntime import OrtValue

    # Both came with the same release.
    return hasattr(OrtValue, "ortvalue_from_numpy_with_onnx_type")


def _element_type(array: Array) -> Any:
    if array.dtype == DTYPES["bfloat16"]:
        return int(TYPES["bfloat16"])
    return array.dtype.type


def copier(source: Array, target: Array, threads: int) -> Callable[[], None]:
    """Return a function that copies an array with ``memmove`` on several threads."""
    size = source.nbytes
    if size < _SERIAL_COPY:
        threads = 1
    step = -(-size // threads)
    step += -step % 64
    parts = [(start, min(step, size - start)) for start in range(0, size, step)]
    from_, to = source.ctypes.data, target.ctypes.data
    first = parts[0]
    # ctypes gives the interpreter's lock back during a call, so the parts run at the same time.
    pool = ThreadPoolExecutor(len(parts) - 1, "memcpy") if len(parts) > 1 else None

    def move(part: tuple[int, int]) -> None:
        ctypes.memmove(to + part[0], from_ + part[0], part[1])

    def run(_kept: Any = (source, target)) -> None:
        others = [pool.submit(move, part) for part in parts[1:]] if pool else []
        move(first)
        for other in others:
            other.result()

    return run
