"""The native library from Python: finding, registering and describing it."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
from one_node import dropped, one_node, random_data

import onnx_structdrop as sd
from onnx_structdrop import native
from onnx_structdrop.cli import main
from onnx_structdrop.errors import ArgumentTypeError, NativeLibraryError, StructDropError

REQUIRED = os.environ.get("STRUCTDROP_REQUIRE_NATIVE") == "1"


def missing():
    """Return why the library cannot be used, or None."""
    try:
        native.register(onnxruntime.SessionOptions())
    except NativeLibraryError as error:
        return str(error)
    return None


MISSING = missing()
needs_library = pytest.mark.skipif(
    MISSING is not None and not REQUIRED, reason=f"needs the native library: {MISSING}"
)


def test_the_library_is_there_where_it_has_to_be():
    """Every nox session installs the package built, and says so by STRUCTDROP_REQUIRE_NATIVE=1."""
    assert MISSING is None or not REQUIRED, f"STRUCTDROP_REQUIRE_NATIVE is 1, but {MISSING}"


def session(options, *, only_kernels=False):
    """Return a session of one node; without functions, nothing but the library can run it."""
    model = one_node("DropBlock", ("N", "C", "H", "W"))
    if only_kernels:
        del model.functions[:]
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def in_a_process(program, **environment):
    """Run Python code in a process of its own; return its stdout."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def library_at(monkeypatch):
    """Return a function that lets the package find its library in another folder."""

    def use(folder):
        monkeypatch.setattr(native.resources, "files", lambda package: pathlib.Path(folder))
        monkeypatch.setattr(native, "_installed_library", lambda: None)
        return pathlib.Path(folder) / native._NAME

    return use


@pytest.fixture
def info(capsys):
    """Return a function that runs ``structdrop info``, as a table or as JSON."""

    def run(*arguments):
        assert main(["info", *arguments]) == 0
        return capsys.readouterr().out

    return run


# --- Where there is a library --------------------------------------------------------------------


@needs_library
def test_the_library_is_one_file():
    path = sd.get_library_path()
    assert isinstance(path, pathlib.Path)
    assert path.is_file()
    assert path.is_absolute()
    assert sd.native_available()


@needs_library
def test_registering_makes_sessions_run_kernels():
    options = onnxruntime.SessionOptions()
    assert sd.register(options) is None
    data = random_data((2, 3, 9, 9))
    runners = [session(options, only_kernels=only) for only in (True, False)]
    first, second = (dropped(runner, data, 0.3) for runner in runners)
    assert first.output.tobytes() == second.output.tobytes()
    plain = onnxruntime.SessionOptions()
    plain.log_severity_level = 4
    with pytest.raises(Exception, match="DropBlock"):
        session(plain, only_kernels=True)


@needs_library
def test_registering_twice_is_harmless():
    options = onnxruntime.SessionOptions()
    for _ in range(3):
        sd.register(options)
    data = random_data((2, 3, 9, 9))
    once = onnxruntime.SessionOptions()
    sd.register(once)
    expected = dropped(session(once), data, 0.3).output
    assert dropped(session(options), data, 0.3).output.tobytes() == expected.tobytes()
    # And after a session was made with the options.
    sd.register(options)
    assert dropped(session(options), data, 0.3).output.tobytes() == expected.tobytes()


@needs_library
def test_options_are_registered_one_by_one():
    first, second = onnxruntime.SessionOptions(), onnxruntime.SessionOptions()
    sd.register(first)
    assert native._is_marked(first)
    assert not native._is_marked(second)
    sd.register(second)
    assert session(first) is not session(second)


@needs_library
def test_a_library_that_was_registered_by_hand():
    """It works by itself; `register` on top of it is what onnxruntime refuses, with its reason."""
    path = str(sd.get_library_path())
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(path)
    ours = onnxruntime.SessionOptions()
    sd.register(ours)
    data = random_data((2, 3, 9, 9))
    pair = [dropped(session(each), data, 0.3).output.tobytes() for each in (options, ours)]
    assert pair[0] == pair[1]
    sd.register(options)
    options.log_severity_level = 4
    with pytest.raises(Exception, match="Domain already set in registry"):
        session(options)


