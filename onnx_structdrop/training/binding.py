"""A session of the plain onnxruntime that reads parameters and writes gradients in place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnx_structdrop.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

    from onnx_structdrop.training.manifest import Manifest

__all__ = ["bound"]


def bound(
    session: Any,
    manifest: Manifest,
    parameters: Mapping[str, np.ndarray],
    gradients: Mapping[str, np.ndarray],
    source: Path,
) -> Any:
    """Return a binding of a lowered training model; data, labels and outputs are bound by step.

    Parameters
    ----------
    session
        Of the lowered training model.
    manifest
        Describes its inputs.
    parameters, gradients
        Arrays by the names of parameters. They are read and written where they are, so they have
        to outlive the binding.
    source
        File that the model comes from, for messages.

    Raises
    ------
    ModelError
        The model takes what nobody gives, or lacks a gradient.
    """
    binding = session.io_binding()
    taken = {value.name for value in session.get_inputs()}
    made = {value.name for value in session.get_outputs()}
    data = {info.name for info in (*manifest.inputs, manifest.labels)}
    unknown = taken - data - set(parameters)
    if unknown:
        raise ModelError(
            f"{source} takes {sorted(unknown)}, which the manifest does not describe; "
            "make the artifacts again"
        )
    for name, value in parameters.items():
        if name in taken:
            binding.bind_input(name, "cpu", 0, value.dtype, value.shape, value.ctypes.data)
    for name, value in gradients.items():
        gradient = f"{name}_grad"
        if gradient not in made:
            raise ModelError(
                f"{source} gives no gradient of parameter {name!r}; make the artifacts again"
            )
        binding.bind_output(gradient, "cpu", 0, value.dtype, value.shape, value.ctypes.data)
    return binding
