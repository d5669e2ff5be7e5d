"""Files of JSON that tell whether they, and the files beside them, are what was written."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from onnx_structdrop.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = ["check_sealed", "write_sealed"]

_SEAL, _FILES = "seal", "sha256"
_MEND = "take an earlier checkpoint, or make the artifacts again"


def write_sealed(path: Path, content: Mapping[str, Any], files: Iterable[str]) -> None:
    """Write content that JSON can hold, with digests of itself and of files beside it.

    Parameters
    ----------
    path
        File to write.
    content
        Has no entry "seal" or "sha256".
    files
        Paths from the folder of `path` on.
    """
    full = {**content, _FILES: {name: _digest(path.parent / name) for name in files}}
    text = json.dumps({**full, _SEAL: _seal(full)}, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def check_sealed(path: Path, content: Mapping[str, Any], files: Iterable[str]) -> None:
    """Check that what was read from a file is what `write_sealed` wrote, and the files, too.

    A number that was changed by hand, or a file of another folder, would make training another
    one without a word, or have onnxruntime read past its arrays.

    Raises
    ------
    ModelError
        It is not, or a file is missing.
    """
    if content.get(_SEAL) != _seal(
        {name: value for name, value in content.items() if name != _SEAL}
    ):
        raise ModelError(
            f"{path} is not what was written: it is damaged, or was changed by hand; {_MEND}"
        )
    for name in files:
        file = path.parent / name
        if not file.is_file():
            raise ModelError(f"{path.parent} lacks {name}; make the artifacts again")
        if _digest(file) != content[_FILES].get(name):
            raise ModelError(
                f"{file} is not the file that was written: it is damaged, or comes from "
                f"elsewhere; {_MEND}"
            )


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except PermissionError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
