"""Sessions of parts of a model, with inputs and outputs bound."""

from __future__ import annotations

import ctypes
import math
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnx_structdrop import native
from onnx_structdrop.errors import ModelError
from onnx_structdrop.graph.convert import as_ir, to_proto
from onnx_structdrop.graph.files.tensors import tensor_slots
from onnx_structdrop.graph.files.wellformed import one_line, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

__all__ = ["PartSession", "as_array", "as_ort_value"]

_FOLDER = "session.model_external_initializers_file_folder_path"

# Newer versions change nothing about running a model, but older runtimes refuse them.
_IR_VERSION = 10


class PartSession:
    """A session whose inputs and outputs are values of onnxruntime, so that nothing is copied.

    Parameters
    ----------
    model
        Is not changed.
    threads
        Threads of the session with the caller's; None leaves it to onnxruntime.
    library
        Whether the session has the native kernels.
    what
        What to call it in messages.
    quick
        Whether to load quickly rather than to run fast.

    Raises
    ------
    ModelError
        onnxruntime does not load it.
    NativeLibraryError
        The kernels are asked for and missing.
    """

    def __init__(
        self,
        model: ir.Model,
        *,
        threads: int | None,
        library: bool,
        what: str,
        quick: bool = False,
    ) -> None:
        import onnxruntime

        private = as_ir(model)
        private.ir_version = min(private.ir_version, _IR_VERSION)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.inter_op_num_threads = 1
        # Two sessions take turns: threads of one that wait by spinning would slow the other down.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads is not None:
            options.intra_op_num_threads = threads
        if quick:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        folders = {
            str(tensor.base_dir)
            for tensor, _, _ in tensor_slots(private)
            if isinstance(tensor, ir.ExternalTensor)
        }
        if len(folders) > 1:
            raise ModelError(f"the weights are in {len(folders)} folders; save the model first")
        for folder in folders:
            options.add_session_config_entry(_FOLDER, folder)
        if library:
            native.register(options)
        content = to_proto(private).SerializeToString()
        self._what = what
        try:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            # Onnxruntime has an exception class for every status, and no base class for them.
            raise ModelError(f"onnxruntime does not load {what}: {one_line(error)}") from error
        self._binding = self._session.io_binding()
        self._turn = threading.Lock()
        self.inputs = tuple(value.name for value in self._session.get_inputs())
        self._defaults = [one.name for one in self._session.get_overridable_initializers()]
        self.outputs = tuple(value.name for value in self._session.get_outputs())

    def run(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs, values of onnxruntime as the inputs are; others are left out.

        Raises
        ------
        ModelError
            If it fails.
        """
        with self._turn:  # What is bound belongs to one run.
            return self._bound_run(values)

    def _bound_run(self, values: Mapping[str, Any]) -> dict[str, Any]:
        binding = self._binding
        binding.clear_binding_inputs()
        for name in (*self.inputs, *(one for one in self._defaults if one in values)):
            binding.bind_ortvalue_input(name, values[name])
        binding.clear_binding_outputs()
        for name in self.outputs:
            binding.bind_output(name)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise ModelError(f"onnxruntime cannot run {self._what}: {one_line(error)}") from error
        return dict(zip(self.outputs, binding.get_outputs(), strict=True))


def as_ort_value(array: npt.NDArray[Any], dtype: ir.DataType) -> Any:
    """Return a value of onnxruntime that shares the memory of an array."""
    from onnxruntime import OrtValue

    whole = np.ascontiguousarray(array).reshape(array.shape)
    if dtype == ir.DataType.BFLOAT16:
        return OrtValue.ortvalue_from_numpy_with_onnx_type(whole, int(dtype))
    try:
        return OrtValue.ortvalue_from_numpy(whole)
    except RuntimeError as error:
        raise ModelError(f"onnxruntime takes no array {quoted(str(array.dtype))}") from error


def as_array(value: Any) -> npt.NDArray[Any]:
    """Return the content of a value of onnxruntime."""
    if value.element_type() != int(ir.DataType.BFLOAT16):
        array: npt.NDArray[Any] = value.numpy()
        return array
    # NumPy itself has no such type, and onnxruntime hands none over.
    dtype, shape = ir.DataType.BFLOAT16.numpy(), tuple(value.shape())
    if math.prod(shape) == 0:
        return np.empty(shape, dtype)
    content = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(content, dtype).reshape(shape)
