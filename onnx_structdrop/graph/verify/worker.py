"""The process that onnxruntime runs in: it may crash on a hostile model, and be stopped.

Run as a script it answers requests on its standard input until that ends. It imports nothing of
this package, so that it starts fast. Messages are JSON and arrays; nothing is pickled.
"""

from __future__ import annotations

import json
import os
import sys
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["read", "write"]

_SIZE_BYTES = 8

# Packed weights are copies, and take kernels that round differently from those for mapped ones.
_PREPACKING = "session.disable_prepacking"

# With this entry a model can be given as bytes though its weights are in files.
_FOLDER = "session.model_external_initializers_file_folder_path"


def write(stream: IO[bytes], message: Mapping[str, Any]) -> None:
    """Write a message: values that JSON can hold, bytes, arrays, and lists of arrays."""
    parts: list[Any] = []
    text = json.dumps({key: _packed(value, parts) for key, value in message.items()}).encode()
    for part in (text, *parts):
        stream.write(len(part).to_bytes(_SIZE_BYTES, "little"))
        stream.write(part)
    stream.flush()


def read(stream: IO[bytes]) -> dict[str, Any]:
    """Read a message.

    Raises
    ------
    EOFError
        The other side is gone.
    """
    packed = json.loads(_part(stream))
    return {key: _unpacked(value, stream) for key, value in packed.items()}


def _part(stream: IO[bytes]) -> bytes:
    size = int.from_bytes(_exactly(stream, _SIZE_BYTES), "little")
    return _exactly(stream, size)


def _exactly(stream: IO[bytes], size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise EOFError
    return content


def _packed(value: Any, parts: list[Any]) -> Any:
    if isinstance(value, bytes):
        parts.append(value)
        return {"kind": "bytes"}
    if isinstance(value, list):
        return {"kind": "list", "items": [_packed(item, parts) for item in value]}
    if isinstance(value, dict):
        return {"kind": "dict", "items": {key: _packed(item, parts) for key, item in value.items()}}
    if not hasattr(value, "dtype"):
        return {"kind": "plain", "value": value}
    shape = [int(size) for size in value.shape]
    if value.dtype.kind in "OUS":
        texts = [
            item.decode("utf-8", "backslashreplace") if isinstance(item, bytes) else str(item)
            for item in value.reshape(-1).tolist()
        ]
        return {"kind": "strings", "shape": shape, "value": texts}
    parts.append(value.tobytes())
    return {"kind": "array", "shape": shape, "dtype": value.dtype.str}


def _unpacked(packed: Any, stream: IO[bytes]) -> Any:
    import numpy as np

    match packed["kind"]:
        case "bytes":
            return _part(stream)
        case "list":
            return [_unpacked(item, stream) for item in packed["items"]]
        case "dict":
            return {key: _unpacked(item, stream) for key, item in packed["items"].items()}
        case "strings":
            return np.array(packed["value"], dtype=object).reshape(packed["shape"])
        case "array":
            return np.frombuffer(_part(stream), packed["dtype"]).reshape(packed["shape"])
    return packed["value"]


class _Server:
    """One session at a time."""

    def __init__(self) -> None:
        self.session: Any = None

    def load(self, model: bytes, folder: str | None, basic: bool) -> dict[str, Any]:
        import onnxruntime

        self.session = None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = (
            levels.ORT_ENABLE_BASIC if basic else levels.ORT_DISABLE_ALL
        )
        options.add_session_config_entry(_PREPACKING, "1")
        if folder is not None:
            options.add_session_config_entry(_FOLDER, folder)
        providers = ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(model, options, providers=providers)
        return {}

    def run(self, feeds: dict[str, Any]) -> dict[str, Any]:
        names = {value.name for value in self.session.get_inputs()}
        known = {name: array for name, array in feeds.items() if name in names}
        return {"outputs": list(self.session.run(None, known))}


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    server = _Server()
    while True:
        try:
            request = read(requests)
        except EOFError:
            return
        try:
            answer = getattr(server, request.pop("do"))(**request)
        except Exception as error:  # noqa: BLE001 - onnxruntime's have no other common base
            answer = {"error": str(error) or type(error).__name__}
        write(answers, answer)


def _main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    # Whatever a library prints must not get between the answers.
    os.dup2(2, 1)
    requests = sys.stdin.buffer
    sys.path[:] = json.loads(requests.readline())
    _serve(requests, answers)


if __name__ == "__main__":
    _main()
