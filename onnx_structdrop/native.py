"""The native kernels: a custom-op library that onnxruntime loads.

Where the library is registered with a session, its kernels take the place of the model-local
functions of the same names, at every optimisation level. Files stay as they are.
"""

from __future__ import annotations

import functools
import importlib
import os
import pathlib
import sys
from importlib import metadata, resources
from typing import TYPE_CHECKING, Any

from onnx_structdrop import __version__
from onnx_structdrop.errors import ArgumentTypeError, NativeLibraryError
from onnx_structdrop.schema import DOMAIN, VERSION

if TYPE_CHECKING:
    import onnxruntime

__all__ = [
    "SIMD_LEVELS",
    "SIMD_VARIABLE",
    "get_library_path",
    "library_identity",
    "native_available",
    "register",
    "simd_level",
]

SIMD_VARIABLE = "STRUCTDROP_SIMD"
"""Environment variable that picks a SIMD level by name, for tests and comparisons."""

SIMD_LEVELS = ("avx2", "neon", "sse2", "portable")
"""Names of the SIMD levels, the one that is taken first."""

_SUFFIXES = {"darwin": ".dylib", "win32": ".dll"}
_NAME = f"libonnx_structdrop_ops{_SUFFIXES.get(sys.platform, '.so')}"
_IDENTITY = b"structdrop-ops "
# Onnxruntime takes a library twice without complaint and then fails to make the session.
_MARK = "onnx_structdrop.library"


def get_library_path() -> pathlib.Path:
    """Return where the native library lies.

    Returns
    -------
    pathlib.Path
        Its file, for ``SessionOptions.register_custom_ops_library`` and for onnxruntime in other
        languages: the library is one file that knows nothing of Python.

    Raises
    ------
    NativeLibraryError
        This installation has none.
    """
    # An editable installation keeps the library away from the sources: ask for it as a resource.
    entry = resources.files("onnx_structdrop").joinpath(_NAME)
    if entry.is_file():
        return pathlib.Path(str(entry))
    # Started in a checkout, Python takes the sources there for the package; their library is that
    # of the installed one, as long as both are of one version.
    installed = _installed_library()
    if installed is not None:
        return installed
    raise NativeLibraryError(
        f"{_NAME} is not part of this installation: the sources were put on the path without "
        "being built; run pip install on their folder (it needs a C++17 compiler)"
    )


def _installed_library() -> pathlib.Path | None:
    try:
        distribution = metadata.distribution("onnx-structdrop")
    except metadata.PackageNotFoundError:
        return None
    path = pathlib.Path(str(distribution.locate_file(f"onnx_structdrop/{_NAME}")))
    return path if path.is_file() and distribution.version == __version__ else None


def native_available() -> bool:
    """Tell whether the native kernels can be used here.

    Returns
    -------
    bool
        True where the library is there and the installed onnxruntime accepts it. Where it is
        False, `register` raises an error that says why.
    """
    try:
        register(_onnxruntime().SessionOptions())
    except NativeLibraryError:
        return False
    return True


def register(session_options: onnxruntime.SessionOptions) -> None:
    """Let sessions run the native kernels instead of the functions.

    Parameters
    ----------
    session_options
        Options that sessions are made with afterwards. Registering again changes nothing. They
        must not have the library already by ``register_custom_ops_library``: onnxruntime makes no
        session from options that know a domain twice.

    Raises
    ------
    NativeLibraryError
        There is no library, or the installed onnxruntime does not accept it.
    ArgumentTypeError
        `session_options` is something else.

    Examples
    --------
    >>> import onnxruntime
    >>> options = onnxruntime.SessionOptions()
    >>> if native_available():
    ...     register(options)
    """
    kind = _onnxruntime().SessionOptions
    if not isinstance(session_options, kind):
        raise ArgumentTypeError(
            f"session_options is {type(session_options).__name__}; "
            "allowed is onnxruntime.SessionOptions"
        )
    path = str(get_library_path())
    if _is_marked(session_options):
        return
    try:
        session_options.register_custom_ops_library(path)
    except Exception as error:
        # Onnxruntime has an exception class for every status, and no base class for them.
        raise NativeLibraryError(
            f"onnxruntime {_onnxruntime().__version__} does not accept {path}: {error}"
        ) from error
    session_options.add_session_config_entry(_MARK, path)


def library_identity() -> dict[str, Any]:
    """Return what the library says of itself, without loading it.

    Returns
    -------
    dict
        ``version`` of the package that it was built for, and ``api``, the version of
        onnxruntime's C API that it asks for.

    Raises
    ------
    NativeLibraryError
        There is no library, or the file is none of ours.
    """
    path = get_library_path()
    content = path.read_bytes()
    start = content.find(_IDENTITY)
    end = content.find(b"\0", start)
    words = content[start:end].decode("ascii", "replace").split() if start >= 0 else []
    if len(words) != 4 or not words[3].isdigit():
        raise NativeLibraryError(f"{path} does not name its version: reinstall onnx_structdrop")
    return {"version": words[1], "api": int(words[3])}


def simd_level() -> str:
    """Return the SIMD level that the kernels use in this process.

    Returns
    -------
    str
        One of `SIMD_LEVELS`.

    Raises
    ------
    NativeLibraryError
        There is no library, or ``STRUCTDROP_SIMD`` asks for a level that is not there.
    """
    wanted = os.environ.get(SIMD_VARIABLE)
    if wanted:
        _try_level(wanted)
        return wanted
    for level in SIMD_LEVELS:
        try:
            _try_level(level)
        except NativeLibraryError as error:
            if SIMD_VARIABLE not in str(error):
                raise
            continue
        return level
    raise NativeLibraryError(f"{get_library_path()} has none of the levels {SIMD_LEVELS}")


def _try_level(level: str) -> None:
    """Make a session at a SIMD level, or raise what the library has to say.

    The library has one entry point, so it is asked the way a user would ask.
    """
    onnxruntime = _onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    register(options)
    before = os.environ.get(SIMD_VARIABLE)
    os.environ[SIMD_VARIABLE] = level
    try:
        onnxruntime.InferenceSession(_probe(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise NativeLibraryError(str(error)) from error
    finally:
        if before is None:
            del os.environ[SIMD_VARIABLE]
        else:
            os.environ[SIMD_VARIABLE] = before


@functools.cache
def _probe() -> bytes:
    """Return the smallest model that makes a kernel."""
    from onnx import TensorProto, helper

    shape = [1]
    names = ("output_grad", "mask", "scale")
    kinds = (TensorProto.FLOAT, TensorProto.BOOL, TensorProto.FLOAT)
    graph = helper.make_graph(
        [helper.make_node("StructuredDropoutGrad", names, ["data_grad"], domain=DOMAIN)],
        "probe",
        [
            helper.make_tensor_value_info(name, kind, shape)
            for name, kind in zip(names, kinds, strict=True)
        ],
        [helper.make_tensor_value_info("data_grad", TensorProto.FLOAT, shape)],
    )
    imports = [helper.make_opsetid("", 13), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    content: bytes = model.SerializeToString()
    return content


def _is_marked(session_options: onnxruntime.SessionOptions) -> bool:
    try:
        session_options.get_session_config_entry(_MARK)
    except RuntimeError:
        return False
    return True


def _onnxruntime() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise NativeLibraryError(
            f"the kernels run in onnxruntime, which cannot be imported: {error}"
        ) from error
