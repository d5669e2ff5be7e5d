"""Files of training on the plain onnxruntime, and its sessions' options."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_structdrop import native as kernels
from onnx_structdrop.errors import ArgumentError, ModelError
from onnx_structdrop.training import manifest as files
from onnx_structdrop.training.sealing import check_sealed, write_sealed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = [
    "ARTIFACTS",
    "STATE",
    "check_beginning",
    "chosen_kernels",
    "entry",
    "read_arrays",
    "read_config",
    "write_arrays",
    "write_config",
]

ARTIFACTS, STATE = "artifacts", "state.npz"
"""What lies beside the manifest of a saved training."""

_FILES = (STATE, f"{ARTIFACTS}/{files.MANIFEST}")  # which in turn tells of the other artifacts


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of one of NumPy's archives by name.

    Raises
    ------
    ModelError
        It is missing or damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {}
            for entry_name in archive.namelist():
                # np.load takes the array "w" for one that is called "w.npy".
                with archive.open(entry_name) as file:
                    array = np.lib.format.read_array(file, allow_pickle=False)
                arrays[entry_name.removesuffix(".npy")] = array
            return arrays
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as one of NumPy's archives, whatever their names are."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue())


def entry(arrays: Mapping[str, np.ndarray], prefix: str, name: str) -> np.ndarray:
    """Return one array.

    Raises
    ------
    ModelError
        It is missing.
    """
    if prefix + name not in arrays:
        raise ModelError(f"the saved arrays lack {prefix}{name}; make the artifacts again")
    return arrays[prefix + name]


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write what `read_config` returns; the arrays and the artifacts lie in the folder already."""
    content = {"format": files.STOCK_FORMAT, **config}
    write_sealed(folder / files.MANIFEST, content, _FILES)


def read_config(folder: Path) -> dict[str, Any]:
    """Return what `StockTrainer.save` wrote beside arrays and artifacts.

    Raises
    ------
    ModelError
        The folder is not one of it, or something in it was changed.
    """
    path = folder / files.MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder} is no folder of StockTrainer.save: {path} cannot be read ({error})"
        ) from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != files.STOCK_FORMAT:
        raise ModelError(
            f"{folder} holds no training of StockTrainer to resume (format {found!r}, not "
            f"{files.STOCK_FORMAT!r}); StockTrainer(directory) begins one from artifacts"
        )
    check_sealed(path, content, _FILES)
    return dict(content)


def check_beginning(folder: Path, steps: int) -> None:
    """Check that artifacts are not a training that has made steps elsewhere.

    Raises
    ------
    ModelError
        They are: begun from here, schedule and optimizer would start anew without a word.
    """
    if steps:
        raise ModelError(
            f"{folder} holds a training of {steps} steps that TrainingSession saved, and only "
            "onnxruntime-training reads the optimizer's state: resume it there, or begin from the "
            "artifacts and assign its parameters"
        )


def chosen_kernels(native: bool | str) -> bool:
    """Return whether to use the native kernels.

    Raises
    ------
    ArgumentError
        `native` is neither True, False nor "auto".
    """
    if isinstance(native, bool):
        return native
    if native != "auto":
        raise ArgumentError(f"native is {native!r}; allowed are True, False and 'auto'")
    return kernels.native_available()