@needs_library
def test_other_libraries_may_be_registered_besides(tmp_path):
    """Options keep what else they hold."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    sd.register(options)
    assert options.intra_op_num_threads == 3
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@needs_library
def test_identity():
    assert native.library_identity() == {"version": sd.__version__, "api": 17}


@needs_library
def test_identity_does_not_load_the_library():
    program = (
        "import sys\n"
        "from onnx_structdrop.native import library_identity\n"
        "library_identity()\n"
        "assert 'onnxruntime' not in sys.modules\n"
        "path = '/proc/self/maps'\n"
        "import os\n"
        "print(os.path.exists(path) and 'structdrop_ops' in open(path).read())\n"
    )
    # The file is closed by then, or Python warns.
    program = program.replace("open(path).read()", "__import__('pathlib').Path(path).read_text()")
    assert in_a_process(program).strip() == "False"


@needs_library
def test_level_is_one_of_the_names():
    level = native.simd_level()
    assert level in native.SIMD_LEVELS
    assert native.SIMD_VARIABLE not in os.environ


@needs_library
def test_level_of_the_environment(monkeypatch):
    """The baseline is everywhere, and asking for the level that is taken anyway changes nothing."""
    taken = native.simd_level()
    monkeypatch.setenv(native.SIMD_VARIABLE, "none")
    with pytest.raises(NativeLibraryError, match="allowed is one of") as caught:
        native.simd_level()
    allowed = re.search("one of (.+), where", str(caught.value))[1].split(", ")
    assert allowed[-1] in ("sse2", "portable")
    assert set(allowed) <= set(native.SIMD_LEVELS)
    for level in {taken, allowed[-1]}:
        monkeypatch.setenv(native.SIMD_VARIABLE, level)
        assert native.simd_level() == level
        # Asking does not change the environment.
        assert os.environ[native.SIMD_VARIABLE] == level
    monkeypatch.setenv(native.SIMD_VARIABLE, "")
    assert native.simd_level() == taken
    assert os.environ[native.SIMD_VARIABLE] == ""


@needs_library
@pytest.mark.parametrize("level", ["avx3", "AVX2", " avx2", "0"])
def test_level_that_does_not_exist(level, monkeypatch):
    monkeypatch.setenv(native.SIMD_VARIABLE, level)
    message = f"STRUCTDROP_SIMD is '{level}'; allowed is one of .*, where the processor has it"
    with pytest.raises(NativeLibraryError, match=message):
        native.simd_level()
    # Sessions say so, too, instead of taking another level.
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    sd.register(options)
    with pytest.raises(Exception, match=f"DropBlock node .*{message}"):
        session(options)


@needs_library
def test_info(info):
    library = json.loads(info("--json"))["native_library"]
    assert library == {
        "path": str(sd.get_library_path()),
        "version": sd.__version__,
        "api": 17,
        "simd": native.simd_level(),
        "problem": None,
    }
    text = " ".join(info().split())
    assert "native library" in text
    assert f"version {sd.__version__}, onnxruntime API 17" in text
    assert f"SIMD level {native.simd_level()}" in text


@needs_library
def test_info_at_a_level_that_does_not_exist(info, monkeypatch):
    monkeypatch.setenv(native.SIMD_VARIABLE, "mmx")
    library = json.loads(info("--json"))["native_library"]
    assert library["simd"] is None
    assert "STRUCTDROP_SIMD is 'mmx'" in library["problem"]
    assert library["path"] == str(sd.get_library_path())


@needs_library
def test_importing_the_package_loads_no_runtime():
    program = (
        "import sys, onnx_structdrop as sd\n"
        "sd.register, sd.get_library_path()\n"
        "print('onnxruntime' in sys.modules)\n"
    )
    assert in_a_process(program).strip() == "False"


# --- What register refuses -----------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, "options", 3, onnxruntime.SessionOptions])
def test_only_session_options_can_be_registered(value):
    with pytest.raises(ArgumentTypeError, match=r"session_options is .*SessionOptions") as caught:
        sd.register(value)
    assert isinstance(caught.value, TypeError)


def test_run_options_are_no_session_options():
    with pytest.raises(ArgumentTypeError, match="session_options is RunOptions"):
        sd.register(onnxruntime.RunOptions())


# --- Where there is no library -------------------------------------------------------------------


def test_no_library(library_at, tmp_path, info):
    library_at(tmp_path)
    options = onnxruntime.SessionOptions()
    message = r"libonnx_structdrop_ops.* is not part of this installation.*pip install"
    for ask in (
        sd.get_library_path,
        native.library_identity,
        native.simd_level,
        lambda: sd.register(options),
    ):
        with pytest.raises(NativeLibraryError, match=message) as caught:
            ask()
        assert isinstance(caught.value, StructDropError)
        assert "\n" not in str(caught.value)
    assert not sd.native_available()
    library = json.loads(info("--json"))["native_library"]
    assert re.search(message, library.pop("problem"))
    assert library == dict.fromkeys(("path", "version", "api", "simd"))
    text = " ".join(info().split())
    assert "not usable, nodes run as functions: " in text
    # Options that registering failed for still make sessions, which run the functions.
    data = random_data((2, 3, 9, 9))
    assert (dropped(session(options), data, 0.5).output == 0).any()


@needs_library
def test_sources_in_the_current_folder_use_the_installed_library(monkeypatch, tmp_path):
    """Python started in a checkout imports the sources there, which have no library beside them."""
    distribution = native.metadata.distribution("onnx-structdrop")
    installed = pathlib.Path(str(distribution.locate_file(f"onnx_structdrop/{native._NAME}")))
    monkeypatch.setattr(native.resources, "files", lambda package: tmp_path)
    assert sd.get_library_path() == installed
    monkeypatch.setattr(native, "__version__", "0.0.1")
    with pytest.raises(NativeLibraryError, match="is not part of this installation"):
        sd.get_library_path()


def test_a_folder_in_place_of_the_library(library_at, tmp_path):
    library_at(tmp_path).mkdir()
    with pytest.raises(NativeLibraryError, match="is not part of this installation"):
        sd.get_library_path()


@pytest.mark.parametrize("content", [b"", b"no library at all", b"\x7fELF" + bytes(60)])
def test_a_file_that_is_no_library(content, library_at, tmp_path, info):
    path = library_at(tmp_path)
    path.write_bytes(content)
    assert sd.get_library_path() == path
    message = rf"onnxruntime {re.escape(onnxruntime.__version__)} does not accept {path}: .+"
    with pytest.raises(NativeLibraryError, match=message):
        sd.register(onnxruntime.SessionOptions())
    assert not sd.native_available()
    with pytest.raises(NativeLibraryError, match=r"does not name its version: reinstall"):
        native.library_identity()
    library = json.loads(info("--json"))["native_library"]
    assert library["path"] == str(path)
    assert library["problem"]


@pytest.mark.parametrize(
    "line", [b"structdrop-ops 0.1.0 api seventeen\0", b"structdrop-ops \0", b"structdrop-ops 1 api"]
)
def test_an_identity_that_is_cut_off(line, library_at, tmp_path):
    library_at(tmp_path).write_bytes(b"\0\0" + line)
    with pytest.raises(NativeLibraryError, match="does not name its version"):
        native.library_identity()


@needs_library
def test_a_library_that_lies_elsewhere(library_at, tmp_path):
    """It is one file: a copy works, though its folder has a strange name."""
    folder = tmp_path / "a folder, with ünlaute"
    folder.mkdir()
    original = sd.get_library_path()
    copy = library_at(folder)
    shutil.copyfile(original, copy)
    options = onnxruntime.SessionOptions()
    sd.register(options)
    assert dropped(session(options), random_data((2, 3, 9, 9)), 0.3).mask.shape == (2, 3, 9, 9)
    assert native.library_identity()["version"] == sd.__version__


def test_no_onnxruntime(monkeypatch, tmp_path):
    """The package is of use without it, and says what is missing."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for ask in (lambda: sd.register(None), native.simd_level):
        with pytest.raises(NativeLibraryError, match="onnxruntime, which cannot be imported"):
            ask()
    assert not sd.native_available()


@needs_library
def test_an_old_onnxruntime_is_refused_by_the_library(monkeypatch):
    """What the runtime says when it refuses is handed on, with its version and the file."""

    class Refusing(onnxruntime.SessionOptions):
        def register_custom_ops_library(self, path):
            raise RuntimeError("onnxruntime is 1.16.0; allowed is 1.17 or newer")

    message = r"does not accept .*libonnx_structdrop_ops.*: .*allowed is 1\.17 or newer"
    with pytest.raises(NativeLibraryError, match=message):
        sd.register(Refusing())


def test_sessions_without_the_library_are_unaffected():
    """A process that has registered it makes plain sessions as before."""
    options = onnxruntime.SessionOptions()
    if sd.native_available():
        sd.register(onnxruntime.SessionOptions())
    data = random_data((2, 3, 9, 9))
    first, second = (dropped(session(options), data, 0.3).output for _ in range(2))
    assert first.shape == second.shape == data.shape
    assert first.dtype == np.float32
